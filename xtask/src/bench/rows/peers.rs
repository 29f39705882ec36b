//! What callers of published clients notice, on the same networks and with the same script.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::judge::wander;
use super::{Metric, Row, row, told};
use crate::Outcome;
use crate::e2e::Stage;
use crate::e2e::labs::driver::Driver;
use crate::e2e::labs::places::{PORT, TwoPaths};
use crate::e2e::labs::truth;
use crate::interop;
use crate::lab::policy::Policy;
use crate::lab::{BOTH, Host, run};
use crate::observer::now;
use crate::processes::{KEY, KEY_ID, MachineOptions};

const NOTICED: &[Metric] = &[told("read_gap_ms"), told("ended_after_ms"), told("still_silent_ms"), told("stops")];

/// Most runs end with our patience.
const fn sdk(name: &'static str, title: &'static str, run: fn(&Stage) -> Outcome) -> Row {
    let prepare = |root: &Path| interop::python_environment(root).map(|_| ());
    Row { runs: 5, quick: 1, prepare, ..row(name, title, run, NOTICED, 70) }
}

pub const ROWS: &[Row] = &[
    sdk(
        "black-hole-python-webrtc",
        "the Python SDK 0.85.1 and our machine, black hole of its WebRTC path, another path there: gap, or its end, or silence for a minute",
        |stage| python(stage, false),
    ),
    sdk("black-hole-python-direct", "the same, direct", |stage| python(stage, true)),
];

/// A name that no client takes for one of a cloud's: they ask its machine for signaling. It leads to both of its addresses.
const LONE: &str = "rover.example";

/// How long a client may take to come back, or to give up.
const PATIENCE: Duration = Duration::from_secs(60);

fn python(stage: &Stage, direct: bool) -> Outcome {
    let hosts = stage.folder.join("hosts");
    fs::write(&hosts, format!("127.0.0.1 localhost\n10.1.0.1 {LONE}\n10.2.0.1 {LONE}\n"))?;
    run(&format!("mount --bind {} /etc/hosts", hosts.display()))?;
    let options = MachineOptions { name: Some(LONE.to_owned()), ..MachineOptions::default() };
    let place = TwoPaths::of(stage, &["one", "two"], Policy::delayed(1), &options)?;
    let mut command = Command::new(interop::python_environment(&crate::root())?);
    command.arg(crate::root().join("interop/python/openloop.py")).args([&format!("{LONE}:{PORT}"), KEY_ID, KEY, "120"]);
    command.args(direct.then_some("direct")).env("SSL_CERT_FILE", place.machine.ca()).env("HOME", &stage.folder);
    let mut client = Driver::run(stage, &place.client, &mut command)?;
    client.wait("its link", 0.0, Duration::from_secs(60), |line| line["connected"].is_string())?;
    wander(stage, 2_000);
    let primary = path(&place, direct)?;
    place.lab.report()?;
    let cut = place.lab.set(primary, BOTH, Policy::hole())?;
    noticed(stage, &place, &mut client, cut)
}

/// The cable that the client's calls come by.
fn path(place: &TwoPaths, direct: bool) -> Result<&'static str, Box<dyn std::error::Error>> {
    let by = if direct {
        connected_to(&place.client)?
    } else {
        let calls = place.machine.calls()?;
        calls.last().and_then(|call| call["pair"].as_str()).ok_or("no call came over WebRTC")?.to_owned()
    };
    Ok(place.cables_of(&by)?.0)
}

/// The addresses that a host has TCP connections to at a machine's port.
fn connected_to(host: &Host) -> Result<String, Box<dyn std::error::Error>> {
    let mut command = Command::new("ss");
    command.args(["--numeric", "--no-header", "--tcp", "state", "established", &format!("( dport = :{PORT} )")]);
    Ok(String::from_utf8(host.output(&mut command)?.stdout)?)
}

/// Waits until calls are answered again, or the client has ended.
fn noticed(stage: &Stage, place: &TwoPaths, client: &mut Driver, cut: f64) -> Outcome {
    let until = Instant::now() + PATIENCE;
    let answered = |client: &Driver| client.calls().iter().any(|c| c.kind == "read" && c.ok && c.due > cut);
    while !answered(client) {
        if client.end(Duration::ZERO).is_ok() {
            stage.fact("ended_after_ms", (now() - cut) * 1e3);
            break;
        }
        if Instant::now() > until {
            stage.fact("still_silent_ms", (now() - cut) * 1e3);
            break;
        }
        sleep(Duration::from_millis(20));
    }
    stage.fact("emulator_late_ms", place.lab.report()?.worst_late_ms);
    if answered(client) {
        let calls: Vec<_> = client.calls().into_iter().filter(|c| c.due > cut || c.done < cut).collect();
        stage.fact("read_gap_ms", truth::gap_ms(&calls, "read", cut)?.0);
    }
    stage.fact("stops", truth::stops(&place.observer, "base", cut, now())?);
    Ok(())
}
