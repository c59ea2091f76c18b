//! What a drill does to the member that leads, so that operators see beforehand what a fault would cost. An agent does it to itself, where
//! its own configuration allows it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A fault that an agent brings upon its own member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Drill {
    Postmaster,
    Agent,
    Host,
}

/// What stands in an entry of the flight recorder in place of a rule.
pub const DRILL_CODE: &str = "drill_asked";

impl Drill {
    pub const ALL: [Drill; 3] = [Drill::Postmaster, Drill::Agent, Drill::Host];
    /// As they stand in `tenure.drills`.
    pub const WORDS: &[&str] = &["postmaster", "agent", "host"];

    pub fn word(self) -> &'static str {
        match self {
            Drill::Postmaster => "postmaster",
            Drill::Agent => "agent",
            Drill::Host => "host",
        }
    }

    /// What the agent does.
    pub fn deed(self) -> &'static str {
        match self {
            Drill::Postmaster => "the postmaster of this PostgreSQL is killed",
            Drill::Agent => "this agent kills itself",
            Drill::Host => "the guardian is stopped, so that the watchdog device resets this machine",
        }
    }
}

impl fmt::Display for Drill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Drill {
    type Err = String;

    fn from_str(text: &str) -> Result<Drill, String> {
        let found = Drill::ALL.into_iter().find(|drill| drill.word() == text);
        found.ok_or_else(|| format!("there is no drill {text:?}: there are {}", Drill::WORDS.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_drill_is_read_as_it_is_written() {
        assert_eq!(Drill::ALL.map(Drill::word), Drill::WORDS);
        for drill in Drill::ALL {
            assert_eq!(drill.to_string().parse::<Drill>(), Ok(drill));
            assert_eq!(serde_json::to_value(drill).expect("JSON"), drill.word());
        }
        assert!("rain".parse::<Drill>().expect_err("none").contains("postmaster, agent, host"));
    }
}
