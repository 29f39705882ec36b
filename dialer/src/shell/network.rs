//! What the operating system knows: which addresses are ours, which are near, and whether the computer slept.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use discovery::Surroundings;
use transport::webrtc::CandidatePair;

use crate::agent::{NetChange, Tier};

/// The clock that runs through suspend is ahead of the one that stands still by more than this: the computer slept.
const SLEPT: Duration = Duration::from_millis(500);

/// Our addresses with the lengths of their prefixes, and the ways out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Network {
    ours: BTreeSet<(IpAddr, u8)>,
    /// The kernel's table of IPv4 routes, as it prints it: another gateway is another network, whatever the addresses.
    ways: String,
}

impl Network {
    pub fn of(here: &Surroundings) -> Self {
        Self { ours: here.addresses().collect(), ways: here.routes().to_owned() }
    }

    /// LAN: an on-link prefix of one of our interfaces, and ourselves. A host route of 32 or 128 bits is no LAN.
    pub fn tier(&self, address: IpAddr) -> Tier {
        let address = address.to_canonical();
        let on_link = self.ours.iter().any(|(ours, length)| match (ours, address) {
            (IpAddr::V4(ours), IpAddr::V4(address)) => {
                *ours == address || same_prefix(u128::from(ours.to_bits()), u128::from(address.to_bits()), *length, 32)
            }
            (IpAddr::V6(ours), IpAddr::V6(address)) => {
                *ours == address || same_prefix(ours.to_bits(), address.to_bits(), *length, 128)
            }
            _ => false,
        });
        if on_link || address.is_loopback() { Tier::LanDirect } else { Tier::WanDirect }
    }

    /// The tier of a peer connection.
    pub fn tier_of(&self, pair: &CandidatePair) -> Tier {
        let near = |address: IpAddr| self.tier(address) == Tier::LanDirect;
        if pair.is_relayed() {
            Tier::WebRtcRelayed
        } else if near(pair.local.address.ip()) && near(pair.remote.address.ip()) {
            Tier::LanWebRtc
        } else {
            Tier::WebRtcDirect
        }
    }

    /// What changed since `before`.
    pub fn since(&self, before: &Self) -> Vec<NetChange> {
        let have: BTreeSet<IpAddr> = self.ours.iter().map(|(address, _)| *address).collect();
        let lost = before.ours.iter().map(|(address, _)| *address).filter(|address| !have.contains(address));
        let mut changes: Vec<NetChange> = lost.map(NetChange::Lost).collect();
        if changes.is_empty() && self != before {
            changes.push(NetChange::Changed);
        }
        changes
    }
}

fn same_prefix(a: u128, b: u128, length: u8, bits: u8) -> bool {
    length > 0 && length < bits && (a ^ b) >> (bits - length) == 0
}

/// Finds out that the computer slept.
#[derive(Debug)]
pub(super) struct SleepWatch {
    awake: Instant,
    running: Duration,
}

impl SleepWatch {
    pub fn new() -> Self {
        Self { awake: Instant::now(), running: boot_time() }
    }

    /// Whether the computer slept since the last question.
    pub fn slept(&mut self) -> bool {
        let now = Self::new();
        let asleep = now.running.saturating_sub(self.running).saturating_sub(now.awake.duration_since(self.awake));
        *self = now;
        asleep > SLEPT
    }
}

#[cfg(target_os = "linux")]
fn boot_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Elsewhere the wall clock stands in: setting it costs one needless probe.
#[cfg(not(target_os = "linux"))]
fn boot_time() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Network {
        /// Of these addresses and the lengths of their prefixes.
        pub fn with(ours: &[(&str, u8)]) -> Self {
            let ours = ours.iter().map(|(address, length)| (address.parse().unwrap(), *length)).collect();
            Self { ours, ways: String::new() }
        }
    }

    #[test]
    fn near_is_what_shares_a_prefix() {
        let ours = Network::with(&[("192.168.4.7", 24), ("10.1.2.3", 32), ("fd00:1::7", 64), ("0.0.0.0", 0)]);
        for (address, tier) in [
            ("192.168.4.200", Tier::LanDirect),
            ("192.168.5.1", Tier::WanDirect),
            ("10.1.2.3", Tier::LanDirect),
            ("10.1.2.4", Tier::WanDirect),
            ("fd00:1::abcd", Tier::LanDirect),
            ("fd00:2::1", Tier::WanDirect),
            ("::ffff:192.168.4.9", Tier::LanDirect),
            ("127.0.0.53", Tier::LanDirect),
            ("::1", Tier::LanDirect),
            ("8.8.8.8", Tier::WanDirect),
        ] {
            assert_eq!(ours.tier(address.parse().unwrap()), tier, "{address}");
        }
    }

    #[test]
    fn a_lost_address_is_told_by_name() {
        let before = Network::with(&[("192.168.4.7", 24), ("10.0.0.1", 8)]);
        let after = Network::with(&[("192.168.4.7", 24)]);
        assert_eq!(after.since(&before), [NetChange::Lost("10.0.0.1".parse().unwrap())]);
        assert_eq!(before.since(&after), [NetChange::Changed]);
        assert_eq!(before.since(&before), []);
        let elsewhere = Network { ways: "another gateway".into(), ..before.clone() };
        assert_eq!(elsewhere.since(&before), [NetChange::Changed]);
    }

    #[test]
    fn staying_awake_is_no_sleep() {
        let mut watch = SleepWatch::new();
        assert!(!watch.slept());
    }
}
