//! `cargo xtask test-e2e`: real processes, sockets and mDNS; each scenario named by the statement it shows.

mod lan;
mod sessions;
mod tool;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::Outcome;
use crate::files;
use crate::processes::{Built, Machine, MachineOptions};

/// What a scenario works with.
pub struct Stage {
    /// The built programs.
    pub built: Built,
    /// A folder of its own, kept when it fails.
    pub folder: PathBuf,
}

impl Stage {
    /// Starts a machine of a name that no other run on this network has.
    pub fn machine(&self, options: &MachineOptions) -> Result<Machine, Box<dyn std::error::Error>> {
        let name =
            format!("e2e-{}-{}.loc1.viam.cloud", std::process::id(), self.folder.file_name().unwrap_or_default().len());
        Machine::start(&self.built, &self.folder, &name, options)
    }
}

/// One scenario.
struct Scenario {
    group: &'static str,
    name: &'static str,
    run: fn(&Stage) -> Outcome,
}

/// Every scenario, in the order of the statements.
const SCENARIOS: &[Scenario] = &[
    Scenario {
        group: "sessions",
        name: "s16_a_killed_client_stops_the_base_within_the_window",
        run: sessions::killed_client,
    },
    Scenario { group: "sessions", name: "s27_a_clean_close_stops_what_is_held", run: sessions::clean_close },
    Scenario { group: "sessions", name: "frozen_machine_stops_when_it_wakes", run: sessions::frozen_machine },
    Scenario { group: "sessions", name: "s15_sigterm_stops_before_it_ends", run: sessions::sigterm },
    Scenario { group: "lan", name: "found_by_name_over_mdns", run: lan::by_name },
    Scenario { group: "lan", name: "unknown_machine_verdict", run: lan::unknown_machine },
    Scenario { group: "lan", name: "configuration_is_reloaded", run: lan::reload },
    Scenario { group: "lan", name: "port_in_use_is_said", run: lan::port_in_use },
    Scenario { group: "lan", name: "ten_thousand_silent_connections", run: lan::silent_connections },
    Scenario { group: "tool", name: "exit_codes", run: tool::exit_codes },
    Scenario { group: "tool", name: "json_everywhere", run: tool::json },
];

/// The record that a scenario leaves.
#[derive(Serialize, Deserialize)]
struct Record {
    name: String,
    group: String,
    passed: bool,
    seconds: f64,
    error: Option<String>,
}

/// Prints the scenarios' names.
pub fn list() {
    for scenario in SCENARIOS {
        println!("{}: {}", scenario.group, scenario.name);
    }
}

/// Runs the scenarios whose group or name contains `only`, one after the other.
pub fn run(root: &Path, only: Option<&str>) -> Outcome {
    let chosen: Vec<_> =
        SCENARIOS.iter().filter(|s| only.is_none_or(|o| s.group.contains(o) || s.name.contains(o))).collect();
    if chosen.is_empty() {
        return Err(format!("no scenario's group or name contains {:?}; see --list", only.unwrap_or_default()).into());
    }
    let built = Built::build(root)?;
    let records = records(root);
    fs::create_dir_all(&records)?;
    let mut failed = Vec::new();
    println!("running {} scenarios", chosen.len());
    for scenario in &chosen {
        let record = one(&built, &records, scenario)?;
        println!("test {} ... {} ({:.1} s)", record.name, if record.passed { "ok" } else { "FAILED" }, record.seconds);
        if let Some(error) = &record.error {
            println!("    {}", error.replace('\n', "\n    "));
            failed.push(record.name.clone());
        }
        fs::write(records.join(format!("{}.json", record.name)), serde_json::to_vec_pretty(&record)?)?;
    }
    println!("{} passed, {} failed", chosen.len() - failed.len(), failed.len());
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("scenarios failed: {failed:?}; their folders are kept below {}", records.display()).into())
    }
}

fn one(built: &Built, records: &Path, scenario: &Scenario) -> Result<Record, Box<dyn std::error::Error>> {
    let folder = records.join(scenario.name);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let stage = Stage { built: built.clone(), folder };
    let started = Instant::now();
    let error = (scenario.run)(&stage).err().map(|e| e.to_string());
    if error.is_none() {
        fs::remove_dir_all(&stage.folder)?;
    }
    Ok(Record {
        name: scenario.name.to_owned(),
        group: scenario.group.to_owned(),
        passed: error.is_none(),
        seconds: started.elapsed().as_secs_f64(),
        error,
    })
}

/// The results of the last run, by name; none where there was no run.
pub fn recorded(root: &Path) -> Result<BTreeMap<String, bool>, Box<dyn std::error::Error>> {
    let mut results = BTreeMap::new();
    for path in files::walk(&records(root))? {
        let depth = path.strip_prefix(records(root))?.components().count();
        if depth == 1 && path.extension().is_some_and(|e| e == "json") {
            let record: Record = serde_json::from_slice(&fs::read(&path)?)?;
            results.insert(format!("e2e::{}", record.name), record.passed);
        }
    }
    Ok(results)
}

/// Where records and the folders of failed scenarios are kept.
fn records(root: &Path) -> PathBuf {
    root.join("target/e2e")
}
