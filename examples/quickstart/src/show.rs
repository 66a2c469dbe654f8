//! What the person sees: headings, sentences, commands and tables; colours only on a terminal.

use std::io::IsTerminal;

use serde_json::{Map, Value};

const BOLD: &str = "1";
const GREEN: &str = "32";
const DIM: &str = "2";

fn styled(style: &str, text: &str) -> String {
    if std::io::stdout().is_terminal() { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
}

/// The title.
pub(crate) fn title(text: &str) {
    println!("\n{}\n{}", styled(BOLD, text), "─".repeat(text.chars().count()));
}

/// A chapter.
pub(crate) fn chapter(number: u32, text: &str) {
    println!("\n{}", styled(BOLD, &format!("{number}. {text}")));
}

/// A sentence.
pub(crate) fn say(text: &str) {
    println!("   {text}");
}

/// Something that was promised and is true.
pub(crate) fn good(text: &str) {
    println!("   {} {text}", styled(GREEN, "✓"));
}

/// Several lines as they are: a command, a file, a query.
pub(crate) fn quote(text: &str) {
    for line in text.trim_end().lines() {
        println!("   {}", styled(DIM, &format!("│ {line}")));
    }
}

/// A command.
pub(crate) fn command(text: &str) {
    println!("   {}", styled(DIM, &format!("$ {text}")));
}

/// Rows as a table; numbers to the right.
pub(crate) fn table(rows: &[Value]) {
    let rows: Vec<&Map<String, Value>> = rows.iter().filter_map(Value::as_object).collect();
    let Some(first) = rows.first() else { return say("(no rows)") };
    let columns: Vec<&String> = first.keys().collect();
    let cells: Vec<Vec<String>> =
        rows.iter().map(|r| columns.iter().map(|c| cell(&r[*c])).collect()).collect();
    let width = |n: usize| {
        let cells = cells.iter().map(|row| row[n].chars().count());
        cells.chain([columns[n].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let header: Vec<_> = columns.iter().zip(&widths).map(|(c, w)| format!("{c:<w$}")).collect();
    println!("   {}", styled(BOLD, header.join("  ").trim_end()));
    for (row, values) in cells.iter().zip(&rows) {
        let mut line = Vec::new();
        for ((text, column), w) in row.iter().zip(&columns).zip(&widths) {
            line.push(if values[*column].is_number() {
                format!("{text:>w$}")
            } else {
                format!("{text:<w$}")
            });
        }
        println!("   {}", line.join("  ").trim_end());
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}
