//! `tenurectl top` on a terminal of 80 columns and 24 lines: what it shows, and what its keys do.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::pty::{Winsize, openpty};

use crate::patroni::{given, ours, succeeds};
use crate::support::lab::Lab;
use crate::support::wait_for;

const LINES: u16 = 24;
const COLUMNS: u16 = 80;

/// The command on a terminal of its own.
struct Top {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<vt100::Parser>>,
    reader: Option<JoinHandle<()>>,
}

impl Top {
    fn start(lab: &Lab, arguments: &[&str]) -> Top {
        let size = Winsize { ws_row: LINES, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&size), None).expect("terminals are to be had");
        let (ours, theirs) = (File::from(pair.master), File::from(pair.slave));
        // With a session of its own, so that no terminal of whoever runs the tests is drawn on.
        let mut command = Command::new("setsid");
        command.args(["--ctty", env!("CARGO_BIN_EXE_tenurectl"), "-c", given(lab).as_str(), "top"]);
        command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").env("TERM", "xterm-256color");
        command.env("LANG", "C.UTF-8").env("NO_COLOR", "1").env("USER", "anna");
        let handle = || Stdio::from(theirs.try_clone().expect("a second handle"));
        let child = command.stdin(handle()).stdout(handle()).stderr(handle()).spawn().expect("setsid starts");
        drop(theirs);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(size_of(LINES), size_of(COLUMNS), 0)));
        let (mut shown, parser) = (ours.try_clone().expect("a second handle"), Arc::clone(&screen));
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The terminal ends with whoever draws on it.
            while let Ok(count @ 1..) = shown.read(&mut bytes) {
                parser.lock().expect("nobody panics with it").process(&bytes[..count]);
            }
        });
        Top { child, keyboard: ours, screen, reader: Some(reader) }
    }

    fn text(&self) -> String {
        self.screen.lock().expect("nobody panics with it").screen().contents()
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal is there");
    }

    async fn shows(&self, what: &str) {
        self.comes_to(what, |text| text.contains(what)).await;
    }

    async fn comes_to(&self, what: &str, wanted: impl Fn(&str) -> bool) {
        wait_for(&format!("the screen to show {what}"), async || wanted(&self.text()).then_some(())).await;
    }

    /// Moves the mark down to a member, from the first that is shown.
    async fn choose(&mut self, lab: &Lab, wanted: usize) {
        self.press("kkkkkkkk");
        self.shows(&format!("> {}", lab.nodes[0].name)).await;
        for node in &lab.nodes[1..=wanted] {
            self.press("j");
            self.shows(&format!("> {}", node.name)).await;
        }
    }
}

fn size_of(count: u16) -> NonZeroU16 {
    NonZeroU16::new(count).expect("there is room")
}

impl Drop for Top {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Leaves the cluster led by somebody else.
pub async fn shows_the_cluster_and_acts_on_it(lab: &Lab, leader: usize) {
    let said = ours(lab, &["top"], "");
    assert!(said.code == 1 && said.stderr.contains("top needs a terminal"), "{said:#?}");

    let heir = (leader + 1) % 3;
    let (from, to) = (lab.nodes[leader].name.clone(), lab.nodes[heir].name.clone());
    let mut top = Top::start(lab, &[]);
    top.shows(&format!("led by {from}")).await;
    for part in ["streaming", "term ", "fence  ", "guardian: armed", "Events", "answers in", "1 of 1 servers"]
    {
        top.shows(part).await;
    }
    for node in &lab.nodes {
        top.shows(&node.name).await;
    }
    top.choose(lab, heir).await;
    top.shows(&format!("{to}: follows_leader: following {from}")).await;

    let question = format!("Hand over from {from} to {to}?");
    top.press("s");
    top.shows(&question).await;
    top.press("n");
    top.shows("left as it is: no switchover").await;
    assert_eq!(lab.healthy().await, leader);
    top.press("s");
    top.shows(&question).await;
    top.press("y");
    top.shows(&format!("led by {to}")).await;
    top.shows(&format!("Successfully switched over to \"{to}\"")).await;
    lab.healthy().await;

    top.press("p");
    top.shows("Begin maintenance mode?").await;
    top.press("y");
    top.shows("Maintenance mode: on").await;
    // One thing at a time: a key is refused until the last has been answered.
    top.shows("pause: done").await;
    top.press("p");
    top.shows("End maintenance mode?").await;
    top.press("y");
    top.comes_to("no maintenance", |text| !text.contains("Maintenance mode: on") && !text.contains("End "))
        .await;
    is_without_colour(&top);

    top.press("q");
    let status = wait_for("the end", async || top.child.try_wait().expect("our own child")).await;
    assert!(status.success(), "{status}");
    wait_for("the terminal as it was", async || {
        let screen = top.screen.lock().expect("nobody panics with it");
        (!screen.screen().alternate_screen() && !screen.screen().hide_cursor()).then_some(())
    })
    .await;

    let wanted = format!("{from} -> {to} (switchover, asked for by ");
    let told = wait_for("the change of the leader in the store", async || {
        let told = succeeds(lab, &["history", "-v"], "Timeline");
        told.contains(&wanted).then_some(told)
    })
    .await;
    for stage in
        ["the race is decided", "PostgreSQL is primary", "lost: 0: the former leader stopped in good order"]
    {
        assert!(told.contains(stage), "{stage}: {told}");
    }
    let noted = succeeds(lab, &["config-history", "-f", "json"], "pause");
    assert!(noted.contains("a key in tenurectl top"), "{noted}");

    let mut only_looks = Top::start(lab, &["--read-only"]);
    only_looks.shows(&format!("led by {to}")).await;
    only_looks.press("s");
    only_looks.shows("--read-only: nothing can be done from here").await;
}

fn is_without_colour(top: &Top) {
    let parser = top.screen.lock().expect("nobody panics with it");
    for line in 0..LINES {
        for column in 0..COLUMNS {
            let cell = parser.screen().cell(line, column).expect("it is on the screen");
            let colours = (cell.fgcolor(), cell.bgcolor());
            assert_eq!(colours, (vt100::Color::Default, vt100::Color::Default), "{line}:{column}");
        }
    }
}
