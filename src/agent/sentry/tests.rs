//! A sentry in front of a guardian that says what the test wants.

use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept, bind, listen, socket};

use super::*;
use crate::fence::wire::{Answer, DATAGRAM_MAX, Refusal, Request, Standing, State};
use crate::model::{Moment, Term};
use std::io::{Read, Write};

/// It is in the middle of a kill, and has done when it has refused an order once.
fn guardian_at_work(settings: &fence::Settings) {
    let flags = SockFlag::SOCK_CLOEXEC;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).expect("a socket");
    bind(listener.as_raw_fd(), &UnixAddr::new(&settings.socket).expect("short")).expect("our own directory");
    listen(&listener, Backlog::new(8).expect("a few")).expect("bound");
    let (term, fence_at) = (Term(7), Moment::from_ms(1));
    let state = Arc::new(Mutex::new(State::Killing { term, fence_at }));
    let data_dir = settings.data_dir.display().to_string();
    std::thread::spawn(move || {
        while let Ok(raw) = accept(listener.as_raw_fd()) {
            // SAFETY: a descriptor that was just made for us.
            let connection = unsafe { UnixStream::from_raw_fd(raw) };
            let (state, data_dir) = (state.clone(), data_dir.clone());
            std::thread::spawn(move || converse(connection, &state, &data_dir));
        }
    });
}

fn converse(mut connection: UnixStream, state: &Mutex<State>, data_dir: &str) {
    let mut buffer = [0u8; DATAGRAM_MAX];
    while let Ok(filled @ 1..) = connection.read(&mut buffer) {
        let mut state = state.lock().expect("nobody panics while holding it");
        let mut refused = None;
        if let Ok(Request::Disarm { term }) = Request::parse(&buffer[..filled]) {
            (refused, *state) = match *state {
                State::Killing { fence_at, .. } => (Some(Refusal::Killing), State::Fenced { term, fence_at }),
                State::Idle | State::Armed { .. } | State::Fenced { .. } => (None, State::Idle),
            };
        }
        let standing = Standing { state: *state, ..Standing::default() };
        let mut text = String::new();
        Answer { refused, standing, report: None, data_dir }.write(&mut text).expect("text grows");
        connection.write_all(text.as_bytes()).expect("the sentry listens");
    }
}

#[tokio::test]
async fn an_order_that_is_refused_in_the_middle_of_a_kill_is_given_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let data_dir = std::fs::canonicalize(dir.path()).expect("it exists");
    let settings = fence::Settings { socket: data_dir.join("socket"), data_dir, binary: None };
    guardian_at_work(&settings);
    let (_orders, orders) = watch::channel(FenceOrder::Disarm);
    let (_sight, sight) = watch::channel(Sight::default());
    let (events, mut told) = mpsc::channel(8);
    let guardian = Guardian::connect(&settings).await.expect("it listens");
    let (_watchdog, watchdog) = watch::channel(None);
    let sentry = Sentry {
        settings,
        unit: None,
        postgres_group: None,
        orders,
        sight,
        events,
        watchdog,
        hands: Handle::current(),
    };
    let disarmed = async {
        while let Some(event) = told.recv().await {
            if matches!(event, Event::Guardian(model::Guardian::Ready { confirmed: FenceOrder::Disarm, .. }))
            {
                return;
            }
        }
        panic!("the sentry is gone");
    };
    tokio::select! {
        () = sentry.stand(Some(guardian)) => panic!("the sentry has left"),
        heard = tokio::time::timeout(Duration::from_secs(30), disarmed) => heard.expect("the guardian to be disarmed"),
    }
}
