//! `migrate check`: gathers the facts, has them judged, and tells the findings.

use anyhow::Result;

use super::super::cluster::Cluster;
use super::super::console::{Unread, print};
use super::super::document::Document;
use super::super::table::{Column, Format, Table};
use super::Ground;
use super::here::{self, Here, instance_file};
use super::judge::{self, Finding, Machine, Verdict, good, no, note, of_problem};
use super::questions;
use super::units::{self, Means, Names};
use crate::config::{self, Config, Loaded, policy_from};

/// There was something in the way, and it has been told.
#[derive(Debug, thiserror::Error)]
#[error("this member cannot be put under Tenure as it is")]
struct InTheWay;

pub async fn check(ground: &Ground<'_>, format: Format) -> Result<()> {
    let mut findings = Vec::new();
    match config::load(&config::Sources::of_process(vec![ground.file.clone()])) {
        Err(problems) => {
            findings
                .extend(problems.0.iter().map(|problem| of_problem(problem, Verdict::No, "configuration")));
        }
        Ok(Loaded { config, warnings, .. }) => {
            let file = ground.file.display();
            findings.push(good("configuration", format!("Tenure understands {file}")));
            let notes = warnings.iter().map(|problem| of_problem(problem, Verdict::Note, "configuration"));
            findings.extend(notes);
            findings.extend(judge::local(&config));
            let seen = here::look(ground, &config).await?;
            findings.extend(judge::shared(&seen.cluster, &config));
            findings.extend(store(ground, &config, &seen.cluster).await);
            findings.extend(judge::cluster(&seen.cluster, &config));
            findings.extend(judge::member(&seen, &config));
            findings.extend(match questions::ask(&config).await {
                Ok(answers) => judge::postgresql(&answers, &config),
                Err(error) => vec![judge::unasked(&error, &config)],
            });
            if let Means::Units(names) = &ground.means {
                findings.extend(judge::machine(&look_around(ground, names, &config, &seen), &config));
            }
        }
    }
    let blocked = findings.iter().any(|finding| finding.verdict == Verdict::No);
    print(&render(&findings, format))?;
    if blocked && format == Format::Pretty {
        return Err(InTheWay.into());
    }
    // What a program reads is only the data.
    if blocked { Err(Unread.into()) } else { Ok(()) }
}

/// What the store makes of the ttl. Nothing stays of the question.
async fn store(ground: &Ground<'_>, config: &Config, cluster: &Cluster) -> Vec<Finding> {
    let shared = cluster.config.as_ref().map_or(&serde_json::Value::Null, |shared| &shared.value);
    let wanted = policy_from(shared, config).0.timing.ttl;
    let within = ground.access.store_patience();
    let asking = async {
        let store = ground.access.store(&config.scope)?;
        let session = store.open_session(wanted, within).await?;
        store.close_session(session.id, within).await?;
        anyhow::Ok(session.ttl)
    };
    let about = "store";
    vec![match asking.await {
        Ok(granted) if granted <= wanted => good(about, format!("it grants leases of {granted}")),
        Ok(granted) => note(
            about,
            format!("it grants leases of {granted} where {wanted} is asked for"),
            "after the loss of a leader the others wait that long; for less, change the store's own timing",
        ),
        Err(error) => no(
            about,
            format!("it grants no lease: {error:#}"),
            "the agent needs what Patroni's user may do there",
        ),
    }]
}

fn look_around(ground: &Ground<'_>, names: &Names, config: &Config, seen: &Here) -> Machine {
    let beside = |name: &str| std::env::current_exe().ok().map(|own| own.with_file_name(name));
    let there = |name: &&str| beside(name).is_some_and(|path| path.is_file());
    let missing =
        ["tenured", "tenure-fence"].iter().filter(|name| !there(name)).map(|name| (*name).to_owned());
    let instance_file = instance_file(&names.instance);
    let read = |path| std::fs::read(path).ok();
    let copy = read(&instance_file);
    Machine {
        missing: missing.collect(),
        patroni: units::look(&names.patroni(seen)),
        agent: units::look(&names.agent()),
        instance_file_differs: copy.is_some() && copy != read(&ground.file),
        instance_file,
        device: config.watchdog.device.exists(),
    }
}

fn render(findings: &[Finding], format: Format) -> String {
    if format != Format::Pretty {
        let columns = ["Verdict", "About", "Finding", "Remedy"].map(Column::left).to_vec();
        let row = |finding: &Finding| {
            [finding.verdict.word(), finding.about, &finding.what, &finding.remedy]
                .map(Document::text)
                .to_vec()
        };
        let rows = findings.iter().map(row).collect();
        return Table { title: String::new(), columns: Some(columns), rows }.render(format, "\t");
    }
    let mut text = String::new();
    for finding in findings {
        text += &format!("{:<5} {:<16} {}\n", finding.verdict.word(), finding.about, finding.what);
        if !finding.remedy.is_empty() {
            text += &format!("{:23}-> {}\n", "", finding.remedy);
        }
    }
    text
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Good => "good",
            Verdict::Note => "note",
            Verdict::No => "no",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_lines_for_people_and_rows_for_programs() {
        let findings = [good("cluster", "b leads 3 members"), no("watchdog", "there is none", "load one")];
        let text = "\
good  cluster          b leads 3 members
no    watchdog         there is none
                       -> load one
";
        assert_eq!(render(&findings, Format::Pretty), text);
        let json = render(&findings, Format::Json);
        assert!(json.contains(r#""Verdict": "no""#), "{json}");
    }
}
