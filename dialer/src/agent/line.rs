//! What is known of one live link, and what follows from its silence alone (routes.md 2).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::*;

/// Nothing is called silent sooner than this, however short the round trip: schedulers are late by milliseconds.
const SILENT_FLOOR: Duration = Duration::from_millis(20);
/// Unanswered probes, or beats, that make a link dead.
pub(super) const PROBES_TO_DEATH: usize = 3;
/// Silence that makes a link dead, at least: WebRTC, and direct, where probes share TCP's own loss recovery.
const DEAD_WEBRTC: Duration = Duration::from_millis(300);
const DEAD_DIRECT: Duration = Duration::from_millis(400);
/// Round trips remembered.
const SAMPLES: usize = 8;
/// Bytes unacknowledged for this long stall a WebRTC link, at least.
const STALL_WEBRTC: Duration = Duration::from_millis(150);

/// What the answers of a link say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    Good,
    /// Something is out for longer than it should be.
    Silent,
    /// ... and the standby answers.
    Suspect,
    /// Given up.
    Dead,
}

/// Whether a link may carry something new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Open,
    Leaving { until: Instant, why: Demotion },
}

/// What the session's beat said of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Validation {
    Unasked,
    Asked(Instant),
    Same,
    Foreign,
}

/// One live link.
#[derive(Debug)]
pub(super) struct Line {
    pub route: Route,
    pub facts: LinkFacts,
    pub since: Instant,
    pub role: Role,
    pub health: Health,
    pub validation: Validation,
    pub carried_unheld_motion: bool,
    /// The machine's process, where its answers name it.
    pub boot: Option<u128>,
    /// Smoothed round trip: from probes only, starting at the handshake's.
    pub rtt: Duration,
    /// What the newest answered probes took, newest last.
    pub samples: VecDeque<Duration>,
    pub stalled: bool,
    /// WebRTC: since when data is unacknowledged and none was acknowledged.
    pub stuck: Option<Instant>,
    /// A link over a route that died does not replace a living one before.
    pub trial: Option<Instant>,
    pub last_life: Instant,
    /// When the oldest thing left that no sign of life followed.
    pub waiting: Option<Instant>,
    /// When the standby first answered during this silence.
    pub contrast: Option<Instant>,
    pub probes: VecDeque<(Attempt, Instant)>,
    pub probed: Instant,
    /// When the newest probe that was answered had left.
    pub proven: Option<Instant>,
    /// It was alone and answered late: a second link over the same route is wanted beside it.
    pub lagged: bool,
    /// Beats unanswered in a row, and when the first was found out.
    pub beats: (usize, Option<Instant>),
    pub last_beat: Option<Instant>,
    /// A dead link that answers again does so since then.
    pub answering: Option<Instant>,
}

impl Line {
    pub fn new(route: Route, facts: LinkFacts, trial: Option<Instant>, now: Instant) -> Self {
        Self {
            route,
            facts,
            since: now,
            role: Role::Open,
            health: Health::Good,
            validation: Validation::Unasked,
            carried_unheld_motion: false,
            boot: None,
            rtt: facts.rtt,
            samples: VecDeque::with_capacity(SAMPLES),
            stalled: false,
            stuck: None,
            trial,
            last_life: now,
            waiting: None,
            contrast: None,
            probes: VecDeque::new(),
            probed: now,
            proven: None,
            lagged: false,
            beats: (0, None),
            last_beat: None,
            answering: None,
        }
    }

    /// Drained for a better link: nothing is asked of it any more.
    pub fn leaving(&self) -> bool {
        matches!(self.role, Role::Leaving { why: Demotion::Better, .. })
    }

    pub fn patience(&self) -> Duration {
        SILENT_FLOOR.max(self.rtt * 2)
    }

    /// Silence that makes the link dead.
    pub fn deadly(&self) -> Duration {
        (self.rtt * 4).max(if self.facts.tier.is_webrtc() { DEAD_WEBRTC } else { DEAD_DIRECT })
    }

    pub fn silent_at(&self) -> Option<Instant> {
        self.waiting.filter(|_| self.health == Health::Good).map(|sent| sent + self.patience())
    }

    /// The probe that was sent first in this silence stays unanswered as long again, counted from the standby's answer.
    pub fn suspect_at(&self) -> Option<Instant> {
        self.contrast.filter(|_| self.health == Health::Silent).map(|answered| answered + self.patience())
    }

    /// Since when something that left in order is unanswered. Direct: the oldest probe; answers to what left before it, however many still come, say
    /// nothing about what leaves now. WebRTC, whose probes check the path alone: data.
    pub fn owing(&self) -> Option<Instant> {
        if self.facts.tier.is_webrtc() { self.stuck } else { self.probes.front().map(|(_, sent)| *sent) }
    }

    /// What is owed for this long makes a link stalled.
    pub fn stalls(&self, than: &Self) -> Duration {
        if self.facts.tier.is_webrtc() { STALL_WEBRTC.max(self.rtt * 3) } else { self.outrun(than) }
    }

    /// What is owed for this long is too late where the other link is not. The newest round trips tell before their best ones that the way of both has
    /// become long: then the one whose answers wait behind nothing is ahead of the other by no merit.
    pub fn outrun(&self, than: &Self) -> Duration {
        let (best, newest) = (self.way().min(than.way()), self.newest().min(than.newest()));
        DEAD_DIRECT.max(best.max(newest) * 4).max(than.fair())
    }

    /// What another link has to owe longer than to be any worse than this one: what its newest answer took, and a quarter of that.
    pub fn fair(&self) -> Duration {
        self.newest() * 5 / 4
    }

    /// Whether this link was asked, and has answered, so much later than `owing` that the one which owes since then is late by its own fault.
    pub fn is_ahead(&self, owing: Instant, by: Duration) -> bool {
        let late = self.owing().is_some_and(|own| own < owing + by);
        self.health != Health::Dead && !late && self.proven.is_some_and(|proven| proven >= owing + by)
    }

    /// The probe was answered; so was, or never will be, what left before it.
    pub fn proved(&mut self, position: usize, rtt: Duration) {
        self.proven = self.probes.drain(..=position).next_back().map(|(_, sent)| sent);
        // RFC 6298's smoothing of one eighth; a handshake whose first packet was lost took a second longer than the way is long.
        self.rtt = if self.samples.is_empty() { self.rtt.min(rtt) } else { (self.rtt * 7 + rtt) / 8 };
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(rtt);
    }

    /// How long the way is, without what was lost on it: the best of the newest round trips.
    pub fn way(&self) -> Duration {
        self.samples.iter().copied().min().unwrap_or(self.rtt)
    }

    /// What the newest answered probe took.
    pub fn newest(&self) -> Duration {
        self.samples.back().copied().unwrap_or_default()
    }

    /// When three probes of this silence are unanswered and it has lasted long enough; `None`: not three were sent. Four times as `long` is not long
    /// enough yet: a way that became long is no dead one.
    pub fn dead_at(&self, long: Duration) -> Option<Instant> {
        if !matches!(self.health, Health::Silent | Health::Suspect) {
            return None;
        }
        let since = self.waiting?;
        let (_, third) = self.probes.iter().filter(|(_, sent)| *sent >= since).nth(PROBES_TO_DEATH - 1)?;
        Some((*third + self.patience()).max(since + self.deadly().max(long * 4)))
    }

    /// An answer that proves the path now; whatever waited before it says nothing about the future.
    pub fn alive(&mut self, now: Instant) {
        self.last_life = now;
        self.waiting = None;
        self.contrast = None;
    }

    pub fn asked(&mut self, now: Instant) {
        self.waiting.get_or_insert(now);
    }
}
