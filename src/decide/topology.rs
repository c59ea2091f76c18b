//! Whom a standby replicates from: the leader, the member that its tag `replicatefrom` names, or nobody. Whom the leader of
//! a standby cluster replicates from is `standby_cluster`'s business.

use std::collections::BTreeSet;

use super::fault::{self, Fault};
use crate::model::{
    Address, Cluster, Descent, Lsn, MemberName, MemberRecord, MemberRole, MemberState, Rule, Tags, View,
};

/// Where WAL comes from, and why from there.
pub(super) struct Source<'a> {
    /// None where it comes from the archive alone.
    pub member: Option<&'a MemberName>,
    /// `None` as well while the member has not said where it is.
    pub address: Option<Address>,
    /// How it is told that this member replicates from there, and that it begins to.
    pub stays: Rule,
    pub turns: Rule,
}

/// What this member replicates from while `leader` leads.
pub(super) fn source<'a>(view: &'a View, cluster: &'a Cluster, leader: &'a MemberName) -> Source<'a> {
    if view.tags.nostream() {
        let (stays, turns) = (Rule::FollowsArchive, Rule::TurnsToArchive);
        return Source { member: None, address: None, stays, turns };
    }
    let address = |member| cluster.members.get(member).and_then(MemberRecord::address);
    let named = named_by(&view.tags, &view.me, cluster, leader);
    match named {
        Some(member) if is_usable(view, cluster, leader, member) => Source {
            member: Some(member),
            address: address(member),
            stays: Rule::FollowsSource,
            turns: Rule::TurnsToSource,
        },
        Some(_) => Source {
            member: Some(leader),
            address: address(leader),
            stays: Rule::FollowsInstead,
            turns: Rule::FollowsNewLeader,
        },
        None if names_somebody_unknown(view, cluster) => Source {
            member: Some(leader),
            address: address(leader),
            stays: Rule::FollowsInstead,
            turns: Rule::FollowsNewLeader,
        },
        None => Source {
            member: Some(leader),
            address: address(leader),
            stays: Rule::FollowsLeader,
            turns: Rule::FollowsNewLeader,
        },
    }
}

/// Would `member` replicate from here, if everything went as its tags say?
pub(super) fn is_expected_here(view: &View, cluster: &Cluster, member: &MemberName) -> bool {
    let Some(leader) = cluster.leader_name() else { return false };
    let Some(tags) = cluster.members.get(member).map(|record| &record.tags) else { return false };
    if tags.nostream() || member == leader {
        return false;
    }
    let source = named_by(tags, member, cluster, leader).unwrap_or(leader);
    *source == view.me
}

/// The member that the tag names, if that is another one than the leader and the member itself, and is there.
fn named_by<'a>(
    tags: &Tags,
    member: &MemberName,
    cluster: &'a Cluster,
    leader: &MemberName,
) -> Option<&'a MemberName> {
    let named = tags.replicatefrom()?;
    let (named, _) = cluster.members.iter().find(|(name, _)| name.as_str() == named)?;
    (named != member && named != leader).then_some(named)
}

fn names_somebody_unknown(view: &View, cluster: &Cluster) -> bool {
    let named = view.tags.replicatefrom();
    named.is_some_and(|named| !cluster.members.keys().any(|name| name.as_str() == named))
}

/// A standby that runs, is on the leader's lineage, and gets WAL itself or at least misses little of it.
fn is_usable(view: &View, cluster: &Cluster, leader: &MemberName, source: &MemberName) -> bool {
    let Some(record) = cluster.members.get(source) else { return false };
    let runs = record.state == MemberState::Running && record.role == MemberRole::Replica;
    let position = record.position();
    let behind = |lsn: Lsn| lsn.lag_behind(cluster.status.optime.unwrap_or(lsn)).0;
    let keeps_up = position.is_some_and(|position| behind(position.lsn) <= view.policy.lag_bytes_max);
    let streams = record.replication_state.as_deref() == Some("streaming");
    let strays = match (cluster.lineage(), position) {
        (Some(lineage), Some(position)) => lineage.descent_of(position) == Descent::Diverged,
        (Some(_) | None, _) => false,
    };
    (runs && (streams || keeps_up) && !strays && !leaves_loop(view, cluster, leader))
        || fault::active(Fault::CascadesFromAnybody)
}

/// The tags lead back to this member. Whoever comes first in such a loop follows the leader; the others are right then.
fn leaves_loop(view: &View, cluster: &Cluster, leader: &MemberName) -> bool {
    if fault::active(Fault::CascadesInCircles) {
        return false;
    }
    let mut passed = BTreeSet::from([&view.me]);
    let mut at = named_by(&view.tags, &view.me, cluster, leader);
    while let Some(member) = at {
        if *member == view.me {
            return passed.first() == Some(&&view.me);
        }
        if !passed.insert(member) {
            return false;
        }
        at = cluster.members.get(member).and_then(|record| named_by(&record.tags, member, cluster, leader));
    }
    false
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::decide::mind::Mind;
    use crate::model::{Contact, Leader, Policy, StoreView, Term, Timeline};

    fn name(name: &str) -> MemberName {
        name.parse().expect("a good name")
    }

    fn record(host: &str, role: MemberRole, source: &str) -> MemberRecord {
        let mut tags = Tags::default();
        if !source.is_empty() {
            tags.0.insert("replicatefrom".to_owned(), source.into());
        }
        MemberRecord {
            conn_url: format!("postgres://{host}:5432/postgres"),
            role,
            state: MemberState::Running,
            timeline: Some(Timeline(1)),
            xlog_location: Some(Lsn(0x5000)),
            replication_state: Some("streaming".to_owned()),
            tags,
            ..MemberRecord::default()
        }
    }

    /// `turku` leads; of the others each is told whom to replicate from.
    fn view(me: &str, sources: &[(&str, &str)]) -> View {
        let mut members = BTreeMap::from([(name("turku"), record("turku", MemberRole::Primary, ""))]);
        for (member, source) in sources {
            members.insert(name(member), record(member, MemberRole::Replica, source));
        }
        let cluster = Cluster {
            leader: Some(Leader { name: name("turku"), term: Term(1), session: None }),
            members,
            ..Cluster::default()
        };
        let tags = cluster.members[&name(me)].tags.clone();
        let mut view = Mind::new(name(me), tags, Policy::default(), true).view().clone();
        view.store = StoreView { cluster: Some(cluster), contact: Contact::Current };
        view
    }

    fn found(view: &View) -> (String, Rule) {
        let cluster = view.cluster().expect("it was given one");
        let leader = name("turku");
        let source = source(view, cluster, &leader);
        (source.address.map_or_else(String::new, |address| address.host), source.stays)
    }

    fn check(me: &str, sources: &[(&str, &str)], from: &str, rule: Rule) {
        assert_eq!(found(&view(me, sources)), (from.to_owned(), rule), "{me} {sources:?}");
    }

    #[test]
    fn a_tag_that_leads_nowhere_leads_to_the_leader() {
        check("oulu", &[("oulu", "")], "turku", Rule::FollowsLeader);
        check("oulu", &[("oulu", "turku")], "turku", Rule::FollowsLeader);
        check("oulu", &[("oulu", "oulu")], "turku", Rule::FollowsLeader);
        check("oulu", &[("oulu", "nobody")], "turku", Rule::FollowsInstead);
        check("oulu", &[("oulu", "vaasa"), ("vaasa", "")], "vaasa", Rule::FollowsSource);
    }

    #[test]
    fn in_a_circle_exactly_one_follows_the_leader() {
        let circle = [("oulu", "vaasa"), ("vaasa", "kotka"), ("kotka", "oulu"), ("salo", "oulu")];
        check("kotka", &circle, "turku", Rule::FollowsInstead);
        check("oulu", &circle, "vaasa", Rule::FollowsSource);
        check("vaasa", &circle, "kotka", Rule::FollowsSource);
        check("salo", &circle, "oulu", Rule::FollowsSource);
        let circles = || found(&view("kotka", &circle)).0;
        assert_eq!(fault::with(Fault::CascadesInCircles, circles), "oulu");
    }

    #[test]
    fn a_source_must_run_and_keep_up() {
        let with = |change: &dyn Fn(&mut MemberRecord)| {
            let mut view = view("oulu", &[("oulu", "vaasa"), ("vaasa", "")]);
            let cluster = view.store.cluster.as_mut().expect("it was given one");
            cluster.status.optime = Some(Lsn(0x5000 + (2 << 20)));
            change(cluster.members.get_mut(&name("vaasa")).expect("it is there"));
            found(&view).0
        };
        assert_eq!(with(&|_| {}), "vaasa");
        let down = |record: &mut MemberRecord| record.state = MemberState::Stopped;
        assert_eq!(with(&down), "turku");
        assert_eq!(with(&|record| record.role = MemberRole::Primary), "turku");
        let alone = |record: &mut MemberRecord| record.replication_state = None;
        assert_eq!(with(&alone), "turku", "it misses two megabytes and gets no more");
        let near = |record: &mut MemberRecord| {
            alone(record);
            record.xlog_location = Some(Lsn(0x5000 + (2 << 20)));
        };
        assert_eq!(with(&near), "vaasa", "after a failover it will stream again in a moment");
        assert_eq!(with(&|record| record.timeline = Some(Timeline(9))), "turku", "it has diverged");
        assert_eq!(fault::with(Fault::CascadesFromAnybody, || with(&down)), "vaasa");
    }

    #[test]
    fn who_takes_wal_from_the_archive_follows_nobody() {
        let mut view = view("oulu", &[("oulu", "vaasa"), ("vaasa", "")]);
        view.tags.0.insert("nostream".to_owned(), true.into());
        assert_eq!(found(&view), (String::new(), Rule::FollowsArchive));
    }

    #[test]
    fn a_member_is_expected_where_its_tag_leads() {
        let view = view("oulu", &[("oulu", ""), ("vaasa", "oulu"), ("kotka", "")]);
        let cluster = view.cluster().expect("it was given one");
        let expected = |member: &str| is_expected_here(&view, cluster, &name(member));
        assert!(expected("vaasa") && !expected("kotka") && !expected("turku") && !expected("nobody"));
    }
}
