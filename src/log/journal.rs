//! Lines for systemd's journal, each with its fields, through tracing-journald.
//! It writes in the thread that calls it, and waits there while the journal does; so only the log's own thread does that.

use tracing::{Event, Subscriber};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;

use super::line::{Author, Line};

/// Named like the module and the member, an event's own field could not be told from ours.
const OURS: &[&str] = &["TENURE_CLUSTER", "TENURE_MEMBER", "TENURE_MODULE"];

/// Does systemd read our stderr into the journal? Then it says so, with the device and inode of the stream that it gave us;
/// somebody who has redirected stderr since wants lines there.
pub fn holds_stderr() -> bool {
    let Ok(stderr) = nix::sys::stat::fstat(std::io::stderr()) else { return false };
    std::env::var("JOURNAL_STREAM")
        .is_ok_and(|stream| stream == format!("{}:{}", stderr.st_dev, stderr.st_ino))
}

/// An error means that no journal is there, and the line is to go elsewhere.
pub fn send(line: &Line, author: &Author) -> std::io::Result<()> {
    // The crate does not say whether an event arrived, only whether there is somebody to take it when a layer is made. So
    // each line has a layer of its own, and all fields are the layer's: an event's must be known when this is compiled.
    let layer = tracing_journald::layer()?
        .with_syslog_identifier("tenured".to_owned())
        .with_priority_mappings(PriorityMappings {
            info: Priority::Informational,
            debug: Priority::Debug,
            ..PriorityMappings::new()
        })
        .with_custom_fields(fields(line, author));
    // Told directly, not through a dispatcher: making one would have every place in the code ask anew what is logged.
    let bare = line.place.fields();
    Registry::default().with(layer).event(&Event::new(line.place, &bare.value_set(&[])));
    Ok(())
}

fn fields(line: &Line, author: &Author) -> Vec<(String, String)> {
    let own = [
        ("MESSAGE", line.message()),
        ("TENURE_CLUSTER", author.cluster.clone()),
        ("TENURE_MEMBER", author.member.clone()),
        ("TENURE_MODULE", line.place.target().to_owned()),
    ];
    let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
    let told = line.fields.iter().map(|(name, value)| (field_name(name), value.clone()));
    own.chain(told.filter(|(name, _)| !OURS.contains(&name.as_str()))).collect()
}

/// Ours are told apart from everybody else's by their beginning; the number of a message has a name that all agree on.
fn field_name(name: &str) -> String {
    match name {
        "message_id" => "MESSAGE_ID".to_owned(),
        name => {
            let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
            format!("TENURE_{}", name.chars().map(plain).collect::<String>())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;
    use std::sync::atomic::AtomicU64;
    use std::sync::mpsc::sync_channel;
    use std::time::Duration;

    use nix::sched::{CloneFlags, unshare};
    use tracing::{debug, error, info, warn};

    use super::super::{Entry, Output, captured, queue, write_lines};
    use super::*;
    use crate::config::Log;
    use crate::log::form::Form;

    const DIRECTORY: &str = "/run/systemd/journal";

    fn to_the_journal(author: Author) -> Output {
        let form = Form::of(&Log::default());
        Output { author, form, journal: true, file: None, file_failed: false, coloured: false }
    }

    fn author() -> Author {
        Author { cluster: "batman".to_owned(), member: "turku".to_owned() }
    }

    /// The journal's address cannot be chosen, so it is one of our own in a mount namespace: for the thread of this test
    /// and those that it starts, and for nobody else on this machine. Needs root.
    fn with_a_journal_of_our_own(work: impl FnOnce(&UnixDatagram) + Send + 'static) {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not run: only root can have a /run of its own");
            return;
        }
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS).expect("root may have a mount namespace");
            mount(&["--make-rprivate", "/"]);
            mount(&["-t", "tmpfs", "tmpfs", "/run"]);
            std::fs::create_dir_all(DIRECTORY).expect("a directory");
            let journal = UnixDatagram::bind(format!("{DIRECTORY}/socket")).expect("bound");
            journal.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
            work(&journal);
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    fn mount(arguments: &[&str]) {
        assert!(Command::new("mount").args(arguments).status().expect("mount runs").success());
    }

    /// What the journal receives next, but for the empty datagrams that ask whether it is there.
    fn received(journal: &UnixDatagram) -> BTreeMap<String, String> {
        let mut datagram = vec![0; 64 * 1024];
        loop {
            let length = journal.recv(&mut datagram).expect("a datagram in time");
            if length > 0 {
                return parsed(&datagram[..length]);
            }
        }
    }

    /// `NAME=value` and a newline, or a name, a newline, eight bytes of length, the value, a newline.
    fn parsed(mut datagram: &[u8]) -> BTreeMap<String, String> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        let until = |bytes: &[u8], end: u8| bytes.iter().position(|byte| *byte == end).expect("it ends");
        let mut fields = BTreeMap::new();
        while !datagram.is_empty() {
            let line = &datagram[..until(datagram, b'\n')];
            datagram = &datagram[line.len() + 1..];
            let (name, value) = if line.contains(&b'=') {
                let name = &line[..until(line, b'=')];
                (name, &line[name.len() + 1..])
            } else {
                let (length, rest) = datagram.split_first_chunk().expect("a length");
                let length = usize::try_from(u64::from_le_bytes(*length)).expect("it fits");
                assert_eq!(rest[length], b'\n');
                datagram = &rest[length + 1..];
                (line, &rest[..length])
            };
            let name = text(name);
            assert_eq!(fields.insert(name.clone(), text(value)), None, "{name} is there once");
        }
        fields
    }

    #[test]
    fn a_line_arrives_in_the_journal_with_its_fields() {
        with_a_journal_of_our_own(|journal| {
            let lines = captured(|| {
                warn!(
                    rule = "lease_ran_out",
                    term = 7,
                    timeline = Some(5),
                    lsn = None::<&str>,
                    message_id = "0123456789abcdef0123456789abcdef",
                    "the lease ran out\nsaid {}",
                    "turku"
                );
            });
            send(&lines[0], &author()).expect("there is a journal");
            let mut fields = received(journal);
            assert!(fields.remove("CODE_LINE").is_some_and(|line| line.parse::<u32>().is_ok()));
            let expected = [
                ("CODE_FILE", file!()),
                ("MESSAGE", "the lease ran out\\nsaid turku rule=lease_ran_out term=7 timeline=5"),
                ("MESSAGE_ID", "0123456789abcdef0123456789abcdef"),
                ("PRIORITY", "4"),
                ("SYSLOG_IDENTIFIER", "tenured"),
                ("TARGET", module_path!()),
                ("TENURE_CLUSTER", "batman"),
                ("TENURE_MEMBER", "turku"),
                ("TENURE_MODULE", module_path!()),
                ("TENURE_RULE", "lease_ran_out"),
                ("TENURE_TERM", "7"),
                ("TENURE_TIMELINE", "5"),
            ];
            let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
            assert_eq!(fields, BTreeMap::from(expected));
        });
    }

    #[test]
    fn the_levels_are_the_journals_and_a_foreign_member_is_not_taken_for_this_one() {
        with_a_journal_of_our_own(|journal| {
            let lines = captured(|| {
                error!(member = "oulu", "a");
                info!("b");
                debug!("c");
            });
            let mut told = Vec::new();
            for line in &lines {
                send(line, &author()).expect("there is a journal");
                let fields = received(journal);
                told.push((fields["PRIORITY"].clone(), fields["TENURE_MEMBER"].clone()));
            }
            assert_eq!(told, ["3", "6", "7"].map(|priority| (priority.to_owned(), "turku".to_owned())));
        });
    }

    #[test]
    fn a_journal_that_takes_nothing_holds_nobody_up_who_logs() {
        with_a_journal_of_our_own(|journal| {
            let (queue, lines) = queue(4);
            let sender = queue.sender.clone();
            let dropped = std::sync::Arc::clone(&queue.dropped);
            let mut output = to_the_journal(author());
            let (done, ended) = sync_channel(1);
            std::thread::spawn(move || {
                write_lines(&lines, &dropped, &mut output);
                let _ = done.send(());
            });
            // More than the kernel and the queue hold. It comes back from this, or the test is ended by its runner.
            let many = 10_000;
            tracing::subscriber::with_default(Registry::default().with(queue), || {
                (0..many).for_each(|number| debug!(number, "said to nobody"));
            });
            assert!(ended.try_recv().is_err(), "the log's own thread waits, and is the only one");

            // The journal wakes up: each line has either arrived or is counted as missing.
            let (mut arrived, mut missing) = (0, 0);
            while arrived + missing < many {
                match received(journal).get("TENURE_LINES") {
                    Some(lines) => missing += lines.parse::<u64>().expect("a number"),
                    None => arrived += 1,
                }
            }
            assert!(missing > 0);
            assert_eq!(arrived + missing, many);
            while sender.try_send(Entry::End).is_err() {
                received(journal);
            }
            while ended.try_recv().is_err() {
                journal.set_read_timeout(Some(Duration::from_millis(50))).expect("set");
                let _ = journal.recv(&mut [0; 4096]);
            }
        });
    }

    #[test]
    fn without_a_journal_the_line_is_given_back_for_stderr() {
        with_a_journal_of_our_own(|_| {
            let lines = captured(|| info!("hello"));
            assert!(send(&lines[0], &author()).is_ok());
            std::fs::remove_file(format!("{DIRECTORY}/socket")).expect("removed");
            assert!(send(&lines[0], &author()).is_err());
        });
    }

    #[test]
    fn a_line_longer_than_a_datagram_arrives_all_the_same() {
        with_a_journal_of_our_own(|_| {
            let lines = captured(|| info!("{}", "x".repeat(1 << 20)));
            let author = author();
            let mut output = to_the_journal(author);
            let (sender, entries) = sync_channel(2);
            sender.send(Entry::Line(lines[0].clone())).expect("there is room");
            sender.send(Entry::End).expect("there is room");
            write_lines(&entries, &AtomicU64::new(0), &mut output);
        });
    }
}
