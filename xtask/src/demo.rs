//! `cargo xtask demo`: the main job from beginning to end, checked against what really moved.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::observer::{Observer, now};
use crate::processes::{Built, Machine, MachineOptions};

/// Prints what happened and when, from the demonstration's start.
struct Timeline {
    start: Instant,
}

impl Timeline {
    fn say(&self, what: &str) {
        println!("{:>8.3} s  {what}", self.start.elapsed().as_secs_f64());
    }
}

/// Fails unless each step happened as told.
pub fn run(root: &Path) -> Outcome {
    let built = Built::build(root)?;
    let folder = tempfile::tempdir()?;
    let timeline = Timeline { start: Instant::now() };
    let name = format!("demo-{}.loc1.viam.cloud", std::process::id());
    let mut machine = Machine::start(&built, folder.path(), &name, &MachineOptions::default())?;
    let observer = Observer::new(&machine.observed());
    timeline.say(&format!("machine {name} serves on port {}", machine.port));

    timeline.say("a client dials it by name: mDNS, TLS, api key");
    let mut square = client(&built, &machine, "square")?;
    report(&timeline, &mut square)?;
    let pose = resting_pose(&observer)?;
    timeline.say(&format!("the square is closed: the base rests {:.0} mm from its start", pose.0.hypot(pose.1)));
    if pose.0.hypot(pose.1) > 60.0 {
        return Err(format!("the square did not close: the base is at {pose:?} mm").into());
    }

    timeline.say("a client drives away and is killed in the middle of its move");
    let since = now();
    let mut away = client(&built, &machine, "away")?;
    observer.moving("base/base", since, Duration::from_secs(10))?;
    std::thread::sleep(Duration::from_millis(900));
    away.kill()?;
    away.wait()?;
    let killed = now();
    timeline.say("killed, without goodbye");
    let stopped = observer.stopped("base/base", killed, Duration::from_secs(4))?;
    let after = stopped.t - killed;
    timeline.say(&format!("the machine stopped the base {after:.3} s later (window 2 s)"));
    if !(1.5..=2.1).contains(&after) {
        return Err(format!("the safety stop came after {after:.3} s, expected 1.6 to 2.0 s").into());
    }
    let lost = resting_pose(&observer)?;
    timeline.say(&format!("it rests {:.0} mm from home", lost.0.hypot(lost.1)));
    if lost.0.hypot(lost.1) < 100.0 {
        return Err("the base was not on its way when its client died".into());
    }

    timeline.say("a new client connects and drives home");
    let mut home = client(&built, &machine, "home")?;
    report(&timeline, &mut home)?;
    let pose = resting_pose(&observer)?;
    timeline.say(&format!("home: the base rests {:.0} mm from its start", pose.0.hypot(pose.1)));
    if pose.0.hypot(pose.1) > 60.0 {
        return Err(format!("the base did not come home: it is at {pose:?} mm").into());
    }
    machine.process.signal(rustix::process::Signal::TERM)?;
    let code = machine.process.wait(Duration::from_secs(5))?;
    timeline.say("machine stopped");
    if code == Some(0) { Ok(()) } else { Err(format!("the machine ended with {code:?}").into()) }
}

/// Starts the example program `square`, which drives the base, for one leg of the demonstration.
fn client(built: &Built, machine: &Machine, leg: &str) -> Result<Child, Box<dyn std::error::Error>> {
    let mut command: Command = built.command("examples/square");
    machine.credentials(&mut command);
    let local = machine.name.replace(".viam.cloud", ".local.viam.cloud");
    Ok(command.args([&local, leg]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?)
}

/// Repeats what the client says until it ends; an error where it fails.
fn report(timeline: &Timeline, client: &mut Child) -> Outcome {
    if let Some(out) = client.stdout.take() {
        for line in BufReader::new(out).lines() {
            timeline.say(&format!("    {}", line?));
        }
    }
    let status = client.wait()?;
    if status.success() { Ok(()) } else { Err(format!("the client ended with {status}").into()) }
}

/// Where the base came to rest, in millimetres, as the observer saw it last.
fn resting_pose(observer: &Observer) -> Result<(f64, f64), Box<dyn std::error::Error>> {
    let seen = observer.all()?;
    let rest = seen
        .iter()
        .rev()
        .find(|s| s.actuator == "base/base" && s.event != "write")
        .ok_or("the observer saw no base")?;
    if rest.event != "stopped" {
        return Err(format!("the base is not at rest: {rest:?}").into());
    }
    let at =
        |axis: &str| rest.state[axis].as_f64().ok_or(format!("the observer's state has no {axis}: {}", rest.state));
    Ok((at("x_mm")?, at("y_mm")?))
}
