//! What operators put in the place of our own programs, as it is read.

use super::{GOOD, good, load_all, refused};
use crate::config::Ui;
use crate::model::Drill;

#[test]
fn commands_and_methods_of_the_operators_are_checked_with_what_belongs_to_them() {
    refused(
        "  callbacks: {on_start: /bin/x, on_roll_change: /bin/x}\n  pre_promote: \"a 'b\"\n  create_replica_methods: [\"'wal_e\"]\n",
        "error: node1.yml:10:33: postgresql.callbacks.on_roll_change: there is no such callback\n\
         hint: did you mean on_role_change?\n\
         error: node1.yml:11:3: postgresql.pre_promote: cannot be read as a command: a quote is not closed\n\
         error: node1.yml:6:1: postgresql.'wal_e.command: cannot be read as a command: a quote is not closed",
    );
    refused("  wal_e: {threshold: 1}\n", "error: node1.yml:10:3: postgresql.wal_e: there is no such setting");
    let text = GOOD.replace("{dcs: {ttl: 10}}", "{method: wal_e, dcs: {ttl: 10}}");
    let problems = load_all(&[&text], &[]).expect_err("a method without its section");
    assert_eq!(
        problems.to_string(),
        "error: node1.yml:5:13: bootstrap.method: names wal_e, and there is no command of it\n\
         hint: add the section bootstrap.wal_e with a command, or remove bootstrap.method\n"
    );
    let text = GOOD.replace(
        "{dcs: {ttl: 10}}",
        "{method: wal_e, wal_e: {command: /bin/restore, recovery_conf: {recovery_target_time: x}, keep: yes}, init_sql: /a.sql}",
    );
    let config =
        good(&format!("{text}  create_replica_method: wal_e,basebackup\n  wal_e: {{no_leader: 1}}\n")).config;
    let bootstrap = config.bootstrap.expect("given");
    let method = bootstrap.custom().expect("not initdb");
    assert_eq!(
        (method.command.as_str(), &method.options[..]),
        ("/bin/restore", &[("keep".to_owned(), "True".to_owned())][..])
    );
    assert_eq!(method.recovery_conf["recovery_target_time"], "x");
    assert_eq!(bootstrap.init_sql, ["/a.sql"]);
    let methods = config.postgresql.customs.replica_methods();
    assert!(matches!(&methods[..], [Some(first), None] if first.no_leader && first.command == "wal_e"));
}

#[test]
fn drills_are_allowed_one_by_one() {
    let drills = |text: &str| good(&format!("{GOOD}tenure: {{drills: {text}}}\n")).config.tenure.drills;
    assert_eq!(drills("[postmaster, agent]"), [Drill::Postmaster, Drill::Agent]);
    assert_eq!((drills("Host"), drills("[]"), drills("null")), (vec![Drill::Host], Vec::new(), Vec::new()));
    assert_eq!(good(GOOD).config.tenure.drills, []);
    let problems = load_all(&[&format!("{GOOD}tenure: {{drills: [postmaster, fire]}}\n")], &[]);
    let problems = problems.expect_err("there is no such drill").to_string();
    assert!(
        problems.contains("tenure.drills: found a list, wanted a list of some of postmaster, agent, host"),
        "{problems}"
    );
}

#[test]
fn the_page_is_there_unless_it_is_not_wanted() {
    let with = |section: &str| good(&format!("{GOOD}{section}")).config.tenure.ui;
    assert_eq!(with(""), Ui::On);
    // YAML would make flags of them.
    for (word, wanted) in [("on", Ui::On), ("off", Ui::Off), ("read-only", Ui::ReadOnly), ("'off'", Ui::Off)]
    {
        assert_eq!(with(&format!("tenure: {{ui: {word}}}\n")), wanted, "{word}");
    }
    let problems = load_all(&[&format!("{GOOD}tenure: {{ui: maybe}}\n")], &[]).expect_err("no such page");
    assert!(problems.to_string().contains("tenure.ui"), "{problems}");
}
