//! The machine half: sessions, order and gates as one value.
//!
//! # Contract
//!
//! [`SessionRegistry`] deals in names, tickets and verdicts; never in bytes, futures or drivers. Every command gets a ticket
//! from one counter, every actuator has a gate with a floor, and a ticket below the floor never reaches the driver. A Stop, a
//! lapse or a later command raises the floor *before* anything else happens, so whatever was admitted earlier, wherever it is stuck, can
//! move nothing any more. Passing the gate associates the actuator with the command's holder, and nothing else does.
//!
//! `now` is the last argument of every input and comes from one clock that runs through suspend. Deadlines are compared with
//! it before the input is used: a beat that sat in a queue while the process was stopped finds its session gone.
//!
//! # The states of a command and of a gate
//!
//! ```text
//!   first message ─ admit ─► Run(ticket) ─ enter ─► inside ─ leave ─► (enter again) .. ─ handle_done ─► outcome kept, while wanted
//!        │                      │            │  ▲                                                        │
//!        │ Copy(ticket):        │       Busy ▼  │ Changed                                                ▼
//!        │ waits for that       │           waits (500 ms in the shell)                                Forget
//!        │ one's outcome        ▼
//!        ▼                    Revoked: Stop, lapse, a later command, given up, cancelled. Never again;
//!   refused: not run            what it still holds is stopped, then its handler hears Cancel.
//!
//!   gate:  at rest ── a ticket passes ──► held by its holder ── Stop succeeds ──► at rest
//!                                            │   ▲                                   ▲
//!                             Stop, lapse    ▼   │ a later ticket passes             │
//!                                         stopping ── fails: again after 100, 200, 400 ms; then StopLost
//!                                            └── not back after 500 ms: StopLost, shut until it returns
//! ```
//!
//! A Stop does not wait for the write inside: it is called at once, and again when that write has returned.
//!
//! # The shell's loop
//!
//! ```
//! use std::collections::BTreeSet;
//! use std::time::{Duration, Instant};
//! use session_core::registry::{Admitted, Holder, Incoming, MachineOutput, SessionRegistry};
//! use session_core::{Connection, Owner, SessionId};
//!
//! let mut now = Instant::now();
//! let mut registry = SessionRegistry::new(Duration::from_secs(2), 1024, Default::default());
//! registry.configure("base", true, BTreeSet::new(), now);
//!
//! // StartSession, then a monitored call that writes to its driver once.
//! let owner = Owner([7; 32]);
//! let session = registry.start(SessionId(1), None, owner, now).unwrap().id;
//! let call = Incoming {
//!     sid: Some(session), owner: &owner, otherwise: Holder::Connection(Connection(1)), monitored: true,
//!     resource: "base", order: None, digest: 0,
//! };
//! let Ok(Admitted::Run(ticket)) = registry.admit(call, now) else { panic!() };
//! let slot = registry.enter(ticket, &"base", now).unwrap();
//! // .. the driver writes ..
//! registry.leave(slot, now);
//! registry.handle_done(ticket, None, now);
//!
//! // The client is gone: sleep until the deadline, say so, do what comes out.
//! let (deadline, _) = registry.poll_timeout().unwrap();
//! now = deadline;
//! registry.handle_timeout(now);
//! let mut stopped = Vec::new();
//! while let Some(output) = registry.poll_output() {
//!     if let MachineOutput::Stop { id, resource, .. } = output {
//!         stopped.push(resource); // .. the driver's Stop ..
//!         registry.handle_stopped(id, Ok(()), now);
//!     }
//! }
//! assert_eq!(stopped, ["base"]);
//! ```

mod admission;
mod gates;
mod leases;
mod order;
mod stops;
mod table;
mod types;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

pub use types::*;

use crate::{Connection, Owner, SessionId};
use gates::{Call, Gate};
use leases::{Principal, Session};
use stops::{Stopping, WaitingStop};
use table::Table;

/// A deadline that is over.
enum Due<R> {
    Lease(SessionId),
    Other(Timed<R>),
}

/// What deadlines are for, besides leases.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Timed<R> {
    Principal(Owner),
    StopOverdue(StopId),
    StopRetry(R),
}

/// The machine's sessions, the order of their calls and the gates of its actuators.
///
/// `R` names resources. Inputs are `handle_*` and the questions `start`, `beat`, `admit`, `stop`, `claim`, `enter`; after each
/// of them drain [`poll_output`](Self::poll_output) and ask [`poll_timeout`](Self::poll_timeout) again.
pub struct SessionRegistry<R> {
    window: Duration,
    max_sessions: usize,
    policy: Policy,
    last_ticket: u64,
    last_stop: u64,
    sessions: Table<Session<R>>,
    tombstones: BTreeMap<SessionId, (Owner, Tombstone<R>)>,
    buried: VecDeque<SessionId>,
    connections: BTreeSet<Connection>,
    principals: BTreeMap<Owner, Principal>,
    calls: BTreeMap<Ticket, Call<R>>,
    gates: BTreeMap<R, Gate<R>>,
    stops: BTreeMap<StopId, Stopping<R>>,
    waiting_stops: BTreeMap<Ticket, WaitingStop<R>>,
    /// Where each lease may end: at or before its deadline, so that beats do not touch the index. By itself, because with many sessions its
    /// size is what a beat costs.
    leases: BTreeSet<(Instant, SessionId)>,
    timers: BTreeSet<(Instant, Timed<R>)>,
    /// The machine ends: no gate opens any more.
    closed: bool,
    outputs: VecDeque<MachineOutput<R>>,
}

impl<R: Ord + Clone> SessionRegistry<R> {
    /// A registry without resources. `window` is what every session gets; existing machines allow 30 ms to 1 min and default
    /// to 2 s. `max_sessions` is 1,024 by default there.
    pub fn new(window: Duration, max_sessions: usize, policy: Policy) -> Self {
        Self {
            window,
            max_sessions,
            policy,
            last_ticket: 0,
            last_stop: 0,
            sessions: Table::default(),
            tombstones: BTreeMap::new(),
            buried: VecDeque::new(),
            connections: BTreeSet::new(),
            principals: BTreeMap::new(),
            calls: BTreeMap::new(),
            gates: BTreeMap::new(),
            stops: BTreeMap::new(),
            waiting_stops: BTreeMap::new(),
            leases: BTreeSet::new(),
            timers: BTreeSet::new(),
            closed: false,
            outputs: VecDeque::new(),
        }
    }

    /// The window of every session.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// The next thing to do, in order. Drain it after every input.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<MachineOutput<R>> {
        self.outputs.pop_front()
    }

    /// When `handle_timeout` is due at the latest, and for what; `None` when nothing is pending. It may be early: a beat
    /// moves its session's deadline without touching the index.
    pub fn poll_timeout(&self) -> Option<(Instant, MachineTimer)> {
        let lease = self.leases.first().map(|(at, _)| (*at, MachineTimer::Lease));
        let other = self.timers.first().map(|(at, timed)| {
            let timer = match timed {
                Timed::Principal(_) => MachineTimer::Principal,
                Timed::StopOverdue(_) => MachineTimer::StopOverdue,
                Timed::StopRetry(_) => MachineTimer::StopRetry,
            };
            (*at, timer)
        });
        match (lease, other) {
            (Some(lease), Some(other)) if other.0 < lease.0 => Some(other),
            (lease, other) => lease.or(other),
        }
    }

    /// Time has passed. Harmless when early.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, due)) = self.pop_due(now) {
            match due {
                Due::Lease(id) => self.lease_due(id, now),
                Due::Other(Timed::Principal(owner)) => self.principal_due(owner, now),
                Due::Other(Timed::StopOverdue(id)) => self.stop_overdue(id),
                Due::Other(Timed::StopRetry(resource)) => self.stop_retry_due(resource, now),
            }
        }
    }

    /// The earliest deadline that is over; of several at the same moment, leases first.
    fn pop_due(&mut self, now: Instant) -> Option<(Instant, Due<R>)> {
        let lease = self.leases.first().map(|(at, _)| *at).filter(|at| *at <= now);
        let other = self.timers.first().map(|(at, _)| *at).filter(|at| *at <= now);
        if lease.is_some_and(|lease| other.is_none_or(|other| lease <= other)) {
            return self.leases.pop_first().map(|(at, id)| (at, Due::Lease(id)));
        }
        other?;
        self.timers.pop_first().map(|(at, timed)| (at, Due::Other(timed)))
    }

    fn next_ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        Ticket(self.last_ticket)
    }

    fn output(&mut self, output: MachineOutput<R>) {
        self.outputs.push_back(output);
    }
}
