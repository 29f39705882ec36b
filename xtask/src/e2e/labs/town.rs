//! A network that several scenarios share: a machine at home, a client that is at home and on the road at once, and a cloud on the internet between
//! them, which lends its relay.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::super::Stage;
use super::places::{PORT, machine_with};
use crate::Outcome;
use crate::lab::policy::Policy;
use crate::lab::{BOTH, Host, Lab, Nat};
use crate::observer::Observer;
use crate::processes::{KEY, KEY_ID, Machine, MachineOptions, Running};

/// The cloud's name, and how clients are told of it.
pub const CLOUD: &str = "cloud.example";
/// Its address, where names are looked up too.
const CLOUD_ADDRESS: &str = "203.0.113.10";
/// The address of the home's router.
const HOME_ADDRESS: &str = "203.0.113.1";
const NAME: &str = "town-main.loc1.viam.cloud";
const PART_ID: &str = "0d9b4c1e-6a53-4f0e-8f0a-3e6d5b7c9a12";
const PART_SECRET: &str = "lifeline-end-to-end-secret";

/// How the town differs from the usual one.
pub struct Layout {
    /// What the home's router does with addresses.
    pub home: Nat,
    /// What the road's does.
    pub road: Nat,
    /// Whether the client's device at home works from the beginning. It is there in any case, with its address.
    pub at_home: bool,
    /// What each router's way to the internet is like, in both directions.
    pub wan: Policy,
    /// What the cloud's is like.
    pub cloud: Policy,
    /// Whether the home's router lets the machine's port in from the internet, where the machine's name leads to it. The client cannot have it
    /// from the LAN then, as where a machine's own firewall closes it there.
    pub open: bool,
    /// What the cloud is called, and proves to be.
    pub named: &'static str,
    /// Arguments of the machine's.
    pub arguments: Vec<String>,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            home: Nat::PortRestricted,
            road: Nat::PortRestricted,
            at_home: true,
            wan: Policy::delayed(10),
            cloud: Policy::default(),
            open: false,
            named: CLOUD,
            arguments: Vec::new(),
        }
    }
}

/// The town. At home (10.1.0.0/24): the machine (.1), the client's `eth0` (.2) and a router (.254). On the road (10.9.0.0/24): the client's `eth1`
/// (.2), by which it reaches everything that is not at home, and a router (.254). On the internet (203.0.113.0/24): the cloud (.10) and both routers;
/// 40 ms there and back between them.
pub struct Town {
    /// The network. Cables: `machine-eth0`, `client-eth0`, `home-lan`, `home-wan`, `road`, `road-wan`, `cloud-eth0`.
    pub lab: Lab,
    /// Where clients run.
    pub client: Host,
    /// Where the machine runs.
    pub server: Host,
    /// The home's router.
    pub home: Host,
    /// The road's.
    pub road: Host,
    /// Where the cloud runs.
    pub internet: Host,
    /// The machine, registered at the cloud.
    pub machine: Machine,
    /// What really moved.
    pub observer: Observer,
    /// The cloud.
    pub cloud: Running,
    folder: PathBuf,
    named: &'static str,
    _names: Running,
}

impl Town {
    /// Lays the network, starts cloud and machine, and waits until they know each other.
    pub fn new(stage: &Stage, layout: &Layout) -> Result<Self, Box<dyn std::error::Error>> {
        let lab = stage.lab()?;
        let (client, server, internet) = (lab.host("client")?, lab.host("machine")?, lab.host("cloud")?);
        let (home, road) = (lab.host("home")?, lab.host("road")?);
        let (indoors, net) = (lab.switch("indoors")?, lab.switch("net")?);
        lab.plug(&server, "eth0", "10.1.0.1/24", &indoors)?;
        lab.plug(&client, "eth0", "10.1.0.2/24", &indoors)?;
        lab.plug(&home, "lan", "10.1.0.254/24", &indoors)?;
        lab.plug(&home, "wan", &format!("{HOME_ADDRESS}/24"), &net)?;
        lab.plug(&road, "wan", "203.0.113.2/24", &net)?;
        lab.plug(&internet, "eth0", &format!("{CLOUD_ADDRESS}/24"), &net)?;
        lab.cable("road", (&client, "eth1"), (&road, "lan"))?;
        client.address("eth1", "10.9.0.2/24")?;
        road.address("lan", "10.9.0.254/24")?;
        server.route("default", "10.1.0.254")?;
        client.route("default", "10.9.0.254")?;
        for wan in ["home-wan", "road-wan"] {
            lab.set(wan, BOTH, layout.wan)?;
        }
        lab.set("cloud-eth0", BOTH, layout.cloud)?;
        if !layout.at_home {
            lab.set("client-eth0", BOTH, Policy::hole())?;
        }
        for (router, inside, nat) in [(&home, "10.1.0.1", layout.home), (&road, "10.9.0.2", layout.road)] {
            router.forward()?;
            router.translate("wan", inside, nat)?;
        }
        if layout.open {
            home.let_in("wan", PORT, "10.1.0.1")?;
            server.nft(&format!(
                "table ip closed {{\nchain in {{ type filter hook input priority 0; \
                 ip saddr 10.1.0.2 tcp dport {PORT} reject with tcp reset\n }}\n }}\n"
            ))?;
        }
        if stage.soak || std::env::var_os("LIFELINE_CAPTURE").is_some() {
            lab.capture(&client, "any")?;
        }
        lab.resolver(CLOUD_ADDRESS)?;
        println!("    TCP: {}", client.controller(CLOUD_ADDRESS)?);
        let names = name_server(&internet, layout)?;
        let folder = stage.folder.join("cloud");
        know_each_other(&folder)?;
        let cloud = start_cloud(stage, &internet, &folder, layout.named)?;
        let mut arguments = vec!["--cloud".to_owned(), format!("https://{}", layout.named)];
        arguments.extend(["--part-id", PART_ID, "--secret", PART_SECRET, "--ca-file"].map(str::to_owned));
        arguments.push(folder.join("ca.pem").display().to_string());
        arguments.extend(layout.arguments.iter().cloned());
        let options = MachineOptions { arguments, name: Some(NAME.to_owned()), ..MachineOptions::default() };
        let mut machine = machine_with(stage, &server, &options)?;
        // Clients trust the machine's own authority and the cloud's.
        let both = stage.folder.join("trusted.pem");
        fs::write(&both, [fs::read(machine.ca())?, fs::read(folder.join("ca.pem"))?].concat())?;
        machine.trusted = Some(both);
        let observer = Observer::new(&machine.observed());
        let named = layout.named;
        let town =
            Self { lab, client, server, home, road, internet, machine, observer, cloud, folder, named, _names: names };
        town.registered(1)?;
        Ok(town)
    }

    /// Kills the cloud and starts it again after this long.
    pub fn restart_cloud(&mut self, stage: &Stage, after: Duration) -> Outcome {
        self.cloud.kill()?;
        std::thread::sleep(after);
        self.cloud = start_cloud(stage, &self.internet, &self.folder, self.named)?;
        Ok(())
    }

    /// Waits until the machine has registered so many times.
    pub fn registered(&self, times: usize) -> Outcome {
        let until = Instant::now() + Duration::from_secs(12);
        while self.machine.log()?.matches("registered").count() < times {
            if Instant::now() > until {
                return Err(format!("the machine does not register:\n{}", self.machine.log()?).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Takes the internet away from home and road, silently; when, in Unix time.
    pub fn cut_internet(&self) -> Result<f64, Box<dyn std::error::Error>> {
        self.lab.set("home-wan", BOTH, Policy::hole())?;
        self.lab.set("road-wan", BOTH, Policy::hole())
    }

    /// From now on nothing passes on the road to or from the UDP ports that the client uses.
    pub fn close_ports(&self) -> Outcome {
        let read = |table: &str| fs::read_to_string(format!("/proc/thread-self/net/{table}"));
        let sockets = self.client.inside(|| Ok::<_, std::io::Error>([read("udp")?, read("udp6")?].concat()))??;
        // Second column: the address and port of our end, in hexadecimal. The tables' heads have none there.
        let local = sockets.lines().filter_map(|line| line.split_whitespace().nth(1)?.split_once(':'));
        let ports = local.map(|(_, port)| u16::from_str_radix(port, 16).map(|port| port.to_string()));
        let ports = ports.collect::<Result<Vec<String>, _>>()?.join(", ");
        self.road.nft(&format!(
            "table ip ports {{\nchain closed {{ type filter hook forward priority -10; \
             udp sport {{ {ports} }} drop\n udp dport {{ {ports} }} drop\n }}\n }}\n"
        ))
    }

    /// Where the machine's port is open to the internet, clients at home may have it from now on as well.
    pub fn let_in_at_home(&self) -> Outcome {
        self.server.nft("delete table ip closed\n")
    }

    /// No direct link can be made to the machine.
    pub fn refuse_direct(&self) -> Outcome {
        self.server.nft(&format!(
            "table ip closed {{\nchain in {{ type filter hook input priority 0; tcp dport {PORT} iifname != \"lo\" reject with tcp reset\n }}\n }}\n"
        ))
    }

    /// Nothing but what goes by way of the cloud's host passes between the routers: no pair but a relayed one works.
    pub fn relay_only(&self) -> Outcome {
        self.home.nft(&format!(
            "table ip relayed {{\nchain only {{ type filter hook forward priority -10; \
             meta l4proto udp iifname \"wan\" ip saddr != {CLOUD_ADDRESS} drop\n\
             meta l4proto udp oifname \"wan\" ip daddr != {CLOUD_ADDRESS} drop\n }}\n }}\n"
        ))
    }
}

/// Answers for the cloud's name, where the machine's port is open for its as well, and that there are no others.
fn name_server(host: &Host, layout: &Layout) -> Result<Running, Box<dyn std::error::Error>> {
    let mut command = Command::new("dnsmasq");
    command.args(["--keep-in-foreground", "--no-resolv", "--no-hosts", "--user=root", "--conf-file=/dev/null"]);
    if layout.open {
        command.arg(format!("--address=/{NAME}/{HOME_ADDRESS}"));
    }
    command
        .arg(format!("--address=/{}/{CLOUD_ADDRESS}", layout.named))
        .args(["--local=/viam.cloud/", "--local=/local/"]);
    host.start("dnsmasq", command.stdin(Stdio::null()).stderr(Stdio::null()))
}

/// The cloud's state as of a cloud that has known machine and user for long: the user's key is the machine's too.
fn know_each_other(folder: &Path) -> Outcome {
    fs::create_dir_all(folder)?;
    let state = serde_json::json!({
        "users": [{ "id": KEY_ID, "key": KEY, "machines": [NAME] }],
        "machines": [{ "id": PART_ID, "secret": PART_SECRET, "name": NAME }],
    });
    Ok(fs::write(folder.join("cloud.json"), state.to_string())?)
}

fn start_cloud(stage: &Stage, host: &Host, folder: &Path, named: &str) -> Result<Running, Box<dyn std::error::Error>> {
    let log = File::options().create(true).append(true).open(stage.folder.join("cloud.log"))?;
    let mut command = stage.built.command("sim-cloud");
    command.args(["--json", "--name", named, "--machine", NAME, "--bind", &format!("{CLOUD_ADDRESS}:443")]);
    command.arg("--state-dir").arg(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let mut cloud = host.start("sim-cloud", &mut command)?;
    cloud.lines()?.next().ok_or("sim-cloud ended before it said where it serves")??;
    Ok(cloud)
}
