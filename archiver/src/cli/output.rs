//! What commands print on stdout: tables for people, JSON for programs.

use std::io::{self, IsTerminal, Write};

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// Prints text as it is.
pub(crate) fn text(text: &str) -> Result<()> {
    bytes(text.as_bytes())
}

/// Prints bytes as they are.
pub(crate) fn bytes(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}

/// Prints a value as indented JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    text(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Prints rows under a header, one line each; nothing is cut or wrapped, so that `grep` and `cut` work.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().copied());
    table.add_rows(rows);
    text(&format!("{}\n", table.trim_fmt()))
}

/// A line's colour on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    /// Something began.
    Green,
    /// Something ended.
    Red,
    /// Something is missing.
    Yellow,
    /// As the terminal has it.
    Plain,
}

impl Colour {
    /// That of an operation.
    pub(crate) fn of(operation: &str) -> Colour {
        match operation {
            "insert" | "snapshot" => Colour::Green,
            "delete" | "drop" | "dropDatabase" => Colour::Red,
            "gap" | "quarantine" => Colour::Yellow,
            _ => Colour::Plain,
        }
    }

    fn paint(self, line: &str) -> String {
        let code = match self {
            Colour::Green => "32",
            Colour::Red => "31",
            Colour::Yellow => "33",
            Colour::Plain => return line.to_owned(),
        };
        format!("\x1b[{code}m{line}\x1b[0m")
    }
}

/// A table whose lines come little by little, in colour on a terminal: not where `NO_COLOR` is set, nor on a dumb one.
pub(crate) struct Lines {
    header: Option<Vec<String>>,
    widths: Vec<usize>,
    in_colour: bool,
}

impl Lines {
    pub(crate) fn new(header: &[&str]) -> Lines {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_some_and(|term| term == "dumb");
        Lines {
            header: Some(header.iter().map(|name| (*name).to_owned()).collect()),
            widths: vec![0; header.len()],
            in_colour: io::stdout().is_terminal() && set("NO_COLOR").is_none() && !dumb,
        }
    }

    /// Prints further rows, the first time under the header.
    pub(crate) fn print(&mut self, rows: Vec<(Vec<String>, Colour)>) -> Result<()> {
        text(&self.lines(rows))
    }

    fn lines(&mut self, rows: Vec<(Vec<String>, Colour)>) -> String {
        let header = self.header.take().map(|header| (header, Colour::Plain));
        let rows: Vec<_> = header.into_iter().chain(rows).collect();
        for (row, _) in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for (row, colour) in &rows {
            let cells = row.iter().zip(&self.widths).map(|(cell, width)| format!("{cell:width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            let line = line.trim_end();
            text += &if self.in_colour { colour.paint(line) } else { line.to_owned() };
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_lines_stand_under_the_earlier_ones_and_colours_do_not_move_them() {
        let row = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        let mut lines = Lines::new(&["SEQ", "OPERATION"]);
        lines.in_colour = true;
        let first = lines.lines(vec![(row("17", "insert"), Colour::of("insert"))]);
        assert_eq!(first, "SEQ  OPERATION\n\x1b[32m17   insert\x1b[0m\n");
        lines.in_colour = false;
        assert_eq!(lines.lines(vec![(row("8", "delete"), Colour::of("delete"))]), "8    delete\n");
        assert_eq!(lines.lines(Vec::new()), "");
    }
}
