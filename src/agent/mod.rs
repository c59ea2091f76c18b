//! The daemon: one task that owns the state (`office`), and what serves it.
//!
//! `keeper` renews the lease on a thread of its own, `sentry` speaks with the guardian, `eyes` look at PostgreSQL, `workshop`
//! works on it, `disk` probes where it writes, `errands` and `publisher` write to the store, `requests` are what REST asks
//! for, `callbacks` tell the operator's programs, `addresses` tells the holder of the virtual ones, `upkeep` does the chores, `scout`
//! asks the cluster that this one follows. `inheritance`, `service`, `cgroup` and `leave` are the dealings with systemd.

mod addresses;
mod arguments;
mod asks;
mod callbacks;
mod cgroup;
mod checkup;
mod chronicle;
mod disk;
mod doorkeeper;
mod drill;
mod errands;
mod eyes;
mod home;
mod inheritance;
mod keeper;
mod leave;
mod noting;
mod office;
mod publisher;
mod requests;
mod scout;
mod sentry;
mod service;
pub mod store_settings;
mod threads;
mod upkeep;
mod wishes;
mod workshop;

use std::net::TcpListener as StdListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

pub use arguments::Arguments;

use crate::config::{Config, Loaded, Sources};
use crate::decide::decide;
use crate::decide::mind::{Event, LeaseOrders, Mind};
use crate::fence::{self, Guardian, LeaseLink};
use crate::log::LogTuner;
use crate::model::{Contact, Facts, FenceOrder, Policy, Postgres, Span, Standing};
use crate::recorder::Recorder;
use crate::store::{Store, StoreEvent};
use crate::{api, clock};
use addresses::{Addresses, Attendant};
use callbacks::Callbacks;
use checkup::Checkup;
use doorkeeper::Doorkeeper;
use drill::Driller;
use eyes::{Eyes, Sight};
use home::Home;
pub use inheritance::Inheritance;
use keeper::KeeperSettings;
pub use leave::leave_on_restart;
use office::{Desk, End, Office};
use scout::Scout;
use sentry::Sentry;
use service::{Herald, Line};
use threads::Threads;
use upkeep::Upkeep;
use wishes::Wishes;
use workshop::Workshop;

/// More than everybody together can have to say between two turns of the loop.
const EVENTS: usize = 256;
const ASSIGNMENTS: usize = 16;
const REQUESTS: usize = 16;
const CALLS: usize = 16;
/// A write to the store may take this long; what waits longer is asked for anew.
const STORE_WITHIN: Duration = Duration::from_secs(5);
/// How long the tasks are waited for at the end.
const GOODBYE: Duration = Duration::from_secs(5);
/// The guardian answers within milliseconds, or something is wrong with it.
const GUARDIAN_WITHIN: Span = Span::from_ms(200);

/// For the flight recorder to write down how it ended.
const LAST_WORD: Duration = Duration::from_millis(500);

const SETTLE_WITHIN: Duration = Duration::from_secs(2);

/// What the command line says beside the configuration.
#[derive(Debug)]
pub struct Service {
    pub inheritance: Inheritance,
    /// The unit that runs the guardian; the agent starts one by itself only where there is none.
    pub guardian_unit: Option<String>,
    pub log: LogTuner,
}

/// Runs one member until an orderly end, or until it leaves for its successor.
pub fn run(config: Config, sources: Sources, service: Service) -> Result<()> {
    let threads = Threads::start()?;
    let outcome = threads.desk.block_on(serve(config, sources, service, &threads));
    threads.leave();
    outcome
}

async fn serve(config: Config, sources: Sources, service: Service, threads: &Threads) -> Result<()> {
    let Service { mut inheritance, guardian_unit, log } = service;
    let hands = threads.hands.handle();
    let home = Home::open(&config)?;
    let recorder = Recorder::start(home.dir()).context("start the flight recorder")?;
    let listeners = inheritance.listeners(&config.restapi.listen).await?;
    let (reloads, reloaded) = watch::channel(None);
    let opened = Doorkeeper::open(config.clone(), reloads.subscribe())?;
    let postgres_group = control_group(&inheritance).await;
    let fence = fence::Settings {
        socket: config.guardian_socket(),
        data_dir: config.postgresql.data_dir.clone(),
        binary: config.tenure.guardian.clone(),
    };
    // Before the first decision: a primary whose guardian still counts must not be taken for an unguarded one.
    let guardian = sentry::find(&fence, guardian_unit.as_deref())
        .await
        .map_err(|error| tracing::error!("{}", sentry::chain(&error)))
        .ok();
    tracing::info!(scope = config.scope, member = %config.name, "tenured {} begins", env!("CARGO_PKG_VERSION"));

    let store_settings = store_settings::of_agent(&config);
    let former = home.session();
    if let Some((id, Some(secret))) = &former {
        store_settings.adopt_session(*id, secret);
    }
    let former = former.map(|(id, _)| id);
    let (wishes, instance) = Wishes::new(config.clone(), postgres_group.clone());
    let policy = Policy { pause: home.paused(), ..wishes.policy() };
    if policy.pause {
        tracing::info!(
            "the cluster was in maintenance mode when it was last heard of, and is until its configuration in the store says \
             otherwise; {} says so",
            home.pause_file().display()
        );
    }
    let mut mind = Mind::new(config.name.clone(), config.tags.told(), policy, former.is_some());
    let confirmed = match &guardian {
        Some(guardian) => {
            guardian.status().await.map_or(crate::model::Guardian::Absent, |status| status.guardian())
        }
        None => crate::model::Guardian::Absent,
    };
    mind.apply(clock::now(), Event::Guardian(confirmed));

    let store = Store::connect(&store_settings);
    let (events, event_receiver) = mpsc::channel(EVENTS);
    let (assignments, assigned) = mpsc::channel(ASSIGNMENTS);
    let (finished, finished_receiver) = mpsc::channel(ASSIGNMENTS);
    let (calls, called) = mpsc::channel(CALLS);
    let (requests, requested) = mpsc::channel(REQUESTS);
    let (lease, lease_orders) = watch::channel(LeaseOrders::default());
    let (fence_orders, fence_ordered) = watch::channel(FenceOrder::Keep);
    let (watchdog, watchdog_wanted) = watch::channel(wishes.watch());
    let (sight, seen) = watch::channel(Sight::default());
    let (publication, published) = watch::channel(None);
    let (session, session_known) = watch::channel(None);
    let first = Standing { view: mind.view().clone(), plan: decide(mind.view()), facts: Facts::default() };
    let (standing, standings) = watch::channel(Arc::new(first));
    let (stop, stopped) = watch::channel(false);
    let (make_way, asked_to_leave) = watch::channel(false);

    keeper::start(KeeperSettings {
        me: config.name.clone(),
        store: store_settings.clone(),
        orders: lease_orders,
        events: events.clone(),
        guardian: LeaseLink::new(config.guardian_socket(), GUARDIAN_WITHIN),
        former,
    })
    .context("start the lease keeper")?;

    let mut tasks = JoinSet::new();
    let (looks, wanted) = api::Looks::new();
    let eyes = Eyes {
        settings: instance.clone(),
        events: events.clone(),
        finished: finished_receiver,
        wanted,
        sight,
    };
    threads::alone("eyes", || eyes.look()).context("start looking at PostgreSQL")?;
    let (gauge, copying) = watch::channel(None);
    let workshop = Workshop { settings: instance.clone(), assignments: assigned, finished, gauge };
    tasks.spawn_on(workshop.work(), hands);
    let (probe, _) = disk::start(instance.clone()).context("start the probe of the disk")?;
    tasks.spawn(probe.report(events.clone()));
    tasks.spawn(publisher::publish(store.clone(), config.name.clone(), published, STORE_WITHIN));
    let (asks, asked) = mpsc::channel(REQUESTS);
    let (reload, reload_asked) = mpsc::channel(1);
    let inside = requests::Inside { asks, reload };
    tasks.spawn(requests::serve(store.clone(), requested, inside, STORE_WITHIN));
    tasks.spawn(noting::note_changes(store.clone(), standings.clone(), STORE_WITHIN));
    let chronicler = chronicle::write_down(store.clone(), recorder.clone(), standings.clone(), STORE_WITHIN);
    tasks.spawn(chronicler);
    tasks.spawn(watch_store(store.clone(), events.clone()));
    tasks.spawn(home::remember_pause(home.clone(), standings.clone()));
    tasks.spawn(home::remember_session(home, store_settings, session_known));
    let (checkups, checkups_asked) = api::Checkups::new();
    let checkup = Checkup {
        config: config.clone(),
        reloads: reloads.subscribe(),
        sources: sources.clone(),
        settings: instance.clone(),
        standings: standings.clone(),
        store: store.clone(),
        asked: checkups_asked,
    };
    tasks.spawn_on(checkup.serve(), hands);
    let (drills, drills_asked) = api::Drills::new();
    let driller = Driller {
        config: config.clone(),
        reloads: reloads.subscribe(),
        standings: standings.clone(),
        sight: seen.clone(),
        fence: fence.clone(),
        recorder: recorder.clone(),
        asked: drills_asked,
    };
    tasks.spawn(driller.serve());
    let (told, addresses) = watch::channel(Addresses::default());
    let attendant = Attendant {
        addresses: config.tenure.virtual_addresses.clone(),
        socket: config.address_socket(),
        reloads: reloads.subscribe(),
        standings: standings.clone(),
        told,
    };
    tasks.spawn(attendant.attend());
    let signals = follow_signals(
        events.clone(),
        reloads,
        reload_asked,
        make_way,
        sources,
        inheritance.line.clone(),
        log,
    );
    tasks.spawn_on(signals, hands);
    let sentry = Sentry {
        settings: fence.clone(),
        unit: guardian_unit.clone(),
        postgres_group,
        orders: fence_ordered,
        watchdog: watchdog_wanted,
        sight: seen.clone(),
        events: events.clone(),
        hands: hands.clone(),
    };
    tasks.spawn(sentry.stand(guardian));
    // It ends by itself, after the last call.
    let mut last = JoinSet::new();
    last.spawn_on(Callbacks { settings: instance.clone(), calls: called }.work(), hands);
    let scout = Scout {
        settings: instance.clone(),
        standings: standings.clone(),
        events: events.clone(),
        hands: hands.clone(),
    };
    tasks.spawn(scout.look_around());
    let upkeep = Upkeep {
        settings: instance,
        standings: standings.clone(),
        sight: seen.clone(),
        events: events.clone(),
        calls: calls.clone(),
    };
    tasks.spawn_on(upkeep.work(), hands);
    tasks.spawn_on(opened.keeper.stay(), hands);
    let api = api::Api {
        standings,
        commands: requests,
        clock: clock::now,
        limits: api::Limits::default(),
        doors: opened.doors,
        peers: opened.peers.clone(),
        looks: looks.clone(),
        recorder: recorder.clone(),
        checkups,
        drills,
        store: store.clone(),
    };
    // Whoever asks much waits for others who ask, and for nothing of the agent's.
    threads::alone("rest", || receive(listeners, api, stopped)).context("start the REST server")?;

    let last_word = recorder.clone();
    let desk = Desk {
        events: event_receiver,
        reloads: reloaded,
        leave: asked_to_leave,
        herald: Herald::new(inheritance.line, inheritance.watchdog),
        asks: asked,
        peers: opened.peers,
        answers: events,
        store,
        identity: wishes::identity(&config),
        wishes,
        sight: seen,
        copying,
        looks,
        assignments,
        calls,
        guardian: fence_orders,
        watchdog,
        lease,
        publication,
        standing,
        session,
        recorder,
        addresses,
        scope: config.scope.clone(),
    };
    let end = Office::new(mind, desk).work().await;
    let _ = tokio::task::spawn_blocking(move || last_word.finish(LAST_WORD)).await;
    stop.send_replace(true);
    match end {
        End::InOrder => {
            // One that hangs in the kernel is left to the end of the process.
            let _ = tokio::time::timeout(GOODBYE, tasks.shutdown()).await;
            let _ = tokio::time::timeout(callbacks::LAST_PATIENCE + GOODBYE, last.join_next()).await;
            // A unit's guardian is the unit's.
            if guardian_unit.is_none() {
                dismiss(&fence).await;
            }
        }
        // Whatever runs here is cut short, as by a crash: nobody waits for it, and the next agent finds what it left.
        End::Left => tracing::info!("left; PostgreSQL and the lease are the next agent's"),
    }
    Ok(())
}

async fn receive(listeners: Vec<StdListener>, api: api::Api, mut stopped: watch::Receiver<bool>) {
    settled(api.standings.clone()).await;
    let stop = async move {
        // An agent that has gone stops as well.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let listeners: std::io::Result<Vec<_>> = listeners.into_iter().map(TcpListener::from_std).collect();
    match listeners {
        Ok(listeners) => api::serve(listeners, api, stop).await,
        Err(error) => tracing::error!(%error, "take connections for REST"),
    }
}

/// A balancer that asks a leader whose agent has just been restarted shall not hear that it does not lead, which would be
/// true for the tenth of a second until the lease is taken up again. It waits in the queue of the socket; not for long.
async fn settled(mut standings: watch::Receiver<Arc<Standing>>) {
    let has_settled = |standing: &Arc<Standing>| {
        let view = &standing.view;
        let leads = view.lease_in_force().is_some() || !view.postgres.is_primary();
        view.postgres != Postgres::Unobserved && view.store.contact != Contact::Never && leads
    };
    // Whoever does not settle in time answers with what is known; whoever has gone answers nothing.
    let _ = tokio::time::timeout(SETTLE_WITHIN, standings.wait_for(has_settled)).await;
}

/// A group for PostgreSQL alone, if systemd gave us one to divide. Everything works without it, a little less exactly.
async fn control_group(inheritance: &Inheritance) -> Option<PathBuf> {
    if !inheritance.main_process {
        return None;
    }
    match cgroup::settle().await {
        Ok(group) => group,
        Err(error) => {
            tracing::warn!("PostgreSQL gets no control group of its own: {error:#}");
            None
        }
    }
}

/// Passes on what the store says.
async fn watch_store(store: Store, events: mpsc::Sender<Event>) {
    let mut watch = store.watch();
    loop {
        let event = match watch.next().await {
            StoreEvent::Snapshot { cluster, revision: _ } => {
                Event::Snapshot(Box::new(cluster.as_ref().clone()))
            }
            StoreEvent::Silent { error } => {
                tracing::warn!("{}", sentry::chain(&error));
                Event::StoreSilent
            }
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

async fn follow_signals(
    events: mpsc::Sender<Event>,
    reloads: watch::Sender<Option<Box<Config>>>,
    mut reload_asked: mpsc::Receiver<()>,
    leave: watch::Sender<bool>,
    sources: Sources,
    line: Line,
    log: LogTuner,
) {
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::hangup()),
        signal(SignalKind::user_defined1()),
    );
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut reload), Ok(mut make_way)) = signals else {
        tracing::error!("signals cannot be listened for");
        return;
    };
    loop {
        let event = tokio::select! {
            _ = terminate.recv() => Some(Event::End),
            _ = interrupt.recv() => Some(Event::End),
            _ = reload.recv() => None,
            Some(()) = reload_asked.recv() => None,
            _ = make_way.recv() => {
                leave.send_replace(true);
                continue;
            }
        };
        let Some(event) = event else {
            line.reloading();
            match reread(&sources) {
                Some(config) => {
                    log.take_up(&config.log);
                    reloads.send_replace(Some(Box::new(config)));
                }
                None => line.reloaded(),
            }
            continue;
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

/// A configuration that has become wrong changes nothing.
fn reread(sources: &Sources) -> Option<Config> {
    match crate::config::load(sources) {
        Ok(Loaded { config, warnings, origins: _ }) => {
            for warning in &warnings {
                tracing::warn!("{}", warning.render("configuration").trim_end());
            }
            tracing::info!("the configuration was read again");
            Some(config)
        }
        Err(problems) => {
            tracing::warn!("the configuration is not taken up: {}", problems.to_string().trim_end());
            None
        }
    }
}

/// A guardian of a PostgreSQL that was stopped in good order has nothing left to do, if we have started it.
async fn dismiss(settings: &fence::Settings) {
    let Ok(guardian) = Guardian::connect(settings).await else { return };
    let idle = guardian.status().await.is_ok_and(|status| status.standing.state == fence::State::Idle);
    if let Some(pid) = guardian.pid().filter(|_| idle) {
        // It ends by itself only when nothing is armed; if it has gone already, so much the better.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
    }
}
