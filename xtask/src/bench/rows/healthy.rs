//! Ways and machines on which nothing is wrong that a client should act on.

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use super::judge::{Drive, wander};
use super::{NOTHING, Row, each, metric, row, told};
use crate::Outcome;
use crate::e2e::Stage;
use crate::e2e::labs::driver::Driver;
use crate::e2e::labs::places::TwoPaths;
use crate::lab::BOTH;
use crate::lab::policy::Policy;
use crate::observer::now;

pub const ROWS: &[Row] = &[
    Row {
        runs: 10,
        quick: 1,
        ..row(
            "healthy-loss",
            "healthy: 40 ms, 1 % loss each way, driven for a minute a run: calls under way while copies were sent",
            loss,
            &[metric("hedged_percent", 3.0, 3.0), each("swaps", 0.0), each("stops", 0.0)],
            65,
        )
    },
    Row {
        runs: 10,
        quick: 1,
        ..row(
            "healthy-slow-reads",
            "healthy: reads that take the machine 60 ms on a LAN of 0.3 ms, driven for a minute a run",
            slow_reads,
            NOTHING,
            65,
        )
    },
    row("busy-machine", "healthy: the machine's cores busy for 10 s", busy_machine, NOTHING, 14),
    Row {
        runs: 10,
        quick: 1,
        ..row(
            "false-stops-direct",
            "direct alone, 100 ms, 5 % loss each way, 100 s a run: false stops",
            false_stops,
            &[each("stops", 0.0), each("lapses", 0.0), told("swaps")],
            105,
        )
    },
];

fn loss(stage: &Stage) -> Outcome {
    let place = TwoPaths::with(stage, &["one", "two"], Policy { loss: 0.01, ..Policy::delayed(20) })?;
    minute(stage, &place, &["for=90"])
}

fn slow_reads(stage: &Stage) -> Outcome {
    let place =
        TwoPaths::with(stage, &["one", "two"], Policy { delay: Duration::from_micros(150), ..Policy::default() })?;
    minute(stage, &place, &["for=90", "readings=slow"])
}

/// Drives for a minute with a warm standby.
fn minute(stage: &Stage, place: &TwoPaths, options: &[&str]) -> Outcome {
    let client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, options)?;
    client.wait_for_standby(Duration::from_secs(5))?;
    wander(stage, 1_000);
    place.lab.report()?;
    let begun = now();
    sleep(Duration::from_secs(60));
    Drive { stage, lab: &place.lab, observer: &place.observer, client: &client, moves: false }.healthy(begun)
}

fn busy_machine(stage: &Stage) -> Outcome {
    let place = TwoPaths::new(stage)?;
    let client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &["for=60"])?;
    client.wait_for_standby(Duration::from_secs(5))?;
    wander(stage, 700);
    place.lab.report()?;
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
    Drive { stage, lab: &place.lab, observer: &place.observer, client: &client, moves: false }.healthy(begun)
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
    Drive { stage, lab: &place.lab, observer: &place.observer, client: &client, moves: false }.healthy(begun)
}
