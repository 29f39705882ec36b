//! s94: Stop is issued while commands are stalled, or after they went another way. Once it is answered nothing moves, whatever the old path lets go.

use std::thread::sleep;
use std::time::Duration;

use super::super::Stage;
use super::driver::Driver;
use super::places::TwoPaths;
use super::truth;
use crate::Outcome;
use crate::lab::BOTH;
use crate::lab::WAYS;
use crate::lab::policy::Policy;

/// The only path swallows everything while commands are issued and then a Stop; it returns.
pub fn queued(stage: &Stage) -> Outcome {
    let place = TwoPaths::with(stage, &["one"], Policy::delayed(1))?;
    let mut client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &["for=60"])?;
    sleep(Duration::from_millis(1_000));
    let cut = place.lab.set("one", BOTH, Policy::hole())?;
    sleep(Duration::from_millis(200 + stage.seed * 17 % 150));
    client.order("hush")?;
    client.order("stop")?;
    sleep(Duration::from_millis(300));
    place.lab.set("one", BOTH, Policy::delayed(1))?;
    let answered = client.wait("an answered Stop", cut, Duration::from_secs(4), |line| line["call"] == "stop")?;
    still_after(stage, &place, &client, &answered)
}

/// The old path holds commands back for 3 s; the standby takes over, says stop, and then the old path lets go.
pub fn released_late(stage: &Stage) -> Outcome {
    let place = TwoPaths::new(stage)?;
    let mut client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &["for=60"])?;
    client.wait_for_standby(Duration::from_secs(5))?;
    sleep(Duration::from_millis(700));
    let (primary, _) = place.cables_of(&client.route()?)?;
    let held = place.lab.set(primary, WAYS[0], Policy::delayed(3_000))?;
    client.wait("a swap", held, Duration::from_secs(3), |line| line["route"] == "use")?;
    sleep(Duration::from_millis(100 + stage.seed * 17 % 150));
    client.order("hush")?;
    client.order("stop")?;
    let answered = client.wait("an answered Stop", held, Duration::from_secs(2), |line| line["call"] == "stop")?;
    sleep(Duration::from_secs(2));
    still_after(stage, &place, &client, &answered)
}

fn still_after(stage: &Stage, place: &TwoPaths, client: &Driver, answered: &serde_json::Value) -> Outcome {
    if answered["ok"] != true {
        return Err(format!("the Stop failed: {answered}").into());
    }
    stage.fact("stop_answered_ms", answered["took_ms"].as_f64().unwrap_or_default());
    let at = answered["t"].as_f64().ok_or("a line without a time")?;
    truth::stays_still(&place.observer, "base", at, Duration::from_millis(1_500))?;
    truth::once_and_in_order(&place.observer, "base")?;
    client.no_lapse()
}
