//! Motion calls: parked until they may leave, numbered as they leave, open until they are answered.

use std::collections::BTreeSet;
use std::time::Instant;

use super::lease::Lease;
use super::stops::Stop;
use super::{Answer, Call, ClientOutput, ClientSession, Failure, Kind, Link, MAX_OPEN};
use crate::SessionId;

/// A motion call that is not over.
#[derive(Debug)]
pub(super) struct Motion<C> {
    pub(super) component: C,
    kind: Kind,
    sent: Option<Sent>,
    /// It was sent before under a session that was gone (s35: once).
    retried: bool,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    session: Option<SessionId>,
    number: Option<u64>,
    link: Option<Link>,
}

impl<C> Motion<C> {
    pub(super) fn is_sent(&self) -> bool {
        self.sent.is_some()
    }

    pub(super) fn number(&self) -> Option<u64> {
        self.sent.and_then(|sent| sent.number)
    }

    pub(super) fn link(&self) -> Option<Link> {
        self.sent.and_then(|sent| sent.link)
    }
}

impl<C: Ord + Clone> ClientSession<C> {
    /// The program calls something that moves or stops `component`.
    pub fn issue(&mut self, component: C, kind: Kind, now: Instant) -> Call {
        self.expire(now);
        self.alive = Some(now);
        let call = self.call();
        if matches!(kind, Kind::Stop | Kind::StopAll) {
            self.issue_stop(call, component, kind == Kind::StopAll, now);
            return call;
        }
        self.motions.insert(call, Motion { component, kind, sent: None, retried: false });
        if self.closed {
            self.fail(call, Failure::Closed);
        } else if self.primary().is_none() && !self.swapping {
            self.fail(call, Failure::NotConnected { lapses: self.lease.lapses() });
        } else {
            self.not_repeated_for(call);
            self.flush(now);
        }
        call
    }

    /// The program does not want the call's outcome any more.
    pub fn give_up(&mut self, call: Call, now: Instant) {
        self.expire(now);
        let Some(motion) = self.motions.remove(&call) else { return };
        if let Some(sent) = motion.sent {
            // It may move something all the same.
            self.gone_astray(&motion);
            self.held.insert(motion.component);
            if sent.number.is_some() {
                self.tell_given_up(now);
            }
        }
        self.flush(now);
    }

    /// A command is not waited for any more. One with a number is taken back by the next list; any other may still arrive.
    pub(super) fn gone_astray(&mut self, motion: &Motion<C>) {
        if let Some(Sent { number: None, link: Some(link), .. }) = motion.sent
            && self.links.contains_key(&link)
        {
            self.stray.entry(link).or_default().insert(motion.component.clone());
        }
    }

    /// What became of a call that was sent.
    pub fn handle_answer(&mut self, call: Call, answer: Answer<C>, now: Instant) {
        self.expire(now);
        let Some(motion) = self.motions.get_mut(&call) else { return };
        match answer {
            Answer::Done => {
                let component = motion.component.clone();
                self.motions.remove(&call);
                self.held.insert(component);
            }
            // Its caller hears that it may have run: from then on it is to begin no more.
            Answer::Lost => return self.give_up(call, now),
            Answer::NotRun => {
                self.motions.remove(&call);
            }
            Answer::Expired(told) => {
                // A Stop that was issued since may have been of a whole whose part this moves: only the machine knows.
                let overtaken = self.last_stop.is_some_and(|stop| stop > call);
                let again = !motion.retried && motion.kind == Kind::Motion && !overtaken;
                let under = motion.sent.and_then(|sent| sent.session);
                (motion.sent, motion.retried) = (None, true);
                if under.is_some() && self.lease.live().map(|live| live.id) == under {
                    // If anything was held this call fails with the others.
                    self.lapse(Some(told), now);
                }
                if !again && self.motions.contains_key(&call) {
                    self.fail(call, if overtaken { Failure::Superseded } else { Failure::Expired });
                }
            }
        }
        self.flush(now);
    }

    /// Sends what may be sent: in order on each component, within the limit, under a session that is there.
    pub(super) fn flush(&mut self, now: Instant) {
        let parked = !self.motions.values().all(Motion::is_sent);
        if self.primary().is_none() || !(parked || self.stops.values().any(Stop::is_early)) {
            return;
        }
        if parked && !self.lease.is_ready() {
            self.want_session(now);
            return;
        }
        for stop in self.early_stops() {
            self.send_parked(Some(stop));
            if self.is_ordered() {
                // Over the limit: they would get a number above the Stop's.
                let before = self.parked().into_iter().filter(|call| *call < stop).collect::<Vec<_>>();
                before.into_iter().for_each(|call| self.fail(call, Failure::Superseded));
            }
            self.number_stop(stop, now);
        }
        self.send_parked(None);
    }

    /// Sends what is parked, all of it or what was issued before a Stop.
    fn send_parked(&mut self, before: Option<Call>) {
        // A component whose earlier call waits makes its later ones wait too.
        let mut waiting = BTreeSet::new();
        let parked: Vec<_> = self
            .motions
            .iter()
            .filter(|(call, motion)| !motion.is_sent() && before.is_none_or(|before| **call < before))
            .map(|(call, motion)| (*call, motion.component.clone()))
            .collect();
        for (call, component) in parked {
            let full = self.is_ordered() && self.unanswered() >= MAX_OPEN;
            if full || waiting.contains(&component) || self.is_stopping(&component) {
                waiting.insert(component);
                continue;
            }
            self.send(call);
        }
    }

    fn send(&mut self, call: Call) {
        let letter = self.letter_if_live();
        let session = letter.as_ref().map(|letter| letter.session);
        let number = letter.as_ref().and_then(|letter| letter.order.as_ref()).map(|order| order.number);
        let link = self.primary();
        if let Some(motion) = self.motions.get_mut(&call) {
            motion.sent = Some(Sent { session, number, link });
        }
        self.outputs.push_back(ClientOutput::Send { call, letter });
    }

    /// The machine keeps no session that beats could hold: calls go without, as soon as there is a route.
    pub(super) fn send_parked_without_session(&mut self) {
        debug_assert_eq!(self.lease, Lease::Idle);
        if self.primary().is_some() {
            self.send_parked(None);
        }
    }

    /// There is no route, and none is about to come.
    pub(super) fn fail_parked(&mut self) {
        self.fail_all_parked(&Failure::NotConnected { lapses: self.lease.lapses() });
    }

    pub(super) fn fail_all_parked(&mut self, why: &Failure<C>) {
        for call in self.parked() {
            self.fail(call, why.clone());
        }
    }

    fn parked(&self) -> Vec<Call> {
        self.motions.iter().filter(|(_, motion)| !motion.is_sent()).map(|(call, _)| *call).collect()
    }

    /// A Stop fails what was issued before it on its component.
    pub(super) fn supersede(&mut self, component: Option<&C>) {
        let before: Vec<_> =
            self.motions.iter().filter(|(_, m)| component.is_none_or(|c| *c == m.component)).map(|(c, _)| *c).collect();
        for call in before {
            self.fail(call, Failure::Superseded);
        }
    }

    fn not_repeated_for(&mut self, call: Call) {
        if let Some(component) = self.motions.get(&call).map(|motion| motion.component.clone()) {
            self.not_stopped_again(&component);
        }
    }
}
