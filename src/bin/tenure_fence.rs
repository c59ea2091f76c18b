//! The guardian. It does not exist yet.

fn main() {}
