//! Which pages a browser may act from: those of this server, and no others. A browser sends the password that it remembers, and the
//! certificate that it has, with whatever any page asks of us; so what is asked must say whose idea it was. Programs that are no
//! browsers say nothing of it, and nothing is asked of them.

use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN};

use crate::config::Ui;

use super::answer::Answer;

/// What our page says of itself with whatever it asks, so that a refusal does not make the browser ask for a password.
pub const PAGE: HeaderName = HeaderName::from_static("tenure-page");

const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// A request that would change something.
pub fn refuses(headers: &HeaderMap, ui: Ui) -> Option<Answer> {
    let site = headers.get(SITE).map(HeaderValue::as_bytes);
    let origin = headers.get(ORIGIN);
    let browser = site.is_some() || origin.is_some() || headers.contains_key(PAGE);
    if browser && ui == Ui::ReadOnly {
        return Some(Answer::sentence(403, "the page of this member only shows (tenure.ui: read-only)"));
    }
    let own = match (site, origin) {
        // Sent over HTTPS and on one's own machine only, and no page can forge it.
        (Some(b"same-origin" | b"none"), _) => true,
        (Some(_), _) => false,
        (None, Some(origin)) => is_own(origin, headers.get(HOST)),
        (None, None) => true,
    };
    (!own).then(|| Answer::sentence(403, "requests from pages of other sites are refused"))
}

/// `Origin: http://db1:8008` and `Host: db1:8008`. The scheme is not compared: somebody else may speak TLS for us.
fn is_own(origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_ascii_lowercase);
    let (Some(origin), Some(host)) = (text(origin), host.and_then(text)) else { return false };
    let (authority, port) = match origin.split_once("://") {
        Some(("http", authority)) => (authority, ":80"),
        Some(("https", authority)) => (authority, ":443"),
        Some(_) | None => return false,
    };
    authority == host || Some(authority) == host.strip_suffix(port)
}

/// Browsers ask the user for a password on their own when they read `Basic`; our page has a place for it.
pub fn asks_quietly(headers: &HeaderMap, mut answer: Answer) -> Answer {
    if headers.contains_key(PAGE) {
        for (name, value) in &mut answer.headers {
            if *name == "www-authenticate" {
                *value = format!("x-{value}");
            }
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        all.iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn only_pages_of_this_server_may_act() {
        let check = |all: &[(&'static str, &'static str)], allowed: bool| {
            assert_eq!(refuses(&headers(all), Ui::On).is_none(), allowed, "{all:?}");
        };
        check(&[], true);
        check(&[("host", "db1:8008")], true);
        check(&[("host", "db1:8008"), ("origin", "http://db1:8008")], true);
        check(&[("host", "DB1:8008"), ("origin", "https://db1:8008")], true);
        check(&[("host", "db1"), ("origin", "http://db1")], true);
        check(&[("host", "db1:443"), ("origin", "https://db1")], true);
        check(&[("host", "db1:443"), ("origin", "http://db1")], false);
        check(&[("host", "db1:8008"), ("origin", "http://db1:8009")], false);
        check(&[("host", "db1:8008"), ("origin", "http://evil.example")], false);
        check(&[("host", "db1:8008"), ("origin", "http://db1:8008.evil.example")], false);
        check(&[("host", "db1:8008"), ("origin", "null")], false);
        check(&[("origin", "http://db1:8008")], false);
        // Behind a proxy that gives its own name to us, the browser still knows.
        let proxied = ("host", "10.0.0.1:8008");
        check(&[proxied, ("origin", "https://db.example"), ("sec-fetch-site", "same-origin")], true);
        check(&[proxied, ("origin", "https://db.example"), ("sec-fetch-site", "same-site")], false);
        check(&[("host", "db1:8008"), ("sec-fetch-site", "cross-site")], false);
    }

    #[test]
    fn a_page_that_only_shows_lets_no_browser_act() {
        let own = headers(&[("host", "db1:8008"), ("origin", "http://db1:8008")]);
        assert_eq!(refuses(&own, Ui::ReadOnly).map(|answer| answer.status), Some(403));
        assert_eq!(refuses(&headers(&[("host", "db1:8008")]), Ui::ReadOnly), None);
        assert_eq!(refuses(&own, Ui::On), None);
    }

    #[test]
    fn the_page_is_not_asked_for_a_password_by_the_browser() {
        let challenge = |all: &[(&'static str, &'static str)]| {
            asks_quietly(&headers(all), Answer::unauthorized("no")).headers[0].1.clone()
        };
        assert_eq!(challenge(&[]), "Basic realm=\"Patroni\"");
        assert_eq!(challenge(&[("tenure-page", "1")]), "x-Basic realm=\"Patroni\"");
    }
}
