//! libpq's connection strings: `key=value`, with values quoted where they must be. No password is ever written into one.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::settings::Login;
use crate::model::Address;

/// The order in which Patroni writes them, so that its files and ours compare equal.
const ORDER: &[&str] = &[
    "dbname",
    "user",
    "passfile",
    "host",
    "port",
    "sslmode",
    "sslcompression",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslrootcert",
    "sslcrl",
    "sslcrldir",
    "application_name",
    "krbsrvname",
    "gssencmode",
    "channel_binding",
    "target_session_attrs",
    "sslnegotiation",
];

/// A connection to another member with the login's own options, and these on top.
pub(super) fn to_member(login: &Login, address: &Address, passfile: &str, more: &[(&str, &str)]) -> String {
    let port = address.port.to_string();
    let mut values = BTreeMap::from([
        ("sslmode", "prefer"),
        ("gssencmode", "prefer"),
        ("channel_binding", "prefer"),
        ("user", login.username.as_str()),
        ("host", address.host.as_str()),
        ("port", port.as_str()),
    ]);
    values.extend(login.options.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    // A key's password would be readable for everybody who may see the settings; libpq reads it from here all the same.
    values.extend(more.iter().copied());
    if login.password.is_some() {
        values.insert("passfile", passfile);
    }
    format(&values)
}

pub(super) fn format(values: &BTreeMap<&str, &str>) -> String {
    let known = ORDER.iter().filter_map(|key| values.get_key_value(key));
    let unknown = values.iter().filter(|(key, _)| !ORDER.contains(*key));
    let mut text = String::new();
    for (key, value) in known.chain(unknown).filter(|(_, value)| !value.is_empty()) {
        let gap = if text.is_empty() { "" } else { " " };
        let _ = write!(text, "{gap}{key}={}", escaped(value));
    }
    text
}

fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for character in value.chars() {
        if matches!(character, ' ' | '\'' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

/// Host and port of a `primary_conninfo`, be it ours or somebody else's; the first of several.
pub(super) fn address_of(conninfo: &str) -> Option<Address> {
    let values = parse(conninfo)?;
    let first = |key: &str| values.get(key).and_then(|list| list.split(',').next()).filter(|s| !s.is_empty());
    let host = first("host").or_else(|| first("hostaddr"))?.to_owned();
    let port = match first("port") {
        Some(port) => port.parse().ok()?,
        None => 5432,
    };
    Some(Address { host, port })
}

pub(super) fn parse(conninfo: &str) -> Option<BTreeMap<String, String>> {
    let mut values = BTreeMap::new();
    let mut rest = conninfo.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let (value, after) = take_value(after.trim_start())?;
        values.insert(key.trim().to_owned(), value);
        rest = after.trim_start();
    }
    Some(values)
}

fn take_value(text: &str) -> Option<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut characters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.push(characters.next()?.1),
            '\'' if quoted => return Some((value, &text[at + 1..])),
            space if space.is_whitespace() && !quoted => return Some((value, &text[at..])),
            other => value.push(other),
        }
    }
    (!quoted).then_some((value, ""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_conninfo_has_patronis_keys_in_patronis_order() {
        let address = Address { host: "127.0.0.1".to_owned(), port: 5552 };
        let login = Login::named("replicator").with_password("secret");
        assert_eq!(
            to_member(
                &login,
                &address,
                "/tmp/pgpass0",
                &[("dbname", "postgres"), ("application_name", "node-0")]
            ),
            "dbname=postgres user=replicator passfile=/tmp/pgpass0 host=127.0.0.1 port=5552 sslmode=prefer \
             application_name=node-0 gssencmode=prefer channel_binding=prefer"
        );
    }

    #[test]
    fn an_upstream_is_read_from_every_form() {
        let check = |text: &str, host: &str, port| {
            assert_eq!(address_of(text), Some(Address { host: host.to_owned(), port }), "{text}");
        };
        check("user=x host=db1 port=6000", "db1", 6000);
        check("host = 'db 1'  port='6000'", "db 1", 6000);
        check("host=db1,db2 port=1,2", "db1", 1);
        check("hostaddr=10.0.0.1", "10.0.0.1", 5432);
        for nothing in ["", "user=x", "host", "host='x", "port=1"] {
            assert_eq!(address_of(nothing), None, "{nothing}");
        }
    }

    proptest! {
        #[test]
        fn any_value_survives_being_written_and_read(user in "[^\\x00]{1,12}", name in "[a-z '\\\\=]{1,12}") {
            let user = user.replace(|c: char| c.is_whitespace() && c != ' ', "_");
            let text = format(&BTreeMap::from([("user", user.as_str()), ("application_name", name.as_str())]));
            let read = parse(&text).expect("it is well formed");
            prop_assert_eq!((&read["user"], &read["application_name"]), (&user, &name));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "[a-z='\\\\ ]{0,30}") {
            let _ = address_of(&text);
        }
    }
}
