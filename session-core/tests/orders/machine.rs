//! The registry, as the world of these tests sees it; and the same with one thing wrong, so that it is known that each check can fail.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use session_core::registry::{
    Admitted, Cause, Holder, Incoming, MachineOutput, Outcome, Past, Policy, Refused, SessionRegistry, Shut, Slot,
    StopId, Ticket,
};
use session_core::{Connection, Order, SessionId};

use super::world::{Message, OWNER, RESOURCES, W, What};

/// One thing that a machine could do wrong. None of it is in the registry: it is done to what goes in and what comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A copy runs again.
    RunsCopies,
    /// Nobody is ever given up: every list names every number.
    IgnoresLists,
    /// A lower number runs after a higher one.
    RunsLate,
    /// The driver's Stop is not called when a lease ends.
    ForgetsToStop,
    /// A write that was overtaken by a Stop is not stopped again.
    StopsOnce,
    /// A gate that is shut lets in.
    OpensGates,
    /// A beat of a session that is gone begins it again.
    Revives,
    /// A message that is not the newest extends the lease.
    ExtendsByOld,
    /// A Stop is answered before its driver has returned.
    AnswersEarly,
    /// The end of one lease stops what others drive.
    StopsOthers,
    /// What ran is said not to have run.
    SaysNotRun,
    /// A copy takes the actuator for its session.
    AssociatesCopies,
    /// A Stop whose number is lower than what was admitted is refused.
    RefusesStops,
}

/// Who was let in: by a slot, or by a fault.
pub struct Entered(Option<Slot<&'static str>>);

pub struct Machine {
    registry: SessionRegistry<&'static str>,
    fault: Option<Fault>,
    newest: BTreeMap<SessionId, u64>,
    outputs: VecDeque<MachineOutput<&'static str>>,
    /// Stops that nobody asked for.
    made_up: BTreeSet<Ticket>,
}

impl Machine {
    pub fn new(fault: Option<Fault>, sessions: usize, now: Instant) -> Self {
        let mut registry = SessionRegistry::new(W, 4, Policy::Guard);
        for name in RESOURCES {
            let parts = if name == "base" { ["left"].into() } else { BTreeSet::new() };
            registry.configure(name, true, parts, now);
        }
        for id in 0..sessions {
            registry.start(SessionId(id as u128), None, OWNER, now).expect("room");
        }
        Self { registry, fault, newest: BTreeMap::new(), outputs: VecDeque::new(), made_up: BTreeSet::new() }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn order(&self, message: &Message) -> Option<Order> {
        let number = message.number?;
        let open =
            if self.has(Fault::IgnoresLists) { (1..number).collect() } else { message.open.iter().copied().collect() };
        Some(Order { key: 7, number, open, end: false })
    }

    fn incoming<'a>(message: &Message, order: Option<&'a Order>, monitored: bool) -> Incoming<'a, &'static str> {
        let (owner, otherwise, digest) = (&OWNER, Holder::Connection(Connection(0)), message.number.unwrap_or(0));
        let sid = Some(message.session);
        Incoming { sid, owner, otherwise, monitored, resource: message.what.resource(), order, digest }
    }

    /// Before a numbered message is given to the registry.
    fn arrives(&mut self, message: &Message, now: Instant) {
        let newest = self.newest.entry(message.session).or_insert(0);
        let old = message.number.is_some_and(|number| number < *newest);
        *newest = message.number.unwrap_or(0).max(*newest);
        if old && self.has(Fault::ExtendsByOld) {
            let _ = self.registry.beat(message.session, &OWNER, None, now);
        }
    }

    pub fn motion(&mut self, message: &Message, now: Instant) -> Result<Admitted, Refused<&'static str>> {
        self.arrives(message, now);
        let order = self.order(message);
        let mut result = self.registry.admit(Self::incoming(message, order.as_ref(), true), now);
        let unnumbered = Self::incoming(message, None, true);
        match &result {
            Ok(Admitted::Copy(_)) if self.has(Fault::RunsCopies) => result = self.registry.admit(unnumbered, now),
            Err(Refused::Superseded) if self.has(Fault::RunsLate) => result = self.registry.admit(unnumbered, now),
            Ok(Admitted::Copy(_)) | Err(Refused::MayHaveRun) if self.has(Fault::SaysNotRun) => {
                result = Err(Refused::GivenUp);
            }
            Ok(Admitted::Copy(_)) | Err(Refused::Superseded) if self.has(Fault::AssociatesCopies) => {
                self.registry.claim(&message.what.resource(), Holder::Session(message.session), now);
            }
            _ => {}
        }
        result
    }

    pub fn stop(&mut self, message: &Message, now: Instant) -> Admitted {
        let lower = message.number.is_some_and(|n| self.newest.get(&message.session).is_some_and(|newest| n < *newest));
        self.arrives(message, now);
        if lower && self.has(Fault::RefusesStops) {
            return Admitted::Over(Past::NotRun);
        }
        let order = self.order(message);
        let result =
            self.registry.stop(Self::incoming(message, order.as_ref(), false), message.what == What::StopAll, now);
        if let (Admitted::Run(of), true) = (result, self.has(Fault::AnswersEarly)) {
            self.outputs.push_back(MachineOutput::StopDone { of, failed: Vec::new() });
        }
        result
    }

    pub fn beat(&mut self, message: &Message, now: Instant) -> bool {
        self.arrives(message, now);
        let order = self.order(message);
        let answered = self.registry.beat(message.session, &OWNER, order.as_ref(), now).is_ok();
        if !answered && self.has(Fault::Revives) {
            return self.registry.start(message.session, None, OWNER, now).is_ok();
        }
        answered
    }

    pub fn keep(&mut self, id: SessionId, now: Instant) {
        let _ = self.registry.beat(id, &OWNER, None, now);
    }

    pub fn enter(&mut self, ticket: Ticket, resource: &'static str, now: Instant) -> Result<Entered, Shut> {
        match self.registry.enter(ticket, &resource, now) {
            Ok(slot) => Ok(Entered(Some(slot))),
            Err(Shut::Revoked(_)) if self.has(Fault::OpensGates) => Ok(Entered(None)),
            Err(shut) => Err(shut),
        }
    }

    pub fn leave(&mut self, entered: Entered, now: Instant) {
        let Some(slot) = entered.0 else { return };
        self.registry.leave(slot, now);
        if self.has(Fault::StopsOnce) {
            while let Some(output) = self.registry.poll_output() {
                match output {
                    MachineOutput::Stop { id, .. } => self.registry.handle_stopped(id, Ok(()), now),
                    other => self.outputs.push_back(other),
                }
            }
        }
    }

    pub fn done(&mut self, ticket: Ticket, now: Instant) {
        self.registry.handle_done(ticket, Some(Outcome::Kept), now);
    }

    pub fn stopped(&mut self, id: StopId, now: Instant) {
        self.registry.handle_stopped(id, Ok(()), now);
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.registry.handle_timeout(now);
    }

    pub fn is_live(&self, id: SessionId) -> bool {
        self.registry.is_live(id)
    }

    pub fn poll_output(&mut self, now: Instant) -> Option<MachineOutput<&'static str>> {
        let output = self.outputs.pop_front().or_else(|| self.registry.poll_output())?;
        match &output {
            MachineOutput::Stop { id, cause: Cause::Lapse, .. } if self.has(Fault::ForgetsToStop) => {
                self.registry.handle_stopped(*id, Ok(()), now);
                self.poll_output(now)
            }
            MachineOutput::Lapsed { .. } if self.has(Fault::StopsOthers) => {
                for resource in RESOURCES {
                    let by = Self::incoming(&Message::of_nobody(resource), None, false);
                    if let Admitted::Run(of) = self.registry.stop(by, false, now) {
                        self.made_up.insert(of);
                    }
                }
                Some(output)
            }
            MachineOutput::StopDone { of, .. } if self.made_up.remove(of) => self.poll_output(now),
            _ => Some(output),
        }
    }
}
