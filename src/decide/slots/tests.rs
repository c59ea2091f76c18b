//! What is planned for slots, by situation.

use super::*;
use crate::decide::fault::{self, Fault};
use crate::decide::mind::Mind;
use crate::model::{
    Contact, Initialize, Leader, Lease, MemberName, MemberState, Moment, Policy, Position, Postgres,
    SlotPattern, StoreView, Synchrony, SystemId, Tags, Term, Timeline, Timing,
};

const NOW: Moment = Moment::from_ms(10_000_000);
const END: u64 = 0x5000;

fn name(name: &str) -> MemberName {
    name.parse().expect("a good name")
}

fn record(role: MemberRole, lsn: u64, tags: &[(&str, &str)]) -> MemberRecord {
    let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
    MemberRecord {
        conn_url: "postgres://there:5432/postgres".to_owned(),
        role,
        state: MemberState::Running,
        timeline: Some(Timeline(1)),
        xlog_location: Some(Lsn(lsn)),
        tags: Tags(tags),
        ..MemberRecord::default()
    }
}

/// `turku` leads `oulu` and `vaasa`; `me` is one of them.
fn view(me: &str, version: u32) -> View {
    let mut view = Mind::new(name(me), Tags::default(), Policy::default(), true).view().clone();
    view.now = NOW;
    let leader = Leader { name: name("turku"), term: Term(1), session: None };
    let cluster = Cluster {
        initialize: Initialize::Done(SystemId(1)),
        leader: Some(leader),
        members: BTreeMap::from([
            (name("turku"), record(MemberRole::Primary, END, &[])),
            (name("oulu"), record(MemberRole::Replica, 0x4000, &[])),
            (name("vaasa"), record(MemberRole::Replica, 0x4000, &[])),
        ]),
        ..Cluster::default()
    };
    view.store = StoreView { cluster: Some(cluster), contact: Contact::Current };
    let serving = if me == "turku" {
        view.lease =
            Some(Lease { term: Term(1), asked_at: NOW, timing: Timing::for_ttl(Span::from_secs(10)) });
        let position = Position::new(1, END);
        Serving::Primary { position, checkpointed: true, forks: Some(Vec::new()) }
    } else {
        Serving::Standby {
            timeline: Timeline(1),
            received: Some(Lsn(0x4800)),
            replayed: Some(Lsn(0x4800)),
            streaming: true,
            upstream: None,
            forks: None,
            starved: false,
        }
    };
    view.postgres = Postgres::Running(Running {
        system: SystemId(1),
        serving,
        silent_since: None,
        version,
        synchrony: Synchrony::default(),
    });
    view
}

fn cluster(view: &mut View) -> &mut Cluster {
    view.store.cluster.as_mut().expect("it was given one")
}

fn slot(name: &str, restart: u64) -> SlotRow {
    SlotRow { name: name.to_owned(), physical: true, restart: Some(Lsn(restart)), ..SlotRow::default() }
}

fn cdc(confirmed: u64) -> SlotRow {
    SlotRow {
        physical: false,
        plugin: Some("pgoutput".to_owned()),
        database: Some("shop".to_owned()),
        confirmed: Some(Lsn(confirmed)),
        ..slot("cdc", 0x1000)
    }
}

fn keeps_cdc(view: &mut View) {
    let logical = PermanentSlot::Logical { database: "shop".to_owned(), plugin: "pgoutput".to_owned() };
    view.policy.slots.permanent.insert("cdc".to_owned(), logical);
}

fn now(view: &View, present: &[SlotRow]) -> SlotPlan {
    plan(view, present, &mut SlotMemory::default())
}

/// Drops, creations and advances, in a few words.
fn words(plan: &SlotPlan) -> Vec<String> {
    let created = |slot: &NewSlot| match slot {
        NewSlot::Physical { name } => format!("create {name}"),
        NewSlot::Logical { name, copies, .. } => format!("create logical {name} {copies}"),
    };
    let drops = plan.drop.iter().map(|name| format!("drop {name}"));
    let creations = plan.create.iter().map(created);
    let advances = plan.advance.iter().map(|advance| format!("advance {} to {}", advance.name, advance.to));
    let copies = plan.copy.iter().map(|name| format!("copy {name}"));
    let kept = plan.keep_copies.iter().map(|name| format!("keep copies of {name}"));
    drops.chain(creations).chain(advances).chain(copies).chain(kept).collect()
}

fn check(view: &View, present: &[SlotRow], wanted: &[&str]) {
    assert_eq!(words(&now(view, present)), wanted, "{present:?}");
}

#[test]
fn every_member_keeps_a_slot_for_every_other() {
    check(&view("turku", 150_000), &[], &["create oulu", "create vaasa"]);
    check(&view("oulu", 150_000), &[], &["create turku", "create vaasa"]);
    let mut barred = view("oulu", 150_000);
    barred.tags.0.insert("nofailover".to_owned(), true.into());
    check(&barred, &[], &[]);
    let cascaded = record(MemberRole::Replica, 0x4000, &[("replicatefrom", "oulu")]);
    cluster(&mut barred).members.insert(name("vaasa"), cascaded);
    check(&barred, &[], &["create vaasa"]);
    let mut archived = view("turku", 150_000);
    let nostream = record(MemberRole::Replica, 0x4000, &[("nostream", "true")]);
    cluster(&mut archived).members.insert(name("vaasa"), nostream);
    check(&archived, &[], &["create oulu"]);
    let mut off = view("turku", 150_000);
    off.policy.slots.use_slots = false;
    check(&off, &[slot("stranger", 1)], &[]);
}

#[test]
fn without_a_time_to_keep_them_slots_are_only_where_they_are_streamed_from() {
    let mut leader = view("turku", 150_000);
    leader.policy.slots.member_ttl = Span::ZERO;
    let cascaded = record(MemberRole::Replica, 0x4000, &[("replicatefrom", "oulu")]);
    cluster(&mut leader).members.insert(name("vaasa"), cascaded.clone());
    check(&leader, &[], &["create oulu"]);
    let mut source = view("oulu", 150_000);
    source.policy.slots.member_ttl = Span::ZERO;
    cluster(&mut source).members.insert(name("vaasa"), cascaded);
    check(&source, &[slot("turku", 1)], &["drop turku", "create vaasa"]);
}

#[test]
fn an_idle_slot_follows_its_member_and_never_goes_back() {
    let view = view("oulu", 150_000);
    check(&view, &[slot("turku", END), slot("vaasa", 0x3000)], &["advance vaasa to 0/4000"]);
    check(&view, &[slot("turku", END), slot("vaasa", 0x4100)], &[]);
    let active = SlotRow { active: true, ..slot("vaasa", 0x3000) };
    check(&view, &[slot("turku", END), active], &[]);
}

#[test]
fn a_member_that_has_yet_to_rejoin_may_need_everything() {
    let mut view = view("turku", 150_000);
    let former = MemberRecord { timeline: Some(Timeline(7)), ..record(MemberRole::Replica, 0x4fff, &[]) };
    cluster(&mut view).members.insert(name("vaasa"), former);
    check(&view, &[slot("oulu", 0x4000), slot("vaasa", 0x3000)], &[]);
}

#[test]
fn a_slot_that_keeps_nothing_or_the_wrong_thing_is_made_anew() {
    let standby = view("oulu", 150_000);
    let lost = SlotRow { lost: true, ..slot("turku", 1) };
    let empty = SlotRow { restart: None, ..slot("vaasa", 1) };
    check(&standby, &[lost, empty], &["drop turku", "drop vaasa", "create turku", "create vaasa"]);
    let holds = SlotRow { holds_xmin: true, ..slot("vaasa", 0x4000) };
    check(&standby, &[slot("turku", END), holds.clone()], &["drop vaasa", "create vaasa"]);
    // Where the member streams from, what it holds back it needs.
    let mut leader = view("turku", 150_000);
    cluster(&mut leader).status.optime = Some(Lsn(END));
    check(&leader, &[slot("oulu", 0x4000), holds], &[]);
}

#[test]
fn what_nobody_has_asked_for_is_given_time_and_what_was_ours_is_not() {
    let mut view = view("turku", 150_000);
    let ours = [slot("oulu", 0x4000), slot("vaasa", 0x4000)];
    let present = [&ours[..], &[slot("stranger", 1)]].concat();
    let mut memory = SlotMemory::default();
    let first = plan(&view, &present, &mut memory);
    assert!(first.drop.is_empty() && first.warnings.contains_key("stranger"), "{first:?}");
    view.now = NOW + Span::from_secs(29 * 60);
    view.lease = view.lease.map(|lease| Lease { asked_at: view.now, ..lease });
    assert!(plan(&view, &present, &mut memory).drop.is_empty());
    let used = [&ours[..], &[SlotRow { active: true, ..slot("stranger", 1) }]].concat();
    assert!(plan(&view, &used, &mut memory).drop.is_empty(), "its time begins anew");
    view.now = NOW + Span::from_secs(31 * 60);
    view.lease = view.lease.map(|lease| Lease { asked_at: view.now, ..lease });
    assert!(plan(&view, &present, &mut memory).drop.is_empty());
    view.now = NOW + Span::from_secs(61 * 60);
    view.lease = view.lease.map(|lease| Lease { asked_at: view.now, ..lease });
    assert_eq!(plan(&view, &present, &mut memory).drop, ["stranger"]);
    // A member's slot, once its time is over, and one of this member's own name.
    cluster(&mut view).members.remove(&name("vaasa"));
    let own = [&ours[..], &[slot("turku", 1)]].concat();
    assert_eq!(plan(&view, &own, &mut memory).drop, ["vaasa", "turku"]);
    view.policy.pause = true;
    assert!(plan(&view, &own, &mut memory).drop.is_empty());
    view.policy.pause = false;
    let pattern = SlotPattern { physical: Some(true), ..SlotPattern::default() };
    view.policy.slots.ignored = vec![pattern];
    assert!(plan(&view, &own, &mut memory).drop.is_empty());
}

#[test]
fn a_permanent_slot_is_where_its_consumer_can_go_next() {
    let mut standby = view("oulu", 150_000);
    let any = PermanentSlot::Physical { cluster: SlotCluster::Any };
    let here = PermanentSlot::Physical { cluster: SlotCluster::Standby };
    let slots = [("keep", any), ("site", here)].map(|(name, slot)| (name.to_owned(), slot));
    standby.policy.slots.permanent = slots.into();
    cluster(&mut standby).status.slots.insert("keep".to_owned(), Lsn(0x2000));
    let members = [slot("turku", END), slot("vaasa", 0x4000)];
    check(&standby, &members, &["create keep"]);
    let behind = [&members[..], &[slot("keep", 0x1000)]].concat();
    check(&standby, &behind, &["advance keep to 0/2000"]);
    standby.tags.0.insert("nofailover".to_owned(), true.into());
    check(&standby, &[], &[]);
}

#[test]
fn a_logical_slot_is_made_on_the_primary_and_taken_to_the_standbys() {
    let members = |name: &str| if name == "turku" { ["oulu", "vaasa"] } else { ["turku", "vaasa"] };
    let with = |me: &str, version: u32, told: Option<u64>, cdc: Option<SlotRow>, wanted: &[&str]| {
        let mut view = view(me, version);
        keeps_cdc(&mut view);
        if let Some(told) = told {
            cluster(&mut view).status.slots.insert("cdc".to_owned(), Lsn(told));
        }
        let mut present: Vec<SlotRow> = members(me).map(|name| slot(name, END)).into();
        present.extend(cdc);
        check(&view, &present, wanted);
    };
    with("turku", 150_000, None, None, &["create logical cdc false"]);
    with("turku", 170_000, None, None, &["create logical cdc true"]);
    with("turku", 150_000, None, Some(cdc(0x2000)), &[]);
    with("turku", 170_000, None, Some(cdc(0x2000)), &["keep copies of cdc"]);
    let other = SlotRow { plugin: Some("wal2json".to_owned()), ..cdc(0x2000) };
    with("turku", 150_000, None, Some(other), &["drop cdc", "create logical cdc false"]);
    with("oulu", 150_000, None, None, &[]);
    with("oulu", 150_000, Some(0x2000), None, &["copy cdc"]);
    with("oulu", 170_000, Some(0x2000), None, &[]);
    with("oulu", 150_000, Some(0x3000), Some(cdc(0x2000)), &["advance cdc to 0/3000"]);
    with("oulu", 150_000, Some(0x4900), Some(cdc(0x2000)), &["advance cdc to 0/4800"]);
    let copied = SlotRow { failover: true, ..cdc(0x2000) };
    with("oulu", 170_000, Some(0x3000), Some(copied), &[]);
}

#[test]
fn nothing_is_done_where_too_little_is_known() {
    let mut cut_off = view("oulu", 150_000);
    cut_off.store.contact = Contact::Silent { since: NOW };
    check(&cut_off, &[slot("x", 1)], &[]);
    let mut vacant = view("oulu", 150_000);
    cluster(&mut vacant).leader = None;
    check(&vacant, &[], &[]);
    let mut dethroned = view("turku", 150_000);
    dethroned.lease = None;
    check(&dethroned, &[], &[]);
}

#[test]
fn a_slot_that_keeps_much_is_warned_about() {
    let mut view = view("turku", 150_000);
    if let Postgres::Running(running) = &mut view.postgres {
        let position = Position::new(1, 5 << 30);
        running.serving = Serving::Primary { position, checkpointed: true, forks: None };
    }
    let keeps = |safe| SlotRow { safe_bytes: Some(safe), ..slot("oulu", 1 << 30) };
    let warned = |safe| now(&view, &[keeps(safe), slot("vaasa", 5 << 30)]).warnings;
    assert!(warned(5 << 30).is_empty());
    let told = warned(3 << 30);
    assert!(told["oulu"].contains("keeps 4096 MB of WAL; after 3072 MB more"), "{told:?}");
}

fn after_leaving(ttl: Span, gone_for: Span, leads: bool, told: &[&str]) -> Vec<String> {
    let mut view = view(if leads { "turku" } else { "oulu" }, 150_000);
    view.policy.slots.member_ttl = ttl;
    let mut later = view.store.cluster.clone().expect("it was given one");
    later.members.remove(&name("vaasa"));
    later.status.retain_slots = told.iter().map(|name| (*name).to_owned()).collect();
    remember_members(&mut view, &later);
    view.store.cluster = Some(later.clone());
    view.now = NOW + gone_for;
    remember_members(&mut view, &later);
    view.memory.member_slots.into_keys().collect()
}

#[test]
fn the_slot_of_a_member_that_has_gone_is_kept_for_a_while() {
    let ttl = Span::from_secs(60);
    let check = |gone: u64, leads, told: &[&str], kept: &[&str]| {
        assert_eq!(after_leaving(ttl, Span::from_secs(gone), leads, told), kept, "{gone} {leads} {told:?}");
    };
    check(59, true, &[], &["oulu", "vaasa"]);
    check(61, true, &[], &["oulu"]);
    check(61, true, &["vaasa"], &["oulu"]);
    // Whoever does not lead goes by the leader's word.
    check(61, false, &["vaasa", "oulu"], &["turku", "vaasa"]);
    check(61, false, &[], &["turku"]);
    let kept = || after_leaving(ttl, Span::from_secs(61), true, &[]);
    assert_ne!(fault::with(Fault::KeepsSlotsForEver, kept), kept());
}

#[test]
fn a_leader_tells_how_far_its_slots_have_come() {
    let mut view = view("turku", 150_000);
    keeps_cdc(&mut view);
    view.memory.member_slots = [("oulu".to_owned(), NOW), ("gone".to_owned(), NOW)].into();
    let present = [slot("oulu", 0x4000), slot("stranger", 1), cdc(0x2000)];
    let (slots, retained) = told(&view, &present, Lsn(END));
    let wanted = [("cdc", 0x2000), ("oulu", 0x4000), ("turku", END)];
    assert_eq!(slots, wanted.map(|(name, at)| (name.to_owned(), Lsn(at))).into());
    assert_eq!(retained, ["gone", "oulu", "turku"]);
    view.policy.slots.member_ttl = Span::ZERO;
    let (slots, retained) = told(&view, &present, Lsn(END));
    assert_eq!((slots.len(), retained.len()), (2, 0));
}
