//! What the program, the network and the machine do.

use super::step::Step;
use super::*;

impl World {
    pub(super) fn apply(&mut self, step: &Step) {
        // What is over is over before anything else.
        self.client.handle_timeout(self.now);
        self.drain();
        let now = self.now;
        match *step {
            Step::Issue(kind, component) => self.issue(kind, COMPONENTS[component]),
            Step::GiveUp(which) => {
                if let Some(call) = self.motion(which) {
                    self.ended(call);
                    self.client.give_up(call, now);
                }
            }
            Step::Answer(which, how) => self.answer(which, how),
            Step::Stopped(which, ok) => self.stopped(which, ok),
            Step::Started(window, same) => self.started(Duration::from_millis(window), same),
            Step::NotStarted(why) => {
                if let Some((attempt, ..)) = self.starting.take() {
                    let why = [StartError::Unsupported, StartError::Unreachable, StartError::Refused][why];
                    self.client.handle_started(attempt, Err(why), now);
                }
            }
            Step::Beaten(which, how) => self.beaten(which, how),
            Step::Link(which, state) => self.link(which, state),
            Step::NoRoute(swapping) => {
                self.links.values_mut().filter(|s| **s == LinkState::Primary).for_each(|s| *s = LinkState::Draining);
                self.client.handle_no_route(swapping, now);
            }
            Step::Hedge(on) => {
                self.hedge = on.map(|on| self.named[on]).filter(|on| self.links.contains_key(on));
                if self.hedge.is_some() {
                    self.doubted.get_or_insert(now);
                }
                self.client.handle_hedge(on.map(|on| self.named[on]), now);
            }
            Step::Validate(which) => {
                let link = self.named[which];
                self.links.entry(link).or_insert(LinkState::Standby);
                self.validating = Some(link);
                self.client.validate(link, now);
            }
            Step::Alive => {
                self.alive = Some(now);
                self.client.alive(now);
            }
            Step::Answering(which) => {
                let link = self.named[which];
                if self.primary() == Some(link) {
                    self.proven = Some(now);
                }
                self.client.handle_answering(link, now);
            }
            Step::Pass(time) => self.pass(Duration::from_millis(time)),
            Step::Stall(time) => self.now += Duration::from_millis(time),
            Step::Close => {
                self.closed = true;
                self.client.close(now);
            }
        }
        self.drain();
        self.validating = None;
    }

    fn issue(&mut self, kind: usize, component: &'static str) {
        let kind = [Kind::Motion, Kind::Stream, Kind::Stop, Kind::StopAll][kind];
        let stops = matches!(kind, Kind::Stop | Kind::StopAll);
        let component = (kind != Kind::StopAll).then_some(component);
        self.alive = Some(self.now);
        if stops {
            // Whatever was issued before it on its component is not sent any more; whether it is listed, its failure says.
            let before =
                self.calls.iter().filter(|(_, c)| !c.stops && (component.is_none() || c.component == component));
            self.over.extend(before.map(|(call, _)| *call));
        }
        let until = self.now + self.client.session().map_or(WINDOW, |(_, window)| window);
        let call = self.client.issue(component.unwrap_or_default(), kind, self.now);
        let (number, sent, failed, kept, letter, out) = (None, 0, false, false, None, BTreeSet::new());
        assert!(self.calls.keys().next_back().is_none_or(|last| *last < call), "calls have an order");
        self.calls.insert(call, Issued { component, stops, number, sent, failed, kept, letter, until, out });
    }

    /// The program waits for it no more, or has its answer.
    pub(super) fn ended(&mut self, call: Call) {
        self.calls.remove(&call);
        self.over.insert(call);
    }

    fn motion(&self, which: usize) -> Option<Call> {
        self.calls.iter().filter(|(_, issued)| !issued.stops).map(|(call, _)| *call).nth(which)
    }

    fn answer(&mut self, which: usize, how: usize) {
        let Some(call) = self.motion(which).filter(|call| self.calls[call].sent > 0) else { return };
        let told = BTreeSet::from(["arm"]);
        let answer = [Answer::Done, Answer::NotRun, Answer::Lost, Answer::Expired(None), Answer::Expired(Some(told))];
        let answer = answer[how].clone();
        if matches!(answer, Answer::Expired(_)) {
            // It is sent once more under another session, or fails.
            self.calls.entry(call).and_modify(|issued| issued.number = None);
        } else {
            self.ended(call);
        }
        self.client.handle_answer(call, answer, self.now);
    }

    fn stopped(&mut self, which: usize, ok: bool) {
        let copies = self.calls.iter().filter(|(_, i)| i.stops).flat_map(|(c, i)| i.out.iter().map(|link| (*c, *link)));
        let copies: Vec<_> = copies.collect();
        let Some((call, link)) = copies.get(which % copies.len().max(1)).copied() else { return };
        self.calls.entry(call).and_modify(|issued| {
            issued.out.remove(&link);
        });
        self.client.handle_stopped(call, link, ok, self.now);
    }

    fn started(&mut self, window: Duration, same: bool) {
        let Some((attempt, asked, resume)) = self.starting.take() else { return };
        self.ids += 1;
        let id = resume.filter(|_| same).unwrap_or(SessionId(self.ids));
        let started = Started { id, window, ordered: self.ordered };
        let until = asked + window;
        self.client.handle_started(attempt, Ok(started), self.now);
        if self.session.as_ref().is_some_and(|old| old.id != id) {
            (self.doubted, self.hedge) = (None, None);
            (self.owed, self.proven) = (None, None);
        }
        self.session = (until > self.now).then_some(Session { id, window, until });
        if self.session.is_none() {
            (self.owed, self.proven) = (None, None);
        }
    }

    fn beaten(&mut self, which: usize, how: usize) {
        let Some((attempt, (left, id, link))) = self.beats.iter().nth(which).map(|(a, b)| (*a, *b)) else { return };
        self.beats.remove(&attempt);
        let result = match how {
            0 => Ok(()),
            1 => Err(BeatError::Unanswered),
            2 => Err(BeatError::Expired(None)),
            _ => Err(BeatError::Expired(Some(BTreeSet::from(["arm"])))),
        };
        let told = result != Err(BeatError::Unanswered);
        self.ending.take_if(|(_, last)| told && *last == Some(attempt));
        if let Some(session) = self.session.as_mut().filter(|session| session.id == id && result.is_ok()) {
            session.until = session.until.max(left + session.window);
            if self.links.get(&link) == Some(&LinkState::Primary) {
                let later =
                    self.beats.values().filter(|(at, _, on)| *on == link && *at > left).map(|(at, ..)| *at).min();
                self.proven = Some(self.now);
                self.owed = later.or(self.owed.filter(|since| *since > left));
                if self.hedge.is_none() {
                    self.doubted = None;
                }
            }
        }
        self.client.handle_beat(attempt, result, self.now);
    }

    fn link(&mut self, which: usize, state: usize) {
        let link = self.named[which];
        let state = [LinkState::Primary, LinkState::Standby, LinkState::Draining, LinkState::Gone][state];
        match state {
            LinkState::Primary => {
                let other = |(l, s): &(&Link, &mut LinkState)| **l != link && **s == LinkState::Primary;
                self.links.iter_mut().filter(other).for_each(|(_, s)| *s = LinkState::Draining);
                if self.links.insert(link, state) != Some(LinkState::Primary) {
                    (self.doubted, self.hedge) = (None, None);
                    (self.owed, self.proven) = (None, None);
                }
            }
            LinkState::Gone => self.gone(link),
            state => drop(self.links.insert(link, state)),
        }
        self.client.handle_link(link, state, self.now);
    }

    pub(super) fn gone(&mut self, link: Link) {
        self.links.remove(&link);
        for issued in self.calls.values_mut() {
            issued.out.remove(&link);
        }
        self.hedge = self.hedge.filter(|hedge| *hedge != link);
        if let Some(named) = self.named.iter_mut().find(|named| **named == link) {
            self.last_link += 1;
            *named = Link(self.last_link);
        }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some((at, _)) = self.client.poll_timeout().filter(|(at, _)| *at <= until) {
            self.now = self.now.max(at);
            self.client.handle_timeout(self.now);
            self.drain();
            self.check();
        }
        self.now = until;
    }
}
