//! What was measured, as a record, a table and a plot.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::plot;
use super::rows::{self, Row};
use crate::Outcome;

/// Below the repository's root.
const FOLDER: &str = "benches/results/failover";

/// Every row that was ever recorded.
#[derive(Default, Serialize, Deserialize)]
pub struct Report {
    /// By name.
    pub rows: BTreeMap<String, RowResult>,
}

/// The runs of one row.
#[derive(Default, Serialize, Deserialize)]
pub struct RowResult {
    /// Where chance came from.
    pub seed: u64,
    /// Runs that were repeated because the emulator was late.
    pub invalid: usize,
    /// The others.
    pub runs: Vec<Run>,
}

/// One run.
#[derive(Serialize, Deserialize)]
pub struct Run {
    /// Replays it.
    pub seed: u64,
    /// What it measured.
    pub facts: BTreeMap<String, f64>,
    /// What did not hold.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failed: Option<String>,
}

impl RowResult {
    /// A fact of every run that has it, smallest first.
    pub fn sorted(&self, fact: &str) -> Vec<f64> {
        let mut all: Vec<f64> = self.runs.iter().filter_map(|run| run.facts.get(fact).copied()).collect();
        all.sort_by(f64::total_cmp);
        all
    }

    fn failures(&self) -> usize {
        self.runs.iter().filter(|run| run.failed.is_some()).count()
    }
}

/// The middle of sorted numbers.
pub fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 { Some(upper) } else { Some((sorted[middle - 1] + upper) / 2.0) }
}

/// The bars that a row misses.
pub fn missed(row: &Row, result: &RowResult) -> Vec<String> {
    let mut missed = Vec::new();
    if result.failures() > 0 {
        missed.push(format!("{}: {} of {} runs failed", row.name, result.failures(), result.runs.len()));
    }
    for metric in row.metrics {
        let sorted = result.sorted(metric.fact);
        let bars = [("median", metric.median, median(&sorted)), ("max", metric.max, sorted.last().copied())];
        for (which, bar, is) in bars {
            match (bar, is) {
                (Some(bar), Some(is)) if is > bar => {
                    missed.push(format!("{}: {which} {} is {is:.1}, allowed {bar:.1}", row.name, metric.fact));
                }
                (Some(_), None) => missed.push(format!("{}: no run measured {}", row.name, metric.fact)),
                _ => {}
            }
        }
    }
    missed
}

/// One line for people who wait.
pub fn line(row: &Row, result: &RowResult) -> String {
    let mut line =
        format!("{}: {} runs, {} failed, {} invalid", row.name, result.runs.len(), result.failures(), result.invalid);
    for metric in row.metrics {
        let sorted = result.sorted(metric.fact);
        if let (Some(median), Some(max)) = (median(&sorted), sorted.last()) {
            let _ = write!(line, "; {} median {median:.1} max {max:.1}", metric.fact);
        }
    }
    line
}

impl Report {
    /// What is recorded.
    pub fn read(root: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        match fs::read(root.join(FOLDER).join("results.json")) {
            Ok(text) => Ok(serde_json::from_slice(&text)?),
            Err(_) => Ok(Self::default()),
        }
    }

    /// Writes record, table and plot.
    pub fn write(&self, root: &Path) -> Outcome {
        let folder = root.join(FOLDER);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("results.json"), serde_json::to_vec_pretty(self)?)?;
        fs::write(folder.join("README.md"), self.table())?;
        fs::write(folder.join("failover.svg"), plot::strips(self))?;
        Ok(())
    }

    fn table(&self) -> String {
        let mut text = String::from(
            "# Failover\n\n\
             Written by `cargo xtask bench failover`; every run is in `results.json`, with the seed that replays it. Two processors, release build,\n\
             links carried by the emulator of `xtask/src/lab` (round trip 2 ms, no loss, queue of at most 200 ms unless said), TCP controlled by cubic.\n\
             Calls are issued open loop at 50 Hz and counted from the moment they were due. A *gap* is the longest time without a good\n\
             answer, from the last one before the cut on: even without a cut it is about 20 ms. A run fails where the session lapsed, the base was\n\
             stopped, a command was driven twice or after a later one, or a call failed. *Invalid* runs, in which the emulator was more than 5 ms late,\n\
             were repeated.\n\n\
             | case | runs (failed, invalid) | measured | median | max | bar: median, max |\n|---|---|---|---|---|---|\n",
        );
        for row in rows::all() {
            let Some(result) = self.rows.get(row.name) else { continue };
            let measured = row.metrics.iter().filter_map(|metric| {
                let sorted = result.sorted(metric.fact);
                Some((metric, median(&sorted)?, sorted.last().copied()?))
            });
            for (index, (metric, median, max)) in measured.enumerate() {
                let bar = |bar: Option<f64>| bar.map_or("-".to_owned(), |bar| format!("{bar}"));
                let counts = format!("{} ({}, {})", result.runs.len(), result.failures(), result.invalid);
                let (title, counts) = if index == 0 { (row.title, counts.as_str()) } else { ("", "") };
                let _ = writeln!(
                    text,
                    "| {title} | {counts} | `{}` | {median:.1} | {max:.1} | {}, {} |",
                    metric.fact,
                    bar(metric.median),
                    bar(metric.max)
                );
            }
        }
        text.push_str("\n![every run](failover.svg)\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[1.0, 2.0, 9.0]), Some(2.0));
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), Some(3.0));
    }

    #[test]
    fn a_row_is_named_whatever_of_it_was_measured() {
        let silent = Run { seed: 1, facts: [("still_silent_ms".to_owned(), 60_000.0)].into(), failed: None };
        let rows = [("black-hole-python-direct".to_owned(), RowResult { runs: vec![silent], ..RowResult::default() })];
        let report = Report { rows: rows.into() };
        let row = rows::all().find(|row| report.rows.contains_key(row.name)).unwrap();
        assert!(report.table().contains(&format!("| {} | 1 (0, 0) | `still_silent_ms` |", row.title)));
    }

    #[test]
    fn a_missed_bar_is_told() {
        let both = ["read_gap_ms", "motion_gap_ms"];
        let run = |gap: f64| Run { seed: 1, facts: both.map(|fact| (fact.to_owned(), gap)).into(), failed: None };
        let row = rows::all().find(|row| row.name == "black-hole-direct").unwrap();
        let well = RowResult { runs: vec![run(60.0), run(70.0), run(249.0)], ..RowResult::default() };
        assert_eq!(missed(row, &well), [""; 0]);
        assert_eq!(missed(row, &RowResult::default()).len(), 4, "what nobody measured passes no bar");
        let slow = RowResult { runs: vec![run(60.0), run(110.0), run(251.0)], ..RowResult::default() };
        assert_eq!(missed(row, &slow).len(), 4);
    }
}
