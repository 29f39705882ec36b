//! Dials, and what becomes of them once a better way is there.

use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::judge::wander;
use super::{Row, each, metric, middle, row, told};
use crate::Outcome;
use crate::e2e::Stage;
use crate::e2e::labs::by_cloud;
use crate::e2e::labs::driver::Driver;
use crate::e2e::labs::places::{PORT, TwoPaths};
use crate::e2e::labs::town::{CLOUD, Layout, Town};
use crate::lab::policy::Policy;
use crate::observer::now;

pub const ROWS: &[Row] = &[
    row(
        "comes-home",
        "a client that dialled through the internet comes to its machine's LAN, then the internet is cut: promotion, no call fails",
        by_cloud::comes_home,
        &[each("promoted_ms", 1_000.0), told("read_gap_ms"), told("motion_gap_ms")],
        14,
    ),
    row(
        "lan-dial",
        "LAN dial by name, cold",
        lan_dial,
        &[middle("over_4_rtt_ms", 6.0), told("dial_ms"), told("rtt_ms")],
        2,
    ),
    row(
        "cloud-dial",
        "dial by name through a cloud, cold, stock wire (a machine that says nothing of what only ours take); 40 ms between client, cloud and machine",
        |stage| dial(stage, &abroad(stage, STOCK)?, "WebRtcDirect"),
        &[middle("dial_ms", 700.0), told("first_answer_ms")],
        3,
    ),
    row(
        "cloud-dial-warm",
        "the same again after the peer connection died: the way to the cloud is kept",
        |stage| cloud_dial_warm(stage, STOCK),
        &[middle("dial_ms", 400.0)],
        8,
    ),
    row(
        "cloud-dial-ours",
        "dial through a cloud, cold, between our ends",
        |stage| dial(stage, &abroad(stage, &[])?, "WebRtcDirect"),
        &[told("dial_ms"), told("first_answer_ms")],
        3,
    ),
    row(
        "cloud-dial-warm-ours",
        "the same again, the way to the cloud kept",
        |stage| cloud_dial_warm(stage, &[]),
        &[middle("dial_ms", 300.0)],
        8,
    ),
    row(
        "relay-only",
        "the dial through a cloud, nothing passes but the cloud's relay: first call answered",
        relay_only,
        &[middle("first_answer_ms", 1_200.0), told("dial_ms")],
        3,
    ),
    row(
        "unknown-machine",
        "nobody of that name on the LAN: verdict",
        unknown_machine,
        &[metric("verdict_ms", 1_500.0, 1_500.0)],
        3,
    ),
    row(
        "unknown-machine-cloud",
        "nobody of that name on the LAN, nor at the cloud, which is reachable: verdict",
        unknown_to_the_cloud,
        &[metric("verdict_ms", 1_500.0, 1_500.0)],
        4,
    ),
];

fn lan_dial(stage: &Stage) -> Outcome {
    let place = TwoPaths::with(stage, &["one"], Policy::delayed(1))?;
    // The machine's announcements are over.
    wander(stage, 100);
    place.lab.report()?;
    let client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &["for=0.2"])?;
    let connected = client.wait("its link", 0.0, Duration::from_secs(1), |line| line["connected"].is_string())?;
    stage.fact("emulator_late_ms", place.lab.report()?.worst_late_ms);
    let dial = connected["took_ms"].as_f64().ok_or("a line without a time")?;
    // What the emulator really makes of 2 ms, with what this computer needs to wake up.
    let mut rtt = f64::MAX;
    for _ in 0..10 {
        let asked = Instant::now();
        place.client.inside(|| TcpStream::connect(("10.1.0.1", PORT)))??;
        rtt = rtt.min(asked.elapsed().as_secs_f64() * 1e3);
    }
    stage.fact("rtt_ms", rtt);
    stage.fact("dial_ms", dial);
    stage.fact("over_4_rtt_ms", dial - 4.0 * rtt);
    Ok(())
}

/// A machine that says nothing of what only ours take.
const STOCK: &[&str] = &["--no-order"];

/// A client on the road, 40 ms from cloud and machine, which are 40 ms apart.
fn abroad(stage: &Stage, arguments: &[&str]) -> Result<Town, Box<dyn std::error::Error>> {
    let arguments = arguments.iter().map(|text| (*text).to_owned()).collect();
    Town::new(stage, &Layout { at_home: false, cloud: Policy::delayed(10), arguments, ..Layout::default() })
}

/// The peer connection's path dies in silence, and another one between other ports works.
fn cloud_dial_warm(stage: &Stage, arguments: &[&str]) -> Outcome {
    let town = abroad(stage, arguments)?;
    let client = by_cloud::client(stage, &town, &["motion=", "standby=never"])?;
    wander(stage, 1_500);
    town.lab.report()?;
    let cut = now();
    town.close_ports()?;
    let hunting = client.wait("detection", cut, Duration::from_secs(5), |line| line["route"] == "hunting")?;
    let used = client.wait("a new connection", cut, Duration::from_secs(5), |line| line["route"] == "use")?;
    sleep(Duration::from_millis(500));
    stage.fact("emulator_late_ms", town.lab.report()?.worst_late_ms);
    let time = |line: &serde_json::Value| line["t"].as_f64().ok_or("a line without a time");
    stage.fact("dial_ms", (time(&used)? - time(&hunting)?) * 1e3);
    if used["of"]["tier"] != "WebRtcDirect" {
        return Err(format!("it went over {used}").into());
    }
    client.all_well("read", cut - 0.5, now() - 0.4).map(|_| ())
}

fn relay_only(stage: &Stage) -> Outcome {
    let town = abroad(stage, &[])?;
    town.relay_only()?;
    dial(stage, &town, "WebRtcRelayed")
}

/// Dials, reads once, and tells how long both took, from the dial's begin.
fn dial(stage: &Stage, town: &Town, tier: &str) -> Outcome {
    wander(stage, 300);
    town.lab.report()?;
    let client = by_cloud::client(stage, town, &["motion=", "for=1"])?;
    let connected = client.wait("its link", 0.0, Duration::from_secs(1), |line| line["connected"].is_string())?;
    let read = client.wait("an answer", 0.0, Duration::from_secs(2), |line| line["call"] == "read")?;
    stage.fact("emulator_late_ms", town.lab.report()?.worst_late_ms);
    if connected["tier"] != tier || read["ok"] != true {
        return Err(format!("it was not connected by {tier}, or not answered: {connected}, {read}").into());
    }
    let time = |line: &serde_json::Value, what: &str| line[what].as_f64().ok_or("a line without a time");
    let took = time(&connected, "took_ms")?;
    stage.fact("dial_ms", took);
    stage.fact("first_answer_ms", (time(&read, "t")? - time(&connected, "t")?) * 1e3 + took);
    Ok(())
}

fn unknown_machine(stage: &Stage) -> Outcome {
    let place = TwoPaths::with(stage, &["one"], Policy::delayed(1))?;
    let client = Driver::launch(stage, &place.client, &place.machine, NOBODY, &["for=1"])?;
    let verdict = client.wait("a verdict", 0.0, Duration::from_secs(10), |line| line["failed"].is_string())?;
    stage.fact("emulator_late_ms", place.lab.report()?.worst_late_ms);
    stage.fact("verdict_ms", verdict["took_ms"].as_f64().unwrap_or_default());
    Ok(())
}

/// What no machine is called.
const NOBODY: &str = "nobody-main.loc1.viam.cloud";

fn unknown_to_the_cloud(stage: &Stage) -> Outcome {
    let town = Town::new(stage, &Layout { cloud: Policy::delayed(10), ..Layout::default() })?;
    let options = ["for=1", &format!("cloud={CLOUD}")];
    let client = Driver::launch(stage, &town.client, &town.machine, NOBODY, &options)?;
    let verdict = client.wait("a verdict", 0.0, Duration::from_secs(10), |line| line["failed"].is_string())?;
    stage.fact("emulator_late_ms", town.lab.report()?.worst_late_ms);
    stage.fact("verdict_ms", verdict["took_ms"].as_f64().unwrap_or_default());
    Ok(())
}
