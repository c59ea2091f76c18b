//! Run by the unit's ExecStop=: asks systemd whether the unit is to be stopped or only restarted, and for a restart makes
//! the agent leave everything as it is for the next one. Whatever cannot be found out is taken for a stop.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::time::timeout;

use crate::clock;
use crate::model::{Moment, Span};

/// What tells an agent to leave.
pub const SIGNAL: Signal = Signal::SIGUSR1;

const ASK_WITHIN: Duration = Duration::from_secs(5);
/// An agent that cannot leave by itself is made to: it must be able to lose its life at any moment anyhow.
const LEAVE_WITHIN: Span = Span::from_secs(2);
const KILL_WITHIN: Span = Span::from_secs(5);
const AGAIN: Span = Span::from_ms(5);

/// `unit` is about to be stopped or restarted; `main_pid` is what systemd gave as `MAINPID`, nothing if the agent has gone.
pub fn leave_on_restart(unit: &str, main_pid: Option<&str>) -> Result<()> {
    let Some(main_pid) = main_pid.filter(|text| !text.is_empty()) else { return Ok(()) };
    let pid: i32 = main_pid.parse().with_context(|| format!("read MAINPID={main_pid}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("start the runtime")?.block_on(async {
        match job_of(unit).await? {
            Some(job) if job == "restart" => {
                eprintln!("{unit} is restarted: the agent leaves, and PostgreSQL runs on");
                leave(Pid::from_raw(pid)).await
            }
            Some(_) | None => Ok(()),
        }
    })
}

async fn job_of(unit: &str) -> Result<Option<String>> {
    let mut command = Command::new("systemctl");
    command.args(["list-jobs", "--no-legend", "--plain", "--full", "--no-pager"]);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let asked = timeout(ASK_WITHIN, command.output()).await.context("ask systemd for its jobs: no answer")?;
    let output = asked.context("ask systemd for its jobs")?;
    if !output.status.success() {
        bail!("ask systemd for its jobs: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(job_type(&String::from_utf8_lossy(&output.stdout), unit).map(str::to_owned))
}

/// Each line is a number, a unit, what is to become of it, and how far that is.
fn job_type<'a>(jobs: &'a str, unit: &str) -> Option<&'a str> {
    jobs.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let named = words.next()?.bytes().all(|byte| byte.is_ascii_digit()) && words.next()? == unit;
        words.next().filter(|_| named)
    })
}

async fn leave(pid: Pid) -> Result<()> {
    for (signal, within) in [(SIGNAL, LEAVE_WITHIN), (Signal::SIGKILL, KILL_WITHIN)] {
        let until = clock::now() + within;
        if kill(pid, signal).is_err() || is_gone_by(pid, until).await {
            return Ok(());
        }
        eprintln!("the agent (pid {pid}) does not end by {signal}");
    }
    bail!("the agent (pid {pid}) cannot be ended");
}

/// It is systemd's child: until systemd has taken note of its end it stays as a zombie.
async fn is_gone_by(pid: Pid, until: Moment) -> bool {
    let state = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    };
    while state().is_some_and(|state| !"ZX".contains(state)) {
        if until <= clock::now() {
            return false;
        }
        clock::pause(AGAIN).await;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_job_of_the_unit_is_found_among_others() {
        let jobs = "  7 tenured@b.service stop running\n231 tenured@a.service restart running\n9 x.target start waiting\n";
        let check = |unit: &str, expected: Option<&str>| assert_eq!(job_type(jobs, unit), expected, "{unit}");
        check("tenured@a.service", Some("restart"));
        check("tenured@b.service", Some("stop"));
        check("tenured@c.service", None);
        check("tenured@a", None);
        assert_eq!(job_type("No jobs running.\n", "jobs"), None);
        assert_eq!(job_type("", "tenured@a.service"), None);
    }

    #[tokio::test]
    async fn who_has_gone_has_left() {
        let mut child = std::process::Command::new("/bin/sleep").arg("600").spawn().expect("a child");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        // A sleep has no other idea of the signal than to end.
        leave(pid).await.expect("it ends");
        child.wait().expect("our own child");
        leave(pid).await.expect("it has ended");
    }

    #[tokio::test]
    async fn an_agent_that_takes_no_signal_is_killed() {
        let mut child = std::process::Command::new("/bin/sleep").arg("600").spawn().expect("a child");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        kill(pid, Signal::SIGSTOP).expect("it runs");
        leave(pid).await.expect("it ends");
        child.wait().expect("our own child");
    }

    #[test]
    fn nothing_is_done_when_the_agent_has_gone_already() {
        leave_on_restart("x.service", None).expect("nothing to do");
        leave_on_restart("x.service", Some("")).expect("nothing to do");
        assert!(leave_on_restart("x.service", Some("soon")).is_err());
    }
}
