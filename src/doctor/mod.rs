//! What will bite later: pure checks of facts that others have gathered, each by name, with what was measured, why it matters and what to
//! do about it. Nothing here asks, waits or changes anything.
//!
//! `check` is the table, `facts` what there is to know; one file per subject judges.

mod access;
mod check;
mod facts;
pub mod haproxy;
mod hba;
mod host;
mod members;
mod server;
mod store;
mod told;

use std::collections::BTreeSet;

use crate::model::Span;

pub use check::{Check, Severity};
pub use facts::*;
pub use hba::{Entry, HbaRule, Knock, Network, Transport, admits};

/// One thing that is not as it should be, or that could not be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub check: Check,
    /// Whom it is about, if not the cluster.
    pub member: Option<String>,
    pub measured: String,
    /// What to do here; the check's own advice where nothing more exact is known.
    pub remedy: String,
}

impl Finding {
    fn of(check: Check, measured: impl Into<String>) -> Finding {
        Finding { check, member: None, measured: measured.into(), remedy: check.remedy().to_owned() }
    }

    fn about(self, member: &str) -> Finding {
        Finding { member: Some(member.to_owned()), ..self }
    }

    fn mend(self, remedy: impl Into<String>) -> Finding {
        Finding { remedy: remedy.into(), ..self }
    }
}

/// What came of an examination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The worst first, then in the order of the table.
    pub findings: Vec<Finding>,
    /// What was looked at and found good.
    pub good: BTreeSet<Check>,
}

pub fn examine(facts: &Facts) -> Report {
    let mut ward = Ward::default();
    store::examine(facts, &mut ward);
    members::examine(facts, &mut ward);
    for member in &facts.members {
        host::examine(facts, member, &mut ward);
        access::examine(member, &mut ward);
        server::examine(facts, member, &mut ward);
    }
    if let Some(file) = &facts.haproxy {
        haproxy::examine(facts, file, &mut ward);
    }
    ward.report()
}

/// Collects what the checks find, and which of them were made.
#[derive(Debug, Default)]
pub(crate) struct Ward {
    findings: Vec<Finding>,
    made: BTreeSet<Check>,
}

impl Ward {
    /// The check was made, whatever came of it.
    fn made(&mut self, check: Check) {
        self.made.insert(check);
    }

    fn find(&mut self, finding: Finding) {
        self.made.insert(finding.check);
        self.findings.push(finding);
    }

    /// The check was made; this is what it found, if anything.
    fn check(&mut self, check: Check, found: Option<Finding>) {
        self.made(check);
        self.findings.extend(found);
    }

    fn report(self) -> Report {
        let Ward { mut findings, made } = self;
        findings.sort_by(|one, other| {
            let rank = |finding: &Finding| (finding.check.severity(), finding.check, finding.member.clone());
            rank(one).cmp(&rank(other))
        });
        let found: BTreeSet<Check> = findings.iter().map(|finding| finding.check).collect();
        Report { good: made.difference(&found).copied().collect(), findings }
    }
}

impl Report {
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.check.severity() == severity).count()
    }

    /// For monitoring: 0 good, 1 warnings, 2 errors, 3 something could not be told.
    pub fn exit_code(&self) -> u8 {
        let has = |severity| self.count(severity) > 0;
        match (has(Severity::Error), has(Severity::Warning), has(Severity::Unknown)) {
            (true, _, _) => 2,
            (false, true, _) => 1,
            (false, false, true) => 3,
            (false, false, false) => 0,
        }
    }
}

/// As people write sizes.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)];
    match UNITS.iter().find(|(_, size)| *size <= bytes) {
        Some((unit, size)) => {
            let tenths = u128::from(bytes) * 10 / u128::from(*size);
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

/// Spans of minutes and more, to the unit that matters.
pub(crate) fn roughly(span: Span) -> String {
    const UNITS: [(&str, u64); 3] = [("days", 86_400), ("hours", 3_600), ("minutes", 60)];
    let seconds = span.as_ms() / 1000;
    match UNITS.iter().find(|(_, length)| 2 * length <= seconds) {
        Some((unit, length)) => format!("{} {unit}", seconds / length),
        None => format!("{seconds} s"),
    }
}

pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
pub mod fixtures;

#[cfg(test)]
mod tests {
    use super::fixtures::healthy;
    use super::*;

    #[test]
    fn a_healthy_cluster_has_no_findings_and_says_what_was_looked_at() {
        let report = examine(&healthy());
        assert_eq!(report.findings, []);
        assert_eq!(report.exit_code(), 0);
        assert!(report.good.len() > 30, "{:?}", report.good);
    }

    #[test]
    fn the_worst_counts() {
        let code = |checks: &[Check]| {
            let findings = checks.iter().map(|check| Finding::of(*check, "")).collect();
            Report { findings, good: BTreeSet::new() }.exit_code()
        };
        assert_eq!(code(&[]), 0);
        assert_eq!(code(&[Check::NotOurs]), 3);
        assert_eq!(code(&[Check::NotOurs, Check::Paused]), 1);
        assert_eq!(code(&[Check::Paused, Check::NoGuardian, Check::NotOurs]), 2);
    }

    #[test]
    fn sizes_and_times_read_like_a_person_would_say_them() {
        for (number, text) in [(0, "0 B"), (1536, "1.5 kB"), (3 << 30, "3.0 GB"), (u64::MAX, "16777215.9 TB")]
        {
            assert_eq!(bytes(number), text);
        }
        for (seconds, text) in [(59, "59 s"), (120, "2 minutes"), (7_200, "2 hours"), (400_000, "4 days")] {
            assert_eq!(roughly(Span::from_secs(seconds)), text);
        }
    }
}
