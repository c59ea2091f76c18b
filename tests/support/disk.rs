//! A disk of a node's own: a filesystem in a file, which can be filled to the brim and made to take no writes. Needs root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::statvfs::statvfs;

pub struct OwnDisk {
    pub path: PathBuf,
    image: PathBuf,
    frozen: Option<Child>,
}

impl OwnDisk {
    /// Makes it and mounts it at `path`.
    pub fn mount(path: PathBuf, megabytes: u64) -> OwnDisk {
        let image = path.with_extension("img");
        fs::create_dir(&path).expect("our own directory");
        fs::File::create(&image).and_then(|file| file.set_len(megabytes << 20)).expect("a sparse file");
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&path));
        OwnDisk { path, image, frozen: None }
    }

    /// From now on every write waits in the kernel. It thaws at the latest when this process ends, however it ends.
    pub fn freeze(&mut self) {
        run(Command::new("fsfreeze").arg("-f").arg(&self.path));
        let thaw = "read _; exec fsfreeze -u \"$0\"";
        let mut command = Command::new("sh");
        command.args(["-c", thaw]).arg(&self.path).stdin(Stdio::piped());
        self.frozen = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a shell"));
    }

    pub fn thaw(&mut self) {
        if let Some(mut child) = self.frozen.take() {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }

    /// Leaves less than the next WAL segment needs. PostgreSQL may take some of the room meanwhile, so it is looked at anew
    /// until no more than that is left.
    pub fn fill(&self) {
        const LEFT: u64 = 6 << 20;
        let mut filled = 0;
        for _ in 0..50 {
            let disk = statvfs(&self.path).expect("it is mounted");
            let free = disk.blocks_available() * disk.fragment_size();
            let Some(length) = free.checked_sub(LEFT).filter(|length| 0 < *length) else { return };
            let mut command = Command::new("fallocate");
            command.args(["-o", &filled.to_string(), "-l", &length.to_string()]).arg(self.ballast());
            if command.output().expect("the tool is installed").status.success() {
                filled += length;
            }
        }
        panic!("{} does not get full", self.path.display());
    }

    pub fn clear(&self) {
        fs::remove_file(self.ballast()).expect("it was filled");
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for OwnDisk {
    fn drop(&mut self) {
        self.thaw();
        // Lazily: what is left there by a test that failed must not keep it.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
        let _ = fs::remove_file(&self.image);
    }
}

/// May this user mount a filesystem in a file?
pub fn available() -> bool {
    nix::unistd::geteuid().is_root()
        && Path::new("/dev/loop-control").exists()
        && Command::new("fsfreeze").arg("--version").output().is_ok_and(|output| output.status.success())
}

fn run(command: &mut Command) {
    let output = command.output().expect("the tool is installed");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
