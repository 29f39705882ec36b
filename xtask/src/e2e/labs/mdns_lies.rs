//! Answers on the local network that are wrong: somebody else answers to the machine's name, or the machine is no longer where it was.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::super::Stage;
use super::places::{House, PORT, within};
use crate::Outcome;
use crate::processes::{Machine, MachineOptions};

fn status(stage: &Stage, house: &House, fact: &str) -> Outcome {
    let mut command = stage.built.command("lifeline");
    house.machine.credentials(&mut command);
    let started = Instant::now();
    let output = house.client.output(command.args(["--json", "status", &house.machine.name]))?;
    let took = started.elapsed().as_secs_f64();
    if !output.status.success() {
        return Err(format!("{fact}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    stage.fact(fact, took * 1e3);
    within(fact, took, Duration::from_secs(2))
}

/// A second machine of the same name, with a certificate of its own making, answers too: the client
/// goes to the one that proves its name.
pub fn impostor(stage: &Stage) -> Outcome {
    let house = House::new(stage)?;
    let host = house.lab.host("impostor")?;
    house.lab.plug(&host, "eth0", "10.1.0.66/24", &house.switch)?;
    let options = MachineOptions { port: Some(PORT), host: Some(host), ..MachineOptions::default() };
    let folder = stage.folder.join("impostor");
    let _impostor = Machine::start(&stage.built, &folder, &house.machine.name, &options)?;
    for round in 0..5 {
        // Each is a first dial: nothing is remembered.
        let cache = stage.folder.join("cache");
        if cache.exists() {
            std::fs::remove_dir_all(&cache)?;
        }
        status(stage, &house, &format!("beside_an_impostor_{round}_ms"))?;
    }
    Ok(())
}

/// The machine got another address, and its old one belongs to somebody else now; the client remembers the old one.
pub fn moved(stage: &Stage) -> Outcome {
    let house = House::new(stage)?;
    status(stage, &house, "first_ms")?;
    house.server.ip("addr del 10.1.0.1/24 dev eth0")?;
    house.server.address("eth0", "10.1.0.9/24")?;
    let host = house.lab.host("printer")?;
    house.lab.plug(&host, "eth0", "10.1.0.1/24", &house.switch)?;
    // By then the machine has noticed.
    sleep(Duration::from_secs(3));
    status(stage, &house, "after_the_move_ms")
}
