//! This computer's place on its networks. Listing it takes some 0.1 ms, a fifth of what a dial to a remembered address may take: whoever
//! needs it several times looks once.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use if_addrs::{IfAddr, IfOperStatus, Interface};

use crate::mdns::Network;

/// Interfaces and ways out, as they were when they were looked at.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    interfaces: Vec<Interface>,
    /// Why the system does not list its interfaces.
    unlisted: Option<String>,
    routes: String,
}

impl Surroundings {
    /// Lists interfaces and routes. Where the system does not list its interfaces there are none, and a search says why.
    pub fn look() -> Self {
        let (interfaces, unlisted) = match if_addrs::get_if_addrs() {
            Ok(interfaces) => (interfaces, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        // Without the routes, addresses beyond a router are not remembered, and a change of the router alone is not noticed.
        Self { interfaces, unlisted, routes: std::fs::read_to_string("/proc/net/route").unwrap_or_default() }
    }

    /// [`look`](Self::look), or what was seen last in this process where the kernel has told of no change since.
    pub fn current() -> Arc<Self> {
        #[cfg(target_os = "linux")]
        let here = crate::changes::surroundings();
        #[cfg(not(target_os = "linux"))]
        let here = Arc::new(Self::look());
        here
    }

    /// Why there are no interfaces, where the system did not list them.
    pub(crate) fn unlisted(&self) -> Option<&str> {
        self.unlisted.as_deref()
    }

    /// Our addresses with the lengths of their prefixes. An interface without carrier keeps its addresses; nothing leaves from them, and they
    /// are not told.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, u8)> + '_ {
        self.interfaces.iter().filter(|interface| interface.oper_status == IfOperStatus::Up).map(|interface| {
            match &interface.addr {
                IfAddr::V4(v4) => (IpAddr::V4(v4.ip), u32::from(v4.netmask).count_ones() as u8),
                IfAddr::V6(v6) => (IpAddr::V6(v6.ip), u128::from(v6.netmask).count_ones() as u8),
            }
        })
    }

    /// The kernel's table of IPv4 routes, as it prints it; empty where there is none to read.
    pub fn routes(&self) -> &str {
        &self.routes
    }

    /// The interfaces to ask on: one IPv4 and one IPv6 address of each, loopback included.
    pub(crate) fn networks(&self) -> Vec<Network> {
        let mut chosen = BTreeMap::new();
        for interface in &self.interfaces {
            let own = match &interface.addr {
                IfAddr::V4(v4) => IpAddr::V4(v4.ip),
                // Multicast on the loopback interface has no IPv6 route; IPv4 is there.
                IfAddr::V6(_) if interface.is_loopback() => continue,
                IfAddr::V6(v6) => IpAddr::V6(v6.ip),
            };
            let index = interface.index.unwrap_or(0);
            let key = (interface.name.clone(), own.is_ipv4());
            chosen.entry(key).or_insert(Network { name: interface.name.clone(), own, index });
        }
        chosen.into_values().collect()
    }

    /// The network by which an address is reached: the prefix that it is on, and the way out. `None` for public addresses: those
    /// are found again by their name.
    pub(crate) fn network_of(&self, address: IpAddr) -> Option<String> {
        if address.is_loopback() {
            return Some("this host".to_owned());
        }
        let gateway = self.gateway().unwrap_or_default();
        let near = self.interfaces.iter().find_map(|interface| {
            let (prefix, length) = match (&interface.addr, address) {
                (IfAddr::V4(v4), IpAddr::V4(there)) => {
                    let mask = u32::from(v4.netmask);
                    let on_link = u32::from(v4.ip) & mask == u32::from(there) & mask;
                    (on_link.then(|| IpAddr::from((u32::from(v4.ip) & mask).to_be_bytes()))?, mask.count_ones())
                }
                (IfAddr::V6(v6), IpAddr::V6(there)) => {
                    let mask = u128::from(v6.netmask);
                    let on_link = u128::from(v6.ip) & mask == u128::from(there) & mask;
                    (on_link.then(|| IpAddr::from((u128::from(v6.ip) & mask).to_be_bytes()))?, mask.count_ones())
                }
                _ => return None,
            };
            Some(format!("{prefix}/{length} via {gateway}"))
        });
        // Private addresses beyond a router are tied to the way there: our address and the router's.
        near.or_else(|| {
            if !is_private(address) {
                return None;
            }
            let own = self.interfaces.iter().find(|i| !i.is_loopback() && i.ip().is_ipv4() == address.is_ipv4())?;
            (!gateway.is_empty()).then(|| format!("beyond {} via {gateway}", own.ip()))
        })
    }

    /// The default gateway, as the kernel lists it.
    fn gateway(&self) -> Option<&str> {
        self.routes.lines().skip(1).find_map(|line| {
            let mut fields = line.split_whitespace();
            let (_, destination, gateway) = (fields.next()?, fields.next()?, fields.next()?);
            (destination == "00000000").then_some(gateway)
        })
    }
}

/// Addresses of somebody's own network: RFC 1918, 100.64/10, unique local.
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}
