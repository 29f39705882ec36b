//! s68 and what belongs to it: a flap of a second, a lossy minute, a long way. No session lapses, nothing reconnects, the base keeps moving.

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
    if let Some(event) = client.routes("connected", cut).first() {
        return Err(format!("it reconnected: {event}").into());
    }
    client.all_well("motion", back + 1.0, end - 0.5)?;
    Ok(())
}

/// Loss of 20 % each way over 40 ms; 10 s, a minute in the long form.
pub fn loss(stage: &Stage) -> Outcome {
    let policy = Policy { loss: 0.2, ..Policy::delayed(20) };
    steady(stage, &["one"], policy, if stage.soak { 60 } else { 10 })
}

/// A round trip of 800 ms without loss; 8 s, a minute in the long form.
pub fn long_way(stage: &Stage) -> Outcome {
    steady(stage, &["one", "two"], Policy::delayed(400), if stage.soak { 60 } else { 8 })
}

fn steady(stage: &Stage, paths: &[&str], policy: Policy, seconds: u64) -> Outcome {
    let place = TwoPaths::with(stage, paths, Policy::delayed(1))?;
    let client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &["for=120"])?;
    place.observer.moving("base/base", 0.0, Duration::from_secs(5))?;
    sleep(Duration::from_millis(500));
    for path in paths {
        place.lab.set(path, BOTH, policy)?;
    }
    // What changes at this moment is no flap of the path that is to be shown.
    sleep(Duration::from_secs(1));
    let begun = now();
    sleep(Duration::from_secs(seconds));
    let end = now();
    let calls: Vec<_> = client.calls().into_iter().filter(|c| (begun..end - 2.0).contains(&c.due)).collect();
    let failed = calls.iter().filter(|c| !c.ok && !c.superseded()).count();
    stage.fact("calls", calls.len());
    stage.fact("failed", failed);
    stage.fact("superseded", calls.iter().filter(|c| c.superseded()).count());
    client.no_lapse()?;
    client.no_swap(begun)?;
    truth::kept_moving(&place.observer, "base", begun, end)?;
    truth::once_and_in_order(&place.observer, "base")?;
    if failed > 0 { Err(format!("{failed} of {} calls failed", calls.len()).into()) } else { Ok(()) }
}
