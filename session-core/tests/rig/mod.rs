//! A machine made of arithmetic: the registry, a clock that only the test moves, and drivers that remember their Stops.
#![allow(
    dead_code,
    clippy::disallowed_methods,
    reason = "each test file uses its own part; a rig needs a first instant"
)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use session_core::registry::{
    Admitted, Cause, Holder, Incoming, MachineOutput, Outcome, Policy, Refused, SessionRegistry, Shut, StopId, Ticket,
    Why,
};
use session_core::{Connection, Order, Owner, SessionId};

pub const W: Duration = Duration::from_secs(2);
pub const ALICE: Owner = Owner([1; 32]);
pub const BOB: Owner = Owner([2; 32]);
pub const KEY: u64 = 7;

pub fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// What a call is made of beyond its resource.
#[derive(Clone, Default)]
pub struct Call {
    pub sid: Option<SessionId>,
    pub owner: Option<Owner>,
    pub otherwise: Option<Holder>,
    pub unmonitored: bool,
    pub order: Option<Order>,
    pub digest: u64,
}

pub struct Rig {
    pub registry: SessionRegistry<&'static str>,
    pub start: Instant,
    pub now: Instant,
    /// Drivers whose Stop does not return, and those whose Stop fails.
    pub hanging: BTreeSet<&'static str>,
    pub failing: BTreeSet<&'static str>,
    pub hung: Vec<StopId>,
    /// Everything that came out, oldest first.
    pub seen: Vec<MachineOutput<&'static str>>,
    next_id: u128,
}

impl Rig {
    /// A base of two wheels, an arm, a switch without a Stop.
    pub fn new() -> Self {
        Self::with(Policy::Guard)
    }

    pub fn with(policy: Policy) -> Self {
        let now = Instant::now();
        let mut registry = SessionRegistry::new(W, 4, policy);
        for motor in ["left", "right", "arm", "m1", "m2"] {
            registry.configure(motor, true, BTreeSet::new(), now);
        }
        registry.configure("base", true, ["left", "right"].into(), now);
        registry.configure("switch", false, BTreeSet::new(), now);
        registry.handle_opened(Connection(1), None, now);
        Self {
            registry,
            start: now,
            now,
            hanging: [].into(),
            failing: [].into(),
            hung: vec![],
            seen: vec![],
            next_id: 1,
        }
    }

    pub fn session(&mut self, owner: Owner) -> SessionId {
        self.next_id += 1;
        let started = self.registry.start(SessionId(self.next_id), None, owner, self.now).expect("room for a session");
        self.settle();
        started.id
    }

    /// Lets time pass, waking the registry when it asks to be woken.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some((at, _)) = self.registry.poll_timeout().filter(|(at, _)| *at <= until) {
            self.now = self.now.max(at);
            self.registry.handle_timeout(self.now);
            self.settle();
        }
        self.now = until;
    }

    /// Drains outputs; drivers that neither hang nor fail stop at once.
    pub fn settle(&mut self) {
        while let Some(output) = self.registry.poll_output() {
            self.seen.push(output.clone());
            if let MachineOutput::Stop { id, resource, .. } = output {
                if self.hanging.contains(resource) {
                    self.hung.push(id);
                } else {
                    let result =
                        if self.failing.contains(resource) { Err(session_core::registry::StopFailed) } else { Ok(()) };
                    self.registry.handle_stopped(id, result, self.now);
                }
            }
        }
    }

    fn incoming<'a>(call: &'a Call, owner: &'a Owner, resource: &'static str) -> Incoming<'a, &'static str> {
        Incoming {
            sid: call.sid,
            owner,
            otherwise: call.otherwise.unwrap_or(Holder::Connection(Connection(1))),
            monitored: !call.unmonitored,
            resource,
            order: call.order.as_ref(),
            digest: call.digest,
        }
    }

    pub fn admit(&mut self, resource: &'static str, call: Call) -> Result<Admitted, Refused<&'static str>> {
        let owner = call.owner.unwrap_or(ALICE);
        let admitted = self.registry.admit(Self::incoming(&call, &owner, resource), self.now);
        self.settle();
        admitted
    }

    pub fn run(&mut self, resource: &'static str, call: Call) -> Ticket {
        match self.admit(resource, call) {
            Ok(Admitted::Run(ticket)) => ticket,
            other => panic!("expected to run: {other:?}"),
        }
    }

    pub fn stop(&mut self, resource: &'static str, call: Call) -> Admitted {
        let owner = call.owner.unwrap_or(ALICE);
        let admitted = self.registry.stop(Self::incoming(&call, &owner, resource), false, self.now);
        self.settle();
        admitted
    }

    pub fn stop_all(&mut self, call: Call) -> Admitted {
        let owner = call.owner.unwrap_or(ALICE);
        let admitted = self.registry.stop(Self::incoming(&call, &owner, ""), true, self.now);
        self.settle();
        admitted
    }

    /// One driver write from beginning to end.
    pub fn write(&mut self, ticket: Ticket, resource: &'static str) -> Result<(), Shut> {
        let slot = self.registry.enter(ticket, &resource, self.now)?;
        self.settle();
        self.registry.leave(slot, self.now);
        self.settle();
        Ok(())
    }

    /// A set-and-forget command from beginning to end.
    pub fn command(&mut self, resource: &'static str, call: Call) -> Ticket {
        let ticket = self.run(resource, call);
        self.write(ticket, resource).expect("an open gate");
        self.done(ticket);
        ticket
    }

    pub fn done(&mut self, ticket: Ticket) {
        self.registry.handle_done(ticket, Some(Outcome::Kept), self.now);
        self.settle();
    }

    /// The resources whose drivers were told to stop since `clear`, in order.
    pub fn stopped(&self) -> Vec<&'static str> {
        let stops = self.seen.iter().filter_map(|o| match o {
            MachineOutput::Stop { resource, .. } => Some(*resource),
            _ => None,
        });
        stops.collect()
    }

    pub fn cancelled(&self) -> Vec<(Ticket, Why)> {
        let cancels = self.seen.iter().filter_map(|o| match o {
            MachineOutput::Cancel { ticket, why } => Some((*ticket, *why)),
            _ => None,
        });
        cancels.collect()
    }

    pub fn lost(&self) -> Vec<(&'static str, Cause)> {
        let lost = self.seen.iter().filter_map(|o| match o {
            MachineOutput::StopLost { resource, cause } => Some((*resource, *cause)),
            _ => None,
        });
        lost.collect()
    }

    pub fn clear(&mut self) {
        self.seen.clear();
    }
}

pub fn in_session(sid: SessionId) -> Call {
    Call { sid: Some(sid), ..Call::default() }
}

pub fn order(number: u64, open: &[u64]) -> Order {
    Order { key: KEY, number, open: open.iter().copied().collect(), end: false }
}

pub fn numbered(sid: SessionId, number: u64, open: &[u64]) -> Call {
    Call { sid: Some(sid), order: Some(order(number, open)), digest: number, ..Call::default() }
}
