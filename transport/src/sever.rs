//! A socket that can be severed: reads and writes fail at once, and its only descriptor is closed.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::backlog::Backlog;
use crate::clearance::Clearance;
use crate::pace::{Leaves, Pace};

/// What is written this soon after [`Cord::hurry`] is what was meant: the connection's task encodes it first.
const HURRY: Duration = Duration::from_millis(5);

/// Nothing is added to what was written (Linux: a packet of its own).
const MSG_EOR: i32 = 0x80;

/// The two kinds of sockets a direct link runs on.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Little is under way on these connections, and what is lost of it is sent again every 200 ms or so, six times, instead of ever more rarely: on a
    /// lossy way a beat would otherwise wait for seconds.
    #[cfg(target_os = "linux")]
    fn repeat_steadily(&self) {
        if let Self::Tcp(tcp) = self
            && let Err(error) = SockRef::from(tcp).set_tcp_thin_linear_timeouts(true)
        {
            tracing::debug!(%error, "TCP_THIN_LINEAR_TIMEOUTS not set");
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn repeat_steadily(&self) {}

    /// Whether what does not fill a packet waits for more (TCP_CORK).
    #[cfg(target_os = "linux")]
    fn gather(&self, gather: bool) {
        if let Self::Tcp(tcp) = self
            && let Err(error) = SockRef::from(tcp).set_tcp_cork(gather)
        {
            tracing::debug!(%error, "TCP_CORK not set");
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn gather(&self, _: bool) {}

    /// The kernel holds at most this many unsent bytes and then some (TCP_NOTSENT_LOWAT): they stand before whatever comes.
    #[cfg(target_os = "linux")]
    pub(crate) fn limit_unsent(&self, bytes: u32) {
        if let Self::Tcp(tcp) = self
            && let Err(error) = SockRef::from(tcp).set_tcp_notsent_lowat(bytes)
        {
            tracing::debug!(%error, "TCP_NOTSENT_LOWAT not set");
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn limit_unsent(&self, _: u32) {}

    /// The kernel holds at most about this many bytes that were not acknowledged (SO_SNDBUF; Linux allows twice of what it is told, for what it adds to
    /// each packet). Where it may not hold so much, as much as it may.
    fn limit_unacknowledged(&self, bytes: usize) {
        let allowed = if cfg!(target_os = "linux") { bytes / 2 } else { bytes };
        if let Self::Tcp(tcp) = self
            && let Err(error) = SockRef::from(tcp).set_send_buffer_size(allowed)
        {
            tracing::debug!(%error, "SO_SNDBUF not set");
        }
    }

    /// Writes what stays apart in the kernel's queue, so that it is asked each time whether it may hold more: what it is given otherwise it adds to the last
    /// packet that waits there, up to 64 KiB, whatever its bounds are.
    fn poll_write_apart(&self, cx: &mut Context<'_>, data: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let Self::Tcp(tcp) = self else { return Poll::Ready(Err(io::ErrorKind::Unsupported.into())) };
        loop {
            std::task::ready!(tcp.poll_write_ready(cx))?;
            let sent = tcp.try_io(Interest::WRITABLE, || SockRef::from(tcp).send_vectored_with_flags(data, MSG_EOR));
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    pub(crate) fn addresses(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        match self {
            Self::Tcp(s) => (s.local_addr().ok(), s.peer_addr().ok()),
            Self::Unix(_) => (None, None),
        }
    }
}

/// What is shared between the stream, which the connection owns, and those who may sever it.
#[derive(Debug)]
pub(crate) struct Cord {
    socket: Mutex<Option<Socket>>,
    reader: AtomicWaker,
    writer: AtomicWaker,
    severed: OnceLock<&'static str>,
    /// The socket is closed, by whom ever.
    ended: CancellationToken,
    started: Instant,
    /// Nanoseconds from `started` to the last byte read.
    last_read: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
    /// Whether the socket takes what is written.
    clearance: Clearance,
    /// What the kernel may hold, where the way is thin.
    backlog: Mutex<Backlog>,
    /// Writes are told to `backlog`.
    sampling: AtomicBool,
    /// How long a piece of a large message may be.
    longest: AtomicUsize,
    /// How small packets leave, where the way is long.
    pace: Mutex<Option<Pace>>,
    paced: AtomicBool,
    /// Nanoseconds from `started` to the last wish to hurry; 0: none.
    hurried: AtomicU64,
    /// When the first bytes were written, and how long the first ones that were read after them took.
    wrote: OnceLock<Instant>,
    round_trip: OnceLock<Duration>,
}

impl Cord {
    /// Fails every read and write from now on, and closes the descriptor. Idempotent: the first reason stays.
    pub(crate) fn sever(&self, why: &'static str) {
        let _ = self.severed.set(why);
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Socket::Tcp(tcp)) = &socket {
            // What is still queued in the kernel must not reach the peer after this.
            let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
        }
        drop(socket);
        self.ended.cancel();
        self.reader.wake();
        self.writer.wake();
    }

    /// Why it was severed, if it was.
    pub(crate) fn severed(&self) -> Option<&'static str> {
        self.severed.get().copied()
    }

    /// When a byte was last read; the socket's start if none was.
    pub(crate) fn last_read(&self) -> Instant {
        self.started + Duration::from_nanos(self.last_read.load(Ordering::Relaxed))
    }

    /// Bytes read and written so far, TLS included.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.read.load(Ordering::Relaxed), self.written.load(Ordering::Relaxed))
    }

    /// How long sent data may stay unacknowledged before the kernel closes the connection (TCP_USER_TIMEOUT).
    pub(crate) fn set_user_timeout(&self, bound: Duration) {
        let guard = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Socket::Tcp(tcp)) = guard.as_ref() {
            #[cfg(target_os = "linux")]
            if let Err(e) = SockRef::from(tcp).set_tcp_user_timeout(Some(bound)) {
                tracing::debug!(error = %e, "TCP_USER_TIMEOUT not set");
            }
        }
    }

    /// Asks a silent peer whether it is still there (TCP keep-alive): after `first`, and then `every` so often, in whole seconds and at least one. A loss
    /// nobody tells of is then found out within the connection's user timeout, which alone looks only while something is unacknowledged.
    pub(crate) fn set_keepalive(&self, first: Duration, every: Duration) {
        let guard = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Socket::Tcp(tcp)) = guard.as_ref() {
            // Seconds are the finest that the kernel takes.
            let least = Duration::from_secs(1);
            let keepalive = socket2::TcpKeepalive::new().with_time(first.max(least)).with_interval(every.max(least));
            if let Err(error) = SockRef::from(tcp).set_tcp_keepalive(&keepalive) {
                tracing::debug!(%error, "keep-alive not set");
            }
        }
    }

    /// Small messages leave at once (TCP_NODELAY).
    #[cfg(feature = "server")]
    pub(crate) fn set_nodelay(&self) {
        let guard = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Socket::Tcp(tcp)) = guard.as_ref()
            && let Err(error) = tcp.set_nodelay(true)
        {
            tracing::debug!(%error, "TCP_NODELAY not set");
        }
    }

    /// What the kernel may hold of unsent bytes.
    #[cfg(feature = "server")]
    pub(crate) fn limit_unsent(&self, bytes: u32) {
        if let Some(socket) = self.socket.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            socket.limit_unsent(bytes);
        }
    }

    /// Whether a close of the descriptor throws away what is queued (SO_LINGER 0).
    pub(crate) fn set_abortive(&self, abortive: bool) {
        let guard = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Socket::Tcp(tcp)) = guard.as_ref() {
            let _ = SockRef::from(tcp).set_linger(abortive.then_some(Duration::ZERO));
        }
    }

    /// Resolves when the socket takes what is written, or is closed.
    pub(crate) async fn clear(&self) -> Option<crate::clearance::Turn<'_>> {
        tokio::select! {
            biased;
            turn = self.clearance.wait() => turn,
            () = self.ended.cancelled() => None,
        }
    }

    /// The round trip of the connection's first exchange: in TLS's handshake nobody thinks before answering.
    #[cfg(feature = "server")]
    pub(crate) fn first_round_trip(&self) -> Option<Duration> {
        self.round_trip.get().copied()
    }

    /// How long the way is: over a long one small packets are spread.
    pub(crate) fn set_round_trip(&self, round_trip: Duration) {
        let now = Instant::now();
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner).handle_round_trip(round_trip, now);
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *pace {
            Some(pace) => pace.set_round_trip(round_trip),
            None => *pace = Pace::of(round_trip, now),
        }
        self.paced.store(pace.is_some(), Ordering::Release);
    }

    /// What is written next is not gathered.
    pub(crate) fn hurry(&self) {
        if self.paced.load(Ordering::Acquire) {
            self.hurried.store(self.nanos(), Ordering::Release);
        }
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn is_hurried(&self) -> bool {
        let at = self.hurried.load(Ordering::Acquire);
        at > 0 && self.nanos().saturating_sub(at) < u64::try_from(HURRY.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Writes to the socket, gathering small packets where the way is long.
    fn write(self: &Arc<Self>, act: impl FnOnce(&mut Socket) -> Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let leaves = self.paced.load(Ordering::Acquire).then(|| {
            let now = Instant::now();
            let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
            pace.as_mut().map_or(Leaves::Now, |pace| pace.write(self.is_hurried(), now))
        });
        if let Some(Leaves::Gathered(at)) = leaves {
            let cord = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep_until(at.into()).await;
                cord.gathered();
            });
        }
        let done = self.with(|socket| {
            if let Some(Leaves::Gathered(_)) = leaves {
                socket.gather(true);
            }
            let done = act(socket);
            if leaves == Some(Leaves::Now) {
                socket.gather(false);
            }
            done
        });
        self.clearance.note(match &done {
            Poll::Ready(written) => Some(*written.as_ref().unwrap_or(&0)),
            Poll::Pending => None,
        });
        self.watch_backlog(&done);
        if let Poll::Ready(Ok(written)) = done {
            let _ = self.wrote.get_or_init(Instant::now);
            self.written.fetch_add(written as u64, Ordering::Relaxed);
        }
        done
    }

    /// Bounds what the kernel holds where the way is found to be thin.
    fn watch_backlog(&self, done: &Poll<io::Result<usize>>) {
        let news = match done {
            // Most sockets are never full, and pay nothing.
            Poll::Ready(_) if !self.sampling.load(Ordering::Relaxed) => return,
            Poll::Ready(Ok(written)) => Some(*written),
            Poll::Ready(Err(_)) => return,
            Poll::Pending => None,
        };
        let mut backlog = self.backlog.lock().unwrap_or_else(PoisonError::into_inner);
        let allowed = match news {
            Some(written) => {
                backlog.handle_taken(written, Instant::now());
                None
            }
            None => backlog.handle_full(Instant::now()),
        };
        self.sampling.store(backlog.is_sampling(), Ordering::Relaxed);
        let Some(allowed) = allowed else { return };
        self.longest.store(backlog.longest(), Ordering::Relaxed);
        drop(backlog);
        tracing::debug!(allowed, "what a thin way may hold");
        if let Some(socket) = self.socket.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            socket.limit_unacknowledged(allowed);
        }
    }

    /// How long a piece of a large message may be, in bytes, so that what comes after it is not late for its sake.
    pub(crate) fn longest(&self) -> usize {
        self.longest.load(Ordering::Relaxed)
    }

    /// Whether what the kernel holds is bounded.
    fn is_thin(&self) -> bool {
        cfg!(target_os = "linux") && self.longest() < usize::MAX
    }

    /// What was gathered leaves.
    fn gathered(&self) {
        let due =
            self.pace.lock().unwrap_or_else(PoisonError::into_inner).as_mut().is_some_and(|p| p.due(Instant::now()));
        if due && let Some(socket) = self.socket.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            socket.gather(false);
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Socket) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match self.socket.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(socket) => act(socket),
            None => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, self.severed().unwrap_or("severed"))))
            }
        }
    }
}

/// The stream that the connection reads and writes. Dropping it closes the socket.
#[derive(Debug)]
pub(crate) struct Severable(Arc<Cord>);

impl Severable {
    pub(crate) fn new(socket: Socket) -> (Self, Arc<Cord>) {
        socket.repeat_steadily();
        let cord = Arc::new(Cord {
            socket: Mutex::new(Some(socket)),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
            severed: OnceLock::new(),
            ended: CancellationToken::new(),
            started: Instant::now(),
            last_read: AtomicU64::new(0),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            clearance: Clearance::default(),
            backlog: Mutex::default(),
            sampling: AtomicBool::new(false),
            longest: AtomicUsize::new(usize::MAX),
            pace: Mutex::new(None),
            paced: AtomicBool::new(false),
            hurried: AtomicU64::new(0),
            wrote: OnceLock::new(),
            round_trip: OnceLock::new(),
        });
        (Self(cord.clone()), cord)
    }
}

impl Drop for Severable {
    fn drop(&mut self) {
        self.0.socket.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.0.ended.cancel();
    }
}

impl AsyncRead for Severable {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let cord = &self.0;
        cord.reader.register(cx.waker());
        let before = buf.filled().len();
        let done = cord.with(|socket| match socket {
            Socket::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Socket::Unix(s) => Pin::new(s).poll_read(cx, buf),
        });
        let read = buf.filled().len() - before;
        if read > 0 {
            cord.last_read.store(cord.nanos(), Ordering::Relaxed);
            if let Some(wrote) = cord.wrote.get() {
                let _ = cord.round_trip.get_or_init(|| wrote.elapsed());
            }
            cord.read.fetch_add(read as u64, Ordering::Relaxed);
        }
        done
    }
}

impl AsyncWrite for Severable {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let cord = &self.0;
        cord.writer.register(cx.waker());
        cord.write(|socket| match socket {
            Socket::Tcp(_) if cord.is_thin() => socket.poll_write_apart(cx, &[io::IoSlice::new(data)]),
            Socket::Tcp(s) => Pin::new(s).poll_write(cx, data),
            Socket::Unix(s) => Pin::new(s).poll_write(cx, data),
        })
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let cord = &self.0;
        cord.writer.register(cx.waker());
        cord.write(|socket| match socket {
            Socket::Tcp(_) if cord.is_thin() => socket.poll_write_apart(cx, data),
            Socket::Tcp(s) => Pin::new(s).poll_write_vectored(cx, data),
            Socket::Unix(s) => Pin::new(s).poll_write_vectored(cx, data),
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.with(|socket| match socket {
            Socket::Tcp(s) => Pin::new(s).poll_flush(cx),
            Socket::Unix(s) => Pin::new(s).poll_flush(cx),
        })
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.with(|socket| match socket {
            Socket::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Socket::Unix(s) => Pin::new(s).poll_shutdown(cx),
        })
    }
}
