//! The agent: every decision about routes, without a socket, clock, task or random number of its own.
//!
//! Dialling is failover from nothing: with no primary every candidate is hunted, the first link carries calls at once,
//! better ones take over by tier, and only death or a network change demotes. `routes.md` 2-4 are the rules.
//!
//! After each input the state is *settled*: what should be primary, standby, hedged, validated and tried follows from the
//! state alone, so the order in which inputs arrive cannot leave a decision behind.

mod hunt;
mod lag;
mod life;
mod line;
mod pace;
mod primary;
mod prospect;
pub mod rank;
mod standby;
#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test needs a first instant")]
mod tests;
mod types;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use hunt::Hunt;
use line::{Health, Line, Role, Validation};
use prospect::Prospect;
pub use types::*;

/// Candidates kept per machine. A machine has a handful of addresses; 64 leaves room for a flood of spoofed answers to
/// be survived by the real ones, which were tried first.
pub const MAX_CANDIDATES: usize = 64;
/// No choice of a user's makes the agent ask, or try, more often than this.
const LEAST_PAUSE: Duration = Duration::from_millis(10);
/// Links kept at once: primary, standby, one being validated, and a few that were dead and may answer again.
pub const MAX_LINKS: usize = 6;
/// How long calls may finish on a link that a better one replaced.
const DRAIN: Duration = Duration::from_secs(10);
/// How long a dead link may stay without an answer before it is severed.
const REDEMPTION_LIMIT: Duration = Duration::from_secs(60);
/// A deadline noticed this late means that the process itself stood still: pending probes prove nothing.
const OWN_STALL: Duration = Duration::from_millis(100);

/// Where the life of the agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No link yet.
    Dialing,
    /// There was a link: reconnect for ever.
    Connected,
    /// A verdict ended the dial, or reconnecting is switched off.
    Over,
}

/// What was last said about where calls go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Use(LinkId),
    NoRoute { swapping: bool },
}

/// Which route, when, and what if it dies. See the module.
#[derive(Debug)]
pub struct RouteAgent {
    policy: Policy,
    jitter: u64,
    attempts: u64,
    phase: Phase,
    outputs: VecDeque<Output>,
    prospects: BTreeMap<Route, Prospect>,
    lines: BTreeMap<LinkId, Line>,
    primary: Option<LinkId>,
    /// The link that was primary and fell silent with nothing to replace it: one answer makes it primary again.
    muted: Option<LinkId>,
    /// When what is out on the muted link is decided.
    undecided: Option<Instant>,
    standby: Option<LinkId>,
    told: Told,
    told_standby: Option<LinkId>,
    hedge: Option<(LinkId, LinkId)>,
    held: Held,
    peer: Peer,
    hunt: Hunt,
    /// Whether announcements on the local network are listened to.
    listening: bool,
    /// Since when a link of the primary's tier has been better by the margin of [`rank::overtakes`].
    overtaking: Option<(LinkId, Instant)>,
    /// The window of the session that is held, or was held last.
    window: Option<Duration>,
    /// The link that was last said to be too slow for the session, and not in time since.
    slow: Option<LinkId>,
}

impl RouteAgent {
    /// An agent that starts dialling at once. `seed` decides all jitter.
    pub fn new(policy: Policy, seed: u64, now: Instant) -> Self {
        let mut agent = Self {
            policy,
            jitter: seed,
            attempts: 0,
            phase: Phase::Dialing,
            outputs: VecDeque::new(),
            prospects: BTreeMap::new(),
            lines: BTreeMap::new(),
            primary: None,
            muted: None,
            undecided: None,
            standby: None,
            told: Told::Nothing,
            told_standby: None,
            hedge: None,
            held: Held::Nothing,
            peer: Peer::Stock,
            hunt: Hunt::new(now),
            listening: false,
            overtaking: None,
            window: None,
            slow: None,
        };
        agent.tell(Event::Hunting);
        agent.search();
        agent
    }

    /// The link that carries calls.
    pub fn primary(&self) -> Option<LinkId> {
        self.primary
    }

    /// The warm, validated second link.
    pub fn standby(&self) -> Option<LinkId> {
        self.standby.filter(|link| self.ready(*link))
    }

    /// The smoothed round trip of a link, from probes, starting at the handshake's.
    pub fn rtt(&self, link: LinkId) -> Option<Duration> {
        self.lines.get(&link).map(|line| line.rtt)
    }

    /// How long the way of a link is, without what was lost or waited on it: the best of its newest round trips.
    pub fn way(&self, link: LinkId) -> Option<Duration> {
        self.lines.get(&link).map(Line::way)
    }

    /// Every link that may still carry something (not drained for a better one), oldest first.
    pub fn live_links(&self) -> Vec<LinkId> {
        self.lines.iter().filter(|(_, line)| !line.leaving()).map(|(link, _)| *link).collect()
    }

    /// Every link that was reported and is neither closed nor aborted, those that are being drained included: at most [`MAX_LINKS`].
    pub fn links(&self) -> impl Iterator<Item = LinkId> {
        self.lines.keys().copied()
    }

    /// Routes that are known: at most [`MAX_CANDIDATES`].
    pub fn candidates(&self) -> usize {
        self.prospects.len()
    }

    /// A link is up. A connection that nobody asked for any more is aborted.
    pub fn handle_connected(&mut self, of: Attempt, link: LinkId, facts: LinkFacts, now: Instant) {
        self.advance(now);
        let Some(route) = self.take_attempt(of) else {
            self.outputs.push_back(Output::Abort { link });
            return self.settle(now);
        };
        if self.phase == Phase::Over || self.lines.contains_key(&link) {
            self.outputs.push_back(Output::Abort { link });
            return self.settle(now);
        }
        if let Some(prospect) = self.prospects.get_mut(&route) {
            prospect.connected(now);
        }
        self.make_room();
        let penance = self.prospects.get(&route).map_or(Duration::ZERO, Prospect::penance);
        let trial = (!penance.is_zero()).then(|| now + penance);
        self.lines.insert(link, Line::new(route.clone(), facts, trial, now));
        self.tell(Event::Connected { route, link });
        self.won(link, now);
        if self.primary.is_some() {
            // Whether it is the same process decides whether it may stand by, also while nothing is held.
            self.probe(link, now);
        }
        self.settle(now);
    }

    /// An attempt failed.
    pub fn handle_failed(&mut self, of: Attempt, why: Failure, now: Instant) {
        self.advance(now);
        if let Some(route) = self.take_attempt(of) {
            self.attempt_failed(&route, why, now);
        }
        self.settle(now);
    }

    /// A link is gone.
    pub fn handle_closed(&mut self, link: LinkId, now: Instant) {
        self.advance(now);
        if let Some(line) = self.lines.remove(&link) {
            self.tell(Event::Closed { link });
            let carried = self.primary == Some(link) || self.muted == Some(link);
            self.forget(link);
            if !line.leaving()
                && let Some(prospect) = self.prospects.get_mut(&line.route)
            {
                prospect.lost(now);
            }
            if carried {
                self.lost_primary(now);
            }
        }
        self.settle(now);
    }

    /// A probe's answer named the machine's process.
    pub fn handle_process(&mut self, link: LinkId, boot: u128, now: Instant) {
        self.advance(now);
        if let Some(line) = self.lines.get_mut(&link) {
            line.boot = Some(boot);
        }
        self.settle(now);
    }

    /// The session layer's answer to `Validate`.
    pub fn handle_validated(&mut self, link: LinkId, what: Validated, now: Instant) {
        self.advance(now);
        if let Some(line) = self.lines.get_mut(&link)
            && matches!(line.validation, Validation::Asked(_))
        {
            match what {
                Validated::SameSession => {
                    line.validation = Validation::Same;
                    self.life(link, Sign::Reply, now);
                }
                Validated::ForeignOrUnknown => {
                    line.validation = Validation::Foreign;
                    self.tell(Event::Foreign { link });
                    self.life(link, Sign::Reply, now);
                }
            }
        }
        self.settle(now);
    }

    /// What the session layer holds, and at whom.
    pub fn handle_held(&mut self, held: Held, peer: Peer, now: Instant) {
        self.advance(now);
        let holds = |held: &Held| matches!(held, Held::Session { .. });
        let (before, after) = (holds(&self.held), holds(&held));
        self.held = held;
        self.peer = peer;
        if let Held::Session { window, .. } = held {
            self.window = Some(window);
        }
        if before != after {
            // A new session is valid where it was started; the ban on foreign links ends with the lapse.
            for (link, line) in &mut self.lines {
                line.validation =
                    if after && self.primary == Some(*link) { Validation::Same } else { Validation::Unasked };
            }
            if !after {
                self.prospects.values_mut().for_each(|prospect| prospect.banned = None);
            }
        }
        self.settle(now);
    }

    /// Changes when a second link is kept warm.
    pub fn set_standby(&mut self, policy: StandbyPolicy, now: Instant) {
        self.advance(now);
        self.policy.standby = policy;
        self.settle(now);
    }

    /// A motion call without a session left on this link: it is never drained for a better one, because what it moves is
    /// stopped by its end (policy `guard`).
    pub fn handle_unheld_motion(&mut self, link: LinkId, now: Instant) {
        self.advance(now);
        if let Some(line) = self.lines.get_mut(&link) {
            line.carried_unheld_motion = true;
        }
        self.settle(now);
    }

    /// The peer connection below a link uses another pair: its tier, and the local address it leaves from.
    pub fn handle_moved(&mut self, link: LinkId, tier: Tier, path: Option<IpAddr>, now: Instant) {
        self.advance(now);
        if let Some(line) = self.lines.get_mut(&link) {
            (line.facts.tier, line.facts.path) = (tier, path);
            // They tell of the way before.
            line.samples.clear();
        }
        self.settle(now);
    }

    /// The operating system told of a change.
    pub fn handle_network_changed(&mut self, change: NetChange, now: Instant) {
        self.advance(now);
        if let NetChange::Resumed = change {
            self.restart_probes();
        }
        if let NetChange::Lost(gone) = change {
            let lost: Vec<LinkId> =
                self.lines.iter().filter(|(_, line)| line.facts.path == Some(gone)).map(|(link, _)| *link).collect();
            for link in lost {
                self.address_lost(link, now);
            }
        }
        self.renew_prospects(now);
        for link in self.live_links() {
            self.probe(link, now);
        }
        self.settle(now);
    }

    /// Does what is due. Early calls are harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        self.settle(now);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When `handle_timeout` is wanted next, and what for; `None`: nothing is pending.
    pub fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        let mut next: Option<(Instant, Timer)> = None;
        self.deadlines(&mut |at, timer| {
            if next.is_none_or(|(earliest, _)| at < earliest) {
                next = Some((at, timer));
            }
        });
        next
    }

    fn deadlines(&self, each: &mut dyn FnMut(Instant, Timer)) {
        self.hunt_deadlines(each);
        self.life_deadlines(each);
        if let Some((_, since)) = self.overtaking {
            each(since + rank::OVERTAKING, Timer::Promote);
        }
    }

    /// Compares every deadline with `now` before an input is used.
    fn advance(&mut self, now: Instant) {
        let late = self.poll_timeout().is_some_and(|(at, _)| now > at + OWN_STALL);
        if late {
            self.restart_probes();
        }
        self.life_due(now);
        self.hunt_due(now);
        self.settle(now);
    }

    /// Settles, and does what thereby fell due: an input may shorten a deadline to one that has passed.
    fn settle(&mut self, now: Instant) {
        self.derive(now);
        // Every pass clears what was due; the ladder of the longest chain has fewer rungs than this.
        for _ in 0..16 {
            if self.poll_timeout().is_none_or(|(at, _)| at > now) {
                break;
            }
            self.life_due(now);
            self.hunt_due(now);
            self.derive(now);
        }
    }

    /// Derives from the state what should be so, and says what changed.
    fn derive(&mut self, now: Instant) {
        self.validate_links(now);
        self.choose_primary(now);
        self.choose_standby(now);
        self.validate_links(now);
        self.choose_hedge();
        self.dismiss_links(now);
        self.pursue(now);
        self.choose_listening();
        self.judge_pace(now);
    }

    fn drain(&mut self, link: LinkId, until: Instant, why: Demotion) {
        if let Some(line) = self.lines.get_mut(&link) {
            line.role = Role::Leaving { until, why };
            self.outputs.push_back(Output::Drain { link, until, why });
        }
        if self.standby == Some(link) {
            self.standby = None;
        }
    }

    fn remove(&mut self, link: LinkId) {
        self.lines.remove(&link);
        self.forget(link);
    }

    fn forget(&mut self, link: LinkId) {
        if self.hedge.is_some_and(|(from, on)| from == link || on == link) {
            self.end_hedge();
        }
        for place in [&mut self.primary, &mut self.muted, &mut self.standby] {
            if *place == Some(link) {
                *place = None;
            }
        }
        if self.overtaking.is_some_and(|(challenger, _)| challenger == link) {
            self.overtaking = None;
        }
    }

    /// The oldest link that nothing depends on makes room for a new one.
    fn make_room(&mut self) {
        while self.lines.len() >= MAX_LINKS {
            let spare = self
                .lines
                .iter()
                .filter(|(link, _)| ![self.primary, self.standby, self.muted].contains(&Some(**link)))
                .max_by_key(|(link, line)| (line.leaving(), line.health == Health::Dead, std::cmp::Reverse(**link)))
                .map(|(link, _)| *link);
            let Some(spare) = spare else { return };
            self.outputs.push_back(Output::Abort { link: spare });
            self.remove(spare);
        }
    }

    fn tell(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn attempt(&mut self) -> Attempt {
        self.attempts += 1;
        Attempt(self.attempts)
    }

    /// `most` times a factor between 3/4 and 1, so that many clients of one machine do not return in step (splitmix64).
    fn jittered(&mut self, most: Duration) -> Duration {
        self.jitter = self.jitter.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.jitter;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let share = 768 + ((z ^ (z >> 31)) % 257) as u32;
        most * share / 1024
    }
}
