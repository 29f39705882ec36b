//! What the shells order of a connection, and what it tells them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use crate::webrtc::channel::{CandidatePair, DataChannel};
use crate::webrtc::lane;
use crate::webrtc::options::Server;
use crate::webrtc::peer::Ended;
use crate::webrtc::sdp::Description;

/// Addresses of the peer's own that are kept.
const MOST_HOSTS: usize = 16;

/// What the shells order.
#[derive(Debug)]
pub(crate) enum Command {
    /// These servers may be asked. Once: without it gathering does not end.
    Servers(Vec<Server>),
    /// The peer's candidates.
    Remote(Vec<String>),
    /// The peer's answer.
    Accept(Box<Description>),
    /// A check of the selected pair; answers its round trip.
    Probe(oneshot::Sender<Duration>),
    /// Leave the selected pair for one that answers; answers the pair then selected.
    Move(oneshot::Sender<CandidatePair>),
    /// Restart ICE over the negotiation channel; answered once the peer has.
    Restart(oneshot::Sender<()>),
}

/// What a driver reports until the channel is open.
#[derive(Debug)]
pub(crate) enum Report {
    /// A candidate of ours for the peer.
    Candidate(String),
    /// No more follow.
    Gathered,
    /// The peer has checked a candidate of ours.
    Checked,
    /// There is a path.
    Connected,
    /// The DTLS handshake is done.
    Secured,
    /// Both channels are open.
    Open(DataChannel, Control),
    /// It has come to an end before it was open.
    Ended(Ended),
}

/// Where the shells hold a connection until it is open. Dropping it before ends the connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub commands: lane::Sender<Command>,
    pub reports: lane::Receiver<Report>,
}

/// Orders for a connection that is open, and its signs of life. Clones are the same; holding one keeps nothing alive.
#[derive(Clone, Debug)]
pub struct Control {
    pub(super) commands: lane::Sender<Command>,
    pub(super) life: Arc<Life>,
}

/// What a connection tells of itself while it lives.
#[derive(Debug)]
pub(super) struct Life {
    base: Instant,
    /// Nanoseconds from `base`.
    last: AtomicU64,
    acknowledged: AtomicU64,
    stalled: Mutex<Stalled>,
    /// Addresses of the peer's own interfaces, as it has told them.
    hosts: Mutex<Vec<IpAddr>>,
}

/// Whether data is stalled.
#[derive(Debug, Default)]
struct Stalled {
    now: bool,
    /// Where it is told, from when somebody first asks: nobody does on a machine's side.
    told: Option<watch::Sender<bool>>,
}

impl Life {
    pub fn new(now: Instant) -> Self {
        let (last, acknowledged) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { base: now, last, acknowledged, stalled: Mutex::default(), hosts: Mutex::default() }
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.base).as_nanos()).unwrap_or(u64::MAX)
    }

    /// The peer answered something.
    pub fn tell(&self, now: Instant) {
        self.last.store(self.nanos(now), Ordering::Relaxed);
    }

    /// The peer told of an address of its own. A few are enough for anybody.
    pub fn told(&self, host: IpAddr) {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() < MOST_HOSTS && !hosts.contains(&host) {
            hosts.reserve_exact(1);
            hosts.push(host);
        }
    }

    /// The peer acknowledged data.
    pub fn acknowledge(&self, now: Instant) {
        self.tell(now);
        self.acknowledged.store(self.nanos(now).max(1), Ordering::Relaxed);
    }

    /// Data is stalled or not.
    pub fn set_stalled(&self, stalled: bool) {
        let mut known = self.stalled.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut known.now, stalled) != stalled
            && let Some(told) = &known.told
        {
            told.send_replace(stalled);
        }
    }

    fn stalled(&self) -> watch::Receiver<bool> {
        let mut known = self.stalled.lock().unwrap_or_else(PoisonError::into_inner);
        let now = known.now;
        known.told.get_or_insert_with(|| watch::Sender::new(now)).subscribe()
    }

    pub fn last(&self) -> Instant {
        self.base + Duration::from_nanos(self.last.load(Ordering::Relaxed))
    }

    fn acknowledged(&self) -> Option<Instant> {
        let nanos = self.acknowledged.load(Ordering::Relaxed);
        (nanos > 0).then(|| self.base + Duration::from_nanos(nanos))
    }
}

impl Control {
    /// Checks the selected pair and returns the round trip; `None` where nothing answers within 5 s or the connection ends.
    pub async fn probe(&self) -> Option<Duration> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Probe(answer)).await.ok()?;
        tokio::time::timeout(Duration::from_secs(5), answered).await.ok()?.ok()
    }

    /// When the peer last answered something: a check, or data that it acknowledged.
    pub fn last_life(&self) -> Instant {
        self.life.last()
    }

    /// When the peer last acknowledged data; `None` where it never has.
    pub fn last_acknowledged(&self) -> Option<Instant> {
        self.life.acknowledged()
    }

    /// Addresses of the peer's own interfaces that it has told so far. Nothing proves them.
    pub fn hosts(&self) -> BTreeSet<IpAddr> {
        self.life.hosts.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// Whether data is stalled: nothing was acknowledged for the longer of 150 ms and three round trips although something is out and
    /// the path answers checks.
    pub fn stalled(&self) -> watch::Receiver<bool> {
        self.life.stalled()
    }

    /// Leaves the selected pair for another one that answers within a second, without signaling; returns it. `None` where no
    /// other answers, or the selected one does.
    pub async fn move_pair(&self) -> Option<CandidatePair> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Move(answer)).await.ok()?;
        answered.await.ok()
    }

    /// Restarts ICE over the connection's own negotiation channel, with the addresses that this computer has now. Whether the
    /// peer answered, within 5 s.
    pub async fn restart_ice(&self) -> bool {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Restart(answer)).await.is_ok() && answered.await.is_ok()
    }
}
