//! A machine never moves for a client that is gone.

use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::Stage;
use crate::Outcome;
use crate::observer::{Observer, now};
use crate::processes::{Machine, MachineOptions, Running};

/// Far enough that the base is still on its way when the scenario has ended.
const LONG_MOVE: &str = r#"{"distanceMm": "100000", "mmPerSec": 200}"#;

/// A tool that is blocked in a long move, and the moment the base began to move.
fn moving_client(stage: &Stage, machine: &Machine, observer: &Observer) -> Result<Running, Box<dyn std::error::Error>> {
    let mut command: Command = stage.built.command("lifeline");
    machine.credentials(&mut command);
    command.args(["call", &format!("localhost:{}", machine.port), "base", "MoveStraight", LONG_MOVE]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let since = now();
    let client = Running::start("lifeline call", &mut command)?;
    observer.moving("base/base", since, Duration::from_secs(10))?;
    Ok(client)
}

/// The client is killed in the middle of a move: the machine stops the base within its window, and not at once.
pub fn killed_client(stage: &Stage) -> Outcome {
    let machine = stage.machine(&MachineOptions::default())?;
    let observer = Observer::new(&machine.observed());
    let mut client = moving_client(stage, &machine, &observer)?;
    // Longer than one beat period, so that the kill falls anywhere between two beats.
    std::thread::sleep(Duration::from_millis(700));
    client.kill()?;
    let killed = now();
    let stopped = observer.stopped("base/base", killed, Duration::from_secs(4))?;
    let after = stopped.t - killed;
    println!("    stopped {after:.3} s after the kill, window 2 s");
    if !(1.5..=2.1).contains(&after) {
        return Err(format!("the base stopped {after:.3} s after the kill, expected 1.6 to 2.0 s").into());
    }
    let again = observer.all()?.iter().any(|s| s.t > stopped.t && s.event == "moving");
    if again { Err("the base moved again after its safety stop".into()) } else { Ok(()) }
}

/// A client that closes in order leaves nothing moving, and does not make the machine wait for the window.
pub fn clean_close(stage: &Stage) -> Outcome {
    let machine = stage.machine(&MachineOptions::default())?;
    let observer = Observer::new(&machine.observed());
    let since = now();
    let address = format!("localhost:{}", machine.port);
    let output =
        machine.lifeline(&stage.built, &["call", &address, "base", "SetVelocity", r#"{"linear": {"y": 200}}"#])?;
    let closed = now();
    if !output.status.success() {
        return Err(format!("the call failed: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let moved = observer.moving("base/base", since, Duration::from_secs(1))?;
    let stopped = observer.stopped("base/base", moved.t, Duration::from_secs(1))?;
    let after = stopped.t - closed;
    if after < 0.3 { Ok(()) } else { Err(format!("the base stopped only {after:.3} s after the close").into()) }
}

/// A machine that was frozen for longer than the window stops when it wakes, although beats have queued meanwhile.
pub fn frozen_machine(stage: &Stage) -> Outcome {
    let machine = stage.machine(&MachineOptions::default())?;
    let observer = Observer::new(&machine.observed());
    let mut client = moving_client(stage, &machine, &observer)?;
    machine.process.signal(Signal::STOP)?;
    std::thread::sleep(Duration::from_secs(4));
    let woken = now();
    machine.process.signal(Signal::CONT)?;
    let stopped = observer.stopped("base/base", woken, Duration::from_secs(1))?;
    client.wait(Duration::from_secs(10))?;
    if stopped.t - woken < 0.3 {
        return Ok(());
    }
    Err(format!("the base stopped only {:.3} s after the machine woke", stopped.t - woken).into())
}

/// SIGTERM stops what moves, and then ends the process.
pub fn sigterm(stage: &Stage) -> Outcome {
    let mut machine = stage.machine(&MachineOptions::default())?;
    let observer = Observer::new(&machine.observed());
    let _client = moving_client(stage, &machine, &observer)?;
    let asked = now();
    machine.process.signal(Signal::TERM)?;
    observer.stopped("base/base", asked, Duration::from_secs(1))?;
    match machine.process.wait(Duration::from_secs(5))? {
        Some(0) => Ok(()),
        other => Err(format!("the machine ended with {other:?} instead of 0").into()),
    }
}
