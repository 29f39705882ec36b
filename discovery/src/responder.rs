//! Answering for a machine, on every interface.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::Surroundings;
use crate::answer::{Advertisement, announcements, answer, wants_unicast};
use crate::mdns::{Network, open_group};
use crate::repeats::Repeats;

/// How often the interfaces are looked at. A cable that was plugged in is answered on at most this much later.
const REFRESH: Duration = Duration::from_secs(3);
/// The second announcement (RFC 6762 section 8.3 wants at least a second between them).
const ANNOUNCED_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Questions answered per second and interface: a dial asks three times, so this serves fifty dials at once, and a flood costs nothing more.
const MAX_ANSWERED_PER_SECOND: u32 = 150;
/// The largest packet read (RFC 6762 section 17).
const MAX_PACKET: usize = 9000;

/// Where a responder answers.
#[derive(Clone, Debug)]
pub struct ResponderOptions {
    /// The port. Default 5353; another one only in tests.
    pub port: u16,
    /// Interfaces to answer on, by name; all where empty, which is the default.
    pub interfaces: Vec<String>,
}

impl Default for ResponderOptions {
    fn default() -> Self {
        Self { port: 5353, interfaces: Vec::new() }
    }
}

/// Answers for a machine until it is shut down or dropped.
#[derive(Debug)]
pub struct Responder {
    leave: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Responder {
    /// Starts answering. Interfaces that come later are answered on too. Fails where no interface can be opened at all. Needs a Tokio runtime.
    pub fn start(advertisement: Advertisement, options: ResponderOptions) -> io::Result<Self> {
        let (leave, leaving) = watch::channel(false);
        let mut answered =
            Answered { of: Arc::new(advertisement), options, open: BTreeMap::new(), tasks: JoinSet::new(), leaving };
        answered.refresh()?;
        Ok(Self { leave, task: tokio::spawn(answered.run()) })
    }

    /// Says goodbye on every interface, so that nobody dials an address that is gone, and ends.
    pub async fn shutdown(mut self) {
        // An error means that the task is gone already.
        let _ = self.leave.send(true);
        let _ = (&mut self.task).await;
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        let _ = self.leave.send(true);
    }
}

/// The interfaces that are answered on.
struct Answered {
    of: Arc<Advertisement>,
    options: ResponderOptions,
    open: BTreeMap<(String, IpAddr), watch::Sender<Vec<IpAddr>>>,
    tasks: JoinSet<()>,
    leaving: watch::Receiver<bool>,
}

impl Answered {
    async fn run(mut self) {
        let mut refresh = interval(REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut leaving = self.leaving.clone();
        loop {
            tokio::select! {
                () = left(&mut leaving) => break,
                _ = refresh.tick() => {
                    if let Err(error) = self.refresh() {
                        tracing::warn!(%error, "the interfaces for mDNS cannot be listed");
                    }
                }
            }
        }
        while self.tasks.join_next().await.is_some() {}
    }

    /// Opens what is new, and tells those that are open the addresses of now.
    fn refresh(&mut self) -> io::Result<()> {
        let here = Surroundings::current();
        if let Some(why) = here.unlisted() {
            return Err(io::Error::other(format!("this computer's interfaces cannot be listed: {why}")));
        }
        let mut there = here.networks();
        there.retain(|n| self.options.interfaces.is_empty() || self.options.interfaces.contains(&n.name));
        let every: Vec<IpAddr> =
            if_addrs::get_if_addrs()?.iter().filter(|i| !i.is_loopback()).map(if_addrs::Interface::ip).collect();
        self.open
            .retain(|key, addresses| !addresses.is_closed() && there.iter().any(|n| (n.name.clone(), n.own) == *key));
        let mut failed = None;
        for network in there {
            let addresses: Vec<_> =
                std::iter::once(network.own).chain(every.iter().copied().filter(|a| *a != network.own)).collect();
            let key = (network.name.clone(), network.own);
            if let Some(open) = self.open.get(&key) {
                open.send_if_modified(|known| std::mem::replace(known, addresses.clone()) != addresses);
                continue;
            }
            match open_group(&network, self.options.port) {
                Ok(socket) => {
                    let (sender, receiver) = watch::channel(addresses);
                    let (of, port, leaving) = (self.of.clone(), self.options.port, self.leaving.clone());
                    self.tasks.spawn(serve(socket, group(&network, port), of, receiver, leaving));
                    self.open.insert(key, sender);
                }
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if self.open.is_empty() => Err(error),
            _ => Ok(()),
        }
    }
}

/// Announces, answers, and says goodbye on one interface.
async fn serve(
    socket: UdpSocket,
    group: SocketAddr,
    of: Arc<Advertisement>,
    mut addresses: watch::Receiver<Vec<IpAddr>>,
    mut leaving: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; MAX_PACKET];
    let mut again = Some(Instant::now() + ANNOUNCED_AGAIN_AFTER);
    let (mut second, mut answered) = (Instant::now(), 0);
    let mut repeats = Repeats::default();
    let known = addresses.borrow().clone();
    announce(&socket, group, &of, &known, false).await;
    loop {
        let (repeat, later) = (until(again), until(repeats.poll_timeout().map(Instant::from_std)));
        tokio::select! {
            () = left(&mut leaving) => {
                let known = addresses.borrow().clone();
                return announce(&socket, group, &of, &known, true).await;
            }
            () = repeat => {
                again = None;
                let known = addresses.borrow().clone();
                announce(&socket, group, &of, &known, false).await;
            }
            () = later => {
                if let Some((packet, from)) = repeats.due(std::time::Instant::now()) {
                    let known = addresses.borrow().clone();
                    reply(&socket, group, &of, &known, &packet, from).await;
                }
            }
            changed = addresses.changed() => match changed {
                Ok(()) => again = Some(Instant::now()),
                // The interface is gone.
                Err(_) => return,
            },
            received = socket.recv_from(&mut buffer) => {
                let Ok((length, from)) = received else { continue };
                if second.elapsed() >= Duration::from_secs(1) {
                    (second, answered) = (Instant::now(), 0);
                }
                answered += 1;
                let packet = &buffer[..length];
                let alone = from.port() != group.port() || wants_unicast(packet);
                if answered <= MAX_ANSWERED_PER_SECOND
                    && (alone || repeats.at_once(packet, from, std::time::Instant::now()))
                {
                    let known = addresses.borrow().clone();
                    reply(&socket, group, &of, &known, packet, from).await;
                }
            }
        }
    }
}

/// Resolves at that time, if there is one.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Resolves when the responder is shut down or dropped.
async fn left(leaving: &mut watch::Receiver<bool>) {
    // An error means that the responder's value is gone, which is the same.
    let _ = leaving.wait_for(|leaving| *leaving).await;
}

async fn reply(
    socket: &UdpSocket,
    group: SocketAddr,
    of: &Advertisement,
    addresses: &[IpAddr],
    packet: &[u8],
    from: SocketAddr,
) {
    let legacy = from.port() != group.port();
    let to = if legacy || wants_unicast(packet) { from } else { group };
    for answer in answer(of, packet, addresses, legacy) {
        // The asker asks again where an answer is lost.
        let _ = socket.send_to(&answer, to).await;
    }
}

async fn announce(socket: &UdpSocket, group: SocketAddr, of: &Advertisement, addresses: &[IpAddr], leaving: bool) {
    for packet in announcements(of, addresses, leaving) {
        let _ = socket.send_to(&packet, group).await;
    }
}

fn group(network: &Network, port: u16) -> SocketAddr {
    match network.own {
        IpAddr::V4(_) => SocketAddr::from((Ipv4Addr::new(224, 0, 0, 251), port)),
        IpAddr::V6(_) => SocketAddr::from((Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb), port)),
    }
}
