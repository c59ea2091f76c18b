//! Who runs where. Each wakes as few threads as it can: most of what an idle agent costs is one thread that wakes another.

use std::future::Future;
use std::io;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use tokio::runtime::{Builder, Runtime};

/// Working on PostgreSQL, the chores, the operator's programs, and one to spare.
const HANDS: usize = 4;

pub struct Threads {
    /// The loop and whoever serves it, on the main thread: none of them waits for a disk, or works for long.
    pub desk: Runtime,
    /// Whoever touches the disk: one that hangs in the kernel must not be missed by the loop.
    pub hands: Runtime,
}

impl Threads {
    pub fn start() -> Result<Threads> {
        let desk = Builder::new_current_thread().enable_all().build().context("start the loop")?;
        let mut hands = Builder::new_multi_thread();
        let hands = hands.worker_threads(HANDS).thread_name("hands").enable_all().build();
        Ok(Threads { desk, hands: hands.context("start the threads that touch the disk")? })
    }

    /// What an agent that ends need not wait for: a disk, mostly.
    pub fn leave(self) {
        self.hands.shutdown_background();
        self.desk.shutdown_background();
    }
}

/// Begins on a thread with a runtime of its own, which waits for nobody else.
pub fn alone<Work: Future<Output = ()>>(
    name: &str,
    begin: impl FnOnce() -> Work + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let runtime = Builder::new_current_thread().thread_name(name).enable_all().build()?;
    thread::Builder::new().name(name.to_owned()).spawn(move || runtime.block_on(async { begin().await }))
}
