//! Addresses that worked before: tried at once, while the questions are still on their way.
//!
//! They are candidates like any other and never trusted: the machine proves its name over TLS, and in clear they are not used at all. One
//! small file for each machine, readable by its user alone.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::{MachineName, Surroundings};

/// Addresses kept of one machine.
const KEPT: usize = 4;
/// An address that was not used for this long is forgotten.
const LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// An address that is used again and again is written down again this often.
const RENEWED: Duration = Duration::from_secs(3600);
/// Failures in a row after which an address is forgotten.
const FAILURES: u32 = 3;
/// The largest file that is read: ours are below 1 KiB.
const MAX_FILE: u64 = 64 << 10;

/// Remembers addresses in a folder. Clones share it, processes too: the last writer wins, and nothing worse happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    folder: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    address: SocketAddr,
    /// The network it was learned on: our prefix and the way out of it. Elsewhere the same address is somebody else's.
    network: String,
    /// Unix time of the last link, in seconds.
    used: u64,
    failures: u32,
}

impl Memory {
    /// The user's: `$XDG_CACHE_HOME/lifeline`, else `~/.cache/lifeline`. `None` for users without a home.
    pub fn user() -> Option<Self> {
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
        Some(Self { folder: cache.join("lifeline") })
    }

    /// One in a folder of its own.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Whether anything is remembered of a machine.
    pub fn knows(&self, name: &MachineName) -> bool {
        self.file(name).exists()
    }

    /// Where a machine was reached before, on the network that this computer is on now; the last used first.
    pub fn recall(&self, name: &MachineName, here: &Surroundings) -> Vec<SocketAddr> {
        let known =
            self.read(name).into_iter().filter(|k| here.network_of(k.address.ip()).as_ref() == Some(&k.network));
        known.map(|k| k.address).collect()
    }

    /// A link to a machine that has proven its name was made there.
    pub fn learned(&self, name: &MachineName, address: SocketAddr, here: &Surroundings) {
        let mut known = self.read(name);
        let fresh = |k: &Known| k.address == address && k.failures == 0 && k.used + RENEWED.as_secs() > unix_time();
        if known.first().is_some_and(fresh) {
            return;
        }
        let Some(network) = here.network_of(address.ip()) else { return };
        known.retain(|k| k.address != address);
        known.insert(0, Known { address, network, used: unix_time(), failures: 0 });
        known.truncate(KEPT);
        self.write(name, &known);
    }

    /// Nothing came of a remembered address.
    pub fn failed(&self, name: &MachineName, address: SocketAddr) {
        let mut known = self.read(name);
        let Some(one) = known.iter_mut().find(|k| k.address == address) else { return };
        one.failures += 1;
        known.retain(|k| k.failures < FAILURES);
        self.write(name, &known);
    }

    fn file(&self, name: &MachineName) -> PathBuf {
        // A machine's names are host names: letters, digits, dashes and dots.
        self.folder.join(format!("{}.addresses.json", name.cloud()))
    }

    fn read(&self, name: &MachineName) -> Vec<Known> {
        let path = self.file(name);
        if fs::metadata(&path).is_ok_and(|meta| meta.len() > MAX_FILE) {
            return Vec::new();
        }
        let Ok(text) = fs::read(&path) else { return Vec::new() };
        // A file that is broken is as good as none.
        let mut known: Vec<Known> = serde_json::from_slice(&text).unwrap_or_default();
        let oldest = unix_time().saturating_sub(LIFE.as_secs());
        known.retain(|k| k.used >= oldest && k.failures < FAILURES);
        known.truncate(KEPT);
        known
    }

    /// Remembering is a favour: where it is not possible a dial goes without.
    fn write(&self, name: &MachineName, known: &[Known]) {
        if let Err(error) = self.try_write(&self.file(name), known) {
            tracing::debug!(%error, folder = %self.folder.display(), "addresses cannot be remembered");
        }
    }

    fn try_write(&self, path: &Path, known: &[Known]) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let fresh = path.with_extension(format!("{}.new", std::process::id()));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&serde_json::to_vec(known)?)?;
        fs::rename(&fresh, path)
    }
}

fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn rig() -> (tempfile::TempDir, Memory, MachineName, Surroundings) {
        let folder = tempfile::tempdir().expect("a folder");
        let memory = Memory::at(folder.path().join("cache"));
        (folder, memory, "m-main.loc1.viam.cloud".parse().expect("a name"), Surroundings::look())
    }

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn the_last_used_comes_first_and_few_are_kept() {
        let (_folder, memory, name, here) = rig();
        assert_eq!(memory.recall(&name, &here), []);
        for port in 1..=6 {
            memory.learned(&name, at(port), &here);
        }
        memory.learned(&name, at(4), &here);
        assert_eq!(memory.recall(&name, &here), [at(4), at(6), at(5), at(3)]);
        let local = "m-main.loc1.local.viam.cloud".parse().expect("a name");
        assert_eq!(memory.recall(&local, &here).len(), KEPT, "a machine has two names and one memory");
        assert_eq!(memory.recall(&"other.loc1.viam.cloud".parse().expect("a name"), &here), []);
    }

    #[test]
    fn three_failures_in_a_row_are_enough() {
        let (_folder, memory, name, here) = rig();
        memory.learned(&name, at(1), &here);
        memory.failed(&name, at(1));
        memory.failed(&name, at(1));
        memory.learned(&name, at(1), &here);
        memory.failed(&name, at(1));
        memory.failed(&name, at(1));
        assert_eq!(memory.recall(&name, &here), [at(1)]);
        memory.failed(&name, at(1));
        assert_eq!(memory.recall(&name, &here), []);
    }

    #[test]
    fn what_is_old_broken_or_of_another_network_is_not_used() {
        let (_folder, memory, name, here) = rig();
        let known = |network: &str, used| Known { address: at(1), network: network.into(), used, failures: 0 };
        memory.write(&name, &[known("this host", unix_time() - LIFE.as_secs() - 1)]);
        assert_eq!(memory.recall(&name, &here), []);
        memory.write(&name, &[known("198.51.100.0/24 via 01020304", unix_time())]);
        assert_eq!(memory.recall(&name, &here), []);
        memory.write(&name, &[known("this host", unix_time())]);
        assert_eq!(memory.recall(&name, &here), [at(1)]);
        fs::write(memory.file(&name), "[{").expect("written");
        assert_eq!(memory.recall(&name, &here), []);
    }

    #[test]
    fn nobody_else_can_read_it_and_addresses_beyond_are_not_kept() {
        let (_folder, memory, name, here) = rig();
        memory.learned(&name, "203.0.113.7:8080".parse().expect("an address"), &here);
        assert_eq!(memory.recall(&name, &here), []);
        memory.learned(&name, at(1), &here);
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&memory.file(&name)), mode(&memory.folder)), (0o600, 0o700));
    }
}
