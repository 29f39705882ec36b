//! Where a machine that was met over WebRTC may be reached directly: its own addresses on networks that are ours too.

use std::net::{IpAddr, SocketAddr};

use discovery::is_private;
use transport::webrtc::Control;

use super::inputs::Found;
use super::{Network, Task};
use crate::agent::{Origin, Route, Tier};

/// The port of a machine that tells no other. What is tried there proves its name or is nobody.
const PORT: u16 = 8080;
/// Addresses that one peer connection teaches; a machine has few on one network.
const MOST: usize = 4;

impl Task {
    /// Addresses of the machine's that its peer connection has told become candidates: it may be near although nothing on the network says so. Only where
    /// TLS verifies who answers there.
    pub(super) fn learn_homes(&mut self, control: &Control) {
        if self.maker.tls.is_none() {
            return;
        }
        // Every machine has one main port: where one is known, it is that.
        let known = self.origins.keys().find_map(|route| match route {
            Route::Direct(address) => Some(address.port()),
            _ => None,
        });
        let told = control.hosts();
        for address in near(told.into_iter(), &self.network) {
            let route = Route::Direct(SocketAddr::new(address, known.unwrap_or(PORT)));
            self.handle_found(Found::Candidate(route, Origin::Cloud));
        }
    }
}

/// Private addresses on a prefix of one of our interfaces, and not ourselves.
fn near(told: impl Iterator<Item = IpAddr>, network: &Network) -> Vec<IpAddr> {
    told.filter(|address| is_private(*address) && network.tier(*address) == Tier::LanDirect).take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_private_addresses_on_our_own_networks_are_taken() {
        let network = Network::with(&[("10.1.0.2", 24), ("fd00:1::7", 64), ("203.0.113.2", 24), ("127.0.0.1", 8)]);
        let told =
            ["10.1.0.1", "10.2.0.1", "203.0.113.9", "127.0.0.1", "169.254.3.3", "fd00:1::1", "fd00:2::1", "fe80::1"];
        let told = told.iter().map(|text| text.parse().expect("an address"));
        assert_eq!(
            near(told, &network),
            ["10.1.0.1", "fd00:1::1"].map(|text| text.parse::<IpAddr>().expect("an address"))
        );
        let many = (1..=9).map(|last| IpAddr::from([10, 1, 0, last]));
        assert_eq!(near(many, &network).len(), MOST);
    }
}
