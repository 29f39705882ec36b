//! A WebRTC link whose path is silently cut: with another path between the ends it moves there by itself, without one the machine ends what is
//! still going on for it (s49).

use std::thread::sleep;
use std::time::Duration;

use super::super::Stage;
use super::by_cloud;
use super::driver::Driver;
use super::places::{PORT, WINDOW, within};
use super::town::{Layout, Town};
use super::truth;
use crate::Outcome;
use crate::lab::BOTH;
use crate::lab::policy::Policy;
use crate::observer::now;

/// s49: everything is cut while a blocking move is under way. The machine cancels it, and nobody's operation is left.
pub fn nothing_left(stage: &Stage) -> Outcome {
    let town = Town::new(stage, &Layout { at_home: false, ..Layout::default() })?;
    let client = by_cloud::client(stage, &town, &["motion=", "move=cart", "standby=never"])?;
    town.observer.moving("base/cart", 0.0, Duration::from_secs(5))?;
    sleep(Duration::from_millis(700 + stage.seed * 131 % 400));
    let during = operations(stage, &town)?;
    if !during.contains("MoveStraight") {
        return Err(format!("the move is no operation: {during}").into());
    }
    let cut = town.lab.set("road", BOTH, Policy::hole())?;
    let stopped = town.observer.stopped("base/cart", cut, WINDOW + Duration::from_secs(1))?;
    stage.fact("stopped_s", stopped.t - cut);
    within("the end of the move", stopped.t - cut, Duration::from_millis(2_500))?;
    let after = operations(stage, &town)?;
    if after.contains("MoveStraight") {
        return Err(format!("the operation outlives its client: {after}").into());
    }
    // s50: who waits for the answer is told.
    let told = client.wait("the end of the move", cut, Duration::from_secs(7), |line| line["call"] == "move")?;
    stage.fact("told_after_s", told["t"].as_f64().map(|t| t - cut));
    if told["ok"] == true {
        return Err("a move that was cut off ended well".into());
    }
    truth::stays_still(&town.observer, "cart", stopped.t, Duration::from_secs(1))
}

/// What the machine is doing, asked on itself.
fn operations(stage: &Stage, town: &Town) -> Result<String, Box<dyn std::error::Error>> {
    let mut command = stage.built.command("lifeline");
    town.machine.credentials(&mut command);
    let output = town.server.output(command.args(["--json", "ops", &format!("localhost:{PORT}")]))?;
    if !output.status.success() {
        return Err(format!("no operations: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Two cables between the ends, one link, no other way to make one: the cable that it uses dies.
pub fn moves_to_another_pair(stage: &Stage) -> Outcome {
    let mut town = Town::new(stage, &Layout::default())?;
    town.lab.cable("side", (&town.client, "side"), (&town.server, "side"))?;
    town.client.address("side", "10.3.0.2/24")?;
    town.server.address("side", "10.3.0.1/24")?;
    // No direct link can be made, and the cloud is gone by the time it would be needed.
    town.refuse_direct()?;
    let client = by_cloud::client(stage, &town, &["standby=never"])?;
    town.observer.moving("base/base", 0.0, Duration::from_secs(5))?;
    sleep(Duration::from_millis(1_500 + stage.seed * 131 % 400));
    let before = pair(&town)?;
    let (cable, gone) = [("client-eth0", "10.1.0.2:"), ("side", "10.3.0.2:")]
        .into_iter()
        .find(|(_, address)| before.contains(address))
        .ok_or_else(|| format!("the link uses neither cable, but {before}"))?;
    town.cloud.kill()?;
    let cut = town.lab.set(cable, BOTH, Policy::hole())?;
    let after = moved(stage, &town, &client, before, (cut, Duration::from_millis(700)))?;
    if after.contains(gone) {
        return Err(format!("the link is still where nothing passes: {after}").into());
    }
    Ok(())
}

/// One cable between the ends, and a way through a translator at either; one link, no other way to make one: the cable dies. What the translators show of
/// the ends each of them learns from the cloud only when the link is up already, so the ends tell each other on it.
pub fn moves_through_translators(stage: &Stage) -> Outcome {
    let mut town = Town::new(stage, &Layout::default())?;
    town.refuse_direct()?;
    let client = by_cloud::client(stage, &town, &["standby=never"])?;
    town.observer.moving("base/base", 0.0, Duration::from_secs(5))?;
    sleep(Duration::from_millis(1_500 + stage.seed * 131 % 400));
    let before = pair(&town)?;
    if !before.contains("host 10.1.0.2:") {
        return Err(format!("the link does not use the cable, but {before}").into());
    }
    town.cloud.kill()?;
    let cut = town.lab.set("client-eth0", BOTH, Policy::hole())?;
    let after = moved(stage, &town, &client, before, (cut, Duration::from_secs(1)))?;
    if !after.contains(" 203.0.113.2:") {
        return Err(format!("the link does not go by way of the road's translator: {after}").into());
    }
    Ok(())
}

/// The link that was cut goes on within a bound, and the base with it: its pair then.
fn moved(
    stage: &Stage,
    town: &Town,
    client: &Driver,
    before: String,
    (cut, bound): (f64, Duration),
) -> Result<String, Box<dyn std::error::Error>> {
    sleep(Duration::from_secs(3));
    let end = now();
    let after = pair(town)?;
    stage.fact("pairs", [before, after.clone()].join(", then "));
    for kind in ["read", "motion"] {
        let (gap, _) = truth::gap_ms(&client.calls(), kind, cut)?;
        stage.fact(&format!("{kind}_gap_ms"), gap);
        within("the gap", gap / 1e3, bound)?;
    }
    if let Some(event) = client.routes("connected", cut).first() {
        return Err(format!("another link was made: {event}").into());
    }
    client.no_lapse()?;
    truth::kept_moving(&town.observer, "base", cut, end)?;
    truth::once_and_in_order(&town.observer, "base")?;
    Ok(after)
}

/// The pair of addresses over which the newest call came to the machine.
pub(super) fn pair(town: &Town) -> Result<String, Box<dyn std::error::Error>> {
    let calls = town.machine.calls()?;
    let newest = calls.iter().rev().find_map(|call| call["pair"].as_str());
    Ok(newest.ok_or("no call came over WebRTC")?.to_owned())
}
