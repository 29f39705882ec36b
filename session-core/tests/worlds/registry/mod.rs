//! A machine against a much smaller reference: who is there, what turns, and for whom. Whatever the schedule, the reference and the registry
//! agree on who lives, and nothing turns that is neither wanted by somebody alive nor being stopped.
//!
//! The properties, by their letters in the project's notes: S1 what a dead holder moved is being stopped at its deadline; S2 no command of a
//! dead holder passes; S3 a late beat revives nothing; S4 a Stop that hangs delays no other and is reported; S5 nobody lapses early; S6 all of
//! it after stalls too; S7 no Stop touches what somebody alive drives.

mod checks;
mod event;
mod inputs;
mod outputs;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

pub use event::{Event, LENGTH};
use session_core::registry::{
    Admitted, Holder, Incoming, MachineOutput, Outcome, Policy, SessionRegistry, Slot, StopFailed, StopId, Ticket, Why,
};
use session_core::{Connection, Order, Owner, SessionId};

const W: Duration = Duration::from_secs(2);
const OWNERS: [Owner; 2] = [Owner([1; 32]), Owner([2; 32])];
const RESOURCES: [&str; 4] = ["base", "left", "right", "arm"];
/// A Stop that has not returned after this long is reported.
const OVERDUE: Duration = Duration::from_millis(500);
/// The longest pause before a failed Stop is written again.
const RETRY: Duration = Duration::from_millis(400);
/// Enough sessions for every kind of neighbour, few enough to meet the limit.
const MAX_SESSIONS: usize = 3;

/// Lives it; panics where a property does not hold.
pub fn run(events: &[Event]) {
    let mut world = World::new();
    for event in events {
        world.apply(event);
        world.check();
    }
    world.end();
}

struct Known {
    holder: Holder,
    resource: &'static str,
    /// Its handler was told to end.
    ended: bool,
}

struct Lease {
    owner: Owner,
    until: Instant,
    newest: BTreeMap<u64, u64>,
}

/// What turns: by which call, for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Motion {
    holder: Holder,
    ticket: Ticket,
}

/// What is remembered of one client process in one session.
#[derive(Default)]
struct Numbers {
    ran: BTreeSet<u64>,
    given_up: BTreeSet<u64>,
    highest: BTreeMap<&'static str, u64>,
}

struct Inside {
    slot: Slot<&'static str>,
    motion: Motion,
    resource: &'static str,
    /// A Stop came while it was inside.
    overtaken: BTreeSet<&'static str>,
}

struct Stopping {
    id: StopId,
    resource: &'static str,
    since: Instant,
    reported: bool,
    /// What had passed the gates when it began.
    passed: BTreeMap<&'static str, Motion>,
}

struct World {
    registry: SessionRegistry<&'static str>,
    now: Instant,
    leases: BTreeMap<SessionId, Lease>,
    started: Vec<(SessionId, Owner)>,
    connection: u64,
    executions: BTreeSet<u64>,
    next_execution: u64,
    arm: bool,
    calls: BTreeMap<Ticket, Known>,
    inside: Vec<Inside>,
    stops: Vec<Stopping>,
    moving: BTreeMap<&'static str, Motion>,
    ended: BTreeSet<Ticket>,
    /// Up to which ticket a caller's Stop has shut each actuator.
    shut: BTreeMap<&'static str, Ticket>,
    /// What passed each gate last.
    passed: BTreeMap<&'static str, Motion>,
    /// Actuators whose Stop failed, and until when it is to be written again.
    failing: BTreeMap<&'static str, Instant>,
    lost: BTreeSet<&'static str>,
    numbers: BTreeMap<(SessionId, u64), Numbers>,
    /// Callers' Stops that were not answered yet, and what they cover.
    waiting: BTreeMap<Ticket, Vec<&'static str>>,
}

impl World {
    #[allow(clippy::disallowed_methods, reason = "a schedule needs a first instant")]
    fn new() -> Self {
        let now = Instant::now();
        let mut registry = SessionRegistry::new(W, MAX_SESSIONS, Policy::Guard);
        for name in RESOURCES {
            let parts = if name == "base" { ["left", "right"].into() } else { BTreeSet::new() };
            registry.configure(name, true, parts, now);
        }
        registry.handle_opened(Connection(0), None, now);
        Self {
            registry,
            now,
            leases: BTreeMap::new(),
            started: vec![],
            connection: 0,
            executions: BTreeSet::new(),
            next_execution: 0,
            arm: true,
            calls: BTreeMap::new(),
            inside: vec![],
            stops: vec![],
            moving: BTreeMap::new(),
            ended: BTreeSet::new(),
            shut: BTreeMap::new(),
            passed: BTreeMap::new(),
            failing: BTreeMap::new(),
            lost: BTreeSet::new(),
            numbers: BTreeMap::new(),
            waiting: BTreeMap::new(),
        }
    }

    fn covered(resource: &'static str) -> Vec<&'static str> {
        if resource == "base" { vec!["base", "left", "right"] } else { vec![resource] }
    }

    /// What turns when a resource is written to: a base has nothing but its wheels.
    fn turning(resource: &'static str) -> Vec<&'static str> {
        if resource == "base" { vec!["left", "right"] } else { vec![resource] }
    }

    fn alive(&self, holder: Holder) -> bool {
        match holder {
            Holder::Session(id) => self.leases.get(&id).is_some_and(|lease| lease.until > self.now),
            Holder::Connection(connection) => connection == Connection(self.connection),
            Holder::Execution(number) => self.executions.contains(&number),
            _ => false,
        }
    }

    /// Whether what turns is wanted: its holder is there, and nothing has ended it since.
    fn wanted(&self, name: &'static str, motion: Motion) -> bool {
        self.alive(motion.holder) && !self.ended.contains(&motion.ticket) && !self.is_shut(name, motion.ticket)
    }

    fn is_shut(&self, name: &'static str, ticket: Ticket) -> bool {
        self.shut.get(name).is_some_and(|shut| ticket <= *shut)
    }

    fn is_inside(&self, name: &'static str) -> bool {
        self.inside.iter().any(|inside| Self::covered(inside.resource).contains(&name))
    }

    fn is_stopping(&self, name: &'static str) -> bool {
        self.stops.iter().any(|stop| Self::covered(stop.resource).contains(&name))
    }
}
