//! What agents and records say, read into facts: the same for `tenurectl doctor` and for the web page.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Clock, Finding, HostFacts, MemberFacts, Report, Rest, Severity, Untold};

const DOWN: &str = "it has no record in the store: it is down, or cut off";

impl HostFacts {
    /// From the answer to `GET /doctor`.
    pub fn read(status: u16, body: &[u8]) -> Result<HostFacts, Untold> {
        match serde_json::from_slice::<Value>(body) {
            Ok(mut document) if status == 200 => {
                let facts = document.get_mut("facts").map(Value::take).unwrap_or_default();
                serde_json::from_value(facts)
                    .map_err(|error| Untold::Older(format!("its answer is not understood: {error}")))
            }
            // As to any path that it does not know, it tells how it is.
            Ok(_) => Err(Untold::Older(format!("it answers {status} to /doctor"))),
            Err(_) => Err(Untold::Silent(String::from_utf8_lossy(body).into_owned())),
        }
    }
}

impl Clock {
    /// A clock that showed `its_ms` in the answer to a question that was asked at `asked_ms` and took a while.
    pub fn beside(its_ms: u64, asked_ms: u64, took_ms: u64) -> Clock {
        // It has answered at some time in between.
        let here = i128::from(asked_ms) + i128::from(took_ms / 2);
        let ahead = i64::try_from(i128::from(its_ms) - here).unwrap_or(i64::MAX);
        Clock { ahead_ms: ahead, within_ms: took_ms / 2 + 1 }
    }
}

impl Rest {
    pub fn of(url: &str) -> Option<Rest> {
        let uri: hyper::Uri = url.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        Some(Rest { tls, host, port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }) })
    }
}

impl MemberFacts {
    /// Of a member that has no record any more.
    pub fn nobody(name: String) -> MemberFacts {
        MemberFacts {
            name,
            foreign: false,
            may_lead: true,
            state: None,
            pending_restart: false,
            host: None,
            port: None,
            rest: None,
            addresses: BTreeSet::new(),
            view: Err(DOWN.to_owned()),
            clock: None,
            told: Err(Untold::Silent(DOWN.to_owned())),
        }
    }
}

impl Report {
    pub fn document(&self, scope: &str, leader: Option<&str>) -> Value {
        let finding = |finding: &Finding| {
            json!({
                "check": finding.check.code(),
                "severity": finding.check.severity().word(),
                "member": finding.member,
                "measured": finding.measured,
                "why": finding.check.why(),
                "remedy": finding.remedy,
            })
        };
        json!({
            "cluster": scope,
            "leader": leader,
            "errors": self.count(Severity::Error),
            "warnings": self.count(Severity::Warning),
            "unknown": self.count(Severity::Unknown),
            "findings": self.findings.iter().map(finding).collect::<Vec<_>>(),
            "good": self.good.iter().map(|check| check.code()).collect::<Vec<_>>(),
        })
    }
}
