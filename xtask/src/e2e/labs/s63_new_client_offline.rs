//! s63: with the internet gone, a new client on the LAN finds the machine by its cloud name and its local one within 3 s.

use std::time::{Duration, Instant};

use super::super::Stage;
use super::places::{House, within};
use crate::Outcome;

pub fn run(stage: &Stage) -> Outcome {
    let house = House::new(stage)?;
    house.cut_internet()?;
    let local = house.machine.name.replace(".viam.cloud", ".local.viam.cloud");
    for name in [house.machine.name.clone(), local] {
        // Nothing is remembered: each is a first dial.
        let cache = stage.folder.join("cache");
        if cache.exists() {
            std::fs::remove_dir_all(&cache)?;
        }
        let mut command = stage.built.command("lifeline");
        house.machine.credentials(&mut command);
        let started = Instant::now();
        let output = house.client.output(command.args(["--json", "status", &name]))?;
        let took = started.elapsed().as_secs_f64();
        if !output.status.success() {
            return Err(format!("status {name}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        stage.fact(&format!("status_of_{name}_ms"), took * 1e3);
        within("a new client's dial and call", took, Duration::from_secs(3))?;
    }
    Ok(())
}
