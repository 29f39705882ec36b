//! A machine against a much smaller reference: who is there, what turns, and for whom. Whatever the schedule, the reference and the registry
//! agree on who lives, and nothing turns that is neither wanted by somebody alive nor being stopped.
//!
//! The properties, by their letters in the project's notes: S1 what a dead holder moved is being stopped at its deadline; S2 no command of a
//! dead holder passes; S3 a late beat revives nothing; S4 a Stop that hangs delays no other and is reported; S5 nobody lapses early; S6 all of
//! it after stalls too; S7 no Stop touches what somebody alive drives.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;
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

/// One thing that may happen to a machine. Numbers choose among what there is.
#[derive(Clone, Debug)]
pub enum Event {
    /// StartSession by an owner, for the session that was started so many before.
    Start(usize, Option<usize>),
    Beat {
        session: usize,
        foreign: bool,
        order: Option<Sign>,
        end: bool,
    },
    Admit {
        session: Option<usize>,
        foreign: bool,
        monitored: bool,
        resource: usize,
        order: Option<Sign>,
    },
    Stop {
        session: Option<usize>,
        foreign: bool,
        resource: usize,
        order: Option<Sign>,
        all: bool,
    },
    Claim(usize),
    Ended(usize),
    /// A call asks for its gate; `true`: for that of a part only.
    Enter(usize, bool),
    Leave(usize),
    Done(usize),
    Cancel(usize),
    Returned {
        stop: usize,
        fails: bool,
    },
    Close,
    Remove,
    Configure,
    Pass(u64),
    /// Time passes and nobody wakes the registry: a stall, or suspend.
    Stall(u64),
}

/// What a numbered message says: which client process, its number, and which quarter of the numbers below was given up.
#[derive(Clone, Copy, Debug)]
pub struct Sign {
    key: u64,
    number: u64,
    given_up: u64,
}

impl Sign {
    fn order(self, end: bool) -> Order {
        let open = (1..self.number).filter(|n| n % 4 != self.given_up).collect();
        Order { key: self.key, number: self.number, open, end }
    }
}

fn event() -> impl Strategy<Value = Event> {
    let sign = || {
        let sign = (prop::bool::weighted(0.8), 1..40u64, 0..6u64);
        let sign = sign.prop_map(|(first, number, given_up)| Sign { key: if first { 7 } else { 8 }, number, given_up });
        prop::option::weighted(0.6, sign)
    };
    let session = || prop::option::weighted(0.85, 0..4usize);
    let foreign = || prop::bool::weighted(0.05);
    prop_oneof![
        2 => (0..2usize, prop::option::weighted(0.4, 0..4usize)).prop_map(|(owner, resume)| Event::Start(owner, resume)),
        3 => (0..4usize, foreign(), sign(), prop::bool::weighted(0.05))
            .prop_map(|(session, foreign, order, end)| Event::Beat { session, foreign, order, end }),
        6 => (session(), foreign(), prop::bool::weighted(0.9), 0..4usize, sign())
            .prop_map(|(session, foreign, monitored, resource, order)| Event::Admit { session, foreign, monitored, resource, order }),
        2 => (session(), foreign(), 0..4usize, sign(), prop::bool::weighted(0.1))
            .prop_map(|(session, foreign, resource, order, all)| Event::Stop { session, foreign, resource, order, all }),
        1 => (0..4usize).prop_map(Event::Claim),
        1 => (0..3usize).prop_map(Event::Ended),
        10 => (0..8usize, prop::bool::weighted(0.2)).prop_map(|(call, part)| Event::Enter(call, part)),
        8 => (0..4usize).prop_map(Event::Leave),
        2 => (0..8usize).prop_map(Event::Done),
        1 => (0..8usize).prop_map(Event::Cancel),
        8 => (0..4usize, prop::bool::weighted(0.1)).prop_map(|(stop, fails)| Event::Returned { stop, fails }),
        1 => Just(Event::Close),
        1 => prop::bool::ANY.prop_map(|there| if there { Event::Configure } else { Event::Remove }),
        4 => (1..700u64).prop_map(Event::Pass),
        1 => (1..5_000u64).prop_map(Event::Stall),
    ]
}

/// A machine's life.
pub fn schedule() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec(event(), 1..120)
}

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

    /// Takes the outputs in: first who is gone, then what is called.
    fn drain(&mut self) {
        let outputs: Vec<_> = std::iter::from_fn(|| self.registry.poll_output()).collect();
        for output in &outputs {
            match output {
                MachineOutput::Cancel { ticket, .. } => {
                    self.ended.insert(*ticket);
                    self.calls.entry(*ticket).and_modify(|known| known.ended = true);
                }
                MachineOutput::Lapsed { holder: Holder::Session(id), .. } => {
                    let lease = self.leases.remove(id).expect("a session that lived");
                    assert!(lease.until <= self.now, "S5: {id} lapsed {:?} early", lease.until - self.now);
                }
                _ => {}
            }
        }
        for output in outputs {
            match output {
                MachineOutput::Stop { id, resource, cause } => {
                    for name in Self::turning(resource) {
                        self.failing.remove(name);
                        if let Some(motion) = self.moving.get(name) {
                            // Where a plan has claimed it since, its end is the end of what an earlier write does.
                            let of_plan = self.passed.get(name).filter(|passed| passed.ticket > motion.ticket);
                            assert!(
                                !self.wanted(name, *motion) || of_plan.is_some_and(|plan| !self.wanted(name, *plan)),
                                "S7: Stop of {resource} ({cause:?}) ends what {:?} does with {name}",
                                motion.holder
                            );
                        }
                    }
                    for inside in &mut self.inside {
                        inside.overtaken.extend(Self::turning(resource));
                    }
                    let passed = self.passed.clone();
                    self.stops.push(Stopping { id, resource, since: self.now, reported: false, passed });
                }
                MachineOutput::StopLost { resource, .. } => {
                    let overdue = |stop: &&mut Stopping| stop.resource == resource && stop.since + OVERDUE <= self.now;
                    self.stops.iter_mut().filter(overdue).for_each(|stop| stop.reported = true);
                    self.lost.extend(Self::turning(resource));
                }
                MachineOutput::StopDone { of, failed } => {
                    let covers = self.waiting.remove(&of).expect("a Stop is answered once");
                    if failed.is_empty() {
                        self.answered(of, &covers);
                    }
                }
                _ => {}
            }
        }
    }

    /// A Stop that was answered with success has stopped everything from before it.
    fn answered(&self, of: Ticket, covers: &[&'static str]) {
        for name in covers {
            let before = self.moving.get(name).is_some_and(|motion| motion.ticket < of);
            // A write that was inside meanwhile has a Stop of its own, which may fail and come again.
            let again = self.is_inside(name) || self.is_stopping(name) || self.failing.contains_key(name);
            assert!(!before || again, "{name} turns after an answered Stop");
        }
    }

    /// A session of the schedule's choice, and who uses it.
    fn pick(&self, session: Option<usize>, foreign: bool) -> (Option<SessionId>, Owner) {
        let Some((id, owner)) = session.and_then(|s| self.started.iter().rev().nth(s)) else {
            return (None, OWNERS[0]);
        };
        let stranger = if *owner == OWNERS[0] { OWNERS[1] } else { OWNERS[0] };
        (Some(*id), if foreign { stranger } else { *owner })
    }

    /// Whether `owner` may use the session.
    fn admits(&self, id: SessionId, owner: &Owner) -> bool {
        self.alive(Holder::Session(id)) && self.leases.get(&id).is_some_and(|lease| lease.owner == *owner)
    }

    /// Notes a numbered message; whether it is its client's newest.
    fn newest(&mut self, id: SessionId, order: Option<&Order>) -> bool {
        let Some(order) = order else { return true };
        let Some(lease) = self.leases.get_mut(&id) else { return false };
        let newest = lease.newest.entry(order.key).or_insert(0);
        if order.number <= *newest {
            return false;
        }
        *newest = order.number;
        let numbers = self.numbers.entry((id, order.key)).or_default();
        numbers.given_up.extend((1..order.number).filter(|n| !order.open.contains(n)));
        true
    }

    fn extend(&mut self, id: SessionId) {
        let until = self.now + W;
        self.leases.entry(id).and_modify(|lease| lease.until = until);
    }

    fn apply(&mut self, event: &Event) {
        // Deadlines come before the input; the reference hears of them at once.
        self.registry.handle_timeout(self.now);
        self.drain();
        match *event {
            Event::Start(owner, resume) => self.start(OWNERS[owner], resume),
            Event::Beat { session, foreign, order, end } => {
                self.beat(session, foreign, order.map(|sign| sign.order(end)))
            }
            Event::Admit { session, foreign, monitored, resource, order } => {
                let who = self.pick(session, foreign);
                self.admit(who, monitored, RESOURCES[resource], order.map(|sign| sign.order(false)));
            }
            Event::Stop { session, foreign, resource, order, all } => {
                let who = self.pick(session, foreign);
                self.stop(who, RESOURCES[resource], order.map(|sign| sign.order(false)), all);
            }
            Event::Claim(resource) => self.claim(RESOURCES[resource]),
            Event::Ended(which) => {
                if let Some(number) = self.executions.iter().nth(which).copied() {
                    self.executions.remove(&number);
                    self.registry.handle_ended(Holder::Execution(number), self.now);
                }
            }
            Event::Enter(call, part) => self.enter(call, part),
            Event::Leave(which) => self.leave(which),
            Event::Done(call) => {
                if let Some(ticket) = self.call(call) {
                    self.registry.handle_done(ticket, Some(Outcome::Kept), self.now);
                    self.calls.remove(&ticket);
                }
            }
            Event::Cancel(call) => {
                if let Some(ticket) = self.call(call) {
                    self.registry.cancel(ticket, Why::Cancelled, self.now);
                }
            }
            Event::Returned { stop, fails } => self.returned(stop, fails),
            Event::Close => {
                self.connection += 1;
                self.registry.handle_closed(Connection(self.connection - 1), self.now);
                self.registry.handle_opened(Connection(self.connection), None, self.now);
            }
            Event::Remove => self.remove(),
            Event::Configure => {
                if !self.arm {
                    self.shut_arm();
                }
                self.registry.configure("arm", true, BTreeSet::new(), self.now);
                self.arm = true;
            }
            Event::Pass(time) => self.pass(Duration::from_millis(time)),
            Event::Stall(time) => self.now += Duration::from_millis(time),
        }
        self.drain();
    }

    fn incoming<'a>(
        &self,
        (sid, owner): (Option<SessionId>, &'a Owner),
        monitored: bool,
        resource: &'static str,
        order: Option<&'a Order>,
    ) -> Incoming<'a, &'static str> {
        let otherwise = Holder::Connection(Connection(self.connection));
        Incoming { sid, owner, otherwise, monitored, resource, order, digest: resource.len() as u64 }
    }

    fn start(&mut self, owner: Owner, resume: Option<usize>) {
        let resume = resume.and_then(|s| self.started.iter().rev().nth(s)).map(|(id, _)| *id);
        let lives = resume.is_some_and(|id| self.admits(id, &owner));
        let fresh = SessionId(self.started.len() as u128 + 1);
        let full = self.leases.len() >= MAX_SESSIONS;
        let Ok(started) = self.registry.start(fresh, resume, owner, self.now) else {
            return assert!(full && !lives, "room was refused");
        };
        assert_eq!(started.resumed, lives, "a session is resumed if it lives and is its owner's");
        if lives {
            return self.extend(started.id);
        }
        self.started.push((started.id, owner));
        self.leases.insert(started.id, Lease { owner, until: self.now + W, newest: BTreeMap::new() });
    }

    fn beat(&mut self, session: usize, foreign: bool, order: Option<Order>) {
        let (Some(id), owner) = self.pick(Some(session), foreign) else { return };
        let lives = self.admits(id, &owner);
        let answer = self.registry.beat(id, &owner, order.as_ref(), self.now);
        assert_eq!(answer.is_ok(), lives, "S3: a beat is answered while its session lives");
        if lives && self.newest(id, order.as_ref()) {
            self.extend(id);
            if order.is_some_and(|order| order.end) {
                self.leases.entry(id).and_modify(|lease| lease.until = self.now);
            }
        }
    }

    fn admit(
        &mut self,
        who: (Option<SessionId>, Owner),
        monitored: bool,
        resource: &'static str,
        order: Option<Order>,
    ) {
        let (sid, owner) = who;
        let live = sid.filter(|id| self.admits(*id, &owner));
        let call = self.incoming((sid, &owner), monitored, resource, order.as_ref());
        let holder = live.map_or(call.otherwise, Holder::Session);
        let admitted = self.registry.admit(call, self.now);
        let order = order.filter(|_| monitored).zip(live);
        let newest = order.as_ref().is_none_or(|(order, id)| self.newest(*id, Some(order)));
        let Ok(Admitted::Run(ticket)) = admitted else {
            assert!(order.is_some() || (monitored && sid.is_some() && live.is_none()), "{resource} was refused");
            return;
        };
        assert!(!monitored || sid.is_none() || live.is_some(), "S2: a command of a session that is gone was admitted");
        if let Some((order, id)) = &order {
            let numbers = self.numbers.entry((*id, order.key)).or_default();
            assert!(numbers.ran.insert(order.number), "number {} was admitted twice", order.number);
            assert!(!numbers.given_up.contains(&order.number), "number {} was given up", order.number);
            for name in Self::covered(resource) {
                let highest = numbers.highest.entry(name).or_insert(0);
                assert!(*highest <= order.number, "number {} came after {highest} on {name}", order.number);
                *highest = order.number;
            }
        }
        if let Some(id) = live.filter(|_| monitored && newest) {
            self.extend(id);
        }
        self.calls.insert(ticket, Known { holder, resource, ended: false });
    }

    fn stop(&mut self, who: (Option<SessionId>, Owner), resource: &'static str, order: Option<Order>, all: bool) {
        let (sid, owner) = who;
        let live = sid.filter(|id| self.admits(*id, &owner));
        let call = self.incoming((sid, &owner), false, resource, order.as_ref());
        let admitted = self.registry.stop(call, all, self.now);
        let order = order.zip(live);
        if let Some((order, id)) = &order {
            self.newest(*id, Some(order));
        }
        let Admitted::Run(ticket) = admitted else {
            return assert!(order.is_some(), "a Stop without a number was refused");
        };
        let names = if all { RESOURCES.to_vec() } else { Self::covered(resource) };
        if let Some((order, id)) = &order {
            let numbers = self.numbers.entry((*id, order.key)).or_default();
            assert!(
                numbers.ran.contains(&order.number) || !numbers.given_up.contains(&order.number),
                "a Stop that was given up ran"
            );
            for name in &names {
                let highest = numbers.highest.entry(name).or_insert(0);
                *highest = (*highest).max(order.number);
            }
        }
        self.shut.extend(names.iter().map(|name| (*name, ticket)));
        self.waiting.insert(ticket, names);
    }

    fn claim(&mut self, resource: &'static str) {
        // Whose the effect of a write is that was inside when a plan came is nobody's business but that plan's.
        let busy = Self::covered(resource).iter().any(|name| self.is_inside(name) || self.is_stopping(name));
        if busy || (resource == "arm" && !self.arm) {
            return;
        }
        self.next_execution += 1;
        let holder = Holder::Execution(self.next_execution);
        self.executions.insert(self.next_execution);
        let ticket = self.registry.claim(&resource, holder, self.now);
        self.calls.insert(ticket, Known { holder, resource, ended: false });
        self.passed.extend(Self::covered(resource).into_iter().map(|name| (name, Motion { holder, ticket })));
        for name in Self::turning(resource) {
            if !self.is_inside(name) && !self.is_stopping(name) {
                self.take_over(name);
            }
        }
    }

    /// A plan has claimed an actuator that turns and that no Stop will end: it is the plan's from now on, and stops with it.
    fn take_over(&mut self, name: &'static str) {
        if let (Some(motion), Some(passed)) = (self.moving.get_mut(name), self.passed.get(name))
            && motion.ticket < passed.ticket
        {
            *motion = *passed;
        }
    }

    fn call(&self, call: usize) -> Option<Ticket> {
        self.calls.keys().rev().nth(call).copied()
    }

    fn enter(&mut self, call: usize, part: bool) {
        let Some(ticket) = self.call(call) else { return };
        let Known { holder, resource, ended } = self.calls[&ticket];
        let resource = if part && resource == "base" { "left" } else { resource };
        let names = Self::covered(resource);
        let open = !ended
            && self.alive(holder)
            && (resource != "arm" || self.arm)
            && names.iter().all(|name| {
                !self.is_shut(name, ticket)
                    && !self.is_inside(name)
                    && !self.is_stopping(name)
                    && self.passed.get(name).is_none_or(|passed| passed.ticket <= ticket)
            });
        let result = self.registry.enter(ticket, &resource, self.now);
        assert_eq!(
            result.is_ok(),
            open,
            "S2: {ticket:?} of {holder:?} at {resource}: {result:?}; alive {}, ended {ended}",
            self.alive(holder)
        );
        let Ok(slot) = result else { return };
        let motion = Motion { holder, ticket };
        self.passed.extend(names.into_iter().map(|name| (name, motion)));
        self.inside.push(Inside { slot, motion, resource, overtaken: BTreeSet::new() });
        for name in Self::turning(resource) {
            self.moving.insert(name, motion);
            self.failing.remove(name);
            self.lost.remove(name);
        }
    }

    fn leave(&mut self, which: usize) {
        if self.inside.is_empty() {
            return;
        }
        let Inside { slot, motion, resource, overtaken } = self.inside.remove(which % self.inside.len());
        // At the worst the driver obeys at the very end of the write, whatever was stopped meanwhile. A plan that has claimed it has taken over.
        for name in Self::turning(resource) {
            if self.passed.get(name) == Some(&motion) || overtaken.contains(name) {
                self.moving.insert(name, motion);
            } else {
                self.take_over(name);
            }
        }
        self.registry.leave(slot, self.now);
    }

    fn returned(&mut self, stop: usize, fails: bool) {
        if self.stops.is_empty() {
            return;
        }
        let Stopping { id, resource, passed, .. } = self.stops.remove(stop % self.stops.len());
        for name in Self::turning(resource) {
            if fails {
                self.failing.insert(name, self.now + RETRY);
                if passed.get(name) != self.passed.get(name) && !self.is_stopping(name) {
                    self.take_over(name);
                }
            } else if !self.is_inside(name) {
                // A write that is inside goes on; its Stop is written again.
                self.moving.remove(name);
            }
        }
        self.registry.handle_stopped(id, if fails { Err(StopFailed) } else { Ok(()) }, self.now);
    }

    fn remove(&mut self) {
        if self.arm {
            self.arm = false;
            self.shut_arm();
            self.registry.remove(&"arm", self.now);
        }
    }

    fn shut_arm(&mut self) {
        let latest = self.calls.keys().next_back().max(self.shut.get("arm")).copied();
        let latest = latest.max(self.passed.get("arm").map(|passed| passed.ticket));
        self.shut.extend(latest.map(|latest| ("arm", latest)));
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some((at, _)) = self.registry.poll_timeout().filter(|(at, _)| *at <= until) {
            assert!(at >= self.now, "a deadline lies before now");
            self.now = at;
            self.registry.handle_timeout(self.now);
            self.drain();
            self.check();
        }
        self.now = until;
    }

    fn check(&mut self) {
        self.registry.handle_timeout(self.now);
        self.drain();
        for (id, lease) in &self.leases {
            assert!(lease.until > self.now, "S1: {id} is over and was not ended");
        }
        assert_eq!(self.registry.sessions().count(), self.leases.len());
        for (name, motion) in &self.moving {
            let failing = self.failing.get(name).is_some_and(|until| *until >= self.now);
            assert!(
                self.wanted(name, *motion)
                    || self.is_stopping(name)
                    || self.is_inside(name)
                    || failing
                    || self.lost.contains(name),
                "S1: {name} turns, {:?} does not want it, and nothing stops it",
                motion.holder
            );
        }
        for stop in &self.stops {
            assert!(
                stop.reported || stop.since + OVERDUE > self.now,
                "S4: a Stop of {} is lost in silence",
                stop.resource
            );
        }
        if let Some((at, timer)) = self.registry.poll_timeout() {
            assert!(at > self.now, "{timer:?} was due and is still pending");
        }
    }

    /// Everybody leaves, every driver obeys: everything rests, every Stop was answered, nothing is pending.
    fn end(&mut self) {
        self.apply(&Event::Close);
        while !self.executions.is_empty() {
            self.apply(&Event::Ended(0));
        }
        for _ in 0..4 {
            self.pass(W);
            while !self.inside.is_empty() {
                self.apply(&Event::Leave(0));
            }
            while !self.stops.is_empty() {
                self.apply(&Event::Returned { stop: 0, fails: false });
            }
            self.check();
        }
        let turning = self.moving.keys().filter(|name| !self.lost.contains(*name)).count();
        assert_eq!(turning, 0, "{:?} turns although nobody is there", self.moving);
        assert!(self.waiting.is_empty(), "a Stop was never answered");
        assert_eq!(self.registry.poll_timeout(), None);
    }
}
