//! Cuts and losses while the primary is a peer connection.

use std::thread::sleep;
use std::time::Duration;

use super::cuts::moved_once;
use super::judge::{Drive, wander};
use super::{HEDGED, Metric, Row, each, metric, row, told};
use crate::Outcome;
use crate::e2e::Stage;
use crate::e2e::labs::by_cloud;
use crate::e2e::labs::driver::Driver;
use crate::e2e::labs::town::{Layout, Town};
use crate::lab::policy::Policy;
use crate::lab::{BOTH, WAYS};
use crate::observer::now;

const STOCK: &[Metric] = &[
    metric("read_gap_ms", 400.0, 700.0),
    metric("motion_gap_ms", 400.0, 700.0),
    told("swap_ms"),
    told("motion_failed"),
];

const STOPS: &[Metric] = &[each("stops", 0.0), each("lapses", 0.0), told("swaps")];

pub const ROWS: &[Row] = &[
    row(
        "black-hole-webrtc",
        "black hole of the primary (WebRTC on the LAN) while controlling, standby (direct) over another interface",
        black_hole,
        HEDGED,
        10,
    ),
    row("upstream-webrtc", "the same, upstream only, images coming down", upstream, HEDGED, 6),
    row(
        "black-hole-webrtc-stock",
        "black hole of the primary (WebRTC), a machine that says nothing of what only ours take",
        black_hole_stock,
        STOCK,
        6,
    ),
    Row {
        runs: 10,
        quick: 1,
        ..row(
            "false-stops-webrtc-standby",
            "WebRTC and a direct standby, 100 ms, 5 % loss each way on both, 100 s a run: false stops",
            false_stops,
            STOPS,
            108,
        )
    },
    Row {
        runs: 10,
        quick: 1,
        ..row(
            "false-stops-webrtc",
            "WebRTC alone, 100 ms, 5 % loss each way, 100 s a run: false stops",
            false_stops_alone,
            &[told("stops"), told("lapses"), told("swaps")],
            108,
        )
    },
];

/// A client that drives over WebRTC on its LAN, where the machine's port is closed to it; through the internet, which is as near, that port is open:
/// its standby is direct, over the other interface.
struct Driving {
    town: Town,
    client: Driver,
}

/// One way from a router, so that the way through both and back takes 2 ms as the LAN does.
fn near() -> Policy {
    Policy { delay: Duration::from_micros(500), ..Policy::default() }
}

impl Driving {
    fn begin(stage: &Stage, arguments: &[&str], options: &[&str]) -> Result<Self, Box<dyn std::error::Error>> {
        let arguments = [&["--no-mdns"], arguments].concat().iter().map(|text| (*text).to_owned()).collect();
        let town = Town::new(stage, &Layout { wan: near(), open: true, arguments, ..Layout::default() })?;
        town.lab.set("client-eth0", BOTH, Policy::delayed(1))?;
        let client = by_cloud::client(stage, &town, options)?;
        client.wait("a peer connection on the LAN", 0.0, Duration::from_secs(5), |line| {
            line["tier"] == "LanWebRtc" || line["route"] == "use" && line["of"]["tier"] == "LanWebRtc"
        })?;
        client.wait_for_standby(Duration::from_secs(5))?;
        wander(stage, 1_000);
        let route = client.route()?;
        if !route.contains("WebRTC") {
            return Err(format!("calls go over {route}").into());
        }
        town.lab.report()?;
        Ok(Self { town, client })
    }

    fn drive<'a>(&'a self, stage: &'a Stage) -> Drive<'a> {
        Drive { stage, lab: &self.town.lab, observer: &self.town.observer, client: &self.client, moves: true }
    }
}

fn black_hole(stage: &Stage) -> Outcome {
    let driving = Driving::begin(stage, &[], &["move=cart", "distance=800"])?;
    let cut = driving.town.lab.set("client-eth0", BOTH, Policy::hole())?;
    driving.drive(stage).settle(cut)?;
    moved_once(&driving.client, &driving.town.observer)
}

fn upstream(stage: &Stage) -> Outcome {
    let driving = Driving::begin(stage, &[], &["camera=camera"])?;
    let cut = driving.town.lab.set("client-eth0", WAYS[0], Policy::hole())?;
    driving.drive(stage).settle(cut)
}

fn black_hole_stock(stage: &Stage) -> Outcome {
    let driving = Driving::begin(stage, &["--no-order"], &[])?;
    let cut = driving.town.lab.set("client-eth0", BOTH, Policy::hole())?;
    driving.drive(stage).settle_stock(cut)
}

/// A way of 100 ms there and back on which one packet in twenty is lost.
fn lossy() -> Policy {
    Policy { loss: 0.05, ..Policy::delayed(50) }
}

fn false_stops(stage: &Stage) -> Outcome {
    let driving = Driving::begin(stage, &[], &["for=150"])?;
    for cable in ["client-eth0", "road-wan"] {
        driving.town.lab.set(cable, BOTH, lossy())?;
    }
    wander(stage, 1_000);
    driving.town.lab.report()?;
    let begun = now();
    sleep(Duration::from_secs(100));
    driving.drive(stage).healthy(begun)
}

fn false_stops_alone(stage: &Stage) -> Outcome {
    let town = Town::new(stage, &Layout { at_home: false, wan: near(), ..Layout::default() })?;
    let client = by_cloud::client(stage, &town, &["for=150", "standby=never"])?;
    town.observer.moving("base/base", 0.0, Duration::from_secs(5))?;
    town.lab.set("road-wan", BOTH, lossy())?;
    wander(stage, 1_000);
    town.lab.report()?;
    let begun = now();
    sleep(Duration::from_secs(100));
    Drive { stage, lab: &town.lab, observer: &town.observer, client: &client, moves: true }.healthy(begun)
}
