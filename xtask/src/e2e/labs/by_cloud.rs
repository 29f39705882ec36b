//! Connections that a cloud arranges, beside and instead of the LAN.

use std::thread::sleep;
use std::time::Duration;

use super::super::Stage;
use super::driver::Driver;
use super::places::within;
use super::town::{CLOUD, Layout, Town};
use super::truth;
use crate::Outcome;
use crate::lab::policy::Policy;
use crate::lab::{BOTH, Nat};
use crate::observer::now;

/// A client that asks the cloud as well.
pub fn client(stage: &Stage, town: &Town, options: &[&str]) -> Result<Driver, Box<dyn std::error::Error>> {
    let cloud = format!("cloud={CLOUD}");
    Driver::start(stage, &town.client, &town.machine, &town.machine.name, &[&["for=60", &cloud], options].concat())
}

/// The tier that calls go over, and the machine's address there.
fn tier(client: &Driver) -> Result<(String, String), Box<dyn std::error::Error>> {
    let said = client.said();
    let used = said.iter().rev().find_map(|line| match line["route"].as_str() {
        Some("use") => Some(&line["of"]),
        _ => line["connected"].is_string().then_some(line),
    });
    let used = used.ok_or("the client told of no route")?;
    let text = |what: &str| used[what].as_str().unwrap_or_default().to_owned();
    Ok((text("tier"), text("remote")))
}

/// Fails where calls go over another tier, or to another address.
pub fn expect_tier(client: &Driver, wanted: &str, address: &str) -> Outcome {
    let (tier, remote) = tier(client)?;
    if tier == wanted && remote.starts_with(address) {
        return Ok(());
    }
    Err(format!("calls go over {tier} to {remote}, wanted {wanted} to {address}").into())
}

/// s61: with the internet up, two ends on one LAN use it: directly where the machine answers there, else between their own addresses.
pub fn on_one_lan(stage: &Stage) -> Outcome {
    let town = Town::new(stage, &Layout::default())?;
    let direct = client(stage, &town, &[])?;
    sleep(Duration::from_millis(1_500));
    expect_tier(&direct, "LanDirect", "10.1.0.1:")?;
    direct.all_well("read", 0.0, now() - 0.3).map(|_| ())
}

/// The same, where the machine does not answer to its name on the LAN: the cloud introduces the ends, and they still meet at home.
pub fn introduced_at_home(stage: &Stage) -> Outcome {
    let town = Town::new(stage, &Layout { arguments: vec!["--no-mdns".to_owned()], ..Layout::default() })?;
    let introduced = client(stage, &town, &[])?;
    sleep(Duration::from_millis(2_500));
    let (tier, remote) = tier(&introduced)?;
    stage.fact("tier", tier.clone());
    if !remote.starts_with("10.1.0.1:") || !tier.starts_with("Lan") {
        return Err(format!("calls go over {tier} to {remote}, not over the LAN").into());
    }
    introduced.all_well("read", now() - 1.0, now() - 0.3).map(|_| ())
}

/// Whoever a cloud introduces meets the machine directly, also while others are connected to it.
pub fn several(stage: &Stage) -> Outcome {
    let town = Town::new(stage, &Layout { at_home: false, ..Layout::default() })?;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let next = client(stage, &town, &["motion=", "rate=5"])?;
        expect_tier(&next, "WebRtcDirect", "203.0.113.1:")?;
        clients.push(next);
    }
    sleep(Duration::from_secs(1));
    clients.iter().try_for_each(|client| client.all_well("read", 0.0, now() - 0.3).map(|_| ()))
}

/// Whoever says nothing but the machine's name and has a key finds it by the service that such names belong to.
pub fn by_name_alone(stage: &Stage) -> Outcome {
    let town = Town::new(stage, &Layout { at_home: false, named: "app.viam.com", ..Layout::default() })?;
    let mut command = stage.built.command("examples/openloop");
    town.machine.credentials(command.env_remove("LIFELINE_CLOUD"));
    command.args([&town.machine.name, "for=3", "motion="]);
    let client = Driver::run(stage, &town.client, &mut command)?;
    client.wait("its link", 0.0, Duration::from_secs(5), |line| line["connected"].is_string())?;
    expect_tier(&client, "WebRtcDirect", "203.0.113.1:")?;
    sleep(Duration::from_secs(1));
    client.all_well("read", 0.0, now() - 0.3).map(|_| ())
}

/// s64 and the promotion before it: a client that dialled through the internet finds itself on its machine's LAN, is on it within a second, and
/// notices nothing when the internet is cut.
pub fn comes_home(stage: &Stage) -> Outcome {
    let town = Town::new(stage, &Layout { at_home: false, ..Layout::default() })?;
    let client = client(stage, &town, &[])?;
    expect_tier(&client, "WebRtcDirect", "203.0.113.1:")?;
    town.observer.moving("base/base", 0.0, Duration::from_secs(5))?;
    sleep(Duration::from_millis(2_000 + stage.seed * 131 % 1_000));
    let home = town.lab.set("client-eth0", BOTH, Policy::default())?;
    let promoted = client.wait("the LAN", home, Duration::from_secs(12), |line| {
        line["route"] == "use" && line["of"]["tier"] == "LanDirect"
    })?;
    let took = promoted["t"].as_f64().unwrap_or_default() - home;
    stage.fact("promoted_ms", took * 1e3);
    sleep(Duration::from_millis(1_500));
    let cut = town.cut_internet()?;
    sleep(Duration::from_secs(4));
    let end = now();
    stage.fact("emulator_late_ms", town.lab.report()?.worst_late_ms);
    for kind in ["read", "motion"] {
        stage.fact(&format!("{kind}_gap_ms"), truth::gap_ms(&client.calls(), kind, cut)?.0);
        client.all_well(kind, home, end - 0.5)?;
    }
    client.no_lapse()?;
    truth::kept_moving(&town.observer, "base", home, end)?;
    truth::once_and_in_order(&town.observer, "base")?;
    within("the promotion", took, Duration::from_secs(1))
}

/// s67: the LAN fails while the internet works: the client goes over to the connection that the cloud arranged.
pub fn leaves_home(stage: &Stage) -> Outcome {
    let town = Town::new(stage, &Layout::default())?;
    let client = client(stage, &town, &[])?;
    client.wait_for_standby(Duration::from_secs(8))?;
    expect_tier(&client, "LanDirect", "10.1.0.1:")?;
    sleep(Duration::from_millis(1_000 + stage.seed * 131 % 400));
    let cut = town.lab.set("client-eth0", BOTH, Policy::hole())?;
    client.wait("the internet", cut, Duration::from_secs(5), |line| {
        line["route"] == "use" && line["of"]["tier"] == "WebRtcDirect"
    })?;
    sleep(Duration::from_millis(1_500));
    let end = now();
    for kind in ["read", "motion"] {
        stage.fact(&format!("{kind}_gap_ms"), truth::gap_ms(&client.calls(), kind, cut)?.0);
        client.all_well(kind, cut - 0.5, end - 0.5)?;
    }
    client.no_lapse()?;
    truth::kept_moving(&town.observer, "base", cut, end)?;
    truth::once_and_in_order(&town.observer, "base").map(|_| ())
}

/// Nothing passes but by the cloud's relay.
pub fn relay_only(stage: &Stage) -> Outcome {
    let town = Town::new(stage, &Layout { at_home: false, ..Layout::default() })?;
    town.relay_only()?;
    relayed(stage, &town)
}

/// Translators at both ends that give every destination another port: no pair works but the relay's.
pub fn symmetric_at_both_ends(stage: &Stage) -> Outcome {
    let layout = Layout { at_home: false, home: Nat::Symmetric, road: Nat::Symmetric, ..Layout::default() };
    let town = Town::new(stage, &layout)?;
    relayed(stage, &town)
}

fn relayed(stage: &Stage, town: &Town) -> Outcome {
    let client = client(stage, town, &[])?;
    let dial = client.wait("its link", 0.0, Duration::from_secs(1), |line| line["connected"].is_string())?;
    stage.fact("dial_ms", dial["took_ms"].clone());
    expect_tier(&client, "WebRtcRelayed", "")?;
    town.observer.moving("base/base", 0.0, Duration::from_secs(5))?;
    let begun = now();
    sleep(Duration::from_secs(3));
    let end = now();
    client.all_well("read", begun, end - 0.5)?;
    client.all_well("motion", begun, end - 0.5)?;
    client.no_lapse()?;
    truth::kept_moving(&town.observer, "base", begun, end)?;
    truth::once_and_in_order(&town.observer, "base").map(|_| ())
}

/// The cloud is killed and started again: who drives does not notice, the machine registers by itself, and a new client finds it.
pub fn cloud_restarts(stage: &Stage) -> Outcome {
    let mut town = Town::new(stage, &Layout { at_home: false, ..Layout::default() })?;
    let driving = client(stage, &town, &[])?;
    town.observer.moving("base/base", 0.0, Duration::from_secs(5))?;
    sleep(Duration::from_secs(1));
    let killed = now();
    town.restart_cloud(stage, Duration::from_secs(1))?;
    let serves = now();
    town.registered(2)?;
    stage.fact("registered_again_s", now() - serves);
    let new = Driver::start(
        stage,
        &town.client,
        &town.machine,
        &town.machine.name,
        &["for=3", "motion=", &format!("cloud={CLOUD}")],
    )?;
    new.wait("an answer", serves, Duration::from_secs(3), |line| line["call"] == "read" && line["ok"] == true)?;
    let end = now();
    driving.all_well("read", killed, end - 0.5)?;
    driving.all_well("motion", killed, end - 0.5)?;
    driving.no_lapse()?;
    truth::kept_moving(&town.observer, "base", killed, end)?;
    truth::once_and_in_order(&town.observer, "base").map(|_| ())
}
