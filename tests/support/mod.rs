//! What the tests on real processes share. A test waits for a condition with a deadline, never for a time.

#![allow(dead_code, reason = "each test binary uses its own part")]

use tenure::clock;
use tenure::model::Span;

pub mod browser;
pub mod cgroup;
pub mod disk;
pub mod haproxy;
pub mod lab;
pub mod machine;
pub mod machines;
pub mod majors;
pub mod netns;
pub mod rest;
pub mod store_server;
pub mod watchdog_device;
pub mod writer;
pub mod zookeeper;

/// A condition that takes longer than this will never come.
pub const PATIENCE: Span = Span::from_secs(60);
const POLL: Span = Span::from_ms(20);

/// Waits until `condition` gives something.
pub async fn wait_for<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let give_up = clock::now() + PATIENCE;
    loop {
        if let Some(result) = condition().await {
            return result;
        }
        assert!(clock::now() < give_up, "waited {PATIENCE} for {what}");
        clock::pause(POLL).await;
    }
}

/// The same where nothing is asynchronous.
pub fn wait_blocking<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let give_up = clock::now() + PATIENCE;
    loop {
        if let Some(result) = condition() {
            return result;
        }
        assert!(clock::now() < give_up, "waited {PATIENCE} for {what}");
        std::thread::park_timeout(POLL.as_duration());
    }
}
