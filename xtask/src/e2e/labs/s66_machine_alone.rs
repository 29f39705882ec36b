//! s16, s66: the machine loses every network, and no socket is told. A window after the last beat its sessions are gone and what they drove was
//! stopped, once; when the networks are back, new commands work.

use std::thread::sleep;
use std::time::Duration;

use super::super::Stage;
use super::driver::Driver;
use super::places::{PORT, TwoPaths, WINDOW, within};
use super::truth;
use crate::Outcome;
use crate::lab::BOTH;
use crate::lab::policy::Policy;

/// The earliest stop: a fifth of the window less than the window, and 100 ms less again.
const EARLIEST: Duration = Duration::from_millis(1500);

pub fn run(stage: &Stage) -> Outcome {
    let place = TwoPaths::new(stage)?;
    let mut client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &["for=60"])?;
    client.wait_for_standby(Duration::from_secs(5))?;
    sleep(Duration::from_secs(1));
    place.lab.set("one", BOTH, Policy::hole())?;
    let cut = place.lab.set("two", BOTH, Policy::hole())?;
    let stopped = place.observer.stopped("base/base", cut, WINDOW + Duration::from_secs(1))?;
    stage.fact("stopped_s", stopped.t - cut);
    within("the safety stop", stopped.t - cut, WINDOW + Duration::from_millis(100))?;
    // The last beat left a fifth of the window before the cut at the earliest; on a busy computer a little before that.
    if stopped.t - cut < EARLIEST.as_secs_f64() {
        return Err(format!("the base stopped {:.3} s after the cut: its client was there", stopped.t - cut).into());
    }
    let mut command = stage.built.command("lifeline");
    place.machine.credentials(&mut command);
    let output = place.server.output(command.args(["--json", "sessions", &format!("localhost:{PORT}")]))?;
    let sessions = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || sessions.contains("\"id\"") {
        return Err(format!("there are sessions left: {sessions}{}", String::from_utf8_lossy(&output.stderr)).into());
    }
    client.order("hush")?;
    sleep(Duration::from_millis(500));
    place.lab.set("one", BOTH, Policy::delayed(1))?;
    let back = place.lab.set("two", BOTH, Policy::delayed(1))?;
    client.wait("a route", back, Duration::from_secs(5), |line| line["route"] == "use")?;
    truth::stays_still(&place.observer, "base", stopped.t, Duration::from_secs(1))?;
    let times = truth::told_to_stop(&place.observer, "base", cut, back)?;
    if times != 1 {
        return Err(format!("the base was told to stop {times} times, not once").into());
    }
    client.order("speak")?;
    place.observer.moving("base/base", back, Duration::from_secs(2))?;
    truth::once_and_in_order(&place.observer, "base").map(|_| ())
}
