//! Calls in flight: their permits, their ends, and what their copies are told.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost_types::Struct;
use session_core::registry::{Admitted, Incoming, Outcome, Past, Refused, Shut, Slot, Ticket, Why};
use tokio::sync::{oneshot, watch};

use super::record::Record;
use super::{Actuator, Shared, State, stopper};
use crate::runtime::timeout;
use crate::{DriverError, ResourceName};

/// How long a write waits for its gate before it fails: a driver that is busy for longer is not answering a controller in time.
const GATE_TIMEOUT: Duration = Duration::from_millis(500);

/// A write that is inside a driver for longer is written down: everybody else waits for it.
const SLOW_WRITE: Duration = Duration::from_millis(50);

/// A reply that copies of a numbered call may share.
pub type Reply = Arc<dyn Any + Send + Sync>;

/// What is to be done with a call.
pub enum Admission {
    /// Run it.
    Run(Running),
    /// Another copy of it runs or ran: its reply, or `None` where that was lost.
    Copy(Call),
}

/// Waits for the outcome of another copy.
pub struct Call(watch::Receiver<Known>);

#[derive(Clone)]
enum Known {
    Open,
    Ended(Option<Reply>),
}

impl Call {
    /// The reply that the first copy's caller got; `None` where it is not known any more (MAY_HAVE_RUN).
    pub async fn reply(mut self) -> Option<Reply> {
        match self.0.wait_for(|known| matches!(known, Known::Ended(_))).await {
            Ok(known) => {
                if let Known::Ended(reply) = &*known {
                    reply.clone()
                } else {
                    None
                }
            }
            Err(_) => None,
        }
    }
}

/// Replies of numbered calls, as long as their callers may ask for them.
#[derive(Default)]
pub(super) struct Outcomes(BTreeMap<Ticket, watch::Sender<Known>>);

impl Outcomes {
    pub(super) fn forget(&mut self, ticket: Ticket) {
        self.0.remove(&ticket);
    }
}

/// An actuator whose Stop failed: it may still be moving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedStop {
    /// Which.
    pub resource: ResourceName,
    /// What its driver said.
    pub error: String,
}

/// A caller's Stop, whose drivers have been called.
pub struct Stopping {
    /// Whether this call called them; else it is a copy of one that did, or there was nothing left to do.
    pub runs: bool,
    outcome: StopOutcome,
}

enum StopOutcome {
    Over(Past),
    Waits(oneshot::Receiver<Vec<FailedStop>>),
}

impl Stopping {
    /// Waits for the drivers. Those that failed; an error for a Stop that had nothing left to do and is not known to have succeeded.
    pub async fn done(self) -> Result<Vec<FailedStop>, Past> {
        match self.outcome {
            StopOutcome::Over(Past::Succeeded) => Ok(Vec::new()),
            StopOutcome::Over(past) => Err(past),
            StopOutcome::Waits(done) => done.await.map_err(|_| Past::MayHaveRun),
        }
    }

    /// Waits on this thread, for at most `bound`, where no runtime may be left to wait on. Whether the drivers have returned.
    pub(super) fn wait(mut self, bound: Duration) -> bool {
        let StopOutcome::Waits(done) = &mut self.outcome else { return true };
        let until = Instant::now() + bound;
        while let Err(oneshot::error::TryRecvError::Empty) = done.try_recv() {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }
}

/// Callers of a Stop that wait for its drivers.
pub(super) struct StopWait(Vec<oneshot::Sender<Vec<FailedStop>>>);

impl StopWait {
    pub(super) fn done(self, failed: Vec<FailedStop>) {
        for waiting in self.0 {
            // Its caller may have gone; the Stop has run all the same.
            let _ = waiting.send(failed.clone());
        }
    }
}

/// A call that was admitted. Dropped before [`finish`](Self::finish) it counts as given up by its caller.
pub struct Running {
    permit: Permit,
    finished: bool,
}

impl Running {
    /// What its driver shows at the gates.
    pub fn permit(&self) -> Permit {
        self.permit.clone()
    }

    /// Its ticket, for CancelOperation.
    pub fn ticket(&self) -> Ticket {
        self.permit.ticket
    }

    /// The call has returned. `reply` is kept for copies while its caller may ask; `None` for one too large to keep.
    pub fn finish(mut self, reply: Option<Reply>) {
        self.finished = true;
        let ticket = self.permit.ticket;
        self.permit.machine.with(|state, now| {
            state.cancels.remove(&ticket);
            if let Some(known) = state.outcomes.0.get(&ticket) {
                known.send_replace(Known::Ended(reply.clone()));
            }
            let outcome = if reply.is_some() { Outcome::Kept } else { Outcome::Lost };
            state.registry.handle_done(ticket, Some(outcome), now);
        });
    }
}

impl Running {
    /// Ends the call early: what it still holds is stopped.
    pub fn cancel(mut self, why: Why) {
        self.finished = true;
        self.end(why);
    }

    fn end(&self, why: Why) {
        let ticket = self.permit.ticket;
        self.permit.machine.with(|state, now| {
            state.registry.cancel(ticket, why, now);
            state.registry.handle_done(ticket, None, now);
            state.cancels.remove(&ticket);
            state.outcomes.forget(ticket);
        });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.finished {
            self.end(Why::CallerLeft);
        }
    }
}

/// A call's right to write to its actuator, for as long as nothing has shut it out.
#[derive(Clone)]
pub struct Permit {
    machine: Arc<Shared>,
    ticket: Ticket,
    resource: ResourceName,
    why: watch::Receiver<Option<Why>>,
}

impl Permit {
    /// Asks to be inside the driver for one write: of the call's own resource, or of one of its parts. Waits for at most 500 ms while a
    /// write or a Stop is inside.
    pub async fn enter(&self, part: Option<&ResourceName>) -> Result<Write, DriverError> {
        let resource = part.unwrap_or(&self.resource);
        let entering = async {
            loop {
                let changed = self.machine.changed.notified();
                let mut changed = std::pin::pin!(changed);
                // Registered before the gate is asked: a change in between is not missed.
                changed.as_mut().enable();
                let entered = self.machine.with(|state, now| {
                    let slot = state.registry.enter(self.ticket, resource, now)?;
                    Ok((slot, state.stoppers.get(resource).map(|stopper| stopper.driver().clone())))
                });
                match entered {
                    Ok((slot, driver)) => {
                        let (machine, resource) = (self.machine.clone(), resource.clone());
                        return Ok(Write { machine, resource, entered: Instant::now(), slot: Some(slot), driver });
                    }
                    Err(Shut::Busy) => changed.await,
                    Err(shut) => return Err(DriverError::Shut(shut)),
                }
            }
        };
        timeout(GATE_TIMEOUT, entering).await.unwrap_or(Err(DriverError::Shut(Shut::Busy)))
    }

    /// Resolves when the call has been shut out: its handler is to end.
    pub async fn cancelled(&self) -> Why {
        let mut why = self.why.clone();
        let known = why.wait_for(Option::is_some).await.map(|why| *why);
        match known {
            Ok(why) => why.unwrap_or(Why::Cancelled),
            // The call has ended meanwhile: nothing will shut it out any more.
            Err(_) => std::future::pending().await,
        }
    }

    /// Ends the call: what it still holds is stopped.
    pub(crate) fn cancel(&self, why: Why) {
        self.machine.with(|state, now| state.registry.cancel(self.ticket, why, now));
    }

    /// Why the call has been shut out, if it has.
    pub fn is_cancelled(&self) -> Option<Why> {
        *self.why.borrow()
    }
}

/// One write inside the driver; dropped when the write has returned. It may move into a blocking closure.
#[must_use = "the gate is shut to everybody else while this lives"]
pub struct Write {
    machine: Arc<Shared>,
    resource: ResourceName,
    entered: Instant,
    slot: Option<Slot<ResourceName>>,
    /// Whose it is, where it has a Stop.
    driver: Option<Arc<dyn Actuator>>,
}

impl Drop for Write {
    fn drop(&mut self) {
        let took = self.entered.elapsed();
        if took > SLOW_WRITE {
            self.machine.records.write(Record::SlowWrite { resource: self.resource.clone(), took });
        }
        let Some(slot) = self.slot.take() else { return };
        let driver = self.driver.take();
        let replaced = self.machine.with(|state, now| {
            state.registry.leave(slot, now);
            let stopper = state.stoppers.get(&self.resource);
            driver.filter(|driver| !stopper.is_some_and(|now| Arc::ptr_eq(now.driver(), driver)))
        });
        if let Some(driver) = replaced {
            // The Stop of the resource is another driver's by now.
            stopper::stop_replaced(driver, &self.resource, self.machine.records.clone());
        }
    }
}

pub(super) fn admit(
    machine: &Arc<Shared>,
    call: Incoming<'_, ResourceName>,
) -> Result<Admission, Refused<ResourceName>> {
    let (resource, numbered) = (call.resource.clone(), call.order.is_some());
    machine.with(|state, now| match state.registry.admit(call, now)? {
        Admitted::Run(ticket) => {
            let (cancel, why) = watch::channel(None);
            state.cancels.insert(ticket, cancel);
            if numbered {
                state.outcomes.0.insert(ticket, watch::Sender::new(Known::Open));
            }
            let permit = Permit { machine: machine.clone(), ticket, resource, why };
            Ok(Admission::Run(Running { permit, finished: false }))
        }
        Admitted::Copy(ticket) => match state.outcomes.0.get(&ticket) {
            Some(known) => Ok(Admission::Copy(Call(known.subscribe()))),
            None => Err(Refused::MayHaveRun),
        },
        Admitted::Over(_) => Err(Refused::MayHaveRun),
    })
}

pub(super) fn stop(
    machine: &Arc<Shared>,
    call: Incoming<'_, ResourceName>,
    all: bool,
    extras: Vec<(Option<ResourceName>, Struct)>,
) -> Stopping {
    machine.with(|state, now| begin_stop(state, call, all, extras, now))
}

/// Nothing can be admitted after it: the machine's last Stop.
pub(super) fn last_stop(machine: &Arc<Shared>, call: Incoming<'_, ResourceName>) -> Stopping {
    machine.with(|state, now| {
        state.registry.close(now);
        begin_stop(state, call, true, Vec::new(), now)
    })
}

fn begin_stop(
    state: &mut State,
    call: Incoming<'_, ResourceName>,
    all: bool,
    extras: Vec<(Option<ResourceName>, Struct)>,
    now: Instant,
) -> Stopping {
    let resource = call.resource.clone();
    let (ticket, runs) = match state.registry.stop(call, all, now) {
        Admitted::Run(ticket) => (ticket, true),
        Admitted::Copy(ticket) => (ticket, false),
        Admitted::Over(past) => return Stopping { runs: false, outcome: StopOutcome::Over(past) },
    };
    // What a copy says again its first has said: it must not wait for the next Stop, of somebody else. The drivers are called when the
    // registry's outputs are drained, after this.
    for (named, extra) in extras.into_iter().filter(|_| runs) {
        if let Some(stopper) = state.stoppers.get(named.as_ref().unwrap_or(&resource)) {
            stopper.with_extra(extra);
        }
    }
    let (sender, done) = oneshot::channel();
    state.stops.entry(ticket).or_insert_with(|| StopWait(Vec::new())).0.push(sender);
    Stopping { runs, outcome: StopOutcome::Waits(done) }
}
