//! `tenurectl drill` on whole machines: systemd brings a dead agent back, and a watchdog resets a machine whose guardian was stopped.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::support::machines::{AGENT, PASSWORD, Setup, Site, on_machines};
use super::support::wait_for;
use super::support::watchdog_device::Happening;

#[test]
fn an_agent_and_a_host_are_drilled_where_systemd_and_a_watchdog_bring_them_back() {
    on_machines(&Setup { watchdog: true, ..Setup::default() }, async |site| {
        for machine in &site.machines {
            machine.ask("printf 'tenure:\\n  drills: [agent, host]\\n' >>/etc/tenure/main.yml");
        }
        let leader = site.founded().await;
        armed(site, leader).await;
        allowed(site, "agent").await;
        let report = drill(site, "agent");
        assert_eq!(report["after"]["leader"], site.machines[leader].name.as_str(), "{report:#}");
        assert_eq!(report["rows"]["uncertain"], 0, "clients noticed nothing: {report:#}");
        assert_eq!(site.machines[leader].property(AGENT, "NRestarts"), "1");

        let leader = site.healthy().await;
        armed(site, leader).await;
        allowed(site, "host").await;
        let boots = site.machines[leader].power().boots();
        let report = drill(site, "host");
        assert_eq!(site.watchdogs[leader].count(Happening::Expired), 1, "{report:#}");
        assert_eq!(site.machines[leader].power().boots(), boots + 1);
        let noted = report["timeline"].to_string();
        assert!(
            noted.contains("the guardian is stopped, so that the watchdog device resets this machine"),
            "{noted}"
        );
        site.healthy().await;
    });
}

async fn armed(site: &Site, leader: usize) {
    wait_for("a watchdog that runs", async || site.watchdogs[leader].runs().then_some(())).await;
    wait_for("an agent that says so", async || {
        site.status(leader)?["tenure"]["watchdog"].as_str()?.starts_with("armed").then_some(())
    })
    .await;
}

/// Every guard holds: standbys that have only just begun to stream are behind.
async fn allowed(site: &Site, fault: &str) {
    let holds = async || tenurectl(site, &["drill", fault, "main", "--check"]).status.success().then_some(());
    wait_for("a drill that every guard allows", holds).await;
}

/// All must be well.
fn drill(site: &Site, fault: &str) -> Value {
    let output =
        tenurectl(site, &["drill", fault, "main", "--yes", "-f", "json", "--for", "5", "--within", "120"]);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
    assert!(output.status.success() && report["good"] == true, "{report:#}\n{err}");
    println!("{report:#}");
    report
}

/// From beside the machines, as an operator does it.
fn tenurectl(site: &Site, drill: &[&str]) -> Output {
    let dir = tempfile::tempdir().expect("a directory");
    let hosts: Vec<String> =
        site.machines.iter().map(|machine| format!("{}:2379", machine.address)).collect();
    let config = dir.path().join("tenurectl.yml");
    std::fs::write(&config, format!("scope: main\netcd3: {{hosts: '{}'}}\n", hosts.join(",")))
        .expect("our own directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenurectl"));
    command.arg("-c").arg(config).args(drill).arg("--backup-checked");
    command.env_clear().env("PATH", "/usr/bin:/bin").env("PGUSER", "postgres").env("PGPASSWORD", PASSWORD);
    command.stdin(Stdio::null()).output().expect("the program starts")
}
