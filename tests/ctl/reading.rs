//! What is only told is the same, byte for byte; so are the questions, the refusals and the ends.

use crate::patroni::{Said, healthy, in_patroni_lab, ours, ours_with, theirs, theirs_with};
use crate::support::lab::Lab;
use crate::support::wait_for;

/// Times of day differ from run to run.
fn timeless(text: &str) -> String {
    let digits =
        |word: &str| word.len() > 7 && word.chars().all(|c| c.is_ascii_digit() || ":-.T+".contains(c));
    text.split_inclusive(char::is_whitespace)
        .map(|word| if digits(word.trim_matches(['(', ')', '\n', ' '])) { "TIME " } else { word })
        .collect()
}

/// What follows `Error: ` is the sentence that both say.
fn complaint(stderr: &str) -> Option<&str> {
    stderr.lines().find(|line| line.starts_with("Error: ") || *line == "Aborted!")
}

/// What differed. All of it is told at the end: a run is long, and one difference seldom comes alone.
#[derive(Default)]
struct Differences(Vec<String>);

impl Drop for Differences {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.0.is_empty(), "{}", self.0.join("\n"));
        }
    }
}

/// WAL may move between two looks: theirs must be the same before and after ours.
async fn check(
    differences: &mut Differences,
    lab: &Lab,
    arguments: &[&str],
    input: &str,
    variables: &[(&str, &str)],
    plain: impl Fn(&str) -> String,
) {
    let same = |one: &Said, other: &Said| {
        one.code == other.code
            && plain(&one.stdout) == plain(&other.stdout)
            && complaint(&one.stderr).map(&plain) == complaint(&other.stderr).map(&plain)
    };
    wait_for("a cluster that stands still", async || {
        let before = theirs_with(lab, arguments, input, variables);
        let ours = ours_with(lab, arguments, input, variables);
        if same(&before, &ours) {
            return Some(());
        }
        let after = theirs_with(lab, arguments, input, variables);
        if same(&before, &after) {
            differences.0.push(format!("{arguments:?} {input:?}\ntheirs: {before:#?}\nours: {ours:#?}"));
            return Some(());
        }
        None
    })
    .await;
}

const TYPES: &str = "select 1 as i, 2.50 as n, 1.5::float8 as f, true as b, null as z, 'a b'::text as t, \
    timestamptz '2026-11-21 10:00:00.5+02' as at, '{\"a\": [1, null, \"x\"]}'::jsonb as j, date '2026-11-21' as d, \
    'é'::varchar as u, 9007199254740993 as l, 1e20::float8 as big";

#[test]
fn what_is_told_is_the_same_byte_for_byte() {
    in_patroni_lab(async |lab, _| {
        // A history, so that there is something to tell.
        let leader = healthy(lab).await;
        let (from, to) = (lab.nodes[leader].name.clone(), lab.nodes[1 - leader].name.clone());
        let there = ours(lab, &["switchover", "lab", "--leader", &from, "--candidate", &to, "--force"], "");
        assert!(there.stdout.contains("Successfully switched over"), "{there:#?}");
        healthy(lab).await;
        let mut differences = Differences::default();
        let as_it_is = |text: &str| text.to_owned();
        for arguments in [
            "list",
            "list lab",
            "list lab -f json",
            "list -f yaml",
            "list -f yml",
            "list -f tsv lab",
            "list -e",
            "list -e -f tsv",
            "list -e -f json",
            "list nobody",
            "list lab nobody",
            "list nobody -f json",
            "topology",
            "topology lab",
            "topology nobody",
            "history",
            "history lab -f tsv",
            "history -f json",
            "history -f yaml",
            "history nobody",
            "show-config",
            "show-config lab",
            "show-config nobody",
            "dsn",
            "dsn lab",
            "dsn -r replica",
            "dsn -r any",
            "dsn -r standby-leader",
            "dsn -m node2 lab",
            "dsn -m nobody",
            "dsn -r leader -m node1",
        ] {
            check(&mut differences, lab, &arguments.split(' ').collect::<Vec<_>>(), "", &[], as_it_is).await;
        }
        for arguments in ["list -t", "list --timestamp -f json", "query -c select"] {
            check(&mut differences, lab, &arguments.split(' ').collect::<Vec<_>>(), "", &[], timeless).await;
        }
        for format in ["tsv", "json", "yaml", "pretty"] {
            let sql = if format == "json" || format == "yaml" {
                "select 1 as i, true as b, null as z, 'é' as t, 1.5::float8 as f"
            } else {
                TYPES
            };
            let zone = [("PGOPTIONS", "-c timezone=Europe/Helsinki")];
            check(
                &mut differences,
                lab,
                &["query", "lab", "-c", sql, "--format", format, "-d", "postgres"],
                "",
                &zone,
                as_it_is,
            )
            .await;
        }
        for arguments in [
            &["query", "-c", "select pg_is_in_recovery()", "-r", "replica"][..],
            &["query", "-c", "select pg_is_in_recovery()", "-r", "primary", "--delimiter", "|"],
            &["query", "-c", "select 1 where false"],
            &["query", "-c", "select 1 as a; select 2 as b"],
            &["query", "-c", "select 1", "-r", "standby-leader"],
            &["query", "-c", "select 1", "-m", "nobody", "--format", "pretty"],
            &["query", "-c", "select * from nowhere"],
            &["query", "-c", "select 1/0", "--format", "json"],
            &["query"],
        ] {
            check(&mut differences, lab, arguments, "", &[], timeless).await;
        }
        // Whoever speaks differs, and what follows is the same.
        let (one, other) = (theirs(lab, &["version", "lab"], ""), ours(lab, &["version", "lab"], ""));
        assert_eq!(one.stdout.split_once('\n').map(|it| it.1), other.stdout.split_once('\n').map(|it| it.1));
        questions_and_refusals(lab).await;
    });
}

/// Nothing is changed by any of these.
async fn questions_and_refusals(lab: &Lab) {
    let mut differences = Differences::default();
    let leader = lab.nodes[healthy(lab).await].name.clone();
    let leader = leader.as_str();
    let table: &[(&[&str], &str)] = &[
        (&["switchover"], ""),
        (&["switchover", "lab"], "\n\n\nn\n"),
        (&["switchover", "lab"], "nobody\n"),
        (&["switchover", "lab", "--candidate", leader], "\n"),
        (&["switchover", "lab", "--candidate", "nobody", "--force"], ""),
        (&["switchover", "lab", "--scheduled", "soon", "--force"], ""),
        (&["switchover", "lab", "--scheduled", "2100-01-01T10:00"], "\n\nn\n"),
        (&["switchover", "nobody", "--force"], ""),
        (&["switchover", "lab", "--scheduled", "2001-01-01T10:00", "--force"], ""),
        (&["failover", "lab"], "\n"),
        (&["failover", "lab", "--force"], ""),
        (&["failover", "lab", "--candidate", leader], "x\n"),
        (&["failover", "lab"], "node1\nwhat\nno\n"),
        (&["restart", "lab"], "\nn\n"),
        (&["restart", "lab", leader], "2100-01-01T10:00Z\nn\n"),
        (&["restart", "lab", "--pending", "--scheduled", "2100-01-01T10:00Z"], "n\n"),
        (&["restart", "lab", "--force", "--pg-version", "9.6"], ""),
        (&["restart", "lab", "--force", "--pg-version", "x"], ""),
        (&["restart", "lab", "--force", "--pending"], ""),
        (&["restart", "lab", "--force", "--timeout", "x"], ""),
        (&["restart", "lab", "--role", "leader", "nobody", "--force"], ""),
        (&["restart", "nobody", "--force"], ""),
        (&["reload", "lab"], ""),
        (&["reload", "lab", "node1"], "n\n"),
        (&["reload", "nobody"], "n\n"),
        (&["reinit", "lab"], "\n"),
        (&["reinit", "lab", leader, "--force"], ""),
        (&["flush", "lab", "switchover"], ""),
        (&["flush", "lab", "restart", "--force"], ""),
        (&["flush", "lab", "node1", "restart"], "n\n"),
        (&["resume"], ""),
        (&["edit-config", "-s", "ttl=25"], "n\n"),
        (&["edit-config", "-s", "ttl=20"], ""),
        (&["edit-config", "-q", "-s", "ttl=20"], ""),
        (&["edit-config", "-s", "ttl"], ""),
        (
            &[
                "edit-config",
                "-p",
                "auto_explain.log_nested=on",
                "-s",
                "postgresql.parameters.wal_keep_size=null",
                "-s",
                "slots.a.type=physical",
            ],
            "",
        ),
        (&["edit-config", "--apply", "-"], "ttl: 40\nmaximum_lag_on_failover: null\n"),
        (
            &["edit-config", "--replace", "-"],
            "ttl: 40\npostgresql:\n  pg_hba:\n  - local all all trust\n  - 'x: y'\n",
        ),
        (&["edit-config", "nobody", "-s", "ttl=1"], ""),
        (&["remove", "lab"], "other\n"),
        (&["remove", "lab", "-f", "json"], "lab\nyes\n"),
        (&["remove", "lab"], "lab\nYes I am aware\nnobody\n"),
        (&["demote-cluster"], ""),
        (&["demote-cluster", "--host", "x"], "n\n"),
        (&["promote-cluster", "--force"], ""),
        (&["promote-cluster", "nobody"], ""),
    ];
    for (arguments, input) in table {
        check(&mut differences, lab, arguments, input, &[], timeless).await;
    }
    let editor = [("EDITOR", "/bin/true")];
    check(&mut differences, lab, &["edit-config"], "", &editor, str::to_owned).await;
    let editor = [("EDITOR", "/bin/false")];
    check(&mut differences, lab, &["edit-config"], "", &editor, str::to_owned).await;
}
