//! Two routed segments without multicast between them and without any internet: an existing client is not touched, and a new one finds the machine
//! by its address and by the local name server, and without that by what it remembers.

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::super::Stage;
use super::driver::Driver;
use super::places::{PORT, machine, within};
use super::truth;
use crate::Outcome;
use crate::lab::policy::Policy;
use crate::lab::{BOTH, Host};
use crate::observer::{Observer, now};
use crate::processes::Machine;

/// By address and by name, beside an existing client.
pub fn run(stage: &Stage) -> Outcome {
    segments(stage, false)
}

/// By what was remembered, once the name server is gone too.
pub fn remembered(stage: &Stage) -> Outcome {
    segments(stage, true)
}

fn segments(stage: &Stage, again: bool) -> Outcome {
    let lab = stage.lab()?;
    let (client, router, server) = (lab.host("client")?, lab.host("router")?, lab.host("machine")?);
    lab.cable("office", (&client, "eth0"), (&router, "office"))?;
    lab.cable("hall", (&router, "hall"), (&server, "eth0"))?;
    client.address("eth0", "10.1.0.2/24")?;
    router.address("office", "10.1.0.254/24")?;
    router.address("hall", "10.2.0.254/24")?;
    server.address("eth0", "10.2.0.1/24")?;
    client.route("default", "10.1.0.254")?;
    server.route("default", "10.2.0.254")?;
    router.forward()?;
    lab.set("hall", BOTH, Policy::delayed(3))?;
    lab.resolver("10.1.0.254")?;
    let machine = machine(stage, &server)?;
    let observer = Observer::new(&machine.observed());
    let address = format!("10.2.0.1:{PORT}");
    let existing = Driver::start(stage, &client, &machine, &address, &["for=60"])?;
    let begun = now();

    dial(stage, &client, &machine, &address, "by_address_ms")?;
    let mut command = Command::new("dnsmasq");
    command.args(["--keep-in-foreground", "--no-resolv", "--no-hosts", "--user=root", "--conf-file=/dev/null"]);
    command.arg(format!("--address=/{}/10.2.0.1", machine.name)).stdin(Stdio::null()).stderr(Stdio::null());
    let mut names = router.start("dnsmasq", &mut command)?;
    sleep(Duration::from_millis(300));
    dial(stage, &client, &machine, &machine.name, "by_name_server_ms")?;
    if again {
        names.kill()?;
        dial(stage, &client, &machine, &machine.name, "remembered_ms")?;
    }

    sleep(Duration::from_secs(1));
    let end = now();
    existing.all_well("read", begun, end - 0.5)?;
    existing.all_well("motion", begun, end - 0.5)?;
    existing.no_lapse()?;
    truth::kept_moving(&observer, "base", begun + 0.2, end)?;
    truth::once_and_in_order(&observer, "base").map(|_| ())
}

fn dial(stage: &Stage, client: &Host, machine: &Machine, address: &str, fact: &str) -> Outcome {
    let mut command = stage.built.command("lifeline");
    machine.credentials(&mut command);
    let started = Instant::now();
    let output = client.output(command.args(["--json", "status", address]))?;
    let took = started.elapsed().as_secs_f64();
    if !output.status.success() {
        return Err(format!("{fact}: status {address}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    stage.fact(fact, took * 1e3);
    within(fact, took, Duration::from_secs(3))
}
