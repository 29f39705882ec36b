//! The seam between a peer connection and what runs on it: one ordered, reliable channel of binary messages.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::lane::{self, lane};
use crate::CloseReason;

/// Messages that may wait for the driver. Whoever writes waits until all places are free and then puts in one message, or
/// several that are together at most [`BURST`]: what goes next is decided as late as possible, and still a call's head and its
/// short message leave in one datagram.
pub const OUTGOING: usize = 4;
/// Bytes that may be put in at once where they are more than one message.
pub const BURST: usize = 4 << 10;
/// Received messages that may wait for the reader, at most 1 MiB: beyond them the driver leaves the rest in SCTP, whose window
/// then holds the sender back.
pub const INCOMING: usize = 16;
/// The largest message, in bytes: existing peers read into a buffer of this size, and their connection dies of more.
pub const MAX_PACKET: usize = 65_535;

/// One ordered, reliable channel of binary messages, as a peer connection gives it (label `data`, stream 0).
#[derive(Debug)]
pub struct DataChannel {
    /// To the peer. A free place means that the driver's gate on unacknowledged bytes is open. See [`OUTGOING`].
    pub outgoing: lane::Sender<Bytes>,
    /// From the peer; `None` once the connection has ended.
    pub incoming: lane::Receiver<Bytes>,
    /// Why the connection ended; `None` while it lives. A driver that is gone without a reason has broken.
    pub closed: watch::Receiver<Option<CloseReason>>,
    /// Ends the peer connection at once.
    pub sever: Sever,
    /// How long the peer may be silent.
    pub silence: Silence,
    /// How long a packet may be.
    pub longest: Longest,
    /// The selected pair and its round trip, updated when the pair moves.
    pub info: watch::Receiver<ChannelInfo>,
}

/// The driver's half of a [`DataChannel`].
#[derive(Debug)]
pub struct DriverEnd {
    /// What is to be sent. Take from it only while the gate on unacknowledged bytes is open, and then all that is there, so that
    /// it leaves together.
    pub outgoing: lane::Receiver<Bytes>,
    /// What arrived. While it has no place, leave the rest in SCTP.
    pub incoming: lane::Sender<Bytes>,
    /// Where the end is told; set it before the others are dropped.
    pub closed: watch::Sender<Option<CloseReason>>,
    /// Resolves when somebody severs the connection.
    pub sever: Sever,
    /// How long the peer may be silent.
    pub silence: Silence,
    /// How long a packet may be; kept as the path's rate becomes known.
    pub longest: Longest,
    /// Where the selected pair is told.
    pub info: watch::Sender<ChannelInfo>,
}

/// How long a peer may answer nothing, neither checks nor data, before its connection counts as broken: at first 30 s, what its consent
/// to our packets lasts (RFC 7675 section 5.1). Clones are the same.
#[derive(Clone, Debug)]
pub struct Silence(Arc<AtomicU64>);

impl Default for Silence {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(30_000)))
    }
}

impl Silence {
    /// From now on so long; at least 2 s, since an idle path is checked once a second, and at most the 30 s.
    pub fn bound(&self, bound: Duration) {
        let millis = u64::try_from(bound.as_millis()).map_or(30_000, |millis| millis.clamp(2_000, 30_000));
        self.0.store(millis, Ordering::Relaxed);
    }

    /// How long now.
    pub fn get(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// How long a packet may be, in bytes, so that what follows it is not late for its sake: at 2 Mbit/s one of 65,000 bytes is on its way for 260 ms.
/// At first any length will do. Clones are the same.
#[derive(Clone, Debug)]
pub struct Longest(Arc<AtomicUsize>);

impl Default for Longest {
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(usize::MAX)))
    }
}

impl Longest {
    /// From now on so long.
    pub fn set(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    /// How long now.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Ends a peer connection at once, from anywhere. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Sever(Arc<Severed>);

#[derive(Debug, Default)]
struct Severed {
    why: OnceLock<&'static str>,
    told: Notify,
}

impl Sever {
    /// Ends it; the first reason stays.
    pub fn sever(&self, why: &'static str) {
        let _ = self.0.why.set(why);
        self.0.told.notify_waiters();
    }

    /// Why it was severed, if it was.
    pub fn severed(&self) -> Option<&'static str> {
        self.0.why.get().copied()
    }

    /// Resolves once it is severed, with the reason.
    pub async fn wait(&self) -> &'static str {
        let mut told = std::pin::pin!(self.0.told.notified());
        // Listed before it is looked: what comes between is told.
        told.as_mut().enable();
        if let Some(why) = self.severed() {
            return why;
        }
        told.await;
        self.severed().unwrap_or("severed")
    }
}

/// How a candidate address came about (RFC 8445 section 4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum CandidateKind {
    /// An address of an interface.
    Host,
    /// What a STUN server saw.
    ServerReflexive,
    /// What the peer saw.
    PeerReflexive,
    /// An address of a TURN server.
    Relayed,
}

impl fmt::Display for CandidateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::ServerReflexive => "srflx",
            Self::PeerReflexive => "prflx",
            Self::Relayed => "relay",
        })
    }
}

/// One end of a pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Its address.
    pub address: SocketAddr,
    /// How it came about.
    pub kind: CandidateKind,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.address)
    }
}

/// The two ends that packets go between.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CandidatePair {
    /// Ours.
    pub local: Candidate,
    /// The peer's.
    pub remote: Candidate,
}

impl CandidatePair {
    /// Whether a TURN server carries it.
    pub fn is_relayed(&self) -> bool {
        self.local.kind == CandidateKind::Relayed || self.remote.kind == CandidateKind::Relayed
    }
}

impl fmt::Display for CandidatePair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.local, self.remote)
    }
}

/// What is known of a channel's path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChannelInfo {
    /// The selected pair.
    pub pair: CandidatePair,
    /// The smoothed round trip on it.
    pub rtt: Duration,
}

impl DataChannel {
    /// A channel and the half that a driver works on.
    pub fn new(info: ChannelInfo) -> (Self, DriverEnd) {
        let (outgoing, outgoing_out) = lane(OUTGOING);
        let (incoming_in, incoming) = lane(INCOMING);
        let (closed_in, closed) = watch::channel(None);
        let (info_in, info) = watch::channel(info);
        let (sever, silence, longest) = (Sever::default(), Silence::default(), Longest::default());
        let end = DriverEnd {
            outgoing: outgoing_out,
            incoming: incoming_in,
            closed: closed_in,
            sever: sever.clone(),
            silence: silence.clone(),
            longest: longest.clone(),
            info: info_in,
        };
        (Self { outgoing, incoming, closed, sever, silence, longest, info }, end)
    }

    /// Two channels that face each other in memory, for tests and benches. Must be called within a runtime. What they tell as
    /// their addresses is made up.
    pub fn pair(limits: PairLimits) -> (Self, Self) {
        let at = |port| Candidate { address: ([127, 0, 0, 1], port).into(), kind: CandidateKind::Host };
        let (near, far) = (at(1), at(2));
        let rtt = 2 * limits.delay;
        let (a, a_end) = Self::new(ChannelInfo { pair: CandidatePair { local: near, remote: far }, rtt });
        let (b, b_end) = Self::new(ChannelInfo { pair: CandidatePair { local: far, remote: near }, rtt });
        tokio::spawn(join(limits, a_end, b_end));
        (a, b)
    }
}

/// What an in-memory pair imitates, in each direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct PairLimits {
    /// How long a message is under way. Default zero.
    pub delay: Duration,
    /// Bytes per second; unlimited where `None`, the default.
    pub rate: Option<u32>,
    /// Bytes that may be under way unread, as the gate of a peer connection has it. Default (0): 128 KiB.
    pub window: usize,
}

/// Carries both directions until either end severs or drops its channel.
async fn join(limits: PairLimits, a: DriverEnd, b: DriverEnd) {
    // They outlive the telling of the end: a reader that finds nothing more finds the reason too.
    let mut a_to_b = std::pin::pin!(carry(limits, a.outgoing, b.incoming));
    let mut b_to_a = std::pin::pin!(carry(limits, b.outgoing, a.incoming));
    let broken = || CloseReason::Broken("the peer is gone".into());
    let (of_a, of_b) = tokio::select! {
        biased;
        why = a.sever.wait() => (CloseReason::Severed(why), broken()),
        why = b.sever.wait() => (broken(), CloseReason::Severed(why)),
        () = &mut a_to_b => (CloseReason::Closed, CloseReason::ByPeer),
        () = &mut b_to_a => (CloseReason::ByPeer, CloseReason::Closed),
    };
    a.closed.send_replace(Some(of_a));
    b.closed.send_replace(Some(of_b));
}

/// Carries one direction until its sender or its reader is gone.
async fn carry(limits: PairLimits, mut from: lane::Receiver<Bytes>, to: lane::Sender<Bytes>) {
    if limits.delay.is_zero() && limits.rate.is_none() {
        while let Some(message) = from.recv().await {
            if to.send(message).await.is_err() {
                return;
            }
        }
        return;
    }
    let window = if limits.window == 0 { 128 << 10 } else { limits.window };
    let (mut flying, mut bytes) = (std::collections::VecDeque::<(Instant, Bytes)>::new(), 0);
    // When the wire has carried all that was put on it.
    let mut idle = Instant::now();
    loop {
        let next = flying.front().map(|(at, _)| *at);
        tokio::select! {
            biased;
            () = async { tokio::time::sleep_until(next.unwrap_or_else(Instant::now)).await }, if next.is_some() => {
                let Some((_, message)) = flying.pop_front() else { continue };
                bytes -= message.len();
                if to.send(message).await.is_err() {
                    return;
                }
            }
            message = from.recv(), if bytes < window => {
                let Some(message) = message else { return };
                let now = Instant::now();
                let takes = limits.rate.map_or(Duration::ZERO, |rate| {
                    Duration::from_secs_f64(message.len() as f64 / f64::from(rate.max(1)))
                });
                idle = idle.max(now) + takes;
                bytes += message.len();
                flying.push_back((idle + limits.delay, message));
            }
            else => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_cross_in_order_and_severing_one_end_ends_both() {
        let (near, mut far) = DataChannel::pair(PairLimits::default());
        for i in 0..100u8 {
            near.outgoing.send(Bytes::copy_from_slice(&[i])).await.expect("open");
            assert_eq!(far.incoming.recv().await.expect("open")[..], [i]);
        }
        near.sever.sever("a test");
        let (mut mine, mut theirs) = (near.closed.clone(), far.closed.clone());
        let why = mine.wait_for(Option::is_some).await.expect("told").clone();
        assert_eq!(why, Some(CloseReason::Severed("a test")));
        let why = theirs.wait_for(Option::is_some).await.expect("told").clone();
        assert_eq!(why, Some(CloseReason::Broken("the peer is gone".into())));
        assert!(far.incoming.recv().await.is_none(), "nothing comes any more");
        assert!(near.outgoing.send(Bytes::new()).await.is_err(), "nothing goes any more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_limited_pair_keeps_its_delay_and_rate() {
        let limits = PairLimits { delay: Duration::from_millis(10), rate: Some(100_000), window: 0 };
        let (near, mut far) = DataChannel::pair(limits);
        let started = Instant::now();
        for _ in 0..4 {
            near.outgoing.send(Bytes::from(vec![0; 1000])).await.expect("open");
        }
        for n in 1..=4 {
            far.incoming.recv().await.expect("open");
            let expected = Duration::from_millis(10 + 10 * n);
            let took = started.elapsed();
            assert!(took >= expected && took < expected + Duration::from_millis(2), "{n}: {took:?}");
        }
    }
}
