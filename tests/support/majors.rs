//! The PostgreSQL programs that the tests run with: `TENURE_TEST_PG_BINDIRS`, or the newest of the system's and those that
//! `make setup` has fetched.

use std::path::{Path, PathBuf};

use tenure::postgres::installed_majors;

/// The system's own comes first.
pub fn bin_dirs() -> Vec<PathBuf> {
    if let Some(list) = std::env::var_os("TENURE_TEST_PG_BINDIRS").filter(|list| !list.is_empty()) {
        return std::env::split_paths(&list).collect();
    }
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/postgresql");
    // Links; whoever runs the programs need not be able to read the way to them.
    let fetched = ["16", "18"].map(|major| fetched.join(major).join("bin").canonicalize());
    let system = installed_majors().pop().map(|(_, path)| path);
    let found: Vec<PathBuf> = system.into_iter().chain(fetched.into_iter().flatten()).collect();
    assert!(!found.is_empty(), "PostgreSQL is not installed: run `make setup`");
    found
}
