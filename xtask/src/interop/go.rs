//! The Go client of the machine server, as published.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::places::{Clouded, pair};
use super::{Row, check, isolated, record, step, tell};
use crate::Outcome;
use crate::observer::{Observer, now};
use crate::processes::{Built, KEY, KEY_ID, Running};

/// As a client by `host:port` and through a cloud, and stopped when it is killed.
pub fn go(root: &Path) -> Outcome {
    let _ = fs::remove_file(record(root, "go"));
    program(root)?;
    Built::build(root)?;
    let rows = isolated("go")?;
    tell(root, "go", "Go client (unmodified)", &rows)
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
    let by_cloud = (machine.name.as_str(), clouded.key_id.as_str(), clouded.key.as_str(), clouded.ca.as_path());
    let lone_ca = lone.ca();
    for (row, at, (address, key_id, key, ca)) in [
        ("s83_the_go_sdk_connects_and_drives", lone, (own.as_str(), KEY_ID, KEY, lone_ca.as_path())),
        ("through a cloud", machine, by_cloud),
    ] {
        let since = now();
        let mut running = Running::start("the Go client", &mut client(address, key_id, key, ca, "drive"))?;
        let mut lines = running.lines()?;
        let connected = step(&mut lines, "connected").map_err(|e| format!("{row}: {e}"))?;
        let names = step(&mut lines, "resources")?;
        if !names["names"].as_array().is_some_and(|names| names.iter().any(|name| name == "base/base")) {
            return Err(format!("{row}: it does not list the base: {names}").into());
        }
        let driven = step(&mut lines, "driven")?;
        if driven["moving"] != true || driven["after"] != false {
            return Err(format!("{row}: the base did not move, or not stop: {driven}").into());
        }
        Observer::new(&at.observed()).moving("base/base", since, Duration::from_secs(2))?;
        step(&mut lines, "closed")?;
        running.wait(Duration::from_secs(10))?;
        let took = connected["seconds"].as_f64().unwrap_or_default() * 1e3;
        rows.push(Row::of(row, format!("ok, connected in {took:.0} ms, {}", pair(at, since)?)));
    }
    let (address, key_id, key, ca) = by_cloud;
    let observer = Observer::new(&machine.observed());
    let since = now();
    let mut running = Running::start("the Go client", &mut client(address, key_id, key, ca, "hold"))?;
    step(&mut running.lines()?, "moving")?;
    observer.moving("base/base", since, Duration::from_secs(2))?;
    std::thread::sleep(Duration::from_millis(1500));
    running.kill()?;
    let killed = now();
    let after = observer.stopped("base/base", killed, Duration::from_secs(4))?.t - killed;
    if after > 2.1 {
        return Err(format!("the base stopped {after:.2} s after the kill").into());
    }
    rows.push(Row::of("client killed: machine stops", format!("ok, {after:.2} s after the kill (window 2 s)")));
    Ok(rows)
}

/// The client's driver, built once below `target/`. Its modules are large: three gigabytes.
fn program(root: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let (from, program) = (root.join("interop/go"), root.join("target/interop/go-client"));
    fs::create_dir_all(root.join("target/interop"))?;
    let build = ["build", "-tags", "no_cgo", "-o"];
    check(Command::new("go").args(build).arg(&program).arg(".").current_dir(from).env("CGO_ENABLED", "0"))?;
    Ok(program)
}
