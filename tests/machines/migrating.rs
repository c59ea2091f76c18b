//! Debian's Patroni under its own unit becomes Tenure under ours, and goes back: what `tenurectl migrate` asks of systemd is
//! what systemd does.

use super::support::machines::{AGENT, GUARDIAN, Setup, Site, on_machines, others};
use super::support::{rest, wait_for};

const PATRONI: &str = "patroni.service";
const TENURECTL: &str = "tenurectl -c /etc/patroni/config.yml";

#[test]
fn units_of_patroni_give_way_to_ours_and_come_back_and_postgresql_runs_on() {
    // Patroni takes no less than 20.
    on_machines(&Setup { ttl: 20, watchdog: false }, async |site| {
        let first = founded_by_patroni(site).await;
        let writer = site.write_anywhere();
        site.more_rows(50).await;
        let [second, third] = others(first)[..] else { unreachable!("there are three") };

        println!("{}", site.machines[second].ask(&format!("{TENURECTL} migrate check")));
        println!("{}", site.machines[second].ask(&format!("{TENURECTL} migrate to-tenure --dry-run")));
        to_tenure(site, second);
        to_tenure(site, third);
        let candidate = &site.machines[second].name;
        site.machines[second].ask(&format!("{TENURECTL} switchover --candidate {candidate} --force"));
        assert_eq!(healthy(site).await, second);
        to_tenure(site, first);
        site.more_rows(50).await;

        // A restarted agent finds a PostgreSQL that was never its unit's.
        let postmaster = site.postmaster(second);
        site.machines[second].ask(&format!("systemctl restart {AGENT}"));
        site.lease_outlived().await;
        assert_eq!((healthy(site).await, site.postmaster(second)), (second, postmaster));

        to_patroni(site, first);
        site.machines[first].ask(&format!("{TENURECTL} pause --wait"));
        to_patroni(site, second);
        to_tenure(site, second);
        site.machines[first].ask(&format!("{TENURECTL} resume --wait"));
        assert_eq!(healthy(site).await, second);
        site.more_rows(50).await;
        drop(writer);
        assert_eq!(site.missing_rows(second).await, 0);
        site.ledger.check_one_history_at_a_time();
        println!("longest time without a row: {}", site.ledger.longest_gap());
    });
}

async fn founded_by_patroni(site: &Site) -> usize {
    for machine in &site.machines {
        // Patroni looks for PostgreSQL's programs only where it is told to.
        let bin_dir = "s|^  data_dir:|  bin_dir: /usr/lib/postgresql/15/bin\\n  data_dir:|";
        machine.ask(&format!(
            "sed '{bin_dir}' /etc/tenure/main.yml >/etc/patroni/config.yml && rm /etc/tenure/main.yml && \
             chgrp postgres /etc/patroni/config.yml && chmod 640 /etc/patroni/config.yml"
        ));
        machine.ask(&format!("systemctl enable --quiet --now --no-block etcd.service {PATRONI}"));
    }
    let leader = healthy(site).await;
    let create = "create table ledger (writer text, row bigint, primary key (writer, row))";
    site.client(leader).await.batch_execute(create).await.expect("a primary makes tables");
    leader
}

/// One leader that sends WAL to everybody else. Older agents say no more of themselves.
async fn healthy(site: &Site) -> usize {
    wait_for("one leader that sends to two standbys", async || {
        let leaders: Vec<usize> = (0..3).filter(|&index| site.leads(index)).collect();
        let [leader] = leaders[..] else { return None };
        let status = site.status(leader)?;
        let receivers = status["replication"].as_array()?;
        let streaming = receivers.iter().filter(|receiver| receiver["state"] == "streaming").count();
        let runs = |index: &usize| site.status(*index).is_some_and(|status| status["state"] == "running");
        (streaming == 2 && others(leader).iter().all(runs)).then_some(leader)
    })
    .await
}

fn to_tenure(site: &Site, index: usize) {
    let (machine, postmaster) = (&site.machines[index], site.postmaster(index));
    println!("{}", machine.ask(&format!("{TENURECTL} migrate to-tenure")));
    assert_eq!(site.postmaster(index), postmaster, "PostgreSQL runs on");
    assert!(rest::status(&machine.address).is_some_and(|status| status["tenure"].is_object()));
    for (unit, active, enabled) in
        [(PATRONI, "inactive", "disabled"), (AGENT, "active", "enabled"), (GUARDIAN, "active", "enabled")]
    {
        check_unit(site, index, unit, active, enabled);
    }
}

fn to_patroni(site: &Site, index: usize) {
    let (machine, postmaster) = (&site.machines[index], site.postmaster(index));
    println!("{}", machine.ask(&format!("{TENURECTL} migrate to-patroni")));
    assert_eq!(site.postmaster(index), postmaster, "PostgreSQL runs on");
    assert!(rest::status(&machine.address).is_some_and(|status| status["tenure"].is_null()));
    for (unit, active, enabled) in
        [(PATRONI, "active", "enabled"), (AGENT, "inactive", "disabled"), (GUARDIAN, "inactive", "disabled")]
    {
        check_unit(site, index, unit, active, enabled);
    }
}

fn check_unit(site: &Site, index: usize, unit: &str, active: &str, enabled: &str) {
    let machine = &site.machines[index];
    let found = (machine.property(unit, "ActiveState"), machine.property(unit, "UnitFileState"));
    assert_eq!(found, (active.to_owned(), enabled.to_owned()), "{unit} on {}", machine.name);
    let drop_ins = machine.property(unit, "DropInPaths");
    assert!(!drop_ins.contains("migrate"), "{unit} on {} keeps {drop_ins}", machine.name);
}
