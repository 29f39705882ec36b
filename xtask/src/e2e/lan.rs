//! Finding a machine and reaching it on the local network.

use std::fs;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, setrlimit};

use super::Stage;
use crate::Outcome;
use crate::observer::{Observer, now};
use crate::processes::{Machine, MachineOptions, default_components};

/// The machine is found by its name alone, over multicast DNS on this host.
pub fn by_name(stage: &Stage) -> Outcome {
    let machine = stage.machine(&MachineOptions::default())?;
    let local = machine.name.replace(".viam.cloud", ".local.viam.cloud");
    for name in [machine.name.as_str(), local.as_str()] {
        let started = Instant::now();
        let output = machine.lifeline(&stage.built, &["--json", "status", name])?;
        let took = started.elapsed();
        if !output.status.success() {
            return Err(format!("status {name}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        println!("    {name}: {:.0} ms from start to end of the tool", took.as_secs_f64() * 1e3);
    }
    Ok(())
}

/// Nobody answers to the name: the verdict comes within 1.5 s and says what was asked.
pub fn unknown_machine(stage: &Stage) -> Outcome {
    let machine = stage.machine(&MachineOptions::default())?;
    let started = Instant::now();
    let output = machine.lifeline(&stage.built, &["status", "nobody-main.loc1.viam.cloud"])?;
    let took = started.elapsed();
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() != Some(3) {
        return Err(format!("expected exit code 3, got {:?}: {said}", output.status.code()).into());
    }
    if !said.contains("nobody-main") || !said.to_lowercase().contains("mdns") {
        return Err(format!("the verdict does not say what was asked: {said}").into());
    }
    // The process itself, started cold, is allowed 200 ms.
    if took > Duration::from_millis(1700) { Err(format!("the verdict took {took:?}").into()) } else { Ok(()) }
}

/// A changed configuration is taken over: resources come and go, what is removed stops, what stays keeps moving.
pub fn reload(stage: &Stage) -> Outcome {
    let machine = stage.machine(&MachineOptions {
        arguments: vec!["--policy".into(), "allow".into()],
        open: true,
        ..Default::default()
    })?;
    let observer = Observer::new(&machine.observed());
    let address = format!("localhost:{}", machine.port);
    let mut components = default_components();
    let rows = components.as_array_mut().ok_or("components are a list")?;
    rows.retain(|row| row["name"] != "left");
    rows.push(serde_json::json!({ "name": "claw", "type": "gripper", "model": "fake" }));
    let text = fs::read_to_string(machine.config())?;
    let mut config: serde_json::Value = serde_json::from_str(&text)?;
    config["components"] = components;
    let since = now();
    fs::write(machine.config(), serde_json::to_vec(&config)?)?;
    machine.process.signal(rustix::process::Signal::HUP)?;
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let output = machine.lifeline(&stage.built, &["--json", "--insecure", "status", &address])?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() && said.contains("\"claw\"") && !said.contains("\"left\"") {
            break;
        }
        if Instant::now() > until {
            return Err(format!(
                "the new configuration was not taken over: {said}{}",
                String::from_utf8_lossy(&output.stderr)
            )
            .into());
        }
    }
    observer.wait("the removed motor's stop", since, Duration::from_secs(1), |s| {
        s.actuator == "motor/left" && s.cause.as_deref() == Some("stop")
    })?;
    Ok(())
}

/// A second machine on the same port says so and ends with 1.
pub fn port_in_use(stage: &Stage) -> Outcome {
    let machine = stage.machine(&MachineOptions::default())?;
    let mut command = stage.built.command("sim-machine");
    command.arg("--config").arg(machine.config()).arg("--state-dir").arg(stage.folder.join("second"));
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(1) && said.contains(&machine.port.to_string()) {
        return Ok(());
    }
    Err(format!("expected exit code 1 and the port in the text, got {:?}: {said}", output.status.code()).into())
}

/// Ten thousand connections that say nothing keep nobody out and cost bounded memory.
pub fn silent_connections(stage: &Stage) -> Outcome {
    const CONNECTIONS: usize = 10_000;
    let files = CONNECTIONS as u64 + 1_000;
    setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum: Some(files) })
        .map_err(|e| format!("cannot open {files} files at once: {e}"))?;
    let machine: Machine = stage.machine(&MachineOptions::default())?;
    let mut silent = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        silent.push(TcpStream::connect(("127.0.0.1", machine.port))?);
    }
    let address = format!("localhost:{}", machine.port);
    let output = machine.lifeline(&stage.built, &["status", &address])?;
    if !output.status.success() {
        return Err(format!("a real client was locked out: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let megabytes = machine.process.resident_megabytes()?;
    println!("    {megabytes} MB resident with {CONNECTIONS} silent connections made");
    if megabytes > 400 { Err(format!("the machine holds {megabytes} MB").into()) } else { Ok(()) }
}
