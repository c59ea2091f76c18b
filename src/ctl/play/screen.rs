//! What a play shows. Drawing is a pure function from a table to text.

use std::fmt::Write as _;
use std::io::{Write, stdout};

use anyhow::{Context, Result};
use crossterm::cursor::MoveTo;
use crossterm::queue;
use crossterm::terminal::{Clear, ClearType};

use super::super::terminal::Taken;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub rows: Vec<Row>,
    pub connections: Vec<(String, String)>,
    pub message: String,
}

/// One member as it says of itself; `-` where it does not answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    pub member: String,
    pub role: String,
    pub state: String,
    pub timeline: String,
    pub position: String,
    pub lease: String,
    pub sentence: String,
}

const KEYS: &str =
    "k kill the primary's PostgreSQL   f freeze or thaw the leader's agent   s switch over   q stop";

/// The table as lines without colours.
pub fn render(table: &Table) -> String {
    let mut text = String::new();
    let head = ["MEMBER", "ROLE", "STATE", "TL", "POSITION", "LEASE", "RULE"];
    let cells: Vec<[&str; 7]> = (table.rows.iter())
        .map(|row| {
            [&row.member, &row.role, &row.state, &row.timeline, &row.position, &row.lease, &row.sentence]
                .map(String::as_str)
        })
        .collect();
    let width = |column: usize| {
        cells.iter().map(|row| row[column].chars().count()).chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..6).map(width).collect();
    for row in std::iter::once(&head).chain(&cells) {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(text, "{cell:width$}  ");
        }
        let _ = writeln!(text, "{}", row[6]);
    }
    text.push('\n');
    let purpose = table.connections.iter().map(|(purpose, _)| purpose.len()).max().unwrap_or(0);
    for (name, connection) in &table.connections {
        let _ = writeln!(text, "{name:purpose$}  {connection}");
    }
    let _ = write!(text, "\n{KEYS}\n\n{}\n", table.message);
    text
}

/// A terminal that is drawn over, or a stream that gets a line when something changes.
pub struct Screen {
    taken: Option<Taken>,
    last: Table,
}

impl Screen {
    pub fn open(interactive: bool) -> Result<Screen> {
        let taken = interactive.then(Taken::now).transpose()?;
        Ok(Screen { taken, last: Table::default() })
    }

    pub fn is_interactive(&self) -> bool {
        self.taken.is_some()
    }

    pub fn draw(&mut self, table: &Table) -> Result<()> {
        if self.is_interactive() {
            let mut out = stdout().lock();
            queue!(out, MoveTo(0, 0)).context("draw")?;
            for line in render(table).lines() {
                queue!(out, Clear(ClearType::CurrentLine)).context("draw")?;
                write!(out, "{line}\r\n").context("draw")?;
            }
            queue!(out, Clear(ClearType::FromCursorDown)).context("draw")?;
            out.flush().context("draw")?;
        } else {
            self.print_changes(table)?;
        }
        self.last = table.clone();
        Ok(())
    }

    fn print_changes(&self, table: &Table) -> Result<()> {
        let mut out = stdout().lock();
        if self.last.connections != table.connections {
            for (purpose, connection) in &table.connections {
                writeln!(out, "{purpose}: {connection}").context("print")?;
            }
        }
        for row in &table.rows {
            let before = self.last.rows.iter().find(|last| last.member == row.member);
            let news = |last: &Row| {
                (&last.role, &last.state, &last.sentence) != (&row.role, &row.state, &row.sentence)
            };
            if before.is_none_or(news) {
                writeln!(out, "{:8} {:9} {:9} {}", row.member, row.role, row.state, row.sentence)
                    .context("print")?;
            }
        }
        out.flush().context("print")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_drawn_in_columns() {
        let row = |member: &str, role: &str, sentence: &str| Row {
            member: member.to_owned(),
            role: role.to_owned(),
            state: "running".to_owned(),
            timeline: "2".to_owned(),
            position: "0/5000148".to_owned(),
            lease: String::new(),
            sentence: sentence.to_owned(),
        };
        let table = Table {
            rows: vec![row("turku", "replica", "following oulu"), row("oulu", "primary", "leading")],
            connections: vec![("read-write".to_owned(), "psql -p 5000".to_owned())],
            message: "oulu was killed".to_owned(),
        };
        let expected = "\
MEMBER  ROLE     STATE    TL  POSITION   LEASE  RULE
turku   replica  running  2   0/5000148         following oulu
oulu    primary  running  2   0/5000148         leading

read-write  psql -p 5000

k kill the primary's PostgreSQL   f freeze or thaw the leader's agent   s switch over   q stop

oulu was killed
";
        assert_eq!(render(&table), expected);
    }
}
