//! The lease: started once, kept by beats, given up when it may be held no longer.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{
    Attempt, BeatError, ClientOutput, ClientSession, Event, Failure, Letter, Link, LinkState, StartError, Started,
    Stopped, TooSlow,
};
use crate::SessionId;

/// Beats that tell of calls given up leave this far apart at least.
const TELLING: Duration = Duration::from_millis(10);

/// Where the session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lease {
    /// None.
    Idle,
    /// Asked for.
    Starting { attempt: Attempt, link: Link, asked: Instant, old: Option<Live> },
    /// Held.
    Live(Live),
    /// The machine has none.
    Unsupported,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) id: SessionId,
    pub(super) window: Duration,
    pub(super) ordered: bool,
    /// When it lapses unless a beat is answered.
    lapses: Instant,
    /// A beat failed, and no other route came: the next call asks for the session first (s37).
    doubtful: bool,
}

/// A session that lapsed by this end's clock. At a machine that takes order it may live on: what reached that machine since, and was not answered
/// here, has extended it, and commands that are still on their way in it would run. So it is ended before there is another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    pub(super) live: Live,
    /// The beat that says so, while it is out.
    attempt: Option<(Attempt, Link)>,
}

impl Lease {
    pub(super) fn live(&self) -> Option<&Live> {
        match self {
            Self::Live(live) | Self::Starting { old: Some(live), .. } => Some(live),
            _ => None,
        }
    }

    pub(super) fn lapses(&self) -> Option<Instant> {
        self.live().map(|live| live.lapses)
    }

    /// Whether calls may leave under it.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self, Self::Live(live) if !live.doubtful) || *self == Self::Unsupported
    }

    /// A new route: its beat will tell.
    pub(super) fn proven(&mut self) {
        if let Self::Live(live) = self {
            live.doubtful = false;
        }
    }
}

impl<C: Ord + Clone> ClientSession<C> {
    /// What is over is over before anything else is looked at.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.lease.lapses().is_some_and(|at| at <= now) {
            let over = self.lease.live().copied();
            if let Some(live) = over {
                self.event(Event::Lapsed { id: live.id });
            }
            self.lapse(None, now);
            self.ending = over.filter(|live| live.ordered).map(|live| Ending { live, attempt: None });
            self.end_lapsed();
        }
    }

    /// Tells the machine that the session which lapsed here is over, where a route is there to tell it.
    pub(super) fn end_lapsed(&mut self) {
        let (Some(Ending { live, attempt: None }), Some(link)) = (self.ending, self.primary()) else { return };
        let letter = self.letter_of(live, true);
        self.next += 1;
        let attempt = Attempt(self.next);
        self.ending = Some(Ending { live, attempt: Some((attempt, link)) });
        self.outputs.push_back(ClientOutput::Beat { attempt, link, letter });
    }

    /// The same on a new route, whose answer counts.
    pub(super) fn end_lapsed_again(&mut self) {
        if let Some(ending) = &mut self.ending {
            ending.attempt = None;
            self.end_lapsed();
        }
    }

    /// Whether it is over at the machine too. If nobody answers, the calls that wait fail, and the next one asks again.
    fn handle_ended(&mut self, link: Link, answered: bool, now: Instant) {
        if answered {
            self.ending = None;
        } else {
            if let Some(ending) = &mut self.ending {
                ending.attempt = None;
            }
            let next = self.swapping || self.primary().is_some_and(|primary| primary != link);
            if !next {
                self.fail_all_parked(&Failure::NotConnected { lapses: None });
            }
        }
        self.flush(now);
    }

    /// Asks for a session where there is none and somebody needs one.
    pub(super) fn want_session(&mut self, now: Instant) {
        if self.ending.is_some() {
            return self.end_lapsed();
        }
        let old = match self.lease {
            Lease::Idle => None,
            Lease::Live(live) if live.doubtful => Some(live),
            _ => return,
        };
        let Some(link) = self.primary() else { return };
        self.next += 1;
        let attempt = Attempt(self.next);
        self.lease = Lease::Starting { attempt, link, asked: now, old };
        self.outputs.push_back(ClientOutput::Start { attempt, resume: old.map(|live| live.id) });
    }

    /// StartSession was answered, or not.
    pub fn handle_started(&mut self, of: Attempt, result: Result<Started, StartError>, now: Instant) {
        self.expire(now);
        let Lease::Starting { attempt, link, asked, old } = self.lease else { return };
        if attempt != of {
            return;
        }
        match result {
            Ok(started) => {
                self.started(started, asked, old, now);
                // Where the answer took long the first beat is due already: what has waited must not leave before it.
                if self.next_beat().is_some_and(|at| at <= now) {
                    self.beat_everywhere(now);
                }
            }
            Err(StartError::Unsupported) => self.lease = Lease::Unsupported,
            Err(error) => {
                self.lease = old.map_or(Lease::Idle, |live| Lease::Live(Live { doubtful: true, ..live }));
                // The route died under it: it is asked for again on the next one.
                let next = self.swapping || self.primary().is_some_and(|primary| primary != link);
                if error == StartError::Unreachable && next {
                    return self.flush(now);
                }
                let why = match error {
                    StartError::Unreachable => Failure::NotConnected { lapses: self.lease.lapses() },
                    _ => Failure::NotStarted,
                };
                self.fail_all_parked(&why);
            }
        }
        self.flush(now);
    }

    fn started(&mut self, started: Started, asked: Instant, old: Option<Live>, now: Instant) {
        let Started { id, window, ordered } = started;
        if let Some(old) = old.filter(|old| old.id != id) {
            self.lease = Lease::Live(old);
            self.lapse(None, now);
        }
        if window.is_zero() {
            // Nothing can be kept by beats; the next call asks again (s36).
            self.no_session();
            return self.send_parked_without_session();
        }
        let lapses = asked + window;
        if lapses <= now {
            self.no_session();
            let too_slow = TooSlow { took: now - asked, window };
            self.event(Event::TooSlow(too_slow));
            return self.fail_all_parked(&Failure::TooSlow(too_slow));
        }
        let resumed = old.is_some_and(|old| old.id == id);
        self.lease = Lease::Live(Live { id, window, ordered, lapses, doubtful: false });
        self.last_beat = Some(asked);
        self.event(Event::Started { id, window, resumed });
    }

    /// When the next beat is due.
    pub(super) fn next_beat(&self) -> Option<Instant> {
        let live = *self.lease.live()?;
        let last = self.last_beat?;
        if self.closed || !self.counts_as_alive(last + live.window / 5) {
            return None;
        }
        Some(last + live.window / 5)
    }

    /// Whether the program has said recently enough that it is there (`Watched`).
    fn counts_as_alive(&self, at: Instant) -> bool {
        match self.options.watched {
            None => true,
            Some(silence) => self.alive.is_some_and(|alive| at.saturating_duration_since(alive) <= silence),
        }
    }

    /// Beats on the primary, and for a while on the link that answers instead of it.
    pub(super) fn beat_everywhere(&mut self, now: Instant) {
        let Some(live) = self.lease.live().copied() else { return };
        if self.closed {
            return;
        }
        if !self.counts_as_alive(now) {
            // One that was due while the program was silent is due again as soon as it says something, and not before.
            self.last_beat = self.last_beat.max(now.checked_sub(live.window / 5));
            return;
        }
        self.last_beat = Some(now);
        // Liveness proven on a path that commands do not use is no liveness: both end half a window after the primary was proven.
        let other = self.hedge_for(live.window, now).or_else(|| self.standby_for(live.window, now));
        if let Some(primary) = self.primary() {
            self.beat(primary, false, now);
        }
        if let Some(link) = other {
            self.beat(link, false, now);
        }
    }

    /// A new primary or session is a new beginning.
    pub(super) fn nothing_doubted(&mut self) {
        (self.hedge, self.doubted) = (None, None);
        (self.owing, self.proven) = (None, None);
    }

    /// Where a beat goes too while an earlier one is unanswered on the primary: answers that wait behind others there, on a way that became long or
    /// loses packets, wait for no window where nothing else goes. For half a window since that one left, or since the primary answered anything.
    fn standby_for(&self, window: Duration, now: Instant) -> Option<Link> {
        self.primary()?;
        let since = self.owing?.max(self.proven.unwrap_or(self.owing?));
        if now.saturating_duration_since(since) > window / 2 {
            return None;
        }
        self.links.iter().find(|(_, state)| **state == LinkState::Standby).map(|(link, _)| *link)
    }

    /// The link that beats go over beside the primary: for half a window since the primary was last proven.
    fn hedge_for(&self, window: Duration, now: Instant) -> Option<Link> {
        let since = self.doubted?;
        self.hedge.filter(|_| now.saturating_duration_since(since) <= window / 2)
    }

    /// One beat.
    pub(super) fn beat(&mut self, link: Link, end: bool, now: Instant) -> Option<Attempt> {
        if !end && (self.closed || !self.counts_as_alive(now)) {
            return None;
        }
        let letter = self.letter(end)?;
        self.next += 1;
        let attempt = Attempt(self.next);
        self.beats.insert(attempt, (now, link));
        if self.primary() == Some(link) {
            self.owing.get_or_insert(now);
        }
        self.outputs.push_back(ClientOutput::Beat { attempt, link, letter });
        Some(attempt)
    }

    /// Tells the machine at once that calls were given up: what it holds of them is to end. On the primary, and on any other link only as long
    /// as beats go there: each is a beat too.
    pub(super) fn tell_given_up(&mut self, now: Instant) {
        let Some(live) = self.lease.live().filter(|live| live.ordered) else {
            // Its end has told all of it.
            self.tell_at = None;
            return;
        };
        let hedge = self.hedge_for(live.window, now);
        if let Some(next) = self.last_told.map(|last| last + TELLING).filter(|next| *next > now) {
            self.tell_at = Some(next);
            return;
        }
        (self.last_told, self.tell_at) = (Some(now), None);
        for link in self.primary().into_iter().chain(hedge) {
            self.beat(link, false, now);
        }
    }

    /// A beat was answered, or not.
    pub fn handle_beat(&mut self, of: Attempt, result: Result<(), BeatError<C>>, now: Instant) {
        self.expire(now);
        if let Some((_, link)) = self.ending.and_then(|ending| ending.attempt).filter(|(attempt, _)| *attempt == of) {
            return self.handle_ended(link, result != Err(BeatError::Unanswered), now);
        }
        let Some((sent, link)) = self.beats.remove(&of) else { return };
        let on_primary = self.primary() == Some(link);
        let live = match &mut self.lease {
            Lease::Live(live) | Lease::Starting { old: Some(live), .. } => live,
            _ => return,
        };
        match result {
            Ok(()) => {
                live.lapses = live.lapses.max(sent + live.window);
                live.doubtful = false;
                if on_primary {
                    // One that left later and failed since says nothing about a path that has answered.
                    let later =
                        self.beats.values().filter(|(at, on)| *on == link && *at > sent).map(|(at, _)| *at).min();
                    self.proven = Some(now);
                    self.owing = later.or(self.owing.filter(|since| *since > sent));
                    if self.hedge.is_none() {
                        self.doubted = None;
                    }
                }
            }
            // On any other link it says nothing about the one that calls use: that link may lead to another process.
            Err(BeatError::Unanswered) => live.doubtful |= on_primary,
            Err(BeatError::Expired(_)) if !on_primary && self.primary().is_some() => {}
            Err(BeatError::Expired(told)) => self.lapse(Some(told), now),
        }
        self.flush(now);
    }

    /// What answers its beats says nothing of the next one.
    fn no_session(&mut self) {
        self.lease = Lease::Idle;
        self.beats.clear();
        (self.owing, self.proven) = (None, None);
    }

    /// The session is over. `told`: by the machine, with what it stopped where it says so. Nothing resumes by itself: whatever was issued
    /// before this was known fails, if anything was held.
    pub(super) fn lapse(&mut self, told: Option<Option<BTreeSet<C>>>, now: Instant) {
        self.no_session();
        self.nothing_doubted();
        self.last_beat = None;
        self.tell_at = None;
        let mut record = std::mem::take(&mut self.held);
        let by_machine = told.is_some();
        if !by_machine {
            // What is out and unanswered may be moving.
            record.extend(self.motions.values().filter(|m| m.is_sent()).map(|m| m.component.clone()));
        }
        let what = told.flatten().unwrap_or(record);
        if what.is_empty() || self.options.resume_motion {
            return;
        }
        let stopped = Stopped { what, at: now, told: by_machine };
        self.event(Event::Stopped(stopped.clone()));
        for call in self.motions.keys().copied().collect::<Vec<_>>() {
            self.fail(call, Failure::Stopped(stopped.clone()));
        }
    }

    /// For a message that needs no session: that of the live one, also while it is being resumed, or of one that is being ended and whose
    /// commands a Stop has to overtake.
    pub(super) fn letter_if_live(&mut self) -> Option<Letter> {
        let ending = self.ending.filter(|_| self.lease == Lease::Idle).map(|ending| ending.live);
        let live = self.lease.live().copied().or(ending)?;
        Some(self.letter_of(live, false))
    }
}
