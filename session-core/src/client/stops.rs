//! Stops: on every link at once to a machine that takes order, repeated until it is answered; with care to any other.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Call, ClientOutput, ClientSession, Failure, Letter, Link, LinkState};

/// How often a Stop that is not answered goes out again.
const REPEAT: Duration = Duration::from_millis(100);
/// How long a Stop is tried where no window is known.
const WINDOW: Duration = Duration::from_secs(2);
/// Stops that are open at once; one more takes the place of the oldest, whose machine has long been told.
const MAX_STOPS: usize = 64;

/// A Stop that is not over.
#[derive(Debug)]
pub(super) struct Stop<C> {
    /// `None`: everything.
    component: Option<C>,
    /// The same on every copy.
    letter: Option<Letter>,
    /// Links on which a copy is out.
    out: BTreeSet<Link>,
    /// Of these, those whose copy may have come before a command that another link, gone since, had carried: their answers tell nothing.
    stale: BTreeSet<Link>,
    again: Option<Instant>,
    until: Instant,
    /// It was answered, and is sent once more to a machine that does not take order: a command may have been on its way.
    answered: bool,
    /// Commands that were issued before it still wait to be sent. One of them may move a part of what it stops: only the machine knows. So
    /// this one stops at once, and once more with a number above theirs; what it answers then counts.
    early: bool,
    /// A copy of an early one was answered with OK.
    confirmed: bool,
}

impl<C> Stop<C> {
    pub(super) fn number(&self) -> Option<u64> {
        self.letter.as_ref().and_then(|letter| letter.order.as_ref()).map(|order| order.number)
    }

    pub(super) fn next(&self) -> Option<Instant> {
        Some(self.again.map_or(self.until, |again| again.min(self.until)))
    }

    /// No copy whose answer counts is out on the link.
    fn is_wanted(&self, link: Link) -> bool {
        !self.out.contains(&link) || self.stale.contains(&link)
    }

    fn is_ordered(&self) -> bool {
        self.number().is_some()
    }

    pub(super) fn is_early(&self) -> bool {
        self.early
    }
}

impl<C: Ord + Clone> ClientSession<C> {
    pub(super) fn issue_stop(&mut self, call: Call, component: C, all: bool, now: Instant) {
        let component = (!all).then_some(component);
        self.last_stop = Some(call);
        self.supersede(component.as_ref());
        if self.stops.len() >= MAX_STOPS
            && let Some(oldest) = self.stops.keys().next().copied()
        {
            self.fail(oldest, Failure::StopUnanswered);
        }
        if self.primary().is_some() && self.lease.is_ready() && self.is_ordered() {
            // Nothing waits but what is over the limit.
            self.fail_all_parked(&Failure::Superseded);
        }
        let early = self.motions.values().any(|motion| !motion.is_sent());
        let letter = if early { None } else { self.letter_if_live() };
        let until = now + self.lease.live().map_or(WINDOW, |live| live.window);
        let stop = Stop {
            component,
            letter,
            out: BTreeSet::new(),
            stale: BTreeSet::new(),
            again: None,
            until,
            answered: false,
            early,
            confirmed: false,
        };
        self.stops.insert(call, stop);
        self.send_stop(call, now);
        if self.primary().is_none() && self.stops.get(&call).is_some_and(|stop| stop.out.is_empty()) {
            // Its caller hears at once; it is kept for a link that comes in time.
            self.outputs
                .push_back(ClientOutput::Fail { call, why: Failure::NotConnected { lapses: self.lease.lapses() } });
        }
    }

    /// One round of copies: on every live link to a machine that takes order, else on the primary, and while that is doubtful on the
    /// link that answers instead.
    fn send_stop(&mut self, call: Call, now: Instant) {
        let (primary, ours) = (self.primary(), self.is_ordered());
        let Some(stop) = self.stops.get_mut(&call) else { return };
        let ordered = stop.is_ordered() || (stop.early && ours);
        let hedge = self.hedge;
        let takes = |link: Link, state: LinkState| match state {
            LinkState::Primary => true,
            LinkState::Standby => ordered || hedge == Some(link),
            LinkState::Draining => ordered && primary.is_none(),
            LinkState::Gone => false,
        };
        let links: Vec<_> = self.links.iter().filter(|(l, s)| takes(**l, **s)).map(|(l, _)| *l).collect();
        stop.again = if ordered || links.is_empty() { Some(now + REPEAT) } else { None };
        for link in links {
            stop.out.insert(link);
            stop.stale.remove(&link);
            let letter = stop.letter.clone();
            self.outputs.push_back(ClientOutput::SendStop { call, link, letter });
        }
    }

    /// What became of a copy of a Stop: `true` for OK.
    pub fn handle_stopped(&mut self, call: Call, link: Link, ok: bool, now: Instant) {
        self.expire(now);
        let Some(stop) = self.stops.get_mut(&call) else { return };
        if !stop.out.remove(&link) {
            // Of a copy without a number, whose place one with a number took.
            return self.flush(now);
        }
        if stop.stale.remove(&link) {
            return self.flush(now);
        }
        if !ok {
            // To a machine that does not take order nothing is repeated by itself while its answer is bad.
            if !stop.is_ordered() && stop.out.is_empty() && !stop.answered {
                self.fail(call, Failure::StopUnanswered);
            }
            return self.flush(now);
        }
        if stop.early {
            let component = stop.component.clone();
            self.resolve_strays(link, component.as_ref());
            // A command from before may still come over another link: that one's answer counts, or its end.
            let astray = self.is_astray(component.as_ref());
            if let Some(stop) = self.stops.get_mut(&call).filter(|_| !astray) {
                (stop.confirmed, stop.again) = (true, None);
            }
            return self.flush(now);
        }
        if stop.answered {
            if stop.again.is_none() && stop.out.is_empty() {
                self.stops.remove(&call);
            }
            return self.flush(now);
        }
        let (component, ordered) = (stop.component.clone(), stop.is_ordered());
        self.resolve_strays(link, component.as_ref());
        if !ordered && self.is_astray(component.as_ref()) {
            // A command from before may still come over another link: that one's answer counts, or its end.
            return self.flush(now);
        }
        match &component {
            Some(component) => {
                self.held.remove(component);
            }
            None => self.held.clear(),
        }
        // Whatever is there of the component was issued after the Stop: a second copy would stop that.
        let followed = self.motions.values().any(|m| component.as_ref().is_none_or(|c| *c == m.component));
        self.outputs.push_back(ClientOutput::StopDone(call));
        let Some(stop) = self.stops.get_mut(&call) else { return };
        let over = followed || ordered || stop.letter.is_none();
        if over && (ordered || stop.out.is_empty()) {
            self.stops.remove(&call);
        } else {
            let window = stop.until.saturating_duration_since(now).max(Duration::from_millis(1));
            stop.answered = true;
            // A copy that is out on another link must not be overtaken by the next command, but nothing is said again.
            stop.again = if over { None } else { Some(now + window.min(WINDOW) / 5) };
        }
        self.flush(now);
    }

    /// A Stop came after whatever was sent over its link before it.
    fn resolve_strays(&mut self, link: Link, component: Option<&C>) {
        if let Some(strays) = self.stray.get_mut(&link) {
            strays.retain(|stray| component.is_some_and(|c| c != stray));
            if strays.is_empty() {
                self.stray.remove(&link);
            }
        }
    }

    fn is_astray(&self, component: Option<&C>) -> bool {
        self.stray.values().any(|strays| component.map_or(!strays.is_empty(), |c| strays.contains(c)))
    }

    /// Early Stops, oldest first.
    pub(super) fn early_stops(&self) -> Vec<Call> {
        self.stops.iter().filter(|(_, stop)| stop.early).map(|(call, _)| *call).collect()
    }

    /// What was issued before an early Stop has been sent, or has failed: now it gets its number.
    pub(super) fn number_stop(&mut self, call: Call, now: Instant) {
        let ordered = self.is_ordered();
        let letter = if ordered { self.letter_if_live() } else { None };
        let Some(stop) = self.stops.get_mut(&call) else { return };
        stop.early = false;
        if letter.is_some() {
            stop.letter = letter;
            stop.out.clear();
            self.send_stop(call, now);
        } else if stop.confirmed {
            (stop.answered, stop.again) = (true, None);
            if stop.out.is_empty() {
                self.stops.remove(&call);
            }
            self.outputs.push_back(ClientOutput::StopDone(call));
        }
    }

    pub(super) fn stops_due(&mut self, now: Instant) {
        let over: Vec<_> = self.stops.iter().filter(|(_, s)| s.until <= now).map(|(c, s)| (*c, s.answered)).collect();
        for (call, answered) in over {
            if answered {
                self.stops.remove(&call);
            } else {
                self.fail(call, Failure::StopUnanswered);
            }
        }
        let due: Vec<_> =
            self.stops.iter().filter(|(_, s)| s.again.is_some_and(|at| at <= now)).map(|(c, _)| *c).collect();
        for call in due {
            self.send_stop(call, now);
        }
        self.flush(now);
    }

    /// A new primary carries every Stop that is still open.
    pub(super) fn stops_on(&mut self, link: Link, now: Instant) {
        let waiting: Vec<_> =
            self.stops.iter().filter(|(_, s)| !s.answered && s.is_wanted(link)).map(|(c, _)| *c).collect();
        for call in waiting {
            self.send_stop(call, now);
        }
    }

    /// The link is gone. A command that it carried may have run, and after a copy of a Stop that overtook it on another link: to a machine that does not
    /// take order the Stop is said again, after that command's end. Whether there was such a command.
    pub(super) fn stop_links_gone(&mut self, link: Link) -> bool {
        let astray = self.stray.remove(&link).is_some();
        for stop in self.stops.values_mut() {
            stop.out.remove(&link);
            stop.stale.remove(&link);
            if astray && !stop.answered && !stop.is_ordered() {
                stop.stale.clone_from(&stop.out);
            }
        }
        astray
    }

    /// Whether a copy of a Stop may still be on its way to a machine that does not take order: a command must not overtake it.
    pub(super) fn is_stopping(&self, component: &C) -> bool {
        let concerns = |stop: &&Stop<C>| stop.component.as_ref().is_none_or(|c| c == component);
        self.stops.values().filter(concerns).any(|stop| !stop.is_ordered() && !stop.out.is_empty())
    }

    /// A motion call was issued after the Stop: its second copy would stop that.
    pub(super) fn not_stopped_again(&mut self, component: &C) {
        self.stops.retain(|_, stop| {
            let concerns = stop.component.as_ref().is_none_or(|c| c == component);
            if concerns && stop.answered {
                stop.again = None;
            }
            !(concerns && stop.answered && stop.out.is_empty())
        });
    }
}
