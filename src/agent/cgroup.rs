//! The control groups of a service: `agent/` for us and our tools, `postgres/` for PostgreSQL alone, so that the guardian
//! can end all of it with one write. Only below a group that systemd has given to this very process.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::clock;
use crate::model::Span;

/// How long the tools of a former life are given to go.
const SWEEP: Span = Span::from_secs(5);
const AGAIN: Span = Span::from_ms(10);

/// What may stand beside an agent and must outlive it: a PostgreSQL that could not be put elsewhere, a guardian without
/// a unit of its own.
const SPARED: [&str; 5] = ["postgres", "postmaster", "edb-postgres", "edb-postmaster", "tenure-fence"];

/// Makes the groups, ends what the tools of a former life still do, and moves this process. Returns the group for PostgreSQL;
/// none where there is no control group that is ours alone.
pub async fn settle() -> Result<Option<PathBuf>> {
    let text = |path: &str| fs::read_to_string(path).with_context(|| format!("read {path}"));
    let Some(unit) = unit_directory(&text("/proc/self/mountinfo")?, &text("/proc/self/cgroup")?) else {
        return Ok(None);
    };
    let (ours, postgres) = (unit.join("agent"), unit.join("postgres"));
    for group in [&ours, &postgres] {
        if let Err(error) = fs::create_dir(group)
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(error)
                .with_context(|| format!("make {} (the unit needs Delegate=yes)", group.display()));
        }
    }
    sweep(&ours).await;
    let members = ours.join("cgroup.procs");
    fs::write(&members, std::process::id().to_string())
        .with_context(|| format!("write {}", members.display()))?;
    Ok(Some(postgres))
}

/// Does this process live in that group?
pub fn holds(group: &Path, pid: i32) -> bool {
    let found = fs::read_to_string(format!("/proc/{pid}/cgroup"));
    found.is_ok_and(|text| own_path(&text).is_some_and(|path| is_same_group(group, Path::new(path))))
}

/// One unit's groups differ in their last parts. What stands before them depends on who looks, and from where.
fn is_same_group(directory: &Path, path: &Path) -> bool {
    let unit_and_part = |path: &Path| {
        let parts: Vec<_> = path.components().rev().take(2).map(|part| part.as_os_str().to_owned()).collect();
        parts
    };
    unit_and_part(directory) == unit_and_part(path)
}

/// A pg_basebackup that nobody waits for any more would write into what the next one makes.
async fn sweep(group: &Path) {
    let until = clock::now() + SWEEP;
    loop {
        let left = left_behind(group);
        if left.is_empty() {
            return;
        }
        if until <= clock::now() {
            tracing::warn!("processes of a former life of this agent do not end: {left:?}");
            return;
        }
        for pid in left {
            // That it has just ended by itself is no error.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        clock::pause(AGAIN).await;
    }
}

fn left_behind(group: &Path) -> Vec<i32> {
    let members = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let own = Pid::this().as_raw();
    let name = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    // Another control group namespace shows as 0.
    let others = members.lines().filter_map(|line| line.parse().ok()).filter(|&pid| 0 < pid && pid != own);
    others.filter(|&pid| !SPARED.contains(&name(pid).trim_end())).collect()
}

/// The directory of our unit's own group in version 2, which on hybrid systems lies beside those of version 1.
fn unit_directory(mountinfo: &str, cgroup: &str) -> Option<PathBuf> {
    let (root, mount_point) = unified_mount(mountinfo)?;
    let path = own_path(cgroup)?;
    // After a restart of ourselves by exec we stand in `agent/` already.
    let unit = path.strip_suffix("/agent").unwrap_or(path);
    let inside = if root == "/" { unit } else { unit.strip_prefix(root)? };
    unit.ends_with(".service").then(|| Path::new(mount_point).join(inside.trim_start_matches('/')))
}

/// What of the tree is mounted, and where.
fn unified_mount(mountinfo: &str) -> Option<(&str, &str)> {
    let line = mountinfo.lines().find(|line| line.contains(" - cgroup2 "))?;
    let mut fields = line.split(' ').skip(3);
    Some((fields.next()?, fields.next()?))
}

fn own_path(cgroup: &str) -> Option<&str> {
    cgroup.lines().find_map(|line| line.strip_prefix("0::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIFIED: &str = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
    const HYBRID: &str = "30 25 0:26 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                          31 25 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_group_of_the_unit_is_found_wherever_it_is_mounted() {
        let check = |mountinfo: &str, cgroup: &str, expected: Option<&str>| {
            assert_eq!(unit_directory(mountinfo, cgroup), expected.map(PathBuf::from), "{cgroup}");
        };
        let path = "0::/system.slice/system-tenured.slice/tenured@a.service\n";
        let below = "system.slice/system-tenured.slice/tenured@a.service";
        check(UNIFIED, path, Some(&format!("/sys/fs/cgroup/{below}")));
        check(
            HYBRID,
            &format!("1:name=systemd:/x\n{path}"),
            Some(&format!("/sys/fs/cgroup/unified/{below}")),
        );
        check(
            UNIFIED,
            "0::/a.slice/tenured@a.service/agent\n",
            Some("/sys/fs/cgroup/a.slice/tenured@a.service"),
        );
        let part = "35 24 0:30 /machine/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        check(part, "0::/machine/x/t.service\n", Some("/sys/fs/cgroup/t.service"));
        check(part, "0::/elsewhere/t.service\n", None);
    }

    #[test]
    fn a_process_is_in_the_group_that_the_kernel_says() {
        let group = Path::new("/sys/fs/cgroup/unified/system.slice/tenured@a.service/postgres");
        let check =
            |path: &str, same: bool| assert_eq!(is_same_group(group, Path::new(path)), same, "{path}");
        check("/system.slice/tenured@a.service/postgres", true);
        check("/tenured@a.service/postgres", true);
        check("/system.slice/tenured@a.service/agent", false);
        check("/system.slice/tenured@b.service/postgres", false);
        check("/system.slice/tenured@a.service", false);
        check("/", false);
    }

    #[test]
    fn what_is_no_service_is_nobodys_to_divide() {
        for cgroup in ["0::/\n", "0::/user.slice/session-1.scope\n", "4:memory:/x.service\n", ""] {
            assert_eq!(unit_directory(UNIFIED, cgroup), None, "{cgroup}");
        }
        assert_eq!(unit_directory("", "0::/t.service\n"), None);
    }
}
