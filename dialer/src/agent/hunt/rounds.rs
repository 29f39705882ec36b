//! The rounds of a first dial whose attempts are limited (s57): when one is over, when the next begins, when the dial is given up.

use std::time::{Duration, Instant};

use super::super::*;
use super::backoff;

impl RouteAgent {
    /// A round is over as soon as nothing is left to wait for.
    pub(super) fn end_round_early(&mut self, now: Instant) {
        if !self.limited() || self.hunt.round_ends.is_none() || self.hunt.answered.is_none() {
            return;
        }
        let waiting = self.hunt.searching.is_some()
            || self.prospects.values().any(|prospect| {
                prospect.patient.is_some()
                    || (prospect.next.is_some() && !prospect.refused && !prospect.unknown && prospect.banned.is_none())
            })
            || !self.lines.is_empty();
        if !waiting {
            self.end_round(now);
        }
    }

    pub(super) fn end_round(&mut self, now: Instant) {
        let routes: Vec<Route> = self.prospects.keys().cloned().collect();
        routes.iter().for_each(|route| self.cancel(route));
        self.hunt.round_ends = None;
        if self.hunt.answered == Some(true) && self.prospects.values().all(|prospect| prospect.unknown) {
            return self.end(Verdict::Unknown);
        }
        if self.hunt.round >= self.policy.initial_attempts {
            return self.end(Verdict::Unreachable { attempts: self.hunt.round });
        }
        let pause = self.jittered(backoff(self.hunt.round - 1, Duration::from_secs(1)));
        self.hunt.round_next = Some(now + pause);
    }

    pub(super) fn next_round(&mut self, now: Instant) {
        self.hunt.round += 1;
        self.hunt.round_next = None;
        self.hunt.started = now;
        self.hunt.round_ends = Some(now + self.policy.dial_timeout);
        self.hunt.answered = None;
        self.prospects.values_mut().for_each(|prospect| prospect.tried = false);
        (self.hunt.dns_next, self.hunt.near_next) = (now, now);
        self.stagger(now);
        self.search();
    }

    pub(super) fn end(&mut self, verdict: Verdict) {
        self.phase = Phase::Over;
        self.cancel_all();
        self.tell(Event::Verdict(verdict));
    }
}
