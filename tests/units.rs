//! The units of systemd/ as systemd-analyze judges them, without a running systemd.

#[path = "units/packages.rs"]
mod packages;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The worst figure that is allowed, in tenths.
const AGENT: u32 = 30;
const GUARDIAN: u32 = 20;
const ADDRESSES: u32 = 25;
const ROUTING: u32 = 15;

const ROUTE: &str = "tenure-route.service";

/// Instances of the units, with programs that exist on any machine; none where there is no systemd-analyze.
fn instances() -> Option<tempfile::TempDir> {
    let there = Command::new("systemd-analyze").arg("--version").stdout(Stdio::null()).status();
    if !there.is_ok_and(|status| status.success()) {
        println!("not run: systemd-analyze is not installed");
        return None;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let route = fs::read_to_string("systemd/tenure-route.service").expect("a unit of ours");
    fs::write(dir.path().join(ROUTE), route.replace("/usr/bin/tenurectl", "/bin/true")).expect("written");
    for name in ["tenured@", "tenure-fence@", "tenure-address@"] {
        let unit = format!("{name}.service");
        let text = fs::read_to_string(Path::new("systemd").join(&unit)).expect("a unit of ours");
        let programs = ["/usr/bin/tenured", "/usr/bin/tenure-fence", "/usr/bin/tenure-address"];
        let text = programs.iter().fold(text, |text, program| text.replace(program, "/bin/true"));
        fs::write(dir.path().join(unit), &text).expect("written");
        fs::write(dir.path().join(format!("{name}x.service")), text).expect("written");
    }
    Some(dir)
}

fn analyze(arguments: &[&str], units: &[PathBuf]) -> (bool, String) {
    let output = Command::new("systemd-analyze")
        .args(arguments)
        .arg("--no-pager")
        .args(units)
        .output()
        .expect("it was there a moment ago");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.success(), said.concat())
}

#[test]
fn systemd_understands_every_line_of_the_units() {
    let Some(dir) = instances() else { return };
    let units = ["tenured@x.service", "tenure-fence@x.service", "tenure-address@x.service", ROUTE]
        .map(|name| dir.path().join(name));
    let (well, said) = analyze(&["verify", "--man=no"], &units);
    // Of other units on this machine it may say what it likes.
    let about_ours: Vec<_> = said.lines().filter(|line| line.contains("tenure")).collect();
    assert!(well && about_ours.is_empty(), "{said}");
}

#[test]
fn the_units_are_hardened_as_far_as_promised() {
    let Some(dir) = instances() else { return };
    for (name, worst) in [
        ("tenured@x.service", AGENT),
        ("tenure-fence@x.service", GUARDIAN),
        ("tenure-address@x.service", ADDRESSES),
        (ROUTE, ROUTING),
    ] {
        let threshold = format!("--threshold={worst}");
        let (well, said) = analyze(&["security", "--offline=true", &threshold], &[dir.path().join(name)]);
        assert!(well && said.contains("Overall exposure level"), "{said}");
    }
}
