//! `cargo xtask test-e2e`: real processes, sockets and mDNS; each scenario named by the statement it shows.

pub mod labs;
mod lan;
mod sessions;
mod tool;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Outcome;
use crate::files;
use crate::lab::{self, Lab, Privileges};
use crate::processes::{Built, Machine, MachineOptions};

/// Where a scenario leaves what it measured, for its record.
const FACTS: &str = "facts.json";

/// What a scenario works with.
pub struct Stage {
    /// The built programs.
    pub built: Built,
    /// A folder of its own, kept when it fails.
    pub folder: PathBuf,
    /// Whether there is time for the long form.
    pub soak: bool,
    /// Where chance comes from.
    pub seed: u64,
    facts: RefCell<BTreeMap<String, Value>>,
}

impl Stage {
    /// What a scenario, or a bench's row, works with.
    pub fn new(built: Built, folder: PathBuf, soak: bool, seed: u64) -> Self {
        Self { built, folder, soak, seed, facts: RefCell::default() }
    }

    /// Keeps what was measured for the scenario's record, and shows it.
    pub fn fact(&self, name: &str, value: impl Into<Value>) {
        let value = value.into();
        println!("    {name}: {value}");
        self.facts.borrow_mut().insert(name.to_owned(), value);
    }

    /// Leaves in the folder what was measured and why it failed, for the process that started this one.
    pub fn leave(&self, done: &Outcome) -> Outcome {
        fs::write(self.folder.join(FACTS), serde_json::to_vec_pretty(&*self.facts.borrow())?)?;
        if let Err(error) = done {
            fs::write(self.folder.join("error.txt"), error.to_string())?;
        }
        Ok(())
    }

    /// An empty network, for scenarios that run in a lab.
    pub fn lab(&self) -> Result<Lab, Box<dyn std::error::Error>> {
        Lab::new(&self.folder, self.seed)
    }

    /// Starts a machine of a name that no other run on this network has.
    pub fn machine(&self, options: &MachineOptions) -> Result<Machine, Box<dyn std::error::Error>> {
        let own = || {
            format!("e2e-{}-{}.loc1.viam.cloud", std::process::id(), self.folder.file_name().unwrap_or_default().len())
        };
        let name = options.name.clone().unwrap_or_else(own);
        Machine::start(&self.built, &self.folder, &name, options)
    }
}

/// One scenario.
struct Scenario {
    group: &'static str,
    name: &'static str,
    run: fn(&Stage) -> Outcome,
}

const fn scenario(group: &'static str, name: &'static str, run: fn(&Stage) -> Outcome) -> Scenario {
    Scenario { group, name, run }
}

/// What to run.
#[derive(Default)]
pub struct Choice<'a> {
    /// Only scenarios whose group or name contains this.
    pub only: Option<&'a str>,
    /// The long forms.
    pub soak: bool,
    /// Labs that cannot be made here are a failure instead of skipped.
    pub require_labs: bool,
    /// Where chance comes from.
    pub seed: u64,
}

/// Every scenario, in the order of the statements.
const SCENARIOS: &[Scenario] = &[
    scenario("sessions", "s16_a_killed_client_stops_the_base_within_the_window", sessions::killed_client),
    scenario("sessions", "s27_a_clean_close_stops_what_is_held", sessions::clean_close),
    scenario("sessions", "s05_a_machine_frozen_for_a_second_stops_nothing", sessions::machine_frozen_for_a_second),
    scenario("sessions", "s05_a_client_frozen_for_a_second_loses_nothing", sessions::client_frozen_for_a_second),
    scenario("sessions", "s16_a_machine_frozen_for_10_s_stops_when_it_wakes", sessions::machine_frozen_for_long),
    scenario("sessions", "s16_a_client_frozen_for_10_s_moves_nothing_again", sessions::client_frozen_for_long),
    scenario("sessions", "s15_sigterm_stops_before_it_ends", sessions::sigterm),
    scenario("sessions", "s20_an_expired_call_takes_nothing_away_from_who_drives", sessions::expired_call),
    scenario("sessions", "s21_a_call_that_failed_after_it_moved_is_its_sessions", sessions::failed_call),
    scenario("sessions", "s22_what_has_no_stop_is_left_alone", sessions::without_a_stop),
    scenario("lan", "found_by_name_over_mdns", lan::by_name),
    scenario("lan", "unknown_machine_verdict", lan::unknown_machine),
    scenario("lan", "configuration_is_reloaded", lan::reload),
    scenario("lan", "port_in_use_is_said", lan::port_in_use),
    scenario("lan", "ten_thousand_silent_connections", lan::silent_connections),
    scenario("tool", "exit_codes", tool::exit_codes),
    scenario("tool", "json_everywhere", tool::json),
];

/// The record that a scenario leaves.
#[derive(Serialize, Deserialize)]
struct Record {
    name: String,
    group: String,
    passed: bool,
    seconds: f64,
    error: Option<String>,
    /// What was measured.
    #[serde(default)]
    facts: BTreeMap<String, Value>,
}

/// Prints the scenarios' names.
pub fn list() {
    for scenario in SCENARIOS.iter().chain(labs::SCENARIOS) {
        println!("{}: {}", scenario.group, scenario.name);
    }
}

/// Runs the chosen scenarios, one after the other.
pub fn run(root: &Path, choice: &Choice<'_>) -> Outcome {
    let chosen = |s: &&Scenario| choice.only.is_none_or(|only| s.group.contains(only) || s.name.contains(only));
    let near: Vec<_> = SCENARIOS.iter().filter(chosen).collect();
    let mut labs: Vec<_> = labs::SCENARIOS.iter().filter(chosen).collect();
    if near.is_empty() && labs.is_empty() {
        return Err(
            format!("no scenario's group or name contains {:?}; see --list", choice.only.unwrap_or_default()).into()
        );
    }
    let privileges = if labs.is_empty() { Err(String::new()) } else { lab::privileges() };
    if let (Err(missing), false) = (&privileges, labs.is_empty()) {
        if choice.require_labs {
            return Err(format!("network labs are required and cannot be made here: {missing}").into());
        }
        println!("skipping {} network labs: {missing}", labs.len());
        labs.clear();
    }
    let built = Built::build(root)?;
    let records = records(root);
    fs::create_dir_all(&records)?;
    let mut failed = Vec::new();
    println!("running {} scenarios, seed {}", near.len() + labs.len(), choice.seed);
    let near = near.into_iter().map(|scenario| (scenario, None));
    let labs = labs.into_iter().map(|scenario| (scenario, privileges.as_ref().ok().copied()));
    for (scenario, lab) in near.chain(labs) {
        let record = one(&built, &records, scenario, lab, choice)?;
        println!("test {} ... {} ({:.1} s)", record.name, if record.passed { "ok" } else { "FAILED" }, record.seconds);
        if let Some(error) = &record.error {
            println!("    {}", error.replace('\n', "\n    "));
            failed.push(record.name.clone());
        }
        fs::write(records.join(format!("{}.json", record.name)), serde_json::to_vec_pretty(&record)?)?;
    }
    if failed.is_empty() {
        println!("none failed");
        Ok(())
    } else {
        Err(format!("scenarios failed: {failed:?}; their folders are kept below {}", records.display()).into())
    }
}

fn one(
    built: &Built,
    records: &Path,
    scenario: &Scenario,
    lab: Option<Privileges>,
    choice: &Choice<'_>,
) -> Result<Record, Box<dyn std::error::Error>> {
    let folder = records.join(scenario.name);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let started = Instant::now();
    let (seed, soak) = (choice.seed.to_string(), choice.soak.to_string());
    let (error, facts) = match lab {
        None => {
            let stage = Stage::new(built.clone(), folder.clone(), choice.soak, choice.seed);
            let error = (scenario.run)(&stage).err().map(|e| e.to_string());
            (error, stage.facts.take())
        }
        Some(privileges) => {
            let done = privileges.again(&["lab-scenario", scenario.name, &seed, &soak], &folder);
            let facts = fs::read(folder.join(FACTS)).ok().and_then(|text| serde_json::from_slice(&text).ok());
            (done.err().map(|e| e.to_string()), facts.unwrap_or_default())
        }
    };
    if error.is_none() {
        fs::remove_dir_all(&folder)?;
    }
    Ok(Record {
        name: scenario.name.to_owned(),
        group: scenario.group.to_owned(),
        passed: error.is_none(),
        seconds: started.elapsed().as_secs_f64(),
        error,
        facts,
    })
}

/// Runs one scenario in the namespaces that this process was started in, and leaves in its folder what it measured and why it failed.
pub fn inside(root: &Path, name: &str, seed: u64, soak: bool, folder: &Path) -> Outcome {
    let scenario = labs::SCENARIOS.iter().find(|s| s.name == name).ok_or("there is no such lab")?;
    let stage = Stage::new(Built::already(root), folder.to_path_buf(), soak, seed);
    let done = (scenario.run)(&stage);
    stage.leave(&done)?;
    done
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
