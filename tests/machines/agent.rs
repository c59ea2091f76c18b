//! Whatever happens to the agent or the guardian alone, clients of the primary notice nothing.

use nix::sys::signal::Signal;

use super::Undisturbed;
use super::support::machine::Machine;
use super::support::machines::{AGENT, GUARDIAN, Setup, Site, on_machines};
use super::support::wait_for;

async fn until_restarted(site: &Site, index: usize, unit: &str, before: Option<nix::unistd::Pid>) {
    wait_for("a new main process of the unit", async || {
        let machine = &site.machines[index];
        let now = machine.main_process(unit)?;
        (Some(now) != before && machine.property(unit, "ActiveState") == "active").then_some(())
    })
    .await;
}

/// As a package does it: new files in place of the old ones, units read again, services restarted.
#[test]
fn a_restart_and_an_upgrade_of_the_agent_under_load_go_unnoticed() {
    on_machines(&Setup::default(), async |site| {
        let leader = site.founded().await;
        let before = Undisturbed::note(site, leader).await;
        let writers = [site.write_anywhere(), site.write_at(leader)];
        site.more_rows(100).await;
        let machine = &site.machines[leader];
        machine.ask(&format!("systemctl restart {AGENT}"));
        site.more_rows(200).await;
        let replace = "for program in tenured tenurectl tenure-fence; do \
                       cp /usr/bin/$program /usr/bin/$program.new && mv /usr/bin/$program.new /usr/bin/$program || exit; done";
        machine.ask(&format!("{replace}; systemctl daemon-reload && systemctl restart {AGENT}"));
        site.more_rows(200).await;
        site.lease_outlived().await;
        drop(writers);
        before.check(site).await;
    });
}

#[test]
fn a_frozen_agent_is_restarted_by_its_watchdog_and_its_clients_notice_nothing() {
    on_machines(&Setup::default(), async |site| {
        let leader = site.founded().await;
        let before = Undisturbed::note(site, leader).await;
        let writers = [site.write_anywhere(), site.write_at(leader)];
        site.more_rows(100).await;
        let agent = site.agent(leader);
        Machine::signal(agent, Signal::SIGSTOP);
        until_restarted(site, leader, AGENT, Some(agent)).await;
        site.lease_outlived().await;
        site.more_rows(200).await;
        drop(writers);
        before.check(site).await;
        let journal = site.machines[leader].journal(&["--output=cat", "UNIT=tenured@main.service"]);
        assert!(journal.contains("Watchdog timeout"), "{journal}");
    });
}

#[test]
fn a_killed_agent_and_a_killed_guardian_are_replaced_and_their_clients_notice_nothing() {
    on_machines(&Setup::default(), async |site| {
        let leader = site.founded().await;
        let before = Undisturbed::note(site, leader).await;
        let writers = [site.write_anywhere(), site.write_at(leader)];
        for unit in [AGENT, GUARDIAN] {
            site.more_rows(100).await;
            let process = site.machines[leader].main_process(unit).expect("the unit runs");
            Machine::signal(process, Signal::SIGKILL);
            until_restarted(site, leader, unit, Some(process)).await;
            wait_for("an armed guardian", async || {
                (site.status(leader)?["tenure"]["guardian"] == "armed").then_some(())
            })
            .await;
            site.lease_outlived().await;
            site.more_rows(100).await;
        }
        drop(writers);
        before.check(site).await;
    });
}
