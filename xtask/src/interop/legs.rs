//! What every client's program does in the same steps, and what is asked of it.

use std::ops::Range;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::places::pair;
use super::step;
use crate::Outcome;
use crate::observer::{Observer, now};
use crate::processes::{Machine, Running};

/// What a leg ends with: a row's text, or what went wrong.
pub type Told = Result<String, Box<dyn std::error::Error>>;

/// A client that lists the parts, moves the base for a second and stops it. `rest` reads what steps of its own follow.
pub fn drive(
    command: &mut Command,
    at: &Machine,
    rest: impl FnOnce(&mut dyn Iterator<Item = std::io::Result<String>>) -> Told,
) -> Told {
    let since = now();
    let mut running = Running::start("the client", command)?;
    let mut lines = running.lines()?;
    let connected = step(&mut lines, "connected")?;
    let names = step(&mut lines, "resources")?;
    if !names["names"].as_array().is_some_and(|names| names.iter().any(|name| name == "base/base")) {
        return Err(format!("it does not list the base: {names}").into());
    }
    let driven = step(&mut lines, "driven")?;
    if driven["moving"] != true || driven["after"] != false {
        return Err(format!("the base did not move, or not stop: {driven}").into());
    }
    Observer::new(&at.observed()).moving("base/base", since, Duration::from_secs(2))?;
    let rest = rest(&mut lines)?;
    step(&mut lines, "closed")?;
    running.wait(Duration::from_secs(10))?;
    let took = connected["seconds"].as_f64().unwrap_or_default() * 1e3;
    Ok(format!("ok, connected in {took:.0} ms{rest}"))
}

/// The same over WebRTC; its pair is told as well.
pub fn drive_webrtc(
    command: &mut Command,
    at: &Machine,
    rest: impl FnOnce(&mut dyn Iterator<Item = std::io::Result<String>>) -> Told,
) -> Told {
    let since = now();
    let told = drive(command, at, rest)?;
    Ok(format!("{told}, {}", pair(at, since)?))
}

/// When a machine stops what a killed client with a session left moving: within its window of 2 s, not before most of it is over.
pub const WINDOW: Range<f64> = 1.5..2.1;

/// A client that sets the base in motion and is killed: the machine stops it so many seconds later.
pub fn stopped_when_killed(command: &mut Command, at: &Machine, allowed: Range<f64>) -> Told {
    let observer = Observer::new(&at.observed());
    let since = now();
    let mut running = Running::start("the client", command)?;
    step(&mut running.lines()?, "moving")?;
    observer.moving("base/base", since, Duration::from_secs(2))?;
    std::thread::sleep(Duration::from_millis(1500));
    running.kill()?;
    let killed = now();
    let bound = Duration::from_secs_f64(allowed.end + 2.0);
    let after = observer.stopped("base/base", killed, bound)?.t - killed;
    if !allowed.contains(&after) {
        return Err(format!("the base stopped {after:.2} s after the kill, and not within {allowed:?} s").into());
    }
    Ok(format!("ok, {after:.2} s after the kill"))
}

/// The times that a program told, in seconds.
pub fn times(told: &Value) -> Vec<f64> {
    told.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
}

/// The median and the longest of so many times.
pub fn spread(took: &[f64]) -> Result<(f64, f64), Box<dyn std::error::Error>> {
    let mut took = took.to_vec();
    took.sort_by(f64::total_cmp);
    match (took.get(took.len() / 2), took.last()) {
        (Some(median), Some(worst)) => Ok((*median, *worst)),
        _ => Err("no times were told".into()),
    }
}

/// Half of a client's dials have to be answered within so many ms.
const DIAL: f64 = 60.0;

/// A client that connects twenty times. None may take a second.
pub fn dials(command: &mut Command) -> Told {
    let mut running = Running::start("the client", command)?;
    let told = step(&mut running.lines()?, "dials")?;
    running.wait(Duration::from_secs(10))?;
    let took = times(&told["seconds"]);
    judged(&took)?;
    let (middle, worst) = spread(&took)?;
    Ok(format!("ok, median {:.0} ms, worst {:.0} ms", middle * 1e3, worst * 1e3))
}

/// Fails where dials of our machine took longer than a client's may, in seconds.
pub fn judged(took: &[f64]) -> Outcome {
    let (middle, worst) = spread(took)?;
    if worst >= 1.0 {
        return Err(format!("a dial took 1 s or more: {took:?}").into());
    }
    if middle * 1e3 > DIAL {
        return Err(format!("half of the dials took more than {DIAL} ms: {took:?}").into());
    }
    Ok(())
}
