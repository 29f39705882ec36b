//! The rows: what is done to the network, and what it may cost.

mod cuts;
mod dials;
mod healthy;
mod judge;
mod peers;
mod webrtc;

use std::path::Path;

use crate::Outcome;
use crate::e2e::Stage;

/// One row of the table.
pub struct Row {
    /// What it is called.
    pub name: &'static str,
    /// What happens.
    pub title: &'static str,
    /// Makes, once, what a run needs and cannot get: no network leads out of a lab.
    pub prepare: fn(&Path) -> Outcome,
    /// One run.
    pub run: fn(&Stage) -> Outcome,
    /// What is told of it, and its bars.
    pub metrics: &'static [Metric],
    /// Runs for the record.
    pub runs: usize,
    /// Runs for a glance.
    pub quick: usize,
    /// About how long one takes, in seconds.
    pub seconds: usize,
}

/// A number that a run leaves, and what it may be at most.
pub struct Metric {
    /// The fact's name, its unit last.
    pub fact: &'static str,
    /// The middle one.
    pub median: Option<f64>,
    /// Each one.
    pub max: Option<f64>,
}

const fn metric(fact: &'static str, median: f64, max: f64) -> Metric {
    Metric { fact, median: Some(median), max: Some(max) }
}

const fn middle(fact: &'static str, median: f64) -> Metric {
    Metric { fact, median: Some(median), max: None }
}

const fn each(fact: &'static str, max: f64) -> Metric {
    Metric { fact, median: None, max: Some(max) }
}

const fn told(fact: &'static str) -> Metric {
    Metric { fact, median: None, max: None }
}

/// A row that is short enough for thirty runs.
const fn row(
    name: &'static str,
    title: &'static str,
    run: fn(&Stage) -> Outcome,
    metrics: &'static [Metric],
    seconds: usize,
) -> Row {
    Row { name, title, prepare: |_| Ok(()), run, metrics, runs: 30, quick: 5, seconds }
}

/// Gaps of reads and of motion calls at our machine, which takes copies of both.
const HEDGED: &[Metric] =
    &[metric("read_gap_ms", 100.0, 250.0), metric("motion_gap_ms", 100.0, 250.0), told("swap_ms"), told("superseded")];

/// Where nothing happens nothing is to be noticed.
const NOTHING: &[Metric] = &[metric("hedged_percent", 0.0, 0.0), each("swaps", 0.0), each("stops", 0.0)];

/// Every row. The round trip is 2 ms without loss, calls are issued at 50 Hz, and the machine is ours, unless a title says otherwise.
pub fn all() -> impl Iterator<Item = &'static Row> {
    [cuts::ROWS, webrtc::ROWS, healthy::ROWS, dials::ROWS, peers::ROWS].into_iter().flatten()
}
