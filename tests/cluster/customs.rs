//! Programs of the operator's in a whole cluster: callbacks, hooks, ways to make a replica and a cluster.

use std::fs;
use std::path::Path;

use crate::others;
use crate::support::lab::{Lab, Node, Setup, in_lab};
use crate::support::wait_for;

/// Copies from whoever it is told to. Its own way, so that nobody can take the built-in one for it.
const COPY: &str = r#"
for argument in "$@"; do
    case "$argument" in
        --datadir=*) data="${argument#--datadir=}" ;;
        --connstring=*) source="${argument#--connstring=}" ;;
    esac
done
echo "$*" >> "$DIR/copied"
exec "$BIN/pg_basebackup" --pgdata="$data" --dbname="$source" -X stream --checkpoint=fast
"#;

/// Makes a cluster with a table, copies it, and goes on writing and archiving for a while.
const RESTORE: &str = r#"
set -e
for argument in "$@"; do
    case "$argument" in --datadir=*) data="${argument#--datadir=}" ;; esac
done
echo "$*" >> "$DIR/restored"
origin="$DIR/origin"
mkdir -p "$DIR/archive"
"$BIN/initdb" -D "$origin" -U postgres -A trust
cat >> "$origin/postgresql.conf" <<END
listen_addresses = ''
unix_socket_directories = '$DIR'
port = 6000
archive_mode = on
archive_command = 'cp %p $DIR/archive/%f'
END
"$BIN/pg_ctl" -D "$origin" -w -l "$DIR/origin.log" start
ask() { "$BIN/psql" -X -v ON_ERROR_STOP=1 -h "$DIR" -p 6000 -U postgres -c "$1" postgres; }
ask "create table kept (word text)"
"$BIN/pg_basebackup" -h "$DIR" -p 6000 -U postgres --pgdata="$data" -X stream --checkpoint=fast
ask "insert into kept values ('before')"
ask "select pg_create_restore_point('here')"
ask "insert into kept values ('after')"
ask "select pg_switch_wal()"
"$BIN/pg_ctl" -D "$origin" -w -m fast stop
"#;

/// Lines for the section `postgresql`, which is the last one, and for `bootstrap`. DIR and BIN are each node's own.
fn configure(lab: &Lab, bootstrap: &str, postgresql: &str, scripts: &[(&str, &str)]) {
    let bin_dir = Setup::default().bin_dir;
    for node in &lab.nodes {
        let own = |text: &str| {
            text.replace("$DIR", &node.dir.display().to_string())
                .replace("$BIN", &bin_dir.display().to_string())
        };
        let path = node.dir.join("tenure.yml");
        let before = fs::read_to_string(&path).expect("our own file");
        let before = before.replace("  initdb:\n", &format!("{}  initdb:\n", own(bootstrap)));
        fs::write(&path, before + &own(postgresql)).expect("our own file");
        for (name, text) in scripts {
            fs::write(node.dir.join(name), own(text)).expect("our own directory");
        }
    }
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

async fn until_called(lab: &Lab, node: usize, call: &str) {
    wait_for(call, async || {
        lines(&lab.nodes[node].dir.join("calls")).iter().any(|line| line == call).then_some(())
    })
    .await;
}

#[test]
fn the_operators_programs_are_asked_told_and_used() {
    in_lab(&Setup::default(), async |lab| {
        configure(
            lab,
            "  init_sql: $DIR/made.sql\n  post_init: sh -c 'echo \"$1\" > $DIR/made' made\n",
            "  callbacks:\n    \
                 on_start: sh -c 'echo $* >> $DIR/calls; setsid sleep 1000 & echo $! > $DIR/hung; wait' call\n    \
                 on_stop: sh -c 'echo $* >> $DIR/calls' call\n    \
                 on_reload: sh -c 'echo $* >> $DIR/calls' call\n    \
                 on_role_change: sh -c 'echo $* >> $DIR/calls' call\n  \
             pre_promote: sh -c 'echo asked >> $DIR/asked; test ! -e $DIR/refuses'\n  \
             before_stop: sh -c 'echo stops >> $DIR/stops'\n  \
             create_replica_methods: [broken, copy]\n  \
             broken: {command: sh -c 'exit 3'}\n  \
             copy: {command: sh $DIR/copy.sh, jobs: 2}\n",
            &[
                ("copy.sh", COPY),
                ("made.sql", "create table made (by text);\ninsert into made values ('init_sql');\n"),
            ],
        );
        lab.start_everybody();
        let first = lab.healthy().await;
        let [next, third] = others(first)[..] else { panic!("there are three nodes") };
        until_called(lab, first, "on_start primary lab").await;
        until_called(lab, next, "on_start replica lab").await;
        let client = lab.client(first).await;
        let made =
            client.query_one("select (select by from made), (select count(*) from tenure.init_sql)", &[]);
        let made = made.await.expect("the SQL file was run");
        assert_eq!((made.get::<_, &str>(0), made.get::<_, i64>(1)), ("init_sql", 1));
        assert_eq!(lines(&lab.nodes[first].dir.join("made")).len(), 1, "post_init had one argument");
        for node in [next, third] {
            let copied = lines(&lab.nodes[node].dir.join("copied"));
            assert!(copied[0].starts_with("--jobs=2 --scope=lab --role=replica --datadir=/"), "{copied:?}");
            assert!(!lab.nodes[node].log().contains(crate::support::lab::PASSWORD));
        }

        // A candidate whose hook does not agree leaves the lease to others.
        fs::write(lab.nodes[next].dir.join("refuses"), "").expect("our own directory");
        switch_over(lab, first, next);
        let leader = lab.healthy().await;
        assert_ne!(leader, next);
        assert!(lab.nodes[next].log().contains("leader_refused_by_hook"));
        fs::remove_file(lab.nodes[next].dir.join("refuses")).expect("it is there");
        let hung = lines(&lab.nodes[next].dir.join("hung"));
        // For the time of a lease it is no candidate.
        wait_for("the switchover", async || {
            if lab.nodes[next].http_status("/primary") == Some(200) {
                return Some(());
            }
            switch_over(lab, leader, next);
            None
        })
        .await;
        assert_eq!(lab.healthy().await, next);
        until_called(lab, next, "on_role_change primary lab").await;
        until_called(lab, leader, "on_stop demoted lab").await;
        until_called(lab, leader, "on_role_change replica lab").await;
        let other = others(next).into_iter().find(|&node| node != leader).expect("the third one");
        until_called(lab, other, "on_reload replica lab").await;
        assert!(!lines(&lab.nodes[leader].dir.join("stops")).is_empty(), "before_stop was run");
        assert!(!lines(&lab.nodes[next].dir.join("asked")).is_empty(), "pre_promote was run");
        // The callback that hung went when the next one came, with what it had started.
        let gone = |pid: &String| !Path::new(&format!("/proc/{pid}/cmdline")).exists();
        wait_for("the end of what hung", async || hung.iter().all(gone).then_some(())).await;

        // The last word of an agent that ends is heard.
        lab.nodes[next].end_agent();
        until_called(lab, next, "on_stop primary lab").await;
    });
}

/// The answer depends on what becomes of it, and so does what the test goes on to look for.
fn switch_over(lab: &Lab, from: usize, to: usize) {
    let wish = serde_json::json!({"leader": lab.nodes[from].name, "candidate": lab.nodes[to].name});
    lab.nodes[from].request("POST", "/switchover", &wish.to_string());
}

/// An archive that keeps what came after the backup to itself for a while.
const FETCH: &str = r#"
if [ "$1" = 000000010000000000000003 ]; then
    until [ -e "$DIR/answers" ]; do sleep 0.05; done
fi
cp "$DIR/archive/$1" "$2"
"#;

#[test]
fn a_cluster_is_made_from_a_backup_up_to_a_point_in_time() {
    make_from_a_backup("", false);
}

#[test]
fn a_cluster_is_made_from_a_backup_whose_recovery_ends_by_itself() {
    make_from_a_backup("      recovery_target_action: promote\n", true);
}

/// `held`: the archive waits with what is to be recovered until the recovery is seen under way.
fn make_from_a_backup(more: &str, held: bool) {
    in_lab(&Setup { nodes: 2, ..Setup::default() }, async |lab| {
        let bootstrap = format!(
            "  method: backup\n  backup:\n    command: sh $DIR/restore.sh\n    speed: 7\n    recovery_conf:\n      \
             restore_command: sh $DIR/fetch.sh %f %p\n      recovery_target_name: here\n{more}"
        );
        configure(lab, &bootstrap, "", &[("restore.sh", RESTORE), ("fetch.sh", FETCH)]);
        let answers = |node: &Node| fs::write(node.dir.join("answers"), "").expect("our own directory");
        if !held {
            lab.nodes.iter().for_each(answers);
        }
        lab.start_everybody();
        if held {
            // pg_ctl says that such a server is up as soon as it has begun to recover.
            wait_for("a recovery under way", async || {
                let recovers = |node: &&Node| {
                    let lines = lines(&node.dir.join("data/postmaster.pid"));
                    lines.last().is_some_and(|line| line.trim() == "standby")
                };
                lab.nodes.iter().find(recovers).map(answers)
            })
            .await;
        }
        let leader = lab.healthy().await;
        let restored = lines(&lab.nodes[leader].dir.join("restored"));
        assert!(
            restored[0].starts_with("--scope=lab --datadir=/") && restored[0].ends_with(" --speed=7"),
            "{restored:?}"
        );
        for node in 0..2 {
            let client = lab.client(node).await;
            let row = client
                .query_one("select string_agg(word, ' ') from kept", &[])
                .await
                .expect("it was restored");
            assert_eq!(row.get::<_, Option<&str>>(0), Some("before"));
        }
        let status = lab.nodes[leader].status().expect("it answers");
        assert_eq!(status["timeline"], 2, "the end of the recovery began the next timeline, once");
        assert!(!lab.nodes[leader].dir.join("data.tenure-never-led").exists());
    });
}
