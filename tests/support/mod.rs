//! What the tests on real processes share. A test waits for a condition with a deadline, never for a time.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::time::{Duration, Instant};

pub mod lab;
pub mod netns;
pub mod writer;

/// A condition that takes longer than this will never come.
pub const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// Waits until `condition` gives something.
pub async fn wait_for<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(result) = condition().await {
            return result;
        }
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// The same where nothing is asynchronous.
pub fn wait_blocking<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(result) = condition() {
            return result;
        }
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(POLL);
    }
}
