//! The store in our words: snapshots, sessions, the lease, and the few keys that are compared and set.

pub mod format;
