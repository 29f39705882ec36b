//! Generated schedules against a much smaller reference: what may move, for whom, and that whatever moves is stopped.

#![allow(clippy::disallowed_methods, reason = "a schedule needs a first instant")]

mod rig;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::Config;
use rig::{ALICE, BOB, KEY, W, ms};
use session_core::registry::{
    Admitted, Holder, Incoming, MachineOutput, Outcome, Policy, SessionRegistry, Slot, StopFailed, StopId, Ticket, Why,
};
use session_core::{Connection, Order, Owner, SessionId};

const RESOURCES: [&str; 4] = ["base", "left", "right", "arm"];

/// One thing that may happen to a machine.
#[derive(Clone, Debug)]
enum Event {
    Start(usize),
    Beat {
        session: usize,
        number: Option<u64>,
        end: bool,
    },
    Admit {
        session: Option<usize>,
        resource: usize,
        number: Option<u64>,
        give_up: u64,
    },
    Stop {
        session: Option<usize>,
        resource: usize,
        number: Option<u64>,
        all: bool,
    },
    Enter(usize),
    Leave(usize),
    Done(usize),
    Cancel(usize),
    Returned {
        stop: usize,
        fails: bool,
    },
    Close,
    Pass(u64),
    /// Time passes and nobody wakes the registry: a stall, or suspend.
    Stall(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let number = || prop::option::weighted(0.6, 1..40u64);
    let session = || prop::option::weighted(0.85, 0..4usize);
    prop_oneof![
        2 => (0..2usize).prop_map(Event::Start),
        3 => (0..4usize, number(), prop::bool::weighted(0.05)).prop_map(|(session, number, end)| Event::Beat { session, number, end }),
        6 => (session(), 0..4usize, number(), 0..4u64)
            .prop_map(|(session, resource, number, give_up)| Event::Admit { session, resource, number, give_up }),
        2 => (session(), 0..4usize, number(), prop::bool::weighted(0.1))
            .prop_map(|(session, resource, number, all)| Event::Stop { session, resource, number, all }),
        8 => (0..8usize).prop_map(Event::Enter),
        6 => (0..4usize).prop_map(Event::Leave),
        2 => (0..8usize).prop_map(Event::Done),
        1 => (0..8usize).prop_map(Event::Cancel),
        5 => (0..4usize, prop::bool::weighted(0.1)).prop_map(|(stop, fails)| Event::Returned { stop, fails }),
        1 => Just(Event::Close),
        4 => (1..700u64).prop_map(Event::Pass),
        1 => (1..5_000u64).prop_map(Event::Stall),
    ]
}

/// What the reference remembers of a call.
struct Known {
    holder: Holder,
    resource: &'static str,
    /// Nothing may be written for it any more.
    dead: bool,
}

struct World {
    registry: SessionRegistry<&'static str>,
    now: Instant,
    /// Sessions by when their lease ends at the latest, by the reference's own count.
    leases: BTreeMap<SessionId, (Owner, Instant)>,
    started: Vec<SessionId>,
    connection: u64,
    calls: BTreeMap<Ticket, Known>,
    order: Vec<Ticket>,
    slots: Vec<(Slot<&'static str>, Ticket, &'static str)>,
    stops: Vec<(StopId, &'static str)>,
    /// What moves, and for whom: set by a write, cleared by a successful Stop after it.
    moving: BTreeMap<&'static str, Holder>,
    ran: BTreeSet<(SessionId, u64)>,
    /// The newest ticket that passed each gate.
    passed: BTreeMap<&'static str, Ticket>,
}

impl World {
    fn new(start: Instant) -> Self {
        let mut registry = SessionRegistry::new(W, 3, Policy::Guard);
        for name in RESOURCES {
            let parts = if name == "base" { ["left", "right"].into() } else { BTreeSet::new() };
            registry.configure(name, true, parts, start);
        }
        registry.handle_opened(Connection(0), None, start);
        Self {
            registry,
            now: start,
            leases: BTreeMap::new(),
            started: vec![],
            connection: 0,
            calls: BTreeMap::new(),
            order: vec![],
            slots: vec![],
            stops: vec![],
            moving: BTreeMap::new(),
            ran: BTreeSet::new(),
            passed: BTreeMap::new(),
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
            Holder::Session(id) => self.leases.get(&id).is_some_and(|(_, until)| *until > self.now),
            Holder::Connection(connection) => connection == Connection(self.connection),
            _ => false,
        }
    }

    /// Takes the outputs in. `by_stop`: they come from a caller's Stop.
    fn drain(&mut self, by_stop: bool) {
        let outputs: Vec<_> = std::iter::from_fn(|| self.registry.poll_output()).collect();
        let lapsed: BTreeSet<_> = outputs
            .iter()
            .filter_map(|o| if let MachineOutput::Lapsed { stopped, .. } = o { Some(stopped.clone()) } else { None })
            .flatten()
            .collect();
        for output in outputs {
            match output {
                MachineOutput::Stop { id, resource, .. } => {
                    // Floors are raised before the driver is called: what was admitted before is dead from here on. A Stop that is
                    // only written again (after a write it overtook, after a failure) raises none.
                    if by_stop || lapsed.contains(resource) {
                        let covered = Self::covered(resource);
                        self.calls
                            .values_mut()
                            .filter(|known| covered.contains(&known.resource))
                            .for_each(|known| known.dead = true);
                    }
                    self.stops.push((id, resource));
                }
                MachineOutput::Cancel { ticket, .. } => {
                    if let Some(known) = self.calls.get_mut(&ticket) {
                        known.dead = true;
                    }
                }
                MachineOutput::Lapsed { holder: Holder::Session(id), .. } => {
                    self.leases.remove(&id);
                }
                _ => {}
            }
        }
    }

    fn pick(&self, session: Option<usize>) -> (Option<SessionId>, Owner) {
        let id = session.and_then(|s| self.started.get(self.started.len().wrapping_sub(1 + s))).copied();
        let owner = id.and_then(|id| self.leases.get(&id)).map_or(ALICE, |(owner, _)| *owner);
        (id, owner)
    }

    fn order_of(number: u64, give_up: u64) -> Order {
        // Every number below stands open but one in four, by the schedule's choice.
        let open = (1..number).filter(|n| n % 4 != give_up).collect();
        Order { key: KEY, number, open, end: false }
    }

    fn apply(&mut self, event: Event) -> Result<(), TestCaseError> {
        let by_stop = matches!(event, Event::Stop { .. });
        if by_stop {
            self.registry.handle_timeout(self.now);
            self.drain(false);
        }
        match event {
            Event::Start(owner) => self.start([ALICE, BOB][owner]),
            Event::Beat { session, number, end } => self.beat(session, number, end)?,
            Event::Admit { session, resource, number, give_up } => {
                self.admit(session, RESOURCES[resource], number, give_up)?
            }
            Event::Stop { session, resource, number, all } => {
                let (sid, owner) = self.pick(session);
                let order = number.map(|n| Self::order_of(n, 9));
                let call = self.incoming(sid, &owner, RESOURCES[resource], order.as_ref(), 1000 + resource as u64);
                self.registry.stop(call, all, self.now);
            }
            Event::Enter(call) => self.enter(call)?,
            Event::Leave(slot) => {
                if !self.slots.is_empty() {
                    let (slot, _, _) = self.slots.remove(slot % self.slots.len());
                    self.registry.leave(slot, self.now);
                }
            }
            Event::Done(call) => {
                if let Some(ticket) = self.call(call) {
                    self.registry.handle_done(ticket, Some(Outcome::Kept), self.now);
                    self.calls.remove(&ticket);
                    self.order.retain(|t| *t != ticket);
                }
            }
            Event::Cancel(call) => {
                if let Some(ticket) = self.call(call) {
                    self.registry.cancel(ticket, Why::Cancelled, self.now);
                }
            }
            Event::Returned { stop, fails } => self.returned(stop, fails),
            Event::Close => {
                self.registry.handle_closed(Connection(self.connection), self.now);
                self.connection += 1;
                self.registry.handle_opened(Connection(self.connection), None, self.now);
            }
            Event::Pass(time) => self.pass(ms(time)),
            Event::Stall(time) => self.now += ms(time),
        }
        self.drain(by_stop);
        self.check()
    }

    fn incoming<'a>(
        &self,
        sid: Option<SessionId>,
        owner: &'a Owner,
        resource: &'static str,
        order: Option<&'a Order>,
        digest: u64,
    ) -> Incoming<'a, &'static str> {
        let otherwise = Holder::Connection(Connection(self.connection));
        Incoming { sid, owner, otherwise, monitored: true, resource, order, digest }
    }

    fn start(&mut self, owner: Owner) {
        let fresh = SessionId(self.started.len() as u128 + 1);
        if let Ok(started) = self.registry.start(fresh, None, owner, self.now) {
            self.started.push(started.id);
            self.leases.insert(started.id, (owner, self.now + W));
        }
    }

    fn beat(&mut self, session: usize, number: Option<u64>, end: bool) -> Result<(), TestCaseError> {
        let (Some(id), owner) = self.pick(Some(session)) else { return Ok(()) };
        let order = number.map(|n| Order { end, ..Self::order_of(n, 9) });
        let alive = self.alive(Holder::Session(id));
        let answer = self.registry.beat(id, &owner, order.as_ref(), self.now);
        prop_assert!(answer.is_err() || alive, "a beat revived a session whose lease was over");
        if answer.is_ok() {
            // An upper bound: beats that are not newest extend nothing.
            self.leases.entry(id).and_modify(|lease| lease.1 = self.now + W);
        }
        Ok(())
    }

    fn admit(
        &mut self,
        session: Option<usize>,
        resource: &'static str,
        number: Option<u64>,
        give_up: u64,
    ) -> Result<(), TestCaseError> {
        let (sid, owner) = self.pick(session);
        let order = number.map(|n| Self::order_of(n, give_up));
        let call = self.incoming(sid, &owner, resource, order.as_ref(), resource.len() as u64);
        let holder = sid.map_or(call.otherwise, Holder::Session);
        let alive = self.alive(holder);
        let admitted = self.registry.admit(call, self.now);
        let Ok(Admitted::Run(ticket)) = admitted else { return Ok(()) };
        prop_assert!(alive, "a call was admitted for a holder that is gone");
        if let (Some(id), Some(number)) = (sid, number) {
            prop_assert!(self.ran.insert((id, number)), "number {number} was admitted twice");
        }
        if let Some(id) = sid {
            self.leases.entry(id).and_modify(|lease| lease.1 = self.now + W);
        }
        self.calls.insert(ticket, Known { holder, resource, dead: false });
        self.order.push(ticket);
        Ok(())
    }

    fn call(&self, call: usize) -> Option<Ticket> {
        self.order.iter().rev().nth(call).copied()
    }

    fn enter(&mut self, call: usize) -> Result<(), TestCaseError> {
        let Some(ticket) = self.call(call) else { return Ok(()) };
        let Some(known) = self.calls.get(&ticket) else { return Ok(()) };
        let (holder, resource) = (known.holder, known.resource);
        let Ok(slot) = self.registry.enter(ticket, &resource, self.now) else { return Ok(()) };
        self.drain(false);
        let known = &self.calls[&ticket];
        prop_assert!(!known.dead, "a call passed its gate after a Stop or its own end");
        prop_assert!(self.alive(holder), "an actuator moves for a holder that is gone");
        for name in Self::covered(resource) {
            let before = self.passed.insert(name, ticket);
            prop_assert!(
                before.is_none_or(|before| before <= ticket),
                "an earlier command passed {name} after a later one"
            );
            let inside = self.slots.iter().any(|(_, _, other)| Self::covered(other).contains(&name));
            prop_assert!(!inside, "two writes are inside {name}");
        }
        self.moving.extend(Self::turning(resource).into_iter().map(|name| (name, holder)));
        self.slots.push((slot, ticket, resource));
        Ok(())
    }

    fn returned(&mut self, stop: usize, fails: bool) {
        if self.stops.is_empty() {
            return;
        }
        let (id, resource) = self.stops.remove(stop % self.stops.len());
        if !fails {
            for name in Self::covered(resource) {
                // A write that is inside goes on moving it; its Stop is written again.
                if !self.slots.iter().any(|(_, _, other)| Self::covered(other).contains(&name)) {
                    self.moving.remove(name);
                }
            }
        }
        self.registry.handle_stopped(id, if fails { Err(StopFailed) } else { Ok(()) }, self.now);
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some((at, _)) = self.registry.poll_timeout().filter(|(at, _)| *at <= until) {
            self.now = self.now.max(at);
            self.registry.handle_timeout(self.now);
            self.drain(false);
        }
        self.now = until;
    }

    /// Whatever moves does so for somebody alive, or is being stopped, or has a write inside that will be stopped.
    fn check(&mut self) -> Result<(), TestCaseError> {
        self.registry.handle_timeout(self.now);
        self.drain(false);
        for (name, holder) in self.moving.clone() {
            let stopping = self.stops.iter().any(|(_, resource)| Self::covered(resource).contains(&name));
            let inside = self.slots.iter().any(|(_, _, resource)| Self::covered(resource).contains(&name));
            let retried = self.registry.poll_timeout().is_some();
            prop_assert!(
                self.alive(holder) || stopping || inside || retried,
                "{name} moves for {holder:?}, who is gone, and nothing stops it"
            );
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(Config { cases: Config::default().cases.max(3000), ..Config::default() })]

    #[test]
    fn nothing_moves_for_a_holder_that_is_gone(events in prop::collection::vec(event(), 1..120)) {
        let mut world = World::new(Instant::now());
        for event in events {
            world.apply(event)?;
        }
    }
}
