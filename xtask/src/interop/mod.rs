//! `cargo xtask interop NAME`: published peers, unmodified, against our machine and our client.

mod browser;
mod go;
mod go_echo;
mod go_machine;
mod in_turn;
mod legs;
mod one_cable;
mod places;
mod python;
mod rust_utils;
mod stock;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Outcome;
use crate::lab;
use crate::processes::Built;

pub use browser::browser;
pub use go::{go, go_client, openloop_program as go_openloop};
pub use python::{environment as python_environment, python};
pub use rust_utils::rust_utils;

/// A row of a table: what was tried, and how it went.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Row {
    row: String,
    result: String,
    /// What the result tells, as numbers, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    figures: BTreeMap<String, f64>,
}

impl Row {
    fn of(row: &str, result: String) -> Self {
        Self { row: row.to_owned(), result, figures: BTreeMap::new() }
    }
}

/// The rows of the last runs that name a statement, by name. A run that failed leaves none.
pub fn recorded(root: &Path) -> Result<BTreeMap<String, bool>, Box<dyn std::error::Error>> {
    let mut results = BTreeMap::new();
    let Ok(records) = fs::read_dir(root.join("target/interop")) else { return Ok(results) };
    for path in records.collect::<Result<Vec<_>, _>>()?.iter().map(|entry| entry.path()) {
        if path.extension().is_some_and(|e| e == "json") {
            let rows: Vec<Value> = serde_json::from_slice(&fs::read(&path)?)?;
            let peer = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            results.extend(rows.iter().filter_map(|r| Some((format!("interop {peer}::{}", r["row"].as_str()?), true))));
        }
    }
    Ok(results)
}

/// Prints a table and leaves it as JSON.
fn tell(root: &Path, peer: &str, title: &str, rows: &[Row]) -> Outcome {
    println!("{title:<50} result");
    for Row { row, result, .. } in rows {
        println!("{row:<50} {result}");
    }
    fs::write(record(root, peer), serde_json::to_vec_pretty(rows)?)?;
    if rows.is_empty() {
        println!("0 passed, 0 failed, all skipped: nothing is shown");
    } else {
        println!("{} passed, 0 failed", rows.len());
    }
    Ok(())
}

fn record(root: &Path, peer: &str) -> std::path::PathBuf {
    root.join("target/interop").join(peer).with_extension("json")
}

/// The rows of a peer's part in namespaces of its own. None, and a line that says so, where nobody but root could make any; root must.
fn isolated(peer: &str) -> Result<Vec<Row>, Box<dyn std::error::Error>> {
    let privileges = match lab::privileges() {
        Ok(privileges) => privileges,
        Err(why) if !rustix::process::geteuid().is_root() => {
            println!("{peer} in namespaces of its own: NOT RUN, {why}");
            return Ok(Vec::new());
        }
        Err(why) => return Err(why.into()),
    };
    let folder = tempfile::tempdir()?;
    privileges.again(&["interop-inside", peer], folder.path())?;
    Ok(serde_json::from_slice(&fs::read(folder.path().join("rows.json"))?)?)
}

/// A peer's part inside of them.
pub fn inside(root: &Path, peer: &str, folder: &Path) -> Outcome {
    let run = || -> Result<Vec<Row>, Box<dyn std::error::Error>> {
        let built = Built::already(root);
        match peer {
            "browser" => browser::inside(root, &built, folder),
            "go" => go::inside(root, &built, folder),
            "go-echo" => go_echo::inside(root, &built, folder),
            "in-turn" => in_turn::inside(root, &built, folder),
            "go-machine" => go_machine::inside(root, &built, folder),
            "python" => python::inside(root, &built, folder),
            "rust-utils" => rust_utils::inside(root, &built, folder),
            other => Err(format!("{other} has no such part").into()),
        }
    };
    match run() {
        Ok(rows) => Ok(fs::write(folder.join("rows.json"), serde_json::to_vec(&rows)?)?),
        Err(error) => {
            fs::write(folder.join("error.txt"), error.to_string())?;
            Err(error)
        }
    }
}

fn check(command: &mut Command) -> Outcome {
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} ended with {status}").into()) }
}

/// The facts of `step`, read from the lines a script prints.
fn step(
    lines: &mut impl Iterator<Item = std::io::Result<String>>,
    step: &str,
) -> Result<Value, Box<dyn std::error::Error>> {
    for line in lines {
        let line = line?;
        // The SDK logs to standard output too; only our own lines are JSON objects with a step.
        let Ok(value) = serde_json::from_str::<Value>(&line) else { continue };
        if value["step"] == "failed" {
            return Err(format!("before the step {step:?}: {value}").into());
        }
        if value["step"] == step {
            return Ok(value);
        }
    }
    Err(format!("the script ended before its step {step:?}").into())
}
