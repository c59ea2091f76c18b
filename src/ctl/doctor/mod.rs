//! `doctor`: everything that will bite later, each with its remedy. `gather` asks everybody, `crate::doctor` judges; here is how it is told.

pub mod gather;

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::access::Access;
use super::console::print;
use super::document::Document;
use super::table::{Column, Format, Table};
use super::yaml;
use crate::doctor::{Check, Finding, Report, Severity, examine, haproxy};

/// Of a file for a balancer.
const FILE_BYTES_MAX: u64 = 4 << 20;

#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 all is good, 1 warnings, 2 errors, 3 something could not be told and nothing is worse"
)]
pub struct DoctorArguments {
    /// Only what is about this member
    member_name: Option<String>,
    /// The cluster [default: the configured scope]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// Ask this member's REST API who the members are, where the store does not answer: http://HOST:8008
    #[arg(long, value_name = "URL")]
    via: Option<String>,
    /// Also judge this configuration of HAProxy
    #[arg(long, value_name = "FILE")]
    haproxy: Option<PathBuf>,
    /// Leave this check out; may be given several times
    #[arg(long, value_name = "CHECK")]
    ignore: Vec<Check>,
    /// Print findings only
    #[arg(short, long)]
    quiet: bool,
    /// The form of the output
    #[arg(short, long, value_enum, default_value_t = Format::Pretty)]
    format: Format,
}

/// It has been told; this is only how to end.
#[derive(Debug, thiserror::Error)]
#[error("there are findings")]
pub struct Diagnosed(pub u8);

/// Where nothing could be told at all.
pub const UNTOLD: u8 = 3;

pub async fn doctor(access: &Access, arguments: &DoctorArguments) -> Result<()> {
    let scope = access.scope(arguments.cluster.as_deref())?;
    let file = arguments.haproxy.as_ref().map(read).transpose()?;
    let mut facts = gather::facts(access, &scope, arguments.via.as_deref()).await?;
    facts.haproxy = file.map(|text| haproxy::parse(&text));
    let wanted = arguments.member_name.as_deref();
    if let Some(wanted) = wanted.filter(|wanted| !facts.members.iter().any(|member| member.name == **wanted))
    {
        bail!("there is no member {wanted} in {scope}");
    }
    let report = only(examine(&facts), wanted, &arguments.ignore);
    let quiet = arguments.quiet;
    print(&match arguments.format {
        Format::Pretty => told(&scope, facts.leader.as_deref(), &report, quiet),
        Format::Tsv => table(&report).render(Format::Tsv, "\t"),
        Format::Json => {
            format!("{}\n", Document::from(&report.document(&scope, facts.leader.as_deref())).to_json())
        }
        Format::Yaml => yaml::block(&Document::from(&report.document(&scope, facts.leader.as_deref()))),
    })?;
    match report.exit_code() {
        0 => Ok(()),
        code => Err(Diagnosed(code).into()),
    }
}

fn read(path: &PathBuf) -> Result<String> {
    let what = || format!("read {}", path.display());
    let length = std::fs::metadata(path).with_context(what)?.len();
    if FILE_BYTES_MAX < length {
        bail!("{} is longer than {FILE_BYTES_MAX} bytes", path.display());
    }
    std::fs::read_to_string(path).with_context(what)
}

/// What is left where somebody wants to hear of one member, or not of some checks.
fn only(report: Report, member: Option<&str>, ignored: &[Check]) -> Report {
    let Report { mut findings, mut good } = report;
    findings.retain(|finding| {
        !ignored.contains(&finding.check) && (member.is_none() || finding.member.as_deref() == member)
    });
    good.retain(|check| !ignored.contains(check));
    Report { findings, good }
}

fn told(scope: &str, leader: Option<&str>, report: &Report, quiet: bool) -> String {
    let mut text = String::new();
    if !quiet {
        let led = leader.map_or("nobody leads".to_owned(), |leader| format!("led by {leader}"));
        let _ = writeln!(text, "{scope}, {led}: {}", counted(report));
    }
    for finding in &report.findings {
        let gap = if text.is_empty() { "" } else { "\n" };
        let Finding { check, member, measured, remedy } = finding;
        let about = member.as_ref().map(|member| format!("  {member}")).unwrap_or_default();
        let severity = check.severity().word();
        let _ = writeln!(text, "{gap}{severity:8} {check}{about}");
        let _ = writeln!(text, "  measured  {measured}");
        let _ = writeln!(text, "  matters   {}", check.why());
        let _ = writeln!(text, "  remedy    {remedy}");
    }
    if !quiet && !report.good.is_empty() {
        let good: Vec<&str> = report.good.iter().map(|check| check.code()).collect();
        let _ = writeln!(text, "\ngood: {}", good.join(", "));
    }
    text
}

fn counted(report: &Report) -> String {
    let one = |severity: Severity| {
        let count = report.count(severity);
        match (severity, count) {
            (Severity::Unknown, 1) => "1 thing unknown".to_owned(),
            (Severity::Unknown, _) => format!("{count} things unknown"),
            (Severity::Error | Severity::Warning, 1) => format!("1 {}", severity.word()),
            (Severity::Error | Severity::Warning, _) => format!("{count} {}s", severity.word()),
        }
    };
    Severity::ALL.map(one).join(", ")
}

fn table(report: &Report) -> Table {
    let columns = ["Severity", "Check", "Member", "Measured", "Remedy"].map(Column::left);
    let row = |finding: &Finding| {
        vec![
            Document::text(finding.check.severity().word()),
            Document::text(finding.check.code()),
            Document::text(finding.member.clone().unwrap_or_default()),
            Document::text(finding.measured.clone()),
            Document::text(finding.remedy.clone()),
        ]
    };
    Table {
        title: String::new(),
        columns: Some(columns.into()),
        rows: report.findings.iter().map(row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn report() -> Report {
        let finding = |check: Check, member: Option<&str>| Finding {
            check,
            member: member.map(str::to_owned),
            measured: "this".to_owned(),
            remedy: "do that".to_owned(),
        };
        let findings = vec![finding(Check::NoGuardian, Some("db1")), finding(Check::Paused, None)];
        Report { findings, good: [Check::StoreEven].into() }
    }

    #[test]
    fn findings_are_told_with_reason_and_remedy() {
        let text = told("main", Some("db1"), &report(), false);
        let wanted = "\
main, led by db1: 1 error, 1 warning, 0 things unknown

error    no_guardian  db1
  measured  this
  matters   a member without a live guardian neither promotes nor goes on leading
  remedy    do that

warning  paused
  measured  this
  matters   nothing fails over in maintenance mode
  remedy    do that

good: store_even
";
        assert_eq!(text, wanted);
        let quiet = told("main", None, &report(), true);
        assert!(quiet.starts_with("error    no_guardian  db1\n") && !quiet.contains("good:"), "{quiet}");
        assert_eq!(told("main", None, &Report::default(), true), "");
        assert_eq!(report().document("main", None)["findings"][1]["member"], Value::Null);
        assert!(
            table(&report()).render(Format::Tsv, "\t").contains("error\tno_guardian\tdb1\tthis\tdo that")
        );
    }

    #[test]
    fn one_member_and_ignored_checks_narrow_it_down() {
        let left = |member, ignored: &[Check]| only(report(), member, ignored).findings.len();
        assert_eq!((left(None, &[]), left(Some("db1"), &[]), left(Some("db2"), &[])), (2, 1, 0));
        assert_eq!(left(None, &[Check::Paused]), 1);
    }
}
