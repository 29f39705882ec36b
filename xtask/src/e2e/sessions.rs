//! A machine never moves for a client that is gone.

use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::Stage;
use crate::Outcome;
use crate::observer::{Observer, Seen, now};
use crate::processes::{Machine, MachineOptions, Running};
use crate::web;

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
        Some(0) => {}
        other => return Err(format!("the machine ended with {other:?} instead of 0").into()),
    }
    if machine.log()?.contains("failed to stop") { Err("the machine failed to stop something".into()) } else { Ok(()) }
}

/// A window that a scenario can wait for.
const SHORT: Duration = Duration::from_secs(1);

/// A machine for callers that are none of ours, and its observer.
fn strange_callers(
    stage: &Stage,
    components: Option<Value>,
) -> Result<(Machine, Observer), Box<dyn std::error::Error>> {
    let options = MachineOptions { open: true, window: Some("1s".to_owned()), components, ..MachineOptions::default() };
    let machine = stage.machine(&options)?;
    let observer = Observer::new(&machine.observed());
    Ok((machine, observer))
}

/// What was written to an actuator after `since`, by its causes.
fn written(observer: &Observer, actuator: &str, since: f64) -> Result<Vec<Seen>, Box<dyn std::error::Error>> {
    let mut all = observer.all()?;
    all.retain(|seen| seen.actuator == actuator && seen.event == "write" && seen.t > since);
    Ok(all)
}

/// Waits for the Stop of an actuator that a session's end causes, and fails unless it came a window after `last`.
fn stopped_by_lapse(observer: &Observer, actuator: &str, last: f64) -> Outcome {
    let is_stop = |seen: &Seen| seen.actuator == actuator && seen.cause.as_deref() == Some("stop");
    let stop = observer.wait(&format!("{actuator}'s Stop"), last, 3 * SHORT, is_stop)?;
    let after = stop.t - last;
    println!("    stopped {after:.3} s after it was last heard of, window 1 s");
    if (0.9..=1.2).contains(&after) { Ok(()) } else { Err(format!("{actuator} was stopped {after:.3} s later").into()) }
}

fn set_power(machine: &Machine, session: &str, power: f64) -> Result<web::Reply, Box<dyn std::error::Error>> {
    let message = [web::field(1, b"left"), web::double(2, power)].concat();
    web::call(machine.port, "/viam.component.motor.v1.MotorService/SetPower", Some(session), &message)
}

/// A command of a session that is over is refused, moves nothing, and takes nothing away from the session that moves.
pub fn expired_call(stage: &Stage) -> Outcome {
    let (machine, observer) = strange_callers(stage, None)?;
    let over = web::start_session(machine.port)?;
    std::thread::sleep(SHORT + SHORT / 5);
    let lives = web::start_session(machine.port)?;
    let since = now();
    set_power(&machine, &lives, 0.5)?.ok()?;
    let refused = set_power(&machine, &over, 0.9)?;
    if (refused.status, refused.message.as_str()) != (3, "SESSION_EXPIRED") {
        return Err(format!("a session that is over was answered {} {}", refused.status, refused.message).into());
    }
    for _ in 0..10 {
        std::thread::sleep(SHORT / 5);
        web::beat(machine.port, &lives)?.ok()?;
    }
    let writes = written(&observer, "motor/left", since)?;
    if writes.len() != 1 {
        return Err(format!("expected one write while its session lives, saw {writes:?}").into());
    }
    stopped_by_lapse(&observer, "motor/left", now())
}

/// A command that fails inside its driver, after it moved something, has made it its session's all the same.
pub fn failed_call(stage: &Stage) -> Outcome {
    let (machine, observer) = strange_callers(stage, None)?;
    let session = web::start_session(machine.port)?;
    let near = web::field(2, &web::doubles(1, &[2.0, 45.0, -60.0, 0.0, 0.0, 0.0]));
    let nonsense = web::field(2, &web::doubles(1, &[1.0]));
    let message = [web::field(1, b"arm"), near, nonsense].concat();
    let called = now();
    let path = "/viam.component.arm.v1.ArmService/MoveThroughJointPositions";
    let failed = web::call(machine.port, path, Some(&session), &message)?;
    if failed.status == 0 || written(&observer, "arm/arm", called)?.len() != 1 {
        return Err(format!("expected one write and then a failure, got {failed:?}").into());
    }
    stopped_by_lapse(&observer, "arm/arm", called)
}

/// What has no Stop is left alone when its session ends, and nobody complains.
pub fn without_a_stop(stage: &Stage) -> Outcome {
    let row = |name: &str| serde_json::json!({ "name": name, "type": name, "model": "fake" });
    let (machine, observer) =
        strange_callers(stage, Some(Value::Array(vec![row("button"), row("switch"), row("arm")])))?;
    let session = web::start_session(machine.port)?;
    let began = now();
    let push = web::field(1, b"button");
    web::call(machine.port, "/viam.component.button.v1.ButtonService/Push", Some(&session), &push)?.ok()?;
    let second = [web::field(1, b"switch"), web::number(2, 1)].concat();
    web::call(machine.port, "/viam.component.switch.v1.SwitchService/SetPosition", Some(&session), &second)?.ok()?;
    std::thread::sleep(2 * SHORT);
    let late = web::beat(machine.port, &session)?;
    if late.message != "SESSION_EXPIRED" {
        return Err(format!("the session still lives: {late:?}").into());
    }
    let log = machine.log()?;
    if !log.lines().any(|line| line.contains(&session) && line.contains("stopped_resources=[]")) {
        return Err("its end was not written down".into());
    }
    if let Some(line) = log.lines().find(|line| line.contains("ERROR") || line.contains("failed to stop")) {
        return Err(format!("somebody complained: {line}").into());
    }
    let at = web::call(
        machine.port,
        "/viam.component.switch.v1.SwitchService/GetPosition",
        None,
        &web::field(1, b"switch"),
    )?
    .ok()?;
    if !at.says(&web::number(1, 1)) {
        return Err(format!("the switch was moved back: {at:?}").into());
    }
    match observer.all()?.iter().find(|seen| seen.t > began) {
        None => Ok(()),
        Some(seen) => Err(format!("something was written to: {seen:?}").into()),
    }
}
