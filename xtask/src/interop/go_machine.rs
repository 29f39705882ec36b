//! The published machine server as a machine for our client.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use super::one_cable::OneCable;
use super::stock::{NAME, Stock};
use super::{Row, go};
use crate::e2e::Stage;
use crate::e2e::labs::driver::Driver;
use crate::observer::now;
use crate::processes::Built;

/// When its wheels stop after a client was killed: within its window of 2 s, and what asking takes; not before most of the window is over.
const STOPPED: std::ops::Range<f64> = 1.5..2.6;

/// A client, the machine, and the cable between them.
struct Place<'a> {
    stage: &'a Stage,
    cable: OneCable,
    stock: Stock,
}

/// Found by its name and driven, over both kinds of links, and stopped when our client is killed.
pub fn inside(root: &Path, built: &Built, folder: &Path) -> Result<Vec<Row>, Box<dyn std::error::Error>> {
    let stage = Stage::new(built.clone(), folder.to_path_buf(), false, 1);
    let cable = OneCable::new(&stage)?;
    let stock = Stock::start(&go::machine_program(root)?, &cable.server, &folder.join("stock"))?;
    let place = Place { stage: &stage, cable, stock };
    Ok(vec![
        Row::of("machine server: found by name, driven", place.driven()?),
        Row::of("machine server: our client killed", place.stopped_when_killed()?),
        Row::of("machine server: TCP cut, on over WebRTC, killed", place.over_webrtc()?),
    ])
}

impl Place<'_> {
    fn drives(&self, options: &[&str]) -> Result<Driver, Box<dyn std::error::Error>> {
        let mut command = self.stock.client(&self.stage.built, "examples/openloop");
        let driver = Driver::run(self.stage, &self.cable.client, command.args([NAME, "rate=20"]).args(options))?;
        driver.wait("its link", 0.0, Duration::from_secs(10), |line| line["connected"].is_string())?;
        Ok(driver)
    }

    /// For three seconds, with a session; then our client says goodbye.
    fn driven(&self) -> Result<String, Box<dyn std::error::Error>> {
        let built = &self.stage.built;
        let mut driver = self.drives(&["for=3"])?;
        let connected = driver.wait("its link", 0.0, Duration::ZERO, |line| line["connected"].is_string())?;
        let since = now();
        sleep(Duration::from_secs(1));
        self.stock.is_moving(built)?;
        driver.end(Duration::from_secs(10))?;
        driver.no_lapse()?;
        let calls = driver.all_well("motion", since, now())?.len() + driver.all_well("read", since, now())?.len();
        self.stock.rests(built, Duration::from_secs(1))?;
        let took = connected["took_ms"].as_f64().unwrap_or_default();
        Ok(format!("ok, connected in {took:.0} ms over {}, {calls} calls", connected["connected"]))
    }

    fn stopped_when_killed(&self) -> Result<String, Box<dyn std::error::Error>> {
        let driver = self.drives(&["for=30"])?;
        sleep(Duration::from_millis(1500));
        self.killed(driver)
    }

    /// Nothing of TCP passes any more, in the network: what is left is WebRTC.
    fn over_webrtc(&self) -> Result<String, Box<dyn std::error::Error>> {
        let driver = self.drives(&["for=60", "standby=always"])?;
        driver.wait_for_standby(Duration::from_secs(10))?;
        sleep(Duration::from_millis(500));
        let cut = now();
        self.cable.cut_tcp(true)?;
        driver.wait("calls over WebRTC", cut, Duration::from_secs(5), |line| {
            line["route"] == "use" && line["of"]["route"].as_str().is_some_and(|route| route.contains("WebRTC"))
        })?;
        sleep(Duration::from_secs(3));
        let read = driver.all_well("read", cut + 1.0, now() - 0.5)?.len();
        driver.all_well("motion", cut + 1.0, now() - 0.5)?;
        driver.no_lapse()?;
        let route = driver.route()?;
        let stopped = self.killed(driver)?;
        self.cable.cut_tcp(false)?;
        Ok(format!("{stopped}; session kept, {read} reads over {route}"))
    }

    /// Kills our client while the wheels turn.
    fn killed(&self, mut driver: Driver) -> Result<String, Box<dyn std::error::Error>> {
        let built = &self.stage.built;
        self.stock.is_moving(built)?;
        driver.kill()?;
        let killed = now();
        let after = self.stock.rests(built, Duration::from_secs(6))? - killed;
        if !STOPPED.contains(&after) {
            return Err(format!("its wheels stopped {after:.2} s after the kill, and not within {STOPPED:?} s").into());
        }
        Ok(format!("ok, wheels at rest {after:.2} s after the kill"))
    }
}
