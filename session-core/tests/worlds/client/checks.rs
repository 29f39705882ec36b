//! What the client says, and what must hold of it.

use super::*;

impl World {
    pub(super) fn drain(&mut self) {
        let mut ended = None;
        while let Some(output) = self.client.poll_output() {
            match output {
                ClientOutput::Start { attempt, resume } => {
                    assert!(self.primary().is_some() && !self.closed, "StartSession without a route or a program");
                    // One that was to be resumed, and is over meanwhile, is not waited for.
                    let over = |(_, _, old): (_, _, Option<_>)| old.is_some() && resume.is_none();
                    assert!(self.starting.is_none_or(over), "two sessions are asked for at once");
                    assert!(self.ending.is_none(), "a session is asked for while the last one may live on");
                    self.starting = Some((attempt, self.now, resume));
                }
                ClientOutput::Beat { attempt, link, letter } => self.beat(attempt, link, &letter),
                ClientOutput::Send { call, letter } => self.send(call, letter.as_ref()),
                ClientOutput::SendStop { call, link, letter } => self.send_stop(call, link, letter),
                ClientOutput::StopDone(call) => {
                    let issued = self.calls.get_mut(&call).expect("a Stop is done once");
                    assert!(issued.sent > 0, "a Stop that never left was answered");
                    issued.number = None;
                }
                ClientOutput::Abort(link) => {
                    self.gone(link);
                    self.client.handle_link(link, LinkState::Gone, self.now);
                }
                ClientOutput::Fail { call, why } => self.fail(call, &why),
                ClientOutput::Event(Event::Stopped(_)) => ended = self.calls.keys().next_back().copied(),
                ClientOutput::Event(Event::Lapsed { id }) => self.ending = self.ordered.then_some((id, None)),
                ClientOutput::Event(Event::Started { .. } | Event::TooSlow(_)) => {}
            }
        }
        let held = self.client.session().map(|(id, _)| id);
        if self.session.take_if(|session| held != Some(session.id)).is_some() {
            (self.doubted, self.hedge) = (None, None);
            (self.owed, self.proven) = (None, None);
        }
        // Nothing resumes by itself: what was there when something was stopped has failed.
        if let Some(last) = ended.filter(|_| !self.resume_motion) {
            let left = self.calls.range(..=last).find(|(_, issued)| !issued.stops);
            assert!(left.is_none(), "{:?} outlived a lapse of something that moved", left.map(|(call, _)| call));
        }
    }

    /// A message of the session: it lives, and its order is newer than everything before it, names who waits, and nobody else.
    fn message(&mut self, letter: &Letter) -> Option<u64> {
        let session = self.client.session().map(|(id, _)| id).or(self.session.as_ref().map(|session| session.id));
        let ending = self.ending.map(|(id, _)| id);
        let fits = [session, ending].contains(&Some(letter.session));
        assert!(fits || self.closed, "a message of a session that is over");
        let order = letter.order.as_ref()?;
        assert!(self.ordered, "an order for a machine that takes none");
        let waiting: BTreeSet<_> = self.calls.values().filter_map(|issued| issued.number).collect();
        // A Stop that found no link has its number all the same.
        let unseen = self.calls.values().filter(|issued| issued.stops && issued.sent == 0 && !issued.failed).count();
        let late = waiting.range(order.number..).count();
        let more = order.open.difference(&waiting).count();
        let less = waiting.difference(&order.open).count();
        assert!(more <= unseen && less == late, "{order:?} does not say who waits: {waiting:?}");
        assert!(order.open.len() <= Order::MAX_OPEN);
        assert_eq!(order.to_string().parse().as_ref(), Ok(order), "its text says the same");
        Some(order.number)
    }

    /// Commands and beats leave in the order of their numbers.
    fn newest(&mut self, number: Option<u64>) {
        if let Some(number) = number {
            assert!(number > self.highest, "number {number} came after {}", self.highest);
            assert!(self.used.insert(number), "a number twice");
            self.highest = number;
        }
    }

    fn beat(&mut self, attempt: Attempt, link: Link, letter: &Letter) {
        let number = self.message(letter);
        self.newest(number);
        let end = letter.order.as_ref().is_some_and(|order| order.end);
        assert!(!self.closed || end, "a beat for a program that has left");
        if let Some((_, last)) = self.ending.as_mut().filter(|(id, _)| *id == letter.session) {
            assert!(end, "a beat for a session that has lapsed");
            *last = Some(attempt);
        }
        assert!(end || self.counts_as_alive(), "a beat for a program that says nothing");
        if Some(link) == self.primary() {
            // One that ends a session that lapsed keeps none.
            self.owed = self.owed.or((!end).then_some(self.now));
        } else if self.validating != Some(link) {
            let window = self.client.session().expect("a session").1;
            let soon = |since: Instant| self.now - since <= window / 2;
            let late = self.primary().and(self.owed).max(self.owed.and(self.proven));
            let hedged = self.hedge == Some(link) && self.doubted.is_some_and(soon);
            let beside = self.links.get(&link) == Some(&LinkState::Standby) && late.is_some_and(soon);
            assert!(
                hedged || beside,
                "a beat on a path without commands: doubted since {:?}, {late:?} unanswered",
                self.doubted
            );
        }
        self.beats.insert(attempt, (self.now, letter.session, link));
    }

    fn send(&mut self, call: Call, letter: Option<&Letter>) {
        assert!(self.primary().is_some() && !self.closed, "a command without a route or a program");
        assert!(!self.over.contains(&call), "{call:?} was sent although it is over");
        let number = letter.and_then(|letter| self.message(letter));
        self.newest(number);
        let component = self.calls.get(&call).expect("it was issued").component;
        let overtakes = self.calls.iter().find(|(_, stop)| {
            stop.stops
                && !stop.failed
                && stop.until > self.now
                && stop.letter.as_ref().is_none_or(|letter| letter.order.is_none())
                && stop.out.iter().any(|link| self.links.contains_key(link))
                && (stop.component.is_none() || stop.component == component)
        });
        assert!(overtakes.is_none(), "{call:?} overtakes {:?}", overtakes.map(|(stop, _)| stop));
        let issued = self.calls.get_mut(&call).expect("it was issued");
        issued.sent += 1;
        assert!(issued.sent <= 2, "{call:?} was sent {} times", issued.sent);
        issued.number = number;
    }

    fn send_stop(&mut self, call: Call, link: Link, letter: Option<Letter>) {
        assert!(self.links.contains_key(&link), "a Stop on a link that is gone");
        let known = self.calls.get(&call).expect("it was issued").letter.clone();
        let numbered = known.as_ref().is_some_and(|letter| letter.order.is_some());
        let fresh = letter.as_ref().filter(|letter| letter.order.is_some() && !numbered);
        let number = if self.calls[&call].kept {
            // What it says was so when it was issued.
            fresh.and_then(|letter| letter.order.as_ref()).map(|order| order.number)
        } else {
            fresh.and_then(|letter| self.message(letter))
        };
        assert!(number.is_none_or(|number| self.used.insert(number)), "a number twice");
        self.highest = self.highest.max(number.unwrap_or(0));
        let issued = self.calls.get_mut(&call).expect("it was issued");
        if numbered {
            assert_eq!(known, letter, "a Stop's copies are the same");
        } else {
            if number.is_some() {
                // What it sent before it had a number counts no more.
                issued.out.clear();
                issued.number = number;
            }
            issued.letter = letter;
        }
        issued.sent += 1;
        issued.out.insert(link);
    }

    fn fail(&mut self, call: Call, why: &Failure<&'static str>) {
        let Some(issued) = self.calls.get_mut(&call) else { panic!("{call:?} fails and was over: {why:?}") };
        if issued.stops {
            // One that found no link is kept for one that comes in time; its failure may be said again.
            issued.failed = !matches!(why, Failure::NotConnected { .. });
            issued.kept |= !issued.failed;
            if issued.failed {
                issued.number = None;
            }
        } else {
            self.ended(call);
        }
    }

    pub(super) fn check(&mut self) {
        self.client.handle_timeout(self.now);
        self.drain();
        if let Some(session) = &self.session {
            assert!(session.until > self.now, "the client holds {} longer than it may live", session.id);
        }
        let next = self.client.poll_timeout();
        assert!(next.is_none_or(|(at, _)| at > self.now), "{next:?} was due and is still pending");
    }

    /// The program leaves and nobody answers any more: every Stop ends, nothing is sent or pending.
    pub(super) fn end(&mut self) {
        self.client.handle_timeout(self.now);
        self.drain();
        self.closed = true;
        self.client.close(self.now);
        self.drain();
        assert!(self.calls.values().all(|issued| issued.stops), "a call outlived its program");
        self.pass(LONGEST + Duration::from_secs(1));
        assert!(self.client.session().is_none(), "a session outlived its program");
        assert_eq!(self.client.poll_timeout(), None, "something is pending for ever");
    }
}
