//! The commands that stop one agent without its PostgreSQL, and start the other. They are lines of shell, so that what is printed
//! is what is run.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::super::console::echo;
use super::here::{Here, Kind, instance_file};

/// How agents are stopped and started here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Means {
    Units(Names),
    /// What the operator says, in whatever direction this goes.
    Commands {
        stop: String,
        start: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// As the operator says.
    pub patroni: Option<String>,
    pub instance: String,
}

/// The properties of a unit that systemd has loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unit {
    pub name: String,
    /// None where nothing runs.
    pub main_pid: Option<i32>,
    pub user: String,
    /// The names of the agent's variables that it sets, by itself or by files. Values may be secrets.
    pub variables: Vec<String>,
}

const DROP_IN: &str = "90-tenure-migrate.conf";
const USUAL_PATRONI: &str = "patroni.service";

impl Names {
    pub fn new(patroni: Option<&str>, instance: &str) -> Result<Names> {
        for name in patroni.into_iter().chain([instance]) {
            // They become parts of paths and of lines of shell.
            let fits = |c: char| c.is_ascii_alphanumeric() || "@._-:\\".contains(c);
            if name.is_empty() || name.starts_with(['-', '.']) || !name.chars().all(fits) {
                bail!("{name:?} cannot be the name of a unit");
            }
        }
        let whole = |name: &str| if name.contains('.') { name.to_owned() } else { format!("{name}.service") };
        Ok(Names { patroni: patroni.map(whole), instance: instance.to_owned() })
    }

    /// Said by the operator, or told by the running process, or the usual one.
    pub fn patroni(&self, here: &Here) -> String {
        let running = (here.processes.iter()).find(|process| process.kind == Kind::Patroni);
        let own = || running.and_then(|process| process.unit.clone());
        self.patroni.clone().or_else(own).unwrap_or_else(|| USUAL_PATRONI.to_owned())
    }

    pub fn agent(&self) -> String {
        format!("tenured@{}.service", self.instance)
    }

    pub fn guardian(&self) -> String {
        format!("tenure-fence@{}.service", self.instance)
    }
}

/// The unit as systemd has it; none if it does not know it, or if there is no systemd.
pub fn look(name: &str) -> Option<Unit> {
    let properties = "--property=LoadState,MainPID,User,Environment,EnvironmentFiles";
    let output = Command::new("systemctl")
        .args(["show", properties, "--", name])
        .stdin(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    read(name, &String::from_utf8_lossy(&output.stdout))
}

fn read(name: &str, text: &str) -> Option<Unit> {
    let value = |key: &str| {
        let lines = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        lines.collect::<Vec<_>>().join(" ")
    };
    let set_here = value("Environment");
    // Each is followed by `(ignore_errors=yes)` or no.
    let files = value("EnvironmentFiles");
    let files = files.split_whitespace().filter(|word| word.starts_with('/'));
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let set_by_files: String = files.map(|path| read(path) + "\n").collect();
    let words = set_here.split_whitespace().chain(set_by_files.lines().map(str::trim));
    let names = words.filter_map(|word| Some(word.split_once('=')?.0.trim_matches(['"', '\''])));
    (value("LoadState") == "loaded").then(|| Unit {
        name: name.to_owned(),
        main_pid: value("MainPID").parse().ok().filter(|pid| *pid != 0),
        user: value("User"),
        variables: names.filter(|name| crate::config::is_our_variable(name)).map(str::to_owned).collect(),
    })
}

/// Ends an agent and leaves its PostgreSQL. A unit's own way to stop would stop PostgreSQL as well, so for this one stop it gets
/// another one, which is gone with the next boot whatever happens.
pub fn stop_lines(kind: Kind, names: &Names, patroni: &str) -> Vec<String> {
    let unit = match kind {
        Kind::Patroni => patroni.to_owned(),
        Kind::Tenure => names.agent(),
    };
    let mut lines = Vec::new();
    match kind {
        // Patroni stops PostgreSQL on every signal that it can hear, unless the cluster is paused.
        Kind::Patroni => lines.extend(drop_in(&unit, &service("KillSignal=SIGKILL"))),
        Kind::Tenure => {
            lines.extend(drop_in(&unit, &service("KillSignal=SIGUSR1")));
            let guardian = ["[Unit]", "RefuseManualStop=no", "[Service]", "Restart=no"];
            lines.extend(drop_in(&names.guardian(), &guardian));
        }
    }
    lines.push("systemctl daemon-reload".to_owned());
    lines.push(format!("systemctl stop {unit}"));
    match kind {
        Kind::Patroni => lines.push(format!("systemctl disable {unit}")),
        Kind::Tenure => {
            lines.push(format!("systemctl stop {}", names.guardian()));
            lines.push(format!("systemctl disable {unit} {}", names.guardian()));
        }
    }
    lines
}

pub fn start_lines(kind: Kind, names: &Names, patroni: &str, file: &Path) -> Vec<String> {
    let (agent, guardian) = (names.agent(), names.guardian());
    let drop_ins = [patroni, &agent, &guardian].map(|unit| format!("{}/{DROP_IN}", directory(unit)));
    let mut lines = vec![
        format!("rm -f {}", drop_ins.map(|path| quoted(&path)).join(" ")),
        "systemctl daemon-reload".to_owned(),
    ];
    match kind {
        Kind::Patroni => lines.push(format!("systemctl enable --now {patroni}")),
        Kind::Tenure => {
            // Killed as it was, the unit counts as failed.
            lines.push(format!("systemctl reset-failed {patroni} || true"));
            let (own, given) = (instance_file(&names.instance), file.display().to_string());
            if own != file {
                let own = quoted(&own.display().to_string());
                lines.push(format!(
                    "install -d /etc/tenure && [ -e {own} ] || cp -p {} {own}",
                    quoted(&given)
                ));
            }
            lines.push(format!("systemctl enable --now {guardian} {agent}"));
        }
    }
    lines
}

/// What to type where there is neither a unit nor a command for it.
pub fn stop_by_hand(kind: Kind, here: &Here) -> Vec<String> {
    let signal = match kind {
        Kind::Patroni => "KILL",
        Kind::Tenure => "USR1",
    };
    let own = here.processes.iter().filter(|process| process.kind == kind);
    own.map(|process| format!("kill -s {signal} {}", process.pid)).collect()
}

/// Each line in turn, until one fails.
pub fn run(lines: &[String]) -> Result<()> {
    for line in lines {
        echo(format!("  {line}"))?;
        let status =
            Command::new("sh").args(["-c", line]).stdin(Stdio::null()).status().context("start sh")?;
        if !status.success() {
            bail!("{line}: {status}");
        }
    }
    Ok(())
}

fn service(kill_signal: &str) -> Vec<&str> {
    // A directory below /run may hold what PostgreSQL uses.
    let keeps = "RuntimeDirectoryPreserve=yes";
    vec!["[Service]", "ExecStop=", "ExecStopPost=", "Restart=no", keeps, "KillMode=process", kill_signal]
}

fn drop_in(unit: &str, content: &[&str]) -> [String; 2] {
    let directory = directory(unit);
    let words: Vec<String> = content.iter().map(|line| quoted(line)).collect();
    let file = quoted(&format!("{directory}/{DROP_IN}"));
    [format!("mkdir -p {}", quoted(&directory)), format!("printf '%s\\n' {} > {file}", words.join(" "))]
}

fn directory(unit: &str) -> String {
    format!("/run/systemd/system/{unit}.d")
}

/// As one word of a line of shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-@=:+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names::new(None, "main").expect("a good name")
    }

    #[test]
    fn patronis_unit_is_stopped_without_its_own_way_to_stop() {
        let lines = stop_lines(Kind::Patroni, &names(), "patroni.service");
        let text = "\
mkdir -p /run/systemd/system/patroni.service.d
printf '%s\\n' '[Service]' ExecStop= ExecStopPost= Restart=no \
RuntimeDirectoryPreserve=yes KillMode=process KillSignal=SIGKILL > \
/run/systemd/system/patroni.service.d/90-tenure-migrate.conf
systemctl daemon-reload
systemctl stop patroni.service
systemctl disable patroni.service";
        assert_eq!(lines.join("\n"), text);
    }

    #[test]
    fn an_instances_file_is_copied_once_and_never_replaced() {
        let file = Path::new("/etc/patroni/it's mine.yml");
        let lines = start_lines(Kind::Tenure, &names(), "patroni.service", file);
        let copy = lines.iter().find(|line| line.contains("cp -p")).expect("it is copied");
        assert_eq!(
            copy,
            "install -d /etc/tenure && [ -e /etc/tenure/main.yml ] || cp -p '/etc/patroni/it'\\''s mine.yml' /etc/tenure/main.yml"
        );
        let own = start_lines(Kind::Tenure, &names(), "patroni.service", Path::new("/etc/tenure/main.yml"));
        assert!(!own.iter().any(|line| line.contains("cp ")), "{own:?}");
    }

    #[test]
    fn a_units_name_cannot_be_a_line_of_shell() {
        for wrong in ["", "a b", "x;reboot", "-x", "../x", "$(x)"] {
            assert!(Names::new(Some(wrong), "main").is_err(), "{wrong}");
            assert!(Names::new(None, wrong).is_err(), "{wrong}");
        }
        let names = Names::new(Some("patroni@17-main"), "17-main").expect("good names");
        assert_eq!(names.patroni.as_deref(), Some("patroni@17-main.service"));
    }

    #[test]
    fn only_a_unit_that_is_loaded_is_one() {
        let text = "LoadState=loaded\nMainPID=169\nUser=postgres\nEnvironment=LANG=C PATRONI_NAME=hunter2\n\
                    EnvironmentFiles=/nonexistent (ignore_errors=yes)\n";
        let unit = read("patroni.service", text).expect("loaded");
        assert_eq!(unit.main_pid, Some(169));
        assert_eq!((unit.user.as_str(), unit.variables), ("postgres", vec!["PATRONI_NAME".to_owned()]));
        assert_eq!(read("x", "LoadState=not-found\n"), None);
    }
}
