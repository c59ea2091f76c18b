//! Three machines with real systemd, units as the packages bring them, and what fails on whole machines. `make test-machines`
//! runs them; see `support::machines`.

mod addresses;
mod agent;
mod drilling;
mod frozen;
mod migrating;
mod packages;
mod power;
#[path = "../support/mod.rs"]
mod support;

use support::machines::{AGENT, GUARDIAN, Setup, Site, on_machines, others};
use support::wait_for;
use tenure::clock;
use tenure::model::Span;

/// What systemd-analyze may say at most: its measure of how much a service could do, from 0 to 10.
const EXPOSURE_MAX: [(&str, f64); 2] = [(AGENT, 3.0), (GUARDIAN, 2.0)];

/// Harm that would be done needs time to be done in.
async fn passes(time: Span) {
    let until = clock::now() + time;
    wait_for("time to pass", async || (until <= clock::now()).then_some(())).await;
}

/// What a client of this machine's PostgreSQL would notice of whatever was done to the agent: nothing.
struct Undisturbed {
    leader: usize,
    term: u64,
    postmaster: Option<u32>,
}

impl Undisturbed {
    async fn note(site: &Site, leader: usize) -> Undisturbed {
        Undisturbed { leader, term: site.term(leader).await, postmaster: site.postmaster(leader) }
    }

    /// `site.write_at(leader)` was writing, and has been dropped.
    async fn check(&self, site: &Site) {
        assert_eq!(site.healthy().await, self.leader, "nobody had a reason to take over");
        assert_eq!(site.term(self.leader).await, self.term, "the lease is the same");
        assert_eq!(site.postmaster(self.leader), self.postmaster, "PostgreSQL is the same");
        assert!(self.postmaster.is_some());
        let writer = &site.machines[self.leader].name;
        assert_eq!(site.failed_rows(writer), 0, "every row that {writer} sent was acknowledged");
        assert!(site.ledger.rows().iter().all(|row| row.timeline == 1));
        assert_eq!(site.missing_rows(self.leader).await, 0);
        println!("longest time without a row: {}", site.ledger.longest_gap());
    }
}

#[test]
fn units_on_three_machines_become_a_cluster() {
    on_machines(&Setup::default(), async |site| {
        let leader = site.founded().await;
        let writer = site.write_anywhere();
        site.more_rows(50).await;
        drop(writer);
        assert_eq!(site.missing_rows(leader).await, 0);
        assert!(others(leader).into_iter().all(|index| !site.leads(index)));
        for (index, machine) in site.machines.iter().enumerate() {
            // Two looks, between which the rule may change.
            wait_for("the rule's sentence in the unit's status", async || {
                let sentence = site.status(index)?["tenure"]["sentence"].as_str()?.to_owned();
                let shown = machine.ask(&format!("systemctl status {AGENT}"));
                let status = shown.lines().find_map(|line| line.trim().strip_prefix("Status: "))?;
                status.contains(&sentence).then(|| println!("{}: {status}", machine.name))
            })
            .await;
            for unit in [AGENT, GUARDIAN] {
                assert_eq!(machine.property(unit, "ActiveState"), "active", "{unit} on {}", machine.name);
                assert_eq!(machine.property(unit, "NRestarts"), "0", "{unit} on {}", machine.name);
                let lines = machine.journal(&["--output=cat", &format!("_SYSTEMD_UNIT={unit}")]);
                assert!(!lines.is_empty(), "{unit} on {} is in the journal", machine.name);
            }
        }
        check_exposure(site);
    });
}

fn check_exposure(site: &Site) {
    for (unit, most) in EXPOSURE_MAX {
        let verdict = site.machines[0].ask(&format!("systemd-analyze security --no-pager {unit}"));
        let overall =
            verdict.lines().find(|line| line.contains("Overall exposure level")).expect("a verdict");
        let figure = overall.split_whitespace().find_map(|word| word.parse::<f64>().ok()).expect("a figure");
        println!("{unit}: exposure {figure}, at most {most} is wanted");
        assert!(figure <= most, "{unit}:\n{verdict}");
    }
}
