//! s65: a client outside the LAN drives, and the machine's internet is cut: the session ends within its window and what it drove stops, the client
//! says so, and reconnects by itself when the internet is back. Nothing moves until it commands anew.

use std::thread::sleep;
use std::time::Duration;

use super::super::Stage;
use super::driver::Driver;
use super::places::{House, WINDOW, within};
use super::truth;
use crate::Outcome;
use crate::lab::BOTH;
use crate::lab::policy::Policy;

pub fn run(stage: &Stage) -> Outcome {
    let house = House::new(stage)?;
    let name = format!("tls_name={}", house.machine.name);
    let mut client = Driver::start(stage, &house.away, &house.machine, "203.0.113.1:8080", &["for=60", &name])?;
    sleep(Duration::from_millis(1_500));
    let cut = house.cut_internet()?;
    let stopped = house.observer.stopped("base/base", cut, WINDOW + Duration::from_secs(1))?;
    stage.fact("stopped_s", stopped.t - cut);
    within("the safety stop", stopped.t - cut, WINDOW + Duration::from_millis(100))?;
    client.wait("its lapse", cut, Duration::from_secs(3), |line| {
        line["session"].as_str().is_some_and(|s| s.contains("Lapsed"))
    })?;
    client.wait("no route", cut, Duration::from_secs(3), |line| line["route"] == "no_route")?;
    client.order("hush")?;
    sleep(Duration::from_secs(if stage.soak { 60 } else { 2 }));
    let back = house.lab.set("wan", BOTH, Policy::delayed(10))?;
    let used = client.wait("a route", back, Duration::from_secs(5), |line| line["route"] == "use")?;
    let took = used["t"].as_f64().unwrap_or_default() - back;
    stage.fact("reconnected_s", took);
    within("the reconnection", took, Duration::from_secs(2))?;
    truth::stays_still(&house.observer, "base", stopped.t, Duration::from_secs(1))?;
    client.order("speak")?;
    house.observer.moving("base/base", back, Duration::from_secs(2))?;
    truth::once_and_in_order(&house.observer, "base").map(|_| ())
}
