//! A machine that answers every call as its test wants.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tower::{Service, ServiceExt};
use transport::serve::{ConnectionEvent, Listener, PeerConnection, ServeOptions};

use crate::agent::Policy;
use crate::*;
use discovery::MachineAddress;

pub const READ: &str = "/viam.component.motor.v1.MotorService/GetPosition";
pub const MOTION: &str = "/viam.component.base.v1.BaseService/SetVelocity";
pub const OTHER: &str = "/viam.component.motor.v1.MotorService/DoCommand";
/// A call whose answer never ends: a frame every few milliseconds.
pub const VIDEO: &str = "/acme.v1.Camera/Video";
pub const STOP: &str = "/viam.component.base.v1.BaseService/Stop";

/// No test waits longer for something that should happen.
pub const LIMIT: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct Script {
    /// Calls seen, by path.
    seen: Mutex<BTreeMap<String, u64>>,
    /// Calls to leave unanswered before answering.
    mute: AtomicU64,
    streams: AtomicU64,
    /// Milliseconds until a reply.
    delay: AtomicU64,
    /// Bytes of a reply.
    size: AtomicU64,
    /// Replies end without their trailers, that is: not at all.
    unfinished: AtomicBool,
    /// Replies are refused by something that is no gRPC server.
    status: AtomicU16,
    /// Each call as it came: path, order header, body.
    pub calls: Mutex<Vec<Seen>>,
    pub arrived: Notify,
    pub authorization: Mutex<Option<HeaderValue>>,
    connections: Mutex<Vec<Arc<PeerConnection>>>,
}

/// A stream that somebody watches.
struct Watched(Arc<Script>);

impl Watched {
    fn new(script: Arc<Script>) -> Self {
        script.streams.fetch_add(1, Ordering::SeqCst);
        Self(script)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Script {
    /// Streams that are being sent.
    pub fn streams(&self) -> u64 {
        self.streams.load(Ordering::SeqCst)
    }
}

/// A call as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub path: String,
    pub order: Option<HeaderValue>,
    pub body: Bytes,
}

#[derive(Clone)]
pub struct Machine {
    pub script: Arc<Script>,
    pub address: SocketAddr,
    down: CancellationToken,
}

impl Machine {
    pub async fn start() -> Self {
        Self::on("127.0.0.1:0".parse().unwrap(), None).await
    }

    pub async fn on(address: SocketAddr, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(Script::default());
        let down = CancellationToken::new();
        let options = ServeOptions { tls, drain: Duration::from_secs(2), ..ServeOptions::default() };
        let peers = script.clone();
        let events = move |event| {
            if let ConnectionEvent::Opened(peer) = event {
                peers.connections.lock().unwrap().push(peer);
            }
        };
        let grpc = Scripted(script.clone());
        tokio::spawn(transport::serve::serve(Listener::Tcp(listener), grpc, options, events, down.clone()));
        Self { script, address, down }
    }

    pub fn mute(&self, calls: u64) {
        self.script.mute.store(calls, Ordering::SeqCst);
    }

    pub fn delay(&self, delay: Duration) {
        self.script.delay.store(delay.as_millis() as u64, Ordering::SeqCst);
    }

    /// Ends the server in order: connections finish what is out on them; the port is free afterwards.
    pub async fn leave(&self) {
        self.down.cancel();
        while TcpListener::bind(self.address).await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    pub fn unfinished(&self) {
        self.script.unfinished.store(true, Ordering::SeqCst);
    }

    pub fn refuse(&self, status: u16) {
        self.script.status.store(status, Ordering::SeqCst);
    }

    pub fn calls(&self, path: &str) -> Vec<Seen> {
        self.script.calls.lock().unwrap().iter().filter(|call| call.path == path).cloned().collect()
    }

    pub fn reply_size(&self, bytes: u64) {
        self.script.size.store(bytes, Ordering::SeqCst);
    }

    pub fn seen(&self, path: &str) -> u64 {
        self.script.seen.lock().unwrap().get(path).copied().unwrap_or(0)
    }

    pub async fn arrival(&self, path: &str, count: u64) {
        tokio::time::timeout(LIMIT, async {
            loop {
                let arrived = self.script.arrived.notified();
                if self.seen(path) >= count {
                    return;
                }
                arrived.await;
            }
        })
        .await
        .expect("the call arrives");
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        self.script.connections.lock().unwrap().drain(..).for_each(|peer| peer.sever("cut by the test"));
    }

    /// Ends the server; its port is free afterwards.
    pub async fn stop(&self) {
        self.down.cancel();
        self.cut();
        while TcpListener::bind(self.address).await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    pub fn options(&self) -> DialOptions {
        options(self.address)
    }
}

pub fn options(address: SocketAddr) -> DialOptions {
    DialOptions { insecure: true, ..DialOptions::new(MachineAddress::Socket(address)) }
}

pub fn patient(address: SocketAddr) -> DialOptions {
    DialOptions { policy: Policy { initial_attempts: 0, ..Policy::default() }, ..options(address) }
}

#[derive(Clone)]
pub struct Scripted(pub Arc<Script>);

impl Service<Request<Body>> for Scripted {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let script = self.0.clone();
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            *script.authorization.lock().unwrap() = request.headers().get("authorization").cloned();
            let order = request.headers().get(machine_api::ORDER_HEADER).cloned();
            let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            script.calls.lock().unwrap().push(Seen { path: path.clone(), order, body });
            *script.seen.lock().unwrap().entry(path.clone()).or_default() += 1;
            script.arrived.notify_waiters();
            let probe = path.ends_with("/GetVersion");
            let less = |left: u64| left.checked_sub(1);
            if !probe && script.mute.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok() {
                std::future::pending::<()>().await;
            }
            if !probe {
                tokio::time::sleep(Duration::from_millis(script.delay.load(Ordering::SeqCst))).await;
            }
            if path == VIDEO {
                let watched = Watched::new(script.clone());
                let frames = futures_util::stream::unfold(watched, |watched| async {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    Some((Ok::<_, Status>(Frame::data(Bytes::from_static(&[0; 1024]))), watched))
                });
                return Ok(Response::new(Body::new(StreamBody::new(frames))));
            }
            let size = usize::try_from(script.size.load(Ordering::SeqCst)).unwrap();
            let mut message = vec![0];
            message.extend_from_slice(&u32::try_from(size).unwrap().to_be_bytes());
            message.resize(5 + size, 7);
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let ended = script.unfinished.load(Ordering::SeqCst) && !probe;
            let trailers = async move {
                if ended {
                    std::future::pending::<()>().await;
                }
                Some(Ok(trailers))
            };
            let body = Full::new(Bytes::from(message)).with_trailers(Box::pin(trailers));
            let mut response = Response::new(Body::new(body));
            if let Ok(status) = http::StatusCode::from_u16(script.status.load(Ordering::SeqCst))
                && !probe
            {
                *response.status_mut() = status;
            }
            response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            Ok(response)
        })
    }
}

pub fn request(path: &str) -> Request<Body> {
    let mut request = Request::new(Body::new(Full::new(Bytes::from_static(&[0; 5]))));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = path.parse().unwrap();
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    request
}

/// A whole call: the bytes of its reply, or its status.
pub async fn call(channel: &MachineChannel, request: Request<Body>) -> Result<usize, Status> {
    let reply = tokio::time::timeout(LIMIT, channel.clone().oneshot(request)).await.expect("never a hang")?;
    let collected = reply.into_body().collect().await?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    assert_eq!(trailers.get("grpc-status").unwrap(), "0");
    Ok(collected.to_bytes().len())
}
