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

/// The Python SDK's rows. Most runs end with our patience.
const fn python(name: &'static str, title: &'static str, run: fn(&Stage) -> Outcome) -> Row {
    let prepare = |root: &Path| interop::python_environment(root).map(|_| ());
    Row { runs: 5, quick: 1, prepare, ..row(name, title, run, NOTICED, 70) }
}

/// The Go client's rows.
const fn go(name: &'static str, title: &'static str, run: fn(&Stage) -> Outcome, seconds: usize) -> Row {
    let prepare = |root: &Path| interop::go_openloop(root).map(|_| ());
    Row { runs: 5, quick: 1, prepare, ..row(name, title, run, NOTICED, seconds) }
}

pub const ROWS: &[Row] = &[
    python(
        "black-hole-python-webrtc",
        "the Python SDK 0.85.1 and our machine, black hole of its WebRTC path, another path there: gap, or its end, or silence for a minute",
        |stage| cut(stage, Sdk::Python, LONE, false),
    ),
    python("black-hole-python-direct", "the same, direct", |stage| cut(stage, Sdk::Python, LONE, true)),
    go(
        "black-hole-go-webrtc",
        "the Go client 1.9.0 and our machine, by a name and port that lead to both of its paths, black hole of its WebRTC path: gap, or its end, or silence for a minute and a half",
        |stage| cut(stage, Sdk::Go, LONE, false),
        45,
    ),
    go("black-hole-go-direct", "the same, direct", |stage| cut(stage, Sdk::Go, LONE, true), 65),
    go(
        "black-hole-go-named",
        "the same, over WebRTC, by the machine's name, which it looks for by mDNS",
        |stage| cut(stage, Sdk::Go, NEAR, false),
        15,
    ),
];

/// Whose client calls.
#[derive(Clone, Copy)]
enum Sdk {
    Python,
    Go,
}

impl Sdk {
    /// The program that calls at the pace of our own `openloop`, before its arguments.
    fn program(self) -> Result<Command, Box<dyn std::error::Error>> {
        let root = crate::root();
        Ok(match self {
            Self::Python => {
                let mut command = Command::new(interop::python_environment(&root)?);
                command.arg(root.join("interop/python/openloop.py"));
                command
            }
            Self::Go => Command::new(interop::go_openloop(&root)?),
        })
    }

    /// How long it may take to come back, or to give up. The Go client's direct calls are answered again after 56 s at times.
    fn patience(self) -> Duration {
        Duration::from_secs(match self {
            Self::Python => 60,
            Self::Go => 90,
        })
    }
}

/// An address that no client takes for one of a cloud's: they ask its machine for signaling. It leads to both of its addresses.
const LONE: &str = "rover.example:8080";
/// The name of a machine on the local network.
const NEAR: &str = "near-main.loc1.viam.cloud";

/// Puts a black hole where the client's calls go by.
fn cut(stage: &Stage, sdk: Sdk, address: &str, direct: bool) -> Outcome {
    let name = address.split(':').next().unwrap_or_default();
    let hosts = stage.folder.join("hosts");
    fs::write(&hosts, "127.0.0.1 localhost\n10.1.0.1 rover.example\n10.2.0.1 rover.example\n")?;
    run(&format!("mount --bind {} /etc/hosts", hosts.display()))?;
    let options = MachineOptions { name: Some(name.to_owned()), ..MachineOptions::default() };
    let place = TwoPaths::of(stage, &["one", "two"], Policy::delayed(1), &options)?;
    let mut command = sdk.program()?;
    command.args([address, KEY_ID, KEY, "120"]);
    command.args(direct.then_some("direct")).env("SSL_CERT_FILE", place.machine.ca()).env("HOME", &stage.folder);
    let mut client = Driver::run(stage, &place.client, &mut command)?;
    client.wait("its link", 0.0, Duration::from_secs(60), |line| line["connected"].is_string())?;
    wander(stage, 2_000);
    let primary = path(&place, direct)?;
    place.lab.report()?;
    let cut = place.lab.set(primary, BOTH, Policy::hole())?;
    noticed(stage, &place, &mut client, cut, sdk.patience())
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
fn noticed(stage: &Stage, place: &TwoPaths, client: &mut Driver, cut: f64, patience: Duration) -> Outcome {
    let until = Instant::now() + patience;
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
        stage.fact("read_gap_ms", truth::gap_ms(&client.calls(), "read", cut)?.0);
    }
    stage.fact("stops", truth::stops(&place.observer, "base", cut, now())?);
    Ok(())
}
