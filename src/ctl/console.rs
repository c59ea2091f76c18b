//! Speaking with whoever sits at the terminal, or with the script in their place. stdout is data and questions, as
//! with `patronictl`; stderr is talk.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

use crate::clock;
use crate::model::{Moment, Span};

/// The operator has had enough, or there is nobody to answer.
#[derive(Debug, thiserror::Error)]
#[error("Aborted!")]
pub struct Aborted;

/// Whoever read our output has gone; there is nobody to tell.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output any more")]
pub struct Unread;

/// A failure with what may be typed next.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Hinted {
    message: String,
    pub hint: String,
}

pub fn hinted(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    Hinted { message: message.into(), hint: hint.into() }.into()
}

/// While another program has the terminal, Ctrl-C is its business.
static LENT: AtomicBool = AtomicBool::new(false);

pub fn is_lent() -> bool {
    LENT.load(Ordering::Relaxed)
}

/// Keeps the terminal lent as long as it lives.
#[derive(Debug)]
pub struct Lent(());

impl Lent {
    pub fn now() -> Lent {
        LENT.store(true, Ordering::Relaxed);
        Lent(())
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        LENT.store(false, Ordering::Relaxed);
    }
}

/// A line on stdout.
pub fn echo(line: impl AsRef<str>) -> Result<()> {
    print(&format!("{}\n", line.as_ref()))
}

/// Text on stdout as it is.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Unread.into()),
        Err(error) => Err(error).context("write to stdout"),
    }
}

pub fn warn(sentence: impl AsRef<str>) {
    eprintln!("warning: {}", sentence.as_ref());
}

/// Asks until something is answered. With a default, an empty answer is that.
pub async fn prompt(question: &str, default: Option<&str>) -> Result<String> {
    let shown = default.map(|default| format!(" [{default}]")).unwrap_or_default();
    loop {
        print(&format!("{question}{shown}: "))?;
        let answer = read_line().await?;
        match (answer.is_empty(), default) {
            (false, _) => return Ok(answer),
            (true, Some(default)) => return Ok(default.to_owned()),
            (true, None) => {}
        }
    }
}

/// A question whose silent answer is no.
pub async fn confirm(question: &str) -> Result<bool> {
    loop {
        print(&format!("{question} [y/N]: "))?;
        match read_line().await?.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => return Ok(true),
            "" | "n" | "no" => return Ok(false),
            _ => echo("Error: invalid input")?,
        }
    }
}

/// Asks for what must not be seen.
pub async fn prompt_secret(question: &str) -> Result<String> {
    loop {
        print(&format!("{question}: "))?;
        let echo_off = EchoOff::begin();
        let answer = read_line().await;
        if echo_off.is_some() {
            drop(echo_off);
            print("\n")?;
        }
        match answer? {
            answer if answer.is_empty() => {}
            answer => return Ok(answer),
        }
    }
}

/// On a thread of its own, so that Ctrl-C is heard meanwhile.
async fn read_line() -> Result<String> {
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|bytes| (bytes, line))
    });
    let (bytes, line) = read.await.context("read from stdin")?.context("read from stdin")?;
    if bytes == 0 {
        return Err(Aborted.into());
    }
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// The terminal shows nothing of what is typed as long as this lives.
struct EchoOff(nix::sys::termios::Termios);

impl EchoOff {
    fn begin() -> Option<EchoOff> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut hidden = before.clone();
        hidden.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(io::stdin(), SetArg::TCSANOW, &hidden).ok()?;
        Some(EchoOff(before))
    }
}

impl Drop for EchoOff {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.0);
    }
}

/// How often something is shown again.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    every: Option<Span>,
    next: Moment,
    clears: bool,
}

impl Watch {
    /// `-W`, or `-w SECONDS`. With neither, once.
    pub fn new(every_two: bool, every: Option<f64>, clears: bool) -> Result<Watch> {
        let every = match (every, every_two) {
            (Some(seconds), _) if seconds != 0.0 => {
                let span = Duration::try_from_secs_f64(seconds)
                    .ok()
                    .filter(|span| *span <= Duration::from_hours(24));
                let span =
                    span.ok_or_else(|| anyhow!("a screen cannot be updated every {seconds} seconds"))?;
                Some(Span::from_ms(u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1)))
            }
            (Some(_) | None, true) => Some(Span::from_secs(2)),
            (Some(_) | None, false) => None,
        };
        let watch = Watch { every, next: clock::now(), clears };
        watch.clear()?;
        Ok(watch)
    }

    /// Waits until it is time again; false if it never is.
    pub async fn again(&mut self) -> Result<bool> {
        let Some(every) = self.every else { return Ok(false) };
        self.next = (self.next + every).max(clock::now());
        clock::pause(self.next.since(clock::now())).await;
        self.clear()?;
        Ok(true)
    }

    fn clear(&self) -> Result<()> {
        if self.clears && self.every.is_some() && io::stdout().is_terminal() {
            print("\x1b[2J\x1b[1;1H")?;
        }
        Ok(())
    }
}
