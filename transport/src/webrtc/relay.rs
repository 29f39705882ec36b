//! TURN (RFC 8656) over UDP, TCP and TLS, and the look-up of STUN servers' names: one task per server.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use turn_client_proto::api::{TurnClientApi, TurnConfig, TurnEvent, TurnPollRet, TurnRecvRet};
use turn_client_proto::prelude::DelayedTransmitBuild;
use turn_client_proto::stun::Instant as StunInstant;
use turn_client_proto::stun::agent::Transmit;
use turn_client_proto::stun::types::TransportType;
use turn_client_proto::tcp::TurnClientTcp;
use turn_client_proto::types::{AddressFamily, TurnCredentials};
use turn_client_proto::udp::TurnClientUdp;

use super::lane::{self, lane};
use super::options::{IceUrl, Server, Transport};

/// Bound of name, connection and TLS together, and again of the allocation.
const PATIENCE: Duration = Duration::from_secs(4);
/// Datagrams that may wait for a relay; what is too much is lost, as on the wire.
const WAITING: usize = 256;
/// Peers that a relay gets permission for.
const MAX_PEERS: usize = 64;
/// Datagrams kept for a peer until the relay lets them pass.
const HELD: usize = 8;
/// After so many datagrams a peer is worth a channel, which saves 32 bytes of each. Over UDP only: over streams version 0.7.3 of the
/// library neither writes nor expects the padding of channel data (RFC 8656 section 12.5), and a server's first padded frame ends it.
const CHANNEL_AFTER: u32 = 8;
/// A relay's datagram with its header.
const BUFFER: usize = 2048;

/// What the tasks tell the driver.
#[derive(Debug)]
pub(crate) enum News {
    /// A STUN server's addresses; none where its name is unknown.
    Stun(Vec<SocketAddr>),
    /// A relayed address is ours.
    Allocated(Relay),
    /// There will be none.
    Failed(String),
    /// A peer's datagram, through the relay.
    Datagram { relay: SocketAddr, peer: SocketAddr, bytes: Bytes },
}

/// A relayed address. Dropping it gives it back.
pub(crate) struct Relay {
    pub address: SocketAddr,
    /// Our own end towards the server.
    pub base: SocketAddr,
    to: lane::Sender<(SocketAddr, Bytes)>,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Relay {
    pub fn send(&self, peer: SocketAddr, datagram: &[u8]) {
        let _ = self.to.try_send((peer, Bytes::copy_from_slice(datagram)));
    }
}

/// Asks one server; exactly one of `Stun`, `Allocated` and `Failed` is told.
pub(crate) fn start(server: Server, tls: Option<Arc<rustls::ClientConfig>>, news: lane::Sender<Box<News>>) {
    tokio::spawn(async move {
        let found = timeout(PATIENCE, tokio::net::lookup_host((server.url.host.as_str(), server.url.port))).await;
        let found: Vec<SocketAddr> = match found {
            Ok(Ok(found)) => found.take(4).collect(),
            Ok(Err(error)) => return fail(&news, &server.url, &error).await,
            Err(_) => return fail(&news, &server.url, &"its name was not found in time").await,
        };
        // One of each family is enough: all see the same, and lend the same.
        let of = |v4: bool| found.iter().copied().find(move |a| a.is_ipv4() == v4);
        let addresses: Vec<SocketAddr> = of(true).into_iter().chain(of(false)).collect();
        if !server.url.turn {
            // STUN over TCP tells the address of a TCP connection, which nobody here can use.
            let usable = server.url.transport == Transport::Udp;
            let _ = news.send(Box::new(News::Stun(if usable { addresses } else { Vec::new() }))).await;
            return;
        }
        let mut why = io::Error::other("its name has no address");
        for address in addresses {
            match allocate(&server, address, tls.clone(), &news).await {
                Ok(()) => return,
                Err(error) => why = error,
            }
        }
        fail(&news, &server.url, &why).await;
    });
}

async fn fail(news: &lane::Sender<Box<News>>, url: &IceUrl, why: &(dyn fmt::Display + Sync)) {
    let _ = news.send(Box::new(News::Failed(format!("{}:{}: {why}", url.host, url.port)))).await;
}

/// A client of the library over a socket of ours. `Err` only before an address was allocated.
async fn allocate(
    server: &Server,
    address: SocketAddr,
    tls: Option<Arc<rustls::ClientConfig>>,
    news: &lane::Sender<Box<News>>,
) -> io::Result<()> {
    let mut config = TurnConfig::new(TurnCredentials::new(&server.username, &server.credential));
    if address.is_ipv6() {
        // A server that has no IPv4 address lends none.
        config.set_address_family(AddressFamily::IPV6);
    }
    if server.url.transport == Transport::Udp && !server.url.secure {
        let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(address).await?;
        let local = socket.local_addr()?;
        let client = TurnClientUdp::allocate(local, address, config);
        return Session::new(client, Pipe::Udp(socket), local, address, news.clone()).run().await;
    }
    let tcp = timeout(PATIENCE, TcpStream::connect(address)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    tcp.set_nodelay(true)?;
    let local = tcp.local_addr()?;
    let pipe = if server.url.secure {
        let Some(tls) = tls else { return Err(io::Error::other("TLS is not set up for TURN")) };
        let name = rustls::pki_types::ServerName::try_from(server.url.host.clone()).map_err(io::Error::other)?;
        // It is no HTTP that is spoken here.
        let mut tls = (*tls).clone();
        tls.alpn_protocols.clear();
        let connected = timeout(PATIENCE, tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, tcp)).await;
        Pipe::Stream(Box::new(connected.map_err(|_| io::ErrorKind::TimedOut)??))
    } else {
        Pipe::Stream(Box::new(tcp))
    };
    let client = TurnClientTcp::allocate(local, address, config);
    Session::new(client, pipe, local, address, news.clone()).run().await
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

enum Pipe {
    Udp(UdpSocket),
    Stream(Box<dyn Stream>),
}

impl Pipe {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Udp(socket) => socket.recv(buffer).await,
            Self::Stream(stream) => match stream.read(buffer).await? {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                read => Ok(read),
            },
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            // What UDP loses the library repeats.
            Self::Udp(socket) => {
                let _ = socket.send(bytes).await;
                Ok(())
            }
            Self::Stream(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }
}

/// What is known of a peer behind the relay.
#[derive(Default)]
struct Known {
    permitted: bool,
    sent: u32,
    held: Vec<Bytes>,
}

struct Session<C> {
    client: C,
    pipe: Pipe,
    local: SocketAddr,
    server: SocketAddr,
    news: lane::Sender<Box<News>>,
    base: Instant,
    relay: Option<SocketAddr>,
    peers: BTreeMap<SocketAddr, Known>,
    outgoing: lane::Receiver<(SocketAddr, Bytes)>,
    handle: Option<lane::Sender<(SocketAddr, Bytes)>>,
}

impl<C: TurnClientApi> Session<C> {
    fn new(client: C, pipe: Pipe, local: SocketAddr, server: SocketAddr, news: lane::Sender<Box<News>>) -> Self {
        let (handle, outgoing) = lane(WAITING);
        let (base, peers) = (Instant::now(), BTreeMap::new());
        Self { client, pipe, local, server, news, base, relay: None, peers, outgoing, handle: Some(handle) }
    }

    fn now(&self) -> StunInstant {
        // The library's clock starts where we say; a second ahead keeps it from before its own zero.
        let nanos = (self.base.elapsed() + Duration::from_secs(1)).as_nanos();
        StunInstant::from_nanos(i64::try_from(nanos).unwrap_or(i64::MAX))
    }

    /// Fails only before there is an address: whoever was told of one is told of no failure.
    async fn run(mut self) -> io::Result<()> {
        match self.live().await {
            Err(error) => self.over(error),
            Ok(()) => Ok(()),
        }
    }

    async fn live(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let wait = match self.client.poll(self.now()) {
                TurnPollRet::WaitUntil(at) => {
                    let left = at.as_nanos().saturating_sub(self.now().as_nanos());
                    Duration::from_nanos(u64::try_from(left).unwrap_or(0)).min(Duration::from_secs(60))
                }
                TurnPollRet::Closed => return Err(io::Error::other("the relay closed the allocation")),
                _ => Duration::ZERO,
            };
            self.flush().await?;
            if self.events().await? {
                continue;
            }
            if self.relay.is_none() && self.base.elapsed() >= PATIENCE {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let wait = if self.relay.is_none() { wait.min(PATIENCE.saturating_sub(self.base.elapsed())) } else { wait };
            tokio::select! {
                read = self.pipe.read(&mut buffer) => match read {
                    Ok(read) => self.received(&buffer[..read]),
                    Err(error) if matches!(self.pipe, Pipe::Udp(_)) => tracing::debug!(%error, "TURN over UDP"),
                    Err(error) => return Err(error),
                },
                sent = self.outgoing.recv() => match sent {
                    Some((peer, datagram)) => self.forward(peer, datagram).await?,
                    // The driver let go of the address: give it back.
                    None => {
                        let now = self.now();
                        let _ = self.client.delete(now);
                        let _ = self.client.poll(now);
                        return self.flush().await;
                    }
                },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// After an allocation the driver has been told enough; its pairs over this relay just stop to answer.
    fn over(&self, error: io::Error) -> io::Result<()> {
        if self.relay.is_some() {
            tracing::debug!(%error, server = %self.server, "relay lost");
            return Ok(());
        }
        Err(error)
    }

    async fn flush(&mut self) -> io::Result<()> {
        while let Some(transmit) = self.client.poll_transmit(self.now()) {
            self.pipe.write(&transmit.data).await?;
        }
        Ok(())
    }

    /// Whether anything happened.
    async fn events(&mut self) -> io::Result<bool> {
        let mut any = false;
        while let Some(event) = self.client.poll_event() {
            any = true;
            match event {
                TurnEvent::AllocationCreated(_, address) => {
                    if let (None, Some(to)) = (self.relay, self.handle.take()) {
                        self.relay = Some(address);
                        let base = if self.local.is_ipv4() == address.is_ipv4() { self.local } else { address };
                        let _ = self.news.send(Box::new(News::Allocated(Relay { address, base, to }))).await;
                    }
                }
                TurnEvent::AllocationCreateFailed(_) if self.relay.is_none() => {
                    return Err(io::Error::other("the relay refused; are its credentials valid still?"));
                }
                TurnEvent::PermissionCreated(_, ip) => self.permitted(ip).await?,
                _ => {}
            }
        }
        Ok(any)
    }

    async fn permitted(&mut self, ip: IpAddr) -> io::Result<()> {
        let mut ready = Vec::new();
        for (peer, known) in self.peers.iter_mut().filter(|(peer, _)| peer.ip() == ip) {
            known.permitted = true;
            ready.extend(known.held.drain(..).map(|d| (*peer, d)));
        }
        for (peer, datagram) in ready {
            self.forward(peer, datagram).await?;
        }
        Ok(())
    }

    async fn forward(&mut self, peer: SocketAddr, datagram: Bytes) -> io::Result<()> {
        let now = self.now();
        if self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&peer) {
            return Ok(());
        }
        let known = self.peers.entry(peer).or_default();
        if !known.permitted && !self.client.have_permission(TransportType::Udp, peer.ip()) {
            if known.held.is_empty() {
                let _ = self.client.create_permission(TransportType::Udp, peer.ip(), now);
            }
            if known.held.len() < HELD {
                known.held.push(datagram);
            }
            return self.flush().await;
        }
        known.sent = known.sent.saturating_add(1);
        if known.sent == CHANNEL_AFTER && matches!(self.pipe, Pipe::Udp(_)) {
            let _ = self.client.bind_channel(TransportType::Udp, peer, now);
        }
        if let Ok(Some(transmit)) = self.client.send_to(TransportType::Udp, peer, datagram, now) {
            let bytes = transmit.data.build();
            self.pipe.write(&bytes).await?;
        }
        self.flush().await
    }

    fn received(&mut self, bytes: &[u8]) {
        let now = self.now();
        let transport = if matches!(self.pipe, Pipe::Udp(_)) { TransportType::Udp } else { TransportType::Tcp };
        let Some(relay) = self.relay else {
            let _ = self.client.recv(Transmit::new(bytes, transport, self.server, self.local), now);
            return;
        };
        let tell = |peer, data: &[u8]| {
            let _ = self.news.try_send(Box::new(News::Datagram { relay, peer, bytes: Bytes::copy_from_slice(data) }));
        };
        if let TurnRecvRet::PeerData(data) =
            self.client.recv(Transmit::new(bytes, transport, self.server, self.local), now)
        {
            tell(data.peer, data.data());
        }
        while let Some(data) = self.client.poll_recv(now) {
            tell(data.peer, data.data());
        }
    }
}
