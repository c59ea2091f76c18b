//! Stops, reboots and power cuts: what is done in good order loses nothing, and everybody comes back.

use super::support::machines::{AGENT, Setup, on_machines};

#[test]
fn a_stopped_unit_hands_over_in_good_order() {
    on_machines(&Setup::default(), async |site| {
        let leader = site.founded().await;
        let writer = site.write_anywhere();
        site.more_rows(100).await;
        site.machines[leader].ask(&format!("systemctl stop {AGENT}"));
        assert_eq!(site.postmaster(leader), None, "PostgreSQL was stopped before the unit was");
        let next = site.leader_besides(leader).await;
        site.more_rows(100).await;
        site.machines[leader].ask(&format!("systemctl start {AGENT}"));
        assert_eq!(site.healthy().await, next);
        drop(writer);
        assert_eq!(site.missing_rows(next).await, 0);
        site.ledger.check_one_history_at_a_time();
        println!("longest time without a row: {}", site.ledger.longest_gap());
    });
}

#[test]
fn a_machine_that_reboots_or_switches_itself_off_hands_over_in_good_order() {
    on_machines(&Setup::default(), async |site| {
        let first = site.founded().await;
        let writer = site.write_anywhere();
        site.more_rows(100).await;
        let boots = site.machines[first].power().boots();
        // It may be gone before it answers.
        site.machines[first].run("systemctl reboot");
        let second = site.leader_besides(first).await;
        site.more_rows(100).await;
        site.until_boots(first, boots + 1).await;
        assert_eq!(site.healthy().await, second);
        assert_eq!(site.missing_rows(second).await, 0, "after the reboot");

        site.machines[second].run("systemctl poweroff");
        let third = site.leader_besides(second).await;
        site.more_rows(100).await;
        site.machines[second].until_off();
        site.machines[second].power_on();
        assert_eq!(site.healthy().await, third);
        drop(writer);
        assert_eq!(site.missing_rows(third).await, 0, "after the power was switched off");
        site.ledger.check_one_history_at_a_time();
        println!("longest time without a row: {}", site.ledger.longest_gap());
    });
}

#[test]
fn a_machine_that_loses_its_power_is_replaced_and_comes_back() {
    on_machines(&Setup::default(), async |site| {
        let leader = site.founded().await;
        let writer = site.write_anywhere();
        site.more_rows(100).await;
        // Nobody is told: the end of a process would be seen, the end of a machine is not.
        site.machines[leader].network.cut();
        site.machines[leader].power_off();
        let next = site.leader_besides(leader).await;
        site.more_rows(100).await;
        site.machines[leader].network.heal();
        site.machines[leader].power_on();
        assert_eq!(site.healthy().await, next);
        drop(writer);
        // Replication is asynchronous: the last rows of the lost machine may be gone, and are counted.
        site.missing_rows(next).await;
        site.ledger.check_one_history_at_a_time();
        println!("longest time without a row: {}", site.ledger.longest_gap());
    });
}
