//! s64: a client that drives is on its machine's LAN, but its calls still go over the internet when that is cut. It finds the machine on the LAN by itself,
//! within the session's window, so that nothing is stopped.

use std::thread::sleep;
use std::time::Duration;

use super::super::Stage;
use super::by_cloud;
use super::driver::Driver;
use super::places::{WINDOW, within};
use super::town::{Layout, Town};
use super::truth;
use crate::Outcome;
use crate::lab::BOTH;
use crate::lab::policy::Policy;
use crate::observer::now;

/// Over a connection that a cloud arranged, between what the translators show of both ends.
pub fn by_cloud(stage: &Stage) -> Outcome {
    let town = Town::new(stage, &Layout { at_home: false, ..Layout::default() })?;
    let client = by_cloud::client(stage, &town, &[])?;
    comes_home(stage, &town, &client, "WebRtcDirect")
}

/// Over the cloud's relay.
pub fn by_relay(stage: &Stage) -> Outcome {
    let town = Town::new(stage, &Layout { at_home: false, ..Layout::default() })?;
    town.relay_only()?;
    let client = by_cloud::client(stage, &town, &[])?;
    comes_home(stage, &town, &client, "WebRtcRelayed")
}

/// Directly, by the public address that the machine's name leads to.
pub fn by_public_address(stage: &Stage) -> Outcome {
    let town = Town::new(stage, &Layout { at_home: false, open: true, ..Layout::default() })?;
    let client = Driver::start(stage, &town.client, &town.machine, &town.machine.name, &["for=60", "cloud=none"])?;
    town.let_in_at_home()?;
    comes_home(stage, &town, &client, "WanDirect")
}

/// The client's device at home works at the moment at which the internet is cut: before a better route could be promoted.
fn comes_home(stage: &Stage, town: &Town, client: &Driver, tier: &str) -> Outcome {
    town.observer.moving("base/base", 0.0, Duration::from_secs(5))?;
    sleep(Duration::from_millis(2_000 + stage.seed * 131 % 1_000));
    by_cloud::expect_tier(client, tier, "")?;
    town.lab.set("client-eth0", BOTH, Policy::default())?;
    let cut = town.cut_internet()?;
    by_cloud::expect_tier(client, tier, "")?;
    let used = client.wait("the LAN", cut, Duration::from_secs(8), |line| {
        line["route"] == "use" && line["of"]["remote"].as_str().is_some_and(|remote| remote.starts_with("10.1.0.1:"))
    })?;
    let found = used["t"].as_f64().ok_or("a line without a time")?;
    sleep(Duration::from_millis(2_500));
    let end = now();
    stage.fact("emulator_late_ms", town.lab.report()?.worst_late_ms);
    for kind in ["read", "motion"] {
        let gap = client.silence(kind, cut - 0.5, end)?;
        stage.fact(&format!("{kind}_gap_ms"), (gap.1 - gap.0) * 1e3);
        within("the gap", gap.1 - gap.0, WINDOW)?;
        // Without a route a motion call is refused, also when an answer to an earlier one still comes; and whatever else waits.
        let refused = client.well_but_for(kind, (cut - 0.5, end - 0.5), (cut, found))?;
        stage.fact(&format!("{kind}_refused"), refused);
        if kind == "read" && refused > 0 {
            return Err(format!("{refused} reads did not wait for a route").into());
        }
    }
    by_cloud::expect_tier(client, "LanDirect", "10.1.0.1:")?;
    client.no_lapse()?;
    truth::kept_moving(&town.observer, "base", cut - 0.5, end)?;
    truth::once_and_in_order(&town.observer, "base").map(|_| ())
}
