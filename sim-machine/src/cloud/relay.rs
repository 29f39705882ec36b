//! STUN and TURN (RFC 8656) over UDP, TCP and TLS on one port: a sans-IO server per transport, and sockets around them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{hmac, rand};
use machine_api::proto::rpc::webrtc::v1::IceServer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use turn_server_proto::api::{SocketAllocateError, TcpConnectError, TurnServerApi, TurnServerPollRet};
use turn_server_proto::server::TurnServer;
use turn_server_proto::stun::agent::Transmit;
use turn_server_proto::types::message::ALLOCATE;
use turn_server_proto::types::prelude::DelayedTransmitBuild;
use turn_server_proto::types::stun::TransportType;
use turn_server_proto::types::stun::attribute::{ErrorCode, Realm, Userhash, Username, XorMappedAddress};
use turn_server_proto::types::stun::message::{
    BINDING, LongTermKeyCredentials, Message, MessageClass, MessageIntegrityCredentials, MessageWriteVec,
};
use turn_server_proto::types::stun::prelude::{MessageWrite, MessageWriteExt};

use super::{CloudError, reachable};
use machine_host::ServerConfig;

/// What clients are asked to authenticate for.
const REALM: &str = "lifeline";
/// The largest datagram or frame that is relayed.
const MAX_FRAME: usize = 65_535;
/// Addresses that are lent at once: each is a socket and a task.
const MAX_ALLOCATIONS: usize = 512;
/// TCP connections at once.
const MAX_CONNECTIONS: usize = 256;
/// Frames that wait for the servers; datagrams beyond it are lost, as datagrams are.
const QUEUE: usize = 1024;
/// How long a TCP connection may say nothing whole, in seconds; clients refresh what they hold every few minutes.
const SILENT: Duration = Duration::from_secs(900);
/// How long a connection has for its first byte and for TLS.
const GREETING: Duration = Duration::from_secs(10);
/// The first byte of TLS (RFC 7983): no STUN message or channel data begins with it.
const TLS_HANDSHAKE: u8 = 22;
/// Credentials are good for one to two of these.
const CREDENTIAL_LIFE: u64 = 3600;
/// Names that are kept for those who use only the hash of theirs; who comes after so many is asked for the name itself.
const MAX_GIVEN: usize = 16_384;

/// How STUN and TURN are served.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    /// The port, UDP and TCP, at the address that the cloud itself has. Default 3478.
    pub port: u16,
    /// The address that is lent and told to clients. Default the cloud's, or this host's first where that is any.
    pub public: Option<IpAddr>,
}

impl Default for RelayOptions {
    fn default() -> Self {
        Self { port: 3478, public: None }
    }
}

/// Signs and checks credentials that need no list: the name says until when it is good, the password is its signature.
#[derive(Clone)]
pub(super) struct Credentials {
    key: Arc<hmac::Key>,
    /// Names that were given out, by their hashes: the server offers what RFC 8489 section 9.2 has against listeners, and clients
    /// that know it send no name.
    given: Arc<Mutex<BTreeMap<[u8; 32], String>>>,
    stun: String,
    turn: Vec<String>,
}

impl Credentials {
    fn new(address: SocketAddr, tls: bool) -> io::Result<Self> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new());
        let key = key.map_err(|_| io::Error::other("the system gives no randomness"))?;
        let mut turn = vec![format!("turn:{address}?transport=udp"), format!("turn:{address}?transport=tcp")];
        turn.extend(tls.then(|| format!("turns:{address}?transport=tcp")));
        Ok(Self { key: Arc::new(key), given: Arc::default(), stun: format!("stun:{address}"), turn })
    }

    /// Servers for `who`, as clients are told them. All that is given out within an hour is the same.
    pub(super) fn servers(&self, who: &str) -> Vec<IceServer> {
        let until = (unix_time() / CREDENTIAL_LIFE + 2) * CREDENTIAL_LIFE;
        let username = format!("{until}:{}", who.chars().take(100).collect::<String>());
        let credential = self.password(&username);
        self.keep(&username);
        vec![
            IceServer { urls: vec![self.stun.clone()], username: String::new(), credential: String::new() },
            IceServer { urls: self.turn.clone(), username, credential },
        ]
    }

    fn given(&self) -> std::sync::MutexGuard<'_, BTreeMap<[u8; 32], String>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, username: &str) {
        let mut given = self.given();
        let hash = Userhash::compute(username, REALM);
        if !given.contains_key(&hash) {
            let now = unix_time();
            given.retain(|_, name| good_until(name).is_some_and(|until| until > now));
            if given.len() < MAX_GIVEN {
                given.insert(hash, username.to_owned());
            }
        }
    }

    /// Whose message it is, by its name or its name's hash.
    fn user_of(&self, message: &Message<'_>) -> Option<String> {
        match message.attribute::<Username>() {
            Ok(name) => Some(name.username().to_owned()),
            Err(_) => self.given().get(message.attribute::<Userhash>().ok()?.hash()).cloned(),
        }
    }

    fn password(&self, username: &str) -> String {
        hmac::sign(&self.key, username.as_bytes()).as_ref().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Until when a name is good that we gave out.
fn good_until(username: &str) -> Option<u64> {
    username.split_once(':')?.0.parse().ok()
}

/// A connection, whatever carries it.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// What arrived, where.
struct Arrived {
    transport: TransportType,
    from: SocketAddr,
    to: SocketAddr,
    frame: Vec<u8>,
    /// Which of the two servers it is for.
    server: usize,
}

/// Where UDP's server is among the two.
const UDP: usize = 0;
/// Where TCP's is.
const TCP: usize = 1;

/// A STUN and TURN server whose ports are open.
pub struct Relay {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
    tls: Option<TlsAcceptor>,
    local: SocketAddr,
    public: IpAddr,
    credentials: Credentials,
    servers: [TurnServer; 2],
    /// Names that the servers know.
    known: BTreeMap<String, u64>,
    /// Addresses that are lent.
    lent: BTreeMap<SocketAddr, (Arc<UdpSocket>, AbortOnDropHandle<()>)>,
    connections: BTreeMap<SocketAddr, (mpsc::Sender<Vec<u8>>, AbortOnDropHandle<()>)>,
    arrivals: (mpsc::Sender<Arrived>, mpsc::Receiver<Arrived>),
}

impl Relay {
    /// Opens its ports beside a cloud that serves at `cloud`, with its certificate where it has one.
    pub async fn open(
        options: &RelayOptions,
        cloud: SocketAddr,
        tls: Option<Arc<ServerConfig>>,
    ) -> Result<Self, CloudError> {
        let at = SocketAddr::new(cloud.ip(), options.port);
        let refused = |what| move |error| CloudError::Listen { what, address: at.to_string(), error };
        let tcp = TcpListener::bind(at).await.map_err(refused("TCP"))?;
        // The same port for both, also where the system chooses it.
        let at = tcp.local_addr().map_err(refused("TCP"))?;
        let udp = UdpSocket::bind(at).await.map_err(refused("UDP"))?;
        let public = options.public.unwrap_or_else(|| reachable(at.ip()));
        let credentials =
            Credentials::new(SocketAddr::new(public, at.port()), tls.is_some()).map_err(refused("UDP"))?;
        let server = |transport| TurnServer::new(transport, at, REALM.to_owned());
        Ok(Self {
            udp: Arc::new(udp),
            tcp,
            tls: tls.map(TlsAcceptor::from),
            local: at,
            public,
            credentials,
            servers: [server(TransportType::Udp), server(TransportType::Tcp)],
            known: BTreeMap::new(),
            lent: BTreeMap::new(),
            connections: BTreeMap::new(),
            arrivals: mpsc::channel(QUEUE),
        })
    }

    /// As clients are told them.
    pub fn urls(&self) -> Vec<String> {
        let Credentials { stun, turn, .. } = &self.credentials;
        std::iter::once(stun).chain(turn).cloned().collect()
    }

    pub(super) fn credentials(&self) -> Credentials {
        self.credentials.clone()
    }

    /// Serves until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let hears = read_datagrams(self.udp.clone(), self.local, UDP, self.arrivals.0.clone());
        let _hears = AbortOnDropHandle::new(tokio::spawn(hears));
        loop {
            let next = self.settle();
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(arrived) = self.arrivals.1.recv() => self.arrived(arrived),
                accepted = self.tcp.accept() => match accepted {
                    Ok((stream, from)) => self.accepted(stream, from),
                    // Out of descriptors, as a rule: others are not to starve meanwhile.
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                },
                () = tokio::time::sleep_until(next.into()) => {}
            }
        }
    }

    fn accepted(&mut self, stream: TcpStream, from: SocketAddr) {
        self.connections.retain(|_, (sender, _)| !sender.is_closed());
        if self.connections.len() >= MAX_CONNECTIONS {
            return;
        }
        let _ = stream.set_nodelay(true);
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (local, to, tls) = (self.local, self.arrivals.0.clone(), self.tls.clone());
        let task = tokio::spawn(async move {
            let mut first = [0];
            let greeted = tokio::time::timeout(GREETING, async {
                stream.peek(&mut first).await?;
                let stream: Box<dyn Duplex> = match tls {
                    Some(tls) if first[0] == TLS_HANDSHAKE => Box::new(tls.accept(stream).await?),
                    _ => Box::new(stream),
                };
                Ok::<_, io::Error>(stream)
            });
            let Ok(Ok(stream)) = greeted.await else { return };
            let (reads, writes) = tokio::io::split(stream);
            tokio::select! {
                () = read_frames(reads, from, local, to) => {}
                () = write_frames(writes, receiver) => {}
            }
        });
        self.connections.insert(from, (sender, AbortOnDropHandle::new(task)));
    }

    fn arrived(&mut self, arrived: Arrived) {
        let Arrived { transport, from, to, frame, server } = arrived;
        // What comes to a lent address is the peer's affair; what comes to ours may ask for something.
        if to == self.local
            && let Some(reply) = seen(&frame, from).or_else(|| self.admit(&frame))
        {
            return self.send(server, from, reply);
        }
        let now = clock();
        let transmit = Transmit { data: frame, transport, from, to };
        if let Some(reply) = self.servers[server].recv(transmit, now) {
            let (to, from) = (reply.to, reply.from);
            self.transmit(server, from, to, reply.data.build());
        }
    }

    /// Makes a name known that we gave out, once whoever uses it has proven to know its password. Returns a refusal for one that is
    /// good no longer.
    fn admit(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let message = Message::from_bytes(frame).ok()?;
        let username = self.credentials.user_of(&message)?;
        let until = good_until(&username)?;
        let now = unix_time();
        if until <= now {
            self.known.remove(&username);
            // What was lent while they were good may be kept and refreshed.
            if !message.has_class(MessageClass::Request) || message.method() != ALLOCATE {
                return None;
            }
            let mut refusal = Message::builder_error(&message, MessageWriteVec::new());
            let code = ErrorCode::new(ErrorCode::UNAUTHORIZED, "these credentials have expired").ok()?;
            refusal.add_attribute(&code).ok()?;
            return Some(refusal.finish());
        }
        if !self.known.contains_key(&username) && message.attribute::<Realm>().is_ok_and(|r| r.realm() == REALM) {
            let password = self.credentials.password(&username);
            let claimed = LongTermKeyCredentials::new(username.clone(), password.clone(), REALM.to_owned());
            let claimed = MessageIntegrityCredentials::LongTerm(claimed);
            if message.validate_integrity(&claimed).is_ok() {
                self.servers.iter_mut().for_each(|server| server.add_user(username.clone(), password.clone()));
                self.known.retain(|_, until| *until > now);
                self.known.insert(username, until);
            }
        }
        None
    }

    /// Does what the servers want; when they want to be asked again.
    fn settle(&mut self) -> Instant {
        let mut next = Instant::now() + Duration::from_secs(60);
        for server in [UDP, TCP] {
            loop {
                let now = clock();
                while let Some(transmit) = self.servers[server].poll_transmit(now) {
                    self.transmit(server, transmit.from, transmit.to, transmit.data);
                }
                match self.servers[server].poll(now) {
                    TurnServerPollRet::WaitUntil(until) => {
                        next = next.min(Instant::now() + until.saturating_duration_since(now));
                        break;
                    }
                    TurnServerPollRet::AllocateSocket {
                        transport,
                        listen_addr,
                        client_addr,
                        allocation_transport,
                        family,
                    } => {
                        let lent = self.lend(server, allocation_transport, family);
                        self.servers[server].allocated_socket(
                            transport,
                            listen_addr,
                            client_addr,
                            allocation_transport,
                            family,
                            lent,
                            now,
                        );
                    }
                    // TCP is for clients that may not send UDP; peers are reached by UDP.
                    TurnServerPollRet::TcpConnect { relayed_addr, peer_addr, listen_addr, client_addr } => {
                        let refused = Err(TcpConnectError::Forbidden);
                        self.servers[server].tcp_connected(
                            relayed_addr,
                            peer_addr,
                            listen_addr,
                            client_addr,
                            refused,
                            now,
                        );
                    }
                    TurnServerPollRet::TcpClose { remote_addr, .. } => {
                        self.connections.remove(&remote_addr);
                    }
                    TurnServerPollRet::SocketClose { listen_addr, .. } => {
                        self.lent.remove(&listen_addr);
                    }
                }
            }
        }
        next
    }

    fn lend(
        &mut self,
        server: usize,
        transport: TransportType,
        family: turn_server_proto::types::AddressFamily,
    ) -> Result<SocketAddr, SocketAllocateError> {
        let ours = if self.public.is_ipv4() {
            turn_server_proto::types::AddressFamily::IPV4
        } else {
            turn_server_proto::types::AddressFamily::IPV6
        };
        if family != ours {
            return Err(SocketAllocateError::AddressFamilyNotSupported);
        }
        if transport != TransportType::Udp || self.lent.len() >= MAX_ALLOCATIONS {
            return Err(SocketAllocateError::InsufficientCapacity);
        }
        let full = |_: io::Error| SocketAllocateError::InsufficientCapacity;
        let socket = std::net::UdpSocket::bind((self.public, 0)).map_err(full)?;
        socket.set_nonblocking(true).map_err(full)?;
        let socket = Arc::new(UdpSocket::from_std(socket).map_err(full)?);
        let address = socket.local_addr().map_err(full)?;
        let hears = read_datagrams(socket.clone(), address, server, self.arrivals.0.clone());
        self.lent.insert(address, (socket, AbortOnDropHandle::new(tokio::spawn(hears))));
        Ok(address)
    }

    fn transmit(&self, server: usize, from: SocketAddr, to: SocketAddr, data: Vec<u8>) {
        match self.lent.get(&from) {
            // A datagram that does not fit into the socket's queue is lost.
            Some((socket, _)) => drop(socket.try_send_to(&data, to)),
            None => self.send(server, to, data),
        }
    }

    /// To a client.
    fn send(&self, server: usize, to: SocketAddr, data: Vec<u8>) {
        if server == UDP {
            let _ = self.udp.try_send_to(&data, to);
        } else if let Some((connection, _)) = self.connections.get(&to) {
            let _ = connection.try_send(data);
        }
    }
}

/// The answer to a STUN Binding request: the address that it came from. Ours, since version 0.7.3 of the server sends its own to itself.
fn seen(frame: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
    let request = Message::from_bytes(frame).ok()?;
    if !request.has_class(MessageClass::Request) || request.method() != BINDING {
        return None;
    }
    let mut reply = Message::builder_success(&request, MessageWriteVec::new());
    reply.add_attribute(&XorMappedAddress::new(from, request.transaction_id())).ok()?;
    reply.add_fingerprint().ok()?;
    Some(reply.finish())
}

/// The servers' clock.
fn clock() -> turn_server_proto::types::Instant {
    turn_server_proto::types::Instant::from_std(*START)
}

/// When this process first asked for the time.
static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);

async fn read_datagrams(socket: Arc<UdpSocket>, local: SocketAddr, server: usize, to: mpsc::Sender<Arrived>) {
    let mut buffer = vec![0; MAX_FRAME];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) => {
                let frame = buffer[..length].to_vec();
                let _ = to.try_send(Arrived { transport: TransportType::Udp, from, to: local, frame, server });
            }
            // What an earlier datagram met with (ICMP): it says nothing of the socket.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// STUN messages and channel data as they are framed over TCP (RFC 8656 section 12.5), until the connection ends.
async fn read_frames(
    mut stream: impl AsyncRead + Unpin,
    from: SocketAddr,
    local: SocketAddr,
    to: mpsc::Sender<Arrived>,
) {
    loop {
        let frame = tokio::time::timeout(SILENT, async {
            let mut frame = vec![0; 4];
            stream.read_exact(&mut frame).await?;
            let length = usize::from(u16::from_be_bytes([frame[2], frame[3]]));
            let whole = if frame[0] & 0xc0 == 0 { 20 + length } else { 4 + length.next_multiple_of(4) };
            frame.resize(whole, 0);
            stream.read_exact(&mut frame[4..]).await?;
            Ok::<_, io::Error>(frame)
        });
        let Ok(Ok(frame)) = frame.await else { return };
        if to.send(Arrived { transport: TransportType::Tcp, from, to: local, frame, server: TCP }).await.is_err() {
            return;
        }
    }
}

async fn write_frames(mut stream: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = frames.recv().await {
        if stream.write_all(&frame).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}
