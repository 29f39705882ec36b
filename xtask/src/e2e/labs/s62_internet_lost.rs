//! s62: a client on the LAN does not notice that the internet is gone: no call fails, no session lapses, nothing reconnects. 10 minutes in the
//! long form.

use std::thread::sleep;
use std::time::Duration;

use super::super::Stage;
use super::driver::Driver;
use super::places::House;
use super::truth;
use crate::Outcome;
use crate::observer::now;

pub fn run(stage: &Stage) -> Outcome {
    let house = House::new(stage)?;
    let seconds = if stage.soak { 600 } else { 8 };
    let span = format!("for={}", seconds + 30);
    let mut client = Driver::start(stage, &house.client, &house.machine, &house.machine.name, &[&span])?;
    sleep(Duration::from_secs(1));
    let cut = house.cut_internet()?;
    sleep(Duration::from_secs(seconds));
    let end = now();
    let reads = client.all_well("read", cut - 0.5, end - 0.5)?;
    let motions = client.all_well("motion", cut - 0.5, end - 0.5)?;
    let slowest = reads.iter().chain(&motions).map(|c| c.took_ms()).fold(0.0, f64::max);
    stage.fact("calls", reads.len() + motions.len());
    stage.fact("slowest_ms", slowest);
    client.no_lapse()?;
    truth::kept_moving(&house.observer, "base", cut, end)?;
    truth::once_and_in_order(&house.observer, "base")?;
    let moved = [client.routes("use", cut), client.routes("no_route", cut), client.routes("closed", cut)].concat();
    if let Some(event) = moved.first() {
        return Err(format!("the route changed: {event}").into());
    }
    client.order("close")?;
    client.end(Duration::from_secs(3))?;
    Ok(())
}
