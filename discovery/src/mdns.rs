//! Asking the local network for one machine, on every interface.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::MachineName;
use crate::question::{Told, question, told};

/// When the question is sent: at once, and twice more in case it or its answer was lost. Three packets per interface and family.
pub(crate) const ASKED_AT: [Duration; 3] = [Duration::ZERO, Duration::from_millis(150), Duration::from_millis(500)];
/// When nobody is waited for any longer: an answer to the last question has had half a second.
pub(crate) const GIVEN_UP_AFTER: Duration = Duration::from_millis(1000);
/// How long others are listened to after the first complete answer: who answers first need not be the machine, and only TLS tells.
const OTHERS_FOR: Duration = Duration::from_millis(200);
/// Answers taken from one interface: a machine has one or two addresses there, and who sends more is not looking for calls.
const MOST_ANSWERS: usize = 8;
/// The largest packet read; mDNS packets fit in 9,000 bytes (RFC 6762 section 17).
pub(crate) const MAX_PACKET: usize = 9000;

/// Where the question goes.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) name: String,
    pub(crate) own: IpAddr,
    pub(crate) index: u32,
}

/// What came to one of two sockets: the asker's own, and the group's where it could be opened.
async fn receive(
    own: &UdpSocket,
    group: &mut Option<UdpSocket>,
    packets: &mut [Vec<u8>; 2],
) -> io::Result<(usize, usize, SocketAddr)> {
    let [to_own, to_group] = packets;
    loop {
        let at_group = async {
            match &group {
                Some(group) => group.recv_from(to_group).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            received = own.recv_from(to_own) => return received.map(|(length, from)| (0, length, from)),
            received = at_group => match received {
                Ok((length, from)) => return Ok((1, length, from)),
                // The asker's own socket is still there.
                Err(_) => *group = None,
            }
        }
    }
}

/// Asks on one interface until a complete answer has come or the time is over, and then listens a little longer for others. Each sender's
/// first complete answer is passed on at once; whether there was any is returned.
///
/// The question is a one-shot one, which is answered to its own port (RFC 6762 section 6.7). Existing machines answer it to the group all the same,
/// so the group is listened to as well.
pub(crate) async fn ask(
    network: &Network,
    name: &MachineName,
    port: u16,
    id: u16,
    heard: &mpsc::Sender<Heard>,
) -> io::Result<bool> {
    let Some(packet) = question(name, id) else { return Ok(false) };
    let socket = open(network)?;
    let mut shared = open_group(network, port).ok();
    let group = match network.own {
        IpAddr::V4(_) => SocketAddr::from((Ipv4Addr::new(224, 0, 0, 251), port)),
        IpAddr::V6(_) => SocketAddr::from((Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb), port)),
    };
    let started = Instant::now();
    let mut packets = [vec![0; MAX_PACKET], vec![0; MAX_PACKET]];
    let mut senders = BTreeSet::new();
    let questions = ASKED_AT[1..].iter().copied().chain([GIVEN_UP_AFTER]).map(|until| started + until);
    for mut until in questions {
        socket.send_to(&packet, group).await?;
        loop {
            tokio::select! {
                received = receive(&socket, &mut shared, &mut packets) => {
                    let (of, length, from) = received?;
                    if let Some(told) = told(name, &packets[of][..length])
                        && senders.insert(from)
                    {
                        if senders.len() == 1 {
                            until = Instant::now() + OTHERS_FOR;
                        }
                        // The asker may have gone; the search ends with it.
                        let _ = heard.send((network.clone(), Ok(Some((told, from))))).await;
                        if senders.len() == MOST_ANSWERS {
                            return Ok(true);
                        }
                    }
                }
                () = sleep_until(until) => break,
            }
        }
        if !senders.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn open(network: &Network) -> io::Result<UdpSocket> {
    let domain = if network.own.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    match network.own {
        IpAddr::V4(own) => {
            socket.set_multicast_if_v4(&own)?;
            socket.bind(&SocketAddr::from((own, 0)).into())?;
        }
        IpAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_multicast_if_v6(network.index)?;
            socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into())?;
        }
    }
    UdpSocket::from_std(socket.into())
}

/// What came of one interface.
pub(crate) type Heard = (Network, io::Result<Option<(Told, SocketAddr)>>);

/// Asks on every interface at once; each answer is sent when it is there, and for an interface without any that there was none.
pub(crate) fn ask_everywhere(networks: Vec<Network>, name: &MachineName, port: u16, id: u16) -> mpsc::Receiver<Heard> {
    // Room for what one interface may tell: nobody waits long for who listens.
    let (heard, receiver) = mpsc::channel(networks.len().max(1) * MOST_ANSWERS);
    for network in networks {
        let (heard, name) = (heard.clone(), name.clone());
        tokio::spawn(async move {
            tokio::select! {
                answered = ask(&network, &name, port, id, &heard) => {
                    let end = match answered {
                        Ok(true) => return,
                        Ok(false) => Ok(None),
                        Err(error) => Err(error),
                    };
                    // The asker may have gone.
                    let _ = heard.send((network, end)).await;
                }
                // Nobody listens any more: the question ends with its search.
                () = heard.closed() => {}
            }
        });
    }
    receiver
}

/// Takes packets of this interface alone. What a socket joined does not keep the rest away from it: of several at one port, one gets a packet, whichever
/// it is, and answers on its own interface, where the asker is not. Old kernels want a privilege for it; then it stays as it is.
fn only_from(socket: &Socket, interface: &str) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(error) = socket.bind_device(Some(interface.as_bytes())) {
        tracing::debug!(%error, interface, "SO_BINDTODEVICE not set");
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (socket, interface);
}

/// A socket that hears the group on one interface only, beside other responders of this computer, and answers from the group's port.
pub(crate) fn open_group(network: &Network, port: u16) -> io::Result<UdpSocket> {
    let domain = if network.own.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    only_from(&socket, &network.name);
    match network.own {
        IpAddr::V4(own) => {
            socket.set_multicast_all_v4(false)?;
            socket.join_multicast_v4(&Ipv4Addr::new(224, 0, 0, 251), &own)?;
            socket.set_multicast_if_v4(&own)?;
            socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
        }
        IpAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_multicast_all_v6(false)?;
            socket.join_multicast_v6(&Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb), network.index)?;
            socket.set_multicast_if_v6(network.index)?;
            socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
        }
    }
    UdpSocket::from_std(socket.into())
}
