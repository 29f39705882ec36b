//! A translator between a client that drives over WebRTC and its machine forgets its mappings, or gives the client another port.

use std::thread::sleep;
use std::time::Duration;

use super::super::Stage;
use super::by_cloud;
use super::driver::Driver;
use super::places::within;
use super::s49_cut_webrtc::pair;
use super::town::{Layout, Town};
use super::truth;
use crate::Outcome;
use crate::lab::Nat;
use crate::observer::now;

/// Each end's translator forgets what it knew, one after the other, and keeps to the ports that it gives.
pub fn forgotten(stage: &Stage) -> Outcome {
    let (town, client) = driving(stage, Nat::PortRestricted)?;
    for (router, of) in [(&town.road, "road"), (&town.home, "home")] {
        let forgotten = now();
        router.forget_mappings()?;
        goes_on(stage, &town, &client, (of, forgotten))?;
    }
    Ok(())
}

/// The client's translator gives it another port; the machine's lets everybody in.
pub fn another_port(stage: &Stage) -> Outcome {
    let (town, client) = driving(stage, Nat::FullCone)?;
    rebound(stage, &town, &client)
}

/// The same, where the machine's translator lets in only who was sent to: nobody can have sent to the new port.
pub fn another_port_to_a_strict_translator(stage: &Stage) -> Outcome {
    let (town, client) = driving(stage, Nat::PortRestricted)?;
    rebound(stage, &town, &client)
}

fn driving(stage: &Stage, home: Nat) -> Result<(Town, Driver), Box<dyn std::error::Error>> {
    let town = Town::new(stage, &Layout { at_home: false, home, ..Layout::default() })?;
    let client = by_cloud::client(stage, &town, &[])?;
    by_cloud::expect_tier(&client, "WebRtcDirect", "203.0.113.1:")?;
    town.observer.moving("base/base", 0.0, Duration::from_secs(5))?;
    sleep(Duration::from_millis(1_500 + stage.seed * 131 % 400));
    Ok((town, client))
}

fn rebound(stage: &Stage, town: &Town, client: &Driver) -> Outcome {
    let before = pair(town)?;
    town.road.translate("wan", "10.9.0.2", Nat::Symmetric)?;
    let changed = now();
    town.road.forget_mappings()?;
    goes_on(stage, town, client, ("road", changed))?;
    let after = pair(town)?;
    stage.fact("pairs", [before.clone(), after.clone()].join(", then "));
    if before == after {
        return Err(format!("calls still come by way of {after}: the mapping has not changed").into());
    }
    Ok(())
}

/// Calls go on within a bound, and nothing was stopped.
fn goes_on(stage: &Stage, town: &Town, client: &Driver, (of, since): (&str, f64)) -> Outcome {
    sleep(Duration::from_millis(3_000));
    let end = now();
    for kind in ["read", "motion"] {
        let gap = client.silence(kind, since - 0.5, end)?;
        stage.fact(&format!("{of}_{kind}_gap_ms"), (gap.1 - gap.0) * 1e3);
        within("the gap", gap.1 - gap.0, Duration::from_millis(1_500))?;
        // Without a route a motion call is refused, also when an answer to an earlier one still comes; and whatever else waits.
        let found = client.routes("use", since).first().and_then(|line| line["t"].as_f64()).unwrap_or_default();
        let refused = client.well_but_for(kind, (since - 0.5, end - 0.5), (since, found.max(gap.1)))?;
        stage.fact(&format!("{of}_{kind}_refused"), refused);
        if kind == "read" && refused > 0 {
            return Err(format!("{refused} reads did not wait for a route").into());
        }
    }
    client.no_lapse()?;
    truth::kept_moving(&town.observer, "base", since - 0.5, end)?;
    truth::once_and_in_order(&town.observer, "base").map(|_| ())
}
