//! gRPC-direct: one HTTP/2 connection over TCP, with or without TLS, or over a Unix socket.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::http2::{self, SEND_BUFFER};
use crate::link::{Link, LinkId, LinkInfo, LinkKind, chain};
use crate::sever::{Cord, Severable, Socket};

/// What the kernel may hold of unsent data: three packets. A lossy way carries one in a quarter of a second, and a beat waits for what is
/// before it.
const UNSENT: u32 = 4 << 10;

/// Where a machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address and port.
    Tcp(SocketAddr),
    /// A Unix socket's path.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Whether the connection is encrypted, and who has to be at its other end.
#[derive(Clone)]
pub enum Security {
    /// TLS; the peer must prove `name`, whatever address it was found at.
    Tls {
        /// From [`crate::tls::Trust::client_config`].
        config: Arc<ClientConfig>,
        /// The name that the certificate must bear.
        name: ServerName<'static>,
    },
    /// In clear. Credentials must not be sent over such a link unless the user said so.
    Clear,
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls { name, .. } => write!(f, "Tls({name:?})"),
            Self::Clear => f.write_str("Clear"),
        }
    }
}

/// What to connect to.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where.
    pub address: Address,
    /// How.
    pub security: Security,
}

/// How long each stage may take.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// TCP's handshake; default 5 s.
    pub tcp_timeout: Duration,
    /// TLS's and HTTP/2's handshakes together; default 5 s.
    pub handshake_timeout: Duration,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self { tcp_timeout: Duration::from_secs(5), handshake_timeout: Duration::from_secs(5) }
    }
}

/// The steps of making a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The socket.
    Tcp,
    /// TLS, where it is spoken.
    Tls,
    /// HTTP/2's preface.
    Http2,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Http2 => "http2",
        })
    }
}

/// Why no link came about.
#[derive(Debug, thiserror::Error)]
#[error("{address}: {stage}: {what}")]
pub struct ConnectError {
    /// Where.
    pub address: Address,
    /// How far it got.
    pub stage: Stage,
    /// What happened and what to do.
    pub what: String,
    /// The peer answered and is not, or does not prove to be, the machine: trying again changes nothing.
    pub verdict: bool,
}

/// Makes a link. `stages` hears of each stage when it ends, with the time it took.
pub async fn connect(
    target: &Target,
    options: &ConnectOptions,
    stages: &mut (dyn FnMut(Stage, Duration) + Send),
) -> Result<Link, ConnectError> {
    let fail = |stage, what: String, verdict| ConnectError { address: target.address.clone(), stage, what, verdict };
    let started = Instant::now();
    let socket = match timeout(options.tcp_timeout, open(&target.address)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(e)) => return Err(fail(Stage::Tcp, advice(&e, &target.address), false)),
        Err(_) => return Err(fail(Stage::Tcp, format!("no answer within {:?}", options.tcp_timeout), false)),
    };
    let rtt = started.elapsed();
    stages(Stage::Tcp, rtt);
    let (local, remote) = socket.addresses();
    let kind = if matches!(socket, Socket::Unix(_)) { LinkKind::Unix } else { LinkKind::Direct };
    let encrypted = matches!(target.security, Security::Tls { .. });
    let info = LinkInfo { id: LinkId::next(), kind, encrypted, local, remote, since: Instant::now(), rtt };
    let (stream, cord) = Severable::new(socket);
    let shaken = timeout(options.handshake_timeout, shake(target, info, stream, cord, stages)).await;
    match shaken {
        Ok(Ok(link)) => Ok(link),
        Ok(Err((stage, what, verdict))) => Err(fail(stage, what, verdict)),
        Err(_) => {
            Err(fail(Stage::Tls, format!("connected, but no handshake within {:?}", options.handshake_timeout), false))
        }
    }
}

async fn open(address: &Address) -> io::Result<Socket> {
    match address {
        Address::Tcp(address) => {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            let socket = SockRef::from(&tcp);
            // A killed process's queue dies with it: the machine must not get beats of a client that is gone.
            socket.set_linger(Some(Duration::ZERO))?;
            let socket = Socket::Tcp(tcp);
            socket.limit_unsent(UNSENT);
            Ok(socket)
        }
        Address::Unix(path) => Ok(Socket::Unix(UnixStream::connect(path).await?)),
    }
}

type Failed = (Stage, String, bool);

async fn shake(
    target: &Target,
    info: LinkInfo,
    stream: Severable,
    cord: Arc<Cord>,
    stages: &mut (dyn FnMut(Stage, Duration) + Send),
) -> Result<Link, Failed> {
    match &target.security {
        Security::Clear => http(info, stream, cord, stages).await,
        Security::Tls { config, name } => {
            let started = Instant::now();
            let connector = TlsConnector::from(config.clone());
            let tls = connector
                .connect_with(name.clone(), stream, |c| c.set_buffer_limit(Some(SEND_BUFFER)))
                .await
                .map_err(|e| tls_failure(&e, name))?;
            stages(Stage::Tls, started.elapsed());
            http(info, tls, cord, stages).await
        }
    }
}

async fn http<S>(
    info: LinkInfo,
    stream: S,
    cord: Arc<Cord>,
    stages: &mut (dyn FnMut(Stage, Duration) + Send),
) -> Result<Link, Failed>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let started = Instant::now();
    let (carrier, places, connection) =
        http2::handshake(&info, stream, cord.clone()).await.map_err(|e| (Stage::Http2, chain(&e), false))?;
    stages(Stage::Http2, started.elapsed());
    cord.set_round_trip(info.rtt);
    // The connection owns the stream: the socket is closed with it, whoever still holds the link.
    Ok(Link::start(info, Box::new(carrier), places, connection))
}

fn advice(error: &io::Error, address: &Address) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            format!("nothing listens there ({error}); is the machine running, and is {address} its port?")
        }
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
            format!("no route from this computer ({error})")
        }
        io::ErrorKind::NotFound => format!("there is no such socket ({error})"),
        io::ErrorKind::PermissionDenied => format!("this user may not connect ({error})"),
        _ => error.to_string(),
    }
}

fn tls_failure(error: &io::Error, name: &ServerName<'_>) -> Failed {
    let tls = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    let name = name.to_str();
    let (what, verdict) = match tls {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => (
            "its certificate is signed by nobody this computer trusts; if the machine has its own authority, name its file (LIFELINE_CA_FILE or --ca-file)".to_owned(),
            true,
        ),
        Some(rustls::Error::InvalidCertificate(
            e @ (rustls::CertificateError::NotValidForName | rustls::CertificateError::NotValidForNameContext { .. }),
        )) => (format!("it is not {name}: {e}; another machine answers at this address"), true),
        Some(rustls::Error::InvalidCertificate(e)) => (format!("its certificate cannot be accepted for {name}: {e}"), true),
        Some(rustls::Error::InvalidMessage(_)) => {
            ("it does not speak TLS; where that is meant, allow it (--insecure), and know that everybody on the network can then read along".to_owned(), true)
        }
        _ => (error.to_string(), false),
    };
    (Stage::Tls, what, verdict)
}
