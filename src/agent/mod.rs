//! The daemon: one task that owns the state (`office`), and what serves it.
//!
//! `keeper` renews the lease on a thread of its own, `sentry` speaks with the guardian, `eyes` look at PostgreSQL, `workshop`
//! works on it, `errands` and `publisher` write to the store, `requests` are what REST asks for, `upkeep` does the chores.

mod errands;
mod eyes;
mod home;
mod keeper;
mod office;
mod publisher;
mod requests;
mod sentry;
mod upkeep;
mod wishes;
mod workshop;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::config::{Config, Loaded, Sources};
use crate::decide::decide;
use crate::decide::mind::{Event, LeaseOrders, Mind};
use crate::fence::{self, Guardian, LeaseLink};
use crate::model::{Facts, FenceOrder, SessionId, Span, Standing};
use crate::store::{Store, StoreEvent, StoreSettings};
use crate::{api, clock};
use eyes::{Eyes, Sight};
use home::Home;
use keeper::KeeperSettings;
use office::{Desk, Office};
use sentry::Sentry;
use upkeep::Upkeep;
use wishes::Wishes;
use workshop::Workshop;

/// More than everybody together can have to say between two turns of the loop.
const EVENTS: usize = 256;
const ASSIGNMENTS: usize = 16;
const REQUESTS: usize = 16;
/// A write to the store may take this long; what waits longer is asked for anew.
const STORE_WITHIN: Duration = Duration::from_secs(5);
/// The guardian answers within milliseconds, or something is wrong with it.
const GUARDIAN_WITHIN: Span = Span::from_ms(200);

/// Runs one member until an orderly end.
pub fn run(config: Config, sources: Sources) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("start the runtime")?.block_on(serve(config, sources))
}

async fn serve(config: Config, sources: Sources) -> Result<()> {
    let home = Home::open(&config)?;
    let listener = listen(&config).await?;
    let fence = fence::Settings {
        socket: home.guardian_socket(),
        data_dir: config.postgresql.data_dir.clone(),
        binary: config.tenure.guardian.clone(),
    };
    // Before the first decision: a primary whose guardian still counts must not be taken for an unguarded one.
    let guardian =
        Guardian::ensure(&fence).await.map_err(|error| tracing::error!("{}", sentry::chain(&error))).ok();
    tracing::info!(scope = config.scope, member = %config.name, "tenured {} begins", env!("CARGO_PKG_VERSION"));

    let store_settings = wishes::store(&config);
    let former = home.session();
    if let Some((id, Some(secret))) = &former {
        store_settings.adopt_session(*id, secret);
    }
    let former = former.map(|(id, _)| id);
    let (wishes, instance) = Wishes::new(config.clone());
    let mut mind = Mind::new(config.name.clone(), config.tags.clone(), wishes.policy(), former.is_some());
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
    let (requests, requested) = mpsc::channel(REQUESTS);
    let (lease, lease_orders) = watch::channel(LeaseOrders::default());
    let (fence_orders, fence_ordered) = watch::channel(FenceOrder::Keep);
    let (sight, seen) = watch::channel(Sight::default());
    let (publication, published) = watch::channel(None);
    let (session, session_known) = watch::channel(None);
    let first = Standing { view: mind.view().clone(), plan: decide(mind.view()), facts: Facts::default() };
    let (standing, standings) = watch::channel(Arc::new(first));
    let (reloads, reloaded) = watch::channel(None);
    let (stop, stopped) = watch::channel(false);

    keeper::start(KeeperSettings {
        me: config.name.clone(),
        store: store_settings.clone(),
        orders: lease_orders,
        events: events.clone(),
        guardian: LeaseLink::new(home.guardian_socket(), GUARDIAN_WITHIN),
        former,
    })
    .context("start the lease keeper")?;

    let mut tasks = JoinSet::new();
    let eyes =
        Eyes { settings: instance.clone(), events: events.clone(), finished: finished_receiver, sight };
    tasks.spawn(eyes.look());
    tasks.spawn(Workshop { settings: instance.clone(), assignments: assigned, finished }.work());
    tasks.spawn(publisher::publish(store.clone(), config.name.clone(), published, STORE_WITHIN));
    tasks.spawn(requests::serve(store.clone(), requested, STORE_WITHIN));
    tasks.spawn(watch_store(store.clone(), events.clone()));
    tasks.spawn(remember_session(home, store_settings, session_known));
    tasks.spawn(follow_signals(events.clone(), reloads, sources));
    let sentry = Sentry {
        settings: fence.clone(),
        orders: fence_ordered,
        sight: seen.clone(),
        events: events.clone(),
    };
    tasks.spawn(sentry.stand(guardian));
    tasks.spawn(Upkeep { settings: instance, standings: standings.clone(), sight: seen.clone() }.work());
    let api = api::Api { standings, commands: requests, clock: clock::now, limits: api::Limits::default() };
    let mut until_stop = stopped;
    tasks.spawn(api::serve(listener, api, async move {
        // An agent that has gone stops as well.
        let _ = until_stop.wait_for(|stop| *stop).await;
    }));

    let desk = Desk {
        events: event_receiver,
        reloads: reloaded,
        answers: events,
        store,
        identity: wishes::identity(&config),
        wishes,
        sight: seen,
        assignments,
        guardian: fence_orders,
        lease,
        publication,
        standing,
        session,
        scope: config.scope.clone(),
    };
    Office::new(mind, desk).work().await;
    stop.send_replace(true);
    tasks.shutdown().await;
    dismiss(&fence).await;
    Ok(())
}

async fn listen(config: &Config) -> Result<TcpListener> {
    let listen = &config.restapi.listen;
    let host = match listen.hosts.first().map(String::as_str) {
        None | Some("*") => "0.0.0.0",
        Some(host) => host,
    };
    let address = (host, listen.port);
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {host}:{} (restapi.listen)", listen.port))
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

/// Keeps the number of the session where the next life of this agent finds it.
async fn remember_session(home: Home, store: StoreSettings, mut session: watch::Receiver<Option<SessionId>>) {
    while session.changed().await.is_ok() {
        let Some(id) = *session.borrow_and_update() else { continue };
        let (home, secret) = (home.clone(), store.session_secret(id));
        let written = tokio::task::spawn_blocking(move || home.remember_session(id, secret.as_ref())).await;
        if let Ok(Err(error)) = written {
            tracing::warn!("{error:#}; a restarted agent will have to wait for the end of its own lease");
        }
    }
}

async fn follow_signals(
    events: mpsc::Sender<Event>,
    reloads: watch::Sender<Option<Box<Config>>>,
    sources: Sources,
) {
    let signals =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()));
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut reload)) = signals else {
        tracing::error!("signals cannot be listened for");
        return;
    };
    loop {
        let event = tokio::select! {
            _ = terminate.recv() => Event::End,
            _ = interrupt.recv() => Event::End,
            _ = reload.recv() => {
                if let Some(config) = reread(&sources) {
                    reloads.send_replace(Some(Box::new(config)));
                }
                continue;
            }
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

/// A configuration that has become wrong changes nothing.
fn reread(sources: &Sources) -> Option<Config> {
    match crate::config::load(sources) {
        Ok(Loaded { config, warnings }) => {
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
