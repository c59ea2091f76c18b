//! Complaints about a configuration: where, which setting, what was found, what is wanted, and what to type instead.

use std::fmt;

use super::yaml::Place;

/// One complaint. As an error it stops the agent from starting; as a warning it is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub place: Option<Place>,
    pub key: Option<String>,
    pub message: String,
    pub hint: Option<String>,
}

/// Everything that was wrong, in the order of the files.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Problems(pub Vec<Problem>);

// A file of another kind altogether would otherwise fill the screen.
const SHOWN_MAX: usize = 20;

impl Problem {
    pub fn at(place: Place, message: String) -> Problem {
        Problem { place: Some(place), key: None, message, hint: None }
    }

    pub fn about(place: Option<Place>, key: &str, message: String) -> Problem {
        Problem { place, key: Some(key.to_owned()), message, hint: None }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Problem {
        self.hint = Some(hint.into());
        self
    }

    /// The complaint and its hint as a command prints them, under a word such as `error`.
    pub fn render(&self, severity: &str) -> String {
        match &self.hint {
            Some(hint) => format!("{severity}: {self}\nhint: {hint}\n"),
            None => format!("{severity}: {self}\n"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl Problems {
    pub fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in self.0.iter().take(SHOWN_MAX) {
            f.write_str(&problem.render("error"))?;
        }
        match self.0.len().checked_sub(SHOWN_MAX) {
            Some(more @ 1..) => writeln!(f, "error: and {more} more like these"),
            Some(0) | None => Ok(()),
        }
    }
}

impl std::error::Error for Problems {}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Problems {
        Problems(vec![problem])
    }
}

/// The known word that a mistyped one most likely meant.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_ascii_lowercase();
    // A third of the letters may be wrong; more, and it is another word.
    let worst = (typed.chars().count() / 3).clamp(1, 4);
    known
        .into_iter()
        .map(|word| (distance(&typed, &word.to_ascii_lowercase()), word))
        .filter(|(far, _)| *far <= worst)
        .min_by_key(|(far, _)| *far)
        .map(|(_, word)| word)
}

/// How many letters must be added, removed, changed or swapped with their neighbour.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let left: Vec<char> = left.chars().take(64).collect();
    let mut older: Vec<usize> = vec![0; right.len() + 1];
    let mut above: Vec<usize> = (0..=right.len()).collect();
    for (i, letter) in left.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, other) in right.iter().enumerate() {
            let mut best = (above[j] + usize::from(letter != other)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *letter == right[j - 1] && left[i - 1] == *other {
                best = best.min(older[j - 1] + 1);
            }
            row.push(best);
        }
        older = std::mem::replace(&mut above, row);
    }
    above[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised_and_another_word_is_not() {
        let known = ["listen", "connect_address", "data_dir", "parameters"];
        let check = |typed, meant| assert_eq!(nearest(typed, known), meant, "{typed}");
        check("lisetn", Some("listen"));
        check("conect_adress", Some("connect_address"));
        check("datadir", Some("data_dir"));
        check("Parameter", Some("parameters"));
        check("shared_buffers", None);
        check("x", None);
    }
}
