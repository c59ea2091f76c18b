//! A command as it stands in a setting: words as a shell would split them, with no shell behind it.

use std::fmt;
use std::str::FromStr;

/// A program and its arguments. Quotes and backslashes work as in a shell; variables, pipes and wildcards do not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// Never empty.
    words: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandLineError {
    #[error("there is no command")]
    Empty,
    #[error("a quote is not closed")]
    OpenQuote,
    #[error("there is nothing behind the last backslash")]
    NothingEscaped,
}

/// What an operator wants to be told of; the names are Patroni's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Occasion {
    Start,
    Stop,
    Restart,
    Reload,
    RoleChange,
}

impl CommandLine {
    pub fn program(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    pub fn arguments(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }
}

impl FromStr for CommandLine {
    type Err = CommandLineError;

    fn from_str(text: &str) -> Result<CommandLine, CommandLineError> {
        let mut words = Vec::new();
        // None between words: a pair of quotes with nothing in it is a word.
        let mut word: Option<String> = None;
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            match letter {
                space if space.is_ascii_whitespace() => words.extend(word.take()),
                '\'' => {
                    let word = word.get_or_insert_default();
                    loop {
                        match letters.next().ok_or(CommandLineError::OpenQuote)? {
                            '\'' => break,
                            other => word.push(other),
                        }
                    }
                }
                '"' => {
                    let word = word.get_or_insert_default();
                    loop {
                        match letters.next().ok_or(CommandLineError::OpenQuote)? {
                            '"' => break,
                            '\\' => match letters.next().ok_or(CommandLineError::OpenQuote)? {
                                escaped @ ('"' | '\\') => word.push(escaped),
                                other => word.extend(['\\', other]),
                            },
                            other => word.push(other),
                        }
                    }
                }
                '\\' => {
                    let escaped = letters.next().ok_or(CommandLineError::NothingEscaped)?;
                    word.get_or_insert_default().push(escaped);
                }
                other => word.get_or_insert_default().push(other),
            }
        }
        words.extend(word);
        if words.is_empty() { Err(CommandLineError::Empty) } else { Ok(CommandLine { words }) }
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}

impl Occasion {
    pub const ALL: [Occasion; 5] =
        [Occasion::Start, Occasion::Stop, Occasion::Restart, Occasion::Reload, Occasion::RoleChange];

    /// The name of its setting, and the first argument of its command.
    pub fn name(self) -> &'static str {
        match self {
            Occasion::Start => "on_start",
            Occasion::Stop => "on_stop",
            Occasion::Restart => "on_restart",
            Occasion::Reload => "on_reload",
            Occasion::RoleChange => "on_role_change",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_split_as_a_shell_does_it() {
        let check = |text: &str, expected: &[&str]| {
            let line: CommandLine = text.parse().expect(text);
            let words: Vec<&str> =
                std::iter::once(line.program()).chain(line.arguments().iter().map(String::as_str)).collect();
            assert_eq!(words, expected, "{text}");
        };
        check("/bin/x", &["/bin/x"]);
        check("  a \t b\n", &["a", "b"]);
        check("a 'b c' \"d e\" f\\ g", &["a", "b c", "d e", "f g"]);
        check("a '' \"\"", &["a", "", ""]);
        check("a 'b\\c' \"b\\c\\\"\\\\\"", &["a", "b\\c", "b\\c\"\\"]);
        check("--x='1 2'y $HOME | *", &["--x=1 2y", "$HOME", "|", "*"]);
    }

    #[test]
    fn what_is_not_finished_is_refused() {
        let check = |text: &str, error| assert_eq!(text.parse::<CommandLine>(), Err(error), "{text}");
        check("", CommandLineError::Empty);
        check("a 'b", CommandLineError::OpenQuote);
        check("a \"b\\", CommandLineError::OpenQuote);
        check("a \\", CommandLineError::NothingEscaped);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "[ a'\"\\\\]{0,20}") {
            let _ = text.parse::<CommandLine>();
        }
    }
}
