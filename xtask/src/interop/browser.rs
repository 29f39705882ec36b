//! The TypeScript SDK from npm, in headless Chromium.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::places::{Clouded, pair};
use super::{Row, check, isolated, record, step, tell};
use crate::Outcome;
use crate::observer::{Observer, now};
use crate::processes::{Built, Running};

/// Names under which Chromium is installed.
const CHROMIUM: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// Through a cloud: connected, listed, driven, looked at, through a restart of the machine, and stopped when the browser is killed.
pub fn browser(root: &Path) -> Outcome {
    let _ = fs::remove_file(record(root, "browser"));
    chromium()?;
    environment(root)?;
    Built::build(root)?;
    let rows = isolated("browser")?;
    tell(root, "browser", "TypeScript SDK (unmodified) in Chromium", &rows)
}

/// The same in namespaces of its own, where all of Chromium's processes end with this one.
pub fn inside(root: &Path, built: &Built, folder: &Path) -> Result<Vec<Row>, Box<dyn std::error::Error>> {
    let mut clouded = Clouded::start(built, folder)?;
    let conf = serde_json::json!({
        "host": clouded.machine.name,
        "signalingAddress": clouded.url(),
        "id": clouded.key_id,
        "key": clouded.key,
    });
    let since = now();
    let mut command = Command::new("node");
    command
        .arg(root.join("interop/browser/run.mjs"))
        .arg(environment(root)?)
        .arg(chromium()?)
        .arg(folder.join("profile"))
        .arg(conf.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(folder.join("browser.log"))?);
    let mut running = Running::start("Chromium", &mut command)?;
    let mut lines = running.lines()?;
    let browser = step(&mut lines, "browser")?["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    let browser = browser.and_then(Pid::from_raw).ok_or("Chromium has no process")?;

    let connected = step(&mut lines, "connected")?;
    let mut rows = Vec::new();
    let driven = step(&mut lines, "driven")?;
    if driven["moving"] != true || driven["after"] != false {
        return Err(format!("the base did not move, or not stop: {driven}").into());
    }
    Observer::new(&clouded.machine.observed()).moving("base/base", since, Duration::from_secs(5))?;
    let over = pair(&clouded.machine, since)?;
    needs_nothing(&clouded, since)?;
    let took = connected["seconds"].as_f64().unwrap_or_default() * 1e3;
    rows.push(Row::of(
        "s84_the_typescript_sdk_connects_and_drives",
        format!("ok, connected in {took:.0} ms, without a session, {over}"),
    ));

    let names = step(&mut lines, "resources")?;
    let count = names["names"].as_array().map_or(0, Vec::len);
    if !names["names"].as_array().is_some_and(|names| names.iter().any(|n| n == "camera/camera")) {
        return Err(format!("the SDK does not list the camera: {names}").into());
    }
    rows.push(Row::of("lists resources", format!("ok, {count}")));

    let images = step(&mut lines, "images")?;
    let (bytes, mime) = (images["images"][0]["bytes"].as_u64().unwrap_or(0), &images["images"][0]["mime"]);
    if bytes < 100 {
        return Err(format!("the SDK got no image: {images}").into());
    }
    rows.push(Row::of("gets a camera's image", format!("ok, {bytes} bytes of {mime}")));

    clouded.restart(built, folder)?;
    let back = step(&mut lines, "back")?["seconds"].as_f64().unwrap_or_default();
    rows.push(Row::of("finds a machine again that was restarted", format!("ok, {back:.1} s after it noticed")));

    step(&mut lines, "moving")?;
    let observer = Observer::new(&clouded.machine.observed());
    kill_process(browser, Signal::KILL)?;
    let killed = now();
    let stopped = observer.stopped("base/base", killed, Duration::from_secs(60))?;
    let how = format!("ok, the base stopped {:.2} s after the kill", stopped.t - killed);
    rows.push(Row::of("browser killed: machine stops", how));
    Ok(rows)
}

/// That it connected and drove without a session and before it called anything of the robot's.
fn needs_nothing(clouded: &Clouded, since: f64) -> Outcome {
    let calls = clouded.machine.calls()?;
    let recent = |call: &&serde_json::Value| call["t"].as_f64().is_some_and(|t| t >= since) && call["pair"].is_string();
    let mut recent = calls.iter().filter(recent);
    let drives = |call: &serde_json::Value| call["call"] == "/viam.component.base.v1.BaseService/SetPower";
    let drive = recent.find(|call| drives(call)).ok_or("the base's SetPower did not arrive")?;
    if drive["session"].is_null() { Ok(()) } else { Err(format!("it has a session after all: {drive}").into()) }
}

fn chromium() -> Result<&'static str, Box<dyn std::error::Error>> {
    let there = |name: &&str| {
        let mut command = Command::new(name);
        command
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    CHROMIUM.into_iter().find(there).ok_or_else(|| "Chromium is missing (package chromium)".into())
}

/// The pinned SDK, installed once below `target/`; the file of it that a page loads.
fn environment(root: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let (from, folder) = (root.join("interop/browser"), root.join("target/interop/browser-env"));
    let wanted = fs::read_to_string(from.join("package-lock.json"))?;
    let marker = folder.join("installed.json");
    if fs::read_to_string(&marker).ok().as_deref() != Some(&wanted) {
        println!("installing the SDK ..");
        fs::create_dir_all(&folder)?;
        for file in ["package.json", "package-lock.json"] {
            fs::copy(from.join(file), folder.join(file))?;
        }
        check(Command::new("npm").args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&folder))?;
        fs::write(&marker, wanted)?;
    }
    Ok(folder.join("node_modules/@viamrobotics/sdk/dist/main.umd.js"))
}
