//! The machine server, its Go client and the echo server, as published.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::legs::{WINDOW, drive_webrtc, stopped_when_killed};
use super::places::Clouded;
use super::{Row, isolated, python, record, rust_utils, tell};
use crate::Outcome;
use crate::processes::{Built, KEY, KEY_ID, Machine, MachineOptions, Running};

/// For how long the client's modules may be fetched: seconds on a line of ours, minutes on a slow one.
const FETCHING: Duration = Duration::from_secs(300);
/// For how long one program may be built, its modules fetched where they were not: four minutes of processor time where nothing is built yet.
const BUILDING: Duration = Duration::from_secs(900);

/// The client by `host:port`, by name on the local network and through a cloud, and stopped when it is killed; both servers as machines of our client's;
/// and how long published clients take to dial the machine server and ours.
pub fn go(root: &Path) -> Outcome {
    let _ = fs::remove_file(record(root, "go"));
    program(root)?;
    machine_program(root)?;
    echo_program(root)?;
    Built::build(root)?;
    // The other clients that dial the machine server and ours in turn. A row tells where one of them cannot be had.
    let others = [rust_utils::program(root).err(), python::environment(root).err()];
    others.iter().flatten().for_each(|why| println!("not to be had: {why}"));
    let rows = [isolated("go")?, isolated("go-machine")?, isolated("go-echo")?, isolated("in-turn")?].concat();
    tell(root, "go", "Go client, machine and echo server (unmodified)", &rows)
}

/// The client alone, as a client of our machine. A line where there is no Go that can build it, or no modules to be had.
pub fn go_client(root: &Path) -> Outcome {
    let _ = fs::remove_file(record(root, "go-client"));
    if let Err(why) = builds(root).and_then(|()| fetch(root)) {
        println!("not run: {why}");
        return Ok(());
    }
    program(root)?;
    Built::build(root)?;
    tell(root, "go-client", "Go client (unmodified)", &isolated("go")?)
}

/// Whether the installed Go, or one that it fetches for our module, is new enough for it. What distributions package often is not.
fn builds(root: &Path) -> Outcome {
    let module = root.join("interop/go");
    let text = fs::read_to_string(module.join("go.mod"))?;
    let wanted = text.lines().find_map(|line| line.strip_prefix("go ")).ok_or("go.mod names no version")?;
    let output = Command::new("go").args(["env", "GOVERSION"]).current_dir(module).output();
    let output = output.map_err(|e| format!("Go {wanted} or later is needed: {e}"))?;
    let found = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && new_enough(&found, wanted) {
        return Ok(());
    }
    Err(format!("Go {wanted} or later is needed, not {found:?} {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// Fetches the modules of the client's driver, and no others. That they cannot be had is no fault of ours; that it does not build then is.
fn fetch(root: &Path) -> Outcome {
    println!("fetching modules, 1.6 GB the first time ..");
    let mut list = Command::new("go");
    list.args(["list", "-deps", "-tags", "no_cgo", "."]).stdout(Stdio::null());
    within(FETCHING, "go list", list.current_dir(root.join("interop/go")))
}

/// Runs a command that is killed when it takes longer than this.
fn within(bound: Duration, name: &str, command: &mut Command) -> Outcome {
    match Running::start(name, command)?.wait(bound)? {
        Some(0) => Ok(()),
        code => Err(format!("{name} ended with {}", code.map_or("a signal".into(), |code| code.to_string())).into()),
    }
}

/// Compares what Go calls its version, such as `go1.26.8`, with that of a module's line.
fn new_enough(found: &str, wanted: &str) -> bool {
    let numbers = |version: &str| -> Vec<u32> {
        let digits = |part: &str| part.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
        version.trim_start_matches("go").split('.').map_while(digits).take(2).collect()
    };
    numbers(found) >= numbers(wanted)
}

/// The same in namespaces of its own.
pub fn inside(root: &Path, built: &Built, folder: &Path) -> Result<Vec<Row>, Box<dyn std::error::Error>> {
    let program = program(root)?;
    let clouded = Clouded::start(built, folder)?;
    let (machine, lone) = (&clouded.machine, &clouded.lone);
    let log = fs::File::create(folder.join("client.log"))?;
    let client = |address: &str, key_id: &str, key: &str, ca: &Path, leg: &str| {
        let mut command = Command::new(&program);
        command.args([address, key_id, key, leg]).env("SSL_CERT_FILE", ca).env("HOME", folder);
        let said = log.try_clone().map_or_else(|_| Stdio::null(), Stdio::from);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(said);
        command
    };
    let mut rows = Vec::new();
    let own = format!("{}:{}", lone.name, lone.port);
    // One that answers mDNS, and that no cloud knows.
    let near = Machine::start(built, &folder.join("near"), "near-main.loc1.viam.cloud", &MachineOptions::default())?;
    let near_ca = near.ca();
    let by_cloud = (machine.name.as_str(), clouded.key_id.as_str(), clouded.key.as_str(), clouded.ca.as_path());
    let lone_ca = lone.ca();
    for (row, at, (address, key_id, key, ca)) in [
        ("s83_the_go_sdk_connects_and_drives", lone, (own.as_str(), KEY_ID, KEY, lone_ca.as_path())),
        ("by name through mDNS", &near, (near.name.as_str(), KEY_ID, KEY, near_ca.as_path())),
        ("through a cloud", machine, by_cloud),
    ] {
        let driven = drive_webrtc(&mut client(address, key_id, key, ca, "drive"), at, |_| Ok(String::new()));
        rows.push(Row::of(row, driven.map_err(|e| format!("{row}: {e}"))?));
    }
    let (address, key_id, key, ca) = by_cloud;
    let stopped = stopped_when_killed(&mut client(address, key_id, key, ca, "hold"), machine, WINDOW)?;
    rows.push(Row::of("client killed: machine stops", stopped));
    Ok(rows)
}

/// The client's driver.
pub fn program(root: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    build(root, "go-client", ".")
}

/// The client that calls at a fixed pace.
pub fn openloop_program(root: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    build(root, "go-openloop", "./openloop")
}

/// The machine server.
pub fn machine_program(root: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    build(root, "go-machine", "go.viam.com/rdk/web/cmd/server")
}

/// The echo server.
pub fn echo_program(root: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    build(root, "go-echo", "go.viam.com/utils/rpc/examples/echo/server/cmd")
}

/// Builds a package once below `target/`. All modules together are large, three gigabytes, and take minutes.
fn build(root: &Path, name: &str, package: &str) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let (from, program) = (root.join("interop/go"), root.join("target/interop").join(name));
    fs::create_dir_all(root.join("target/interop"))?;
    println!("building {package} ..");
    let mut build = Command::new("go");
    build.args(["build", "-tags", "no_cgo", "-o"]).arg(&program).arg(package).env("CGO_ENABLED", "0");
    within(BUILDING, "go build", build.current_dir(from))?;
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::new_enough;

    #[test]
    fn a_go_is_new_enough_by_number_and_not_by_letter() {
        for found in ["go1.26", "go1.26.8", "go1.100.1", "go1.27rc1", "go2"] {
            assert!(new_enough(found, "1.26"), "{found}");
        }
        for found in ["go1.19.8", "go1.9", "go1", "", "devel"] {
            assert!(!new_enough(found, "1.26"), "{found}");
        }
    }
}
