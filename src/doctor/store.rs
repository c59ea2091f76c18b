//! The store and the timing: how many servers, which of them answer, how fast, and what that means for the lease.

use super::{Check, Facts, Finding, RoundTrips, ServerState, StoreFacts, StoreServer, Ward, bytes, listed};
use crate::model::{Moment, Span};

/// A server may lag by so many changes while it catches up with what is written right now.
const STALE_AFTER: u64 = 1_000;
/// etcd's quota where nobody has set another.
const USUAL_QUOTA: u64 = 2 << 30;

pub fn examine(facts: &Facts, ward: &mut Ward) {
    ward.check(
        Check::TimingRefused,
        facts.timing_refused.as_ref().map(|why| Finding::of(Check::TimingRefused, why.clone())),
    );
    let store = match &facts.store {
        Ok(store) => store,
        Err(why) => return ward.find(Finding::of(Check::StoreSilent, why.clone())),
    };
    ward.made(Check::StoreSilent);
    servers(facts, store, ward);
    timing(facts, store, ward);
    speed(facts, store, ward);
}

fn servers(facts: &Facts, store: &StoreFacts, ward: &mut Ward) {
    let answering: Vec<(&StoreServer, &ServerState)> =
        store.servers.iter().filter_map(|server| Some((server, server.state.as_ref().ok()?))).collect();
    ward.made(Check::StoreServerDown);
    for server in &store.servers {
        if let Err(why) = &server.state {
            ward.find(Finding::of(Check::StoreServerDown, format!("{}: {why}", server.name)));
        }
    }
    let newest = answering.iter().filter_map(|(_, state)| state.index).max();
    if let Some(newest) = newest {
        ward.made(Check::StoreServerStale);
        for (server, state) in &answering {
            let behind = newest.saturating_sub(state.index.unwrap_or(newest));
            if STALE_AFTER < behind {
                let measured = format!("{} is {behind} changes behind", server.name);
                ward.find(Finding::of(Check::StoreServerStale, measured));
            }
        }
    }
    let voters = store.voters.unwrap_or(store.servers.len());
    let told = if store.voters.is_some() { "of the store" } else { "in the settings" };
    let counted = format!("{voters} servers {told}");
    ward.check(Check::StoreAlone, (voters == 1).then(|| Finding::of(Check::StoreAlone, "1 server")));
    let even = voters > 0 && voters.is_multiple_of(2);
    ward.check(Check::StoreEven, even.then(|| Finding::of(Check::StoreEven, counted.clone())));
    let few = store.servers.len() < voters;
    let named = || format!("{counted}, {} in the settings that were read here", store.servers.len());
    ward.check(Check::StoreFewConfigured, few.then(|| Finding::of(Check::StoreFewConfigured, named())));
    ward.made(Check::StoreAlarm);
    ward.made(Check::StoreFilling);
    for (server, state) in &answering {
        if !state.alarms.is_empty() {
            let alarms = listed(state.alarms.iter().map(String::as_str));
            ward.find(Finding::of(Check::StoreAlarm, format!("{}: {alarms}", server.name)));
        }
        let quota = state.quota_bytes.unwrap_or(USUAL_QUOTA);
        if let Some(used) = state.used_bytes.filter(|used| quota / 5 * 4 < *used) {
            let usual = if state.quota_bytes.is_none() { ", unless another was set" } else { "" };
            let measured = format!("{}: {} of {}{usual}", server.name, bytes(used), bytes(quota));
            ward.find(Finding::of(Check::StoreFilling, measured));
        }
    }
    beside_the_primary(facts, &answering, ward);
}

fn beside_the_primary(facts: &Facts, answering: &[(&StoreServer, &ServerState)], ward: &mut Ward) {
    let Some((server, _)) = answering.iter().find(|(_, state)| state.leads) else { return };
    let leader = facts.members.iter().find(|member| Some(&member.name) == facts.leader.as_ref());
    // The only server leads wherever it stands.
    let Some(leader) = leader.filter(|_| answering.len() > 1) else { return };
    let shared =
        !server.addresses.is_disjoint(&leader.addresses) || Some(&server.host) == leader.host.as_ref();
    let measured =
        || format!("{} leads the store, and {} the cluster, at one address", server.name, leader.name);
    ward.check(
        Check::StoreLeaderWithPrimary,
        shared.then(|| Finding::of(Check::StoreLeaderWithPrimary, measured()).about(&leader.name)),
    );
}

fn timing(facts: &Facts, store: &StoreFacts, ward: &mut Ward) {
    let Some(shortest) = store.shortest_lease else { return };
    let ttl = facts.timing.ttl;
    let longest = store.longest_lease;
    let found = if ttl < store.shortest_useful {
        Some(format!(
            "ttl is {ttl}; {} is used, since less is too short for this store",
            store.shortest_useful
        ))
    } else if ttl < shortest {
        Some(format!("ttl is {ttl}, the store's shortest lease {shortest}"))
    } else {
        longest
            .filter(|longest| *longest < ttl)
            .map(|longest| format!("ttl is {ttl}, the store's longest lease {longest}"))
    };
    ward.check(Check::TimingNotGranted, found.map(|measured| Finding::of(Check::TimingNotGranted, measured)));
    // etcd's shortest lease is one and a half times its election timeout, which is about what an election takes.
    let survives = facts.timing.demote_at(Moment::default()).since(Moment::default());
    let needed = shortest + facts.timing.renew_every;
    let measured = || {
        format!(
            "an election takes up to about {shortest}, a renewal may be {} old when it begins, and a leader steps down {survives} \
             after its last renewal",
            facts.timing.renew_every
        )
    };
    ward.check(
        Check::TimingElection,
        (survives < needed && shortest <= ttl).then(|| Finding::of(Check::TimingElection, measured())),
    );
}

fn speed(facts: &Facts, store: &StoreFacts, ward: &mut Ward) {
    let most = facts.timing.renew_every.scaled(1, 4);
    if let Some(finding) = store.round_trips.and_then(|trips| slow(trips, most)) {
        ward.find(Finding::of(Check::StoreSlow, format!("from here {finding}")));
    }
    for member in &facts.members {
        let Some(trips) = member.host_facts().and_then(|host| host.store) else { continue };
        ward.check(
            Check::StoreSlow,
            slow(trips, most).map(|found| Finding::of(Check::StoreSlow, found).about(&member.name)),
        );
    }
}

fn slow(trips: RoundTrips, most: Span) -> Option<String> {
    let write = trips.write.unwrap_or_default();
    let is_slow = most < trips.read.max(write);
    let written = trips.write.map(|write| format!(", a write {write}")).unwrap_or_default();
    is_slow.then(|| format!("a read takes {}{written}; {most} leaves room for what fails", trips.read))
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{finds, finds_nothing, healthy};
    use super::*;

    fn state(facts: &mut Facts, server: usize) -> &mut ServerState {
        facts.store.as_mut().expect("known").servers[server].state.as_mut().expect("known")
    }

    fn store(facts: &mut Facts) -> &mut StoreFacts {
        facts.store.as_mut().expect("known")
    }

    #[test]
    fn a_store_that_does_not_answer_is_an_error() {
        finds(|facts| facts.store = Err("no answer".to_owned()), &[(Check::StoreSilent, "", "no answer")]);
    }

    #[test]
    fn servers_are_counted_and_compared() {
        finds(
            |facts| store(facts).voters = Some(4),
            &[
                (Check::StoreEven, "", "4 servers of the store"),
                (Check::StoreFewConfigured, "", "4 servers of the store, 3 in the settings"),
            ],
        );
        finds(
            |facts| {
                store(facts).voters = Some(1);
                store(facts).servers.truncate(1);
            },
            &[(Check::StoreAlone, "", "1 server")],
        );
        let down = |facts: &mut Facts| store(facts).servers[1].state = Err("no answer".to_owned());
        finds(down, &[(Check::StoreServerDown, "", "http://10.0.1.2:2379: no answer")]);
        finds(
            |facts| state(facts, 2).index = Some(10),
            &[(Check::StoreServerStale, "", "is 4990 changes behind")],
        );
        finds_nothing(|facts| state(facts, 2).index = Some(4_990));
        finds(
            |facts| state(facts, 0).alarms = vec!["NOSPACE".to_owned()],
            &[(Check::StoreAlarm, "", "NOSPACE")],
        );
        finds(
            |facts| state(facts, 0).used_bytes = Some(9 << 28),
            &[(Check::StoreFilling, "", "2.2 GB of 2.0 GB")],
        );
    }

    #[test]
    fn the_stores_leader_should_not_share_the_primarys_machine() {
        let together = |facts: &mut Facts| {
            store(facts).servers[0].addresses = ["10.0.0.1".to_owned()].into();
            state(facts, 0).leads = true;
        };
        finds(together, &[(Check::StoreLeaderWithPrimary, "db1", "at one address")]);
        finds_nothing(|facts| store(facts).servers[1].addresses = ["10.0.0.1".to_owned()].into());
    }

    #[test]
    fn the_lease_is_held_against_the_running_store() {
        let shortest =
            |secs| move |facts: &mut Facts| store(facts).shortest_lease = Some(Span::from_secs(secs));
        finds_nothing(shortest(2));
        finds(shortest(15), &[(Check::TimingNotGranted, "", "ttl is 10 s, the store's shortest lease 15 s")]);
        finds(shortest(9), &[(Check::TimingElection, "", "steps down 8 s after")]);
        let longest = |facts: &mut Facts| store(facts).longest_lease = Some(Span::from_secs(9));
        finds(longest, &[(Check::TimingNotGranted, "", "longest lease 9 s")]);
        finds(
            |facts| store(facts).shortest_useful = Span::from_secs(12),
            &[(Check::TimingNotGranted, "", "12 s is used")],
        );
        finds(
            |facts| facts.timing_refused = Some("too short".to_owned()),
            &[(Check::TimingRefused, "", "too short")],
        );
    }

    #[test]
    fn a_slow_store_is_named_with_who_has_measured_it() {
        let trips = RoundTrips { read: Span::from_ms(3), write: Some(Span::from_ms(300)) };
        finds(
            |facts| store(facts).round_trips = Some(trips),
            &[(Check::StoreSlow, "", "from here a read takes 3 ms, a write 300 ms")],
        );
        let at_db2 = |facts: &mut Facts| facts.members[1].told.as_mut().expect("told").store = Some(trips);
        finds(at_db2, &[(Check::StoreSlow, "db2", "250 ms leaves room")]);
        assert!(slow(RoundTrips { write: None, ..trips }, Span::from_ms(250)).is_none());
        let _ = healthy();
    }
}
