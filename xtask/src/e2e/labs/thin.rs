//! A link of 2 Mbit/s that carries as much as it can, in one direction: whoever drives meanwhile keeps the session, and what a call waits for is
//! bounded.

use std::thread::sleep;
use std::time::Duration;

use super::super::Stage;
use super::clouded::{ADDRESS, Place, VIA};
use super::driver::Driver;
use super::places::TwoPaths;
use super::truth;
use crate::Outcome;
use crate::lab::BOTH;
use crate::lab::policy::Policy;
use crate::observer::{Observer, now};

/// Half of the calls are to be answered within so many ms: the round trip of 20, the longest queue of 200 before the thin link, and a packet of
/// 16 KiB that is on its way.
const CALL_MS: f64 = 300.0;

/// Six readers at once keep the link full.
const IMAGES: &str = "camera=camera,camera,camera,camera,camera,camera";

/// Its queue holds 200 ms, as the lab's links do unless they are told otherwise.
fn thin() -> Policy {
    Policy { rate: 2_000_000, ..Policy::delayed(10) }
}

pub fn direct_down(stage: &Stage) -> Outcome {
    direct(stage, IMAGES)
}

pub fn direct_up(stage: &Stage) -> Outcome {
    direct(stage, "upload=base")
}

pub fn webrtc_down(stage: &Stage) -> Outcome {
    webrtc(stage, IMAGES)
}

pub fn webrtc_up(stage: &Stage) -> Outcome {
    webrtc(stage, "upload=base")
}

fn direct(stage: &Stage, load: &str) -> Outcome {
    let place = TwoPaths::with(stage, &["one"], thin())?;
    // A route of its own for WebRTC is not to help: the only path is the thin one, and it stays with the direct link.
    let options = ["for=60", "rate=10", "standby=never", load];
    let client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &options)?;
    watch(stage, &client, &place.observer, false)
}

fn webrtc(stage: &Stage, load: &str) -> Outcome {
    let mut place = Place::new(stage)?;
    place.server.route(ADDRESS, VIA)?;
    place.start_cloud(stage)?;
    let machine = place.machine(stage)?;
    place.answered(stage, Duration::from_secs(10))?;
    place.lab.set("wan", BOTH, thin())?;
    let client = place.client(stage, &["for=60", "rate=10", "standby=never", load])?;
    watch(stage, &client, &Observer::new(&machine.observed()), true)
}

fn watch(stage: &Stage, client: &Driver, observer: &Observer, webrtc: bool) -> Outcome {
    let route = client.route()?;
    if route.contains("WebRTC") != webrtc {
        return Err(format!("it went over {route}").into());
    }
    sleep(Duration::from_secs(1));
    let since = now();
    sleep(Duration::from_secs(if stage.soak { 50 } else { 15 }));
    let until = now();
    client.no_lapse()?;
    let calls = client.calls();
    let mut took: Vec<f64> = Vec::new();
    let (mut large, mut failed) = (0, 0);
    for call in calls.iter().filter(|call| call.due >= since && call.done <= until) {
        match call.kind.as_str() {
            "read" | "motion" if call.ok => took.push(call.took_ms()),
            "read" | "motion" if !call.superseded() => failed += 1,
            _ => large += 1,
        }
    }
    took.sort_by(f64::total_cmp);
    if took.len() < 100 || large < 3 {
        return Err(format!("{} calls and {large} large ones were answered", took.len()).into());
    }
    let at = |share: usize| took[(took.len() - 1) * share / 100];
    stage.fact("calls", took.len());
    stage.fact("large", large);
    stage.fact("median_ms", at(50));
    stage.fact("p99_ms", at(99));
    if failed > 0 || at(50) > CALL_MS {
        return Err(format!("{failed} calls failed, half took {:.0} ms", at(50)).into());
    }
    truth::kept_moving(observer, "base", since, until)
}
