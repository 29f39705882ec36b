//! A machine whose cloud cannot be reached costs next to nothing, and is there again soon after the cloud is.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::super::Stage;
use super::clouded::{ADDRESS, Place, VIA};
use super::places::within;
use crate::Outcome;
use crate::lab::BOTH;
use crate::lab::policy::Policy;
use crate::processes::{Machine, Running};

/// What the machine may use of one core meanwhile.
const MOST: f64 = 0.01;
/// How soon after its cloud it is to be there.
const BACK: Duration = Duration::from_secs(5);

/// What of a core a process uses over so long.
fn share(process: &Running, over: Duration) -> Result<f64, Box<dyn std::error::Error>> {
    // What starting has left is over.
    sleep(Duration::from_secs(2));
    let (before, since) = (process.processor_seconds()?, Instant::now());
    sleep(over);
    Ok((process.processor_seconds()? - before) / since.elapsed().as_secs_f64())
}

fn measure(stage: &Stage, machine: &Machine, what: &str, over: Duration) -> Outcome {
    let used = share(&machine.process, over)?;
    stage.fact(&format!("{what}_percent_of_a_core"), used * 100.0);
    if machine.log()?.lines().count() > 200 {
        return Err(format!("{what}: the machine's log has {} lines", machine.log()?.lines().count()).into());
    }
    if used > MOST {
        return Err(format!("{what}: the machine uses {:.2} % of a core", used * 100.0).into());
    }
    Ok(())
}

fn mend(place: &Place) -> Outcome {
    place.lab.set("wan", BOTH, Policy::delayed(10)).map(|_| ())
}

/// The cloud's host refuses, there is no way to it, or nothing comes back, from the machine's start on.
pub fn never_there(stage: &Stage) -> Outcome {
    let mut place = Place::new(stage)?;
    let over = Duration::from_secs(if stage.soak { 120 } else { 10 });
    for what in ["unroutable", "hole", "refused"] {
        if what == "hole" {
            place.lab.set("wan", BOTH, Policy::hole())?;
        }
        if what == "refused" {
            place.cloud = None;
        } else {
            place.start_cloud(stage)?;
        }
        if what != "unroutable" {
            place.server.route(ADDRESS, VIA)?;
        }
        let machine = place.machine(stage)?;
        measure(stage, &machine, what, over)?;
        match what {
            "unroutable" => place.server.route(ADDRESS, VIA)?,
            "hole" => mend(&place)?,
            _ => place.start_cloud(stage)?,
        }
        back(stage, &place, what)?;
        place.server.ip(&format!("route del {ADDRESS}"))?;
    }
    Ok(())
}

/// The machine was registered, and its cloud's process is killed.
pub fn killed(stage: &Stage) -> Outcome {
    let mut place = Place::new(stage)?;
    let machine = registered(stage, &mut place)?;
    place.cloud = None;
    measure(stage, &machine, "killed", long(stage))?;
    place.start_cloud(stage)?;
    back(stage, &place, "killed")
}

/// The machine was registered, and everything on the way to its cloud vanishes: for shorter than anybody waits, then for longer.
pub fn vanished(stage: &Stage) -> Outcome {
    let mut place = Place::new(stage)?;
    let machine = registered(stage, &mut place)?;
    place.lab.set("wan", BOTH, Policy::hole())?;
    sleep(Duration::from_secs(4));
    mend(&place)?;
    back(stage, &place, "vanished_for_4_s")?;
    place.lab.set("wan", BOTH, Policy::hole())?;
    measure(stage, &machine, "vanished", long(stage))?;
    mend(&place)?;
    back(stage, &place, "vanished")
}

fn long(stage: &Stage) -> Duration {
    Duration::from_secs(if stage.soak { 120 } else { 20 })
}

fn registered(stage: &Stage, place: &mut Place) -> Result<Machine, Box<dyn std::error::Error>> {
    place.server.route(ADDRESS, VIA)?;
    place.start_cloud(stage)?;
    let machine = place.machine(stage)?;
    place.answered(stage, 4 * BACK)?;
    Ok(machine)
}

fn back(stage: &Stage, place: &Place, what: &str) -> Outcome {
    let took = place.answered(stage, 4 * BACK)?;
    stage.fact(&format!("{what}_back_s"), took);
    within(&format!("{what}: coming back"), took, BACK)
}
