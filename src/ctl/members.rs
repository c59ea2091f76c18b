//! `list` and `topology`: the members of a cluster as rows.

use std::collections::BTreeMap;

use super::cluster::{Cluster, Duty, Member};
use super::document::Document;
use super::table::{Column, Format, Table};
use super::yaml;
use crate::model::{IntentKind, Lsn, Whose};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    List(Format),
    Topology,
}

/// A GUC's change that is longer than this is not shown to people.
const CHANGE_MAX: usize = 50;
const USUAL_PORT: u16 = 5432;
const MEGABYTE: i128 = 1 << 20;

#[cfg(test)]
impl Shape {
    pub const ALL: [Shape; 5] = [
        Shape::List(Format::Pretty),
        Shape::List(Format::Tsv),
        Shape::List(Format::Json),
        Shape::List(Format::Yaml),
        Shape::Topology,
    ];
}

/// The whole text, service lines included where people read it.
pub fn render(cluster: &Cluster, shape: Shape, extended: bool) -> String {
    let (format, for_people) = match shape {
        Shape::List(format) => (format, format == Format::Pretty),
        Shape::Topology => (Format::Pretty, true),
    };
    let mut text = table(cluster, shape, extended).render(format, "\t");
    if for_people {
        for line in service_lines(cluster) {
            text += &format!(" {line}\n");
        }
    }
    text
}

fn table(cluster: &Cluster, shape: Shape, extended: bool) -> Table {
    let for_people = matches!(shape, Shape::Topology | Shape::List(Format::Pretty));
    let optional = optional_columns(cluster, extended);
    let mut columns: Vec<Column> = [
        Column::left("Cluster"),
        Column::left("Member"),
        Column::left("Host"),
        Column::left("Role"),
        Column::left("State"),
        Column::right("TL"),
        Column::right("Receive LSN"),
        Column::right(if for_people { "Lag" } else { "Receive Lag" }),
        Column::right("Replay LSN"),
        Column::right(if for_people { "Lag" } else { "Replay Lag" }),
    ]
    .into();
    columns.extend(optional.iter().map(|(title, _)| Column::left(title)));
    let ports = ports_matter(cluster);
    let ordered = match shape {
        Shape::Topology => by_topology(cluster),
        Shape::List(_) => cluster.members.iter().map(|member| (member.name.clone(), member)).collect(),
    };
    let mut rows: Vec<Vec<Document>> = ordered
        .into_iter()
        .map(|(name, member)| {
            let mut row = usual_cells(cluster, member, name, ports);
            row.extend(optional.iter().map(|(_, field)| optional_cell(member, field, shape)));
            row
        })
        .collect();
    if for_people {
        // The frame's title names the cluster.
        columns.remove(0);
        for row in &mut rows {
            row.remove(0);
        }
    }
    Table { title: title(cluster), columns: Some(columns), rows }
}

fn title(cluster: &Cluster) -> String {
    let identity = match cluster.initialize.as_deref() {
        None => "uninitialized",
        Some("") => "initializing",
        Some(identity) => identity,
    };
    format!(" Cluster: {} ({identity}) ", cluster.scope)
}

/// Title and field. They are there if asked for, or if anybody has something to show.
fn optional_columns(cluster: &Cluster, extended: bool) -> Vec<(&'static str, &'static str)> {
    let patronis = [
        ("Pending restart", "pending_restart"),
        ("Pending restart reason", "pending_restart_reason"),
        ("Scheduled restart", "scheduled_restart"),
        ("Tags", "tags"),
    ];
    let anybody = |field: &str| cluster.members.iter().any(|m| m.address().is_some() && m.is_on(field));
    let mut columns: Vec<_> = patronis.into_iter().filter(|(_, field)| extended || anybody(field)).collect();
    // Ours, and only where somebody asks for more: scripts count columns.
    if extended && anybody("watchdog") {
        columns.push(("Watchdog", "watchdog"));
    }
    columns
}

/// Several members on one host, or an unusual port anywhere: then every host is shown with its port.
fn ports_matter(cluster: &Cluster) -> bool {
    let addresses: Vec<_> = cluster.members.iter().filter_map(Member::address).collect();
    let hosts: std::collections::BTreeSet<&str> = addresses.iter().map(|a| a.host.as_str()).collect();
    hosts.len() < addresses.len() || addresses.iter().any(|address| address.port != USUAL_PORT)
}

fn usual_cells(cluster: &Cluster, member: &Member, name: String, ports: bool) -> Vec<Document> {
    let duty = cluster.duty(member);
    let host = member
        .address()
        .map(|address| if ports { format!("{}:{}", address.host, address.port) } else { address.host });
    let state = state(member, duty);
    let mut received = Place::of(member.position("receive_lsn"), cluster.optime);
    let mut replayed = Place::of(member.position("replay_lsn"), cluster.optime);
    match duty {
        Duty::Leader | Duty::StandbyLeader => (received, replayed) = (Place::default(), Place::default()),
        Duty::SyncStandby | Duty::QuorumStandby | Duty::Replica => {
            // Agents before 4.1 publish one position only.
            let only = member.position("xlog_location");
            if received.is_unknown() && replayed.is_unknown() && only.is_some() {
                let place = if state == "streaming" { &mut received } else { &mut replayed };
                *place = Place::of(only, cluster.optime);
            }
        }
    }
    vec![
        Document::text(&cluster.scope),
        Document::Text(name),
        Document::Text(host.unwrap_or_default()),
        Document::text(duty.title()),
        Document::Text(state),
        member.get("timeline").cloned().unwrap_or_else(nothing),
        Document::Text(received.lsn),
        received.lag,
        Document::Text(replayed.lsn),
        replayed.lag,
    ]
}

pub fn state(member: &Member, duty: Duty) -> String {
    let replication = member.text("replication_state").filter(|_| duty != Duty::Leader);
    replication.or_else(|| member.text("state")).unwrap_or_default().to_owned()
}

/// A position in the WAL and how far it is behind the leader's last word.
struct Place {
    lsn: String,
    lag: Document,
}

impl Default for Place {
    fn default() -> Place {
        Place { lsn: String::new(), lag: nothing() }
    }
}

impl Place {
    fn of(lsn: Option<i128>, leader: i128) -> Place {
        match lsn {
            None => Place { lsn: "unknown".to_owned(), lag: nothing() },
            Some(lsn) => Place {
                lsn: u64::try_from(lsn).map_or_else(|_| "unknown".to_owned(), |lsn| Lsn(lsn).to_string()),
                lag: Document::Integer(megabytes((leader - lsn).max(0))),
            },
        }
    }

    fn is_unknown(&self) -> bool {
        self.lsn == "unknown"
    }
}

/// Rounded, and halves to the even side, as Python does it.
fn megabytes(bytes: i128) -> i128 {
    let (whole, rest) = (bytes / MEGABYTE, bytes % MEGABYTE);
    let up = MEGABYTE < rest * 2 || (rest * 2 == MEGABYTE && whole % 2 == 1);
    whole + i128::from(up)
}

fn nothing() -> Document {
    Document::text("")
}

fn optional_cell(member: &Member, field: &str, shape: Shape) -> Document {
    let Some(value) = member.get(field) else { return nothing() };
    match field {
        "pending_restart" => Document::text(if value.counts() { "*" } else { "" }),
        "pending_restart_reason" => {
            let for_people = matches!(shape, Shape::Topology | Shape::List(Format::Pretty));
            let changes = value.entries().unwrap_or_default().iter();
            let changes: Vec<String> =
                changes.map(|(name, values)| change(name, values, for_people)).collect();
            Document::Text(changes.join("\n"))
        }
        "scheduled_restart" => {
            let schedule = value.get("schedule").map(Document::shown).unwrap_or_default();
            match value.get("postgres_version") {
                Some(version) => Document::Text(format!("{schedule} if version < {}", version.shown())),
                None => Document::Text(schedule),
            }
        }
        "tags" if value.counts() => match shape {
            Shape::List(Format::Json | Format::Yaml) => value.clone(),
            Shape::List(Format::Pretty) => Document::text(yaml::block(value).trim()),
            Shape::List(Format::Tsv) | Shape::Topology => Document::text(yaml::flow(value).trim()),
        },
        _ => value.clone(),
    }
}

fn change(name: &str, values: &Document, hide_long: bool) -> String {
    let side = |side: &str| values.get(side).map(Document::shown).unwrap_or_default();
    let change = format!("{name}: {}->{}", side("old_value"), side("new_value"));
    if hide_long && CHANGE_MAX < change.chars().count() {
        format!("{name}: [hidden - too long]")
    } else {
        change
    }
}

/// Each replica below what it replicates from, its name indented. Whoever replicates from nobody that is there hangs on
/// the leader.
fn by_topology(cluster: &Cluster) -> Vec<(String, &Member)> {
    let leader = cluster.leader.as_deref().filter(|name| cluster.member(name).is_some());
    let is_replica = |name: &str| Some(name) != leader && cluster.member(name).is_some();
    let mut below: BTreeMap<Option<&str>, Vec<&Member>> = BTreeMap::new();
    for member in cluster.members.iter().filter(|member| is_replica(&member.name)) {
        let source = member.tag("replicatefrom").and_then(Document::as_text);
        let source = source.filter(|source| *source != member.name && is_replica(source));
        below.entry(source.or(leader)).or_default().push(member);
    }
    let mut ordered = Vec::new();
    if let Some(member) = leader.and_then(|name| cluster.member(name)) {
        ordered.push((member.name.clone(), member));
    }
    // Depth first; members that replicate from each other in a circle are reached from nowhere and left out.
    let mut waiting: Vec<(usize, &Member)> =
        below.get(&leader).into_iter().flatten().rev().map(|m| (1, *m)).collect();
    while let Some((depth, member)) = waiting.pop() {
        ordered.push((format!("{}+ {}", " ".repeat((depth - 1) * 2), member.name), member));
        let children = below.get(&Some(member.name.as_str())).into_iter().flatten();
        waiting.extend(children.rev().map(|child| (depth + 1, *child)));
    }
    ordered
}

/// What stands below the members: maintenance, what is scheduled, what is being made.
pub fn service_lines(cluster: &Cluster) -> Vec<String> {
    let mut lines = Vec::new();
    if cluster.is_paused() {
        lines.push("Maintenance mode: on".to_owned());
        let intent = cluster.intents.as_ref().and_then(|intents| intents.pause.as_ref());
        lines.extend(intent.map(|pause| format!("Paused {pause}")));
    }
    for (name, member) in cluster.intents.iter().flat_map(|intents| &intents.members) {
        let kept = match member.kind {
            IntentKind::Maintenance => "in maintenance",
            IntentKind::Nofailover => "not promoted",
        };
        lines.push(format!("{name} is {kept} {}", member.intent));
    }
    if let Some((request, at)) = cluster.scheduled_switchover() {
        let mut line = format!("Switchover scheduled at: {at}");
        for (word, name) in [("from", &request.leader), ("to", &request.candidate)] {
            if let Some(name) = name {
                line += &format!("\n{word:>24}: {name}");
            }
        }
        let whose = request.whose.as_ref().map(|whose| format!("\n{:>24}  {whose}", "")).unwrap_or_default();
        lines.push(line + &whose);
    }
    for member in &cluster.members {
        let Some(by) = member.get("restart_wanted").and_then(|wanted| wanted.get("by")).map(Document::shown)
        else {
            continue;
        };
        let why = member.get("restart_wanted").and_then(|wanted| wanted.get("why")).map(Document::shown);
        let whose = Whose { by, why };
        lines.push(format!("{} is to be restarted {whose}", member.name));
    }
    let copying =
        |member: &Member| Some(format!("{} is being cloned: {}", member.name, member.text("copying")?));
    lines.extend(cluster.members.iter().filter_map(copying));
    let gated = cluster.members.iter().filter(|member| member.text("gate").is_some());
    lines.extend(gated.map(|member| {
        format!("{} lets no client in until its synchronous standbys have caught up", member.name)
    }));
    lines
}

#[cfg(test)]
mod tests {
    use super::super::cluster::fixtures::cluster;
    use super::*;

    /// The cluster of the examples in Patroni's documentation of its formats.
    fn batman() -> Cluster {
        cluster(&[
            ("initialize", "7431234567890123456"),
            ("leader", "node-a"),
            ("status", r#"{"optime":83886408}"#),
            ("config", r#"{"pause":true,"synchronous_mode":true}"#),
            ("sync", r#"{"leader":"node-a","quorum":0,"sync_standby":"node-b"}"#),
            (
                "failover",
                r#"{"leader":"node-a","member":"node-b","scheduled_at":"2026-11-21T10:00:00+00:00"}"#,
            ),
            (
                "members/node-a",
                r#"{"conn_url":"postgres://10.0.0.1:5432/postgres","state":"running","role":"primary","tags":{"clonefrom":true},"timeline":2,"xlog_location":83886408}"#,
            ),
            (
                "members/node-b",
                r#"{"conn_url":"postgres://10.0.0.2:5432/postgres","state":"running","role":"replica","replication_state":"streaming","timeline":2,"receive_lsn":83886408,"replay_lsn":83886408}"#,
            ),
            (
                "members/node-c",
                r#"{"conn_url":"postgres://10.0.0.3:5432/postgres","state":"starting","role":"replica","tags":{"nofailover":true,"replicatefrom":"node-b"}}"#,
            ),
        ])
    }

    #[test]
    fn people_see_a_frame() {
        let text = "\
+ Cluster: batman (7431234567890123456) -------+----+-------------+-----+------------+-----+-----------------------+
| Member | Host     | Role         | State     | TL | Receive LSN | Lag | Replay LSN | Lag | Tags                  |
+--------+----------+--------------+-----------+----+-------------+-----+------------+-----+-----------------------+
| node-a | 10.0.0.1 | Leader       | running   |  2 |             |     |            |     | clonefrom: true       |
+--------+----------+--------------+-----------+----+-------------+-----+------------+-----+-----------------------+
| node-b | 10.0.0.2 | Sync Standby | streaming |  2 |   0/5000148 |   0 |  0/5000148 |   0 |                       |
+--------+----------+--------------+-----------+----+-------------+-----+------------+-----+-----------------------+
| node-c | 10.0.0.3 | Replica      | starting  |    |     unknown |     |    unknown |     | nofailover: true      |
|        |          |              |           |    |             |     |            |     | replicatefrom: node-b |
+--------+----------+--------------+-----------+----+-------------+-----+------------+-----+-----------------------+
 Maintenance mode: on
 Switchover scheduled at: 2026-11-21T10:00:00+00:00
                    from: node-a
                      to: node-b
";
        assert_eq!(render(&batman(), Shape::List(Format::Pretty), false), text);
    }

    #[test]
    fn whoever_wanted_it_is_told_below_the_frame() {
        let pause = r#"{"by":"anna@ops","why":"new switch","since":"2026-11-22T05:00:00Z","until":"2026-11-22T06:00:00Z"}"#;
        let member = r#"{"kind":"maintenance","by":"ben@ops","since":"2026-11-22T05:00:00Z"}"#;
        let intents = format!(r#"{{"pause":{pause},"members":{{"b":{member}}}}}"#);
        let wanted = "\n Maintenance mode: on\n Paused until 2026-11-22T06:00:00Z, by anna@ops: new switch\n b is in maintenance by ben@ops\n";
        let paused = super::super::cluster::fixtures::cluster(&[
            ("config", r#"{"pause":true}"#),
            ("intents", &intents),
        ]);
        let text = render(&paused, Shape::List(Format::Pretty), false);
        assert!(text.ends_with(wanted), "{text}");
        // A pause that has been ended has nobody.
        let over = super::super::cluster::fixtures::cluster(&[("intents", &intents)]);
        assert!(!render(&over, Shape::List(Format::Pretty), false).contains("Paused"));
    }

    #[test]
    fn the_topology_is_a_tree() {
        let text = "\
+ Cluster: batman (7431234567890123456) -----------+----+-------------+-----+------------+-----+-------------------------------------------+
| Member     | Host     | Role         | State     | TL | Receive LSN | Lag | Replay LSN | Lag | Tags                                      |
+------------+----------+--------------+-----------+----+-------------+-----+------------+-----+-------------------------------------------+
| node-a     | 10.0.0.1 | Leader       | running   |  2 |             |     |            |     | {clonefrom: true}                         |
| + node-b   | 10.0.0.2 | Sync Standby | streaming |  2 |   0/5000148 |   0 |  0/5000148 |   0 |                                           |
|   + node-c | 10.0.0.3 | Replica      | starting  |    |     unknown |     |    unknown |     | {nofailover: true, replicatefrom: node-b} |
+------------+----------+--------------+-----------+----+-------------+-----+------------+-----+-------------------------------------------+
";
        let whole = render(&batman(), Shape::Topology, false);
        assert_eq!(whole.split_inclusive('\n').take(7).collect::<String>(), text);
    }

    #[test]
    fn scripts_see_tabs_or_json_without_what_is_empty() {
        let tsv = "\
Cluster\tMember\tHost\tRole\tState\tTL\tReceive LSN\tReceive Lag\tReplay LSN\tReplay Lag\tTags
batman\tnode-a\t10.0.0.1\tLeader\trunning\t2\t\t\t\t\t{clonefrom: true}
batman\tnode-b\t10.0.0.2\tSync Standby\tstreaming\t2\t0/5000148\t0\t0/5000148\t0\t
batman\tnode-c\t10.0.0.3\tReplica\tstarting\t\tunknown\t\tunknown\t\t{nofailover: true, replicatefrom: node-b}
";
        assert_eq!(render(&batman(), Shape::List(Format::Tsv), false), tsv);
        let json = render(&batman(), Shape::List(Format::Json), false);
        let begin = r#"[{"Cluster": "batman", "Member": "node-a", "Host": "10.0.0.1", "Role": "Leader", "State": "running", "TL": 2, "Tags": {"clonefrom": true}}, {"Cluster": "batman", "Member": "node-b", "Host": "10.0.0.2", "Role": "Sync Standby", "State": "streaming", "TL": 2, "Receive LSN": "0/5000148", "Receive Lag": 0, "Replay LSN": "0/5000148", "Replay Lag": 0}, {"#;
        assert!(json.starts_with(begin), "{json}");
    }

    #[test]
    fn restarts_are_shown_with_their_reasons() {
        let long = "x".repeat(60);
        let record = format!(
            r#"{{"conn_url":"postgres://a:5433/x","pending_restart":true,"pending_restart_reason":{{"max_connections":{{"old_value":"100","new_value":"200"}},"c":{{"old_value":"","new_value":"{long}"}}}},"scheduled_restart":{{"schedule":"2026-11-21T10:00:00+00:00","postgres_version":"17.3"}}}}"#
        );
        let cluster = cluster(&[("members/m", &record)]);
        let text = render(&cluster, Shape::List(Format::Pretty), false);
        for part in [
            "| a:5433 |",
            "| *               |",
            "max_connections: 100->200",
            "c: [hidden - too long]",
            "2026-11-21T10:00:00+00:00 if version < 17.3",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(render(&cluster, Shape::List(Format::Tsv), false).contains(&format!("c: ->{long}")));
    }

    #[test]
    fn the_watchdog_has_a_column_only_where_more_is_asked_for() {
        let cluster = cluster(&[("members/m", r#"{"conn_url":"postgres://a/x","watchdog":"armed"}"#)]);
        let row = |extended| render(&cluster, Shape::List(Format::Tsv), extended);
        assert!(
            row(true).contains("\tTags\tWatchdog\n") && row(true).ends_with("\tarmed\n"),
            "{}",
            row(true)
        );
        assert!(!row(false).contains("atchdog"));
    }

    #[test]
    fn half_a_megabyte_is_rounded_to_the_even_side() {
        let check = |bytes, mb| assert_eq!(megabytes(bytes), mb, "{bytes}");
        check(0, 0);
        check(MEGABYTE / 2, 0);
        check(MEGABYTE / 2 + 1, 1);
        check(MEGABYTE * 3 / 2, 2);
        check(MEGABYTE * 5 / 2, 2);
    }

    #[test]
    fn a_cluster_that_is_not_there_has_no_rows() {
        let text = render(&cluster(&[]), Shape::List(Format::Pretty), false);
        assert!(text.starts_with("+ Cluster: batman (uninitialized) "), "{text}");
        assert!(render(&cluster(&[("initialize", "")]), Shape::Topology, false).contains("(initializing)"));
    }

    #[test]
    fn without_a_leader_replicas_still_stand_in_their_tree() {
        let cluster = cluster(&[
            ("members/a", "{}"),
            ("members/b", r#"{"tags":{"replicatefrom":"a"}}"#),
            ("members/x", r#"{"tags":{"replicatefrom":"y"}}"#),
            ("members/y", r#"{"tags":{"replicatefrom":"x"}}"#),
        ]);
        let names: Vec<String> = by_topology(&cluster).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["+ a", "  + b"]);
    }
}
