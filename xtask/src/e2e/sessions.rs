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

/// Freezes a process for a while (SIGSTOP), and says when it went on.
fn freeze(process: &Running, seconds: u64) -> Result<f64, Box<dyn std::error::Error>> {
    process.signal(Signal::STOP)?;
    std::thread::sleep(Duration::from_secs(seconds));
    let woken = now();
    process.signal(Signal::CONT)?;
    Ok(woken)
}

/// Fails if the base came to rest, or began to move, after `since`.
fn undisturbed(observer: &Observer, since: f64) -> Outcome {
    match observer.all()?.iter().find(|seen| seen.t > since && seen.event != "write") {
        None => Ok(()),
        Some(seen) => Err(format!("{} was seen {} {:.3} s later", seen.actuator, seen.event, seen.t - since).into()),
    }
}

/// A second is within the window: nothing stops, whoever was frozen.
fn short_freeze(stage: &Stage, machine_too: bool) -> Outcome {
    let machine = stage.machine(&MachineOptions::default())?;
    let observer = Observer::new(&machine.observed());
    let client = moving_client(stage, &machine, &observer)?;
    std::thread::sleep(Duration::from_millis(500));
    let before = now();
    freeze(if machine_too { &machine.process } else { &client }, 1)?;
    std::thread::sleep(Duration::from_secs(3));
    undisturbed(&observer, before)
}

/// A machine that is frozen for a second stops nothing: its client's lease has not ended, and its operation goes on.
pub fn machine_frozen_for_a_second(stage: &Stage) -> Outcome {
    short_freeze(stage, true)
}

/// A client that is frozen for a second loses nothing.
pub fn client_frozen_for_a_second(stage: &Stage) -> Outcome {
    short_freeze(stage, false)
}

/// A machine that was frozen for longer than the window stops when it wakes, although beats have queued meanwhile, and stays stopped.
pub fn machine_frozen_for_long(stage: &Stage) -> Outcome {
    let machine = stage.machine(&MachineOptions::default())?;
    let observer = Observer::new(&machine.observed());
    let mut client = moving_client(stage, &machine, &observer)?;
    let woken = freeze(&machine.process, 10)?;
    let stopped = observer.stopped("base/base", woken, Duration::from_secs(1))?;
    let after = stopped.t - woken;
    println!("    stopped {:.1} ms after the machine woke", after * 1e3);
    client.wait(Duration::from_secs(10))?;
    std::thread::sleep(Duration::from_secs(1));
    undisturbed(&observer, stopped.t)?;
    if after < 0.3 { Ok(()) } else { Err(format!("the base stopped only {after:.3} s after the machine woke").into()) }
}

/// A client that is frozen for longer than the window is gone: the base stops in time, and nothing that the client says when it wakes moves
/// anything again.
pub fn client_frozen_for_long(stage: &Stage) -> Outcome {
    let machine = stage.machine(&MachineOptions::default())?;
    let observer = Observer::new(&machine.observed());
    let mut client = moving_client(stage, &machine, &observer)?;
    std::thread::sleep(Duration::from_millis(700));
    let frozen = now();
    freeze(&client, 10)?;
    let stopped = observer.stopped("base/base", frozen, Duration::from_secs(1))?;
    let after = stopped.t - frozen;
    println!("    stopped {after:.3} s after the client froze, window 2 s");
    let ended = client.wait(Duration::from_secs(10))?;
    std::thread::sleep(Duration::from_secs(1));
    undisturbed(&observer, stopped.t)?;
    match ended {
        _ if !(1.5..=2.1).contains(&after) => Err(format!("the base stopped {after:.3} s after the freeze").into()),
        Some(5) => Ok(()),
        other => Err(format!("the tool ended with {other:?} instead of 5, stopped for safety").into()),
    }
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
