//! What is in the way of a migration, told from the facts, with what helps. Pure.

use std::path::PathBuf;

use super::super::cluster::Cluster;
use super::super::document::Document;
use super::here::{Agent, Here, Kind};
use super::questions::Answers;
use super::units::Unit;
use crate::config::{Config, Problem, WatchdogMode, policy_from, validate_dynamic};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Good,
    /// To be known, and no hindrance.
    Note,
    No,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub verdict: Verdict,
    pub about: &'static str,
    pub what: String,
    pub remedy: String,
}

/// What the machine has for Tenure.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Programs that are not there.
    pub missing: Vec<String>,
    pub patroni: Option<Unit>,
    pub agent: Option<Unit>,
    pub instance_file: PathBuf,
    pub instance_file_differs: bool,
    /// The watchdog's device is there.
    pub device: bool,
}

pub fn good(about: &'static str, what: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Good, about, what: what.into(), remedy: String::new() }
}

pub fn note(about: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Note, about, what: what.into(), remedy: remedy.into() }
}

pub fn no(about: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::No, about, what: what.into(), remedy: remedy.into() }
}

pub fn of_problem(problem: &Problem, verdict: Verdict, about: &'static str) -> Finding {
    let remedy = problem.hint.clone().unwrap_or_default();
    Finding { verdict, about, what: problem.to_string(), remedy }
}

pub fn local(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if config.postgresql.authentication.superuser.password.is_none() && !config.postgresql.use_unix_socket {
        findings.push(note(
            "users",
            "the superuser has no password in the configuration",
            "pg_hba.conf must let the agent in without one, as it does for Patroni",
        ));
    }
    findings
}

/// The settings in the store.
pub fn shared(cluster: &Cluster, config: &Config) -> Vec<Finding> {
    let Some(shared) = &cluster.config else {
        return vec![no(
            "shared settings",
            "the store holds none",
            "let Patroni's leader write them: tenurectl list",
        )];
    };
    let problems = validate_dynamic(&shared.value);
    let mut findings: Vec<Finding> =
        problems.iter().map(|problem| of_problem(problem, Verdict::No, "shared settings")).collect();
    let (policy, warnings) = policy_from(&shared.value, config);
    if findings.is_empty() {
        findings.extend(warnings.iter().map(|problem| of_problem(problem, Verdict::Note, "shared settings")));
        findings.push(good("shared settings", "Tenure understands them"));
        let timing = &policy.timing;
        findings.push(note(
            "timing",
            format!(
                "with ttl {} a leader that cannot reach the store stops PostgreSQL {} after its last renewal, \
                 which comes every {}",
                timing.ttl,
                timing.ttl.minus(timing.margin).minus(timing.kill_budget).minus(timing.stop_budget),
                timing.renew_every,
            ),
            "a shorter ttl (10) makes failovers faster, once every member is Tenure's: tenurectl edit-config -s ttl=10",
        ));
    }
    if !policy.use_rewind {
        findings.push(note(
            "rejoin",
            "postgresql.use_pg_rewind is off: a former leader that has diverged can only be copied anew",
            "tenurectl edit-config -s postgresql.use_pg_rewind=true",
        ));
    }
    findings
}

/// Everybody's state.
pub fn cluster(cluster: &Cluster, config: &Config) -> Vec<Finding> {
    let about = "cluster";
    let mut findings = Vec::new();
    let me = config.name.as_str();
    if cluster.member(me).is_none() {
        findings.push(no(
            about,
            format!("the store knows no member {me}"),
            "start its Patroni, or mend `name`",
        ));
    }
    if cluster.initialize.as_deref().is_none_or(|text| text.parse::<u64>().is_err()) {
        findings.push(no(
            about,
            "the store does not say which system this is (initialize)",
            "let Patroni's leader write it",
        ));
    }
    if cluster.is_standby_cluster() {
        findings.push(note(
            about,
            "this is a standby cluster",
            "migrate it as any other; promote it before or after, not meanwhile",
        ));
    }
    match cluster.leading_member() {
        None => findings.push(no(about, "nobody leads", "wait for a leader: tenurectl list")),
        Some(leader) if leader.text("state") != Some("running") => {
            findings.push(no(
                about,
                format!("the leader {} does not say that it runs", leader.name),
                "tenurectl list",
            ));
        }
        Some(leader) => {
            findings.push(good(about, format!("{} leads {} members", leader.name, cluster.members.len())));
        }
    }
    for member in &cluster.members {
        let name = &member.name;
        let state = member.text("state").unwrap_or("unknown");
        if !matches!(state, "running" | "streaming") {
            findings.push(no(
                about,
                format!("{name} is {state}"),
                "migrate a cluster when everybody is well",
            ));
        }
        let streams = member.text("replication_state").is_none_or(|state| state == "streaming");
        if Some(name) != cluster.leader.as_ref() && !streams {
            let how = member.text("replication_state").unwrap_or_default();
            findings.push(note(
                about,
                format!("{name} does not stream ({how})"),
                "it can be taken over once it does",
            ));
        }
        if member.is_on("pending_restart") {
            let remedy =
                format!("it stays pending; `tenurectl restart {} {name}` when it suits", cluster.scope);
            findings.push(note(about, format!("{name} has a restart pending"), remedy));
        }
        if member.get("scheduled_restart").is_some_and(Document::counts) {
            let remedy = format!(
                "tenurectl flush {} {name} restart; an agent's successor does not know of it",
                cluster.scope
            );
            findings.push(no(about, format!("{name} has a restart scheduled"), remedy));
        }
    }
    if cluster.failover.as_ref().is_some_and(|request| !request.value.is_empty()) {
        findings.push(no(
            about,
            "a switchover is asked for or scheduled",
            format!("tenurectl flush {} switchover", cluster.scope),
        ));
    }
    if cluster.is_paused() {
        findings.push(note(
            about,
            "the cluster is in maintenance mode",
            "not needed for replicas: tenurectl resume",
        ));
    }
    findings
}

/// Who governs this member, and how old it is.
pub fn member(seen: &Here, config: &Config) -> Vec<Finding> {
    let about = "this member";
    let mut findings = Vec::new();
    match &seen.agent {
        Agent::Silent(why) => findings.push(no(
            about,
            format!("nobody answers for it: {why}"),
            "start its agent, or mend restapi.connect_address",
        )),
        Agent::Answers { kind: Kind::Tenure, version, .. } => {
            findings.push(good(about, format!("Tenure {version} is in charge already")));
        }
        Agent::Answers { kind: Kind::Patroni, version, .. } => {
            let major: Option<u32> = version.split('.').next().and_then(|word| word.parse().ok());
            if major.is_some_and(|major| 3 <= major) {
                findings.push(good(about, format!("Patroni {version} is in charge")));
            } else {
                findings.push(no(
                    about,
                    format!("Patroni {version} is in charge"),
                    "bring every member to Patroni 4 first; 3 works, older ones have not been tried",
                ));
            }
            if seen.processes.iter().all(|process| process.kind != Kind::Patroni) {
                findings.push(note(
                    about,
                    format!("no process of Patroni names {} on this machine", config.name),
                    "call this on the member's machine, with the very file that Patroni was started with, as root",
                ));
            }
        }
    }
    let data_dir = config.postgresql.data_dir.display();
    match seen.postmaster {
        Some(postmaster) => {
            findings.push(good(about, format!("PostgreSQL runs on {data_dir} (pid {})", postmaster.pid)));
        }
        None => findings.push(no(
            about,
            format!("no PostgreSQL runs on {data_dir}"),
            "start it with its present agent",
        )),
    }
    findings
}

pub fn postgresql(answers: &Answers, config: &Config) -> Vec<Finding> {
    let about = "postgresql";
    let own = &config.postgresql.authentication;
    let mut findings = Vec::new();
    let major = answers.version / 10_000;
    if (13..=18).contains(&major) {
        findings.push(good(about, format!("version {major}")));
    } else {
        findings.push(no(about, format!("version {major}"), "13 to 18 are supported"));
    }
    if !answers.superuser {
        let what = format!("{} is no superuser", own.superuser.username);
        findings.push(no("users", what, "the agent needs one: postgresql.authentication.superuser"));
    }
    let replicator = &own.replication.username;
    match answers.may_replicate {
        Some(true) => findings.push(good("users", format!("{replicator} may replicate"))),
        Some(false) => findings.push(no(
            "users",
            format!("{replicator} may not replicate"),
            format!("alter role {replicator} replication"),
        )),
        None => findings.push(no(
            "users",
            format!("there is no role {replicator}"),
            "postgresql.authentication.replication",
        )),
    }
    let rewinder = own.rewind.as_ref().map_or(&own.superuser.username, |login| &login.username);
    match answers.may_rewind {
        Some(true) => findings.push(good("users", format!("{rewinder} may be used by pg_rewind"))),
        Some(false) | None => findings.push(note(
            "users",
            format!("{rewinder} may not do what pg_rewind needs"),
            "create it and grant it the four functions that pg_rewind's manual names",
        )),
    }
    if !answers.checksums_or_hints {
        findings.push(note(
            "rejoin",
            "neither data checksums nor wal_log_hints are on: pg_rewind will refuse",
            "tenurectl edit-config -p wal_log_hints=on, and restart",
        ));
    }
    if answers.wrong_hba_lines != 0 {
        let what = format!("{} lines of pg_hba.conf are wrong", answers.wrong_hba_lines);
        findings.push(no("pg_hba", what, "select * from pg_hba_file_rules where error is not null"));
    }
    if answers.own_parameters != 0 {
        findings.push(note(
            about,
            format!("{} parameters are set by ALTER SYSTEM", answers.own_parameters),
            "they stay in force beside the configuration, as under Patroni",
        ));
    }
    findings
}

pub fn unasked(error: &anyhow::Error, config: &Config) -> Finding {
    let what = format!("PostgreSQL could not be asked: {error:#}");
    if config.postgresql.authentication.superuser.password.is_some() {
        no(
            "users",
            what,
            "the agent logs in the same way: mend postgresql.authentication.superuser, or pg_hba.conf",
        )
    } else {
        note("users", what, "without a password in the configuration only the agent's own user may be let in")
    }
}

pub fn machine(machine: &Machine, config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in &machine.missing {
        let what = format!("{name} is not installed beside tenurectl");
        findings.push(no("machine", what, "install Tenure's package; it starts nothing by itself"));
    }
    match config.watchdog.mode {
        WatchdogMode::Required if !machine.device => findings.push(no(
            "watchdog",
            format!("it is required, and there is no {}", config.watchdog.device.display()),
            "load a driver (softdog), or set watchdog.mode to automatic",
        )),
        WatchdogMode::Required => {
            findings.push(good("watchdog", format!("{} is there", config.watchdog.device.display())));
        }
        WatchdogMode::Automatic if !machine.device => findings.push(note(
            "watchdog",
            "there is none: the guardian alone stands behind the agent",
            "docs/fencing.md tells what that means",
        )),
        WatchdogMode::Automatic | WatchdogMode::Off => {}
    }
    match (&machine.patroni, &machine.agent) {
        (Some(patroni), Some(agent)) => {
            findings.push(good("units", format!("{} and {}", patroni.name, agent.name)));
            findings.extend(environment(patroni, agent));
        }
        (patroni, agent) => {
            let missing = if agent.is_none() { "tenured@.service" } else { "a unit of Patroni" };
            let _ = patroni;
            findings.push(note(
                "units",
                format!("systemd knows no {missing} here"),
                "name it with --patroni-unit or --instance; or use --stop and --start; or follow the printed commands",
            ));
        }
    }
    if machine.instance_file_differs {
        findings.push(note(
            "units",
            format!("{} is there already, and differs from the given file", machine.instance_file.display()),
            "it is used as it is; remove it to have the given file copied",
        ));
    }
    findings
}

/// A unit's user and variables do not come along with its configuration file.
fn environment(patroni: &Unit, agent: &Unit) -> Vec<Finding> {
    let mut findings = Vec::new();
    let user = |unit: &Unit| if unit.user.is_empty() { "root".to_owned() } else { unit.user.clone() };
    if user(patroni) != user(agent) {
        findings.push(no(
            "units",
            format!("{} runs as {}, {} as {}", patroni.name, user(patroni), agent.name, user(agent)),
            format!("set User= and Group= in drop-ins of {} and its guardian", agent.name),
        ));
    }
    if !patroni.variables.is_empty() {
        findings.push(note(
            "units",
            format!("{} sets {}", patroni.name, patroni.variables.join(", ")),
            format!("the same must stand in drop-ins of {} and its guardian", agent.name),
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::super::cluster::fixtures;
    use super::*;
    use crate::config;

    fn config() -> Config {
        let text = "scope: batman\nname: a\nrestapi: {listen: '*:8008', connect_address: '10.0.0.1:8008'}\n\
                    etcd3: {host: 10.0.0.9}\nwatchdog: {mode: required}\n\
                    postgresql: {listen: '*:5432', connect_address: '10.0.0.1:5432', data_dir: /data}\n";
        let texts = [("x".to_owned(), text.to_owned())];
        config::load_texts(&texts, &std::collections::BTreeMap::new()).expect("good").config
    }

    /// What is in the way, in one line each.
    fn hindrances(findings: &[Finding]) -> Vec<&str> {
        let no = findings.iter().filter(|finding| finding.verdict == Verdict::No);
        no.map(|finding| finding.what.as_str()).collect()
    }

    #[test]
    fn a_cluster_that_is_well_is_no_hindrance_and_one_that_is_not_is_one() {
        let well = [
            ("initialize", "7710399124836129887"),
            ("leader", "b"),
            ("members/a", r#"{"state":"running","role":"replica","replication_state":"streaming"}"#),
            ("members/b", r#"{"state":"running","role":"primary"}"#),
        ];
        assert!(hindrances(&cluster(&fixtures::cluster(&well), &config())).is_empty());
        let ill = [
            ("initialize", ""),
            ("members/b", r#"{"state":"crashed","scheduled_restart":{"schedule":"x"}}"#),
            ("failover", r#"{"leader":"b"}"#),
        ];
        let findings = cluster(&fixtures::cluster(&ill), &config());
        let wanted = [
            "the store knows no member a",
            "the store does not say which system this is (initialize)",
            "nobody leads",
            "b is crashed",
            "b has a restart scheduled",
            "a switchover is asked for or scheduled",
        ];
        assert_eq!(hindrances(&findings), wanted);
        assert!(
            findings.iter().all(|finding| finding.verdict == Verdict::Good || !finding.remedy.is_empty())
        );
    }

    #[test]
    fn shared_settings_that_tenure_refuses_are_in_the_way() {
        let check = |settings: &str, hindered: bool| {
            let findings = shared(&fixtures::cluster(&[("config", settings)]), &config());
            assert_eq!(!hindrances(&findings).is_empty(), hindered, "{settings}: {findings:#?}");
        };
        check(r#"{"ttl":30,"loop_wait":10,"retry_timeout":10}"#, false);
        check(r#"{"ttl":2}"#, true);
        check(r#"{"no_such_setting":1}"#, true);
        assert!(!hindrances(&shared(&fixtures::cluster(&[]), &config())).is_empty());
    }

    #[test]
    fn logins_that_cannot_do_their_work_are_in_the_way() {
        let good = Answers {
            superuser: true,
            version: 150_018,
            checksums_or_hints: true,
            may_replicate: Some(true),
            may_rewind: Some(true),
            ..Answers::default()
        };
        assert!(hindrances(&postgresql(&good, &config())).is_empty());
        let bad =
            Answers { superuser: false, version: 90_624, may_replicate: None, wrong_hba_lines: 2, ..good };
        assert_eq!(hindrances(&postgresql(&bad, &config())).len(), 4);
    }

    #[test]
    fn a_units_user_and_variables_must_come_along() {
        let unit = |name: &str, user: &str, variable: &str| Unit {
            name: name.to_owned(),
            main_pid: None,
            user: user.to_owned(),
            variables: Some(variable)
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .into_iter()
                .collect(),
        };
        let found = environment(
            &unit("patroni.service", "pg", "PATRONI_REPLICATION_PASSWORD"),
            &unit("tenured@main.service", "postgres", ""),
        );
        assert_eq!(found.len(), 2);
        assert!(found[1].what.contains("PATRONI_REPLICATION_PASSWORD"), "{found:?}");
        assert!(environment(&unit("a", "postgres", ""), &unit("b", "postgres", "")).is_empty());
    }

    #[test]
    fn programs_that_are_missing_are_in_the_way() {
        let missing = Machine { missing: vec!["tenured".to_owned()], ..Machine::default() };
        assert_eq!(hindrances(&machine(&missing, &config())).len(), 2);
    }
}
