//! Answers on standard output: a table for people, JSON for scripts.

use serde_json::Value;

/// Prints `value` as JSON, or as `text` writes it.
pub fn print(json: bool, value: &Value, text: impl FnOnce()) {
    if json { println!("{value:#}") } else { text() }
}

/// Prints rows under a heading, each column as wide as its widest cell.
pub fn table(heading: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([heading[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..heading.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded: Vec<_> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("{}", padded.join("  ").trim_end());
    };
    line(&heading.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>());
    rows.iter().for_each(|row| line(row));
}
