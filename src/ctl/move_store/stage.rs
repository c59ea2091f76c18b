//! How far a cluster is on its way from one store to another, judged anew each time from what stands in both: so a command
//! that was interrupted goes on where it was, whoever runs it again.

use std::collections::{BTreeMap, BTreeSet};

use crate::ctl::cluster::Cluster;
use crate::store::format::Key;
use crate::store::kv::Entry;
use crate::store::{Cargo, Store};

/// One of the two stores, as it was read.
#[derive(Clone, Debug, Default)]
pub struct Side {
    pub cluster: Cluster,
    pub cargo: Cargo,
    pub entries: Vec<Entry>,
    /// A leader key that hangs on no session never goes away.
    leader_on_session: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Office<'a> {
    Vacant,
    Led(&'a str),
    /// The key belongs to no session.
    Sealed(&'a str),
}

/// What is to be done, or waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// What the cluster knows is to be copied, or copied again.
    Copy,
    /// These members have not come to the new store yet. The leader comes last.
    Members {
        standbys: BTreeSet<String>,
        leader: Option<String>,
    },
    /// Somebody leads in the new store; the lease in the old one, which nobody renews any more, has not run out.
    OldLease,
    /// Nobody can lead in the old store, and nobody ever shall.
    Seal {
        leader: String,
    },
    Done {
        leader: String,
    },
}

/// A mistake that must be mended first, and what may be typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    pub sentence: String,
    pub hint: String,
}

pub fn judge(scope: &str, old: &Side, new: &Side) -> Result<Stage, Obstacle> {
    same_cluster(scope, old, new)?;
    let missing: BTreeSet<String> =
        old.names().difference(&new.names()).map(|name| (*name).to_owned()).collect();
    match (old.office(), new.office()) {
        (Office::Led(one), Office::Led(other)) if one != other => Err(obstacle(
            format!("{one} leads in the old store and {other} in the new one"),
            "find out with `tenurectl list` on both which of them accepts writes, and stop the other one's agent",
        )),
        (Office::Led(leader), Office::Led(_)) if !new.cluster.is_paused() => Err(obstacle(
            format!("{leader} leads in the new store already, where nothing has been copied to"),
            "give its agent the old store again, and remove the cluster from the new one",
        )),
        (old_office, Office::Led(leader)) => Ok(if missing.is_empty() {
            match old_office {
                Office::Led(_) => Stage::OldLease,
                Office::Vacant => Stage::Seal { leader: leader.to_owned() },
                Office::Sealed(_) => Stage::Done { leader: leader.to_owned() },
            }
        } else {
            Stage::Members { standbys: missing, leader: None }
        }),
        (Office::Sealed(leader), Office::Vacant | Office::Sealed(_)) => Err(obstacle(
            format!("the old store is sealed: {leader} has left it for another one"),
            format!(
                "ask the store that the members use now, or remove what is left: tenurectl remove {scope}"
            ),
        )),
        (office @ (Office::Led(_) | Office::Vacant), Office::Vacant | Office::Sealed(_)) => {
            let begun = old.cargo.get("initialize") == new.cargo.get("initialize")
                && !matches!(new.office(), Office::Sealed(_));
            if !begun {
                fit_to_begin(scope, old, office)?;
            }
            untouched(scope, old)?;
            if !begun || old.cargo != new.cargo {
                return Ok(Stage::Copy);
            }
            let leader = match office {
                Office::Led(leader) => Some(leader.to_owned()),
                Office::Vacant | Office::Sealed(_) => None,
            };
            let standbys = missing.into_iter().filter(|name| Some(name) != leader.as_ref()).collect();
            Ok(Stage::Members { standbys, leader })
        }
    }
}

fn same_cluster(scope: &str, old: &Side, new: &Side) -> Result<(), Obstacle> {
    if !old.entries.is_empty() && old.entries == new.entries {
        let hint = "name the new store with --to, and the old one with -c or -d";
        return Err(obstacle("both are the same store", hint));
    }
    let identity = |side: &Side| side.cluster.initialize.clone().filter(|text| !text.is_empty());
    match (identity(old), identity(new)) {
        (None, _) => Err(obstacle(
            format!("there is no cluster {scope} in the old store"),
            "name the store that its members use with -c FILE or -d URL",
        )),
        (Some(here), Some(there)) if here != there => Err(obstacle(
            format!("another cluster {scope} ({there}) is in the new store; this one is {here}"),
            format!("if nobody needs it: tenurectl -c NEW.yml remove {scope}"),
        )),
        (Some(_), _) if new.cluster.initialize.as_deref() == Some("") => Err(obstacle(
            format!("somebody is making a cluster {scope} in the new store"),
            "an agent was given the new store too early: give it the old one again",
        )),
        (Some(_), _) => Ok(()),
    }
}

/// What must hold until somebody leads in the new store.
fn untouched(scope: &str, old: &Side) -> Result<(), Obstacle> {
    if !old.cluster.is_paused() {
        return Err(obstacle(
            format!("the cluster {scope} is not in maintenance mode"),
            format!("tenurectl pause {scope} --wait"),
        ));
    }
    if old.cluster.failover.as_ref().is_some_and(|request| !request.value.is_empty()) {
        return Err(obstacle(
            "somebody has asked for another leader",
            format!("wait for it, or: tenurectl flush {scope} switchover"),
        ));
    }
    Ok(())
}

/// What must hold besides when nothing has been copied yet.
fn fit_to_begin(scope: &str, old: &Side, office: Office<'_>) -> Result<(), Obstacle> {
    untouched(scope, old)?;
    let hint = format!("look with `tenurectl list {scope}`");
    let Office::Led(_) = office else {
        return Err(obstacle(format!("nobody leads the cluster {scope}"), hint));
    };
    if !old.cargo.contains_key("config") {
        return Err(obstacle(format!("the cluster {scope} has no configuration in the old store"), hint));
    }
    let unaware: Vec<&str> =
        old.cluster.members.iter().filter(|m| !m.is_on("pause")).map(|m| m.name.as_str()).collect();
    if unaware.is_empty() {
        return Ok(());
    }
    let sentence = format!("not yet in maintenance mode: {}", unaware.join(", "));
    Err(obstacle(sentence, format!("wait a moment, or {hint}")))
}

impl Side {
    pub fn of(scope: &str, store: &Store, entries: Vec<Entry>) -> Side {
        let leader = store.place().path(&Key::Leader);
        let on_session = |entry: &Entry| entry.path == leader && entry.session.is_some();
        Side {
            cluster: Cluster::read(scope, store.place(), &entries),
            cargo: store.cargo(&entries),
            leader_on_session: entries.iter().any(on_session),
            entries,
        }
    }

    fn office(&self) -> Office<'_> {
        let Some(name) = &self.cluster.leader else { return Office::Vacant };
        if self.leader_on_session { Office::Led(name) } else { Office::Sealed(name) }
    }

    fn names(&self) -> BTreeSet<&str> {
        self.cluster.members.iter().map(|member| member.name.as_str()).collect()
    }

    /// For people: what is copied, by name.
    pub fn cargo_told(&self) -> String {
        let sizes: BTreeMap<&str, usize> =
            self.cargo.iter().map(|(key, value)| (*key, value.len())).collect();
        let all: Vec<String> = sizes.iter().map(|(key, size)| format!("{key} ({size} bytes)")).collect();
        all.join(", ")
    }
}

fn obstacle(sentence: impl Into<String>, hint: impl Into<String>) -> Obstacle {
    Obstacle { sentence: sentence.into(), hint: hint.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SessionId;
    use crate::store::{AdapterSettings, CARGO, Memory, StoreSettings};

    const PAUSED: &str = r#"{"ttl":30,"pause":true}"#;
    const MEMBER: &str = r#"{"conn_url":"postgres://a/x","state":"running","pause":true}"#;

    /// From lines such as `leader=a` and, of a session, `leader@a`.
    fn side(lines: &[&str]) -> Side {
        let memory = AdapterSettings::Memory(Memory::new());
        let (namespace, scope) = ("/service".to_owned(), "lab".to_owned());
        let store = Store::connect(&StoreSettings { namespace, scope, adapter: memory });
        let entry = |(at, line): (usize, &&str)| {
            let (key, session, value) = match line.split_once('@') {
                Some((key, value)) if !key.contains('=') => (key, Some(SessionId(7)), value),
                Some(_) | None => {
                    let (key, value) = line.split_once('=').expect("key and value");
                    (key, None, value)
                }
            };
            let version = i64::try_from(at).expect("a few") + 1;
            let path = format!("/service/lab/{key}");
            Entry { path, value: value.as_bytes().to_vec(), created: version, version, session }
        };
        let entries: Vec<Entry> = lines.iter().enumerate().map(entry).collect();
        Side::of("lab", &store, entries)
    }

    fn config(text: &str) -> String {
        format!("config={text}")
    }

    fn member(name: &str) -> String {
        format!("members/{name}@{MEMBER}")
    }

    fn with(lines: &[&str], more: &[&str]) -> Side {
        side(&[lines, more].concat())
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_cluster_goes_from_stage_to_stage() {
        let (config, a, b) = (config(PAUSED), member("a"), member("b"));
        let known = ["initialize=7", config.as_str(), "status={}"];
        let whole = with(&known, &["leader@a", &a, &b]);
        let check = |old: &Side, new: &Side, stage: Stage| assert_eq!(judge("lab", old, new), Ok(stage));
        let await_members = |standbys: &[&str], leader: Option<&str>| Stage::Members {
            standbys: names(standbys),
            leader: leader.map(str::to_owned),
        };
        check(&whole, &side(&[]), Stage::Copy);
        // The leader goes on writing its position until it leaves.
        check(&whole, &with(&known[..2], &["status={\"optime\":1}"]), Stage::Copy);
        check(&whole, &side(&known), await_members(&["b"], Some("a")));
        check(&whole, &with(&known, &[&b]), await_members(&[], Some("a")));
        let leaderless = with(&known, &[&a]);
        check(&leaderless, &with(&known, &[&b]), await_members(&["a"], None));
        let moved = with(&known, &["leader@a", &a, &b]);
        check(&with(&known, &["leader@a", &a]), &moved, Stage::OldLease);
        check(&with(&known, &["leader@a", &a, &b, &member("c")]), &moved, await_members(&["c"], None));
        check(&side(&known), &moved, Stage::Seal { leader: "a".to_owned() });
        check(&with(&known, &["leader=a"]), &moved, Stage::Done { leader: "a".to_owned() });
    }

    #[test]
    fn a_cluster_that_comes_back_breaks_the_seal_of_its_former_store() {
        let (config, a) = (config(PAUSED), member("a"));
        let known = ["initialize=7", config.as_str()];
        let whole = with(&known, &["leader@a", &a]);
        assert_eq!(judge("lab", &whole, &with(&known, &["leader=a"])), Ok(Stage::Copy));
    }

    #[test]
    fn what_must_be_mended_first_is_named() {
        let (paused, a) = (config(PAUSED), member("a"));
        let whole = side(&["initialize=7", &paused, "leader@a", &a]);
        let awake = side(&["initialize=7", "config={}", "leader@a", &a]);
        let unaware = side(&["initialize=7", &paused, "leader@a", "members/a@{}"]);
        let wish = r#"failover={"leader":"a","member":"b"}"#;
        let asked = side(&["initialize=7", &paused, "leader@a", &a, wish]);
        let check = |old: &Side, new: &Side, part: &str| {
            let obstacle = judge("lab", old, new).expect_err(part);
            assert!(obstacle.sentence.contains(part), "{obstacle:?}");
        };
        let empty = side(&[]);
        check(&whole, &whole, "the same store");
        check(&empty, &whole, "there is no cluster lab in the old store");
        check(&whole, &side(&["initialize=8"]), "another cluster lab (8)");
        check(&whole, &side(&["initialize="]), "somebody is making a cluster");
        check(&awake, &empty, "is not in maintenance mode");
        check(&unaware, &empty, "not yet in maintenance mode: a");
        check(&asked, &empty, "somebody has asked for another leader");
        check(&side(&["initialize=7", &paused, &a]), &empty, "nobody leads");
        check(&side(&["initialize=7", &paused, "leader=a"]), &empty, "sealed");
        check(
            &whole,
            &side(&["initialize=7", &paused, "leader@b"]),
            "a leads in the old store and b in the new one",
        );
        check(&whole, &side(&["initialize=7", "config={}", "leader@a"]), "nothing has been copied to");
    }

    #[test]
    fn every_key_that_outlives_the_agents_is_cargo() {
        let all = CARGO.iter().map(|key| match key {
            Key::Initialize
            | Key::Config
            | Key::History
            | Key::Status
            | Key::Sync
            | Key::Failsafe
            | Key::Claim
            | Key::Intents
            | Key::Successions => 1,
            Key::Leader | Key::Member(_) | Key::LegacyOptime | Key::Failover => 0,
        });
        assert_eq!(all.sum::<i32>(), 9);
    }
}
