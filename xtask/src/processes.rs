//! Processes of a scenario: built once, started in folders of their own, ended with the scenario whatever happens.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Outcome;
use crate::lab::Host;

/// Key id and key of every machine that a scenario starts. Made up for tests; a UUID because stock clients want one.
pub const KEY_ID: &str = "7b0a6a0e-3c3f-4f5e-9d51-0d6a1c9f2b11";
/// See [`KEY_ID`].
pub const KEY: &str = "lifeline-end-to-end-key";

/// The binaries that scenarios run.
#[derive(Clone)]
pub struct Built {
    folder: PathBuf,
}

impl Built {
    /// Builds `sim-machine`, `lifeline` and the examples, printing what takes long.
    pub fn build(root: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        build(root, &["--examples"])?;
        Ok(Self::already(root))
    }

    /// Builds what is measured, and of the examples no other: each is linked and optimized as a whole, which takes minutes.
    pub fn build_release(root: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        build(root, &["--release", "--example", "openloop"])?;
        Ok(Self::released(root))
    }

    /// What was built before.
    pub fn already(root: &Path) -> Self {
        Self { folder: target(root).join("debug") }
    }

    /// What was built for measuring.
    pub fn released(root: &Path) -> Self {
        Self { folder: target(root).join("release") }
    }

    /// A command that runs one of the built programs.
    pub fn command(&self, name: &str) -> Command {
        Command::new(self.folder.join(name))
    }
}

fn build(root: &Path, how: &[&str]) -> Outcome {
    println!("building the machine and the tool ..");
    let status = Command::new(env!("CARGO"))
        .current_dir(root)
        .args(["build", "--quiet", "--package", "sim-machine", "--package", "robot-client", "--bins"])
        .args(["--features", "robot-client/cli,robot-client/remote"])
        .args(how)
        .status()?;
    if status.success() { Ok(()) } else { Err("the build failed".into()) }
}

fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

/// A running process; killed and reaped when dropped.
pub struct Running {
    child: Child,
    name: String,
}

impl Running {
    /// Starts `command`.
    pub fn start(name: &str, command: &mut Command) -> Result<Self, Box<dyn std::error::Error>> {
        let child = command.spawn().map_err(|e| format!("cannot start {name}: {e}"))?;
        Ok(Self::of(name, child))
    }

    /// A process that was started elsewhere.
    pub fn of(name: &str, child: Child) -> Self {
        Self { child, name: name.to_owned() }
    }

    /// Ends the process without goodbye, as a power cut would.
    pub fn kill(&mut self) -> Outcome {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Outcome {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).ok_or("no such process")?;
        kill_process(pid, signal)?;
        Ok(())
    }

    /// Leaves it, with all its threads, only these processors, such as `0` or `1-3`.
    pub fn pin(&self, processors: &str) -> Outcome {
        let output =
            Command::new("taskset").args(["-a", "-c", "-p", processors, &self.child.id().to_string()]).output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("taskset {}: {}", self.name, String::from_utf8_lossy(&output.stderr)).into())
    }

    /// Waits for the process's end, for at most `bound`; its exit code, or an error that names it.
    pub fn wait(&mut self, bound: Duration) -> Result<Option<i32>, Box<dyn std::error::Error>> {
        let until = Instant::now() + bound;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code());
            }
            if Instant::now() > until {
                return Err(format!("{} still runs after {bound:?}", self.name).into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Memory that the process holds, in megabytes (VmRSS).
    pub fn resident_megabytes(&self) -> Result<u64, Box<dyn std::error::Error>> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).ok_or("no VmRSS line")?;
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kilobytes / 1024)
    }

    /// Time that its threads have run on a processor, in seconds, to a hundredth.
    pub fn processor_seconds(&self) -> Result<f64, Box<dyn std::error::Error>> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name before the last parenthesis may have spaces; user and system time are the 12th and 13th word after it.
        let (_, rest) = stat.rsplit_once(')').ok_or("no name in stat")?;
        let mut words = rest.split_whitespace().skip(11);
        let mut ticks = || words.next().and_then(|word| word.parse::<f64>().ok()).ok_or("no times in stat");
        Ok((ticks()? + ticks()?) / rustix::param::clock_ticks_per_second() as f64)
    }

    /// The process's standard input. Taken once.
    pub fn input(&mut self) -> Result<ChildStdin, Box<dyn std::error::Error>> {
        self.child.stdin.take().ok_or_else(|| "standard input was not piped".into())
    }

    /// The process's standard output, line by line. Taken once.
    pub fn lines(&mut self) -> Result<impl Iterator<Item = io::Result<String>> + use<>, Box<dyn std::error::Error>> {
        let out = self.child.stdout.take().ok_or("standard output was not piped")?;
        Ok(BufReader::new(out).lines())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A simulated machine as a process, with a folder for its state, its observer's file and its log.
pub struct Machine {
    /// The process.
    pub process: Running,
    /// Where it serves.
    pub port: u16,
    /// Its name, `<machine>.<location>.viam.cloud`.
    pub name: String,
    /// What clients are to trust, where that is not its own certificate alone.
    pub trusted: Option<PathBuf>,
    folder: PathBuf,
}

/// How a scenario's machine differs from the default.
#[derive(Clone, Default)]
pub struct MachineOptions {
    /// Arguments beyond name, address, configuration, state and observer.
    pub arguments: Vec<String>,
    /// The `components` of its configuration; the default machine's where `None`.
    pub components: Option<serde_json::Value>,
    /// The window, such as `500ms`; 2 s where `None`.
    pub window: Option<String>,
    /// Without TLS and without keys.
    pub open: bool,
    /// Its name; one that no other run has where `None`.
    pub name: Option<String>,
    /// The port; a free one where `None`.
    pub port: Option<u16>,
    /// The host of a lab that it runs on; this computer where `None`.
    pub host: Option<Host>,
}

impl Machine {
    /// Starts a machine in `folder` and waits until it accepts connections, for at most 20 s.
    pub fn start(
        built: &Built,
        folder: &Path,
        name: &str,
        options: &MachineOptions,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        fs::create_dir_all(folder)?;
        let port = options.port.map_or_else(free_port, Ok)?;
        let config = folder.join("machine.json");
        fs::write(&config, serde_json::to_vec_pretty(&configuration(name, port, options))?)?;
        let log = File::create(folder.join("machine.log"))?;
        let mut command = built.command("sim-machine");
        command
            .arg("--config")
            .arg(&config)
            .arg("--state-dir")
            .arg(folder.join("state"))
            .arg("--observe")
            .arg(folder.join("observed.jsonl"))
            .arg("--calls")
            .arg(folder.join("calls.jsonl"))
            .args(&options.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let process = match &options.host {
            None => Running::start("sim-machine", &mut command)?,
            Some(host) => host.start("sim-machine", &mut command)?,
        };
        let mut machine = Self { process, port, name: name.to_owned(), trusted: None, folder: folder.to_path_buf() };
        machine.wait_until_it_serves(options.host.as_ref())?;
        Ok(machine)
    }

    fn wait_until_it_serves(&mut self, host: Option<&Host>) -> Outcome {
        let port = self.port;
        let refused = || TcpStream::connect(("127.0.0.1", port)).is_err();
        let until = Instant::now() + Duration::from_secs(20);
        while host.map_or_else(|| Ok(refused()), |host| host.inside(refused))? {
            if Instant::now() > until || self.process.child.try_wait()?.is_some() {
                let log = fs::read_to_string(self.folder.join("machine.log")).unwrap_or_default();
                return Err(format!("the machine does not serve on port {}:\n{log}", self.port).into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The certificate that clients are to trust.
    pub fn ca(&self) -> PathBuf {
        self.folder.join("state/ca.pem")
    }

    /// What it has said so far.
    pub fn log(&self) -> io::Result<String> {
        fs::read_to_string(self.folder.join("machine.log"))
    }

    /// The file of what really moved.
    pub fn observed(&self) -> PathBuf {
        self.folder.join("observed.jsonl")
    }

    /// The calls that arrived, a JSON object each, in their order.
    pub fn calls(&self) -> Result<Vec<serde_json::Value>, Box<dyn std::error::Error>> {
        let text = fs::read_to_string(self.folder.join("calls.jsonl"))?;
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        Ok(whole.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
    }

    /// The configuration file, for scenarios that change it.
    pub fn config(&self) -> PathBuf {
        self.folder.join("machine.json")
    }

    /// Sets the environment that a client of this machine needs.
    pub fn credentials(&self, command: &mut Command) {
        command
            .env("VIAM_API_KEY_ID", KEY_ID)
            .env("VIAM_API_KEY", KEY)
            .env("LIFELINE_CA_FILE", self.trusted.clone().unwrap_or_else(|| self.ca()))
            .env("XDG_CACHE_HOME", self.folder.join("cache"))
            .env("XDG_STATE_HOME", self.folder.join("client-state"));
    }

    /// Runs the tool against this machine and returns what it printed and how it ended.
    pub fn lifeline(&self, built: &Built, arguments: &[&str]) -> io::Result<Output> {
        let mut command = built.command("lifeline");
        self.credentials(&mut command);
        command.args(arguments).stdin(Stdio::null()).output()
    }
}

fn configuration(name: &str, port: u16, options: &MachineOptions) -> serde_json::Value {
    let components = options.components.clone().unwrap_or_else(default_components);
    let mut network = serde_json::json!({ "bind_address": format!("0.0.0.0:{port}"), "fqdn": name });
    if let Some(window) = &options.window {
        network["sessions"] = serde_json::json!({ "heartbeat_window": window });
    }
    if options.open {
        network["no_tls"] = true.into();
        return serde_json::json!({ "components": components, "network": network });
    }
    serde_json::json!({
        "components": components,
        "network": network,
        "auth": { "handlers": [{ "type": "api-key", "config": { KEY_ID: KEY } }] },
    })
}

/// A base, two motors, an arm and the sensors around them.
pub fn default_components() -> serde_json::Value {
    let row = |name: &str, api: &str| serde_json::json!({ "name": name, "type": api, "model": "fake" });
    serde_json::Value::Array(vec![
        row("base", "base"),
        row("left", "motor"),
        row("right", "motor"),
        row("arm", "arm"),
        row("odometry", "movement_sensor"),
        row("camera", "camera"),
    ])
}

/// A TCP port that was free a moment ago.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
