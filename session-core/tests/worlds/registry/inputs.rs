//! What happens to the machine, and what the reference makes of it.

use super::*;

impl World {
    pub(super) fn apply(&mut self, event: &Event) {
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

    pub(super) fn incoming<'a>(
        &self,
        (sid, owner): (Option<SessionId>, &'a Owner),
        monitored: bool,
        resource: &'static str,
        order: Option<&'a Order>,
    ) -> Incoming<'a, &'static str> {
        let otherwise = Holder::Connection(Connection(self.connection));
        Incoming { sid, owner, otherwise, monitored, resource, order, digest: resource.len() as u64 }
    }

    pub(super) fn start(&mut self, owner: Owner, resume: Option<usize>) {
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

    pub(super) fn beat(&mut self, session: usize, foreign: bool, order: Option<Order>) {
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

    pub(super) fn admit(
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

    pub(super) fn stop(
        &mut self,
        who: (Option<SessionId>, Owner),
        resource: &'static str,
        order: Option<Order>,
        all: bool,
    ) {
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

    pub(super) fn claim(&mut self, resource: &'static str) {
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
    pub(super) fn take_over(&mut self, name: &'static str) {
        if let (Some(motion), Some(passed)) = (self.moving.get_mut(name), self.passed.get(name))
            && motion.ticket < passed.ticket
        {
            *motion = *passed;
        }
    }

    pub(super) fn call(&self, call: usize) -> Option<Ticket> {
        self.calls.keys().rev().nth(call).copied()
    }

    pub(super) fn enter(&mut self, call: usize, part: bool) {
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

    pub(super) fn leave(&mut self, which: usize) {
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

    pub(super) fn returned(&mut self, stop: usize, fails: bool) {
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

    pub(super) fn remove(&mut self) {
        if self.arm {
            self.arm = false;
            self.shut_arm();
            self.registry.remove(&"arm", self.now);
        }
    }

    pub(super) fn shut_arm(&mut self) {
        let latest = self.calls.keys().next_back().max(self.shut.get("arm")).copied();
        let latest = latest.max(self.passed.get("arm").map(|passed| passed.ticket));
        self.shut.extend(latest.map(|latest| ("arm", latest)));
    }

    pub(super) fn pass(&mut self, time: Duration) {
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
}
