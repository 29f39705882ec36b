//! s95: a client is killed with beats and commands queued in its kernel behind a black hole. When the path returns, before the window is over,
//! nothing of that extends the lease or moves anything.

use std::thread::sleep;
use std::time::Duration;

use super::super::Stage;
use super::driver::Driver;
use super::places::{TwoPaths, WINDOW, within};
use super::truth;
use crate::Outcome;
use crate::lab::BOTH;
use crate::lab::policy::Policy;

pub fn run(stage: &Stage) -> Outcome {
    let place = TwoPaths::with(stage, &["one"], Policy::delayed(1))?;
    let mut client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &["for=60"])?;
    sleep(Duration::from_millis(1_000 + stage.seed * 53 % 400));
    let cut = place.lab.set("one", BOTH, Policy::hole())?;
    sleep(Duration::from_millis(600));
    client.kill()?;
    sleep(Duration::from_millis(300));
    let back = place.lab.set("one", BOTH, Policy::delayed(1))?;
    let stopped = place.observer.stopped("base/base", cut, WINDOW + Duration::from_secs(2))?;
    stage.fact("stopped_s", stopped.t - cut);
    within("the safety stop", stopped.t - cut, WINDOW + Duration::from_millis(100))?;
    if let Some((at, value)) = truth::driven(&place.observer, "base")?.into_iter().find(|(at, _)| *at > back) {
        return Err(format!("the dead client drove {value} at {:.3} s after the path returned", at - back).into());
    }
    truth::stays_still(&place.observer, "base", stopped.t, Duration::from_secs(2))
}
