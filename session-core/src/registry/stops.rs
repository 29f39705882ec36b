//! Stop: floors first, drivers then, handlers last; never behind a slot, never silent when lost.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::gates::Retry;
use super::{Cause, MachineOutput, SessionRegistry, StopFailed, StopId, Ticket, Timed, Why};
use crate::SessionId;

/// A Stop that has not returned after this long is reported.
const OVERDUE: Duration = Duration::from_millis(500);
/// When a failed Stop is tried again, until a command passes.
const RETRIES: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(400)];

/// A Stop that is inside a driver.
pub(super) struct Stopping<R> {
    resource: R,
    cause: Cause,
    /// The gates that stay shut until it returns, each with its turn when it began: where that is another by now, something has passed since.
    covers: Vec<(R, u64)>,
    /// The call that waits for it.
    of: Option<Ticket>,
    due: Instant,
}

/// A caller's Stop that waits for its drivers.
pub(super) struct WaitingStop<R> {
    pub(super) out: usize,
    pub(super) failed: Vec<R>,
    pub(super) numbered: Option<(SessionId, u64, u64)>,
}

impl<R: Ord + Clone> SessionRegistry<R> {
    /// Shuts the gates of `resource` and its parts to everything admitted so far, calls the driver, then ends the handlers.
    /// Returns whether there is a driver to stop.
    pub(super) fn begin_stop(&mut self, resource: &R, cause: Cause, of: Option<Ticket>, now: Instant) -> bool {
        let covers = self.covered(resource);
        let floor = self.next_ticket();
        for name in &covers {
            let Some(gate) = self.gates.get_mut(name) else { continue };
            (gate.floor, gate.shut) = (floor, Why::Stopped);
            gate.turn += 1;
        }
        let stops = self.gates.get(resource).is_some_and(|gate| gate.actuator);
        if stops {
            self.write_stop_at(resource, &covers, cause, of, now);
        }
        let shut_out: Vec<_> = self
            .calls
            .range(..floor)
            .filter(|(_, call)| covers.contains(&call.resource) || self.writes_to(&call.resource, &covers))
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in shut_out {
            self.revoke(ticket, Why::Stopped, now);
        }
        stops
    }

    /// Whether stopping `covers` ends what a call on `resource` does: it has been writing to one of them.
    fn writes_to(&self, resource: &R, covers: &[R]) -> bool {
        self.gates.get(resource).is_some_and(|gate| gate.parts.iter().any(|part| covers.contains(part)))
    }

    /// Calls the driver's Stop without raising a floor: the floor stands already.
    pub(super) fn write_stop(&mut self, resource: &R, cause: Cause, now: Instant) {
        let covers = self.covered(resource);
        let Some(gate) = self.gates.get(resource) else { return };
        if gate.actuator {
            self.write_stop_at(resource, &covers, cause, None, now);
        }
    }

    fn write_stop_at(&mut self, resource: &R, covers: &[R], cause: Cause, of: Option<Ticket>, now: Instant) {
        self.last_stop += 1;
        let id = StopId(self.last_stop);
        let mut turns = Vec::with_capacity(covers.len());
        for name in covers {
            let Some(gate) = self.gates.get_mut(name) else { continue };
            turns.push((name.clone(), gate.turn));
            gate.stopping.insert(id);
            if gate.writing.is_some() {
                gate.again = Some(cause);
            }
        }
        let due = now + OVERDUE;
        self.timers.insert((due, Timed::StopOverdue(id)));
        self.stops.insert(id, Stopping { resource: resource.clone(), cause, covers: turns, of, due });
        self.output(MachineOutput::Stop { id, resource: resource.clone(), cause });
    }

    /// A driver's Stop has returned.
    pub fn handle_stopped(&mut self, of: StopId, result: Result<(), StopFailed>, now: Instant) {
        self.handle_timeout(now);
        let Some(stop) = self.stops.remove(&of) else { return };
        self.timers.remove(&(stop.due, Timed::StopOverdue(of)));
        for (name, turn) in &stop.covers {
            let Some(gate) = self.gates.get_mut(name) else { continue };
            gate.stopping.remove(&of);
            // What the write inside has done since is stopped when it leaves: until then it is held.
            if result.is_ok() && gate.turn == *turn && gate.again.is_none() {
                gate.holder = None;
            }
            self.outputs.push_back(MachineOutput::Changed(name.clone()));
        }
        if result.is_err() {
            self.retry_stop(of, &stop, now);
        } else if let Some(gate) = self.gates.get_mut(&stop.resource) {
            gate.failures = 0;
        }
        if let Some(ticket) = stop.of {
            self.one_stop_back(ticket, &stop.resource, result);
        }
        self.drop_removed(&stop.resource);
    }

    fn retry_stop(&mut self, of: StopId, stop: &Stopping<R>, now: Instant) {
        let Some(gate) = self.gates.get_mut(&stop.resource) else {
            // Its resource was removed meanwhile, and with it the driver: nobody is left to try again.
            let (resource, cause) = (stop.resource.clone(), stop.cause);
            return self.output(MachineOutput::StopLost { resource, cause });
        };
        // A command has passed meanwhile: the actuator is somebody else's. Or a later Stop is there, which has its own result.
        if stop.covers.first().is_none_or(|(_, turn)| gate.turn != *turn) {
            return;
        }
        if let Some(pending) = &mut gate.retry {
            if pending.of < of {
                (pending.of, pending.cause, pending.covers) = (of, stop.cause, stop.covers.clone());
            }
            return;
        }
        let Some(wait) = RETRIES.get(gate.failures as usize) else {
            let (resource, cause) = (stop.resource.clone(), stop.cause);
            self.output(MachineOutput::StopLost { resource, cause });
            return;
        };
        gate.failures += 1;
        let at = now + *wait;
        gate.retry = Some(Retry { of, at, cause: stop.cause, covers: stop.covers.clone() });
        self.timers.insert((at, Timed::StopRetry(stop.resource.clone())));
    }

    /// Writes a failed Stop again: of the whole, or of those parts that nothing has passed since.
    pub(super) fn stop_retry_due(&mut self, resource: R, now: Instant) {
        let Some(gate) = self.gates.get_mut(&resource) else { return };
        let Some(Retry { cause, covers, .. }) = gate.retry.take() else { return };
        let still = |(name, turn): &&(R, u64)| self.gates.get(name).is_none_or(|gate| gate.turn == *turn);
        let left: Vec<_> = covers.iter().filter(still).map(|(name, _)| name.clone()).collect();
        if left.len() == covers.len() {
            self.write_stop(&resource, cause, now);
        } else {
            for name in left.into_iter().filter(|name| *name != resource) {
                self.write_stop(&name, cause, now);
            }
        }
        self.drop_removed(&resource);
    }

    /// The gate stays shut until it returns; nothing else is touched.
    pub(super) fn stop_overdue(&mut self, id: StopId) {
        if let Some(stop) = self.stops.get(&id) {
            let (resource, cause) = (stop.resource.clone(), stop.cause);
            self.output(MachineOutput::StopLost { resource, cause });
        }
    }

    fn one_stop_back(&mut self, ticket: Ticket, resource: &R, result: Result<(), StopFailed>) {
        let Some(waiting) = self.waiting_stops.get_mut(&ticket) else { return };
        waiting.out -= 1;
        if result.is_err() {
            waiting.failed.push(resource.clone());
        }
        if waiting.out == 0 {
            self.stop_done(ticket);
        }
    }

    /// All drivers of a caller's Stop have returned: its outcome is kept if it succeeded, else a repeat runs it again.
    pub(super) fn stop_done(&mut self, ticket: Ticket) {
        let Some(waiting) = self.waiting_stops.remove(&ticket) else { return };
        if let Some((id, key, number)) = waiting.numbered {
            if waiting.failed.is_empty() {
                self.settle(id, key, number, true);
            } else {
                self.unsettle(id, key, number);
            }
        }
        self.calls.remove(&ticket);
        self.output(MachineOutput::StopDone { of: ticket, failed: waiting.failed });
    }

    /// The resources whose drivers a StopAll calls: every actuator.
    pub(super) fn actuators(&self) -> BTreeSet<R> {
        self.gates.iter().filter(|(_, gate)| gate.actuator).map(|(name, _)| name.clone()).collect()
    }
}
