//! The Python SDK from PyPI, its native library included.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::legs::{Told, WINDOW, dials, spread, stopped_when_killed, times};
use super::places::{Clouded, pair};
use super::{Row, check, isolated, record, step, tell};
use crate::Outcome;
use crate::observer::{Observer, now};
use crate::processes::{Built, KEY, KEY_ID, Machine, MachineOptions, Running, free_port};

/// As a client by `host:port` and by name, and over WebRTC, stopped when it dies, and as a machine of our client.
pub fn python(root: &Path) -> Outcome {
    let _ = fs::remove_file(record(root, "python"));
    let python = environment(root)?;
    let built = Built::build(root)?;
    let folder = tempfile::tempdir()?;
    let name = format!("py-{}.loc1.viam.cloud", std::process::id());
    let machine = Machine::start(&built, &folder.path().join("machine"), &name, &MachineOptions::default())?;
    let local = name.replace(".viam.cloud", ".local.viam.cloud");
    let own = Reach::own(&machine);
    let mut rows = Vec::new();
    for (row, address) in
        [("client, host:port", format!("localhost:{}", machine.port)), ("client, by name over mDNS", local.clone())]
    {
        rows.push(Row::of(row, drives(&python, root, &machine, &Reach { address, ..own.clone() })?));
    }
    let by_name = Reach { address: local, ..own };
    rows.push(Row::of(
        "client killed: machine stops",
        stopped_when_killed(&mut client(&python, root, &by_name, "hold"), &machine, WINDOW)?,
    ));
    rows.push(Row::of("s82_the_sdk_calls_in_its_order", order_of_calls(&python, root, &built, folder.path())?));
    rows.extend(isolated("python")?);
    rows.push(Row::of("s87_its_machine_without_sessions_is_driven", as_machine(&python, root, &built, folder.path())?));
    rows.push(Row::of(
        "20 dials in clear, its own machine and ours in turn",
        compared(&python, root, &built, folder.path())?,
    ));
    tell(root, "python", "Python SDK (unmodified)", &rows)
}

/// The native library's WebRTC, where nothing else is to be found: no mDNS, and the names of the real cloud lead to ours.
pub fn inside(root: &Path, built: &Built, folder: &Path) -> Result<Vec<Row>, Box<dyn std::error::Error>> {
    let python = environment(root)?;
    let clouded = Clouded::start(built, folder)?;
    let machine = &clouded.machine;
    let lone = &clouded.lone;
    let own = Reach { address: format!("{}:{}", lone.name, lone.port), ..Reach::own(lone) };
    let named = Reach {
        address: machine.name.clone(),
        key_id: clouded.key_id.clone(),
        key: clouded.key.clone(),
        ca: clouded.ca.clone(),
        relay: false,
    };
    let relayed = Reach { relay: true, ..named.clone() };
    let mut rows = Vec::new();
    for (row, machine, reach, wanted) in [
        ("WebRTC, the machine's own signaling", lone, &own, "host"),
        ("WebRTC, through a cloud", machine, &named, "host"),
        ("WebRTC, through a cloud, only by its relay", machine, &relayed, "relay"),
    ] {
        let since = now();
        let driven = drives(&python, root, machine, reach).map_err(|e| format!("{row}: {e}"))?;
        let pair = pair(machine, since)?;
        if !pair.contains(wanted) {
            return Err(format!("{row}: it came over {pair}").into());
        }
        rows.push(Row::of(row, format!("{driven}, {pair}")));
    }
    let killed = stopped_when_killed(&mut client(&python, root, &named, "hold"), machine, WINDOW)?;
    rows.push(Row::of("WebRTC, client killed: machine stops", killed));
    for (row, reach) in
        [("WebRTC, 20 dials, the machine's own signaling", &own), ("WebRTC, 20 dials through a cloud", &named)]
    {
        rows.push(Row::of(row, dials(&mut client(&python, root, reach, "dials"))?));
    }
    Ok(rows)
}

/// How a client is to reach a machine, and as whom.
#[derive(Clone)]
struct Reach {
    address: String,
    key_id: String,
    key: String,
    ca: PathBuf,
    /// Only by relays.
    relay: bool,
}

impl Reach {
    /// As the machine itself knows its users.
    fn own(machine: &Machine) -> Self {
        let (key_id, key) = (KEY_ID.to_owned(), KEY.to_owned());
        Self { address: String::new(), key_id, key, ca: machine.ca(), relay: false }
    }
}

/// A virtual environment below `target/`, made once, with the pinned SDK.
pub fn environment(root: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let folder = root.join("target/interop/python-env");
    let wanted = fs::read_to_string(root.join("interop/python/requirements.txt"))?;
    let marker = folder.join("installed.txt");
    if fs::read_to_string(&marker).ok().as_deref() != Some(&wanted) {
        println!("installing {} ..", wanted.trim());
        check(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
        check(
            Command::new(folder.join("bin/pip"))
                .args(["install", "--quiet", "--requirement"])
                .arg(root.join("interop/python/requirements.txt")),
        )?;
        fs::write(&marker, wanted)?;
    }
    Ok(folder.join("bin/python"))
}

/// The SDK's client, before its arguments.
pub fn client_program(root: &Path) -> Result<Command, Box<dyn std::error::Error>> {
    Ok(script(&environment(root)?, root))
}

fn script(python: &Path, root: &Path) -> Command {
    let mut command = Command::new(python);
    command.arg(root.join("interop/python/client.py"));
    command
}

/// The SDK's client as a process, its steps piped.
fn client(python: &Path, root: &Path, reach: &Reach, leg: &str) -> Command {
    let mut command = script(python, root);
    command
        .args([&reach.address, &reach.key_id, &reach.key])
        .arg(leg)
        .env("SSL_CERT_FILE", &reach.ca)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    if reach.relay {
        command.arg("relay");
    }
    command
}

fn drives(python: &Path, root: &Path, machine: &Machine, reach: &Reach) -> Result<String, Box<dyn std::error::Error>> {
    let observer = Observer::new(&machine.observed());
    let since = now();
    let mut running = Running::start("the SDK's client", &mut client(python, root, reach, "drive"))?;
    let mut lines = running.lines()?;
    let connected = step(&mut lines, "connected")?;
    let resources = step(&mut lines, "resources")?;
    if !resources["names"].as_array().is_some_and(|names| names.iter().any(|n| n == "base/base")) {
        return Err(format!("the SDK does not list the base: {resources}").into());
    }
    let driven = step(&mut lines, "driven")?;
    if driven["moving"] != false {
        return Err(format!("the base still moves after its moves ended: {driven}").into());
    }
    observer.moving("base/base", since, Duration::from_secs(1))?;
    step(&mut lines, "closed")?;
    running.wait(Duration::from_secs(10))?;
    Ok(format!("ok, connected in {:.0} ms", connected["seconds"].as_f64().unwrap_or_default() * 1e3))
}

/// s82: what the SDK sends, and in which order. On a machine of its own, so that nothing else arrives there.
fn order_of_calls(
    python: &Path,
    root: &Path,
    built: &Built,
    folder: &Path,
) -> Result<String, Box<dyn std::error::Error>> {
    let name = format!("py-order-{}.loc1.viam.cloud", std::process::id());
    let machine = Machine::start(built, &folder.join("order"), &name, &MachineOptions::default())?;
    let reach = Reach { address: format!("localhost:{}", machine.port), ..Reach::own(&machine) };
    let mut running = Running::start("the SDK's client", &mut client(python, root, &reach, "power"))?;
    let mut lines = running.lines()?;
    step(&mut lines, "powered")?;
    let (mut moved, mut beats) = (None, Vec::new());
    step(&mut lines, "closed")?;
    running.wait(Duration::from_secs(10))?;
    // The authentication is the native library's; then come the SDK's own calls.
    let calls = machine.calls()?;
    let own: Vec<_> = calls.iter().filter(|call| call["authorized"] == true).collect();
    let expected = [
        ("/viam.robot.v1.RobotService/ResourceNames", false),
        ("/viam.robot.v1.RobotService/StartSession", false),
        ("/viam.robot.v1.RobotService/SendSessionHeartbeat", false),
        ("/viam.component.motor.v1.MotorService/SetPower", true),
    ];
    for (at, (call, in_session)) in expected.iter().enumerate() {
        let seen = own.get(at).ok_or_else(|| format!("the SDK made {} calls only: {own:?}", own.len()))?;
        if seen["call"] != *call || seen["session"].is_string() != *in_session || !seen["order"].is_null() {
            return Err(format!("call {at} is {seen}, expected {call}, with a session id: {in_session}").into());
        }
    }
    for call in &own {
        let t = call["t"].as_f64().ok_or("a call without a time")?;
        if call["call"] == "/viam.component.motor.v1.MotorService/SetPower" {
            moved = Some(t);
        } else if call["call"] == "/viam.robot.v1.RobotService/SendSessionHeartbeat" && moved.is_some() {
            beats.push(t);
        }
    }
    let apart: Vec<f64> = beats.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let mean = apart.iter().sum::<f64>() / apart.len().max(1) as f64;
    if apart.len() < 3 || !(0.36..=0.44).contains(&mean) {
        return Err(format!("the SDK's beats are {apart:?} s apart, expected 0.40").into());
    }
    Ok(format!("ok, {} beats {mean:.3} s apart", beats.len()))
}

/// A machine made of the SDK's own server classes, its commands piped, and its port.
fn own_machine(python: &Path, root: &Path) -> Result<(Running, u16), Box<dyn std::error::Error>> {
    let port = free_port()?;
    let mut command = Command::new(python);
    command
        .arg(root.join("interop/python/machine.py"))
        .arg(port.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let machine = Running::start("the SDK's machine", &mut command)?;
    let until = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        if Instant::now() > until {
            return Err("the SDK's machine does not serve".into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok((machine, port))
}

/// How long the SDK's client takes to reach and list its own kind of machine and ours, in turn: both in clear and without keys, as the SDK's is.
fn compared(python: &Path, root: &Path, built: &Built, folder: &Path) -> Told {
    let (_theirs, port) = own_machine(python, root)?;
    let name = format!("py-open-{}.loc1.viam.cloud", std::process::id());
    let open = MachineOptions { open: true, ..MachineOptions::default() };
    let ours = Machine::start(built, &folder.join("open"), &name, &open)?;
    let mut command = Command::new(python);
    command.arg(root.join("interop/python/dials.py")).stdin(Stdio::null()).stdout(Stdio::piped());
    command.args([port, ours.port].map(|port| format!("127.0.0.1:{port}")));
    let mut running = Running::start("the SDK's client", &mut command)?;
    let told = step(&mut running.lines()?, "compared")?;
    running.wait(Duration::from_secs(10))?;
    let (theirs, ours) = (spread(&times(&told["theirs"]))?, spread(&times(&told["ours"]))?);
    let ms = |(middle, worst): (f64, f64)| format!("{:.1} ms (worst {:.1})", middle * 1e3, worst * 1e3);
    Ok(format!("ok, median {} and {}, ratio {:.2}", ms(theirs), ms(ours), ours.0 / theirs.0))
}

/// Our client lists, reads and drives a machine that this project did not write.
fn as_machine(python: &Path, root: &Path, built: &Built, folder: &Path) -> Result<String, Box<dyn std::error::Error>> {
    let (mut machine, port) = own_machine(python, root)?;
    let address = format!("127.0.0.1:{port}");
    let calls: [(&str, &[&str], &str); 4] = [
        ("status", &["status", &address], "m1"),
        ("readings", &["call", &address, "s1", "GetReadings", "{}"], "42"),
        ("set power", &["call", &address, "m1", "SetPower", r#"{"powerPct": 0.5}"#], ""),
        ("stop", &["stop", &address, "m1"], ""),
    ];
    for (what, arguments, expected) in calls {
        let mut command = built.command("lifeline");
        command
            .args(["--json", "--insecure"])
            .args(arguments)
            .env("XDG_CACHE_HOME", folder.join("cache"))
            .env_remove("VIAM_API_KEY_ID")
            .env_remove("VIAM_API_KEY");
        let output = command.stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() || !said.contains(expected) {
            return Err(format!(
                "{what}: {:?}: {said}{}",
                output.status.code(),
                String::from_utf8_lossy(&output.stderr)
            )
            .into());
        }
    }
    let mut lines = machine.lines()?;
    let told = step(&mut lines, "set_power")?;
    if told["value"] != 0.5 {
        return Err(format!("the motor was told {told}").into());
    }
    step(&mut lines, "stop")?;
    Ok("ok, listed, read, driven and stopped by our client".to_owned())
}
