//! Who answers on this network, whoever it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use mdns_sd::{IfKind, Receiver, ServiceDaemon, ServiceEvent};

use crate::MachineName;

/// The service that machines are published as.
const SERVICE: &str = "_rpc._tcp.local.";

/// A machine that answers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sighting {
    /// Its name, in the cloud's form where it has one.
    pub name: String,
    /// Where it serves.
    pub addresses: BTreeSet<SocketAddr>,
    /// Whether gRPC is spoken there.
    pub grpc: bool,
    /// Whether WebRTC offers are answered there.
    pub webrtc: bool,
}

/// This computer cannot listen on its networks.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for machines on this computer's networks: {0}")]
pub struct BrowseError(#[from] mdns_sd::Error);

/// Listens for machines until it is dropped.
pub struct Browse {
    daemon: ServiceDaemon,
    events: Receiver<ServiceEvent>,
    seen: BTreeMap<String, Sighting>,
}

impl Browse {
    /// Asks on every interface, this host's own included, and goes on listening.
    pub fn start() -> Result<Self, BrowseError> {
        let daemon = ServiceDaemon::new()?;
        daemon.enable_interface(vec![IfKind::LoopbackV4, IfKind::LoopbackV6])?;
        let events = daemon.browse(SERVICE)?;
        Ok(Self { daemon, events, seen: BTreeMap::new() })
    }

    /// The next machine that was not seen before, or that was seen at a new address.
    pub async fn next(&mut self) -> Option<Sighting> {
        loop {
            match self.events.recv_async().await.ok()? {
                ServiceEvent::ServiceResolved(found) => {
                    let instance = found.get_fullname().trim_end_matches(SERVICE).trim_end_matches('.').to_owned();
                    let ips = found.get_addresses().iter();
                    let addresses = ips.map(|ip| SocketAddr::new(ip.to_ip_addr(), found.get_port())).collect();
                    let says = |key: &str| found.get_property(key).is_some();
                    let sighting = sighting(&instance, addresses, says("grpc"), says("webrtc"));
                    if let Some(news) = self.note(sighting) {
                        return Some(news);
                    }
                }
                ServiceEvent::SearchStopped(_) => return None,
                _ => {}
            }
        }
    }

    /// A machine is published under several names; it is told once.
    fn note(&mut self, sighting: Sighting) -> Option<Sighting> {
        let dashed = |name: &str| name.replace('.', "-");
        let known = self.seen.values_mut().find(|known| dashed(&known.name) == dashed(&sighting.name));
        match known {
            None => {
                self.seen.insert(sighting.name.clone(), sighting.clone());
                Some(sighting)
            }
            Some(known) => {
                let before = known.clone();
                known.addresses.extend(&sighting.addresses);
                if sighting.name.contains('.') && !known.name.contains('.') {
                    known.name = sighting.name;
                }
                (*known != before).then(|| known.clone())
            }
        }
    }

    /// Everything that was seen so far.
    pub fn seen(&self) -> impl Iterator<Item = &Sighting> {
        self.seen.values()
    }
}

impl Drop for Browse {
    fn drop(&mut self) {
        // It ends with its channel at the latest.
        let _ = self.daemon.shutdown();
    }
}

fn sighting(instance: &str, addresses: BTreeSet<SocketAddr>, grpc: bool, webrtc: bool) -> Sighting {
    let dotted = instance.replace("\\.", ".");
    let cloud = |name: &str| name.parse::<MachineName>().map_or_else(|_| name.to_owned(), |name| name.cloud());
    // The dashed spelling of a local form is the dashed spelling of the cloud's with one word more.
    let name = if dotted.contains('.') { cloud(&dotted) } else { dotted.replace("-local-viam-cloud", "-viam-cloud") };
    Sighting { name, addresses, grpc, webrtc }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_names_of_a_machine_are_one() {
        let at = BTreeSet::from(["192.0.2.1:8080".parse().expect("an address")]);
        for instance in ["m-main.loc1.viam.cloud", "m-main.loc1.local.viam.cloud", "m-main\\.loc1\\.viam\\.cloud"] {
            assert_eq!(sighting(instance, at.clone(), true, false).name, "m-main.loc1.viam.cloud");
        }
        for instance in ["m-main-loc1-viam-cloud", "m-main-loc1-local-viam-cloud"] {
            assert_eq!(sighting(instance, at.clone(), true, false).name, "m-main-loc1-viam-cloud");
        }
    }
}
