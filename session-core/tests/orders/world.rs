//! Messages on their way, handlers that wait, drivers that are busy, leases that end: what may happen next, and what must hold whatever does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use session_core::registry::{Admitted, MachineOutput, Past, Refused, Shut, StopId, Ticket};
use session_core::{Owner, SessionId};

use super::machine::{Entered, Fault, Machine};

pub const W: Duration = Duration::from_secs(2);
pub const OWNER: Owner = Owner([7; 32]);
/// A base of one wheel, and an arm beside it.
pub const RESOURCES: [&str; 3] = ["arm", "base", "left"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Motion(&'static str),
    Stop(&'static str),
    StopAll,
    Beat,
}

impl What {
    pub fn resource(self) -> &'static str {
        match self {
            Self::Motion(resource) | Self::Stop(resource) => resource,
            Self::StopAll | Self::Beat => "",
        }
    }

    /// What it moves or stops: a base has nothing but its wheel.
    fn turning(self) -> Vec<&'static str> {
        match self {
            Self::Motion("base") | Self::Stop("base") => vec!["left"],
            Self::Motion(one) | Self::Stop(one) => vec![one],
            Self::StopAll => vec!["arm", "left"],
            Self::Beat => vec![],
        }
    }

    /// Where a later number shuts a lower one out.
    fn covers(self) -> Vec<&'static str> {
        match self {
            Self::Motion("base") | Self::Stop("base") => vec!["base", "left"],
            Self::StopAll => RESOURCES.to_vec(),
            other => other.turning(),
        }
    }
}

/// A message of a client: the same on each of its copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    pub session: SessionId,
    /// `None`: of a client that does not number.
    pub number: Option<u64>,
    pub open: &'static [u64],
    pub what: What,
}

impl Message {
    /// A Stop that nobody asked for.
    pub fn of_nobody(resource: &'static str) -> Self {
        Self { session: SessionId(99), number: None, open: &[], what: What::Stop(resource) }
    }
}

/// One thing that may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A copy of the message with this place in the scenario arrives.
    Arrives(usize),
    /// The handler of a ticket asks for its gate.
    Enters(Ticket),
    /// The write that is inside with this ticket returns.
    Leaves(Ticket),
    /// A driver's Stop returns.
    Returns(StopId),
    /// The lease of a session ends.
    Expires(SessionId),
}

#[derive(Clone, Copy, Debug)]
struct Command {
    message: Message,
    /// A Stop of its actuator, or an end of its right to it, came after it.
    over: bool,
    blocked: bool,
}

#[derive(Clone, Copy, Debug)]
struct Motion {
    ticket: Ticket,
    session: SessionId,
    number: Option<u64>,
}

pub struct World {
    machine: Machine,
    now: Instant,
    messages: Vec<Message>,
    on_the_way: Vec<usize>,
    expiring: Vec<SessionId>,
    until: BTreeMap<SessionId, Instant>,
    newest: BTreeMap<SessionId, u64>,
    given_up: BTreeSet<(SessionId, u64)>,
    admitted: BTreeSet<(SessionId, u64)>,
    written: BTreeSet<(SessionId, u64)>,
    highest: BTreeMap<(SessionId, &'static str), u64>,
    waiting: BTreeMap<Ticket, Command>,
    inside: BTreeMap<Ticket, (Entered, Command)>,
    stops: BTreeMap<StopId, &'static str>,
    asked: BTreeMap<Ticket, What>,
    moving: BTreeMap<&'static str, Motion>,
    /// Who passed last.
    passed: BTreeMap<&'static str, Ticket>,
    /// The first that no answered Stop is about: what was admitted before does not enter.
    answered: BTreeMap<&'static str, Ticket>,
}

impl World {
    pub fn new(messages: &[Message], expiring: &[u128], sessions: usize, fault: Option<Fault>, now: Instant) -> Self {
        let until = (0..sessions).map(|id| (SessionId(id as u128), now + W)).collect();
        Self {
            machine: Machine::new(fault, sessions, now),
            now,
            messages: messages.to_vec(),
            on_the_way: (0..messages.len()).collect(),
            expiring: expiring.iter().map(|id| SessionId(*id)).collect(),
            until,
            newest: BTreeMap::new(),
            given_up: BTreeSet::new(),
            admitted: BTreeSet::new(),
            written: BTreeSet::new(),
            highest: BTreeMap::new(),
            waiting: BTreeMap::new(),
            inside: BTreeMap::new(),
            stops: BTreeMap::new(),
            asked: BTreeMap::new(),
            moving: BTreeMap::new(),
            passed: BTreeMap::new(),
            answered: BTreeMap::new(),
        }
    }

    /// Everything that may happen next; of equal copies one.
    pub fn possible(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (at, index) in self.on_the_way.iter().enumerate() {
            let same = |other: &usize| self.messages[*other] == self.messages[*index];
            if !self.on_the_way[..at].iter().any(same) {
                events.push(Event::Arrives(*index));
            }
        }
        events.extend(self.waiting.iter().filter(|(_, c)| !c.blocked).map(|(ticket, _)| Event::Enters(*ticket)));
        events.extend(self.inside.keys().map(|ticket| Event::Leaves(*ticket)));
        events.extend(self.stops.keys().map(|id| Event::Returns(*id)));
        events.extend(self.expiring.iter().map(|id| Event::Expires(*id)));
        events
    }

    pub fn apply(&mut self, event: Event) {
        self.now += Duration::from_millis(1);
        match event {
            Event::Arrives(index) => {
                self.on_the_way.retain(|other| *other != index);
                self.arrives(self.messages[index]);
            }
            Event::Enters(ticket) => self.enters(ticket),
            Event::Leaves(ticket) => self.leaves(ticket),
            Event::Returns(id) => {
                let resource = self.stops.remove(&id).expect("it was called");
                for name in What::Stop(resource).turning() {
                    if !self.inside.values().any(|(_, c)| c.message.what.turning().contains(&name)) {
                        self.moving.remove(name);
                    }
                }
                self.machine.stopped(id, self.now);
                self.unblock();
            }
            Event::Expires(id) => {
                self.expiring.retain(|other| *other != id);
                self.expires(id);
            }
        }
        self.drain();
        self.check();
    }

    fn lives(&self, id: SessionId) -> bool {
        self.until.get(&id).is_some_and(|until| *until > self.now)
    }

    /// Takes over what a numbered message says; whether it is its session's newest.
    fn is_newest(&mut self, message: &Message) -> bool {
        let Some(number) = message.number else { return true };
        let newest = self.newest.entry(message.session).or_insert(0);
        if number <= *newest {
            return false;
        }
        *newest = number;
        let left = (1..number).filter(|n| !message.open.contains(n)).map(|n| (message.session, n));
        self.given_up.extend(left);
        for command in self.waiting.values_mut() {
            let key = command.message.number.map(|n| (command.message.session, n));
            command.over |= key.is_some_and(|key| self.given_up.contains(&key));
        }
        true
    }

    fn arrives(&mut self, message: Message) {
        let (id, lived) = (message.session, self.lives(message.session));
        match message.what {
            What::Beat => {
                assert_eq!(
                    self.machine.beat(&message, self.now),
                    lived,
                    "S3: a beat is answered while its session lives"
                );
                if lived && self.is_newest(&message) {
                    self.until.insert(id, self.now + W);
                }
            }
            What::Motion(_) => {
                let admitted = self.machine.motion(&message, self.now);
                let newest = lived && self.is_newest(&message);
                let key = (id, message.number.unwrap_or(0));
                match admitted {
                    Ok(Admitted::Run(ticket)) => self.runs(message, ticket, lived, newest),
                    Err(Refused::GivenUp | Refused::Superseded) => {
                        assert!(!self.admitted.contains(&key), "s90: {message:?} ran, and is said not to have run");
                    }
                    Ok(Admitted::Copy(_)) | Err(Refused::MayHaveRun) => assert!(self.admitted.contains(&key)),
                    Err(Refused::NoSession(_)) => assert!(!lived, "S5: a session that lives is said to be gone"),
                    other => panic!("{message:?}: {other:?}"),
                }
            }
            What::Stop(_) | What::StopAll => {
                let admitted = self.machine.stop(&message, self.now);
                if lived {
                    self.is_newest(&message);
                }
                self.stop_arrived(message, admitted, lived);
            }
        }
    }

    fn runs(&mut self, message: Message, ticket: Ticket, lived: bool, newest: bool) {
        assert!(lived, "S2: a command of a session that is gone was admitted");
        if let Some(number) = message.number {
            let key = (message.session, number);
            assert!(self.admitted.insert(key), "s90: {message:?} was admitted twice");
            assert!(!self.given_up.contains(&key), "s89: {message:?} was given up and admitted");
            for name in message.what.covers() {
                let highest = self.highest.entry((message.session, name)).or_insert(0);
                assert!(*highest < number, "s91: {message:?} was admitted after {highest}");
                *highest = number;
            }
        }
        if newest {
            self.until.insert(message.session, self.now + W);
        }
        self.waiting.insert(ticket, Command { message, over: false, blocked: false });
    }

    fn stop_arrived(&mut self, message: Message, admitted: Admitted, lived: bool) {
        let key = (message.session, message.number.unwrap_or(0));
        match admitted {
            Admitted::Run(ticket) => {
                if let Some(number) = message.number.filter(|_| lived) {
                    assert!(self.admitted.insert(key), "s94: a Stop ran twice");
                    for name in message.what.covers() {
                        let highest = self.highest.entry((message.session, name)).or_insert(0);
                        *highest = number.max(*highest);
                    }
                }
                self.asked.insert(ticket, message.what);
                let covered = message.what.covers();
                let concerned = self
                    .waiting
                    .values_mut()
                    .filter(|c| c.message.what.covers().iter().any(|name| covered.contains(name)));
                concerned.for_each(|command| command.over = true);
            }
            Admitted::Copy(_) | Admitted::Over(Past::Succeeded | Past::MayHaveRun) => {
                assert!(self.admitted.contains(&key), "s94: a Stop that never ran is a copy");
            }
            Admitted::Over(Past::NotRun) => {
                let ran = self.admitted.contains(&key);
                assert!(self.given_up.contains(&key) && !ran, "s91: a Stop was refused");
            }
        }
    }

    fn enters(&mut self, ticket: Ticket) {
        let command = self.waiting[&ticket];
        let message = command.message;
        match self.machine.enter(ticket, message.what.resource(), self.now) {
            Err(Shut::Busy) => {
                self.waiting.entry(ticket).and_modify(|command| command.blocked = true);
            }
            Err(Shut::Revoked(_)) => self.ends(ticket),
            Ok(entered) => {
                assert!(self.lives(message.session), "S2: {message:?} entered for a session that is gone");
                for name in message.what.turning() {
                    let late = self.answered.get(name).is_some_and(|of| ticket < *of);
                    assert!(!late, "s94: {message:?} entered after an answered Stop");
                    assert!(
                        self.passed.get(name).is_none_or(|passed| *passed <= ticket),
                        "s91: {message:?} entered late"
                    );
                    self.passed.insert(name, ticket);
                    self.moving.insert(name, Motion { ticket, session: message.session, number: message.number });
                }
                assert!(!command.over, "s89, s94: {message:?} entered after it was given up or stopped");
                if let Some(number) = message.number {
                    assert!(self.written.insert((message.session, number)), "s90: {message:?} was written twice");
                }
                self.waiting.remove(&ticket);
                self.inside.insert(ticket, (entered, command));
            }
        }
    }

    fn leaves(&mut self, ticket: Ticket) {
        let (entered, command) = self.inside.remove(&ticket).expect("it is inside");
        let Message { session, number, .. } = command.message;
        // At the worst its driver obeys at the very end, whatever was stopped meanwhile.
        for name in command.message.what.turning() {
            self.moving.insert(name, Motion { ticket, session, number });
        }
        self.machine.leave(entered, self.now);
        self.ends(ticket);
        self.unblock();
    }

    fn ends(&mut self, ticket: Ticket) {
        self.waiting.remove(&ticket);
        self.machine.done(ticket, self.now);
    }

    fn unblock(&mut self) {
        self.waiting.values_mut().for_each(|command| command.blocked = false);
    }

    fn expires(&mut self, id: SessionId) {
        let Some(until) = self.until.get(&id).copied().filter(|until| *until > self.now) else { return };
        // Everybody else is heard of just before.
        self.now = until - Duration::from_micros(1);
        self.machine.handle_timeout(self.now);
        assert!(self.machine.is_live(id), "S5: the lease of {id} ended early");
        for other in self.until.keys().copied().filter(|other| *other != id).collect::<Vec<_>>() {
            if self.lives(other) {
                self.machine.keep(other, self.now);
                self.until.insert(other, self.now + W);
            }
        }
        self.now = until;
        self.machine.handle_timeout(self.now);
        assert!(!self.machine.is_live(id), "S1: the lease of {id} is over and did not end");
        for command in self.waiting.values_mut().filter(|command| command.message.session == id) {
            command.over = true;
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.machine.poll_output(self.now) {
            match output {
                MachineOutput::Stop { id, resource, .. } => {
                    for name in What::Stop(resource).turning() {
                        if let Some(motion) = self.moving.get(name) {
                            let stopped = self
                                .asked
                                .iter()
                                .any(|(of, what)| *of > motion.ticket && what.turning().contains(&name));
                            let key = motion.number.map(|number| (motion.session, number));
                            let given_up = key.is_some_and(|key| self.given_up.contains(&key));
                            let preempted = self.passed.get(name).is_some_and(|passed| *passed > motion.ticket);
                            assert!(
                                !self.lives(motion.session) || stopped || given_up || preempted,
                                "S7: {resource} is stopped while {:?} drives it",
                                motion.session
                            );
                        }
                    }
                    self.stops.insert(id, resource);
                }
                MachineOutput::StopDone { of, failed } => {
                    assert_eq!(failed, [""; 0], "no driver failed");
                    let what = self.asked.get(&of).expect("it was asked for");
                    for name in what.turning() {
                        let busy = self.inside.values().any(|(_, c)| c.message.what.turning().contains(&name))
                            || self.stops.values().any(|r| What::Stop(r).turning().contains(&name));
                        let before = self.moving.get(name).is_some_and(|motion| motion.ticket < of);
                        assert!(!before || busy, "s94: {name} turns although its Stop was answered");
                        self.answered.entry(name).and_modify(|last| *last = (*last).max(of)).or_insert(of);
                    }
                }
                _ => {}
            }
        }
    }

    fn check(&self) {
        for (id, until) in &self.until {
            assert_eq!(self.machine.is_live(*id), *until > self.now, "S3: {id}");
        }
        for (name, motion) in &self.moving {
            let busy = self.inside.values().any(|(_, c)| c.message.what.turning().contains(name))
                || self.stops.values().any(|r| What::Stop(r).turning().contains(name));
            let late = self.answered.get(name).is_some_and(|of| motion.ticket < *of);
            assert!(!late || busy, "s94: {name} turns although its Stop was answered");
            assert!(
                self.lives(motion.session) || busy,
                "S1: {name} turns for a session that is gone, and nothing stops it"
            );
        }
    }

    /// Everything that was under way comes to its end, then every session does.
    pub fn end(&mut self) {
        for id in self.until.keys().copied().collect::<Vec<_>>() {
            self.apply(Event::Expires(id));
        }
        while let Some(event) = self.possible().into_iter().find(|e| matches!(e, Event::Returns(_) | Event::Leaves(_)))
        {
            self.apply(event);
        }
        assert!(self.moving.is_empty(), "S1: {:?} turns for ever", self.moving);
    }
}
