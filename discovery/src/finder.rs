//! All sources at once, each answer as it comes.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::mdns::ask_everywhere;
use crate::{DEFAULT_PORT, MachineAddress, MachineName, Memory, Surroundings};

/// How long DNS may take. An answer later than this helps nobody who waits for a robot, and the verdict on an unknown name is due.
const DNS_TIMEOUT: Duration = Duration::from_millis(1200);

/// How long a remembered address is tried before anybody is asked: a handshake on a local network takes less, and then nobody has to be.
const HEAD_START: Duration = Duration::from_millis(5);

/// Where a finder looks.
#[derive(Clone, Debug)]
pub struct FinderOptions {
    /// Whether the local network is asked. Default: yes.
    pub mdns: bool,
    /// Whether DNS is asked. Default: yes.
    pub dns: bool,
    /// The port that responders listen on. Default 5353; another one only in tests.
    pub mdns_port: u16,
    /// Interfaces to ask on, by name; all where empty, which is the default.
    pub interfaces: Vec<String>,
    /// Where addresses that worked are remembered; not at all where `None`. Default: in the user's cache.
    pub memory: Option<Memory>,
}

impl Default for FinderOptions {
    fn default() -> Self {
        Self { mdns: true, dns: true, mdns_port: 5353, interfaces: Vec::new(), memory: Memory::user() }
    }
}

/// Who told of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// It worked before.
    Remembered,
    /// The user.
    Given,
    /// A responder on the local network.
    Mdns {
        /// The interface that it answered on.
        interface: String,
    },
    /// DNS.
    Dns {
        /// The name that was looked up.
        name: String,
    },
}

/// An address where the machine may be.
#[derive(Clone, Debug)]
pub struct Found {
    /// The address.
    pub address: SocketAddr,
    /// Who told.
    pub source: Source,
    /// Whether gRPC is spoken there.
    pub grpc: bool,
    /// Whether WebRTC offers are answered there.
    pub webrtc: bool,
    /// The time from the question to the answer.
    pub after: Duration,
}

/// A source that gave no address, and why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The interfaces of this computer cannot be listed.
    #[error("mDNS: this computer's interfaces cannot be listed: {0}")]
    Interfaces(String),
    /// An interface cannot be asked on.
    #[error("mDNS on {interface}: {error}")]
    Interface {
        /// Its name.
        interface: String,
        /// The system's reason.
        error: io::Error,
    },
    /// Nobody on the local network answered.
    #[error("mDNS: nobody answered to {name} on {}", interfaces.join(", "))]
    Silence {
        /// The machine.
        name: MachineName,
        /// Where it was asked.
        interfaces: Vec<String>,
    },
    /// DNS has no address, or did not answer.
    #[error("DNS: {name}: {reason}")]
    Dns {
        /// The name that was looked up.
        name: String,
        /// Why.
        reason: String,
        /// Whether that is its answer: the name has no address. Else nobody could be asked, and the next time may be better.
        conclusive: bool,
    },
    /// DNS told only addresses that a `.local` name must not lead to.
    #[error("DNS: {0} leads out of the local network, which a .local name must not")]
    NotLocal(String),
}

/// Asks the sources for machines.
#[derive(Clone, Debug, Default)]
pub struct Finder {
    options: FinderOptions,
    resolver: Arc<OnceLock<Result<TokioResolver, String>>>,
}

/// One search. Its questions end when it is dropped.
#[derive(Debug)]
pub struct Search {
    told: mpsc::Receiver<Result<Found, SourceError>>,
}

impl Search {
    /// The next address or complaint; `None` when all sources have said what they had to say.
    pub async fn next(&mut self) -> Option<Result<Found, SourceError>> {
        self.told.recv().await
    }
}

/// What all the sources of one search share.
#[derive(Clone)]
struct Asked {
    started: Instant,
    told: mpsc::Sender<Result<Found, SourceError>>,
}

impl Asked {
    /// An error means that the search was dropped: there is nobody to tell.
    async fn tell(&self, one: Result<Found, SourceError>) {
        let _ = self.told.send(one).await;
    }

    async fn found(&self, address: SocketAddr, source: Source, grpc: bool, webrtc: bool) {
        let after = self.started.elapsed();
        self.tell(Ok(Found { address, source, grpc, webrtc, after })).await;
    }
}

impl Finder {
    /// A finder.
    pub fn new(options: FinderOptions) -> Self {
        Self { options, resolver: Arc::default() }
    }

    pub(crate) fn options(&self) -> &FinderOptions {
        &self.options
    }

    /// Asks every source that fits the address, all at the same time, from where this computer is. Needs a Tokio runtime. The search is over
    /// after 1.2 s at most.
    pub fn find(&self, address: &MachineAddress, here: &Arc<Surroundings>) -> Search {
        // Answers are read as they come; sixteen is what one interface may tell.
        let (told, search) = mpsc::channel(16);
        let asked = Asked { started: Instant::now(), told };
        match address {
            MachineAddress::Socket(address) => {
                let address = *address;
                tokio::spawn(async move { asked.found(address, Source::Given, true, true).await });
            }
            MachineAddress::HostPort { host, port } => self.dns(&asked, host.clone(), *port, false),
            MachineAddress::Machine(name) => {
                let (finder, name) = (self.clone(), name.clone());
                let memory = self.options.memory.clone().filter(|memory| memory.knows(&name));
                let Some(memory) = memory else {
                    finder.ask(asked, &name, here.clone());
                    return Search { told: search };
                };
                let known = remembered(asked.clone(), memory, name.clone(), here.clone());
                let here = here.clone();
                tokio::spawn(async move {
                    if known.await.unwrap_or_default() {
                        tokio::select! {
                            () = asked.told.closed() => return,
                            () = tokio::time::sleep(HEAD_START) => {}
                        }
                    }
                    finder.ask(asked, &name, here);
                });
            }
            // There is nothing to find: the path is the address.
            MachineAddress::Unix(_) => {}
        }
        Search { told: search }
    }

    /// The sources that have to be asked.
    fn ask(&self, asked: Asked, name: &MachineName, here: Arc<Surroundings>) {
        if self.options.mdns {
            self.mdns(asked.clone(), name.clone(), here);
        }
        if self.options.dns {
            for form in name.forms().into_iter().filter(|form| !name.is_local() || form == name.as_str()) {
                self.dns(&asked, form, DEFAULT_PORT, name.is_local());
            }
        }
    }

    fn mdns(&self, asked: Asked, name: MachineName, here: Arc<Surroundings>) {
        let (port, wanted) = (self.options.mdns_port, self.options.interfaces.clone());
        tokio::spawn(async move {
            if let Some(why) = here.unlisted() {
                return asked.tell(Err(SourceError::Interfaces(why.to_owned()))).await;
            }
            let mut there = here.networks();
            there.retain(|network| wanted.is_empty() || wanted.contains(&network.name));
            let interfaces: Vec<_> = there.iter().map(|n| format!("{} ({})", n.name, n.own)).collect();
            let mut heard = ask_everywhere(there, &name, port, rand::random());
            let mut answered = false;
            while let Some((network, result)) = heard.recv().await {
                match result {
                    Ok(Some((told, _))) => {
                        answered = true;
                        for address in told.addresses {
                            let source = Source::Mdns { interface: network.name.clone() };
                            // Old machines say nothing in their TXT record; gRPC is what the port is for.
                            let grpc = told.grpc || !told.webrtc;
                            asked.found(SocketAddr::new(address, told.port), source, grpc, told.webrtc).await;
                        }
                    }
                    Ok(None) => {}
                    Err(error) if is_no_multicast(&error) => {}
                    Err(error) => asked.tell(Err(SourceError::Interface { interface: network.name, error })).await,
                }
            }
            if !answered {
                asked.tell(Err(SourceError::Silence { name, interfaces })).await;
            }
        });
    }

    fn dns(&self, asked: &Asked, name: String, port: u16, only_local: bool) {
        let (asked, resolver) = (asked.clone(), self.resolver.clone());
        tokio::spawn(async move {
            let failed = |reason: String| Err(SourceError::Dns { name: name.clone(), reason, conclusive: false });
            // The system's configuration is in files: whoever else runs here does not wait for them.
            let built = resolver.clone();
            let built = tokio::task::spawn_blocking(move || built.get_or_init(build_resolver).clone()).await;
            let resolver = match built {
                Ok(Ok(resolver)) => resolver,
                Ok(Err(reason)) => return asked.tell(failed(reason)).await,
                Err(_) => return asked.tell(failed("the resolver could not be made".to_owned())).await,
            };
            let addresses: Vec<IpAddr> =
                match tokio::time::timeout(DNS_TIMEOUT, resolver.lookup_ip(format!("{name}."))).await {
                    Ok(Ok(found)) => found.iter().collect(),
                    Ok(Err(e)) if e.is_no_records_found() || e.is_nx_domain() => {
                        let reason = "no address".to_owned();
                        return asked.tell(Err(SourceError::Dns { name, reason, conclusive: true })).await;
                    }
                    Ok(Err(e)) => return asked.tell(failed(e.to_string())).await,
                    Err(_) => return asked.tell(failed(format!("no answer within {DNS_TIMEOUT:?}"))).await,
                };
            let usable: Vec<_> = addresses.into_iter().filter(|a| !only_local || is_private(a)).collect();
            if usable.is_empty() {
                return asked.tell(Err(SourceError::NotLocal(name))).await;
            }
            for address in usable {
                let source = Source::Dns { name: name.clone() };
                asked.found(SocketAddr::new(address, port), source, true, true).await;
            }
        });
    }
}

/// Tells where the machine was before; whether there was anything to tell. Files may be slow: nobody waits for them, and what is found is told
/// from the thread that read it.
fn remembered(asked: Asked, memory: Memory, name: MachineName, here: Arc<Surroundings>) -> JoinHandle<bool> {
    tokio::task::spawn_blocking(move || {
        let known = memory.recall(&name, &here);
        let after = asked.started.elapsed();
        for address in &known {
            let found = Found { address: *address, source: Source::Remembered, grpc: true, webrtc: false, after };
            // An error means that the search was dropped: there is nobody to tell. There is room for all of them.
            let _ = asked.told.blocking_send(Ok(found));
        }
        !known.is_empty()
    })
}

/// A resolver that follows the system's configuration; hosts files are read too.
fn build_resolver() -> Result<TokioResolver, String> {
    let builder =
        TokioResolver::builder_tokio().map_err(|e| format!("this computer's DNS configuration cannot be read: {e}"))?;
    builder.build().map_err(|e| e.to_string())
}

/// The kernel says that an interface carries no multicast: then there is nobody to ask on it.
fn is_no_multicast(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable | io::ErrorKind::AddrNotAvailable
    )
}

/// Loopback, link-local, RFC 1918, RFC 6598 and unique local addresses: what a local name may lead to.
fn is_private(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || (a == 100 && (64..128).contains(&b))
        }
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            v6.is_loopback() || first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfe80
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s69_a_local_name_leads_to_private_addresses_only() {
        for private in [
            "10.1.2.3",
            "172.16.0.1",
            "192.168.0.1",
            "100.64.0.1",
            "169.254.1.1",
            "127.0.0.1",
            "::1",
            "fd00::1",
            "fe80::1",
        ] {
            assert!(is_private(&private.parse().expect("an address")), "{private}");
        }
        for public in ["8.8.8.8", "100.128.0.1", "172.32.0.1", "2001:db8::1"] {
            assert!(!is_private(&public.parse().expect("an address")), "{public}");
        }
    }
}
