//! One fault on a fresh cluster, and what its clients saw.

use tenure::clock;
use tenure::model::{Moment, Span};

use crate::clients::{Ledger, Row, Way, Writer, connect, longest_gap, two_primaries};
use crate::faults::Fault;
use crate::stage::{
    Plan, Stage, System, at, direct, eventually, in_lab, seconds_since, through_haproxy, to_seconds,
};
use crate::support::lab::Lab;

/// Clients on each way.
pub const CLIENTS: usize = 2;
/// Rows on each way before the fault.
const ROWS_BEFORE: usize = 100;
/// However soon the rows come again: harm that is done later is seen as well.
pub const WATCHED: Span = Span::from_secs(20);
/// Rows come again when they have come for so long without a gap of a second.
const STEADY: Span = Span::from_secs(3);

#[derive(Clone, Debug, serde::Serialize)]
pub struct Outcome {
    pub system: &'static str,
    pub fault: &'static str,
    pub failed: bool,
    pub gap_proxy_s: f64,
    pub gap_direct_s: f64,
    pub lost_proxy: usize,
    pub lost_direct: usize,
    /// Of those who write on the node itself.
    pub lost_local: usize,
    pub two_primaries_s: f64,
    /// From the end of the fault until one leads and everybody streams.
    pub whole_s: f64,
    pub rows: usize,
    /// What our agents decided, since the fault and until the rows came again.
    pub stages: Vec<StageLine>,
}

#[derive(Clone, Debug, serde::Serialize)]
pub struct StageLine {
    pub after_s: f64,
    pub member: String,
    pub rule: String,
}

impl Outcome {
    pub fn failed(system: System, fault: Fault) -> Outcome {
        Outcome {
            system: system.name(),
            fault: fault.name(),
            failed: true,
            gap_proxy_s: 0.0,
            gap_direct_s: 0.0,
            lost_proxy: 0,
            lost_direct: 0,
            lost_local: 0,
            two_primaries_s: 0.0,
            whole_s: 0.0,
            rows: 0,
            stages: Vec::new(),
        }
    }
}

/// `of`: which repetition of how many this is. None: the cluster did not come back.
pub fn run(plan: &Plan, system: System, fault: Fault, of: (u32, u32)) -> Option<Outcome> {
    let mut outcome = None;
    in_lab(&plan.setup(), async |lab| {
        // What an agent complains of under faults is not what is measured here.
        lab.expected.push("");
        let Some(mut stage) = Stage::open(lab, plan, system).await else { return };
        outcome = on_stage(&mut stage, plan, fault, of).await;
    });
    outcome
}

/// The same on a cluster that is there already.
pub async fn on_stage(
    stage: &mut Stage<'_>,
    plan: &Plan,
    fault: Fault,
    (repetition, repetitions): (u32, u32),
) -> Option<Outcome> {
    let leader = stage.healthy().await?;
    let ledger = Ledger::default();
    let writers = begin(stage, leader, &ledger).await?;
    // The repetitions lie at different moments of the agents' loop.
    let loop_wait = Span::from_secs(u64::from(plan.timing(stage.system()).loop_wait));
    clock::pause(loop_wait.scaled(u64::from(repetition), u64::from(repetitions))).await;

    let (began, began_at) = (clock::now(), clock::wall());
    let touched = fault.inject(stage, leader).await;
    if let Some(lasts) = fault.lasts(Span::from_secs(plan.hold_s)) {
        clock::pause(lasts.minus(clock::now().since(began))).await;
        fault.undo(stage, leader, &touched).await;
        steady(&ledger, began).await?;
    } else {
        steady(&ledger, began).await?;
        fault.undo(stage, leader, &touched).await;
    }
    let undone = clock::now();
    let leads_now = stage.healthy().await?;
    let whole_s = seconds_since(undone);
    steady(&ledger, undone).await?;
    let until = clock::now();
    drop(writers);

    let client = connect(&at(&stage.lab.nodes[leads_now].address)).await?;
    let (kept, lost) = ledger.split(&client).await.ok()?;
    let gap = |way| to_seconds(longest_gap(&kept, way, began, until));
    let lost_of = |wanted: fn(&Way) -> bool| lost.iter().filter(|row| wanted(&row.way)).count();
    let until_rows = gap_end(&kept, began).unwrap_or(until);
    let everything: Vec<_> = kept.iter().chain(&lost).cloned().collect();
    Some(Outcome {
        failed: false,
        gap_proxy_s: gap(Way::Proxy),
        gap_direct_s: gap(Way::Direct),
        lost_proxy: lost_of(|way| *way == Way::Proxy),
        lost_direct: lost_of(|way| *way == Way::Direct),
        lost_local: lost_of(|way| matches!(way, Way::Node(_))),
        two_primaries_s: to_seconds(two_primaries(&everything, stage.lab.nodes.len())),
        whole_s,
        rows: everything.len(),
        stages: stages(stage.lab, began_at, to_seconds(until_rows.since(began))),
        ..Outcome::failed(stage.system(), fault)
    })
}

/// The table, and everybody who writes into it.
async fn begin(stage: &Stage<'_>, leader: usize, ledger: &Ledger) -> Option<Vec<Writer>> {
    let client = connect(&at(&stage.lab.nodes[leader].address)).await?;
    let create = "create table ledger (writer text, row bigint, primary key (writer, row))";
    client.batch_execute(create).await.ok()?;
    let hub = &stage.lab.hub.name;
    let addresses: Vec<String> = stage.lab.nodes.iter().map(|node| node.address.clone()).collect();
    let mut writers = Vec::new();
    for number in 0..CLIENTS {
        writers.push(Writer::start(Way::Proxy, number, hub, through_haproxy(), ledger));
        writers.push(Writer::start(Way::Direct, number, hub, direct(&addresses), ledger));
    }
    for (number, node) in stage.lab.nodes.iter().enumerate() {
        let way = Way::Node(number);
        writers.push(Writer::start(way, number, &node.machine.name, at(&node.address), ledger));
    }
    eventually(async || {
        let rows = ledger.rows();
        let enough = |way| ROWS_BEFORE <= rows.iter().filter(|row| row.way == way).count();
        (enough(Way::Proxy) && enough(Way::Direct)).then_some(())
    })
    .await?;
    Some(writers)
}

/// Rows have come on both ways without a gap for a while, and long enough after the fault.
async fn steady(ledger: &Ledger, began: Moment) -> Option<()> {
    let mut since = clock::now();
    eventually(async || {
        let now = clock::now();
        let flows = |way| ledger.last(way).is_some_and(|last| now.since(last) < Span::from_secs(1));
        if !(flows(Way::Proxy) && flows(Way::Direct)) {
            since = now;
        }
        (began + WATCHED <= now && since + STEADY <= now).then_some(())
    })
    .await
}

/// When the longest gap through HAProxy was over.
fn gap_end(kept: &[Row], began: Moment) -> Option<Moment> {
    let mut times: Vec<Moment> =
        kept.iter().filter(|row| row.way == Way::Proxy).map(|row| row.answered).collect();
    times.sort();
    let after = times.windows(2).filter(|pair| began <= pair[1]);
    after.max_by_key(|pair| pair[1].since(pair[0])).map(|pair| pair[1])
}

/// The changes of rule in our agents' logs, which are in UTC.
fn stages(lab: &Lab, began_at: jiff::Timestamp, until_s: f64) -> Vec<StageLine> {
    let mut lines = Vec::new();
    for node in &lab.nodes {
        for line in node.log().lines() {
            let Some((_, rule)) = line.split_once(" rule=") else { continue };
            let at = line.get(..23).and_then(|at| at.parse::<jiff::civil::DateTime>().ok());
            let Some(at) = at.and_then(|at| at.to_zoned(jiff::tz::TimeZone::UTC).ok()) else { continue };
            let after_s = at.timestamp().duration_since(began_at).as_secs_f64();
            if (0.0..=until_s).contains(&after_s) {
                let rule = rule.split_whitespace().next().unwrap_or_default().to_owned();
                lines.push(StageLine { after_s, member: node.name.clone(), rule });
            }
        }
    }
    lines.sort_by(|one, other| one.after_s.total_cmp(&other.after_s));
    lines
}
