//! Actuators' gates: who may be inside a driver, and whose an actuator is.

use std::collections::BTreeSet;
use std::time::Instant;

use super::{Cause, Holder, MachineOutput, Outcome, SessionRegistry, Shut, Slot, StopId, Ticket, Timed, Why};
use crate::SessionId;

pub(super) struct Gate<R> {
    pub(super) actuator: bool,
    pub(super) parts: BTreeSet<R>,
    /// No ticket below this passes.
    pub(super) floor: Ticket,
    /// Counts what passed and what shut it: what was noted under another count is out of date.
    pub(super) turn: u64,
    /// Why those below do not.
    pub(super) shut: Why,
    /// For whom it moves, since the last successful Stop.
    pub(super) holder: Option<Holder>,
    /// The ticket that is inside the driver.
    pub(super) writing: Option<Ticket>,
    /// The Stops that are inside the driver.
    pub(super) stopping: BTreeSet<StopId>,
    /// A Stop that had to overtake the write inside, to be written again when that returns.
    pub(super) again: Option<Cause>,
    /// Failed Stops since a command passed.
    pub(super) failures: u32,
    pub(super) retry: Option<Retry<R>>,
    /// Its resource is gone; the gate stays, shut to all, until nothing is inside the driver and its last Stop is over.
    pub(super) removed: bool,
}

/// A failed Stop that will be tried again, where nothing has passed since.
pub(super) struct Retry<R> {
    /// The newest Stop that failed: an older one that fails after it knows less of what has passed since.
    pub(super) of: StopId,
    pub(super) at: Instant,
    pub(super) cause: Cause,
    /// The gates it is about, each with its turn when the Stop began.
    pub(super) covers: Vec<(R, u64)>,
}

/// A call that was admitted.
pub(super) struct Call<R> {
    pub(super) holder: Option<Holder>,
    pub(super) resource: R,
    pub(super) numbered: Option<(SessionId, u64, u64)>,
    pub(super) revoked: Option<Why>,
    /// It has returned; only its outcome is kept.
    pub(super) done: bool,
}

impl<R: Ord + Clone> SessionRegistry<R> {
    /// Adds a resource, or changes what it is. `actuator`: its driver has a Stop. `parts`: the resources its driver writes to.
    pub fn configure(&mut self, resource: R, actuator: bool, parts: BTreeSet<R>, now: Instant) {
        self.handle_timeout(now);
        // A call on an earlier resource of this name is below the floor of the new one, or ends now.
        let floor = self.next_ticket();
        let gate = self.gates.entry(resource.clone()).or_insert_with(|| Gate::new(floor));
        let again = std::mem::take(&mut gate.removed);
        gate.actuator = actuator;
        gate.parts = parts;
        if again {
            self.end_calls_of(&resource, now);
        }
    }

    fn end_calls_of(&mut self, resource: &R, now: Instant) {
        let running: Vec<_> = self.calls.iter().filter(|(_, c)| c.resource == *resource).map(|(t, _)| *t).collect();
        for ticket in running {
            self.revoke(ticket, Why::Removed, now);
        }
    }

    /// Removes a resource: what moves is stopped, its calls end. Its driver is needed until [`MachineOutput::Removed`].
    pub fn remove(&mut self, resource: &R, now: Instant) {
        self.handle_timeout(now);
        let Some(gate) = self.gates.get_mut(resource).filter(|gate| !gate.removed) else { return };
        gate.removed = true;
        self.begin_stop(resource, Cause::Removed, None, now);
        self.end_calls_of(resource, now);
        self.drop_removed(resource);
    }

    /// Forgets the gate of a removed resource once its driver is at rest.
    pub(super) fn drop_removed(&mut self, resource: &R) {
        let over =
            |gate: &Gate<R>| gate.removed && gate.writing.is_none() && gate.stopping.is_empty() && gate.retry.is_none();
        if self.gates.get(resource).is_some_and(over) {
            self.gates.remove(resource);
            self.output(MachineOutput::Removed(resource.clone()));
        }
    }

    /// Takes a component for an execution: what moved it is shut out, and a lapse of who asked for the plan leaves it alone.
    pub fn claim(&mut self, resource: &R, by: Holder, now: Instant) -> Ticket {
        self.handle_timeout(now);
        let ticket = self.next_ticket();
        self.calls.insert(ticket, Call::new(Some(by), resource.clone(), None));
        let covered = self.covered(resource);
        self.pass(ticket, Some(by), &covered, now);
        ticket
    }

    /// Asks to be inside the driver for one write. `resource` is the call's own, or one of its parts.
    pub fn enter(&mut self, ticket: Ticket, resource: &R, now: Instant) -> Result<Slot<R>, Shut> {
        self.handle_timeout(now);
        if self.closed {
            return Err(Shut::Revoked(Why::Stopped));
        }
        let Some(call) = self.calls.get(&ticket) else { return Err(Shut::Revoked(Why::Cancelled)) };
        if let Some(why) = call.revoked {
            return Err(Shut::Revoked(why));
        }
        let (holder, own) = (call.holder, call.resource.clone());
        if holder.is_some_and(|h| !self.is_alive(h)) {
            return Err(Shut::Revoked(Why::Lapsed));
        }
        let gates = if *resource == own { self.covered(&own) } else { vec![resource.clone()] };
        if *resource != own && !self.gates.get(&own).is_some_and(|g| g.parts.contains(resource)) {
            return Err(Shut::Revoked(Why::Removed));
        }
        let mut busy = false;
        for name in &gates {
            let gate = self.gates.get(name).filter(|gate| !gate.removed);
            let Some(gate) = gate else { return Err(Shut::Revoked(Why::Removed)) };
            if ticket < gate.floor {
                return Err(Shut::Revoked(gate.shut));
            }
            busy |= gate.writing.is_some() || !gate.stopping.is_empty();
        }
        if busy {
            return Err(Shut::Busy);
        }
        for name in &gates {
            if let Some(gate) = self.gates.get_mut(name) {
                gate.writing = Some(ticket);
            }
        }
        self.pass(ticket, holder, &gates, now);
        Ok(Slot { ticket, gates })
    }

    /// The write has returned.
    pub fn leave(&mut self, slot: Slot<R>, now: Instant) {
        self.handle_timeout(now);
        let mut again = Vec::new();
        for name in &slot.gates {
            let Some(gate) = self.gates.get_mut(name) else { continue };
            if gate.writing != Some(slot.ticket) {
                continue;
            }
            gate.writing = None;
            again.extend(gate.again.take().map(|cause| (name.clone(), cause)));
            self.outputs.push_back(MachineOutput::Changed(name.clone()));
        }
        // The whole stands first, and its Stop covers its parts.
        let whole = again.first().is_some_and(|(name, _)| slot.gates.first() == Some(name));
        again.truncate(if whole { 1 } else { again.len() });
        for (name, cause) in again {
            self.write_stop(&name, cause, now);
        }
        for name in &slot.gates {
            self.drop_removed(name);
        }
    }

    /// Ends a call early. What it still holds is stopped: not where a later command has passed, nor where a Stop came since.
    pub fn cancel(&mut self, ticket: Ticket, why: Why, now: Instant) {
        self.handle_timeout(now);
        self.revoke(ticket, why, now);
    }

    /// A call has returned. `outcome` of a numbered one: whether the shell keeps it for copies.
    pub fn handle_done(&mut self, ticket: Ticket, outcome: Option<Outcome>, now: Instant) {
        self.handle_timeout(now);
        let Some(call) = self.calls.get_mut(&ticket) else { return };
        call.done = true;
        let Some((id, key, number)) = call.numbered else {
            self.calls.remove(&ticket);
            return;
        };
        if !self.settle(id, key, number, outcome == Some(Outcome::Kept)) {
            self.calls.remove(&ticket);
            self.output(MachineOutput::Forget(ticket));
        }
    }

    /// Passing the gates is the association, and nothing else is. What passed them before is shut out.
    fn pass(&mut self, ticket: Ticket, holder: Option<Holder>, names: &[R], now: Instant) {
        let mut before = BTreeSet::new();
        for name in names {
            let Some(gate) = self.gates.get_mut(name) else { continue };
            before.insert(gate.floor);
            gate.turn += 1;
            (gate.floor, gate.shut, gate.holder) = (ticket, Why::Preempted, holder);
            gate.failures = 0;
            if let Some(retry) = gate.retry.take() {
                self.timers.remove(&(retry.at, Timed::StopRetry(name.clone())));
            }
        }
        before.remove(&ticket);
        for ticket in before {
            self.revoke(ticket, Why::Preempted, now);
        }
    }

    /// Ends the right of a call to pass any gate, stops what it alone still holds, and tells its handler: a wheel does not go on turning for a
    /// move whose other wheel was taken.
    pub(super) fn revoke(&mut self, ticket: Ticket, why: Why, now: Instant) {
        let Some(call) = self.calls.get_mut(&ticket) else { return };
        if call.done || call.revoked.is_some() {
            return;
        }
        call.revoked = Some(why);
        let resource = call.resource.clone();
        let held = self.covered(&resource).into_iter().filter(|name| self.is_held_by(name, ticket)).collect();
        for resource in self.wholes(held) {
            self.begin_stop(&resource, Cause::Cancel, None, now);
        }
        self.output(MachineOutput::Cancel { ticket, why });
    }

    /// Whether the newest thing that passed `name` was this call.
    fn is_held_by(&self, name: &R, ticket: Ticket) -> bool {
        self.gates.get(name).is_some_and(|gate| gate.floor == ticket)
    }

    /// A resource and its parts, the resource first.
    pub(super) fn covered(&self, resource: &R) -> Vec<R> {
        let parts = self.gates.get(resource).map(|gate| &gate.parts);
        let parts = parts.into_iter().flatten().filter(|part| *part != resource && self.gates.contains_key(*part));
        std::iter::once(resource.clone()).chain(parts.cloned()).collect()
    }

    /// What is to be stopped of everything that `holder` holds.
    pub(super) fn held_wholes(&self, holder: Holder) -> BTreeSet<R> {
        let held =
            self.gates.iter().filter(|(_, gate)| gate.holder == Some(holder)).map(|(name, _)| name.clone()).collect();
        self.wholes(held)
    }

    /// Of what is held, the wholes none of whose parts is driven by somebody else, and the parts that stand alone. A whole whose
    /// part somebody else drives is not stopped, only the parts that are held.
    fn wholes(&self, held: BTreeSet<R>) -> BTreeSet<R> {
        let mut stop = BTreeSet::new();
        let mut covered = BTreeSet::new();
        for name in &held {
            let parts = self.covered(name);
            if parts.iter().all(|part| held.contains(part) || self.is_at_rest(part)) {
                covered.extend(parts.into_iter().skip(1));
                stop.insert(name.clone());
            }
        }
        stop.retain(|name| !covered.contains(name) && self.gates.get(name).is_some_and(|gate| gate.actuator));
        stop
    }

    /// Whether nothing has passed since its last successful Stop.
    fn is_at_rest(&self, name: &R) -> bool {
        self.gates.get(name).is_none_or(|gate| gate.holder.is_none() && gate.shut != Why::Preempted)
    }
}

impl<R> Gate<R> {
    fn new(floor: Ticket) -> Self {
        Self {
            actuator: false,
            turn: 0,
            parts: BTreeSet::new(),
            floor,
            shut: Why::Removed,
            holder: None,
            writing: None,
            stopping: BTreeSet::new(),
            again: None,
            failures: 0,
            retry: None,
            removed: false,
        }
    }
}

impl<R> Call<R> {
    pub(super) fn new(holder: Option<Holder>, resource: R, numbered: Option<(SessionId, u64, u64)>) -> Self {
        Self { holder, resource, numbered, revoked: None, done: false }
    }
}
