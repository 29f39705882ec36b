//! One accepted connection: TLS, its first bytes, HTTP until its end.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};

use super::{ConnectionEvent, PeerConnection, ServeOptions};
use crate::Body;
use crate::sever::{Cord, Severable};

/// What a client that speaks HTTP/2 by prior knowledge begins with (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Streams a client may have open; ours keeps below, others wait.
const MAX_STREAMS: u32 = 200;
/// Receive windows, as the client's.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Unsent bytes per stream: replies of beats must not stand behind an image.
const SEND_BUFFER: usize = 64 << 10;
/// Unsent bytes in the kernel, likewise.
const UNSENT: u32 = 16 << 10;
/// How long a connection that holds nothing may be gone before that is found out.
const QUIET: Duration = Duration::from_secs(30);
/// Largest request head, in bytes.
const MAX_HEAD: usize = 64 << 10;

/// What all connections share.
pub(super) struct Shared<S, E> {
    pub grpc: S,
    pub web: axum::Router,
    pub events: E,
    pub options: ServeOptions,
    pub shutdown: CancellationToken,
}

/// The connections there are, and which have not made a request yet: those are closed first when there are too many.
pub(super) struct Waiting {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    all: BTreeMap<u64, Arc<Cord>>,
    silent: BTreeMap<u64, Arc<Cord>>,
}

impl Waiting {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), state: Mutex::default() }
    }

    /// A place for a new connection; at the limit the oldest silent one loses its own. `None` where none is silent.
    pub(super) fn enter(self: &Arc<Self>, cord: Arc<Cord>) -> Option<Place> {
        let mut state = self.lock();
        if state.all.len() >= self.limit {
            let (oldest, silent) = state.silent.pop_first()?;
            state.all.remove(&oldest);
            silent.sever("it said nothing while others waited");
        }
        let number = state.next;
        state.next += 1;
        state.all.insert(number, cord.clone());
        state.silent.insert(number, cord);
        Some(Place { number, of: self.clone() })
    }

    pub(super) fn sever_all(&self, why: &'static str) {
        self.lock().all.values().for_each(|cord| cord.sever(why));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among the others, given up when dropped.
pub(super) struct Place {
    number: u64,
    of: Arc<Waiting>,
}

impl Place {
    /// It has made a request: from now on it is not closed for others.
    fn speaks(&self) {
        self.of.lock().silent.remove(&self.number);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.of.lock();
        state.silent.remove(&self.number);
        state.all.remove(&self.number);
    }
}

pub(super) async fn run<S, E>(
    shared: Arc<Shared<S, E>>,
    stream: Severable,
    cord: Arc<Cord>,
    place: Place,
    local: Option<SocketAddr>,
    remote: Option<SocketAddr>,
) where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    E: Fn(ConnectionEvent) + Send + Sync + 'static,
{
    let options = &shared.options;
    cord.set_nodelay();
    cord.limit_unsent(UNSENT);
    cord.set_user_timeout(QUIET);
    cord.set_keepalive(QUIET / 4, QUIET / 4);
    let ended = match &options.tls {
        None => http(&shared, stream, cord, place, local, remote).await,
        Some(tls) => match timeout(options.handshake_timeout, TlsAcceptor::from(tls.clone()).accept(stream)).await {
            Ok(Ok(tls)) => {
                if let Some(round_trip) = cord.first_round_trip() {
                    cord.set_round_trip(round_trip);
                }
                http(&shared, tls, cord, place, local, remote).await
            }
            Ok(Err(e)) => Err(e),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no TLS handshake in time")),
        },
    };
    if let Err(error) = ended {
        tracing::debug!(%error, ?remote, "connection ended");
    }
}

async fn http<S, E, T>(
    shared: &Arc<Shared<S, E>>,
    mut stream: T,
    cord: Arc<Cord>,
    place: Place,
    local: Option<SocketAddr>,
    remote: Option<SocketAddr>,
) -> io::Result<()>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    E: Fn(ConnectionEvent) + Send + Sync + 'static,
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let silent = || io::Error::new(io::ErrorKind::TimedOut, "no first bytes in time");
    let (first, http2) =
        timeout(shared.options.first_byte_timeout, first_bytes(&mut stream)).await.map_err(|_| silent())??;
    let peer = Arc::new(PeerConnection::over_socket(local, remote, http2, cord));
    let open = Open::new(shared.clone(), peer.clone());
    let io = TokioIo::new(Rewound { first, stream });
    let place = Arc::new(place);
    if http2 {
        let service = service_fn(move |request: http::Request<Incoming>| {
            place.speaks();
            let (grpc, web) = (open.shared.grpc.clone(), open.shared.web.clone());
            let request = with_peer(request, &open.peer);
            async move {
                if !is_web(&request) {
                    return grpc.oneshot(request).await;
                }
                let answer = web.oneshot(request.map(axum::body::Body::new)).await;
                answer.map(|answer| answer.map(Body::new))
            }
        });
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(MAX_STREAMS)
            // A lossy way delivers calls and what took them back in one burst, as many as may be open at once; twenty would end the connection.
            .max_pending_accept_reset_streams(MAX_STREAMS as usize)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(MAX_HEAD as u32);
        let mut connection = std::pin::pin!(builder.serve_connection(io, service));
        let done = tokio::select! {
            done = &mut connection => done,
            () = shared.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        done.map_err(io::Error::other)
    } else {
        let service = service_fn(move |request: http::Request<Incoming>| {
            place.speaks();
            let web = open.shared.web.clone();
            let request = with_peer(request, &open.peer).map(axum::body::Body::new);
            async move { web.oneshot(request).await }
        });
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(shared.options.header_timeout).max_buf_size(MAX_HEAD);
        let mut connection = std::pin::pin!(builder.serve_connection(io, service));
        let done = tokio::select! {
            done = &mut connection => done,
            () = shared.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        done.map_err(io::Error::other)
    }
}

/// Whether a browser asks: with TLS they speak HTTP/2 as well.
fn is_web(request: &http::Request<Body>) -> bool {
    let kind = request.headers().get(http::header::CONTENT_TYPE).map_or(&b""[..], |kind| kind.as_bytes());
    request.method() != http::Method::POST || kind.starts_with(b"application/grpc-web")
}

fn with_peer(request: http::Request<Incoming>, peer: &Arc<PeerConnection>) -> http::Request<Body> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(peer.clone());
    request
}

/// Says that the connection is there, and when dropped that it is gone.
struct Open<S, E: Fn(ConnectionEvent)> {
    shared: Arc<Shared<S, E>>,
    peer: Arc<PeerConnection>,
}

impl<S, E: Fn(ConnectionEvent)> Open<S, E> {
    fn new(shared: Arc<Shared<S, E>>, peer: Arc<PeerConnection>) -> Self {
        (shared.events)(ConnectionEvent::Opened(peer.clone()));
        Self { shared, peer }
    }
}

impl<S, E: Fn(ConnectionEvent)> Drop for Open<S, E> {
    fn drop(&mut self) {
        (self.shared.events)(ConnectionEvent::Closed(self.peer.clone()));
    }
}

/// Reads until it is clear whether the peer speaks HTTP/2: at most the preface's 24 bytes.
async fn first_bytes<T: AsyncRead + Unpin>(stream: &mut T) -> io::Result<(Vec<u8>, bool)> {
    let mut first = Vec::with_capacity(PREFACE.len());
    let mut chunk = [0u8; PREFACE.len()];
    loop {
        let read = stream.read(&mut chunk[..PREFACE.len() - first.len()]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        first.extend_from_slice(&chunk[..read]);
        if !PREFACE.starts_with(&first) {
            return Ok((first, false));
        }
        if first.len() == PREFACE.len() {
            return Ok((first, true));
        }
    }
}

/// A stream whose first bytes are read a second time.
struct Rewound<T> {
    first: Vec<u8>,
    stream: T,
}

impl<T: AsyncRead + Unpin> AsyncRead for Rewound<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let take = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first[..take]);
        self.first.drain(..take);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Rewound<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
