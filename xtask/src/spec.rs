//! `cargo xtask spec`: every numbered statement with the tests that show it and their results.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::Outcome;
use crate::{e2e, interop};

/// What the suite says of one statement.
#[derive(Deserialize)]
struct Statement {
    says: String,
    due: Option<String>,
}

/// One line of the answer.
#[derive(Serialize)]
struct Row {
    statement: u32,
    group: String,
    says: String,
    tests: BTreeMap<String, bool>,
    due: Option<String>,
}

/// Runs every `sNN_` test, adds the recorded end-to-end results, prints the table and fails where one is owed.
pub fn run(root: &Path, json: bool) -> Outcome {
    let text = fs::read_to_string(root.join("xtask/statements.toml"))?;
    let groups: BTreeMap<String, BTreeMap<String, Statement>> = toml::from_str(&text)?;
    let mut results = unit_results(root)?;
    results.extend(e2e::recorded(root)?);
    results.extend(interop::recorded(root)?);
    let rows = rows(groups, &results)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        rows.iter().for_each(print);
    }
    let failing: Vec<_> = rows.iter().filter(|r| r.tests.values().any(|ok| !ok)).map(|r| r.statement).collect();
    let missing: Vec<_> = rows.iter().filter(|r| r.tests.is_empty() && r.due.is_none()).map(|r| r.statement).collect();
    let shown = rows.iter().filter(|r| !r.tests.is_empty()).count();
    eprintln!(
        "spec: {shown} of {} statements shown, {} due in later work",
        rows.len(),
        rows.iter().filter(|r| r.tests.is_empty() && r.due.is_some()).count()
    );
    if failing.is_empty() && missing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "statements whose tests fail: {failing:?}; neither shown nor due: {missing:?} (scenarios and \
         peers count by their last run: `cargo xtask test-e2e`, `cargo xtask interop NAME`)"
    )
    .into())
}

fn rows(
    groups: BTreeMap<String, BTreeMap<String, Statement>>,
    results: &BTreeMap<String, bool>,
) -> Result<Vec<Row>, Box<dyn std::error::Error>> {
    let mut rows = Vec::new();
    for (group, statements) in groups {
        for (number, statement) in statements {
            let number: u32 = number.parse()?;
            let tests = results
                .iter()
                .filter(|(name, _)| numbers_of(name).contains(&number))
                .map(|(n, ok)| (n.clone(), *ok))
                .collect();
            rows.push(Row { statement: number, group: group.clone(), says: statement.says, tests, due: statement.due });
        }
    }
    rows.sort_by_key(|row| row.statement);
    Ok(rows)
}

fn print(row: &Row) {
    let result = match (row.tests.is_empty(), row.tests.values().all(|ok| *ok), &row.due) {
        (false, true, _) => format!("shown by {}", row.tests.len()),
        (false, false, _) => "FAILS".to_owned(),
        (true, _, Some(due)) => format!("due in {due}"),
        (true, _, None) => "MISSING".to_owned(),
    };
    println!("s{:02}  {:<15} {}", row.statement, result, row.says);
    for (test, ok) in &row.tests {
        println!("       {} {test}", if *ok { "ok    " } else { "FAILED" });
    }
}

/// The statements that a test's name begins with: `s16_s17_a_lapse` shows two.
fn numbers_of(test: &str) -> Vec<u32> {
    let own = test.rsplit("::").next().unwrap_or_default();
    let number = |word: &str| {
        let digits = word.strip_prefix('s')?;
        (digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
    };
    own.split('_').map_while(number).collect()
}

/// Runs the workspace's tests whose names carry a statement and reads the runner's own lines.
fn unit_results(root: &Path) -> Result<BTreeMap<String, bool>, Box<dyn std::error::Error>> {
    let output = Command::new(env!("CARGO"))
        .current_dir(root)
        .args([
            "test",
            "--workspace",
            "--all-features",
            "--exclude",
            "xtask",
            "--no-fail-fast",
            "--lib",
            "--bins",
            "--tests",
            "--",
        ])
        .args((0..10).flat_map(|tens| (0..10).map(move |ones| format!("s{tens}{ones}_"))))
        .output()?;
    let mut results = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Some((name, result)) = line.strip_prefix("test ").and_then(|l| l.split_once(" ... ")) else { continue };
        if !numbers_of(name).is_empty() && (result.starts_with("ok") || result.starts_with("FAILED")) {
            let ok = result.starts_with("ok");
            results.entry(name.to_owned()).and_modify(|before| *before &= ok).or_insert(ok);
        }
    }
    if results.is_empty() {
        return Err(format!("no statement's test ran:\n{}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::numbers_of;

    #[test]
    fn a_test_names_its_statements() {
        assert_eq!(numbers_of("registry::s07_unknown_ids"), [7]);
        assert_eq!(numbers_of("s10_s11_copies"), [10, 11]);
        assert_eq!(numbers_of("s7_x"), [0; 0]);
        assert_eq!(numbers_of("stop_all"), [0; 0]);
    }
}
