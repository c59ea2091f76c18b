//! The unit of the holder of virtual addresses under a real systemd: what it may and nobody else may, and who brings it back.

use super::support::machines::{AGENT, PASSWORD, Setup, Site, on_machines};
use super::support::wait_for;
use super::support::writer::connect;

const HOLDER: &str = "tenure-address@main.service";
const ADDRESS: &str = "10.99.0.100";

#[test]
fn a_virtual_address_goes_with_the_primary_by_the_unit_of_its_holder() {
    on_machines(&Setup::default(), async |site| {
        for machine in &site.machines {
            let settings = format!("tenure:\\n  virtual_addresses: {ADDRESS} dev eth0\\n");
            machine.ask(&format!("printf '{settings}' >>/etc/tenure/main.yml"));
            machine.ask("sed -i \"s/^  listen: [0-9.]*:5432/  listen: '*:5432'/\" /etc/tenure/main.yml");
        }
        let leader = site.founded().await;
        for machine in &site.machines {
            machine.ask(&format!("systemctl enable --quiet --now {HOLDER}"));
        }
        reached(site, leader).await;
        let machine = &site.machines[leader];
        // CAP_NET_ADMIN and CAP_NET_RAW, and neither for PostgreSQL nor for the agent.
        assert_eq!(capabilities(site, leader, HOLDER), "0000000000003000");
        assert_eq!(capabilities(site, leader, AGENT), "0000000000000000");
        let postmaster = site.postmaster(leader).expect("it runs");
        assert!(machine.ask(&format!("grep CapEff /proc/{postmaster}/status")).contains("0000000000000000"));

        machine.ask(&format!("systemctl kill --signal=KILL {HOLDER}"));
        wait_for("the holder to be back", async || {
            let back = machine.property(HOLDER, "NRestarts") == "1";
            (back && machine.property(HOLDER, "ActiveState") == "active").then_some(())
        })
        .await;
        machine.ask(&format!("systemctl restart {AGENT} {HOLDER}"));
        site.lease_outlived().await;
        assert_eq!(site.healthy().await, leader);
        let journal = machine.journal(&["--output=cat", &format!("_SYSTEMD_UNIT={HOLDER}")]);
        assert!(
            journal.contains("took a virtual address") && !journal.contains("left a virtual address"),
            "{journal}"
        );
        reached(site, leader).await;

        machine.ask(&format!("systemctl stop {AGENT}"));
        let next = site.leader_besides(leader).await;
        reached(site, next).await;
        assert!(!machine.ask("ip address show dev eth0").contains(ADDRESS));
    });
}

async fn reached(site: &Site, index: usize) {
    wait_for("the primary behind the address", async || {
        let client = connect(ADDRESS, PASSWORD).await?;
        let row = client.query_one("select pg_is_in_recovery()", &[]).await.ok()?;
        let held = site.status(index)?["tenure"]["virtual_addresses"][0]["held"].as_bool()?;
        (held && !row.get::<_, bool>(0)).then_some(())
    })
    .await;
}

fn capabilities(site: &Site, index: usize, unit: &str) -> String {
    let pid = site.machines[index].property(unit, "MainPID");
    let line = site.machines[index].ask(&format!("grep CapEff /proc/{pid}/status"));
    line.split_whitespace().next_back().expect("a number").to_owned()
}
