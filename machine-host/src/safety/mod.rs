//! The registry's shell: one lock, a deadline thread, a stop thread for each actuator.

mod call;
mod deadline;
mod record;
mod stopper;
mod watchdog;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use prost_types::Struct;
use session_core::registry::{
    Cause, Holder, Incoming, MachineOutput, NoSession, Policy, Refused, SessionRegistry, Started, Ticket,
    TooManySessions, Why,
};
use session_core::{Connection, Order, Owner, SessionId};
use tokio::sync::{Notify, broadcast, watch};

use transport::BootClock;
use transport::serve::PeerConnection;

use crate::runtime::{Condvar, Mutex, MutexGuard};
use crate::{DriverError, ResourceName};
pub use call::{Admission, Call, FailedStop, Permit, Running, Stopping, Write};
use call::{Outcomes, StopWait};
use record::{Record, Records};
use stopper::Stopper;
pub use watchdog::Watchdog;

/// Events that a slow listener may be behind before it loses the oldest: a machine that loses a thousand clients at once is followed.
const EVENTS: usize = 1024;

/// What a machine allows its callers.
#[derive(Clone, Copy, Debug)]
pub struct SafetyOptions {
    /// The window of every session. Existing machines allow 30 ms to 1 min. Default 2 s.
    pub window: Duration,
    /// Sessions at once. Default 1,024.
    pub max_sessions: usize,
    /// What callers without a session may do. Default: they are guarded.
    pub policy: Policy,
}

impl Default for SafetyOptions {
    fn default() -> Self {
        Self { window: Duration::from_secs(2), max_sessions: 1024, policy: Policy::Guard }
    }
}

/// Something that moves and can be stopped.
pub trait Actuator: Send + Sync + 'static {
    /// Stops it. Called on the actuator's own thread; it may block, and nothing else waits for it. Must be safe to call at any time, also
    /// while a write is inside the driver, and again after it has returned.
    fn stop(&self, extra: Option<&Struct>) -> Result<(), DriverError>;
}

/// What happened, for logs, counters and observers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A holder's lease ended, and this is being stopped (s29).
    Lapsed {
        /// Who.
        holder: Holder,
        /// What.
        stopped: BTreeSet<ResourceName>,
        /// Why.
        cause: Cause,
    },
    /// A Stop did not return within 500 ms, or failed with all its repetitions: the actuator may still be moving.
    StopLost {
        /// Whose.
        resource: ResourceName,
        /// Why it was to stop.
        cause: Cause,
    },
}

/// A machine's sessions, gates and stops. Clones are the same machine's.
#[derive(Clone)]
pub struct Safety(Arc<Shared>);

/// What tells the time of leases.
type Clock = dyn Fn() -> Instant + Send + Sync;

struct Shared {
    clock: Box<Clock>,
    window: Duration,
    state: Mutex<State>,
    /// Wakes the deadline thread when a deadline has become earlier.
    earlier: Condvar,
    /// Wakes those who wait for a gate.
    changed: Notify,
    events: broadcast::Sender<Event>,
    records: Arc<Records>,
}

struct State {
    registry: SessionRegistry<ResourceName>,
    stoppers: BTreeMap<ResourceName, Stopper>,
    cancels: BTreeMap<Ticket, watch::Sender<Option<Why>>>,
    outcomes: Outcomes,
    stops: BTreeMap<Ticket, StopWait>,
    /// What each driver said that failed to stop last.
    stop_errors: BTreeMap<ResourceName, String>,
    /// Where each session was last heard from.
    contacts: BTreeMap<SessionId, Arc<PeerConnection>>,
    watchdog: Option<Arc<dyn Watchdog>>,
    /// When the deadline thread wakes by itself.
    armed: Option<Instant>,
}

impl Safety {
    /// A machine without resources. Its threads end within a second of the last clone.
    pub fn new(options: SafetyOptions) -> std::io::Result<Self> {
        let clock = BootClock::new();
        Self::on_clock(options, move || clock.now())
    }

    /// A machine whose leases end by another clock than the system's, which runs through suspend: for trials that suspend nothing.
    pub fn on_clock(
        options: SafetyOptions,
        clock: impl Fn() -> Instant + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let SafetyOptions { window, max_sessions, policy } = options;
        let shared = Arc::new(Shared {
            clock: Box::new(clock),
            window,
            state: Mutex::new(State {
                registry: SessionRegistry::new(window, max_sessions, policy),
                stoppers: BTreeMap::new(),
                cancels: BTreeMap::new(),
                outcomes: Outcomes::default(),
                stops: BTreeMap::new(),
                stop_errors: BTreeMap::new(),
                contacts: BTreeMap::new(),
                watchdog: None,
                armed: None,
            }),
            earlier: Condvar::new(),
            changed: Notify::new(),
            events: broadcast::Sender::new(EVENTS),
            records: Arc::new(Records::start()?),
        });
        deadline::spawn(&shared)?;
        Ok(Self(shared))
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.0.events.subscribe()
    }

    /// Kicks a watchdog from now on, as long as leases are watched over. One at most: a second takes the place of the first.
    pub fn kick(&self, watchdog: Arc<dyn Watchdog>) {
        self.0.lock().watchdog = Some(watchdog);
        self.0.earlier.notify_one();
    }

    /// Adds a resource. One of that name that is there already is removed first: what it moved is stopped, by its own driver. `parts`: the
    /// resources that its driver writes to.
    pub fn configure(
        &self,
        resource: ResourceName,
        actuator: Option<Arc<dyn Actuator>>,
        parts: BTreeSet<ResourceName>,
    ) -> std::io::Result<()> {
        if self.has(&resource) {
            self.remove(&resource);
        }
        let stopper = match &actuator {
            Some(driver) => Some(Stopper::spawn(&resource, driver.clone(), Arc::downgrade(&self.0))?),
            None => None,
        };
        self.0.with(|state, now| {
            state.registry.configure(resource.clone(), actuator.is_some(), parts, now);
            match stopper {
                Some(stopper) => state.stoppers.insert(resource, stopper),
                None => state.stoppers.remove(&resource),
            };
        });
        Ok(())
    }

    /// Removes a resource: it is stopped, and its calls end.
    pub fn remove(&self, resource: &ResourceName) {
        self.0.with(|state, now| state.registry.remove(resource, now));
    }

    /// Starts a session of id `fresh`, or resumes `resume`.
    pub fn start(&self, fresh: SessionId, resume: Option<SessionId>, owner: Owner) -> Result<Started, TooManySessions> {
        self.0.with(|state, now| state.registry.start(fresh, resume, owner, now))
    }

    /// A heartbeat.
    pub fn beat(&self, id: SessionId, owner: &Owner, order: Option<&Order>) -> Result<(), NoSession<ResourceName>> {
        self.0.with(|state, now| state.registry.beat(id, owner, order, now))
    }

    /// Notes where a session speaks from, for the list of sessions and the record of its end.
    pub(crate) fn heard(&self, id: SessionId, from: &Arc<PeerConnection>) {
        let mut state = self.0.lock();
        if state.registry.is_live(id) {
            state.contacts.insert(id, from.clone());
        }
    }

    /// The live sessions, and where each was last heard from.
    pub(crate) fn contacts(&self) -> Vec<(SessionId, Option<Arc<PeerConnection>>)> {
        self.0.with(|state, now| {
            state.registry.handle_timeout(now);
            state.registry.sessions().map(|(id, _)| (id, state.contacts.get(&id).cloned())).collect()
        })
    }

    /// Whether anything moves for this holder, or may yet by a call that runs.
    pub fn holds(&self, holder: Holder) -> bool {
        self.0.lock().registry.holds(holder)
    }

    /// The live sessions.
    pub fn sessions(&self) -> Vec<(SessionId, Owner)> {
        self.0.with(|state, now| {
            state.registry.handle_timeout(now);
            state.registry.sessions().collect()
        })
    }

    /// A connection was made; `principal` over HTTP/1.1.
    pub fn opened(&self, connection: Connection, principal: Option<Owner>) {
        self.0.with(|state, now| state.registry.handle_opened(connection, principal, now));
    }

    /// A request told whose an HTTP/1.1 connection is.
    pub fn identified(&self, connection: Connection, principal: Owner) {
        self.0.with(|state, now| state.registry.handle_identified(connection, principal, now));
    }

    /// The connections that there are of a principal over HTTP/1.1.
    pub(crate) fn connections(&self, principal: Owner) -> Vec<Connection> {
        self.0.lock().registry.connections(principal).collect()
    }

    /// A connection ended.
    pub fn closed(&self, connection: Connection) {
        self.0.with(|state, now| state.registry.handle_closed(connection, now));
    }

    /// A call whose first message is complete.
    pub fn admit(&self, call: Incoming<'_, ResourceName>) -> Result<Admission, Refused<ResourceName>> {
        call::admit(&self.0, call)
    }

    /// Whether an actuator of this name is there.
    pub fn has(&self, resource: &ResourceName) -> bool {
        self.0.lock().stoppers.contains_key(resource)
    }

    /// The window of sessions.
    pub fn window(&self) -> Duration {
        self.0.window
    }

    /// Now, on the clock of leases.
    pub(crate) fn now(&self) -> Instant {
        self.0.now()
    }

    /// A caller's Stop of `call.resource`, or of everything; `extras`: what its drivers are given, by name, `None` for `call.resource`.
    /// They are called before this returns.
    pub fn stop(
        &self,
        call: Incoming<'_, ResourceName>,
        all: bool,
        extras: Vec<(Option<ResourceName>, Struct)>,
    ) -> Stopping {
        call::stop(&self.0, call, all, extras)
    }

    /// The machine's own StopAll; waits for its drivers, for at most `bound`. Those that did not stop.
    pub async fn stop_everything(&self, bound: Duration) -> Vec<ResourceName> {
        self.stopped(call::stop(&self.0, by_itself(), true, Vec::new()), bound).await
    }

    /// The end of the machine: stops everything, for at most `bound`, and lets nothing move any more, whatever was admitted before and
    /// whoever is still connected. Those that did not stop.
    pub async fn close(&self, bound: Duration) -> Vec<ResourceName> {
        self.stopped(call::last_stop(&self.0, by_itself()), bound).await
    }

    /// [`close`](Self::close) on this thread, for an end that no runtime survives. Whether every driver has returned.
    pub fn close_now(&self, bound: Duration) -> bool {
        call::last_stop(&self.0, by_itself()).wait(bound)
    }

    async fn stopped(&self, stopping: Stopping, bound: Duration) -> Vec<ResourceName> {
        match crate::runtime::timeout(bound, stopping.done()).await {
            Ok(failed) => failed.unwrap_or_default().into_iter().map(|failed| failed.resource).collect(),
            Err(_) => self.0.lock().stoppers.keys().cloned().collect(),
        }
    }

    /// Ends a call: CancelOperation, or its deadline.
    pub fn cancel(&self, ticket: Ticket, why: Why) {
        self.0.with(|state, now| state.registry.cancel(ticket, why, now));
    }
}

/// The machine as a caller.
fn by_itself() -> Incoming<'static, ResourceName> {
    const NOBODY: &Owner = &Owner([0; 32]);
    Incoming {
        sid: None,
        owner: NOBODY,
        otherwise: Holder::Module(0),
        monitored: false,
        resource: ResourceName::component("", ""),
        order: None,
        digest: 0,
    }
}

impl Shared {
    fn now(&self) -> Instant {
        (self.clock)()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts something to the registry and acts on what comes out, in its order.
    fn with<T>(&self, act: impl FnOnce(&mut State, Instant) -> T) -> T {
        let mut state = self.lock();
        let now = self.now();
        let answer = act(&mut state, now);
        let changed = self.drain(&mut state);
        let next = state.registry.poll_timeout().map(|(at, _)| at);
        let earlier = next.is_some_and(|next| state.armed.is_none_or(|armed| next < armed));
        drop(state);
        if earlier {
            self.earlier.notify_one();
        }
        if changed {
            self.changed.notify_waiters();
        }
        answer
    }

    /// Hands outputs to those who act on them. Nothing here blocks: stops are called on their own threads.
    fn drain(&self, state: &mut State) -> bool {
        let mut changed = false;
        while let Some(output) = state.registry.poll_output() {
            match output {
                MachineOutput::Stop { id, resource, cause } => match state.stoppers.get(&resource) {
                    Some(stopper) => stopper.stop(id),
                    // Actuators and stoppers come and go together.
                    None => self.records.write(Record::StopLost { resource, cause }),
                },
                MachineOutput::StopDone { of, mut failed } => {
                    if let Some(wait) = state.stops.remove(&of) {
                        let told = |r: &ResourceName| state.stop_errors.get(r).cloned().unwrap_or_default();
                        // In the order of names, not that in which they returned.
                        failed.sort();
                        let failed = failed.into_iter().map(|resource| FailedStop { error: told(&resource), resource });
                        wait.done(failed.collect());
                    }
                }
                MachineOutput::StopLost { resource, cause } => {
                    self.records.write(Record::StopLost { resource: resource.clone(), cause });
                    self.tell(Event::StopLost { resource, cause });
                }
                MachineOutput::Cancel { ticket, why } => {
                    if let Some(cancel) = state.cancels.get(&ticket) {
                        cancel.send_replace(Some(why));
                    }
                }
                MachineOutput::Forget(ticket) => state.outcomes.forget(ticket),
                MachineOutput::Changed(_) => changed = true,
                // Its thread ends when the last Stop that it was given has returned.
                MachineOutput::Removed(resource) => drop(state.stoppers.remove(&resource)),
                MachineOutput::Lapsed { holder, stopped, cause } => {
                    let contact = match holder {
                        Holder::Session(id) => state.contacts.remove(&id),
                        _ => None,
                    };
                    self.records.write(Record::Lapsed { holder, contact, stopped: stopped.clone(), cause });
                    self.tell(Event::Lapsed { holder, stopped, cause });
                }
            }
        }
        changed
    }

    /// Nobody has to listen.
    fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }
}
