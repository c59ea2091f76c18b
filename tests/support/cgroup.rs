//! A control group of a machine: everything in it is frozen, killed and counted at once.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::wait_blocking;

#[derive(Clone, Debug)]
pub struct Group {
    /// The group of version 2 comes first; where the host has both, systemd wants its named one of version 1 as well.
    directories: Vec<PathBuf>,
}

impl Group {
    /// Where the host's groups of version 2 are.
    pub fn available() -> bool {
        unified().is_some_and(|root| fs::metadata(root.join("cgroup.procs")).is_ok())
    }

    pub fn make(name: &str) -> Group {
        let unified = unified().expect("the host has control groups of version 2");
        let named = mounts().into_iter().find_map(Mount::named_systemd);
        let directories = [Some(unified), named].into_iter().flatten().map(|root| root.join(name));
        let group = Group { directories: directories.collect() };
        for directory in &group.directories {
            fs::create_dir_all(directory).expect("root may make control groups");
        }
        group
    }

    pub fn path(&self) -> &Path {
        &self.directories[0]
    }

    /// Where a process says that it is a member: it writes `0`.
    pub fn doors(&self) -> Vec<fs::File> {
        let open = |directory: &PathBuf| fs::File::options().write(true).open(directory.join("cgroup.procs"));
        self.directories.iter().map(|directory| open(directory).expect("a control group of ours")).collect()
    }

    pub fn freeze(&self) {
        self.write("cgroup.freeze", "1");
        wait_blocking("a frozen control group", || self.events().contains("frozen 1").then_some(()));
    }

    pub fn thaw(&self) {
        self.write("cgroup.freeze", "0");
        wait_blocking("a thawed control group", || self.events().contains("frozen 0").then_some(()));
    }

    /// Kills everybody, frozen or not, without waiting for them to be gone.
    pub fn kill(&self) {
        self.write("cgroup.kill", "1");
    }

    pub fn populated(&self) -> bool {
        self.events().contains("populated 1")
    }

    /// Removes the group and those below it, once nobody is left.
    pub fn remove(&self) {
        self.kill();
        wait_blocking("a control group to be empty", || (!self.populated()).then_some(()));
        for directory in &self.directories {
            remove_below(directory);
            let _ = fs::remove_dir(directory);
        }
    }

    /// As it was made: thawed, with no group below it.
    pub fn clear(&self) {
        self.thaw();
        for directory in &self.directories {
            remove_below(directory);
        }
    }

    fn events(&self) -> String {
        fs::read_to_string(self.path().join("cgroup.events")).unwrap_or_default()
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.path().join(file);
        let written =
            fs::File::options().write(true).open(&path).and_then(|mut f| f.write_all(text.as_bytes()));
        written.unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    }
}

/// A machine's last breath may still be in a group of version 1; whoever sweeps after the run finds it.
fn remove_below(directory: &Path) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_below(&entry.path());
        let _ = fs::remove_dir(entry.path());
    }
}

struct Mount {
    target: PathBuf,
    kind: String,
    options: String,
}

impl Mount {
    fn named_systemd(self) -> Option<PathBuf> {
        (self.kind == "cgroup" && self.options.split(',').any(|o| o == "name=systemd")).then_some(self.target)
    }
}

fn mounts() -> Vec<Mount> {
    let text = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mount = |line: &str| {
        let mut words = line.split(' ').skip(1).map(str::to_owned);
        Some(Mount { target: words.next()?.into(), kind: words.next()?, options: words.next()? })
    };
    text.lines().filter_map(mount).collect()
}

fn unified() -> Option<PathBuf> {
    mounts().into_iter().find(|mount| mount.kind == "cgroup2").map(|mount| mount.target)
}
