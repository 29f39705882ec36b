//! `cargo xtask interop NAME`: published peers, unmodified, against our machine and our client.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Outcome;
use crate::observer::{Observer, now};
use crate::processes::{Built, KEY, KEY_ID, Machine, MachineOptions, Running, free_port};

/// The rows of the last runs that name a statement, by name. A run that failed leaves none.
pub fn recorded(root: &Path) -> Result<BTreeMap<String, bool>, Box<dyn std::error::Error>> {
    let mut results = BTreeMap::new();
    let Ok(records) = fs::read_dir(root.join("target/interop")) else { return Ok(results) };
    for path in records.collect::<Result<Vec<_>, _>>()?.iter().map(|entry| entry.path()) {
        if path.extension().is_some_and(|e| e == "json") {
            let rows: Vec<Value> = serde_json::from_slice(&fs::read(&path)?)?;
            let peer = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            results.extend(rows.iter().filter_map(|r| Some((format!("interop {peer}::{}", r["row"].as_str()?), true))));
        }
    }
    Ok(results)
}

/// The Python SDK: as a client by `host:port` and by name, stopped when it dies, and as a machine of our client.
pub fn python(root: &Path) -> Outcome {
    let record = root.join("target/interop/python.json");
    let _ = fs::remove_file(&record);
    let python = environment(root)?;
    let built = Built::build(root)?;
    let folder = tempfile::tempdir()?;
    let name = format!("py-{}.loc1.viam.cloud", std::process::id());
    let machine = Machine::start(&built, &folder.path().join("machine"), &name, &MachineOptions::default())?;
    let local = name.replace(".viam.cloud", ".local.viam.cloud");
    let mut rows = Vec::new();
    for (row, address) in
        [("client, host:port", format!("localhost:{}", machine.port)), ("client, by name over mDNS", local.clone())]
    {
        rows.push((row, drives(&python, root, &machine, &address)?));
    }
    rows.push(("client killed: machine stops", stopped_when_killed(&python, root, &machine, &local)?));
    rows.push(("s82_the_sdk_calls_in_its_order", order_of_calls(&python, root, &built, folder.path())?));
    rows.push(("machine of the SDK's server classes", as_machine(&python, root, &built, folder.path())?));
    println!("{:<38} result", "Python SDK (unmodified)");
    for (row, result) in &rows {
        println!("{row:<38} {result}");
    }
    let rows: Vec<_> = rows.iter().map(|(row, result)| serde_json::json!({ "row": row, "result": result })).collect();
    fs::write(record, serde_json::to_vec_pretty(&rows)?)?;
    println!("{} passed, 0 failed", rows.len());
    Ok(())
}

/// A virtual environment below `target/`, made once, with the pinned SDK.
fn environment(root: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
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

fn check(command: &mut Command) -> Outcome {
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} ended with {status}").into()) }
}

/// The SDK's client as a process, its steps piped.
fn client(python: &Path, root: &Path, machine: &Machine, address: &str, leg: &str) -> Command {
    let mut command = Command::new(python);
    command
        .arg(root.join("interop/python/client.py"))
        .args([address, KEY_ID, KEY, leg])
        .env("SSL_CERT_FILE", machine.ca())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

/// The facts of `step`, read from the lines a script prints.
fn step(
    lines: &mut impl Iterator<Item = std::io::Result<String>>,
    step: &str,
) -> Result<Value, Box<dyn std::error::Error>> {
    for line in lines {
        let line = line?;
        // The SDK logs to standard output too; only our own lines are JSON objects with a step.
        let Ok(value) = serde_json::from_str::<Value>(&line) else { continue };
        if value["step"] == step {
            return Ok(value);
        }
    }
    Err(format!("the script ended before its step {step:?}").into())
}

fn drives(python: &Path, root: &Path, machine: &Machine, address: &str) -> Result<String, Box<dyn std::error::Error>> {
    let observer = Observer::new(&machine.observed());
    let since = now();
    let mut running = Running::start("the SDK's client", &mut client(python, root, machine, address, "drive"))?;
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
    let address = format!("localhost:{}", machine.port);
    let mut running = Running::start("the SDK's client", &mut client(python, root, &machine, &address, "power"))?;
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

fn stopped_when_killed(
    python: &Path,
    root: &Path,
    machine: &Machine,
    address: &str,
) -> Result<String, Box<dyn std::error::Error>> {
    let observer = Observer::new(&machine.observed());
    let since = now();
    let mut running = Running::start("the SDK's client", &mut client(python, root, machine, address, "hold"))?;
    let mut lines = running.lines()?;
    step(&mut lines, "moving")?;
    observer.moving("base/base", since, Duration::from_secs(1))?;
    std::thread::sleep(Duration::from_millis(1500));
    running.kill()?;
    let killed = now();
    let stopped = observer.stopped("base/base", killed, Duration::from_secs(4))?;
    let after = stopped.t - killed;
    if (1.5..=2.1).contains(&after) {
        Ok(format!("ok, base stopped {after:.2} s after the kill (window 2 s)"))
    } else {
        Err(format!("the base stopped {after:.2} s after the kill").into())
    }
}

/// Our client lists, reads and drives a machine that this project did not write.
fn as_machine(python: &Path, root: &Path, built: &Built, folder: &Path) -> Result<String, Box<dyn std::error::Error>> {
    let port = free_port()?;
    let mut command = Command::new(python);
    command
        .arg(root.join("interop/python/machine.py"))
        .arg(port.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut machine = Running::start("the SDK's machine", &mut command)?;
    let until = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        if Instant::now() > until {
            return Err("the SDK's machine does not serve".into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
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
