//! Networks made for one scenario: hosts in namespaces of their own, switches, routers, address translation, and cables that lose, delay and
//! swallow packets.
//!
//! A lab lives in a process of its own with its own network, mount and process namespaces. Nothing of it is visible outside, and the kernel
//! takes all of it away with that process, also when the runner was killed.

pub mod emulator;
mod hosts;
mod nat;
pub mod policy;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

pub use hosts::{BOTH, Host, Lab, WAYS, run};
pub use nat::Nat;

use crate::Outcome;

/// What has to be installed, with the package that brings it.
const TOOLS: [(&str, &str); 5] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
];

/// How to make namespaces here: as root, or as root of a user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privileges {
    /// This process may do it.
    Root,
    /// In a user namespace.
    User,
}

/// Finds out whether labs can be made here.
///
/// # Errors
/// What is missing, in one line.
pub fn privileges() -> Result<Privileges, String> {
    for (tool, package) in TOOLS {
        if Command::new(tool).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            return Err(format!("{tool} is missing (package {package})"));
        }
    }
    let trial = "mount -t tmpfs none /run && ip netns add a && ip -n a tuntap add dev t mode tap \
                 && nsenter --net=/run/netns/a nft list ruleset";
    let mut said = String::new();
    for kind in [Privileges::Root, Privileges::User] {
        let mut command = kind.inside();
        match command.args(["sh", "-c", trial]).stdin(Stdio::null()).output() {
            Ok(output) if output.status.success() => return Ok(kind),
            Ok(output) => said = String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => said = error.to_string(),
        }
    }
    Err(format!("neither root's nor a user's namespaces can be made here: {said}"))
}

impl Privileges {
    /// The beginning of a command that runs in fresh namespaces and dies, with all its children, when this process does.
    fn inside(self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc"]);
        command.arg("--kill-child=KILL");
        if self == Self::User {
            command.args(["--user", "--map-root-user"]);
        }
        command
    }

    /// Runs this program again, inside, with these arguments. Its output is ours.
    pub fn again(self, arguments: &[&str], folder: &Path) -> Outcome {
        let status = self.inside().arg(own_copy()?).args(arguments).arg(folder).stdin(Stdio::null()).status()?;
        // What went wrong is in the folder; nothing there means that the process was killed.
        let said = std::fs::read_to_string(folder.join("error.txt")).unwrap_or_else(|_| status.to_string());
        if status.success() { Ok(()) } else { Err(said.into()) }
    }
}

/// A copy of this program that stays. Cargo puts a new file in this one's place whenever it builds the tasks with other features, and what
/// runs from the old file can no longer start itself by name.
fn own_copy() -> std::io::Result<&'static Path> {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    if let Some(copy) = COPY.get() {
        return Ok(copy);
    }
    let folder = crate::root().join("target").join("lab");
    std::fs::create_dir_all(&folder)?;
    let (fresh, copy) = (folder.join(format!("xtask-{}", std::process::id())), folder.join("xtask"));
    // The link of this process leads to its file, also where that has lost its name.
    std::fs::copy("/proc/self/exe", &fresh)?;
    std::fs::rename(&fresh, &copy)?;
    Ok(COPY.get_or_init(|| copy))
}
