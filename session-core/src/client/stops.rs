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
    again: Option<Instant>,
    until: Instant,
    /// It was answered, and is sent once more to a machine that does not take order: a command may have been on its way.
    answered: bool,
}

impl<C> Stop<C> {
    pub(super) fn number(&self) -> Option<u64> {
        self.letter.as_ref().and_then(|letter| letter.order.as_ref()).map(|order| order.number)
    }

    pub(super) fn next(&self) -> Option<Instant> {
        Some(self.again.map_or(self.until, |again| again.min(self.until)))
    }

    fn is_ordered(&self) -> bool {
        self.number().is_some()
    }
}

impl<C: Ord + Clone> ClientSession<C> {
    pub(super) fn issue_stop(&mut self, call: Call, component: C, all: bool, now: Instant) {
        let component = (!all).then_some(component);
        self.supersede(component.as_ref());
        if self.stops.len() >= MAX_STOPS
            && let Some(oldest) = self.stops.keys().next().copied()
        {
            self.fail(oldest, Failure::StopUnanswered);
        }
        let letter = self.letter_if_live();
        let until = now + self.lease.live().map_or(WINDOW, |live| live.window);
        self.stops.insert(call, Stop { component, letter, out: BTreeSet::new(), again: None, until, answered: false });
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
        let primary = self.primary();
        let Some(stop) = self.stops.get_mut(&call) else { return };
        let ordered = stop.is_ordered();
        let hedge = self.hedge.map(|(link, _)| link);
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
            let letter = stop.letter.clone();
            self.outputs.push_back(ClientOutput::SendStop { call, link, letter });
        }
    }

    /// What became of a copy of a Stop: `true` for OK.
    pub fn handle_stopped(&mut self, call: Call, link: Link, ok: bool, now: Instant) {
        self.expire(now);
        let Some(stop) = self.stops.get_mut(&call) else { return };
        stop.out.remove(&link);
        if !ok {
            // To a machine that does not take order nothing is repeated by itself while its answer is bad.
            if !stop.is_ordered() && stop.out.is_empty() && !stop.answered {
                self.fail(call, Failure::StopUnanswered);
            }
            return self.flush(now);
        }
        if stop.answered {
            self.stops.remove(&call);
            return self.flush(now);
        }
        let component = stop.component.clone();
        match &component {
            Some(component) => {
                self.held.remove(component);
            }
            None => self.held.clear(),
        }
        // Whatever is there of the component was issued after the Stop: a second copy would stop that.
        let followed = self.motions.values().any(|m| component.as_ref().is_none_or(|c| *c == m.component));
        self.outputs.push_back(ClientOutput::StopDone(call));
        if followed || stop.is_ordered() || stop.letter.is_none() {
            self.stops.remove(&call);
        } else {
            let window = stop.until.saturating_duration_since(now).max(Duration::from_millis(1));
            (stop.answered, stop.again) = (true, Some(now + window.min(WINDOW) / 5));
        }
        self.flush(now);
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
            self.stops.iter().filter(|(_, s)| !s.answered && !s.out.contains(&link)).map(|(c, _)| *c).collect();
        for call in waiting {
            self.send_stop(call, now);
        }
    }

    pub(super) fn stop_links_gone(&mut self, link: Link) {
        for stop in self.stops.values_mut() {
            stop.out.remove(&link);
        }
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
