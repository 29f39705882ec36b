//! The client's half of a session: one lease, beats, numbered calls, Stops with right of way.
//!
//! [`ClientSession`] is sans-IO (`safety.md` 6). The shell tells it what the program asks for, what links there are and what was answered,
//! and does what comes out of [`ClientSession::poll_output`].
//!
//! ```text
//!                  first monitored call
//!        Idle ───────────────────────────► Starting ──── Unsupported: calls go without a session
//!         ▲                                   │
//!         │ lapse: nothing resumes by itself  │ started
//!         └──────────────────────────────── Live ──┐
//!                                             ▲    │ a beat failed: the next call resumes first
//!                                             └────┘
//! ```

mod calls;
mod lease;
mod stops;
mod types;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::{Order, SessionId};
use calls::Motion;
use lease::{Ending, Lease, Live};
use stops::Stop;
pub use types::*;

/// Motion calls that are out at once with a machine that takes order; further ones wait their turn.
pub const MAX_OPEN: usize = 64;

/// The client's session with one machine. `C` names components.
#[derive(Debug)]
pub struct ClientSession<C> {
    options: ClientOptions,
    key: u64,
    lease: Lease,
    ending: Option<Ending>,
    /// Numbers of this key; they go on from session to session.
    number: u64,
    next: u64,
    links: BTreeMap<Link, LinkState>,
    /// While the primary is doubtful: where else beats go.
    hedge: Option<Link>,
    /// Since when the primary is doubtful: until a beat on it is answered while nothing else answers for it, or until another takes its place.
    doubted: Option<Instant>,
    /// When the first beat left on the primary that it has not answered, nor any later one.
    owing: Option<Instant>,
    /// When the primary last answered a beat, however old, or anything after a silence.
    proven: Option<Instant>,
    /// A link is being validated: what cannot be sent now may be sent soon.
    swapping: bool,
    motions: BTreeMap<Call, Motion<C>>,
    stops: BTreeMap<Call, Stop<C>>,
    /// The newest Stop there was.
    last_stop: Option<Call>,
    /// Commands that were sent over a link to a machine that does not take order, and given up before they were answered: they may still be on
    /// their way, until a Stop behind them was answered or the link is severed.
    stray: BTreeMap<Link, BTreeSet<C>>,
    /// What passed a gate, as far as this end knows, and was not stopped since.
    held: BTreeSet<C>,
    beats: BTreeMap<Attempt, (Instant, Link)>,
    last_beat: Option<Instant>,
    /// When a beat last told that a call was given up: at most one in 10 ms.
    last_told: Option<Instant>,
    /// When the next such beat leaves.
    tell_at: Option<Instant>,
    alive: Option<Instant>,
    closed: bool,
    outputs: VecDeque<ClientOutput<C>>,
}

impl<C: Ord + Clone> ClientSession<C> {
    /// A client without a session. `key`: 64 random bits, one for each process.
    pub fn new(options: ClientOptions, key: u64) -> Self {
        Self {
            options,
            key,
            lease: Lease::Idle,
            ending: None,
            number: 0,
            next: 0,
            links: BTreeMap::new(),
            hedge: None,
            doubted: None,
            owing: None,
            proven: None,
            swapping: false,
            motions: BTreeMap::new(),
            stops: BTreeMap::new(),
            last_stop: None,
            stray: BTreeMap::new(),
            held: BTreeSet::new(),
            beats: BTreeMap::new(),
            last_beat: None,
            last_told: None,
            tell_at: None,
            alive: None,
            closed: false,
            outputs: VecDeque::new(),
        }
    }

    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<ClientOutput<C>> {
        self.outputs.pop_front()
    }

    /// When `handle_timeout` is to be called, and for what; `None` while nothing is pending.
    pub fn poll_timeout(&self) -> Option<(Instant, ClientTimer)> {
        let lapse = self.lease.lapses().map(|at| (at, ClientTimer::Lapse));
        let beat = self.next_beat().into_iter().chain(self.tell_at).min().map(|at| (at, ClientTimer::Beat));
        let stop = self.stops.values().filter_map(Stop::next).min().map(|at| (at, ClientTimer::Stop));
        [lapse, beat, stop].into_iter().flatten().min()
    }

    /// Time has passed. Early calls are harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.expire(now);
        self.stops_due(now);
        if self.tell_at.is_some_and(|at| at <= now) {
            self.tell_given_up(now);
        }
        if self.next_beat().is_some_and(|at| at <= now) {
            self.beat_everywhere(now);
        }
    }

    /// The program is there (`Watched`).
    pub fn alive(&mut self, now: Instant) {
        self.expire(now);
        self.alive = Some(now);
        if self.next_beat().is_some_and(|at| at <= now) {
            self.beat_everywhere(now);
        }
    }

    /// The live session, and its window.
    pub fn session(&self) -> Option<(SessionId, Duration)> {
        self.lease.live().map(|live| (live.id, live.window))
    }

    /// Whether the machine takes order, once that is known.
    pub fn is_ordered(&self) -> bool {
        self.ending.is_some() || self.lease.live().is_some_and(|live| live.ordered)
    }

    /// Motion calls that are out and unanswered.
    pub fn unanswered(&self) -> usize {
        self.motions.values().filter(|motion| motion.is_sent()).count()
    }

    /// What this end believes to be moving for it.
    pub fn held(&self) -> impl Iterator<Item = &C> {
        self.held.iter()
    }

    /// Where a link stands now. A new primary is beaten on first of all, before any call (s38).
    pub fn handle_link(&mut self, link: Link, state: LinkState, now: Instant) {
        self.expire(now);
        match state {
            LinkState::Primary => self.new_primary(link, now),
            LinkState::Gone => {
                self.links.remove(&link);
                if self.stop_links_gone(link)
                    && let Some(primary) = self.primary()
                {
                    self.stops_on(primary, now);
                }
            }
            other => {
                self.links.insert(link, other);
            }
        }
        if self.hedge.is_some_and(|on| !self.links.contains_key(&on)) {
            self.hedge = None;
        }
        self.flush(now);
    }

    /// There is no primary. `swapping`: a link is being proven, and the wait may be short.
    pub fn handle_no_route(&mut self, swapping: bool, now: Instant) {
        self.expire(now);
        for state in self.links.values_mut().filter(|state| **state == LinkState::Primary) {
            *state = LinkState::Draining;
        }
        self.swapping = swapping;
        if !swapping {
            self.fail_parked();
        }
    }

    /// The standby answers where the primary does not: beats go over it too, for at most half a window in all until the primary is proven again or
    /// replaced. Liveness proven on a path that commands do not use is no liveness. `None`: no more.
    pub fn handle_hedge(&mut self, on: Option<Link>, now: Instant) {
        self.expire(now);
        self.hedge = on.filter(|on| self.links.contains_key(on));
        if self.hedge.is_some() {
            self.doubted.get_or_insert(now);
            self.beat_everywhere(now);
        }
    }

    /// Something else was answered on the link: what it carries arrives and is answered, however late.
    pub fn handle_answering(&mut self, link: Link, now: Instant) {
        self.expire(now);
        if self.primary() == Some(link) {
            self.proven = Some(now);
        }
    }

    /// Beats once on a link that is not primary yet: the answer tells whether the session is known there.
    pub fn validate(&mut self, link: Link, now: Instant) -> Option<Attempt> {
        self.expire(now);
        self.links.entry(link).or_insert(LinkState::Standby);
        self.beat(link, false, now)
    }

    /// Leaves: what the session still holds stops at once with a machine that takes order. Returns what is to be stopped by Stops of the
    /// shell's own, with any other. Every call fails.
    pub fn close(&mut self, now: Instant) -> BTreeSet<C> {
        self.expire(now);
        self.closed = true;
        let mut held = std::mem::take(&mut self.held);
        // What is out and unanswered may be moving.
        held.extend(self.motions.values().filter(|motion| motion.is_sent()).map(|motion| motion.component.clone()));
        for call in self.motions.keys().copied().collect::<Vec<_>>() {
            self.fail(call, Failure::Closed);
        }
        match (self.primary(), self.is_ordered()) {
            (Some(primary), true) => {
                self.beat(primary, true, now);
                self.lease = Lease::Idle;
                BTreeSet::new()
            }
            _ => held,
        }
    }

    fn new_primary(&mut self, link: Link, now: Instant) {
        let before = self.primary().filter(|old| *old != link);
        if let Some(old) = before {
            self.links.insert(old, LinkState::Draining);
        }
        self.swapping = false;
        if self.links.insert(link, LinkState::Primary) != Some(LinkState::Primary) {
            self.nothing_doubted();
            if self.lease == Lease::Unsupported {
                // Whoever answers on this one may keep sessions: a machine that was brought up to date is not driven without for ever.
                self.lease = Lease::Idle;
            }
        }
        // A stock machine may still be reading a command from the old route when the next one comes over the new one.
        if !self.is_ordered() {
            let out = self.motions.values().filter_map(Motion::link).chain(self.stray.keys().copied());
            let stale: BTreeSet<_> = out.filter(|on| *on != link).collect();
            for on in stale {
                self.links.remove(&on);
                self.stop_links_gone(on);
                self.outputs.push_back(ClientOutput::Abort(on));
            }
        }
        self.lease.proven();
        self.beat(link, false, now);
        self.end_lapsed_again();
        self.stops_on(link, now);
    }

    fn primary(&self) -> Option<Link> {
        self.links.iter().find(|(_, state)| **state == LinkState::Primary).map(|(link, _)| *link)
    }

    fn call(&mut self) -> Call {
        self.next += 1;
        Call(self.next)
    }

    /// The headers of a new message of the session; nothing where there is none.
    fn letter(&mut self, end: bool) -> Option<Letter> {
        let live = *self.lease.live()?;
        Some(self.letter_of(live, end))
    }

    fn letter_of(&mut self, live: Live, end: bool) -> Letter {
        let order = live.ordered.then(|| {
            self.number += 1;
            let wanted = self.motions.values().filter_map(Motion::number);
            let open = wanted.chain(self.stops.values().filter_map(Stop::number)).collect();
            Order { key: self.key, number: self.number, open, end }
        });
        Letter { session: live.id, order }
    }

    fn fail(&mut self, call: Call, why: Failure<C>) {
        if let Some(motion) = self.motions.remove(&call) {
            self.gone_astray(&motion);
        }
        self.stops.remove(&call);
        self.outputs.push_back(ClientOutput::Fail { call, why });
    }

    fn event(&mut self, event: Event<C>) {
        self.outputs.push_back(ClientOutput::Event(event));
    }
}
