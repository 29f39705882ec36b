//! Hearing what one machine announces, without asking.
//!
//! A browser caches: it says nothing of a machine that comes back before its records ran out. Whoever waits for a better route wants to
//! hear of every announcement.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use crate::mdns::{MAX_PACKET, Network, open_group};
use crate::question::told;
use crate::{Finder, Found, MachineName, Source, Surroundings};

/// Packets looked at per interface and second; busy networks carry a few dozen.
const MAX_HEARD_PER_SECOND: u32 = 200;

/// What a machine announces from now on. Ends when it is dropped.
#[derive(Debug)]
pub struct Announcements {
    heard: mpsc::Receiver<Found>,
}

impl Announcements {
    /// The next announced address; `None` where nothing can be heard.
    pub async fn next(&mut self) -> Option<Found> {
        self.heard.recv().await
    }
}

impl Finder {
    /// Listens on the interfaces that are there; after a change of them, listen anew. Needs a Tokio runtime.
    pub fn listen(&self, name: &MachineName, here: &Surroundings) -> Announcements {
        // An announcement has at most sixteen addresses; more wait in the socket.
        let (tell, heard) = mpsc::channel(16);
        let options = self.options();
        let there = if options.mdns { here.networks() } else { Vec::new() };
        for network in there {
            if !options.interfaces.is_empty() && !options.interfaces.contains(&network.name) {
                continue;
            }
            match open_group(&network, options.mdns_port) {
                Ok(socket) => {
                    tokio::spawn(hear(socket, network, name.clone(), tell.clone()));
                }
                Err(error) => tracing::debug!(interface = network.name, %error, "announcements are not heard"),
            }
        }
        Announcements { heard }
    }
}

async fn hear(socket: UdpSocket, network: Network, name: MachineName, tell: mpsc::Sender<Found>) {
    let mut packet = vec![0; MAX_PACKET];
    let (mut second, mut heard) = (Instant::now(), 0);
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut packet) => received,
            () = tell.closed() => return,
        };
        let Ok((length, _)) = received else { return };
        if second.elapsed() >= Duration::from_secs(1) {
            (second, heard) = (Instant::now(), 0);
        }
        heard += 1;
        if heard > MAX_HEARD_PER_SECOND {
            continue;
        }
        let Some(told) = told(&name, &packet[..length]) else { continue };
        for address in told.addresses {
            let found = Found {
                address: SocketAddr::new(address, told.port),
                source: Source::Mdns { interface: network.name.clone() },
                // Old machines say nothing in their TXT record; gRPC is what the port is for.
                grpc: told.grpc || !told.webrtc,
                webrtc: told.webrtc,
                after: Duration::ZERO,
            };
            if tell.send(found).await.is_err() {
                return;
            }
        }
    }
}
