//! s92: the primary goes silent while a client drives, with a standby over another interface: calls are answered over the standby before the
//! primary is declared dead.

use std::thread::sleep;
use std::time::Duration;

use super::super::Stage;
use super::driver::Driver;
use super::places::TwoPaths;
use super::truth;
use crate::Outcome;
use crate::lab::policy::Policy;
use crate::lab::{BOTH, WAYS};

/// What no caller may wait longer for: the bar of the failover bench's worst run.
const WORST_GAP_MS: f64 = 250.0;

/// Everything is swallowed.
pub fn both_directions(stage: &Stage) -> Outcome {
    silent_primary(stage, BOTH, &[])
}

/// Only what the client sends is swallowed, while images come down.
pub fn upstream_with_camera(stage: &Stage) -> Outcome {
    silent_primary(stage, WAYS[0], &["camera=camera"])
}

fn silent_primary(stage: &Stage, ways: &[usize], options: &[&str]) -> Outcome {
    let place = TwoPaths::new(stage)?;
    let options = [&["for=30"], options].concat();
    let client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &options)?;
    client.wait_for_standby(Duration::from_secs(5))?;
    sleep(Duration::from_millis(1_000 + stage.seed * 37 % 400));
    let (primary, _) = place.cables_of(&client.route()?)?;
    place.lab.report()?;
    let cut = place.lab.set(primary, ways, Policy::hole())?;
    let used = client.wait("a swap", cut, Duration::from_secs(3), |line| line["route"] == "use")?;
    let swapped = used["t"].as_f64().ok_or("a line without a time")?;
    sleep(Duration::from_secs(1));
    for kind in ["read", "motion"] {
        let (gap, first) = truth::gap_ms(&client.calls(), kind, cut)?;
        stage.fact(&format!("{kind}_gap_ms"), gap);
        if first.done >= swapped {
            return Err(format!(
                "the first {kind} call was answered {:.0} ms after the swap",
                (first.done - swapped) * 1e3
            )
            .into());
        }
        if gap > WORST_GAP_MS {
            return Err(format!("{kind} calls were not answered for {gap:.0} ms").into());
        }
        client.all_well(kind, cut - 0.5, swapped + 0.5)?;
    }
    stage.fact("swap_ms", (swapped - cut) * 1e3);
    stage.fact("emulator_late_ms", place.lab.report()?.worst_late_ms);
    client.no_lapse()?;
    truth::kept_moving(&place.observer, "base", cut - 0.5, swapped + 0.5)?;
    stage.fact("driven", truth::once_and_in_order(&place.observer, "base")?);
    Ok(())
}
