//! Either end is stopped by its operating system for a while, as by a suspended laptop or a debugger.

use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;

use super::super::Stage;
use super::driver::Driver;
use super::places::{TwoPaths, WINDOW, within};
use super::truth;
use crate::Outcome;
use crate::observer::now;

/// A client that stands still for a second loses nothing; one that does for long is a client that is gone.
pub fn client(stage: &Stage) -> Outcome {
    let place = TwoPaths::new(stage)?;
    let client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &["for=60"])?;
    client.wait_for_standby(Duration::from_secs(5))?;
    sleep(Duration::from_millis(500));
    let short = now();
    client.signal(Signal::STOP)?;
    sleep(Duration::from_secs(1));
    client.signal(Signal::CONT)?;
    sleep(Duration::from_secs(1));
    client.no_lapse()?;
    truth::kept_moving(&place.observer, "base", short, now())?;
    let long = now();
    client.signal(Signal::STOP)?;
    let stopped = place.observer.stopped("base/base", long, WINDOW + Duration::from_secs(1))?;
    within("the safety stop", stopped.t - long, WINDOW + Duration::from_millis(100))?;
    truth::stays_still(&place.observer, "base", stopped.t, Duration::from_secs(if stage.soak { 8 } else { 3 }))?;
    let woken = now();
    client.signal(Signal::CONT)?;
    // What it said before it heard of its lapse moves nothing: the first command that works is one that was answered after it.
    client.wait("its lapse", woken, Duration::from_secs(2), |line| {
        line["session"].as_str().is_some_and(|s| s.contains("Lapsed"))
    })?;
    client.wait("a command that works", woken, Duration::from_secs(3), |line| {
        line["call"] == "motion" && line["ok"] == true
    })?;
    truth::once_and_in_order(&place.observer, "base").map(|_| ())
}

/// A machine that stands still for a second loses nobody; one that does for long stops what its vanished sessions drove, when it wakes.
pub fn machine(stage: &Stage) -> Outcome {
    let place = TwoPaths::new(stage)?;
    let client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &["for=60"])?;
    client.wait_for_standby(Duration::from_secs(5))?;
    sleep(Duration::from_millis(500));
    let short = now();
    place.machine.process.signal(Signal::STOP)?;
    sleep(Duration::from_secs(1));
    place.machine.process.signal(Signal::CONT)?;
    sleep(Duration::from_secs(1));
    client.no_lapse()?;
    truth::kept_moving(&place.observer, "base", short, now())?;
    place.machine.process.signal(Signal::STOP)?;
    sleep(Duration::from_secs(if stage.soak { 10 } else { 4 }));
    let woken = now();
    place.machine.process.signal(Signal::CONT)?;
    let stopped = place.observer.stopped("base/base", woken, Duration::from_secs(1))?;
    stage.fact("stopped_after_waking_s", stopped.t - woken);
    within("the stop after waking", stopped.t - woken, Duration::from_millis(300))?;
    client.wait("a command that works", woken, Duration::from_secs(5), |line| {
        line["call"] == "motion" && line["ok"] == true
    })?;
    truth::once_and_in_order(&place.observer, "base").map(|_| ())
}
