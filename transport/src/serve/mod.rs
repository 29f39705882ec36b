//! The machine's end: gRPC, gRPC-web and plain HTTP on one port.
//!
//! TLS with ALPN (`h2`, `http/1.1`), or without TLS HTTP/2 by prior knowledge and HTTP/1.1, told apart by the first bytes. HTTP/2
//! carries gRPC; both carry gRPC-web for browsers, with CORS, and `GET /` for health checks.

mod connection;
mod web;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use crate::Body;
use crate::sever::{Cord, Severable, Socket};
use crate::webrtc::{CandidatePair, ChannelInfo, Sever, Silence};
use connection::Waiting;

/// How the port is served.
#[derive(Clone)]
pub struct ServeOptions {
    /// TLS; in clear where `None`.
    pub tls: Option<Arc<ServerConfig>>,
    /// How long the TLS handshake may take. Default 10 s.
    pub handshake_timeout: Duration,
    /// How long a connection may say nothing before its first bytes. Default 10 s.
    pub first_byte_timeout: Duration,
    /// How long an HTTP/1.1 request's head may take. Default 10 s.
    pub header_timeout: Duration,
    /// Connections at once. At the limit the oldest that has not made a request yet is closed for a new one; where all have, the
    /// new one is closed. Default 1,024.
    pub max_connections: usize,
    /// How long calls that run may go on after `shutdown`. Default 2 s.
    pub drain: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        let ten = Duration::from_secs(10);
        Self {
            tls: None,
            handshake_timeout: ten,
            first_byte_timeout: ten,
            header_timeout: ten,
            max_connections: 1024,
            drain: Duration::from_secs(2),
        }
    }
}

/// Where connections come from.
#[derive(Debug)]
pub enum Listener {
    /// A TCP port.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

impl Listener {
    async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => Ok(Socket::Tcp(listener.accept().await?.0)),
            Self::Unix(listener) => Ok(Socket::Unix(listener.accept().await?.0)),
        }
    }
}

/// One connection, as every request on it knows it (in its extensions, as `Arc<PeerConnection>`).
#[derive(Debug)]
pub struct PeerConnection {
    /// Unique in the process.
    pub id: u64,
    /// The peer's address, for sockets that have one; over WebRTC that of the first selected pair.
    pub remote: Option<SocketAddr>,
    /// Our address, likewise.
    pub local: Option<SocketAddr>,
    /// Whether one connection is one client, as over HTTP/2 and WebRTC; over HTTP/1.1 one client may use several.
    pub http2: bool,
    /// Over WebRTC: what the signaling service said of the caller, who proves nothing on the channel itself.
    pub introduced: Option<Introduced>,
    end: End,
    /// The bound that the kernel was told last, in milliseconds.
    bound: AtomicU64,
}

/// What a signaling service says of a caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Introduced {
    /// Whom it authenticated: the credential's type, such as `api-key`, and its id; `None` where it does not say.
    pub credential: Option<(String, String)>,
    /// The hosts that the caller asked for.
    pub hosts: Vec<String>,
}

/// What a connection ends with.
#[derive(Debug)]
enum End {
    Socket(Arc<Cord>),
    Channel { sever: Sever, silence: Silence, info: watch::Receiver<ChannelInfo> },
}

impl PeerConnection {
    fn over_socket(local: Option<SocketAddr>, remote: Option<SocketAddr>, http2: bool, cord: Arc<Cord>) -> Self {
        let end = End::Socket(cord);
        Self { id: next_id(), remote, local, http2, introduced: None, end, bound: AtomicU64::new(0) }
    }

    pub(crate) fn over_channel(
        introduced: Introduced,
        sever: Sever,
        silence: Silence,
        info: watch::Receiver<ChannelInfo>,
    ) -> Self {
        let CandidatePair { local, remote } = info.borrow().pair;
        Self {
            id: next_id(),
            remote: Some(remote.address),
            local: Some(local.address),
            http2: true,
            introduced: Some(introduced),
            end: End::Channel { sever, silence, info },
            bound: AtomicU64::new(0),
        }
    }

    /// The pair that packets go between now; `None` where the connection is not over WebRTC.
    pub fn pair(&self) -> Option<CandidatePair> {
        match &self.end {
            End::Socket(_) => None,
            End::Channel { info, .. } => Some(info.borrow().pair),
        }
    }

    /// Tells the kernel, or the peer connection's driver, how long the peer may say nothing, not even that it got what was sent or that it is
    /// there: `max(2 W, 4 s)` while something of window W is held, else 30 s. Then the connection is closed.
    pub fn hold(&self, window: Option<Duration>) {
        let bound = window.map_or(Duration::from_secs(30), |w| (2 * w).max(Duration::from_secs(4)));
        let millis = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX);
        if self.bound.swap(millis, Ordering::Relaxed) == millis {
            return;
        }
        match &self.end {
            End::Socket(cord) => {
                cord.set_user_timeout(bound);
                cord.set_keepalive(bound / 4, bound / 4);
            }
            End::Channel { silence, .. } => silence.bound(bound),
        }
    }

    /// Ends the connection at once.
    pub fn sever(&self, why: &'static str) {
        match &self.end {
            End::Socket(cord) => cord.sever(why),
            End::Channel { sever, .. } => sever.sever(why),
        }
    }
}

/// What happens to connections that speak HTTP, or gRPC over WebRTC.
#[derive(Clone, Debug)]
pub enum ConnectionEvent {
    /// The first bytes have told what it speaks, or the channel is open.
    Opened(Arc<PeerConnection>),
    /// It is gone.
    Closed(Arc<PeerConnection>),
}

/// Serves `grpc` on `listener` until `shutdown`, then lets running calls drain.
///
/// Fails only where the listener itself is broken; what a peer does never ends the server.
pub async fn serve<S>(
    listener: Listener,
    grpc: S,
    options: ServeOptions,
    events: impl Fn(ConnectionEvent) + Send + Sync + 'static,
    shutdown: CancellationToken,
) -> io::Result<()>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = std::convert::Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    let (tasks, waiting) = (TaskTracker::new(), Arc::new(Waiting::new(options.max_connections)));
    let web = web::router(grpc.clone());
    let shared =
        Arc::new(connection::Shared { grpc, web, events, options: options.clone(), shutdown: shutdown.clone() });
    loop {
        let socket = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(socket) => socket,
                Err(e) if is_fatal(&e) => return Err(e),
                Err(e) => {
                    // Out of descriptors or a peer that left while it was accepted: others must not starve, nor this loop spin.
                    tracing::warn!(error = %e, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            },
        };
        // Whatever can wait is done by the connection's own task: while this loop is busy the kernel drops whoever knocks.
        let (local, remote) = socket.addresses();
        let (stream, cord) = Severable::new(socket);
        let Some(place) = waiting.enter(cord.clone()) else {
            cord.sever("too many connections");
            continue;
        };
        tasks.spawn(connection::run(shared.clone(), stream, cord, place, local, remote));
    }
    tasks.close();
    if tokio::time::timeout(options.drain, tasks.wait()).await.is_err() {
        waiting.sever_all("the server shut down");
        tasks.wait().await;
    }
    Ok(())
}

fn is_fatal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotConnected)
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
