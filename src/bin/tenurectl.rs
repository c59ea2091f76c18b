//! The operator's command. It does not exist yet.

fn main() {}
