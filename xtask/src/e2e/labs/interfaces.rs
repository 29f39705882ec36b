//! Paths that the operating system itself takes away, or that a router forgets.

use std::thread::sleep;
use std::time::Duration;

use super::super::Stage;
use super::driver::Driver;
use super::places::{PORT, TwoPaths, machine, within};
use super::truth;
use crate::Outcome;
use crate::lab::policy::Policy;
use crate::lab::{BOTH, Nat};
use crate::observer::{Observer, now};

/// From radio to cable: the interface of the primary goes away while driving.
pub fn one_goes(stage: &Stage) -> Outcome {
    let place = TwoPaths::new(stage)?;
    let client = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &["for=60"])?;
    client.wait_for_standby(Duration::from_secs(5))?;
    sleep(Duration::from_millis(900 + stage.seed * 71 % 400));
    let (primary, _) = place.cables_of(&client.route()?)?;
    let device = if primary == "one" { "eth0" } else { "eth1" };
    let gone = now();
    place.client.ip(&format!("link set {device} down"))?;
    client.wait("a swap", gone, Duration::from_secs(3), |line| line["route"] == "use")?;
    sleep(Duration::from_secs(1));
    let end = now();
    for kind in ["read", "motion"] {
        stage.fact(&format!("{kind}_gap_ms"), truth::gap_ms(&client.calls(), kind, gone)?.0);
        client.all_well(kind, gone - 0.5, end - 0.5)?;
    }
    client.no_lapse()?;
    truth::kept_moving(&place.observer, "base", gone, end)?;
    truth::once_and_in_order(&place.observer, "base").map(|_| ())
}

/// A router between client and machine forgets its mapping while driving, and again while nothing is said.
pub fn mapping_forgotten(stage: &Stage) -> Outcome {
    let lab = stage.lab()?;
    let (inside, router, outside) = (lab.host("client")?, lab.host("router")?, lab.host("machine")?);
    lab.cable("lan", (&inside, "eth0"), (&router, "lan"))?;
    lab.cable("wan", (&router, "wan"), (&outside, "eth0"))?;
    inside.address("eth0", "10.1.0.2/24")?;
    router.address("lan", "10.1.0.1/24")?;
    router.address("wan", "203.0.113.1/24")?;
    outside.address("eth0", "203.0.113.2/24")?;
    inside.route("default", "10.1.0.1")?;
    lab.set("wan", BOTH, Policy::delayed(10))?;
    router.forward()?;
    router.translate("wan", "10.1.0.2", Nat::Symmetric)?;
    let machine = machine(stage, &outside)?;
    let observer = Observer::new(&machine.observed());
    let mut client = Driver::start(stage, &inside, &machine, &format!("203.0.113.2:{PORT}"), &["for=60"])?;
    for quiet in [false, true] {
        sleep(Duration::from_secs(1));
        if quiet {
            client.order("hush")?;
            sleep(Duration::from_millis(300));
        }
        let forgotten = now();
        router.forget_mappings()?;
        if quiet {
            sleep(Duration::from_millis(300));
            client.order("speak")?;
        }
        let other = client.wait("another link", forgotten, Duration::from_secs(4), |line| line["route"] == "use")?;
        let used = other["t"].as_f64().ok_or("a line without a time")?;
        client.wait("an answer", used, Duration::from_secs(2), |line| line["call"] == "read" && line["ok"] == true)?;
        let (gap, first) = truth::gap_ms(&client.calls(), "read", forgotten)?;
        stage.fact(if quiet { "gap_when_quiet_ms" } else { "gap_when_driving_ms" }, gap);
        within("the way back", first.done - forgotten, Duration::from_millis(1_500))?;
    }
    sleep(Duration::from_secs(1));
    client.all_well("motion", now() - 0.8, now() - 0.2)?;
    client.no_lapse()?;
    truth::once_and_in_order(&observer, "base").map(|_| ())
}
