//! `cargo xtask bench failover`: how long a caller notices that a route died, on networks made for it (`crate::lab`). Rows are kept in
//! `benches/results`, with a table and a plot.

mod plot;
mod report;
mod rows;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::Outcome;
use crate::e2e::Stage;
use crate::lab::policy::Dice;
use crate::lab::{self, Privileges};
use crate::processes::Built;
use report::{Report, RowResult, Run};
use rows::Row;

/// The emulator was later than this, in milliseconds: the run says more about this computer than about the project, and is repeated.
const TOO_LATE_MS: f64 = 5.0;
/// Invalid runs of a row before it is given up, for each valid one that was asked for.
const PATIENCE: usize = 3;

/// What to measure.
pub struct Choice<'a> {
    /// Only these rows; all where there are none.
    pub rows: &'a [String],
    /// A few runs of each row.
    pub quick: bool,
    /// Runs of each row, instead of its own number.
    pub runs: Option<usize>,
    /// Where chance comes from.
    pub seed: u64,
}

/// Runs the rows one after the other and adds what they measured to the record.
pub fn failover(root: &Path, choice: &Choice<'_>) -> Outcome {
    let chosen = chosen(choice.rows)?;
    let privileges = lab::privileges().map_err(|missing| format!("network labs cannot be made here: {missing}"))?;
    Built::build_release(root)?;
    let runs = |row: &Row| choice.runs.unwrap_or(if choice.quick { row.quick } else { row.runs });
    let seconds: usize = chosen.iter().map(|row| runs(row) * row.seconds).sum();
    println!("{} rows, about {} minutes", chosen.len(), seconds.div_ceil(60));
    let mut missed = Vec::new();
    for row in chosen {
        let wanted = runs(row);
        (row.prepare)(root)?;
        let result = measure(root, row, wanted, privileges, choice.seed)?;
        missed.extend(report::missed(row, &result));
        // What is only a glance is not kept.
        if choice.quick {
            println!("{}", report::line(row, &result));
        } else {
            let mut report = Report::read(root)?;
            report.rows.insert(row.name.to_owned(), result);
            report.write(root)?;
            println!("{}", report::line(row, &report.rows[row.name]));
        }
    }
    if missed.is_empty() { Ok(()) } else { Err(format!("bars missed: {}", missed.join("; ")).into()) }
}

/// The rows of these names, in the table's order.
fn chosen(names: &[String]) -> Result<Vec<&'static Row>, Box<dyn std::error::Error>> {
    if let Some(unknown) = names.iter().find(|name| rows::all().all(|row| row.name != **name)) {
        let known: Vec<&str> = rows::all().map(|row| row.name).collect();
        return Err(format!("no row is called {unknown}; there are {known:?}").into());
    }
    Ok(rows::all().filter(|row| names.is_empty() || names.iter().any(|name| row.name == name)).collect())
}

fn measure(
    root: &Path,
    row: &Row,
    wanted: usize,
    privileges: Privileges,
    seed: u64,
) -> Result<RowResult, Box<dyn std::error::Error>> {
    println!("{}: {wanted} runs, seed {seed}", row.name);
    let folder = root.join("target/bench").join(row.name);
    let mut dice = Dice(seed);
    let mut result = RowResult { seed, ..RowResult::default() };
    while result.runs.len() < wanted {
        let seed = dice.next() >> 12;
        let here = folder.join(seed.to_string());
        if here.exists() {
            fs::remove_dir_all(&here)?;
        }
        fs::create_dir_all(&here)?;
        let done = privileges.again(&["bench-run", row.name, &seed.to_string()], &here);
        let facts: BTreeMap<String, Value> = fs::read(here.join("facts.json"))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        let late = facts.get("emulator_late_ms").and_then(Value::as_f64).unwrap_or(0.0);
        if late > TOO_LATE_MS {
            result.invalid += 1;
            if result.invalid > PATIENCE * wanted {
                return Err(
                    format!("{}: {} runs were invalid: this computer is too busy", row.name, result.invalid).into()
                );
            }
            continue;
        }
        let failed = done.err().map(|error| error.to_string());
        if let Some(error) = &failed {
            println!("    run {seed} failed, see {}: {error}", here.display());
        } else {
            fs::remove_dir_all(&here)?;
        }
        let facts = facts.into_iter().filter_map(|(name, value)| Some((name, value.as_f64()?))).collect();
        result.runs.push(Run { seed, facts, failed });
    }
    Ok(result)
}

/// One run of a row, in the namespaces that this process was started in.
pub fn inside(root: &Path, name: &str, seed: u64, folder: &Path) -> Outcome {
    let row = rows::all().find(|row| row.name == name).ok_or("there is no such row")?;
    let stage = Stage::new(Built::released(root), folder.to_path_buf(), false, seed);
    let done = (row.run)(&stage);
    stage.leave(&done)?;
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_chosen_by_name_in_the_tables_order() {
        let names = |chosen: Vec<&Row>| chosen.iter().map(|row| row.name).collect::<Vec<_>>();
        assert_eq!(chosen(&[]).map(|rows| rows.len()).ok(), Some(rows::all().count()));
        let two = ["lan-dial".to_owned(), "link-closed".to_owned()];
        assert_eq!(names(chosen(&two).expect("both are rows")), ["link-closed", "lan-dial"]);
        assert!(chosen(&["link-closed".to_owned(), "nothing".to_owned()]).is_err());
    }

    #[test]
    fn no_two_rows_share_a_name() {
        let mut names: Vec<&str> = rows::all().map(|row| row.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }
}
