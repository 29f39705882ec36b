//! Where peers that cannot be told of another cloud find ours: namespaces in which the real one's names lead to it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Outcome;
use crate::lab::run;
use crate::processes::{Built, Machine, MachineOptions, Running};

/// Where the cloud and the machine are; peers have a neighbour's address as well, since some use no loopback.
const ADDRESS: &str = "10.44.0.1";
/// What existing clients take for the cloud of machines below `viam.cloud`.
const CLOUD: &str = "app.viam.com";

/// A name that no client takes for one of a cloud's, and whose machine it therefore asks for signaling itself. Addresses and `localhost`
/// will not do: for those some use no WebRTC.
const LONE: &str = "rover.example";

/// A cloud in a box and machines. In namespaces of its own: it changes what names mean.
pub struct Clouded {
    /// A machine that is registered at the cloud. It does not answer mDNS: clients would not ask the cloud.
    pub machine: Machine,
    /// One that no cloud knows.
    pub lone: Machine,
    /// A user's key.
    pub key_id: String,
    /// See `key_id`.
    pub key: String,
    /// The certificate to trust for the cloud.
    pub ca: PathBuf,
    options: MachineOptions,
    _cloud: Running,
}

impl Clouded {
    /// Starts both in `folder`.
    pub fn start(built: &Built, folder: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let hosts = folder.join("hosts");
        fs::write(&hosts, format!("127.0.0.1 localhost\n{ADDRESS} {CLOUD} {LONE}\n"))?;
        for line in [
            "ip link set lo up".to_owned(),
            "ip link add lan0 type veth peer name lan1".to_owned(),
            format!("ip addr add {ADDRESS}/24 dev lan0"),
            "ip link set lan0 up".to_owned(),
            "ip link set lan1 up".to_owned(),
            format!("mount --bind {} /etc/hosts", hosts.display()),
        ] {
            run(&line)?;
        }
        let state = folder.join("cloud");
        let name = "sdk-main.loc1.viam.cloud";
        let log = File::create(folder.join("cloud.log"))?;
        let mut command = built.command("sim-cloud");
        command
            .args(["--json", "--name", CLOUD, "--machine", name, "--bind", &format!("{ADDRESS}:443"), "--state-dir"])
            .arg(&state)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut cloud = Running::start("sim-cloud", &mut command)?;
        let said = cloud.lines()?.next().ok_or("sim-cloud ended before it said where it serves")??;
        let said: Value = serde_json::from_str(&said)?;
        let known: Value = serde_json::from_slice(&fs::read(said["state"].as_str().ok_or("no state")?)?)?;
        let ca = PathBuf::from(said["ca"].as_str().ok_or("no certificate")?);
        let text = |of: &str, what: &str| known[of][0][what].as_str().unwrap_or_default().to_owned();
        let (part, secret) = (text("machines", "id"), text("machines", "secret"));
        let mut arguments = vec!["--no-mdns".to_owned(), "--cloud".to_owned(), format!("https://{CLOUD}")];
        arguments.extend(["--part-id".to_owned(), part, "--secret".to_owned(), secret, "--ca-file".to_owned()]);
        arguments.push(ca.display().to_string());
        let registered = MachineOptions { arguments, ..MachineOptions::default() };
        let machine = start(built, folder, name, &registered)?;
        let options = MachineOptions { arguments: vec!["--no-mdns".to_owned()], ..MachineOptions::default() };
        let lone = Machine::start(built, &folder.join("lone"), LONE, &options)?;
        Ok(Self {
            machine,
            lone,
            key_id: text("users", "id"),
            key: text("users", "key"),
            ca,
            options: registered,
            _cloud: cloud,
        })
    }

    /// The cloud's address.
    pub fn url(&self) -> String {
        format!("https://{CLOUD}")
    }

    /// Kills the registered machine and starts it again.
    pub fn restart(&mut self, built: &Built, folder: &Path) -> Outcome {
        self.machine.process.kill()?;
        let options = MachineOptions { port: Some(self.machine.port), ..self.options.clone() };
        self.machine = start(built, folder, &self.machine.name.clone(), &options)?;
        Ok(())
    }
}

/// Starts a machine and waits until it is registered.
fn start(
    built: &Built,
    folder: &Path,
    name: &str,
    options: &MachineOptions,
) -> Result<Machine, Box<dyn std::error::Error>> {
    let machine = Machine::start(built, &folder.join("machine"), name, options)?;
    let until = Instant::now() + Duration::from_secs(10);
    while !machine.log()?.contains("registered") {
        if Instant::now() > until {
            return Err(format!("the machine does not register:\n{}", machine.log()?).into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(machine)
}

/// The pair that a machine's calls since then came over; an error where one did not come over WebRTC.
pub fn pair(machine: &Machine, since: f64) -> Result<String, Box<dyn std::error::Error>> {
    let calls = machine.calls()?;
    let of_robot = |call: &&Value| {
        call["t"].as_f64().is_some_and(|t| t >= since) && call["call"].as_str().is_some_and(|c| c.starts_with("/viam."))
    };
    let mut last = Err("no calls arrived".into());
    for call in calls.iter().filter(of_robot) {
        let pair = call["pair"].as_str().ok_or_else(|| format!("not over WebRTC: {call}"))?;
        last = Ok(pair.to_owned());
    }
    last
}
