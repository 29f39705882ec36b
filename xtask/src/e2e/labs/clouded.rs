//! A machine and, behind one cable, its cloud and the cloud's users.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::super::Stage;
use super::driver::Driver;
use super::places::PORT;
use crate::Outcome;
use crate::lab::policy::Policy;
use crate::lab::{BOTH, Host, Lab, run};
use crate::processes::{Machine, MachineOptions, Running};

/// The cloud's name.
const CLOUD: &str = "cloud.example";
/// Its address; a machine may or may not know the way.
pub const ADDRESS: &str = "203.0.113.2";
/// The way.
pub const VIA: &str = "198.51.100.2";

/// A machine and, behind one cable, a host for its cloud, on which users are as well.
pub struct Place {
    /// The network. Its one cable: `wan`.
    pub lab: Lab,
    /// Where the machine runs. It has no route to the cloud yet.
    pub server: Host,
    outside: Host,
    folder: PathBuf,
    name: String,
    /// The cloud's process, while it runs.
    pub cloud: Option<Running>,
    ca: PathBuf,
    state: Value,
}

impl Place {
    /// Lays the network. Neither the cloud nor the machine runs.
    pub fn new(stage: &Stage) -> Result<Self, Box<dyn std::error::Error>> {
        let lab = stage.lab()?;
        let (server, outside) = (lab.host("machine")?, lab.host("outside")?);
        lab.cable("wan", (&server, "eth0"), (&outside, "eth0"))?;
        server.address("eth0", "198.51.100.1/24")?;
        outside.address("eth0", &format!("{VIA}/24"))?;
        outside.ip(&format!("addr add {ADDRESS}/32 dev eth0"))?;
        lab.set("wan", BOTH, Policy::delayed(10))?;
        let hosts = stage.folder.join("hosts");
        fs::write(&hosts, format!("127.0.0.1 localhost\n{ADDRESS} {CLOUD}\n"))?;
        run(&format!("mount --bind {} /etc/hosts", hosts.display()))?;
        let (folder, name) = (stage.folder.clone(), "away-main.loc1.viam.cloud".to_owned());
        let mut place =
            Self { lab, server, outside, folder, name, cloud: None, ca: PathBuf::new(), state: Value::Null };
        // Once, for its keys and secrets.
        place.start_cloud(stage)?;
        place.cloud = None;
        Ok(place)
    }

    /// Starts the cloud, or starts it again.
    pub fn start_cloud(&mut self, stage: &Stage) -> Outcome {
        self.cloud = None;
        let mut command = stage.built.command("sim-cloud");
        command.args(["--json", "--no-turn", "--name", CLOUD, "--machine", &self.name]);
        command.args(["--bind", &format!("{ADDRESS}:8443"), "--state-dir"]).arg(self.folder.join("cloud"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(self.folder.join("cloud.log"))?);
        let mut cloud = self.outside.start("sim-cloud", &mut command)?;
        let said = cloud.lines()?.next().ok_or("sim-cloud ended before it said where it serves")??;
        let said: Value = serde_json::from_str(&said)?;
        self.ca = said["ca"].as_str().ok_or("no certificate")?.into();
        self.state = serde_json::from_slice(&fs::read(said["state"].as_str().ok_or("no state")?)?)?;
        self.cloud = Some(cloud);
        Ok(())
    }

    fn secret(&self, of: &str, what: &str) -> String {
        self.state[of][0][what].as_str().unwrap_or_default().to_owned()
    }

    /// Starts the machine.
    pub fn machine(&self, stage: &Stage) -> Result<Machine, Box<dyn std::error::Error>> {
        let (part, secret) = (self.secret("machines", "id"), self.secret("machines", "secret"));
        let arguments = ["--cloud", &format!("https://{CLOUD}:8443"), "--part-id", &part, "--secret", &secret];
        let mut arguments: Vec<String> = arguments.map(str::to_owned).into();
        arguments.extend(["--ca-file".to_owned(), self.ca.display().to_string()]);
        let host = Some(self.server.clone());
        let options = MachineOptions { arguments, host, port: Some(PORT), ..MachineOptions::default() };
        Machine::start(&stage.built, &self.folder.join("machine"), &self.name, &options)
    }

    /// A program of a user of the cloud.
    fn user(&self, stage: &Stage, program: &str) -> Command {
        let mut command = stage.built.command(program);
        command
            .env("VIAM_API_KEY_ID", self.secret("users", "id"))
            .env("VIAM_API_KEY", self.secret("users", "key"))
            .env("LIFELINE_CA_FILE", &self.ca)
            .env("XDG_CACHE_HOME", self.folder.join("cache"))
            .env("XDG_STATE_HOME", self.folder.join("client-state"));
        command
    }

    /// A client outside, which finds the machine through the cloud.
    pub fn client(&self, stage: &Stage, options: &[&str]) -> Result<Driver, Box<dyn std::error::Error>> {
        let mut command = self.user(stage, "examples/openloop");
        command.args([&self.name, &format!("cloud={CLOUD}:8443")]).args(options);
        let driver = Driver::run(stage, &self.outside, &mut command)?;
        driver.wait("its link", 0.0, Duration::from_secs(10), |line| line["connected"].is_string())?;
        Ok(driver)
    }

    /// How long it takes from now until a user gets an answer of the machine through the cloud.
    pub fn answered(&self, stage: &Stage, most: Duration) -> Result<f64, Box<dyn std::error::Error>> {
        let since = Instant::now();
        let mut said = String::new();
        while since.elapsed() < most {
            let mut command = self.user(stage, "lifeline");
            command.args(["--json", "--dial-timeout", "1s", "--cloud", &format!("{CLOUD}:8443"), "status", &self.name]);
            let output = self.outside.output(&mut command)?;
            if output.status.success() {
                return Ok(since.elapsed().as_secs_f64());
            }
            said = String::from_utf8_lossy(&output.stderr).into_owned();
        }
        Err(format!("the machine is not there again after {:?}: {said}", most).into())
    }
}
