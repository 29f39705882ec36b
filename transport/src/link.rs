//! One live connection.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hyper::client::conn::http2::SendRequest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::Status;

use crate::Body;
use crate::body::{Cut, Held};
use crate::sever::Cord;

/// Ordinary calls that a link carries at once. The rest wait in the link: hyper holds everything back behind one stream
/// that is over the peer's limit, which is 100 until its settings arrive and 200 at most servers; eight stay free for [`Lane::Reserved`].
pub(crate) const ORDINARY: usize = 92;

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
    /// Our end, for sockets that have one.
    pub local: Option<SocketAddr>,
    /// The machine's end, for sockets that have one.
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
    /// Calls of the program: at most 92 at once, the rest wait.
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

/// One live connection to a machine. Clones are the same connection.
#[derive(Clone)]
pub struct Link(Arc<Shared>);

struct Shared {
    info: LinkInfo,
    cord: Arc<Cord>,
    sender: SendRequest<Cut>,
    ordinary: Arc<Semaphore>,
    closing: AtomicBool,
    reason: OnceLock<CloseReason>,
    closed: watch::Receiver<bool>,
    /// Tells the connection's task to finish in order.
    finish: watch::Sender<bool>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("info", &self.0.info).field("closed", &self.0.reason.get()).finish()
    }
}

impl Link {
    /// Takes over a connection that has just been made and drives it in a task until its end.
    pub(crate) fn start<F>(info: LinkInfo, cord: Arc<Cord>, sender: SendRequest<Cut>, connection: F) -> Self
    where
        F: Future<Output = Result<(), hyper::Error>> + Send + 'static,
    {
        let (ended, closed) = watch::channel(false);
        let (finish, mut finishing) = watch::channel(false);
        cord.set_user_timeout(IDLE_USER_TIMEOUT);
        let link = Self(Arc::new(Shared {
            info,
            cord,
            sender,
            ordinary: Arc::new(Semaphore::new(ORDINARY)),
            closing: AtomicBool::new(false),
            reason: OnceLock::new(),
            closed,
            finish,
        }));
        let weak = Arc::downgrade(&link.0);
        let cord = link.0.cord.clone();
        tokio::spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let done = tokio::select! {
                done = &mut connection => done,
                // Every sender is gone or an orderly close was asked for and nothing is out any more.
                _ = finishing.wait_for(|f| *f) => Ok(()),
            };
            if let Some(shared) = weak.upgrade() {
                let reason = shared.why(done.err());
                let _ = shared.reason.set(reason);
            }
            cord.sever("the connection ended");
            let _ = ended.send(true);
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
            let place = match lane {
                Lane::Reserved => None,
                Lane::Ordinary => Some(link.place().await?),
            };
            link.send(request, place).await
        }
    }

    async fn place(&self) -> Result<OwnedSemaphorePermit, CallError> {
        let ordinary = self.0.ordinary.clone();
        if let Ok(place) = ordinary.clone().try_acquire_owned() {
            return Ok(place);
        }
        let mut closed = self.0.closed.clone();
        tokio::select! {
            biased;
            place = ordinary.acquire_owned() => place.map_err(|_| self.never_written()),
            _ = closed.wait_for(|c| *c) => Err(self.never_written()),
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
        let (mut head, body) = request.into_parts();
        self.complete(&mut head);
        let (cut, pulled) = Cut::new(body);
        let mut sender = self.0.sender.clone();
        match sender.try_send_request(http::Request::from_parts(head, cut)).await {
            Ok(response) => {
                let (head, body) = response.into_parts();
                let body = Body::new(Held { body, link: self.clone(), place });
                Ok(http::Response::from_parts(head, body))
            }
            Err(mut e) => {
                let returned = e.take_message().is_some();
                let never_written = returned || !pulled.load(Ordering::Relaxed) && refused(e.error());
                Err(CallError { status: self.broken(e.error()), never_written })
            }
        }
    }

    /// HTTP/2 wants scheme and authority in every request; a service below generated clients sees only the path.
    fn complete(&self, head: &mut http::request::Parts) {
        if head.uri.authority().is_some() {
            return;
        }
        let scheme = if self.0.info.encrypted { "https" } else { "http" };
        let authority = self.0.info.remote.map_or_else(|| "localhost".to_owned(), |a| a.to_string());
        let path = head.uri.path_and_query().map_or("/", |p| p.as_str());
        if let Ok(uri) = http::Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build() {
            head.uri = uri;
        }
        head.version = http::Version::HTTP_2;
    }

    /// Resolves when the link is dead, for every clone and however often.
    pub async fn closed(&self) -> CloseReason {
        let mut closed = self.0.closed.clone();
        // An error means that the connection's task is gone, which is an end too.
        let _ = closed.wait_for(|c| *c).await;
        self.is_closed().unwrap_or(CloseReason::Broken("its task ended".into()))
    }

    /// Why it is dead, or `None` while it lives.
    pub fn is_closed(&self) -> Option<CloseReason> {
        if let Some(reason) = self.0.reason.get() {
            return Some(reason.clone());
        }
        self.0.cord.severed().map(CloseReason::Severed)
    }

    /// Ends it at once: reads and writes fail, the descriptor is closed, what is queued is thrown away.
    pub fn sever(&self, why: &'static str) {
        let _ = self.0.reason.set(CloseReason::Severed(why));
        self.0.cord.sever(why);
    }

    /// Ends it in order: no new calls; the connection closes when those that are out have ended.
    pub fn close(&self) {
        if self.0.closing.swap(true, Ordering::Relaxed) {
            return;
        }
        self.0.cord.set_abortive(false);
        let (ordinary, shared) = (self.0.ordinary.clone(), self.0.clone());
        tokio::spawn(async move {
            // All places free means that no ordinary call is out.
            let _all = ordinary.acquire_many(ORDINARY as u32).await;
            let _ = shared.reason.set(CloseReason::Closed);
            let _ = shared.finish.send(true);
        });
    }

    /// Tells the kernel how long sent data may stay unacknowledged: `max(2 W, 4 s)` while a session of window W is held, else
    /// 30 s.
    pub fn hold(&self, window: Option<Duration>) {
        let bound = window.map_or(IDLE_USER_TIMEOUT, |w| (2 * w).max(MIN_HELD_USER_TIMEOUT));
        self.0.cord.set_user_timeout(bound);
    }

    /// When a byte was last read.
    pub fn last_read(&self) -> Instant {
        self.0.cord.last_read()
    }

    /// Bytes read and written since the connection's start, TLS included.
    pub fn bytes(&self) -> (u64, u64) {
        self.0.cord.bytes()
    }

    /// The address as it stands in errors.
    fn address(&self) -> String {
        self.0.info.remote.map_or_else(|| "a Unix socket".to_owned(), |a| a.to_string())
    }

    fn never_written(&self) -> CallError {
        let why = self.is_closed().unwrap_or(CloseReason::Closed);
        let status = Status::unavailable(format!("not connected to the machine at {}: {why}", self.address()));
        CallError { status, never_written: true }
    }

    /// The status of a call whose stream or connection broke.
    pub(crate) fn broken(&self, error: &hyper::Error) -> Status {
        if let Some(why) = self.is_closed() {
            return Status::unavailable(format!("connection to the machine at {} lost: {why}", self.address()));
        }
        Status::unavailable(format!("call to the machine at {} broke: {}", self.address(), chain(error)))
    }
}

impl Shared {
    fn why(&self, error: Option<hyper::Error>) -> CloseReason {
        if let Some(why) = self.cord.severed() {
            return CloseReason::Severed(why);
        }
        match error {
            None if self.closing.load(Ordering::Relaxed) => CloseReason::Closed,
            None => CloseReason::ByPeer,
            Some(e) => CloseReason::Broken(chain(&e)),
        }
    }
}

/// Whether the peer said that it did not process the stream (RFC 9113 section 8.7).
fn refused(error: &hyper::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = source {
        if e.to_string().contains("refused stream") {
            return true;
        }
        source = e.source();
    }
    false
}

/// An error with its causes, which hyper keeps out of its own text.
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
