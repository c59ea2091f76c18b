//! The daemon: one task that owns the state, and what serves it.
