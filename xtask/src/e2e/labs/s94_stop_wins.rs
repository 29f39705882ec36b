//! s94: Stop is issued while commands are stalled, or after they went another way. Once it is answered nothing moves, whatever the old path lets go.

use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use super::super::Stage;
use super::driver::Driver;
use super::places::{PORT, TwoPaths, WINDOW, within};
use super::truth;
use crate::Outcome;
use crate::lab::BOTH;
use crate::lab::WAYS;
use crate::lab::policy::Policy;
use crate::observer::now;

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

/// The primary to a machine that takes no order swallows commands that are out, and the Stop after them; the standby carries that. Then the old path
/// works again, for whatever is left on it.
pub fn stock_stalled(stage: &Stage) -> Outcome {
    let place = TwoPaths::stock(stage)?;
    let mut client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &["for=60"])?;
    client.wait_for_standby(Duration::from_secs(5))?;
    place.observer.moving("base/base", 0.0, Duration::from_secs(5))?;
    sleep(Duration::from_millis(700 + stage.seed * 37 % 400));
    let (primary, _) = place.cables_of(&client.route()?)?;
    let cut = place.lab.set(primary, BOTH, Policy::hole())?;
    // Calls are due every 20 ms, and the route is given up after 400 ms at the earliest.
    sleep(Duration::from_millis(70 + stage.seed * 17 % 150));
    client.order("hush")?;
    client.order("stop")?;
    let stop = now();
    let answered = client.wait("an answered Stop", cut, Duration::from_secs(4), |line| line["call"] == "stop")?;
    place.lab.set(primary, BOTH, Policy::delayed(1))?;
    still_after(stage, &place, &client, &answered)?;
    none_ended_well(stage, &client, (cut, stop))?;
    none_ran(&place, &client, (cut, stop))
}

/// No path carries anything when a command is issued, and then a Stop; the paths return, and the links with them.
pub fn no_route(stage: &Stage) -> Outcome {
    issued_into_a_hole(stage, &TwoPaths::new(stage)?)
}

/// The same, with a machine that takes no order.
pub fn no_route_stock(stage: &Stage) -> Outcome {
    issued_into_a_hole(stage, &TwoPaths::stock(stage)?)
}

fn issued_into_a_hole(stage: &Stage, place: &TwoPaths) -> Outcome {
    let mut client = still_held(stage, place)?;
    place.lab.set("one", BOTH, Policy::hole())?;
    let cut = place.lab.set("two", BOTH, Policy::hole())?;
    sleep(Duration::from_millis(300 + stage.seed * 37 % 200));
    client.order("speak")?;
    sleep(Duration::from_millis(50));
    client.order("hush")?;
    client.order("stop")?;
    let stop = now();
    sleep(Duration::from_millis(150));
    place.lab.set("one", BOTH, Policy::delayed(1))?;
    place.lab.set("two", BOTH, Policy::delayed(1))?;
    let answered = client.wait("an answered Stop", cut, Duration::from_secs(4), |line| line["call"] == "stop")?;
    still_after(stage, place, &client, &answered)?;
    // The machine may run what the old links let go first, as long as that is before the Stop.
    none_ended_well(stage, &client, (cut, stop))
}

/// Every link ended; a new one is on trial when commands are issued, which wait for it, and then a Stop, which does not.
pub fn parked(stage: &Stage) -> Outcome {
    let place = TwoPaths::new(stage)?;
    let (client, span) = issued_during_a_trial(stage, &place)?;
    let answered = client.wait("an answered Stop", span.1, Duration::from_secs(4), |line| line["call"] == "stop")?;
    still_after(stage, &place, &client, &answered)?;
    none_ran(&place, &client, span)
}

/// The same, with a machine that takes no order: it is told on the link that carries commands, once there is one.
pub fn parked_stock(stage: &Stage) -> Outcome {
    let place = TwoPaths::stock(stage)?;
    let (client, span) = issued_during_a_trial(stage, &place)?;
    told_later(stage, &place, &client, span)
}

fn issued_during_a_trial(stage: &Stage, place: &TwoPaths) -> Result<(Driver, (f64, f64)), Box<dyn std::error::Error>> {
    let mut client = still_held(stage, place)?;
    let cut = sever(place)?;
    client.wait("no route", cut, Duration::from_secs(1), |line| line["route"] == "no_route")?;
    // A link that is made again has to be proven, by a beat, before it carries commands: that takes a round trip.
    restore(place, Policy::delayed(60))?;
    client.wait("a link on trial", cut, Duration::from_secs(2), |line| line["of"]["swapping"] == true)?;
    let issued = now();
    client.order("speak")?;
    sleep(Duration::from_millis(40));
    client.order("hush")?;
    client.order("stop")?;
    let stop = now();
    let used = client.wait("a route", issued, Duration::from_secs(2), |line| line["route"] == "use")?;
    if used["t"].as_f64().is_none_or(|used| used < stop) {
        return Err("the link was proven before the Stop was issued: nothing was parked".into());
    }
    none_ended_well(stage, &client, (issued, stop))?;
    Ok((client, (issued, stop)))
}

/// There is no link at all when a command is issued, and then a Stop: both fail at once, and the machine is told of the Stop as soon as there is one.
pub fn nowhere_to_go(stage: &Stage) -> Outcome {
    stop_is_kept(stage, &TwoPaths::new(stage)?)
}

/// The same, with a machine that takes no order.
pub fn nowhere_to_go_stock(stage: &Stage) -> Outcome {
    stop_is_kept(stage, &TwoPaths::stock(stage)?)
}

fn stop_is_kept(stage: &Stage, place: &TwoPaths) -> Outcome {
    let mut client = still_held(stage, place)?;
    let cut = sever(place)?;
    client.wait("no route", cut, Duration::from_secs(1), |line| line["route"] == "no_route")?;
    let issued = now();
    client.order("speak")?;
    sleep(Duration::from_millis(50));
    client.order("hush")?;
    client.order("stop")?;
    let stop = now();
    restore(place, Policy::delayed(1))?;
    told_later(stage, place, &client, (issued, stop))?;
    none_ended_well(stage, &client, (issued, stop))
}

/// The Stop failed at once, and its caller was told that the machine may not have heard it; it is heard as soon as there is a link.
fn told_later(stage: &Stage, place: &TwoPaths, client: &Driver, (issued, stop): (f64, f64)) -> Outcome {
    let told = client.wait("a Stop", issued, Duration::from_millis(500), |line| line["call"] == "stop")?;
    if told["ok"] == true || told["code"] != "Unavailable" {
        return Err(format!("a Stop that could not be told to the machine did not fail as unavailable: {told}").into());
    }
    let used = client.wait("a route", issued, Duration::from_secs(2), |line| line["route"] == "use")?;
    let stopped = place.observer.stopped("base/base", issued, WINDOW)?;
    let after = stopped.t - used["t"].as_f64().ok_or("a line without a time")?;
    stage.fact("stopped_after_the_link_ms", after * 1e3);
    within("the Stop on the new link", after, Duration::from_millis(250))?;
    truth::stays_still(&place.observer, "base", stopped.t, Duration::from_millis(1_500))?;
    truth::once_and_in_order(&place.observer, "base")?;
    client.no_lapse()?;
    none_ran(place, client, (issued, stop))
}

/// The way takes far longer than the pause between repeats of a Stop: its caller hears after one round trip that it was done.
pub fn long_way(stage: &Stage) -> Outcome {
    let place = TwoPaths::with(stage, &["one"], Policy::delayed(200))?;
    let mut client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &["for=60"])?;
    place.observer.moving("base/base", 0.0, Duration::from_secs(5))?;
    sleep(Duration::from_millis(1_500 + stage.seed * 37 % 200));
    client.order("hush")?;
    let stop = now();
    client.order("stop")?;
    let answered = client.wait("an answered Stop", stop, Duration::from_secs(4), |line| line["call"] == "stop")?;
    still_after(stage, &place, &client, &answered)?;
    within("the Stop", answered["took_ms"].as_f64().unwrap_or_default() / 1e3, Duration::from_millis(600))
}

/// A client that drove, holds what it moved and says nothing now.
fn still_held(stage: &Stage, place: &TwoPaths) -> Result<Driver, Box<dyn std::error::Error>> {
    let mut client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &["for=60"])?;
    client.wait_for_standby(Duration::from_secs(5))?;
    place.observer.moving("base/base", 0.0, Duration::from_secs(5))?;
    sleep(Duration::from_millis(500 + stage.seed * 37 % 200));
    client.order("hush")?;
    // What was issued has been answered.
    sleep(Duration::from_millis(100));
    Ok(client)
}

/// Ends every link at the client and lets none be made; when, in Unix time.
fn sever(place: &TwoPaths) -> Result<f64, Box<dyn std::error::Error>> {
    place.lab.set("one", BOTH, Policy::hole())?;
    let cut = place.lab.set("two", BOTH, Policy::hole())?;
    place.client.nft(&format!(
        "table ip severed {{\nchain out {{ type filter hook output priority 0; tcp dport {PORT} reject with tcp reset\n }}\n }}\n"
    ))?;
    Ok(cut)
}

fn restore(place: &TwoPaths, policy: Policy) -> Result<f64, Box<dyn std::error::Error>> {
    place.client.nft("delete table ip severed\n")?;
    place.lab.set("one", BOTH, policy)?;
    place.lab.set("two", BOTH, policy)
}

/// When a call was due.
fn due(line: &Value) -> Option<f64> {
    Some(line["t"].as_f64()? - line["took_ms"].as_f64()? / 1e3)
}

/// The commands that were due in this span.
fn commands(client: &Driver, (from, to): (f64, f64)) -> Vec<Value> {
    let during = |line: &Value| line["call"] == "motion" && due(line).is_some_and(|due| (from..to).contains(&due));
    client.said().into_iter().filter(during).collect()
}

/// There were commands in this span, and their caller was told of every one that it failed.
fn none_ended_well(stage: &Stage, client: &Driver, span: (f64, f64)) -> Outcome {
    let issued = commands(client, span);
    stage.fact("commands_before_the_stop", issued.len());
    if issued.is_empty() {
        return Err("no command was out when the Stop was issued".into());
    }
    match issued.iter().find(|call| call["ok"] == true) {
        None => Ok(()),
        Some(call) => Err(format!("a command from before the Stop was answered with success: {call}").into()),
    }
}

/// None of the commands of this span drove anything.
fn none_ran(place: &TwoPaths, client: &Driver, span: (f64, f64)) -> Outcome {
    let driven = truth::driven(&place.observer, "base")?;
    let ran = |call: &Value| driven.iter().any(|(_, value)| call["value"].as_f64() == Some(*value));
    match commands(client, span).into_iter().find(ran) {
        None => Ok(()),
        Some(call) => Err(format!("a command from before the Stop ran: {call}").into()),
    }
}

fn still_after(stage: &Stage, place: &TwoPaths, client: &Driver, answered: &Value) -> Outcome {
    if answered["ok"] != true {
        return Err(format!("the Stop failed: {answered}").into());
    }
    stage.fact("stop_answered_ms", answered["took_ms"].as_f64().unwrap_or_default());
    let at = answered["t"].as_f64().ok_or("a line without a time")?;
    truth::stays_still(&place.observer, "base", at, Duration::from_millis(1_500))?;
    truth::once_and_in_order(&place.observer, "base")?;
    client.no_lapse()
}
