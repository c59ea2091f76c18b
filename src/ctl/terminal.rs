//! The terminal as a whole screen, for what is drawn over and over: `play` and `top`.

use std::io::{IsTerminal, stdin, stdout};
use std::time::Duration;

use anyhow::{Context, Result};
use crossterm::cursor::{Hide, Show};
use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::execute;
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use tokio::sync::mpsc;

/// How long the keyboard's thread outlives whoever listens to it.
const POLL: Duration = Duration::from_millis(200);

/// Somebody sits there.
pub fn is_there() -> bool {
    stdout().is_terminal() && stdin().is_terminal()
}

/// The whole screen is ours, and keys come one by one, as long as this lives.
#[derive(Debug)]
pub struct Taken(());

impl Taken {
    pub fn now() -> Result<Taken> {
        enable_raw_mode().context("prepare the terminal")?;
        let taken = Taken(());
        execute!(stdout(), EnterAlternateScreen, Hide).context("prepare the terminal")?;
        Ok(taken)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // Nothing is left to do for a terminal that has gone.
        let _ = execute!(stdout(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    Key(KeyEvent),
    /// The terminal has another size.
    Resized,
}

/// What is typed. The thread that reads it ends with the terminal, or soon after the receiver has gone.
pub fn keyboard(waiting: usize) -> mpsc::Receiver<Input> {
    let (sender, receiver) = mpsc::channel(waiting);
    tokio::task::spawn_blocking(move || read(&sender));
    receiver
}

/// None when nothing will ever be typed; waits for ever where there is no keyboard.
pub async fn next(keys: Option<&mut mpsc::Receiver<Input>>) -> Option<Input> {
    match keys {
        Some(keys) => keys.recv().await,
        None => std::future::pending().await,
    }
}

fn read(sender: &mpsc::Sender<Input>) {
    while !sender.is_closed() {
        match crossterm::event::poll(POLL) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(_) => return,
        }
        let input = match crossterm::event::read() {
            Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => Input::Key(key),
            Ok(Event::Resize(..)) => Input::Resized,
            Ok(_) => continue,
            Err(_) => return,
        };
        if sender.blocking_send(input).is_err() {
            return;
        }
    }
}

/// In raw mode Ctrl-C is a key like any other.
pub fn is_interrupt(key: KeyEvent) -> bool {
    key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL)
}
