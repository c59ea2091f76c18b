//! Machines that stop in the middle of everything, and go on later or never: nobody acknowledges what another history has
//! overtaken.

use nix::sys::signal::Signal;
use tenure::clock;
use tenure::model::Span;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::passes;
use super::support::machine::Machine;
use super::support::machines::{AGENT, GUARDIAN, Setup, Site, on_machines};
use super::support::wait_for;
use super::support::watchdog_device::Happening;

/// The watchdog has reset the machine, once, and it is one of the cluster again.
async fn comes_back_by_reset(site: &Site, leader: usize, boots: u32) {
    let stopped_at = clock::now();
    let device = &site.watchdogs[leader];
    let expired = wait_for("the watchdog to fire", async || device.at(Happening::Expired)).await;
    println!(
        "the watchdog fired {} after the machine or its guardian had stopped",
        expired.since(stopped_at)
    );
    site.until_boots(leader, boots + 1).await;
    // Of another member's; or of its own again, if it has booted before its lease was over.
    site.more_rows(100).await;
    site.lease_outlived().await;
    site.healthy().await;
    assert_eq!(device.count(Happening::Expired), 1);
}

/// Statements that wait in the connections of a machine while it is frozen. Nobody gives up waiting for the answers.
struct Waiting(JoinSet<bool>);

impl Waiting {
    const COUNT: usize = 10;

    async fn send(sessions: Vec<Client>) -> Waiting {
        let mut answers = JoinSet::new();
        for (row, session) in (0i64..).zip(sessions) {
            let insert = "insert into ledger (writer, row) values ('late', $1)";
            answers.spawn(async move { session.execute(insert, &[&row]).await.is_ok() });
        }
        // They are on their way when each has been begun once.
        tokio::task::yield_now().await;
        Waiting(answers)
    }

    /// How many were told that their row is committed. Each is told something, if only that its connection has ended.
    async fn acknowledged(self) -> usize {
        self.0.join_all().await.into_iter().filter(|acknowledged| *acknowledged).count()
    }
}

async fn until_watched(site: &Site, leader: usize) {
    wait_for("a watchdog that runs", async || site.watchdogs[leader].runs().then_some(())).await;
}

#[test]
fn a_frozen_machine_is_reset_by_its_watchdog_and_rejoins() {
    on_machines(&Setup { watchdog: true, ..Setup::default() }, async |site| {
        let leader = site.founded().await;
        let writers = [site.write_anywhere(), site.write_at(leader)];
        site.more_rows(100).await;
        until_watched(site, leader).await;
        let sessions = site.sessions(leader, Waiting::COUNT).await;
        let boots = site.machines[leader].power().boots();
        site.machines[leader].freeze();
        let waiting = Waiting::send(sessions).await;
        comes_back_by_reset(site, leader, boots).await;
        drop(writers);
        site.ledger.check_one_history_at_a_time();
        assert_eq!(waiting.acknowledged().await, 0, "a machine that was reset tells nobody anything");
    });
}

#[test]
fn a_machine_whose_agent_and_guardian_are_both_stopped_is_reset_by_its_watchdog_and_rejoins() {
    on_machines(&Setup { watchdog: true, ..Setup::default() }, async |site| {
        let leader = site.founded().await;
        let writers = [site.write_anywhere(), site.write_at(leader)];
        site.more_rows(100).await;
        until_watched(site, leader).await;
        let boots = site.machines[leader].power().boots();
        let both =
            [GUARDIAN, AGENT].map(|unit| site.machines[leader].main_process(unit).expect("the unit runs"));
        for process in both {
            Machine::signal(process, Signal::SIGSTOP);
        }
        comes_back_by_reset(site, leader, boots).await;
        drop(writers);
        site.ledger.check_one_history_at_a_time();
    });
}

/// Its guardian and its clock wake late, together with PostgreSQL.
#[test]
fn a_machine_frozen_for_three_leases_never_makes_two_primaries() {
    on_machines(&Setup { ttl: 5, ..Setup::default() }, async |site| {
        let leader = site.founded().await;
        let writers = [site.write_anywhere(), site.write_at(leader)];
        site.more_rows(100).await;
        let sessions = site.sessions(leader, Waiting::COUNT).await;
        site.machines[leader].freeze();
        let waiting = Waiting::send(sessions).await;
        site.leader_besides(leader).await;
        site.more_rows(100).await;
        passes(Span::from_secs(15)).await;
        site.machines[leader].thaw();
        passes(Span::from_secs(5)).await;
        let next = site.healthy().await;
        println!("{} of {} late rows acknowledged", waiting.acknowledged().await, Waiting::COUNT);
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
