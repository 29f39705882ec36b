//! A link in service: its authorization, what is out on it, and whether it still stands.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, Semaphore, watch};
use transport::webrtc::{CandidatePair, Control};
use transport::{Link, LinkId};

use crate::agent::{Route, Tier};
use crate::channel::Turns;
use crate::pass::Pass;
use crate::status::RouteStatus;

/// What calls on a link should know of it while they wait.
#[derive(Clone)]
pub(crate) enum Standing {
    /// Nothing remarkable.
    Good,
    /// The machine does not answer here but on that other link: copy what may be copied.
    Hedged(Arc<Carrier>),
    /// Given up as a path: what is unanswered is decided now.
    Lost,
}

/// A link and what belongs to it.
pub(crate) struct Carrier {
    pub link: Link,
    pub route: Route,
    /// Its tier, and the pair of a peer connection that makes it so.
    at: Mutex<(Tier, Option<CandidatePair>)>,
    pub pass: Pass,
    pub standing: watch::Sender<Standing>,
    /// How often what was out was decided: who waits must not miss a link that was given up and answered again at once.
    decided: AtomicU32,
    pub meter: Meter,
    /// Numbered calls that may have to leave the link.
    pub turns: Arc<Turns>,
    /// Checks and orders of a peer connection, where there is one.
    pub control: Option<Control>,
}

impl Carrier {
    pub fn new(link: Link, route: Route, tier: Tier, pass: Pass, meter: Meter, control: Option<Control>) -> Arc<Self> {
        let standing = watch::Sender::new(Standing::Good);
        let at = Mutex::new((tier, link.pair()));
        Arc::new(Self {
            link,
            route,
            at,
            pass,
            standing,
            decided: AtomicU32::new(0),
            meter,
            turns: Arc::default(),
            control,
        })
    }

    /// What the link is worth.
    pub fn tier(&self) -> Tier {
        self.at.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// The pair that the peer connection uses by now, where that is another than was known; then `tier_of` tells the link's tier.
    pub fn moved(&self, tier_of: impl FnOnce(&CandidatePair) -> Tier) -> Option<CandidatePair> {
        let pair = self.link.pair()?;
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        if at.1.replace(pair) == Some(pair) {
            return None;
        }
        at.0 = tier_of(&pair);
        Some(pair)
    }

    /// What is out on the link is decided now.
    pub fn decide(&self) {
        self.decided.fetch_add(1, Ordering::AcqRel);
        self.standing.send_replace(Standing::Lost);
    }

    /// Differs from what it was when what was out then is decided.
    pub fn decided(&self) -> u32 {
        self.decided.load(Ordering::Acquire)
    }

    /// Whether nothing new may be sent on it, also before the agent heard of it.
    pub fn gone(&self) -> bool {
        !self.link.takes_calls() || matches!(*self.standing.borrow(), Standing::Lost)
    }
}

/// Counts what is out on a link with a few atomic operations per call; the agent's task reads it every few milliseconds
/// while there is traffic and sleeps otherwise.
pub(crate) struct Meter {
    base: Instant,
    wake: Arc<Wake>,
    out: AtomicU32,
    /// Nanoseconds after `base` at which the oldest unanswered call since the last answer left; 0: none.
    waiting: AtomicU64,
    /// Nanoseconds after `base` of the last answer.
    life: AtomicU64,
    motion: AtomicBool,
}

/// Wakes the agent's task at the first call after a pause.
#[derive(Default)]
pub(crate) struct Wake {
    armed: AtomicBool,
    notify: Notify,
}

impl Wake {
    pub fn ring(&self) {
        if !self.armed.swap(true, Ordering::AcqRel) {
            self.notify.notify_one();
        }
    }

    pub async fn rung(&self) {
        self.notify.notified().await;
    }

    /// Traffic paused: the next call rings again.
    pub fn rest(&self) {
        self.armed.store(false, Ordering::Release);
    }
}

/// What a meter shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// When the last answer came, if one ever did.
    pub life: Option<Instant>,
    /// Something left after it.
    pub waiting: bool,
    /// Calls under way.
    pub out: u32,
    /// A motion call without a session left since the last reading.
    pub unheld_motion: bool,
}

impl Meter {
    pub fn new(wake: Arc<Wake>) -> Self {
        Self {
            base: Instant::now() - Duration::from_nanos(1),
            wake,
            out: AtomicU32::new(0),
            waiting: AtomicU64::new(0),
            life: AtomicU64::new(0),
            motion: AtomicBool::new(false),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// A call leaves; the guard counts it until it is answered or dropped.
    pub fn sent(&self, unheld_motion: bool) -> Out<'_> {
        self.out.fetch_add(1, Ordering::Relaxed);
        let _ = self.waiting.compare_exchange(0, self.now(), Ordering::AcqRel, Ordering::Relaxed);
        if unheld_motion {
            self.motion.store(true, Ordering::Relaxed);
        }
        self.wake.ring();
        Out { meter: self }
    }

    pub fn is_out(&self) -> bool {
        self.out.load(Ordering::Acquire) > 0 || self.waiting.load(Ordering::Acquire) != 0
    }

    pub fn read(&self) -> Reading {
        let life = match self.life.load(Ordering::Acquire) {
            0 => None,
            nanos => Some(self.base + Duration::from_nanos(nanos)),
        };
        Reading {
            life,
            waiting: self.waiting.load(Ordering::Acquire) != 0,
            out: self.out.load(Ordering::Relaxed),
            unheld_motion: self.motion.swap(false, Ordering::Relaxed),
        }
    }
}

/// A call under way.
pub(crate) struct Out<'a> {
    meter: &'a Meter,
}

impl Out<'_> {
    /// The reply's head came: a sign of life.
    pub fn answered(&self) {
        self.meter.waiting.store(0, Ordering::Release);
        self.meter.life.store(self.meter.now(), Ordering::Release);
    }
}

impl Drop for Out<'_> {
    fn drop(&mut self) {
        self.meter.out.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the channel, the switch and the agent's task share.
pub(crate) struct Shared {
    /// The machine as the user wrote it, for messages.
    pub address: String,
    /// The link that carries calls.
    pub primary: ArcSwapOption<Carrier>,
    /// The link that would carry calls this instant if the primary died.
    pub standby: ArcSwapOption<Carrier>,
    /// All links, by number.
    pub links: arc_swap::ArcSwap<std::collections::BTreeMap<LinkId, Arc<Carrier>>>,
    /// Steps with every change of `primary` or of `swapping`.
    pub changed: watch::Sender<Signpost>,
    /// What each copy under way has a permit of.
    pub hedges: Semaphore,
    /// Longest wait for a link of a call without a deadline.
    pub call_timeout: Duration,
    /// No call waits for a link.
    pub fail_fast: bool,
    /// For those who watch.
    pub status: watch::Sender<RouteStatus>,
    /// Methods whose last reply was larger than a copy may be.
    pub large: std::sync::Mutex<std::collections::BTreeSet<String>>,
}

/// Where calls stand when there is no primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Signpost {
    pub swapping: bool,
    pub over: bool,
    /// Changes of the primary so far.
    pub swaps: u64,
}
