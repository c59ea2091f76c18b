//! What is on the screen, and what a key does to it. Nothing here draws, asks or waits.

use std::collections::{BTreeMap, VecDeque};

use crossterm::event::{KeyCode, KeyEvent};

use super::super::cluster::Member;
use super::super::terminal::is_interrupt;
use super::gather::{Look, Row};
use crate::model::Moment;

/// Looks back, for the small history beside each lag.
pub const HISTORY: usize = 60;

#[derive(Clone, Debug, Default)]
pub struct Screen {
    pub look: Look,
    /// The member that keys act on.
    pub chosen: usize,
    /// Each look's lag, the latest last.
    pub lags: BTreeMap<String, VecDeque<Option<u64>>>,
    pub dialog: Option<Dialog>,
    pub shows_help: bool,
    /// How the last action ended, or why there was none.
    pub message: String,
    /// What was asked for and has not been answered.
    pub under_way: Option<String>,
    pub read_only: bool,
    pub looks: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialog {
    pub act: Act,
    pub question: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// From who led when it was asked, to somebody or to whom the members choose.
    Switchover {
        from: String,
        to: Option<String>,
    },
    Pause,
    Resume,
    Restart(String),
    Reinit(String),
}

/// What a key asks of the shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Nothing,
    Quit,
    Do(Act),
}

impl Act {
    pub fn shown(&self) -> String {
        match self {
            Act::Switchover { to: Some(to), .. } => format!("switchover to {to}"),
            Act::Switchover { to: None, .. } => "switchover".to_owned(),
            Act::Pause => "pause".to_owned(),
            Act::Resume => "resume".to_owned(),
            Act::Restart(name) => format!("restart of {name}"),
            Act::Reinit(name) => format!("reinit of {name}"),
        }
    }
}

impl Screen {
    pub fn take(&mut self, look: Look) {
        let chosen = self.chosen_row().map(|row| row.name.clone());
        for row in &look.rows {
            let lags = self.lags.entry(row.name.clone()).or_default();
            lags.push_back(row.lag);
            let over = lags.len().saturating_sub(HISTORY);
            lags.drain(..over);
        }
        self.lags.retain(|name, _| look.rows.iter().any(|row| row.name == *name));
        let place = look.rows.iter().position(|row| Some(&row.name) == chosen.as_ref());
        self.chosen = place.unwrap_or(self.chosen).min(look.rows.len().saturating_sub(1));
        self.look = look;
        self.looks += 1;
    }

    pub fn chosen_row(&self) -> Option<&Row> {
        self.look.rows.get(self.chosen)
    }

    pub fn leading_row(&self) -> Option<&Row> {
        self.look.rows.iter().find(|row| row.leads)
    }

    /// How old what is shown is.
    pub fn age(&self, now: Moment) -> crate::model::Span {
        now.since(self.look.taken)
    }

    pub fn key(&mut self, key: KeyEvent) -> Answer {
        if is_interrupt(key) {
            return Answer::Quit;
        }
        if let Some(dialog) = self.dialog.take() {
            if matches!(key.code, KeyCode::Char('y' | 'Y')) {
                self.message.clear();
                return Answer::Do(dialog.act);
            }
            self.message = format!("left as it is: no {}", dialog.act.shown());
            return Answer::Nothing;
        }
        if std::mem::take(&mut self.shows_help) {
            return Answer::Nothing;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Answer::Quit,
            KeyCode::Up | KeyCode::Char('k') => self.chosen = self.chosen.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => {
                self.chosen = (self.chosen + 1).min(self.look.rows.len().saturating_sub(1));
            }
            KeyCode::Char('?' | 'h') => self.shows_help = true,
            KeyCode::Char(letter @ ('s' | 'p' | 'r' | 'i')) => match self.propose(letter) {
                Ok(dialog) => self.dialog = Some(dialog),
                Err(why) => self.message = why,
            },
            _ => {}
        }
        Answer::Nothing
    }

    /// What a letter would do, or why it cannot.
    fn propose(&self, letter: char) -> Result<Dialog, String> {
        if self.read_only {
            return Err("--read-only: nothing can be done from here".to_owned());
        }
        if let Some(under_way) = &self.under_way {
            return Err(format!("wait until this has been answered: {under_way}"));
        }
        match letter {
            's' => self.switchover(),
            'p' => Ok(self.pause_or_resume()),
            'r' => self.restart(),
            _ => self.reinit(),
        }
    }

    fn on_chosen(&self) -> Result<&Row, String> {
        self.chosen_row().ok_or_else(|| "no member is chosen".to_owned())
    }

    fn switchover(&self) -> Result<Dialog, String> {
        let Some(leader) = self.leading_row() else {
            return Err("nobody leads: there is nothing to hand over (see `tenurectl failover`)".to_owned());
        };
        let chosen = self.on_chosen()?;
        let to = (!chosen.leads).then(|| chosen.name.clone());
        if to.is_none() && self.look.cluster.is_paused() {
            return Err("in maintenance mode choose the member that shall lead".to_owned());
        }
        let barred =
            to.as_ref().and_then(|name| self.look.cluster.member(name)).is_some_and(Member::nofailover);
        if barred {
            return Err(format!("{} is not to lead (nofailover)", chosen.name));
        }
        let whom = to.as_ref().map_or("whoever is best placed", String::as_str);
        let question = format!(
            "Hand over from {} to {whom}? Clients of {} are disconnected, and writes wait for the new leader.",
            leader.name, leader.name
        );
        Ok(Dialog { act: Act::Switchover { from: leader.name.clone(), to }, question })
    }

    fn pause_or_resume(&self) -> Dialog {
        if self.look.cluster.is_paused() {
            let question = match self.leading_row() {
                Some(_) => "End maintenance mode? From then on a lost leader is replaced again.",
                None => {
                    "End maintenance mode? Nobody leads: whoever is fit takes over at once. A primary that runs without the store \
                     does not hear of it: stop it first."
                }
            };
            return Dialog { act: Act::Resume, question: question.to_owned() };
        }
        let question = "Begin maintenance mode? Nobody is promoted or demoted by itself until somebody ends it. \
                        (`tenurectl pause --for 30m` ends by itself.)";
        Dialog { act: Act::Pause, question: question.to_owned() }
    }

    fn restart(&self) -> Result<Dialog, String> {
        let chosen = self.on_chosen()?;
        let whom = if chosen.leads { ", which leads? Writes wait meanwhile." } else { "?" };
        let question = format!("Restart PostgreSQL on {}{whom} Its clients are disconnected.", chosen.name);
        Ok(Dialog { act: Act::Restart(chosen.name.clone()), question })
    }

    fn reinit(&self) -> Result<Dialog, String> {
        let chosen = self.on_chosen()?;
        if chosen.leads {
            return Err(format!("{} leads: its data is not thrown away", chosen.name));
        }
        let question = format!("Throw away the data of {} and copy it again from the cluster?", chosen.name);
        Ok(Dialog { act: Act::Reinit(chosen.name.clone()), question })
    }
}

#[cfg(test)]
pub mod fixtures {
    use super::super::super::cluster::fixtures::cluster;
    use super::super::gather::{StoreLine, TermLook};
    use super::*;
    use crate::model::Span;

    /// `a` leads, `b` follows, `c` must not lead.
    pub fn screen(keys: &[(&str, &str)]) -> Screen {
        let mut all = vec![
            ("initialize", "7431234567890123456"),
            ("leader", "a"),
            ("members/a", r#"{"role":"primary","state":"running","timeline":2}"#),
            ("members/b", r#"{"role":"replica","state":"running","timeline":2}"#),
            ("members/c", r#"{"role":"replica","state":"running","timeline":2,"tags":{"nofailover":true}}"#),
        ];
        all.extend(keys);
        let cluster = cluster(&all);
        let row = |name: &str, lag| Row {
            name: name.to_owned(),
            role: if name == "a" { "Leader" } else { "Replica" },
            leads: name == "a",
            state: if name == "a" { "running" } else { "streaming" }.to_owned(),
            timeline: "2".to_owned(),
            lag,
            term: None,
            fence: "guardian: ready".to_owned(),
            rule: format!("rule_of_{name}: does what {name} does"),
            answers: true,
        };
        let mut rows = vec![row("a", None), row("b", Some(0)), row("c", Some(3 << 20))];
        let seconds = Span::from_secs;
        rows[0].term =
            Some(TermLook { term: 17, lease: (seconds(5), seconds(10)), fence: (seconds(9), seconds(12)) });
        let store = StoreLine {
            whereabouts: "etcd at 10.0.0.1:2379".to_owned(),
            answer: Some(Ok(Span::from_ms(3))),
            servers: Some((3, 3, Some("e1".to_owned()))),
            alarms: Vec::new(),
        };
        let mut screen = Screen::default();
        screen.take(Look { taken: Moment::from_ms(1000), cluster, rows, store, events: VecDeque::new() });
        screen
    }
}

#[cfg(test)]
mod tests {
    use super::fixtures::screen;
    use super::*;

    fn press(screen: &mut Screen, letters: &str) -> Vec<Answer> {
        letters.chars().map(|letter| screen.key(KeyEvent::from(KeyCode::Char(letter)))).collect()
    }

    #[test]
    fn nothing_is_done_that_was_not_confirmed() {
        let mut screen = screen(&[]);
        assert_eq!(press(&mut screen, "js"), [Answer::Nothing, Answer::Nothing]);
        let question = screen.dialog.clone().expect("a question").question;
        assert!(question.starts_with("Hand over from a to b?"), "{question}");
        assert_eq!(press(&mut screen, "n"), [Answer::Nothing]);
        assert_eq!(screen.message, "left as it is: no switchover to b");
        // A key that ends the program elsewhere only says no here.
        press(&mut screen, "s");
        assert_eq!(press(&mut screen, "q"), [Answer::Nothing]);
        press(&mut screen, "s");
        assert_eq!(
            press(&mut screen, "y"),
            [Answer::Do(Act::Switchover { from: "a".into(), to: Some("b".into()) })]
        );
        assert_eq!(press(&mut screen, "q"), [Answer::Quit]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_reason() {
        let check = |keys: &[(&str, &str)], letters: &str, why: &str| {
            let mut screen = screen(keys);
            assert!(!press(&mut screen, letters).iter().any(|answer| matches!(answer, Answer::Do(_))));
            assert!(screen.dialog.is_none() && screen.message.contains(why), "{letters}: {}", screen.message);
        };
        check(&[], "i", "a leads: its data is not thrown away");
        check(&[], "jjs", "c is not to lead");
        check(&[("config", r#"{"pause":true}"#)], "s", "choose the member that shall lead");
        let mut busy = screen(&[]);
        busy.under_way = Some("restart of b".to_owned());
        press(&mut busy, "p");
        assert!(busy.message.contains("restart of b") && busy.dialog.is_none());
        let mut closed = Screen { read_only: true, ..screen(&[]) };
        press(&mut closed, "r");
        assert!(closed.message.contains("--read-only") && closed.dialog.is_none());
    }

    #[test]
    fn each_letter_has_its_action() {
        let check = |keys: &[(&str, &str)], letters: &str, wanted: Act| {
            let mut screen = screen(keys);
            assert_eq!(press(&mut screen, letters).pop(), Some(Answer::Do(wanted)), "{letters}");
        };
        check(&[], "sy", Act::Switchover { from: "a".into(), to: None });
        check(&[], "py", Act::Pause);
        check(&[("config", r#"{"pause":true}"#)], "pY", Act::Resume);
        check(&[], "ry", Act::Restart("a".into()));
        check(&[], "jiy", Act::Reinit("b".into()));
    }

    #[test]
    fn the_choice_stays_with_its_member_and_the_history_is_bounded() {
        let mut screen = screen(&[]);
        press(&mut screen, "jj");
        let mut look = screen.look.clone();
        look.rows.remove(0);
        screen.take(look.clone());
        assert_eq!(screen.chosen_row().map(|row| row.name.as_str()), Some("c"));
        assert!(!screen.lags.contains_key("a"));
        for _ in 0..2 * HISTORY {
            screen.take(look.clone());
        }
        assert_eq!(screen.lags["c"].len(), HISTORY);
        look.rows.clear();
        screen.take(look);
        assert!(screen.chosen_row().is_none());
    }
}
