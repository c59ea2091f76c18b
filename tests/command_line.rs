//! The agent's command line from outside: what goes to which stream, and with which end.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

const GOOD: &str = "\
scope: demo
name: turku
restapi: {listen: '127.0.0.1:8008', connect_address: '127.0.0.1:8008'}
etcd3: {hosts: [127.0.0.1:2379], username: root, password: hunter2}
postgresql: {listen: '127.0.0.1:5432', connect_address: '127.0.0.1:5432', data_dir: /data, pre_promote: ''}
";

fn tenured(directory: &Path, arguments: &[&str]) -> Output {
    // Settings in the environment of whoever runs the tests are none of theirs.
    let inherited = std::env::vars_os().map(|(name, _)| name).filter(|name| {
        name.to_str().is_some_and(|name| name.starts_with("PATRONI_") || name.starts_with("TENURE_"))
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenured"));
    inherited.filter(|name| name != "TENURE_TEST_RUN").for_each(|name| {
        command.env_remove(name);
    });
    command.current_dir(directory).args(arguments).output().expect("it can be run")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn directory_with(file: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("node1.yml");
    std::fs::write(&path, file).expect("written");
    // Whatever mask the tests run under.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("ours");
    directory
}

#[test]
fn a_good_configuration_is_passed_over_in_silence_but_for_warnings() {
    let directory = directory_with(GOOD);
    let output = tenured(directory.path(), &["--validate-config", "node1.yml"]);
    assert!(output.status.success());
    assert_eq!(text(&output.stdout), "");
    assert_eq!(
        text(&output.stderr),
        "warning: node1.yml: holds passwords, and every user of this machine may read it\nhint: chmod o-r node1.yml\n"
    );
}

#[test]
fn a_bad_configuration_starts_nothing_and_says_why_on_stderr() {
    let directory = directory_with(&GOOD.replace("127.0.0.1:5432', c", "5432x', c"));
    for arguments in
        [&["node1.yml"][..], &["--validate-config", "node1.yml"], &["--print-config", "node1.yml"]]
    {
        let output = tenured(directory.path(), arguments);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(text(&output.stdout), "");
        let complaint = "error: node1.yml:5:22: postgresql.listen: found \"5432x\", wanted host:port, such as 127.0.0.1:5432\n";
        assert!(text(&output.stderr).ends_with(complaint), "{}", text(&output.stderr));
    }
}

#[test]
fn what_is_printed_can_be_read_again_and_holds_no_password() {
    let directory = directory_with(GOOD);
    let output = tenured(directory.path(), &["--print-config", "node1.yml"]);
    let printed = text(&output.stdout);
    assert!(output.status.success() && printed.contains("scope: demo"), "{printed}");
    assert!(!printed.contains("hunter2"), "{printed}");
    assert!(printed.contains("scope: demo  # node1.yml:1:1\n"), "{printed}");
    assert!(printed.contains("namespace: /service  # default\n"), "{printed}");
    std::fs::write(directory.path().join("again.yml"), &printed).expect("written");
    let again = tenured(directory.path(), &["--print-config", "again.yml"]);
    // Read again, the values are the same, and all of them were given.
    let values = |printed: &str| -> Vec<String> {
        printed.lines().map(|line| line.split("  # ").next().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(values(&text(&again.stdout)), values(&printed), "{}", text(&again.stderr));
}

#[test]
fn no_configuration_at_all_ends_with_a_hint() {
    let directory = directory_with("");
    let output = tenured(directory.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).ends_with("hint: no configuration file was given; `tenured --help` tells how\n")
    );
}
