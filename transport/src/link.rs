//! One live connection.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::Body;
use crate::body::Counted;
use crate::places::Places;
use crate::webrtc::CandidatePair;

/// Unacknowledged data ends a connection that holds no session after this long.
const IDLE_USER_TIMEOUT: Duration = Duration::from_secs(30);
/// The shortest bound for one that holds a session: shorter ones would take a slow link for a dead one.
const MIN_HELD_USER_TIMEOUT: Duration = Duration::from_secs(4);

/// A link's number, unique in its process and never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkId(pub u64);

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link {}", self.0)
    }
}

impl LinkId {
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// How a link reaches the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum LinkKind {
    /// gRPC over TCP.
    Direct,
    /// gRPC over a Unix socket.
    Unix,
    /// gRPC over a WebRTC data channel whose first selected pair was this; [`Link::pair`] tells the present one.
    WebRtc(CandidatePair),
}

/// What is known of a link from its first moment on.
#[derive(Clone, Debug)]
pub struct LinkInfo {
    /// Its number.
    pub id: LinkId,
    /// How it reaches the machine.
    pub kind: LinkKind,
    /// Whether it is encrypted and the machine's name was proven.
    pub encrypted: bool,
    /// Our end, for sockets that have one; over WebRTC that of the first selected pair.
    pub local: Option<SocketAddr>,
    /// The machine's end, likewise.
    pub remote: Option<SocketAddr>,
    /// When the connection stood.
    pub since: Instant,
    /// The round trip of its handshake.
    pub rtt: Duration,
}

/// Why a link ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// We severed it, for this reason.
    Severed(&'static str),
    /// We closed it in order.
    Closed,
    /// The machine closed it in order.
    ByPeer,
    /// The connection broke, in the transport's words.
    Broken(String),
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Severed(why) => write!(f, "severed: {why}"),
            Self::Closed => f.write_str("closed"),
            Self::ByPeer => f.write_str("closed by the machine"),
            Self::Broken(how) => write!(f, "broken: {how}"),
        }
    }
}

/// Which places of a link a call may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// Calls of the program: as many at once as the machine allows minus 8 (92 before it has said; 248 over WebRTC), the rest wait.
    Ordinary,
    /// Stop, beats and probes: they never wait for a place.
    Reserved,
}

/// A call that got no answer.
#[derive(Debug)]
pub struct CallError {
    /// For the caller: UNAVAILABLE, with the link's address.
    pub status: Status,
    /// The machine has certainly not seen the call. Where this is false it may have run.
    pub never_written: bool,
}

/// What carries a link's calls: one connection that is there already.
pub(crate) trait Carrier: Send + Sync {
    /// Sends a call for `link`; `place` is given up when the response's body ends or is dropped.
    fn send(&self, link: &Link, request: http::Request<Body>, place: Option<OwnedSemaphorePermit>) -> Sent;
    /// Ends the connection at once. Idempotent: the first reason stays.
    fn sever(&self, why: &'static str);
    /// Why it was severed, if it was.
    fn severed(&self) -> Option<&'static str>;
    /// How long sent data may stay unacknowledged.
    fn bound_silence(&self, bound: Duration);
    /// How long the peer may say nothing at all, though nothing was sent.
    fn watch_silence(&self, bound: Duration);
    /// How long the way is by now.
    fn set_round_trip(&self, round_trip: Duration);
    /// An orderly end is near: what is queued is to arrive.
    fn closes(&self);
    /// When a byte was last read.
    fn last_read(&self) -> Instant;
    /// Bytes read and written so far.
    fn bytes(&self) -> (u64, u64);
    /// The selected pair, where there are pairs.
    fn pair(&self) -> Option<CandidatePair>;
}

/// A call on its way.
pub(crate) type Sent = BoxFuture<'static, Result<http::Response<Body>, CallError>>;

/// One live connection to a machine. Clones are the same connection.
#[derive(Clone)]
pub struct Link(Arc<Shared>);

struct Shared {
    info: LinkInfo,
    carrier: Box<dyn Carrier>,
    places: Places,
    closing: AtomicBool,
    /// The machine takes no new calls; what is out may finish.
    refusing: AtomicBool,
    reason: OnceLock<CloseReason>,
    /// Cancelled at the end of the connection's task.
    ended: CancellationToken,
    /// Tells that task to finish in order; so does the drop of this.
    finish: CancellationToken,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("info", &self.0.info).field("closed", &self.0.reason.get()).finish()
    }
}

impl Link {
    /// Takes over a connection that has just been made and drives it in a task until its end. `places` ordinary calls may be out
    /// at once. `connection` resolves with how it broke, or `None` where it ended in order.
    pub(crate) fn start<F>(info: LinkInfo, carrier: Box<dyn Carrier>, places: impl Into<Places>, connection: F) -> Self
    where
        F: Future<Output = Option<CloseReason>> + Send + 'static,
    {
        let (ended, finish) = (CancellationToken::new(), CancellationToken::new());
        carrier.bound_silence(IDLE_USER_TIMEOUT);
        let link = Self(Arc::new(Shared {
            info,
            carrier,
            places: places.into(),
            closing: AtomicBool::new(false),
            refusing: AtomicBool::new(false),
            reason: OnceLock::new(),
            ended: ended.clone(),
            finish: finish.clone(),
        }));
        let weak = Arc::downgrade(&link.0);
        // Pinned inside, the task would keep room for it twice.
        let mut connection = Box::pin(connection);
        let ended = ended.drop_guard();
        tokio::spawn(async move {
            let done = tokio::select! {
                done = &mut connection => done,
                // Every sender is gone or an orderly close was asked for and nothing is out any more.
                () = finish.cancelled() => None,
            };
            if let Some(shared) = weak.upgrade() {
                let _ = shared.reason.set(shared.why(done));
                shared.carrier.sever("the connection ended");
            }
            drop(ended);
        });
        link
    }

    /// What is known of it.
    pub fn info(&self) -> &LinkInfo {
        &self.0.info
    }

    /// Sends a call and returns its response once its head has arrived. Dropping the future or the response's body resets
    /// the stream. The future is independent of this value's lifetime.
    pub fn call(
        &self,
        request: http::Request<Body>,
        lane: Lane,
    ) -> impl Future<Output = Result<http::Response<Body>, CallError>> + Send + use<> {
        let link = self.clone();
        async move {
            match lane {
                Lane::Ordinary => {
                    let place = link.place().await?;
                    link.send(request, Some(place)).await
                }
                Lane::Reserved => {
                    let counted = link.0.places.reserved();
                    let response = link.send(request, None).await?;
                    Ok(response.map(|body| Body::new(Counted { body, counted })))
                }
            }
        }
    }

    async fn place(&self) -> Result<OwnedSemaphorePermit, CallError> {
        if let Some(place) = self.0.places.try_ordinary() {
            return Ok(place);
        }
        tokio::select! {
            biased;
            place = self.0.places.ordinary() => place.map_err(|_| self.never_written()),
            () = self.0.ended.cancelled() => Err(self.never_written()),
        }
    }

    async fn send(
        &self,
        request: http::Request<Body>,
        place: Option<OwnedSemaphorePermit>,
    ) -> Result<http::Response<Body>, CallError> {
        if self.0.closing.load(Ordering::Relaxed) || self.is_closed().is_some() {
            return Err(self.never_written());
        }
        self.0.carrier.send(self, request, place).await
    }

    /// Resolves when the link is dead, for every clone and however often.
    pub async fn closed(&self) -> CloseReason {
        self.0.ended.cancelled().await;
        self.is_closed().unwrap_or(CloseReason::Broken("its task ended".into()))
    }

    /// Why it is dead, or `None` while it lives.
    pub fn is_closed(&self) -> Option<CloseReason> {
        if let Some(reason) = self.0.reason.get() {
            return Some(reason.clone());
        }
        self.0.carrier.severed().map(CloseReason::Severed)
    }

    /// Whether new calls are taken. A machine that shuts down says so before it closes: what is out may finish, nothing new is sent.
    pub fn takes_calls(&self) -> bool {
        !self.0.refusing.load(Ordering::Relaxed)
            && !self.0.closing.load(Ordering::Relaxed)
            && self.is_closed().is_none()
    }

    /// Whether it is the machine that takes no new calls, on a connection that still stands.
    pub fn is_refused(&self) -> bool {
        self.0.refusing.load(Ordering::Relaxed) && self.is_closed().is_none()
    }

    /// The connection gave a call back.
    pub(crate) fn refuses(&self) {
        self.0.refusing.store(true, Ordering::Relaxed);
    }

    /// Ends it at once: reads and writes fail, the descriptor is closed, what is queued is thrown away.
    pub fn sever(&self, why: &'static str) {
        let _ = self.0.reason.set(CloseReason::Severed(why));
        self.0.carrier.sever(why);
    }

    /// Ends it in order: no new calls; the connection closes when those that are out have ended.
    pub fn close(&self) {
        if self.0.closing.swap(true, Ordering::Relaxed) {
            return;
        }
        self.0.carrier.closes();
        let shared = self.0.clone();
        tokio::spawn(async move {
            shared.places.vacated().await;
            let _ = shared.reason.set(CloseReason::Closed);
            shared.finish.cancel();
        });
    }

    /// Tells the kernel how long sent data may stay unacknowledged: `max(2 W, 4 s)` while a session of window W is held, else
    /// 30 s.
    pub fn hold(&self, window: Option<Duration>) {
        let bound = window.map_or(IDLE_USER_TIMEOUT, |w| (2 * w).max(MIN_HELD_USER_TIMEOUT));
        self.0.carrier.bound_silence(bound);
    }

    /// Ends the connection where the machine says nothing for about `bound` (at least 2 s), not even that it is there: it is asked after half of
    /// that, below HTTP/2 (TCP keep-alive), which no server counts as an abuse. For connections that wait for what the other end says first.
    pub fn watch_silence(&self, bound: Duration) {
        self.0.carrier.bound_silence(bound);
        self.0.carrier.watch_silence(bound);
    }

    /// How long the way is by now, at its best: over a long one TCP's small packets are spread, so that beats do not wait for its window.
    pub fn set_round_trip(&self, round_trip: Duration) {
        self.0.carrier.set_round_trip(round_trip);
    }

    /// When a byte was last read.
    pub fn last_read(&self) -> Instant {
        self.0.carrier.last_read()
    }

    /// Bytes read and written since the connection's start, with TLS's where it is spoken.
    pub fn bytes(&self) -> (u64, u64) {
        self.0.carrier.bytes()
    }

    /// The pair that packets go between now; `None` where the link is not over WebRTC.
    pub fn pair(&self) -> Option<CandidatePair> {
        self.0.carrier.pair()
    }

    /// The address as it stands in errors.
    pub(crate) fn address(&self) -> String {
        match (self.pair(), self.0.info.remote) {
            (Some(pair), _) => format!("{} (WebRTC, {})", pair.remote.address, pair.remote.kind),
            (None, Some(remote)) => remote.to_string(),
            (None, None) => "a Unix socket".to_owned(),
        }
    }

    pub(crate) fn never_written(&self) -> CallError {
        let why = self.is_closed().unwrap_or(CloseReason::Closed);
        let status = Status::unavailable(format!("not connected to the machine at {}: {why}", self.address()));
        CallError { status, never_written: true }
    }

    /// The status of a call whose stream or connection broke, in the transport's words.
    pub(crate) fn broken(&self, how: &dyn fmt::Display) -> Status {
        if let Some(why) = self.is_closed() {
            return Status::unavailable(format!("connection to the machine at {} lost: {why}", self.address()));
        }
        Status::unavailable(format!("call to the machine at {} broke: {how}", self.address()))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.finish.cancel();
    }
}

impl Shared {
    fn why(&self, done: Option<CloseReason>) -> CloseReason {
        if let Some(why) = self.carrier.severed() {
            return CloseReason::Severed(why);
        }
        match done {
            None if self.closing.load(Ordering::Relaxed) => CloseReason::Closed,
            None => CloseReason::ByPeer,
            Some(reason) => reason,
        }
    }
}

/// An error with its causes, which libraries keep out of its own text.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        text.push_str(": ");
        text.push_str(&e.to_string());
        source = e.source();
    }
    text
}
