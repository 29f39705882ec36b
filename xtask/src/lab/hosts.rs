//! Hosts, switches and cables.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::emulator::{End, Order, Report, enter};
use super::policy::Policy;
use crate::Outcome;
use crate::processes::Running;

/// Both directions of a cable.
pub const BOTH: &[usize] = &[0, 1];
/// One direction each: from a cable's first end, and back to it.
pub const WAYS: [&[usize]; 2] = [&[0], &[1]];

/// One network. Dropping it ends the emulator; the rest goes with the process's namespaces.
pub struct Lab {
    emulator: RefCell<Emulator>,
    folder: PathBuf,
    seed: u64,
    captures: RefCell<Vec<Running>>,
}

struct Emulator {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    cables: u64,
}

/// A host, switch or router: a network namespace.
#[derive(Clone, Debug)]
pub struct Host {
    name: String,
    namespace: PathBuf,
}

impl Lab {
    /// An empty network. Only in a process that [`super::Privileges::again`] started.
    pub fn new(folder: &Path, seed: u64) -> Result<Self, Box<dyn std::error::Error>> {
        run("mount -t tmpfs none /run")?;
        let program = std::env::current_exe()?;
        // The emulator goes before everything else where that is allowed; the report tells whether it was in time.
        let urgent = Command::new("chrt").args(["-f", "10", "true"]).stderr(Stdio::null()).status();
        let mut command = if urgent.is_ok_and(|status| status.success()) {
            let mut command = Command::new("chrt");
            command.args(["-f", "10"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        let mut child = command.arg("link-emulator").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let orders = child.stdin.take().ok_or("the emulator has no input")?;
        let answers = BufReader::new(child.stdout.take().ok_or("the emulator has no output")?);
        let emulator = RefCell::new(Emulator { child, orders, answers, cables: 0 });
        Ok(Self { emulator, folder: folder.to_path_buf(), seed, captures: RefCell::default() })
    }

    /// A host without any interface but loopback.
    pub fn host(&self, name: &str) -> Result<Host, Box<dyn std::error::Error>> {
        run(&format!("ip netns add {name}"))?;
        let host = Host { name: name.to_owned(), namespace: PathBuf::from("/run/netns").join(name) };
        // Addresses of IPv6 are used at once: nobody else has them here.
        host.sysctl("net/ipv6/conf/all/accept_dad", "0")?;
        host.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        host.ip("link set lo up")?;
        Ok(host)
    }

    /// A switch that floods multicast.
    pub fn switch(&self, name: &str) -> Result<Host, Box<dyn std::error::Error>> {
        let switch = self.host(name)?;
        switch.ip("link add br0 type bridge mcast_snooping 0 forward_delay 0")?;
        switch.ip("link set br0 up")?;
        Ok(switch)
    }

    /// A cable with an emulated link in it: a device in each host, up, without addresses.
    pub fn cable(&self, name: &str, from: (&Host, &str), to: (&Host, &str)) -> Outcome {
        let ends =
            [from, to].map(|(host, device)| End { namespace: host.namespace.clone(), device: device.to_owned() });
        let seed = {
            let mut emulator = self.emulator.borrow_mut();
            emulator.cables += 1;
            self.seed.wrapping_mul(1_000_003).wrapping_add(emulator.cables)
        };
        self.order(&Order::Cable { name: name.to_owned(), ends, seed })?;
        for (host, device) in [from, to] {
            host.ip(&format!("link set {device} up"))?;
        }
        Ok(())
    }

    /// A cable from a host's device, with an address, to a switch.
    pub fn plug(&self, host: &Host, device: &str, address: &str, switch: &Host) -> Outcome {
        let port = format!("{}{device}", host.name.chars().take(8).collect::<String>());
        self.cable(&format!("{}-{device}", host.name), (host, device), (switch, &port))?;
        switch.ip(&format!("link set {port} master br0"))?;
        host.address(device, address)
    }

    /// Every host asks this server for names.
    pub fn resolver(&self, address: &str) -> Outcome {
        let file = self.folder.join("resolv.conf");
        fs::write(&file, format!("nameserver {address}\noptions timeout:2 attempts:1\n"))?;
        // What is often a link leads out of /run, which is ours.
        let real = fs::canonicalize("/etc/resolv.conf")?;
        run(&format!("mount --bind {} {}", file.display(), real.display()))
    }

    /// Changes directions of a cable, from now on. Returns when, in Unix time.
    pub fn set(&self, cable: &str, ways: &[usize], policy: Policy) -> Result<f64, Box<dyn std::error::Error>> {
        let mut at = 0.0;
        for way in ways {
            let order = Order::Set { cable: cable.to_owned(), way: *way, policy };
            at = self.order(&order)?.as_f64().ok_or("the emulator told no time")?;
        }
        Ok(at)
    }

    /// What the emulator carried since the last report.
    pub fn report(&self) -> Result<Report, Box<dyn std::error::Error>> {
        Ok(serde_json::from_value(self.order(&Order::Report)?)?)
    }

    /// Writes what a host's device sees into the scenario's folder, where tcpdump is installed.
    pub fn capture(&self, host: &Host, device: &str) -> Outcome {
        let file = self.folder.join(format!("{}-{device}.pcap", host.name));
        let mut command = Command::new("tcpdump");
        command.args(["-i", device, "-s", "200", "-U", "-Z", "root", "-w"]).arg(file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Ok(child) = host.start("tcpdump", &mut command) {
            self.captures.borrow_mut().push(child);
        }
        Ok(())
    }

    fn order(&self, order: &Order) -> Result<serde_json::Value, Box<dyn std::error::Error>> {
        let mut emulator = self.emulator.borrow_mut();
        writeln!(emulator.orders, "{}", serde_json::to_string(order)?)?;
        let mut line = String::new();
        emulator.answers.read_line(&mut line)?;
        let mut answer: serde_json::Value =
            serde_json::from_str(&line).map_err(|e| format!("the emulator said {line:?}: {e}"))?;
        match answer["error"].as_str() {
            Some(error) => Err(format!("the emulator: {error}").into()),
            None => Ok(answer["ok"].take()),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let emulator = self.emulator.get_mut();
        // It may have died already; then there is nothing left to do.
        let _ = emulator.child.kill();
        let _ = emulator.child.wait();
    }
}

impl Host {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` for this host.
    pub fn ip(&self, arguments: &str) -> Outcome {
        run(&format!("ip -n {} {arguments}", self.name))
    }

    /// Loads a table of nftables.
    pub fn nft(&self, rules: &str) -> Outcome {
        let mut command = Command::new("nft");
        command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = self.inside(|| command.spawn())??;
        child.stdin.take().ok_or("nft has no input")?.write_all(rules.as_bytes())?;
        let output = child.wait_with_output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("nft on {}: {}", self.name, String::from_utf8_lossy(&output.stderr)).into())
    }

    /// Gives a device an address such as `10.0.0.1/24`. TCP over it is controlled by cubic: namespaces inherit this computer's own choice, and
    /// may not make one, but a route may.
    pub fn address(&self, device: &str, address: &str) -> Outcome {
        let (own, length) = address.split_once('/').ok_or("an address needs a prefix length")?;
        let bits = 32 - length.parse::<u32>()?.min(32);
        let own_bits = own.parse::<std::net::Ipv4Addr>()?.to_bits();
        let prefix = std::net::Ipv4Addr::from_bits(own_bits.checked_shr(bits).map_or(0, |high| high << bits));
        self.ip(&format!("addr add {address} dev {device} brd + noprefixroute"))?;
        self.ip(&format!("route add {prefix}/{length} dev {device} proto kernel scope link src {own} congctl cubic"))
    }

    /// A route by way of a neighbour.
    pub fn route(&self, to: &str, via: &str) -> Outcome {
        self.ip(&format!("route add {to} via {via} congctl cubic"))
    }

    /// Forwards packets between its devices.
    pub fn forward(&self) -> Outcome {
        self.sysctl("net/ipv4/ip_forward", "1")
    }

    /// Sets a value below `/proc/sys`.
    pub fn sysctl(&self, name: &str, value: &str) -> Outcome {
        self.inside(|| fs::write(Path::new("/proc/sys").join(name), value))?
            .map_err(|e| format!("cannot set {name} on {}: {e}", self.name).into())
    }

    /// Runs something, such as opening a socket, in this host's network.
    pub fn inside<T: Send>(&self, what: impl FnOnce() -> T + Send) -> Result<T, Box<dyn std::error::Error>> {
        let done = std::thread::scope(|scope| {
            let there = scope.spawn(|| enter(&self.namespace).map(|()| what()));
            there.join()
        });
        Ok(done.map_err(|_| "a thread of the lab panicked")??)
    }

    /// Starts a program on this host.
    pub fn start(&self, name: &str, command: &mut Command) -> Result<Running, Box<dyn std::error::Error>> {
        let name = format!("{name} on {}", self.name);
        let child = self.inside(|| command.spawn())?.map_err(|e| format!("cannot start {name}: {e}"))?;
        Ok(Running::of(&name, child))
    }

    /// Runs a program on this host to its end.
    pub fn output(&self, command: &mut Command) -> Result<std::process::Output, Box<dyn std::error::Error>> {
        Ok(self.inside(|| command.stdin(Stdio::null()).output())??)
    }

    /// The controller of TCP that a connection from here to an address gets.
    pub fn controller(&self, address: &str) -> Result<String, Box<dyn std::error::Error>> {
        let output = Command::new("ip").args(["-n", &self.name, "route", "get", address]).output()?;
        let route = String::from_utf8_lossy(&output.stdout).into_owned();
        let own = File::open("/proc/sys/net/ipv4/tcp_congestion_control").and_then(std::io::read_to_string)?;
        let pinned = route.split_whitespace().skip_while(|word| *word != "congctl").nth(1);
        Ok(pinned.map_or(own.trim().to_owned(), str::to_owned))
    }
}

/// Runs a command whose words have no spaces in them.
pub fn run(line: &str) -> Outcome {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().ok_or("no command")?).args(words).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
}
