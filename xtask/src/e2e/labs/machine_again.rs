//! The machine's process ends and comes back, or another one takes its place.

use std::thread::sleep;
use std::time::Duration;

use super::super::Stage;
use super::driver::Driver;
use super::places::{PORT, TwoPaths, machine, within};
use super::truth;
use crate::Outcome;
use crate::lab::policy::Policy;
use crate::observer::{Observer, now};
use crate::processes::{Machine, MachineOptions};

/// It is killed while driven and started again: the client comes back by itself, nothing moves until it commands anew, and then it does.
pub fn restarted(stage: &Stage) -> Outcome {
    let mut place = TwoPaths::with(stage, &["one"], Policy::delayed(1))?;
    let mut client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &["for=60"])?;
    place.observer.moving("base/base", 0.0, Duration::from_secs(5))?;
    place.machine.process.kill()?;
    client.order("hush")?;
    sleep(Duration::from_millis(700));
    // The record of what moved begins anew.
    std::fs::remove_file(place.machine.observed())?;
    let machine = machine(stage, &place.server)?;
    let (observer, serves) = (Observer::new(&machine.observed()), now());
    let used = client.wait("a route", serves - 0.5, Duration::from_secs(5), |line| line["route"] == "use")?;
    let took = (used["t"].as_f64().unwrap_or_default() - serves).max(0.0);
    stage.fact("reconnected_s", took);
    within("the reconnection", took, Duration::from_secs(2))?;
    truth::stays_still(&observer, "base", serves, Duration::from_secs(1))?;
    client.order("speak")?;
    observer.moving("base/base", serves, Duration::from_secs(3))?;
    truth::once_and_in_order(&observer, "base").map(|_| ())
}

/// Another machine answers at its address and to its name, but cannot prove that it is the machine: the client stays away.
pub fn replaced(stage: &Stage) -> Outcome {
    let mut place = TwoPaths::with(stage, &["one"], Policy::delayed(1))?;
    let client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &["for=60"])?;
    place.observer.moving("base/base", 0.0, Duration::from_secs(5))?;
    place.machine.process.kill()?;
    let options = MachineOptions { port: Some(PORT), host: Some(place.server.clone()), ..MachineOptions::default() };
    let other = Machine::start(&stage.built, &stage.folder.join("other"), &place.machine.name, &options)?;
    let serves = now();
    sleep(Duration::from_secs(4));
    if let Some(event) = client.routes("use", serves).first() {
        return Err(format!("the client went over to another machine: {event}").into());
    }
    let observer = Observer::new(&other.observed());
    if let Some(seen) = observer.all()?.iter().find(|s| s.cause.as_deref() == Some("SetVelocity")) {
        return Err(format!("the other machine was driven: {seen:?}").into());
    }
    Ok(())
}
