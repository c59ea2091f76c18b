//! Whoever has lost its lease writes nothing that a client would believe, whatever hangs or dies.

use nix::sys::signal::Signal;
use tenure::model::Span;

use super::support::lab::{Setup, in_lab};
use super::{founded, others, passes};

#[test]
fn a_frozen_agent_is_fenced_by_its_guardian() {
    in_lab(&Setup::default(), async |lab| {
        let leader = founded(lab).await;
        let writers = [lab.write_anywhere(), lab.write_at(leader)];
        lab.more_rows(100).await;
        lab.nodes[leader].signal_agent(Signal::SIGSTOP);
        lab.leader_among(&others(leader)).await;
        lab.more_rows(100).await;
        // Three lease times in which clients are still connected to the old primary, if it lives.
        passes(Span::from_secs(15)).await;
        lab.nodes[leader].signal_agent(Signal::SIGCONT);
        let next = lab.healthy().await;
        drop(writers);
        lab.missing_rows(next).await;
        lab.ledger.check_one_history_at_a_time();
    });
}
