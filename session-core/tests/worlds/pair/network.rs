//! What travels, and when it arrives.

use super::*;

impl World {
    pub(super) fn send(&mut self, link: Link, to_machine: bool, message: Message) {
        let Some(path) = self.paths.iter_mut().find(|path| path.link == link) else { return };
        if path.swallows {
            path.swallowed.push((to_machine, message));
            return;
        }
        if std::mem::take(&mut path.loses[usize::from(to_machine)]) {
            self.trouble = self.now;
            return;
        }
        let copies = if to_machine && is_numbered(&message) && std::mem::take(&mut path.repeats) { 2 } else { 1 };
        for _ in 0..copies {
            self.sent += 1;
            // Different from message to message, and the same in every replay.
            let late = self.sent.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
            let arrives = self.now + path.delay + Duration::from_millis(late % (self.jitter + 1));
            self.travelling.insert((arrives, self.sent), (link, to_machine, message.clone()));
        }
    }

    /// Lets time pass, everything in its order. Who is stalled (client, machine) hears of everything at its end.
    pub(super) fn pass(&mut self, time: Duration, stalled: [bool; 2]) {
        let end = self.now + time;
        self.stalled = stalled;
        loop {
            self.settle();
            let arrival = self.travelling.keys().next().map(|(at, _)| *at);
            let client = self.client.poll_timeout().map(|(at, _)| self.machine_clock(at));
            let client = client.filter(|_| self.alive && !stalled[0]);
            let machine = self.machine.poll_timeout().map(|(at, _)| at).filter(|_| !stalled[1]);
            let Some(next) = [arrival, client, machine].into_iter().flatten().min().filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(next);
            if arrival.is_some_and(|at| at <= self.now) {
                if let Some(((_, number), (link, to_machine, message))) = self.travelling.pop_first() {
                    if stalled[usize::from(to_machine)] {
                        self.travelling.insert((end + Duration::from_nanos(1), number), (link, to_machine, message));
                    } else {
                        self.arrive(link, to_machine, message);
                    }
                }
            } else {
                if client.is_some_and(|at| at <= self.now) {
                    self.client.handle_timeout(self.there());
                }
                if !stalled[1] {
                    self.machine.handle_timeout(self.now);
                    self.settle();
                    self.check_holders();
                }
            }
        }
        self.now = end;
        self.stalled = [false; 2];
        if stalled != [false; 2] {
            // What waited comes before the timers.
            self.trouble = self.now;
            self.woke = if stalled[1] { self.now } else { self.woke };
            while self.travelling.keys().next().is_some_and(|(at, _)| *at <= end + Duration::from_nanos(1)) {
                if let Some((_, (link, to_machine, message))) = self.travelling.pop_first() {
                    self.arrive(link, to_machine, message);
                    self.settle();
                }
            }
        }
        self.machine.handle_timeout(self.now);
        if self.alive {
            self.client.handle_timeout(self.there());
        }
        self.settle();
        self.check();
    }

    pub(super) fn settle(&mut self) {
        self.notice_lapse();
        loop {
            if self.alive
                && !self.stalled[0]
                && let Some(output) = self.client.poll_output()
            {
                self.client_says(output);
            } else if !self.stalled[1]
                && let Some(output) = self.machine.poll_output()
            {
                self.machine_says(output);
            } else if self.stalled[1] || !self.enter_waiting() {
                return;
            }
        }
    }

    pub(super) fn arrive(&mut self, link: Link, to_machine: bool, message: Message) {
        if !to_machine && !self.alive {
            return;
        }
        let now = self.now;
        match message {
            Message::Start(attempt, resume) => {
                self.next_session += 1;
                if let Ok(started) = self.machine.start(SessionId(self.next_session), resume, OWNER, now) {
                    let started = Started { id: started.id, window: started.window, ordered: self.ordered };
                    self.leases.insert(started.id, now + W);
                    self.send(link, false, Message::Started(attempt, started));
                }
            }
            Message::Beat(attempt, letter) => {
                let result = self.machine.beat(letter.session, &OWNER, letter.order.as_ref(), now);
                let lived = self.leases.get(&letter.session).is_some_and(|until| *until > now);
                assert!(lived || result.is_err(), "a late beat was answered");
                if result.is_ok() {
                    self.leases.insert(letter.session, now + W);
                }
                let told = |NoSession(tombstone): NoSession<_>| BeatError::Expired(tombstone.map(|t| t.stopped));
                self.send(link, false, Message::Beaten(attempt, result.map_err(told)));
            }
            Message::Motion(call, letter) => self.motion_arrives(link, call, letter.as_ref()),
            Message::Stop(call, letter, copy) => self.stop_arrives(link, call, letter.as_ref(), copy),
            Message::Started(attempt, started) => self.client.handle_started(attempt, Ok(started), self.there()),
            Message::Beaten(attempt, result) => {
                if result.is_ok() && link == self.paths[self.primary].link {
                    self.proven(attempt);
                } else {
                    self.asked.remove(&attempt);
                }
                self.client.handle_beat(attempt, result, self.there())
            }
            Message::Answered(call, answer) => {
                if !matches!(answer, Answer::Expired(_)) {
                    self.open.remove(&call);
                }
                self.client.handle_answer(call, answer, self.there());
            }
            Message::Stopped(call, ok, copy) => {
                if self.copy.get(&(call, link)) == Some(&copy) {
                    self.client.handle_stopped(call, link, ok, self.there());
                }
            }
        }
    }
}
