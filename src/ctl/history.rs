//! `history`: when the cluster has had which leader, as Patroni's tools show it; and, if more is wanted, what each change was made of, as the
//! leaders have written it into the store.

use std::fmt::Write;

use anyhow::Result;
use serde_json::json;

use super::access::Access;
use super::cluster::Cluster;
use super::console::print;
use super::document::Document;
use super::table::{Column, Format, Table};
use super::{time, yaml};
use crate::model::Succession;

#[derive(Debug, clap::Args)]
pub struct HistoryArguments {
    /// The cluster [default: the configured scope]
    cluster_name: Option<String>,
    /// Also what the last changes of the leader were made of, stage by stage, and what was lost
    #[arg(short, long)]
    verbose: bool,
    /// The form in which the cluster is shown
    #[arg(short, long, value_enum, default_value_t = Format::Pretty)]
    format: Format,
}

pub async fn history(access: &Access, arguments: &HistoryArguments) -> Result<()> {
    let scope = access.scope(arguments.cluster_name.as_deref())?;
    let cluster = access.read(&scope).await?;
    let lines = history_table(&cluster);
    print(&match (arguments.format, arguments.verbose) {
        (format, false) => lines.render(format, "\t"),
        (Format::Tsv, true) => stages(&cluster.successions).render(Format::Tsv, "\t"),
        (Format::Pretty, true) => verbose(&lines, &cluster.successions),
        (format @ (Format::Json | Format::Yaml), true) => {
            let document = Document::from(&json!(cluster.successions));
            if format == Format::Json { format!("{}\n", document.to_json()) } else { yaml::block(&document) }
        }
    })
}

fn history_table(cluster: &Cluster) -> Table {
    let columns = vec![
        Column::right("TL"),
        Column::right("LSN"),
        Column::left("Reason"),
        Column::left("Timestamp"),
        Column::left("New Leader"),
    ];
    let mut rows = cluster.history.clone();
    for row in &mut rows {
        row.resize(columns.len(), Document::text(""));
    }
    Table { title: String::new(), columns: Some(columns), rows }
}

fn verbose(lines: &Table, successions: &[Succession]) -> String {
    let mut text = lines.render(Format::Pretty, "\t");
    for succession in successions {
        let _ = write!(text, "\n{}", told(succession));
    }
    if successions.is_empty() {
        text += "\nno leader has written how it came to lead: Patroni's do not, and those before this version did not\n";
    }
    text
}

/// A change of the leader with its stages: how long after the beginning, and how long after the one before.
pub fn told(succession: &Succession) -> String {
    let Succession { timeline, kind, by, from, to, at, stages, loss, others: _ } = succession;
    let former = from.as_ref().map(|from| format!("{from} -> ")).unwrap_or_default();
    let by = by.as_ref().map(|by| format!(", asked for by {by}")).unwrap_or_default();
    let mut text = format!("Timeline {timeline}: {former}{to} ({kind}{by}), {}\n", begin(at));
    let mut before = 0;
    for stage in stages {
        let (total, step) = (seconds(stage.after_ms), seconds(stage.after_ms.saturating_sub(before)));
        before = stage.after_ms;
        let step = format!("+{step}");
        let _ = writeln!(
            text,
            "  {total:>9}  {step:>10}  {:26}  {}: {}",
            stage.stage, stage.member, stage.sentence
        );
    }
    if let Some(loss) = loss {
        let _ = writeln!(text, "  lost: {loss}");
    }
    text
}

fn begin(at: &str) -> String {
    let ms = at.parse::<jiff::Timestamp>().ok().and_then(|at| u64::try_from(at.as_millisecond()).ok());
    ms.map_or_else(|| at.to_owned(), time::told)
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03} s", ms / 1_000, ms % 1_000)
}

fn stages(successions: &[Succession]) -> Table {
    let columns = ["Timeline", "Kind", "Begin", "After ms", "Stage", "Member", "Sentence"].map(Column::left);
    let rows = successions.iter().flat_map(|succession| {
        succession.stages.iter().map(|stage| {
            vec![
                Document::Integer(i128::from(succession.timeline.0)),
                Document::text(&succession.kind),
                Document::text(&succession.at),
                Document::Integer(i128::from(stage.after_ms)),
                Document::text(&stage.stage),
                Document::text(stage.member.as_str()),
                Document::text(&stage.sentence),
            ]
        })
    });
    Table { title: String::new(), columns: Some(columns.to_vec()), rows: rows.collect() }
}

#[cfg(test)]
mod tests {
    use super::super::cluster::fixtures::cluster;
    use super::*;

    #[test]
    fn history_is_shown_with_its_gaps() {
        let reason = "no recovery target specified";
        let lines = format!(
            r#"[[1,67108960,"{reason}","2026-11-20T23:00:01.123456+00:00","node-a"],[2,83886408,"{reason}"],7]"#
        );
        let table = history_table(&cluster(&[("history", &lines)]));
        let text = "\
+----+----------+------------------------------+----------------------------------+------------+
| TL |      LSN | Reason                       | Timestamp                        | New Leader |
+----+----------+------------------------------+----------------------------------+------------+
|  1 | 67108960 | no recovery target specified | 2026-11-20T23:00:01.123456+00:00 | node-a     |
|  2 | 83886408 | no recovery target specified |                                  |            |
+----+----------+------------------------------+----------------------------------+------------+
";
        assert_eq!(table.render(Format::Pretty, "\t"), text);
        let json = table.render(Format::Json, "\t");
        assert!(json.ends_with("\"Timestamp\": \"\", \"New Leader\": \"\"}]\n"), "{json}");
    }

    #[test]
    fn the_stages_stand_below_the_history() {
        let stages = r#"[{"stage":"the race is decided","after_ms":400,"member":"b","sentence":"takes it"},
            {"stage":"PostgreSQL is primary","after_ms":1250,"member":"b","sentence":"leading"}]"#;
        let value = format!(
            r#"[{{"timeline":2,"kind":"failover","from":"a","to":"b","at":"then","stages":{stages},"loss":"at most 48 kB"}}]"#
        );
        let cluster = cluster(&[("successions", &value)]);
        let text = "
Timeline 2: a -> b (failover), then
    0.400 s    +0.400 s  the race is decided         b: takes it
    1.250 s    +0.850 s  PostgreSQL is primary       b: leading
  lost: at most 48 kB
";
        assert!(verbose(&history_table(&cluster), &cluster.successions).ends_with(text));
        let none = verbose(&history_table(&Cluster::default()), &[]);
        assert!(none.contains("no leader has written"), "{none}");
        let row = super::stages(&cluster.successions).render(Format::Tsv, "\t");
        assert!(row.contains("2\tfailover\tthen\t400\tthe race is decided\tb\ttakes it"), "{row}");
    }
}
