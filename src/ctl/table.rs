//! Rows of cells in the formats of `patronictl`: a frame for people, text with tabs, JSON, YAML. Pure: text comes out.

use unicode_width::UnicodeWidthStr;

use super::document::Document;
use super::yaml;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    #[default]
    Pretty,
    Tsv,
    Json,
    #[value(alias = "yml")]
    Yaml,
}

#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Stands in the frame's first line.
    pub title: String,
    /// None: the rows have no names.
    pub columns: Option<Vec<Column>>,
    pub rows: Vec<Vec<Document>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub to_the_right: bool,
}

impl Column {
    pub fn left(name: &str) -> Column {
        Column { name: name.to_owned(), to_the_right: false }
    }

    pub fn right(name: &str) -> Column {
        Column { name: name.to_owned(), to_the_right: true }
    }
}

impl Table {
    /// With the line feeds that belong to it, the last one included.
    pub fn render(&self, format: Format, delimiter: &str) -> String {
        match format {
            Format::Pretty => self.pretty(),
            Format::Tsv => self.separated(delimiter),
            Format::Json => self.objects().to_json() + "\n",
            // YAML ends with a line feed of its own, and so does whoever prints it.
            Format::Yaml => yaml::block(&self.objects()) + "\n",
        }
    }

    /// With a title, what is empty is left out.
    fn objects(&self) -> Document {
        let columns = self.columns.as_deref().unwrap_or_default();
        let object = |row: &Vec<Document>| {
            let mut entries: Vec<(String, Document)> = Vec::new();
            for (column, cell) in columns.iter().zip(row) {
                let empty = matches!(cell, Document::Text(text) if text.is_empty());
                if empty && !self.title.is_empty() {
                    continue;
                }
                match entries.iter_mut().find(|(name, _)| *name == column.name) {
                    Some((_, earlier)) => *earlier = cell.clone(),
                    None => entries.push((column.name.clone(), cell.clone())),
                }
            }
            Document::Map(entries)
        };
        Document::List(self.rows.iter().map(object).collect())
    }

    fn separated(&self, delimiter: &str) -> String {
        let names = self.columns.iter().map(|columns| columns.iter().map(|c| c.name.clone()).collect());
        let rows = self.rows.iter().map(|row| row.iter().map(Document::shown).collect());
        let lines = names.chain(rows).map(|cells: Vec<String>| cells.join(delimiter) + "\n");
        lines.collect()
    }

    fn pretty(&self) -> String {
        let columns = self.columns.clone().unwrap_or_else(|| self.numbered_columns());
        let rows: Vec<Vec<Vec<String>>> =
            self.rows.iter().map(|row| row.iter().map(|cell| lines(&cell.shown())).collect()).collect();
        let widths: Vec<usize> = columns
            .iter()
            .enumerate()
            .map(|(index, column)| {
                let cells = rows.iter().filter_map(|row| row.get(index)).flatten().map(|line| line.width());
                cells.chain([column.name.width()]).max().unwrap_or(0)
            })
            .collect();
        let rule = if widths.is_empty() {
            "++".to_owned()
        } else {
            widths.iter().fold(String::new(), |rule, width| rule + "+" + &"-".repeat(width + 2)) + "+"
        };
        let separated = rows.iter().flatten().any(|lines| lines.len() > 1);
        let mut out = titled(&rule, &self.title) + "\n";
        let names: Vec<String> = columns.iter().map(|column| column.name.clone()).collect();
        out += &line(&names, &columns, &widths);
        out += &format!("{rule}\n");
        for row in &rows {
            for height in 0..row.iter().map(Vec::len).max().unwrap_or(0) {
                let cells: Vec<String> =
                    row.iter().map(|lines| lines.get(height).cloned().unwrap_or_default()).collect();
                out += &line(&cells, &columns, &widths);
            }
            if separated {
                out += &format!("{rule}\n");
            }
        }
        if !separated {
            out += &format!("{rule}\n");
        }
        out
    }

    fn numbered_columns(&self) -> Vec<Column> {
        let count = self.rows.first().map_or(0, Vec::len);
        (1..=count).map(|number| Column::left(&format!("Field {number}"))).collect()
    }
}

/// The lines of a cell, tabs stretched to the next eighth column.
fn lines(cell: &str) -> Vec<String> {
    let stretched = |line: &str| {
        let mut out = String::new();
        for character in line.chars() {
            if character == '\t' {
                let column = out.chars().count();
                out.push_str(&" ".repeat(8 - column % 8));
            } else {
                out.push(character);
            }
        }
        out
    };
    cell.split('\n').map(stretched).collect()
}

fn line(cells: &[String], columns: &[Column], widths: &[usize]) -> String {
    let mut out = String::from("|");
    for ((cell, column), width) in cells.iter().zip(columns).zip(widths) {
        let space = " ".repeat(width.saturating_sub(cell.width()));
        out += &if column.to_the_right { format!(" {space}{cell} |") } else { format!(" {cell}{space} |") };
    }
    if columns.is_empty() {
        out.push('|');
    }
    out.push('\n');
    out
}

/// A title is cut where the rule ends.
fn titled(rule: &str, title: &str) -> String {
    let length = rule.chars().count();
    let title: String = title.chars().take(length.saturating_sub(2)).collect();
    let covered = 1 + title.chars().count();
    let rest: String = rule.chars().skip(covered).collect();
    format!("+{title}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(columns: Option<&[&str]>, rows: &[&[&str]]) -> Table {
        Table {
            title: String::new(),
            columns: columns.map(|names| names.iter().map(|name| Column::left(name)).collect()),
            rows: rows.iter().map(|row| row.iter().map(|cell| Document::text(*cell)).collect()).collect(),
        }
    }

    #[test]
    fn a_title_is_cut_to_the_frame_and_an_empty_table_has_two_rules_below_its_names() {
        let empty = Table { title: " Cluster: x (1) ".to_owned(), ..table(Some(&["a", "b"]), &[]) };
        assert_eq!(empty.render(Format::Pretty, "\t"), "+ Cluste+\n| a | b |\n+---+---+\n+---+---+\n");
        assert_eq!(empty.render(Format::Json, "\t"), "[]\n");
        assert_eq!(empty.render(Format::Yaml, "\t"), "[]\n\n");
        assert_eq!(empty.render(Format::Tsv, "\t"), "a\tb\n");
        assert_eq!(table(None, &[]).render(Format::Pretty, "\t"), "++\n||\n++\n++\n");
    }

    #[test]
    fn a_cell_of_several_lines_puts_rules_between_all_rows() {
        let tall = table(Some(&["a", "b"]), &[&["1", "x\ny"], &["2", "z"]]);
        assert_eq!(
            tall.render(Format::Pretty, "\t"),
            "+---+---+\n| a | b |\n+---+---+\n| 1 | x |\n|   | y |\n+---+---+\n| 2 | z |\n+---+---+\n"
        );
    }

    #[test]
    fn wide_characters_take_two_columns_and_rows_without_names_are_numbered() {
        let wide = table(None, &[&["日本", "a\tb"]]);
        assert_eq!(
            wide.render(Format::Pretty, "\t"),
            "+---------+-----------+\n| Field 1 | Field 2   |\n+---------+-----------+\n| 日本    | a       b |\n+---------+-----------+\n"
        );
        assert_eq!(wide.render(Format::Json, "\t"), "[{}]\n");
        assert_eq!(wide.render(Format::Tsv, ";"), "日本;a\tb\n");
    }
}
