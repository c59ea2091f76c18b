//! What the packages are made from, as far as it can be judged in seconds: the list of contents, the scripts, the examples.
//! The packages themselves: `make test-packages`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One line of packaging/contents.
struct Entry {
    family: String,
    kind: String,
    mode: String,
    to: String,
    from: String,
}

fn contents() -> Vec<Entry> {
    let text = fs::read_to_string("packaging/contents").expect("the list of contents");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let Ok([family, kind, mode, to, from]) = <[String; 5]>::try_from(words) else {
                panic!("five words are wanted: {line}")
            };
            Entry { family, kind, mode, to, from }
        })
        .collect()
}

fn files(directory: &str) -> Vec<PathBuf> {
    let found = fs::read_dir(directory).unwrap_or_else(|error| panic!("read {directory}: {error}"));
    let mut found: Vec<PathBuf> =
        found.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    found.sort();
    found
}

/// What a tool says, or nothing where it is not installed.
fn judged_by(tool: &str, arguments: &[&str], files: &[PathBuf]) -> Option<(bool, String)> {
    let Ok(output) = Command::new(tool).args(arguments).args(files).stdin(Stdio::null()).output() else {
        println!("not run: {tool} is not installed");
        return None;
    };
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Some((output.status.success(), said.concat()))
}

#[test]
fn every_line_of_the_contents_is_sound_and_has_its_source() {
    let made = ["bin/tenured", "bin/tenurectl", "bin/tenure-fence", "bin/tenure-address", "licences.txt"];
    let completions = ["bash", "zsh", "fish"].map(|shell| format!("completions/tenurectl.{shell}"));
    let mut targets = BTreeSet::new();
    for Entry { family, kind, mode, to, from } in contents() {
        assert!(["both", "deb", "rpm"].contains(&family.as_str()), "{to}: {family}");
        assert!(["0755", "0644", "0640"].contains(&mode.as_str()), "{to}: {mode}");
        assert_eq!(kind == "dir", from == "-", "{to}: a directory comes from nowhere");
        // A file of the administrator's is never overwritten, and what we own is not where administrators write.
        assert_eq!(kind == "conf", kind != "dir" && to.starts_with("/etc/"), "{to}: {kind}");
        if let Some(from) = from.strip_prefix('@') {
            assert!(made.contains(&from) || completions.iter().any(|known| known == from), "{to}: {from}");
        } else if let Some(directory) = from.strip_suffix("/*.md") {
            assert!(to.ends_with('/') && !files(directory).is_empty(), "{to}: {from}");
        } else {
            assert!(from == "-" || Path::new(&from).is_file(), "{to}: {from} is not there");
        }
        for family in if family == "both" { vec!["deb", "rpm"] } else { vec![family.as_str()] } {
            assert!(targets.insert((family.to_owned(), to.clone())), "{to} is there twice");
        }
    }
}

#[test]
fn every_unit_and_every_file_made_for_packages_is_packed() {
    let build = fs::read_to_string("packaging/build").expect("the build");
    let packed: BTreeSet<PathBuf> = contents().into_iter().map(|entry| entry.from.into()).collect();
    let made_for_packages = ["packaging/files", "packaging/journal", "packaging/deb", "packaging/rpm"];
    let judges = ["packaging/rpm/rpmlint.toml"];
    for file in made_for_packages.into_iter().flat_map(files) {
        let name = file.file_name().and_then(|name| name.to_str()).expect("a name of ours");
        let used = packed.contains(&file)
            || judges.iter().any(|judge| file == Path::new(judge))
            || name.ends_with(".8")
            || ["postinst", "prerm", "postrm", "tenure.spec.in"].contains(&name) && build.contains(name);
        assert!(used, "{} is in no package", file.display());
    }
    for unit in files("systemd") {
        let is_unit = unit.extension().is_some_and(|kind| kind != "md");
        assert!(!is_unit || packed.contains(&unit), "{} is in no package", unit.display());
    }
}

#[test]
fn scripts_please_shellcheck() {
    let interpreter = |path: &PathBuf| {
        let text = fs::read(path).expect("a file of ours");
        let first = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
        [&b"#!/bin/sh"[..], b"#!/bin/bash"].contains(&first)
    };
    let directories =
        ["packaging", "packaging/deb", "packaging/files", "scripts", "tests/deploy", "vagrant/box"];
    let scripts: Vec<PathBuf> = directories.into_iter().flat_map(files).filter(interpreter).collect();
    assert!(25 < scripts.len(), "{scripts:?}");
    for script in &scripts {
        let (well, said) =
            judged_by("bash", &["-n"], std::slice::from_ref(script)).expect("bash is everywhere");
        assert!(well, "{said}");
    }
    if let Some((well, said)) =
        judged_by("shellcheck", &["--external-sources", "--severity=warning"], &scripts)
    {
        assert!(well, "{said}");
    }
}

#[test]
fn maintainer_scripts_are_short() {
    for name in ["postinst", "prerm", "postrm"] {
        let text = fs::read_to_string(Path::new("packaging/deb").join(name)).expect("a script of ours");
        assert!(text.lines().count() <= 20, "{name}");
    }
}

#[test]
fn alerts_ask_for_metrics_that_there_are_and_name_pages_that_there_are() {
    let rules = "packaging/files/prometheus-rules.yml";
    let text = fs::read_to_string(rules).expect("the alerts");
    let known = fs::read_to_string("src/api/metrics.rs").expect("the metrics");
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words = text.split(|letter| !is_part(letter));
    let metrics: BTreeSet<&str> =
        words.filter(|word| word.starts_with("patroni_") || word.starts_with("tenure_")).collect();
    assert!(7 < metrics.len(), "{metrics:?}");
    for metric in metrics {
        assert!(known.contains(&format!("\"{metric}\"")), "{metric} is no metric of ours");
    }
    let named =
        |prefix: &str| text.lines().filter_map(|line| line.trim().strip_prefix(prefix)).collect::<Vec<_>>();
    let (alerts, pages) = (named("- alert: "), named("runbook: "));
    assert_eq!(alerts.len(), pages.len(), "an alert without a page");
    for (alert, page) in alerts.iter().zip(pages) {
        let (page, section) = page.split_once('#').expect("a page and its section");
        assert_eq!(section, alert.to_lowercase(), "{alert}");
        let text = fs::read_to_string(page).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.lines().any(|line| line.strip_prefix("## ") == Some(alert)), "{page}: {alert}");
    }
    let tests = fs::read_to_string("packaging/prometheus-rules.test.yml").expect("their tests");
    for alert in alerts {
        assert!(tests.contains(&format!("alertname: {alert}\n")), "{alert} is never tried");
    }
    let dashboard = fs::read_to_string("packaging/files/grafana-dashboard.json").expect("the dashboard");
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).expect("the dashboard is JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
    assert!(
        dashboard["schemaVersion"].is_u64() && dashboard["title"].is_string() && ids.len() == panels.len()
    );
    for panel in panels {
        let (grid, targets) = (&panel["gridPos"], panel["targets"].as_array().expect("targets"));
        assert!(["x", "y", "w", "h"].iter().all(|side| grid[side].is_u64()), "{panel:#}");
        assert!(
            targets.iter().all(|target| target["expr"].is_string() && target["refId"].is_string()),
            "{panel:#}"
        );
    }
    if let Some((well, said)) = judged_by("promtool", &["check", "rules"], &[rules.into()]) {
        assert!(well, "{said}");
    }
    let tested = "packaging/prometheus-rules.test.yml";
    if let Some((well, said)) = judged_by("promtool", &["test", "rules"], &[tested.into()]) {
        assert!(well, "{said}");
    }
}

#[test]
fn examples_are_good_configurations() {
    let validate = |what: &str, text: &str| {
        // For us alone, as files with passwords are.
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), text).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tenured"));
        let output = command.arg("--validate-config").arg(file.path()).output().expect("our own program");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // A warning in an example would be on every machine.
        assert!(output.status.success() && said.is_empty(), "{what}: {said}");
    };
    let example = fs::read_to_string("packaging/files/tenure.yml").expect("an example of ours");
    validate("the example", &example);

    let read =
        |name: &str| fs::read_to_string(Path::new("packaging/deb").join(name)).expect("a template of ours");
    let filled = [
        ("VERSION", "15"),
        ("CLUSTER", "main"),
        ("NAME", "db1"),
        ("ADDRESS", "10.0.0.11"),
        ("NETWORK", "10.0.0.0/24"),
        ("PORT", "5432"),
        ("API_PORT", "8008"),
        ("DATA_DIR", "/var/lib/postgresql/15/main"),
        ("SUPERUSER_PASSWORD", "a"),
        ("REPLICATION_PASSWORD", "b"),
        ("REWIND_PASSWORD", "c"),
    ]
    .iter()
    .fold(read("config.yml.in"), |text, (name, value)| text.replace(&format!("@{name}@"), value));
    let left =
        filled.split('@').skip(1).any(|rest| rest.starts_with(|letter: char| letter.is_ascii_uppercase()));
    assert!(!left, "{filled}");
    validate("the template of Debian", &(filled + &read("dcs.yml")));

    if let Some((well, said)) = judged_by("haproxy", &["-c", "-f"], &["packaging/files/haproxy.cfg".into()]) {
        assert!(well && !said.contains("WARNING"), "{said}");
    }
}
