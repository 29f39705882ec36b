//! The published Rust crate that the SDKs of other languages dial with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::legs::{dials, drive, drive_webrtc, spread, stopped_when_killed, times};
use super::places::Clouded;
use super::{Row, check, isolated, record, step, tell};
use crate::Outcome;
use crate::processes::{Built, KEY, KEY_ID};

/// A peer that answers no checks is given up after 4 s; its next check is a second away at most, and what it held stops in its turn.
const SILENCE: f64 = 5.5;

/// As a client by `host:port`, over the machine's own signaling and through a cloud, and stopped when it is killed.
pub fn rust_utils(root: &Path) -> Outcome {
    let _ = fs::remove_file(record(root, "rust-utils"));
    program(root)?;
    Built::build(root)?;
    let rows = isolated("rust-utils")?;
    tell(root, "rust-utils", "viam-rust-utils (unmodified)", &rows)
}

/// The same in namespaces of its own.
pub fn inside(root: &Path, built: &Built, folder: &Path) -> Result<Vec<Row>, Box<dyn std::error::Error>> {
    let program = program(root)?;
    let clouded = Clouded::start(built, folder)?;
    let (machine, lone) = (&clouded.machine, &clouded.lone);
    let log = fs::File::create(folder.join("client.log"))?;
    let client = |(address, key_id, key, ca): (&str, &str, &str, &Path), leg: &[&str]| {
        let mut command = Command::new(&program);
        command.args([address, key_id, key]).args(leg).env("SSL_CERT_FILE", ca);
        let said = log.try_clone().map_or_else(|_| Stdio::null(), Stdio::from);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(said);
        command
    };
    let (own, lone_ca) = (format!("{}:{}", lone.name, lone.port), lone.ca());
    let own = (own.as_str(), KEY_ID, KEY, lone_ca.as_path());
    let named = (machine.name.as_str(), clouded.key_id.as_str(), clouded.key.as_str(), clouded.ca.as_path());
    let calls = |lines: &mut dyn Iterator<Item = std::io::Result<String>>| {
        let (median, worst) = spread(&times(&step(&mut &mut *lines, "called")?["seconds"]))?;
        Ok(format!(", 1000 calls of {:.2} ms, at most {:.0} ms", median * 1e3, worst * 1e3))
    };
    let mut rows = vec![
        Row::of("client, host:port", drive(&mut client(own, &["drive", "direct"]), lone, calls)?),
        Row::of("WebRTC, the machine's own signaling", drive_webrtc(&mut client(own, &["drive"]), lone, calls)?),
        Row::of("WebRTC, through a cloud", drive_webrtc(&mut client(named, &["drive"]), machine, calls)?),
    ];
    // It has no sessions: the connection's end is what stops the base, and over WebRTC its silence.
    for (row, leg, within) in [
        ("client killed: machine stops", &["hold", "direct"][..], 0.0..0.5),
        ("WebRTC, client killed: machine stops", &["hold"], 0.0..SILENCE),
    ] {
        let stopped = stopped_when_killed(&mut client(own, leg), lone, within);
        rows.push(Row::of(row, stopped.map_err(|e| format!("{row}: {e}"))?));
    }
    for (row, to, leg) in [
        ("20 dials, host:port", own, &["dials", "direct"][..]),
        ("WebRTC, 20 dials, the machine's own signaling", own, &["dials"]),
        ("WebRTC, 20 dials through a cloud", named, &["dials"]),
    ] {
        rows.push(Row::of(row, dials(&mut client(to, leg)).map_err(|e| format!("{row}: {e}"))?));
    }
    Ok(rows)
}

/// The client's program, built below `target/`.
pub fn program(root: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let target = root.join("target/interop/rust-utils");
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--quiet", "--release", "--locked", "--target-dir"]).arg(&target);
    check(command.current_dir(root.join("interop/rust-utils")).env_remove("CARGO_TARGET_DIR"))?;
    Ok(target.join("release/rust-utils-client"))
}
