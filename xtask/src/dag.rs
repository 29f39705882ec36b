//! `cargo xtask dag`: holds the crates' real dependencies against the picture in ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use crate::Outcome;

/// Which of our crates each of our crates may import in its library and binaries, and which more in tests and benches.
///
/// The rows are the layers of ARCHITECTURE.md from the bottom up. `dialer` never hears of sessions, `machine-host` never of
/// dialling; `xtask` spawns built binaries and depends on none of our crates.
const PICTURE: [(&str, &[&str], &[&str]); 9] = [
    ("session-core", &[], &[]),
    ("machine-api", &[], &[]),
    ("discovery", &[], &[]),
    ("transport", &["machine-api"], &["machine-api"]),
    ("dialer", &["machine-api", "transport", "discovery"], &[]),
    // machine-host by its feature `remote` only: a machine that is a client of another.
    ("robot-client", &["machine-api", "session-core", "transport", "discovery", "dialer", "machine-host"], &[]),
    ("machine-host", &["machine-api", "session-core", "transport", "discovery"], &[]),
    ("sim-machine", &["machine-api", "machine-host"], &["robot-client", "session-core", "transport", "discovery"]),
    ("xtask", &[], &[]),
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
    path: Option<String>,
}

/// Fails with every edge that the picture does not have; prints the edges there are.
pub fn run(root: &Path) -> Outcome {
    let output = Command::new(env!("CARGO"))
        .current_dir(root)
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout)?;
    let allowed: BTreeMap<_, _> = PICTURE.iter().map(|(name, normal, dev)| (*name, (*normal, *dev))).collect();
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        let Some((normal, dev)) = allowed.get(package.name.as_str()) else {
            wrong.push(format!("{} is a crate that the picture does not know", package.name));
            continue;
        };
        let ours: BTreeSet<_> = package
            .dependencies
            .iter()
            .filter(|d| d.path.is_some())
            .map(|d| (d.name.as_str(), d.kind.as_deref()))
            .collect();
        for (name, kind) in &ours {
            let may = normal.contains(name) || (*kind == Some("dev") && dev.contains(name));
            if !may {
                wrong.push(format!(
                    "{} imports {name}{}",
                    package.name,
                    kind.map(|k| format!(" ({k})")).unwrap_or_default()
                ));
            }
        }
        let names: Vec<_> = ours
            .iter()
            .map(|(name, kind)| if *kind == Some("dev") { format!("({name})") } else { (*name).to_owned() })
            .collect();
        println!("{:>14} -> {}", package.name, if names.is_empty() { "-".to_owned() } else { names.join(", ") });
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(format!("imports that the picture in ARCHITECTURE.md forbids:\n  {}", wrong.join("\n  ")).into())
    }
}
