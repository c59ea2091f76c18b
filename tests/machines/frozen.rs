//! Machines that stop in the middle of everything, and go on later or never: nobody acknowledges what another history has
//! overtaken.

use tenure::model::Span;

use super::passes;
use super::support::machines::{Setup, on_machines};

/// Its guardian and its clock wake late, together with PostgreSQL.
#[test]
fn a_machine_frozen_for_three_leases_never_makes_two_primaries() {
    on_machines(&Setup { ttl: 5, ..Setup::default() }, async |site| {
        let leader = site.founded().await;
        let writers = [site.write_anywhere(), site.write_at(leader)];
        site.more_rows(100).await;
        site.machines[leader].freeze();
        site.leader_besides(leader).await;
        site.more_rows(100).await;
        passes(Span::from_secs(15)).await;
        site.machines[leader].thaw();
        passes(Span::from_secs(5)).await;
        let next = site.healthy().await;
        assert_ne!(next, leader, "it came back as a standby");
        drop(writers);
        site.missing_rows(next).await;
        site.ledger.check_one_history_at_a_time();
        println!("longest time without a row: {}", site.ledger.longest_gap());
    });
}

#[test]
fn a_machine_that_is_cut_off_stops_writing_by_its_deadline_and_rejoins() {
    on_machines(&Setup { ttl: 5, ..Setup::default() }, async |site| {
        let leader = site.founded().await;
        let writers = [site.write_anywhere(), site.write_at(leader)];
        site.more_rows(100).await;
        site.machines[leader].network.cut();
        site.leader_besides(leader).await;
        site.more_rows(100).await;
        passes(Span::from_secs(10)).await;
        site.machines[leader].network.heal();
        let next = site.healthy().await;
        drop(writers);
        site.missing_rows(next).await;
        site.ledger.check_one_history_at_a_time();
    });
}
