//! s93: a slow handler, a busy machine and a lossy way are nobody's death: no route is swapped, and calls are hardly ever sent twice.

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use super::super::Stage;
use super::driver::Driver;
use super::places::TwoPaths;
use super::truth;
use crate::Outcome;
use crate::lab::policy::Policy;
use crate::observer::now;

/// A blocking move of 4 s and nothing else under way.
pub fn slow_handler(stage: &Stage) -> Outcome {
    let place = TwoPaths::new(stage)?;
    let options = ["for=30", "rate=2", "motion=", "move=cart", "distance=800"];
    let client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &options)?;
    // Else there would be nothing to send a copy over.
    client.wait_for_standby(Duration::from_secs(3))?;
    let begun = now();
    let moved = client.wait("the end of its move", 0.0, Duration::from_secs(8), |line| line["call"] == "move")?;
    if moved["ok"] != true {
        return Err(format!("the move failed: {moved}").into());
    }
    unhedged(stage, &client, begun, 0.0)
}

/// Every core of the machine is busy for 10 s. The machine shares one core with the spinners, client and emulator have the others.
pub fn busy_machine(stage: &Stage) -> Outcome {
    let place = TwoPaths::new(stage)?;
    place.machine.process.pin("0")?;
    let client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &["for=60"])?;
    client.wait_for_standby(Duration::from_secs(5))?;
    sleep(Duration::from_millis(500));
    let begun = now();
    let mut spinners = Vec::new();
    for _ in 0..8 {
        let mut command = Command::new("taskset");
        command.args(["-c", "0", "sh", "-c", "while :; do :; done"]).stdin(Stdio::null());
        spinners.push(place.server.start("a spinner", &mut command)?);
    }
    sleep(Duration::from_secs(10));
    drop(spinners);
    truth::kept_moving(&place.observer, "base", begun, now())?;
    unhedged(stage, &client, begun, 0.0)
}

/// 40 ms and 1 % of loss each way, 10 s; 10 minutes in the long form.
pub fn lossy(stage: &Stage) -> Outcome {
    let place = TwoPaths::with(stage, &["one", "two"], Policy { loss: 0.01, ..Policy::delayed(20) })?;
    let client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &["for=700"])?;
    client.wait_for_standby(Duration::from_secs(5))?;
    sleep(Duration::from_secs(1));
    let begun = now();
    sleep(Duration::from_secs(if stage.soak { 600 } else { 10 }));
    truth::kept_moving(&place.observer, "base", begun, now())?;
    unhedged(stage, &client, begun, 0.03)
}

/// At most this share of the calls since `begun` was under way while copies were sent, and no route was swapped.
fn unhedged(stage: &Stage, client: &Driver, begun: f64, share: f64) -> Outcome {
    let end = now();
    let (calls, hedged) = truth::hedged(client, begun, end);
    stage.fact("calls", calls);
    stage.fact("hedged_at_most", hedged);
    client.no_lapse()?;
    if let Some(event) = client.routes("use", begun).first() {
        return Err(format!("the route was swapped: {event}").into());
    }
    #[allow(clippy::cast_precision_loss, reason = "counts of calls")]
    if hedged as f64 > share * calls as f64 {
        return Err(format!("{hedged} of {calls} calls may have been sent twice").into());
    }
    Ok(())
}
