//! Cuts of one of two paths while a client drives, its primary a direct link.

use std::thread::sleep;
use std::time::Duration;

use super::judge::{Drive, wander};
use super::{HEDGED, Metric, Row, metric, middle, row, told};
use crate::Outcome;
use crate::e2e::Stage;
use crate::e2e::labs::driver::Driver;
use crate::e2e::labs::places::TwoPaths;
use crate::e2e::labs::truth;
use crate::lab::policy::Policy;
use crate::lab::{BOTH, WAYS};
use crate::observer::now;

/// 60 ms and a round trip.
const CLOSED: &[Metric] = &[middle("read_gap_ms", 62.0), middle("motion_gap_ms", 62.0)];

const STOCK: &[Metric] = &[
    metric("read_gap_ms", 550.0, 900.0),
    metric("motion_gap_ms", 550.0, 900.0),
    told("swap_ms"),
    told("motion_failed"),
];

pub const ROWS: &[Row] = &[
    row(
        "black-hole-direct",
        "black hole of the primary (direct) while controlling, standby over another interface",
        black_hole,
        HEDGED,
        8,
    ),
    row("upstream-direct", "the same, upstream only, images coming down", upstream, HEDGED, 4),
    row(
        "black-hole-direct-stock",
        "black hole of the primary (direct), a machine that says nothing of what only ours take: its route is swapped, motion not copied",
        black_hole_stock,
        STOCK,
        4,
    ),
    row("link-closed", "the machine's end resets the primary, standby ready", link_closed, CLOSED, 4),
    row("carrier-lost", "the primary's interface loses its carrier, standby ready", carrier_lost, CLOSED, 4),
    row(
        "no-standby",
        "black hole of the primary, no standby, another LAN there: after detection",
        no_standby,
        &[metric("after_detection_ms", 100.0, 250.0), told("read_gap_ms")],
        4,
    ),
];

/// A client that drives over two paths, with its standby warm, at a moment that has nothing to do with any cycle.
struct Driving {
    place: TwoPaths,
    client: Driver,
    /// The cable of its primary.
    primary: &'static str,
}

impl Driving {
    fn begin(stage: &Stage, place: TwoPaths, options: &[&str]) -> Result<Self, Box<dyn std::error::Error>> {
        let options = [&["for=60"], options].concat();
        let client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &options)?;
        client.wait_for_standby(Duration::from_secs(5))?;
        wander(stage, 700);
        let (primary, _) = place.cables_of(&client.route()?)?;
        place.lab.report()?;
        Ok(Self { place, client, primary })
    }

    fn drive<'a>(&'a self, stage: &'a Stage) -> Drive<'a> {
        Drive { stage, lab: &self.place.lab, observer: &self.place.observer, client: &self.client, moves: false }
    }
}

fn black_hole(stage: &Stage) -> Outcome {
    // A blocking move is under way meanwhile.
    let driving = Driving::begin(stage, TwoPaths::new(stage)?, &["move=cart", "distance=700"])?;
    let cut = driving.place.lab.set(driving.primary, BOTH, Policy::hole())?;
    driving.drive(stage).settle(cut)?;
    moved_once(&driving.client, &driving.place.observer)
}

/// The blocking move of `cart` ends well, and was driven once.
pub(super) fn moved_once(client: &Driver, observer: &crate::observer::Observer) -> Outcome {
    let moved = client.wait("the end of its move", 0.0, Duration::from_secs(6), |line| line["call"] == "move")?;
    if moved["ok"] != true {
        return Err(format!("the blocking move failed: {moved}").into());
    }
    let moves = observer
        .all()?
        .iter()
        .filter(|s| s.actuator == "base/cart" && s.event == "write" && s.cause.as_deref() == Some("MoveStraight"))
        .count();
    if moves == 1 { Ok(()) } else { Err(format!("the blocking move was driven {moves} times").into()) }
}

fn upstream(stage: &Stage) -> Outcome {
    let driving = Driving::begin(stage, TwoPaths::new(stage)?, &["camera=camera"])?;
    let cut = driving.place.lab.set(driving.primary, WAYS[0], Policy::hole())?;
    driving.drive(stage).settle(cut)
}

fn black_hole_stock(stage: &Stage) -> Outcome {
    let driving = Driving::begin(stage, TwoPaths::stock(stage)?, &[])?;
    let cut = driving.place.lab.set(driving.primary, BOTH, Policy::hole())?;
    driving.drive(stage).settle_stock(cut)
}

fn link_closed(stage: &Stage) -> Outcome {
    let driving = Driving::begin(stage, TwoPaths::new(stage)?, &[])?;
    let from = if driving.primary == "one" { "10.1.0.2" } else { "10.2.0.2" };
    let cut = now();
    driving.place.server.nft(&format!(
        "table ip gone {{\nchain in {{ type filter hook input priority 0; \
         ip saddr {from} meta l4proto tcp reject with tcp reset\n }}\n }}\n"
    ))?;
    driving.drive(stage).settle(cut)
}

fn carrier_lost(stage: &Stage) -> Outcome {
    let driving = Driving::begin(stage, TwoPaths::new(stage)?, &[])?;
    let device = if driving.primary == "one" { "eth0" } else { "eth1" };
    let cut = now();
    driving.place.client.ip(&format!("link set {device} carrier off"))?;
    driving.drive(stage).settle(cut)
}

fn no_standby(stage: &Stage) -> Outcome {
    let place = TwoPaths::new(stage)?;
    let options = ["for=60", "standby=never"];
    let client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &options)?;
    wander(stage, 1_000);
    let (primary, _) = place.cables_of(&client.route()?)?;
    place.lab.report()?;
    let cut = place.lab.set(primary, BOTH, Policy::hole())?;
    let lost = client.wait("detection", cut, Duration::from_secs(3), |line| {
        line["route"] == "no_route" || line["route"] == "hunting"
    })?;
    let detected = lost["t"].as_f64().ok_or("a line without a time")?;
    client.wait("a swap", cut, Duration::from_secs(5), |line| line["route"] == "use")?;
    sleep(Duration::from_millis(700));
    stage.fact("emulator_late_ms", place.lab.report()?.worst_late_ms);
    let (gap, first) = truth::gap_ms(&client.calls(), "read", cut)?;
    stage.fact("read_gap_ms", gap);
    stage.fact("after_detection_ms", (first.done - detected) * 1e3);
    client.no_lapse()?;
    truth::once_and_in_order(&place.observer, "base").map(|_| ())
}
