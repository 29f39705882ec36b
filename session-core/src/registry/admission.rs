//! Admission: which calls run, which wait for another's outcome, which never run.

use std::time::Instant;

use super::gates::Call;
use super::order::Standing;
use super::stops::WaitingStop;
use super::{Admitted, Cause, Holder, Incoming, Past, Policy, Refused, SessionRegistry, Ticket, Why};
use crate::{Order, SessionId};

impl<R: Ord + Clone> SessionRegistry<R> {
    /// A call whose first message is complete. A monitored one checks and extends its session; no call is associated with anything
    /// before it passes a gate.
    pub fn admit(&mut self, call: Incoming<'_, R>, now: Instant) -> Result<Admitted, Refused<R>> {
        self.handle_timeout(now);
        if self.closed {
            return Err(Refused::Closed);
        }
        let session = self.session_of(&call)?;
        let holder = self.holder_of(&call, session)?;
        let order = call.order.filter(|_| call.monitored).zip(session);
        let Some((order, id)) = order else {
            if let Some(id) = session.filter(|_| call.monitored) {
                self.extend(id, now);
            }
            return Ok(Admitted::Run(self.issue(holder, call.resource, None)));
        };
        let newest = self.take_list(id, order, now);
        if let Standing::Known { ticket, .. } = self.standing(id, order, call.digest)? {
            return Ok(Admitted::Copy(ticket));
        }
        let resources = self.covered(&call.resource);
        if self.is_superseded(id, order, &resources) {
            return Err(Refused::Superseded);
        }
        if newest {
            self.extend(id, now);
        }
        let ticket = self.issue(holder, call.resource, Some((id, order.key, order.number)));
        self.remember(id, order, ticket, call.digest, Some(&resources));
        Ok(Admitted::Run(ticket))
    }

    /// A caller's Stop of one resource, or of all. It is never refused: whatever its session, its caller or its order, what can
    /// be stopped is stopped. Answered when [`super::MachineOutput::StopDone`] of its ticket comes.
    pub fn stop(&mut self, call: Incoming<'_, R>, all: bool, now: Instant) -> Admitted {
        self.handle_timeout(now);
        let session = call.sid.filter(|id| self.owned(*id, call.owner).is_ok());
        let order = call.order.zip(session);
        if let Some((order, id)) = order
            && let Some(over) = self.stop_standing(id, order, call.digest, now)
        {
            return over;
        }
        let ticket = self.next_ticket();
        let numbered = order.map(|(order, id)| (id, order.key, order.number));
        let resources = if all { self.actuators().into_iter().collect() } else { vec![call.resource.clone()] };
        if let Some((order, id)) = order {
            let covered = self.covered(&call.resource);
            self.remember(id, order, ticket, call.digest, (!all).then_some(&covered));
        }
        self.waiting_stops.insert(ticket, WaitingStop { out: 0, failed: Vec::new(), numbered });
        let cause = if all { Cause::All } else { Cause::Call };
        let out = resources.iter().filter(|r| self.begin_stop(r, cause, Some(ticket), now)).count();
        if all {
            self.end_everything_before(ticket, now);
        }
        match self.waiting_stops.get_mut(&ticket) {
            Some(waiting) if out > 0 => waiting.out = out,
            _ => self.stop_done(ticket),
        }
        Admitted::Run(ticket)
    }

    /// The machine ends: from now on no command is admitted and no gate opens, whatever was admitted before. Order a Stop of everything after
    /// it: that one is the last word.
    pub fn close(&mut self, now: Instant) {
        self.handle_timeout(now);
        self.closed = true;
    }

    /// What a numbered Stop has left to do: `None` to run it.
    fn stop_standing(&mut self, id: SessionId, order: &Order, digest: u64, now: Instant) -> Option<Admitted> {
        self.take_list(id, order, now);
        match self.standing(id, order, digest) {
            Ok(Standing::New) => None,
            Ok(Standing::Known { ticket, running: true }) => Some(Admitted::Copy(ticket)),
            Ok(Standing::Known { running: false, .. }) => Some(Admitted::Over(Past::Succeeded)),
            Err(Refused::GivenUp) => Some(Admitted::Over(Past::NotRun)),
            Err(Refused::MayHaveRun) => Some(Admitted::Over(Past::MayHaveRun)),
            // Whatever else is wrong with its number, a Stop is a Stop.
            Err(_) => None,
        }
    }

    /// StopAll ends every call there is, executions and those of resources without a Stop too.
    fn end_everything_before(&mut self, ticket: Ticket, now: Instant) {
        let running: Vec<_> = self.calls.range(..ticket).map(|(t, _)| *t).collect();
        for ticket in running {
            self.revoke(ticket, Why::Stopped, now);
        }
    }

    /// The live session that a call belongs to. Monitored calls fail where theirs is gone; others only use it as holder.
    fn session_of(&self, call: &Incoming<'_, R>) -> Result<Option<SessionId>, Refused<R>> {
        let Some(id) = call.sid else { return Ok(None) };
        match self.owned(id, call.owner) {
            Ok(()) => Ok(Some(id)),
            Err(none) if call.monitored => Err(Refused::NoSession(none.0)),
            Err(_) => Ok(None),
        }
    }

    fn holder_of(&self, call: &Incoming<'_, R>, session: Option<SessionId>) -> Result<Option<Holder>, Refused<R>> {
        if let Some(id) = session {
            return Ok(Some(Holder::Session(id)));
        }
        match self.policy {
            Policy::Refuse if call.monitored => Err(Refused::Policy),
            Policy::Allow => Ok(None),
            // A caller whose connection ended while its call was on its way must not leave anything moving.
            _ if !self.is_alive(call.otherwise) => Err(Refused::CallerLeft),
            _ => Ok(Some(call.otherwise)),
        }
    }

    fn issue(&mut self, holder: Option<Holder>, resource: R, numbered: Option<(SessionId, u64, u64)>) -> Ticket {
        let ticket = self.next_ticket();
        self.calls.insert(ticket, Call::new(holder, resource, numbered));
        ticket
    }
}
