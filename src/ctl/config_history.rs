//! `config-history`: who has changed which setting of the cluster, when and why.

use anyhow::Result;

use super::access::Access;
use super::cluster::Cluster;
use super::console::print;
use super::document::Document;
use super::table::{Column, Format, Table};
use super::time;
use crate::model::{Change, Difference};

#[derive(Debug, clap::Args)]
pub struct ConfigHistoryArguments {
    /// The cluster [default: the configured scope]
    cluster_name: Option<String>,
    /// The form of the output
    #[arg(short, long, value_enum, default_value_t = Format::Pretty)]
    format: Format,
}

pub async fn show(access: &Access, arguments: &ConfigHistoryArguments) -> Result<()> {
    let scope = access.scope(arguments.cluster_name.as_deref())?;
    print(&table(&access.read(&scope).await?).render(arguments.format, "\t"))
}

/// A row for each setting, the oldest first.
fn table(cluster: &Cluster) -> Table {
    let columns = ["When", "Who", "Why", "Setting", "From", "To"].map(Column::left).to_vec();
    let changes = cluster.intents.iter().flat_map(|intents| &intents.changes);
    Table { title: String::new(), columns: Some(columns), rows: changes.flat_map(rows).collect() }
}

fn rows(change: &Change) -> Vec<Vec<Document>> {
    let row = |setting: &str, from: Document, to: Document| {
        let text = |text: &str| Document::text(text);
        let why = text(change.why.as_deref().unwrap_or_default());
        vec![text(&time::local(&change.at)), text(&change.by), why, text(setting), from, to]
    };
    let nothing = || Document::text("");
    let Some(what) = &change.what else {
        return vec![row("(nobody knows what was there before)", nothing(), nothing())];
    };
    let side = |value: &Option<serde_json::Value>| value.as_ref().map_or_else(nothing, Document::from);
    let told = |one: &Difference| row(&one.setting, side(&one.from), side(&one.to));
    let mut rows: Vec<Vec<Document>> = what.iter().map(told).collect();
    if 0 < change.more {
        rows.push(row(&format!("(and {} more)", change.more), nothing(), nothing()));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::super::cluster::fixtures::cluster;
    use super::*;

    #[test]
    fn every_setting_that_was_changed_has_its_row() {
        let key = r#"{"changes": [
            {"at": "soon", "by": "anna@ops1", "why": "slow disks", "more": 3,
             "what": [{"setting": "ttl", "from": 30, "to": 20}, {"setting": "pause", "to": true}]},
            {"at": "soon", "by": "unknown"},
            7]}"#;
        let table = table(&cluster(&[("intents", key)]));
        let text = "\
When\tWho\tWhy\tSetting\tFrom\tTo
soon\tanna@ops1\tslow disks\tttl\t30\t20
soon\tanna@ops1\tslow disks\tpause\t\tTrue
soon\tanna@ops1\tslow disks\t(and 3 more)\t\t
soon\tunknown\t\t(nobody knows what was there before)\t\t
";
        assert_eq!(table.render(Format::Tsv, "\t"), text);
        assert!(table.render(Format::Json, "\t").contains(r#""Setting": "ttl", "From": 30, "To": 20}"#));
    }
}
