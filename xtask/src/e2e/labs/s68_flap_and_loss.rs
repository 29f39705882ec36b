//! s68 and what belongs to it: a flap of a second, a lossy minute, a long way. No session lapses, and the base keeps moving.

use std::thread::sleep;
use std::time::Duration;

use super::super::Stage;
use super::driver::Driver;
use super::places::TwoPaths;
use super::truth;
use crate::Outcome;
use crate::lab::BOTH;
use crate::lab::policy::Policy;
use crate::observer::now;

/// One path, gone for a second.
pub fn flap(stage: &Stage) -> Outcome {
    let place = TwoPaths::with(stage, &["one"], Policy::delayed(1))?;
    let client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &["for=60"])?;
    sleep(Duration::from_millis(1_000 + stage.seed * 131 % 400));
    let cut = place.lab.set("one", BOTH, Policy::hole())?;
    sleep(Duration::from_secs(1));
    let back = place.lab.set("one", BOTH, Policy::delayed(1))?;
    sleep(Duration::from_secs(3));
    let end = now();
    stage.fact("read_gap_ms", truth::gap_ms(&client.calls(), "read", cut)?.0);
    client.no_lapse()?;
    truth::kept_moving(&place.observer, "base", cut, end)?;
    truth::once_and_in_order(&place.observer, "base")?;
    // A new link may be there before the old one's next retransmission: that is a way on in the same session, and no reconnection of it.
    stage.fact("links_made", client.routes("connected", cut).len());
    client.all_well("motion", back + 1.0, end - 0.5)?;
    Ok(())
}

/// Loss of 20 % each way over 40 ms, on one path alone and with a standby; 10 s, a minute in the long form.
pub fn loss(stage: &Stage) -> Outcome {
    let place = TwoPaths::with(stage, &["one"], Policy::delayed(1))?;
    let client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &["for=120"])?;
    place.observer.moving("base/base", 0.0, Duration::from_secs(5))?;
    place.lab.set("one", BOTH, Policy { loss: 0.2, ..Policy::delayed(20) })?;
    sleep(Duration::from_millis(500));
    steady(stage, &place, &client, if stage.soak { 60 } else { 10 })
}

/// The same loss on both of two paths.
pub fn loss_with_standby(stage: &Stage) -> Outcome {
    let place = TwoPaths::new(stage)?;
    let client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &["for=120"])?;
    client.wait_for_standby(Duration::from_secs(5))?;
    for path in ["one", "two"] {
        place.lab.set(path, BOTH, Policy { loss: 0.2, ..Policy::delayed(20) })?;
    }
    sleep(Duration::from_millis(500));
    steady(stage, &place, &client, if stage.soak { 60 } else { 10 })
}

/// A round trip of 800 ms without loss, from the first packet on; 8 s, a minute in the long form.
pub fn long_way(stage: &Stage) -> Outcome {
    let place = TwoPaths::with(stage, &["one"], Policy::delayed(400))?;
    let client = Driver::start(stage, &place.client, &place.machine, "10.1.0.1:8080", &["for=120"])?;
    place.observer.moving("base/base", 0.0, Duration::from_secs(10))?;
    let begun = now();
    steady(stage, &place, &client, if stage.soak { 60 } else { 8 })?;
    client.no_swap(begun)
}

/// The round trip of the only path grows from 2 to 800 ms while driving.
pub fn becomes_long(stage: &Stage) -> Outcome {
    let place = TwoPaths::with(stage, &["one"], Policy::delayed(1))?;
    let client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &["for=60"])?;
    place.observer.moving("base/base", 0.0, Duration::from_secs(5))?;
    sleep(Duration::from_millis(500 + stage.seed * 131 % 400));
    let begun = place.lab.set("one", BOTH, Policy::delayed(400))?;
    sleep(Duration::from_secs(8));
    let end = now();
    client.no_lapse()?;
    truth::kept_moving(&place.observer, "base", begun, end)?;
    truth::once_and_in_order(&place.observer, "base")?;
    // Calls have nowhere to go until the first answer over the long way, and never again.
    client.all_well("motion", begun + 2.0, end - 1.5)?;
    stage.fact("links_made", client.routes("connected", begun).len());
    Ok(())
}

/// One when the way becomes long, before its length is known; one to a fresh connection instead of one that is stuck; one back.
const MOST_SWAPS: usize = 3;

/// Both together, at once while driving: no session can be counted on over such a way. That is told, and the route is kept.
pub fn long_and_lossy(stage: &Stage) -> Outcome {
    let place = TwoPaths::with(stage, &["one"], Policy::delayed(1))?;
    let client = Driver::start(stage, &place.client, &place.machine, "10.1.0.1:8080", &["for=120"])?;
    place.observer.moving("base/base", 0.0, Duration::from_secs(5))?;
    let begun = place.lab.set("one", BOTH, Policy { loss: 0.2, ..Policy::delayed(400) })?;
    let told = client.wait("a route too slow", begun, Duration::from_secs(12), |line| line["route"] == "tooslow")?;
    stage.fact("told_after_s", told["t"].as_f64().map(|t| t - begun));
    sleep(Duration::from_secs(if stage.soak { 60 } else { 2 }));
    stage.fact("told", client.routes("tooslow", begun).len());
    let swaps = client.routes("use", begun).len();
    stage.fact("swaps", swaps);
    if swaps > MOST_SWAPS {
        return Err(format!("the route flaps: {swaps} changes").into());
    }
    truth::once_and_in_order(&place.observer, "base").map(|_| ())
}

fn steady(stage: &Stage, place: &TwoPaths, client: &Driver, seconds: u64) -> Outcome {
    let begun = now();
    sleep(Duration::from_secs(seconds));
    let end = now();
    let calls: Vec<_> = client.calls().into_iter().filter(|c| (begun..end - 2.0).contains(&c.due)).collect();
    stage.fact("calls", calls.len());
    stage.fact("failed", calls.iter().filter(|c| !c.ok && !c.superseded()).count());
    stage.fact("superseded", calls.iter().filter(|c| c.superseded()).count());
    let swaps = client.routes("use", begun).len();
    stage.fact("swaps", swaps);
    // With a fifth lost each way a connection is stuck for half a second every few seconds, and each that is stuck is left once: more often is flapping.
    if swaps as u64 > seconds {
        return Err(format!("the route flaps: {swaps} changes in {seconds} s").into());
    }
    client.no_lapse()?;
    truth::kept_moving(&place.observer, "base", begun, end)?;
    truth::once_and_in_order(&place.observer, "base").map(|_| ())
}
