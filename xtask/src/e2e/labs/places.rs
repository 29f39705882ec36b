//! Networks that several scenarios share.

use std::time::Duration;

use super::super::Stage;
use crate::Outcome;
use crate::lab::policy::Policy;
use crate::lab::{BOTH, Host, Lab, Nat};
use crate::observer::Observer;
use crate::processes::{Machine, MachineOptions, default_components};

/// The port of every machine in a lab.
pub const PORT: u16 = 8080;

/// How long a session lives without a beat: the default of every machine.
pub const WINDOW: Duration = Duration::from_secs(2);

/// A client and a machine with two paths between them, as of a cable and a radio; the round trip of both is 2 ms.
pub struct TwoPaths {
    /// The network. Cables: `one` (10.1.0.0/24) and `two` (10.2.0.0/24), from the client (.2, `eth0`, `eth1`) to the machine (.1).
    pub lab: Lab,
    /// Where clients run.
    pub client: Host,
    /// Where the machine runs.
    pub server: Host,
    /// The machine.
    pub machine: Machine,
    /// What really moved.
    pub observer: Observer,
}

impl TwoPaths {
    /// Lays the network and starts the machine.
    pub fn new(stage: &Stage) -> Result<Self, Box<dyn std::error::Error>> {
        Self::with(stage, &["one", "two"], Policy::delayed(1))
    }

    /// With a machine that says nothing of what existing ones do not have.
    pub fn stock(stage: &Stage) -> Result<Self, Box<dyn std::error::Error>> {
        let options = MachineOptions { arguments: vec!["--no-order".to_owned()], ..MachineOptions::default() };
        Self::of(stage, &["one", "two"], Policy::delayed(1), &options)
    }

    /// Only these of the paths, with this policy in both directions of each.
    pub fn with(stage: &Stage, paths: &[&str], policy: Policy) -> Result<Self, Box<dyn std::error::Error>> {
        Self::of(stage, paths, policy, &MachineOptions::default())
    }

    /// The same, with a machine as told.
    pub fn of(
        stage: &Stage,
        paths: &[&str],
        policy: Policy,
        options: &MachineOptions,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let lab = stage.lab()?;
        let (client, server) = (lab.host("client")?, lab.host("machine")?);
        for path in paths {
            let (device, net) = if *path == "one" { ("eth0", 1) } else { ("eth1", 2) };
            lab.cable(path, (&client, device), (&server, device))?;
            client.address(device, &format!("10.{net}.0.2/24"))?;
            server.address(device, &format!("10.{net}.0.1/24"))?;
            lab.set(path, BOTH, policy)?;
        }
        if stage.soak || std::env::var_os("LIFELINE_CAPTURE").is_some() {
            lab.capture(&client, "any")?;
        }
        println!("    TCP: {}", client.controller("10.1.0.1")?);
        let machine = machine_with(stage, &server, options)?;
        let observer = Observer::new(&machine.observed());
        Ok(Self { lab, client, server, machine, observer })
    }

    /// The cable of a route, by the machine's address in it, and the other one.
    pub fn cables_of(&self, route: &str) -> Result<(&'static str, &'static str), Box<dyn std::error::Error>> {
        match (route.contains("10.1.0.1"), route.contains("10.2.0.1")) {
            (true, false) => Ok(("one", "two")),
            (false, true) => Ok(("two", "one")),
            _ => Err(format!("the route {route} is neither path").into()),
        }
    }
}

/// A house: a LAN (10.1.0.0/24) with a machine (.1), a client (.2) and a router (.254), which translates addresses towards the internet
/// (203.0.113.0/24), where there is a client `away` (.2). The router lets port 8080 in.
pub struct House {
    /// The network. Cables: `machine-eth0`, `client-eth0`, `router-lan`, and `wan` between router (first end) and internet.
    pub lab: Lab,
    /// On the LAN.
    pub client: Host,
    /// On the internet.
    pub away: Host,
    /// Where the machine runs.
    pub server: Host,
    /// What joins the LAN.
    pub switch: Host,
    /// The machine.
    pub machine: Machine,
    /// What really moved.
    pub observer: Observer,
}

impl House {
    /// Lays the network and starts the machine.
    pub fn new(stage: &Stage) -> Result<Self, Box<dyn std::error::Error>> {
        let lab = stage.lab()?;
        let (client, server, router) = (lab.host("client")?, lab.host("machine")?, lab.host("router")?);
        let (switch, away) = (lab.switch("switch")?, lab.host("away")?);
        lab.plug(&server, "eth0", "10.1.0.1/24", &switch)?;
        lab.plug(&client, "eth0", "10.1.0.2/24", &switch)?;
        lab.plug(&router, "lan", "10.1.0.254/24", &switch)?;
        lab.cable("wan", (&router, "wan"), (&away, "eth0"))?;
        router.address("wan", "203.0.113.1/24")?;
        away.address("eth0", "203.0.113.2/24")?;
        for host in [&server, &client] {
            host.route("default", "10.1.0.254")?;
        }
        lab.set("wan", BOTH, Policy::delayed(10))?;
        router.forward()?;
        router.translate("wan", "10.1.0.1", Nat::PortRestricted)?;
        router.let_in("wan", PORT, "10.1.0.1")?;
        // Names are looked up on the internet, as in most houses.
        lab.resolver("203.0.113.53")?;
        println!("    TCP: {}", client.controller("10.1.0.1")?);
        let machine = machine(stage, &server)?;
        let observer = Observer::new(&machine.observed());
        Ok(Self { lab, client, away, server, switch, machine, observer })
    }

    /// Takes the internet away, silently; when, in Unix time.
    pub fn cut_internet(&self) -> Result<f64, Box<dyn std::error::Error>> {
        self.lab.set("wan", BOTH, Policy::hole())
    }
}

/// A machine on a host, on the port of every machine in a lab. Besides the usual it has a second base, `cart`, and a sensor `slow` that takes 60 ms
/// to read.
pub fn machine(stage: &Stage, host: &Host) -> Result<Machine, Box<dyn std::error::Error>> {
    machine_with(stage, host, &MachineOptions::default())
}

/// The same, otherwise as told.
pub fn machine_with(
    stage: &Stage,
    host: &Host,
    options: &MachineOptions,
) -> Result<Machine, Box<dyn std::error::Error>> {
    let mut components = default_components();
    let rows = components.as_array_mut().ok_or("components are a list")?;
    rows.push(serde_json::json!({ "name": "cart", "type": "base", "model": "fake" }));
    let slow = serde_json::json!({ "takes_ms": 60 });
    rows.push(serde_json::json!({ "name": "slow", "type": "sensor", "model": "fake", "attributes": slow }));
    let options =
        MachineOptions { components: Some(components), port: Some(PORT), host: Some(host.clone()), ..options.clone() };
    stage.machine(&options)
}

/// Fails where something took longer than allowed.
pub fn within(what: &str, took: f64, bound: Duration) -> Outcome {
    if took <= bound.as_secs_f64() {
        return Ok(());
    }
    Err(format!("{what} took {took:.3} s, allowed are {bound:?}").into())
}
