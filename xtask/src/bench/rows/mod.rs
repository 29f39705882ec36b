//! The rows: what is done to the network, and what it may cost.

use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::e2e::Stage;
use crate::e2e::labs::driver::Driver;
use crate::e2e::labs::places::{PORT, TwoPaths};
use crate::e2e::labs::truth;
use crate::lab::policy::{Dice, Policy};
use crate::lab::{BOTH, WAYS};
use crate::observer::now;

/// One row of the table.
pub struct Row {
    /// What it is called.
    pub name: &'static str,
    /// What happens.
    pub title: &'static str,
    /// One run.
    pub run: fn(&Stage) -> Outcome,
    /// What is told of it, and its bars.
    pub metrics: &'static [Metric],
    /// Runs for the record.
    pub runs: usize,
    /// Runs for a glance.
    pub quick: usize,
}

/// A number that a run leaves, and what it may be at most.
pub struct Metric {
    /// The fact's name, its unit last.
    pub fact: &'static str,
    /// The middle one.
    pub median: Option<f64>,
    /// Each one.
    pub max: Option<f64>,
}

const fn metric(fact: &'static str, median: f64, max: f64) -> Metric {
    Metric { fact, median: Some(median), max: Some(max) }
}

const fn told(fact: &'static str) -> Metric {
    Metric { fact, median: None, max: None }
}

const GAPS: &[Metric] =
    &[metric("read_gap_ms", 100.0, 250.0), metric("motion_gap_ms", 100.0, 250.0), told("swap_ms"), told("superseded")];

/// Every row. The round trip is 2 ms without loss, and calls are issued at 50 Hz, unless a title says otherwise.
pub const ROWS: &[Row] = &[
    Row {
        name: "black-hole-direct",
        title: "black hole of the primary (direct) while controlling, standby over another interface",
        run: black_hole,
        metrics: GAPS,
        runs: 30,
        quick: 5,
    },
    Row {
        name: "upstream-direct",
        title: "the same, upstream only, images coming down",
        run: upstream,
        metrics: GAPS,
        runs: 30,
        quick: 5,
    },
    Row {
        name: "link-closed",
        title: "the machine's end resets the primary, standby ready",
        run: link_closed,
        metrics: &[
            Metric { fact: "read_gap_ms", median: Some(62.0), max: None },
            Metric { fact: "motion_gap_ms", median: Some(62.0), max: None },
        ],
        runs: 30,
        quick: 5,
    },
    Row {
        name: "carrier-lost",
        title: "the primary's interface loses its carrier, standby ready",
        run: carrier_lost,
        metrics: &[
            Metric { fact: "read_gap_ms", median: Some(62.0), max: None },
            Metric { fact: "motion_gap_ms", median: Some(62.0), max: None },
        ],
        runs: 30,
        quick: 5,
    },
    Row {
        name: "no-standby",
        title: "black hole of the primary, no standby, another LAN there: after detection",
        run: no_standby,
        metrics: &[metric("after_detection_ms", 100.0, 250.0), told("read_gap_ms")],
        runs: 30,
        quick: 5,
    },
    Row {
        name: "lan-dial",
        title: "LAN dial by name, cold",
        run: lan_dial,
        metrics: &[Metric { fact: "over_4_rtt_ms", median: Some(6.0), max: None }, told("dial_ms"), told("rtt_ms")],
        runs: 30,
        quick: 5,
    },
    Row {
        name: "unknown-machine",
        title: "nobody of that name on the LAN: verdict",
        run: unknown_machine,
        metrics: &[metric("verdict_ms", 1_500.0, 1_500.0)],
        runs: 30,
        quick: 3,
    },
    Row {
        name: "healthy-loss",
        title: "healthy: 40 ms, 1 % loss each way, driven for a minute a run: calls under way while copies were sent",
        run: healthy_loss,
        metrics: &[metric("hedged_percent", 3.0, 3.0), metric("swaps", 0.0, 0.0), metric("stops", 0.0, 0.0)],
        runs: 10,
        quick: 1,
    },
    Row {
        name: "busy-machine",
        title: "healthy: the machine's cores busy for 10 s",
        run: busy_machine,
        metrics: &[metric("hedged_percent", 0.0, 0.0), metric("swaps", 0.0, 0.0), metric("stops", 0.0, 0.0)],
        runs: 30,
        quick: 1,
    },
    Row {
        name: "false-stops-direct",
        title: "direct alone, 100 ms, 5 % loss each way, 100 s a run: false stops",
        run: false_stops,
        metrics: &[metric("stops", 0.0, 0.0), metric("lapses", 0.0, 0.0), told("swaps")],
        runs: 10,
        quick: 1,
    },
];

/// A client that drives over two paths, with its standby warm, at a moment that has nothing to do with any cycle.
fn driving(stage: &Stage, options: &[&str]) -> Result<(TwoPaths, Driver, &'static str), Box<dyn std::error::Error>> {
    let place = TwoPaths::new(stage)?;
    let options = [&["for=60"], options].concat();
    let client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &options)?;
    client.wait_for_standby(Duration::from_secs(5))?;
    wander(stage, 700);
    let (primary, _) = place.cables_of(&client.route()?)?;
    place.lab.report()?;
    Ok((place, client, primary))
}

/// Waits this long, and up to 400 ms more as the seed says: the longest cycle of calls, probes and beats.
fn wander(stage: &Stage, at_least_ms: u64) {
    let more = Dice(stage.seed).next() % 400_000;
    sleep(Duration::from_millis(at_least_ms) + Duration::from_micros(more));
}

/// What has to hold after every swap, and what it cost.
fn settle(stage: &Stage, place: &TwoPaths, client: &Driver, cut: f64) -> Outcome {
    let used = client.wait("a swap", cut, Duration::from_secs(5), |line| line["route"] == "use")?;
    let swapped = used["t"].as_f64().ok_or("a line without a time")?;
    sleep(Duration::from_millis(700));
    stage.fact("emulator_late_ms", place.lab.report()?.worst_late_ms);
    stage.fact("swap_ms", (swapped - cut) * 1e3);
    for kind in ["read", "motion"] {
        stage.fact(&format!("{kind}_gap_ms"), truth::gap_ms(&client.calls(), kind, cut)?.0);
    }
    let end = now();
    let superseded =
        client.calls().iter().filter(|c| c.kind == "motion" && c.due > cut - 0.5 && c.superseded()).count();
    stage.fact("superseded", superseded);
    client.no_lapse()?;
    truth::kept_moving(&place.observer, "base", cut - 0.5, end)?;
    stage.fact("driven", truth::once_and_in_order(&place.observer, "base")?);
    for kind in ["read", "motion"] {
        client.all_well(kind, cut - 0.5, end - 0.3)?;
    }
    Ok(())
}

fn black_hole(stage: &Stage) -> Outcome {
    // A blocking move is under way meanwhile.
    let (place, client, primary) = driving(stage, &["move=cart", "distance=700"])?;
    let cut = place.lab.set(primary, BOTH, Policy::hole())?;
    settle(stage, &place, &client, cut)?;
    let moved = client.wait("the end of its move", 0.0, Duration::from_secs(6), |line| line["call"] == "move")?;
    if moved["ok"] != true {
        return Err(format!("the blocking move failed: {moved}").into());
    }
    let moves = place
        .observer
        .all()?
        .iter()
        .filter(|s| s.actuator == "base/cart" && s.event == "write" && s.cause.as_deref() == Some("MoveStraight"))
        .count();
    if moves == 1 { Ok(()) } else { Err(format!("the blocking move was driven {moves} times").into()) }
}

fn upstream(stage: &Stage) -> Outcome {
    let (place, client, primary) = driving(stage, &["camera=camera"])?;
    let cut = place.lab.set(primary, WAYS[0], Policy::hole())?;
    settle(stage, &place, &client, cut)
}

fn link_closed(stage: &Stage) -> Outcome {
    let (place, client, primary) = driving(stage, &[])?;
    let from = if primary == "one" { "10.1.0.2" } else { "10.2.0.2" };
    let cut = now();
    place.server.nft(&format!(
        "table ip gone {{\nchain in {{ type filter hook input priority 0; \
         ip saddr {from} meta l4proto tcp reject with tcp reset\n }}\n }}\n"
    ))?;
    settle(stage, &place, &client, cut)
}

fn carrier_lost(stage: &Stage) -> Outcome {
    let (place, client, primary) = driving(stage, &[])?;
    let device = if primary == "one" { "eth0" } else { "eth1" };
    let cut = now();
    place.client.ip(&format!("link set {device} carrier off"))?;
    settle(stage, &place, &client, cut)
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

fn unknown_machine(stage: &Stage) -> Outcome {
    let place = TwoPaths::with(stage, &["one"], Policy::delayed(1))?;
    let client = Driver::launch(stage, &place.client, &place.machine, "nobody-main.loc1.viam.cloud", &["for=1"])?;
    let verdict = client.wait("a verdict", 0.0, Duration::from_secs(10), |line| line["failed"].is_string())?;
    stage.fact("emulator_late_ms", place.lab.report()?.worst_late_ms);
    stage.fact("verdict_ms", verdict["took_ms"].as_f64().unwrap_or_default());
    Ok(())
}

/// Calls of this span that may have been sent twice, swaps and stops in it.
fn healthy(stage: &Stage, place: &TwoPaths, client: &Driver, begun: f64) -> Outcome {
    let end = now();
    stage.fact("emulator_late_ms", place.lab.report()?.worst_late_ms);
    let (calls, hedged) = truth::hedged(client, begun, end);
    stage.fact("calls", calls);
    #[allow(clippy::cast_precision_loss, reason = "counts of calls")]
    stage.fact("hedged_percent", hedged as f64 * 100.0 / calls.max(1) as f64);
    stage.fact("swaps", client.routes("use", begun).len());
    stage.fact("stops", truth::stops(&place.observer, "base", begun, end)?);
    stage.fact(
        "lapses",
        client.said().iter().filter(|l| l["session"].as_str().is_some_and(|s| s.contains("Lapsed"))).count(),
    );
    truth::once_and_in_order(&place.observer, "base").map(|_| ())
}

fn healthy_loss(stage: &Stage) -> Outcome {
    let place = TwoPaths::with(stage, &["one", "two"], Policy { loss: 0.01, ..Policy::delayed(20) })?;
    let client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &["for=90"])?;
    client.wait_for_standby(Duration::from_secs(5))?;
    wander(stage, 1_000);
    place.lab.report()?;
    let begun = now();
    sleep(Duration::from_secs(60));
    healthy(stage, &place, &client, begun)
}

fn busy_machine(stage: &Stage) -> Outcome {
    let (place, client, _) = driving(stage, &[])?;
    // The machine and the spinners share one processor, client and emulator have the others.
    place.machine.process.pin("0")?;
    let begun = now();
    let mut spinners = Vec::new();
    for _ in 0..8 {
        let mut command = Command::new("taskset");
        command.args(["-c", "0", "sh", "-c", "while :; do :; done"]).stdin(Stdio::null());
        spinners.push(place.server.start("a spinner", &mut command)?);
    }
    sleep(Duration::from_secs(10));
    drop(spinners);
    healthy(stage, &place, &client, begun)
}

fn false_stops(stage: &Stage) -> Outcome {
    let place = TwoPaths::with(stage, &["one"], Policy::delayed(1))?;
    let client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &["for=150"])?;
    place.observer.moving("base/base", 0.0, Duration::from_secs(5))?;
    place.lab.set("one", BOTH, Policy { loss: 0.05, ..Policy::delayed(50) })?;
    wander(stage, 1_000);
    place.lab.report()?;
    let begun = now();
    sleep(Duration::from_secs(100));
    healthy(stage, &place, &client, begun)
}
