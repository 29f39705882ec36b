//! The client's half of a session (statements 30 to 40, 90, 94).

#![allow(clippy::disallowed_methods, reason = "any beginning of time will do")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use session_core::SessionId;
use session_core::client::{
    Answer, Attempt, BeatError, Call, ClientOptions, ClientOutput as Out, ClientSession, Event, Failure, Kind, Letter,
    Link, LinkState, MAX_OPEN, StartError, Started,
};

const W: Duration = Duration::from_secs(2);
const A: Link = Link(1);
const B: Link = Link(2);
const ID: SessionId = SessionId(7);

struct Rig {
    client: ClientSession<&'static str>,
    now: Instant,
    seen: Vec<Out<&'static str>>,
}

impl Rig {
    fn new(options: ClientOptions) -> Self {
        Self { client: ClientSession::new(options, 0xaa), now: Instant::now(), seen: Vec::new() }
    }

    /// Connected over A.
    fn connected() -> Self {
        let mut rig = Self::new(ClientOptions::default());
        rig.client.handle_link(A, LinkState::Primary, rig.now);
        rig
    }

    /// With a session; `ordered`: with a machine of ours. One call on m1 was answered.
    fn live(ordered: bool) -> Self {
        let mut rig = Self::connected();
        let call = rig.motion("m1");
        rig.start(ordered);
        rig.client.handle_answer(call, Answer::Done, rig.now);
        rig.take();
        rig
    }

    fn start(&mut self, ordered: bool) {
        let attempt = self.starts().pop().expect("StartSession was sent").0;
        let started = Started { id: ID, window: W, ordered };
        self.client.handle_started(attempt, Ok(started), self.now);
    }

    fn motion(&mut self, component: &'static str) -> Call {
        self.client.issue(component, Kind::Motion, self.now)
    }

    fn take(&mut self) -> Vec<Out<&'static str>> {
        self.drain();
        std::mem::take(&mut self.seen)
    }

    fn drain(&mut self) {
        while let Some(output) = self.client.poll_output() {
            self.seen.push(output);
        }
    }

    fn starts(&mut self) -> Vec<(Attempt, Option<SessionId>)> {
        self.drain();
        let start = |o: &Out<_>| if let Out::Start { attempt, resume } = o { Some((*attempt, *resume)) } else { None };
        self.seen.iter().filter_map(start).collect()
    }

    fn sent(&mut self) -> Vec<(Call, Option<Letter>)> {
        self.drain();
        let sent = |o: &Out<_>| if let Out::Send { call, letter } = o { Some((*call, letter.clone())) } else { None };
        self.seen.iter().filter_map(sent).collect()
    }

    fn beats(&mut self) -> Vec<(Attempt, Link, Letter)> {
        self.drain();
        let beat = |o: &Out<_>| match o {
            Out::Beat { attempt, link, letter } => Some((*attempt, *link, letter.clone())),
            _ => None,
        };
        self.seen.iter().filter_map(beat).collect()
    }

    fn failed(&mut self) -> Vec<(Call, Failure<&'static str>)> {
        self.drain();
        let failed = |o: &Out<_>| if let Out::Fail { call, why } = o { Some((*call, why.clone())) } else { None };
        self.seen.iter().filter_map(failed).collect()
    }

    /// Lets time pass, answering every beat.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((at, _)) = self.client.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.client.handle_timeout(self.now);
            let beats = self.beats();
            for (attempt, _, _) in beats {
                self.client.handle_beat(attempt, Ok(()), self.now);
            }
        }
        self.now = end;
    }

    /// Lets time pass without any answer.
    fn pass_silently(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((at, _)) = self.client.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.client.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }
}

fn open(letter: &Option<Letter>) -> Vec<u64> {
    letter.as_ref().and_then(|l| l.order.as_ref()).map(|o| o.open.iter().copied().collect()).unwrap_or_default()
}

fn number(letter: &Option<Letter>) -> Option<u64> {
    letter.as_ref().and_then(|l| l.order.as_ref()).map(|o| o.number)
}

#[test]
fn s30_a_session_starts_before_the_first_monitored_call() {
    let mut rig = Rig::connected();
    rig.pass(W * 3);
    assert_eq!(rig.take(), [], "nothing is asked for before it is needed");
    let call = rig.motion("m1");
    assert_eq!(rig.starts().len(), 1);
    assert_eq!(rig.sent(), []);
    rig.start(false);
    assert_eq!(rig.sent(), [(call, Some(Letter { session: ID, order: None }))]);
}

#[test]
fn s31_a_hundred_first_calls_start_one_session() {
    let mut rig = Rig::connected();
    for _ in 0..100 {
        rig.motion("m1");
    }
    assert_eq!(rig.starts().len(), 1);
    rig.start(false);
    assert_eq!(rig.sent().len(), 100);
}

#[test]
fn s32_beats_leave_every_fifth_of_the_window() {
    for window in [W, Duration::from_secs(5)] {
        let mut rig = Rig::connected();
        rig.motion("m1");
        let attempt = rig.starts().pop().expect("StartSession was sent").0;
        rig.client.handle_started(attempt, Ok(Started { id: ID, window, ordered: true }), rig.now);
        rig.take();
        // The call is not answered for a minute, and the program does nothing else.
        let (begin, mut last) = (rig.now, rig.now);
        let mut in_seven = 0;
        while rig.now - begin < Duration::from_secs(60) {
            let (at, _) = rig.client.poll_timeout().expect("a beat is due");
            rig.now = at;
            rig.client.handle_timeout(at);
            for (attempt, _, _) in rig.beats() {
                let gap = at - last;
                assert!(
                    gap >= window * 4 / 25 && gap <= window * 6 / 25,
                    "{gap:?} between beats at a window of {window:?}"
                );
                in_seven += u32::from(at - begin <= Duration::from_secs(7));
                last = at;
                rig.client.handle_beat(attempt, Ok(()), at);
            }
            rig.take();
        }
        assert!(in_seven >= 5);
    }
}

#[test]
fn s33_a_machine_without_sessions_is_driven_without() {
    let mut rig = Rig::connected();
    let first = rig.motion("m1");
    let attempt = rig.starts()[0].0;
    rig.client.handle_started(attempt, Err(StartError::Unsupported), rig.now);
    let second = rig.motion("m1");
    assert_eq!(rig.sent(), [(first, None), (second, None)]);
    assert_eq!(rig.starts().len(), 1);
}

#[test]
fn s35_where_nothing_was_held_it_restarts_and_tries_once() {
    let mut rig = Rig::connected();
    let call = rig.motion("m1");
    rig.start(true);
    rig.take();
    rig.client.handle_answer(call, Answer::Expired(None), rig.now);
    rig.start(true);
    assert_eq!(rig.sent().len(), 1);
    rig.client.handle_answer(call, Answer::Expired(None), rig.now);
    assert_eq!(rig.failed(), [(call, Failure::Expired)], "no loop");
}

/// The seed of a schedule: the session was over, a base was stopped, and the command for one of its wheels was tried again after that.
#[test]
fn s94_a_call_whose_session_was_gone_is_not_tried_again_after_a_stop_of_anything() {
    let mut rig = Rig::connected();
    let call = rig.motion("left");
    rig.start(true);
    rig.client.issue("base", Kind::Stop, rig.now);
    rig.take();
    rig.client.handle_answer(call, Answer::Expired(None), rig.now);
    assert_eq!(rig.failed(), [(call, Failure::Superseded)]);
    assert_eq!(rig.sent(), []);
}

#[test]
fn after_a_lapse_nothing_resumes_by_itself() {
    let mut rig = Rig::live(true);
    let call = rig.motion("m2");
    rig.take();
    rig.client.handle_answer(call, Answer::Expired(Some(BTreeSet::from(["m1"]))), rig.now);
    let failed = rig.failed();
    let [(failed, Failure::Stopped(stopped))] = &failed[..] else { panic!("{failed:?}") };
    assert_eq!((*failed, &stopped.what, stopped.told), (call, &BTreeSet::from(["m1"]), true));
    assert_eq!(rig.starts(), []);
    rig.motion("m1");
    assert_eq!(rig.starts().len(), 1, "a call that is issued later may move again");
}

#[test]
fn s36_a_window_of_nothing_neither_spins_nor_sends_an_id() {
    let mut rig = Rig::connected();
    let call = rig.motion("m1");
    let attempt = rig.starts()[0].0;
    rig.client.handle_started(attempt, Ok(Started { id: ID, window: Duration::ZERO, ordered: true }), rig.now);
    assert_eq!(rig.sent(), [(call, None)]);
    assert_eq!(rig.client.poll_timeout(), None);
}

#[test]
fn s37_after_a_beat_that_failed_the_next_call_resumes_first() {
    let mut rig = Rig::live(false);
    rig.pass_silently(W / 5);
    let beat = rig.beats()[0].0;
    rig.client.handle_beat(beat, Err(BeatError::Unanswered), rig.now);
    rig.take();
    let call = rig.motion("m1");
    assert_eq!(rig.starts()[0].1, Some(ID));
    assert_eq!(rig.sent(), []);
    rig.start(false);
    assert_eq!(rig.sent().len(), 1);
    rig.client.handle_answer(call, Answer::Done, rig.now);
    assert_eq!(rig.failed(), []);
}

#[test]
fn s37_another_id_back_is_a_lapse() {
    let mut rig = Rig::live(false);
    rig.pass_silently(W / 5);
    let beat = rig.beats()[0].0;
    rig.client.handle_beat(beat, Err(BeatError::Unanswered), rig.now);
    rig.take();
    let call = rig.motion("m2");
    let attempt = rig.starts()[0].0;
    let other = Started { id: SessionId(8), window: W, ordered: false };
    rig.client.handle_started(attempt, Ok(other), rig.now);
    assert!(
        matches!(&rig.failed()[..], [(failed, Failure::Stopped(s))] if *failed == call && s.what == BTreeSet::from(["m1"]))
    );
}

#[test]
fn s38_a_new_route_is_beaten_on_before_any_call() {
    let mut rig = Rig::live(true);
    rig.client.handle_no_route(true, rig.now);
    rig.motion("m1");
    assert_eq!(rig.take(), [], "during a swap it waits");
    rig.client.handle_link(B, LinkState::Primary, rig.now);
    let seen = rig.take();
    assert!(matches!(&seen[..], [Out::Beat { link: B, .. }, Out::Send { .. }]), "{seen:?}");
}

#[test]
fn s39_one_rhythm_of_beats_whatever_happens_to_routes() {
    let mut rig = Rig::live(true);
    for round in 0..10 {
        rig.client.handle_link(if round % 2 == 0 { B } else { A }, LinkState::Primary, rig.now);
        rig.pass(W / 5);
    }
    rig.take();
    rig.pass(W);
    assert_eq!(rig.beats().len(), 5);
}

#[test]
fn s51_with_no_route_a_motion_call_fails_at_once() {
    let mut rig = Rig::live(true);
    rig.client.handle_no_route(false, rig.now);
    let call = rig.motion("m1");
    assert!(matches!(&rig.failed()[..], [(failed, Failure::NotConnected { lapses: Some(_) })] if *failed == call));
}

#[test]
fn a_lapse_is_counted_from_the_last_answered_beat() {
    let mut rig = Rig::live(true);
    rig.pass(W);
    rig.take();
    let before = rig.now;
    rig.pass_silently(W + W / 5);
    let seen = rig.take();
    assert!(seen.contains(&Out::Event(Event::Lapsed { id: ID })));
    assert!(rig.now - before >= W);
    let stopped =
        |o: &Out<_>| matches!(o, Out::Event(Event::Stopped(s)) if s.what == BTreeSet::from(["m1"]) && !s.told);
    assert!(seen.iter().any(stopped));
    rig.pass_silently(W * 3);
    assert_eq!(rig.beats(), [], "the id is never beaten again");
}

/// At the machine it may live on: commands extended it whose answers were lost. What is still on its way in it must not run after a Stop, nor in
/// the middle of what comes next.
#[test]
fn s94_a_session_that_lapsed_here_is_ended_at_the_machine_before_there_is_another() {
    let mut rig = Rig::live(true);
    rig.motion("m1");
    rig.pass_silently(W + W / 5);
    let seen = rig.take();
    let lapsed = seen.iter().position(|o| *o == Out::Event(Event::Lapsed { id: ID })).expect("it lapsed");
    let ends = |o: &Out<_>| match o {
        Out::Beat { attempt, letter, .. } if letter.order.as_ref().is_some_and(|o| o.end) => Some(*attempt),
        _ => None,
    };
    let ending = seen[lapsed..].iter().find_map(ends).expect("the machine is told");
    let stop = rig.client.issue("m1", Kind::Stop, rig.now);
    rig.drain();
    let of_old = rig.seen.iter().any(|o| {
        matches!(o, Out::SendStop { call, letter: Some(l), .. } if *call == stop && l.session == ID && l.order.is_some())
    });
    assert!(of_old, "a Stop overtakes what was sent in the session that lapsed");
    rig.motion("m1");
    assert_eq!(rig.starts(), [], "no session while the last one may live on");
    rig.client.handle_beat(ending, Ok(()), rig.now);
    assert_eq!(rig.starts().len(), 1);
}

#[test]
fn a_machine_that_does_not_say_that_the_last_session_ended_gets_no_commands() {
    let mut rig = Rig::live(true);
    rig.pass_silently(W + W / 5);
    rig.take();
    // Over another route it is told again; that route's answer counts.
    rig.client.handle_link(B, LinkState::Primary, rig.now);
    let (ending, link, letter) = rig.beats().pop().expect("the machine is told again");
    assert!(link == B && letter.order.is_some_and(|order| order.end));
    let call = rig.motion("m1");
    rig.client.handle_beat(ending, Err(BeatError::Unanswered), rig.now);
    assert_eq!(rig.failed(), [(call, Failure::NotConnected { lapses: None })]);
    rig.take();
    rig.motion("m1");
    let again = rig.beats().pop().expect("the next call asks again").0;
    rig.client.handle_beat(again, Err(BeatError::Expired(None)), rig.now);
    assert_eq!(rig.starts().len(), 1);
}

#[test]
fn numbers_go_up_and_list_what_is_wanted() {
    let mut rig = Rig::live(true);
    let (one, two) = (rig.motion("m1"), rig.motion("m2"));
    let sent = rig.sent();
    assert_eq!((number(&sent[0].1), open(&sent[0].1)), (Some(2), vec![]));
    assert_eq!((number(&sent[1].1), open(&sent[1].1)), (Some(3), vec![2]));
    rig.client.handle_answer(one, Answer::Done, rig.now);
    rig.client.give_up(two, rig.now);
    let beats = rig.beats();
    assert_eq!((number(&Some(beats[0].2.clone())), open(&Some(beats[0].2.clone()))), (Some(4), vec![]), "told at once");
}

#[test]
fn giving_up_is_told_at_most_once_in_ten_milliseconds_and_never_forgotten() {
    let mut rig = Rig::live(true);
    let calls: Vec<_> = (0..20).map(|_| rig.motion("m1")).collect();
    rig.take();
    for call in calls {
        rig.client.give_up(call, rig.now);
    }
    assert_eq!(rig.beats().len(), 1);
    rig.pass_silently(Duration::from_millis(11));
    let beats = rig.beats();
    assert_eq!(beats.len(), 2);
    assert_eq!(open(&Some(beats[1].2.clone())), Vec::<u64>::new());
}

#[test]
fn no_more_than_64_calls_are_open() {
    let mut rig = Rig::live(true);
    let calls: Vec<_> = (0..MAX_OPEN + 3).map(|_| rig.motion("m1")).collect();
    assert_eq!(rig.sent().len(), MAX_OPEN);
    rig.client.handle_answer(calls[5], Answer::Done, rig.now);
    assert_eq!(rig.sent().len(), MAX_OPEN + 1);
    assert_eq!(rig.sent().last().expect("one").0, calls[MAX_OPEN], "in their order");
}

#[test]
fn s94_a_stop_fails_what_was_issued_before_it_on_its_component() {
    let mut rig = Rig::connected();
    let parked = rig.motion("m1");
    let other = rig.motion("m2");
    let stop = rig.client.issue("m1", Kind::Stop, rig.now);
    assert_eq!(rig.failed(), [(parked, Failure::Superseded)]);
    assert!(rig.seen.iter().any(|o| matches!(o, Out::SendStop { call, link: A, letter: None } if *call == stop)));
    rig.start(true);
    assert_eq!(rig.sent().iter().map(|s| s.0).collect::<Vec<_>>(), [other], "never sent again");
}

#[test]
fn s94_a_stop_goes_on_every_link_and_again_until_it_is_answered() {
    let mut rig = Rig::live(true);
    rig.client.handle_link(B, LinkState::Standby, rig.now);
    let stop = rig.client.issue("m1", Kind::Stop, rig.now);
    let copies = |rig: &mut Rig| -> Vec<(Link, Option<Letter>)> {
        let seen = rig.take();
        seen.into_iter()
            .filter_map(|o| if let Out::SendStop { link, letter, .. } = o { Some((link, letter)) } else { None })
            .collect()
    };
    let first = copies(&mut rig);
    assert_eq!(first.iter().map(|c| c.0).collect::<Vec<_>>(), [A, B]);
    rig.pass_silently(Duration::from_millis(250));
    let again = copies(&mut rig);
    assert_eq!(again.len(), 4);
    assert!(again.iter().all(|copy| copy.1 == first[0].1), "the same letter on every copy");
    rig.client.handle_stopped(stop, B, true, rig.now);
    assert_eq!(rig.take(), [Out::StopDone(stop)]);
    assert_eq!(rig.client.held().count(), 0);
    rig.pass_silently(Duration::from_millis(250));
    assert_eq!(copies(&mut rig), []);
}

#[test]
fn s94_a_stop_that_nobody_answers_fails_after_a_window() {
    let mut rig = Rig::live(true);
    let stop = rig.client.issue("m1", Kind::Stop, rig.now);
    rig.pass(W);
    assert!(rig.failed().contains(&(stop, Failure::StopUnanswered)));
}

#[test]
fn s94_with_a_stock_machine_a_command_waits_for_the_stop_before_it() {
    let mut rig = Rig::live(false);
    let stop = rig.client.issue("m1", Kind::Stop, rig.now);
    let (waits, free) = (rig.motion("m1"), rig.motion("m2"));
    assert_eq!(rig.sent().iter().map(|s| s.0).collect::<Vec<_>>(), [free]);
    rig.client.handle_stopped(stop, A, true, rig.now);
    assert_eq!(rig.sent().last().expect("sent").0, waits);
    rig.take();
    rig.pass_silently(W / 2);
    assert!(!rig.take().iter().any(|o| matches!(o, Out::SendStop { .. })), "no late copy ends the new command");
}

#[test]
fn s94_a_stock_machine_is_told_to_stop_once_more() {
    let mut rig = Rig::live(false);
    let stop = rig.client.issue("m1", Kind::Stop, rig.now);
    rig.client.handle_stopped(stop, A, true, rig.now);
    rig.take();
    rig.pass_silently(W / 5 + Duration::from_millis(1));
    let again = rig.take().iter().filter(|o| matches!(o, Out::SendStop { .. })).count();
    assert_eq!(again, 1);
    rig.client.handle_stopped(stop, A, true, rig.now);
    rig.pass_silently(W / 2);
    assert!(!rig.take().iter().any(|o| matches!(o, Out::SendStop { .. })));
}

/// The seed of a schedule: only the machine knows that m1 is a part of the base that is stopped.
#[test]
fn s94_a_stop_counts_once_it_has_a_number_above_what_waited_before_it() {
    let mut rig = Rig::connected();
    let waits = rig.motion("m1");
    let attempt = rig.starts()[0].0;
    let stop = rig.client.issue("base", Kind::Stop, rig.now);
    assert!(rig.take().iter().any(|o| matches!(o, Out::SendStop { letter: None, .. })), "at once");
    rig.client.handle_stopped(stop, A, true, rig.now);
    assert!(!rig.take().contains(&Out::StopDone(stop)), "a command from before may still move a part of it");
    rig.client.handle_started(attempt, Ok(Started { id: ID, window: W, ordered: true }), rig.now);
    let seen = rig.take();
    let numbers: Vec<_> = seen
        .iter()
        .filter_map(|o| match o {
            Out::Send { call, letter } => Some((*call, number(letter))),
            Out::SendStop { call, letter, .. } => Some((*call, number(letter))),
            _ => None,
        })
        .collect();
    assert_eq!(numbers, [(waits, Some(1)), (stop, Some(2))]);
    rig.client.handle_stopped(stop, A, true, rig.now);
    assert_eq!(rig.take(), [Out::StopDone(stop)]);
}

/// The seed of a schedule: a command that a Stop superseded is still on its way over the old route.
#[test]
fn s94_a_stock_machines_route_with_a_superseded_command_on_it_is_severed_before_the_next() {
    let mut rig = Rig::live(false);
    rig.motion("m1");
    rig.client.issue("m1", Kind::Stop, rig.now);
    rig.take();
    rig.client.handle_link(B, LinkState::Primary, rig.now);
    assert!(matches!(rig.take()[0], Out::Abort(A)));
}

#[test]
fn a_stock_machines_old_route_is_severed_before_the_next_command() {
    let mut rig = Rig::live(false);
    rig.motion("m1");
    rig.take();
    rig.client.handle_link(B, LinkState::Primary, rig.now);
    assert!(matches!(rig.take()[..], [Out::Abort(A), Out::Beat { link: B, .. }]));
}

#[test]
fn s27_leaving_ends_the_session_with_a_machine_of_ours_and_stops_what_is_held_with_any_other() {
    let mut rig = Rig::live(true);
    assert_eq!(rig.client.close(rig.now), BTreeSet::new());
    assert!(matches!(&rig.take()[..], [Out::Beat { letter: Letter { order: Some(order), .. }, .. }] if order.end));
    assert_eq!(rig.client.poll_timeout(), None);
    let mut rig = Rig::live(false);
    assert_eq!(rig.client.close(rig.now), BTreeSet::from(["m1"]));
    let call = rig.motion("m1");
    assert_eq!(rig.failed(), [(call, Failure::Closed)]);
}

#[test]
fn watched_a_program_that_says_nothing_is_not_beaten_for() {
    let mut rig = Rig::new(ClientOptions { watched: Some(W / 4), ..ClientOptions::default() });
    rig.client.handle_link(A, LinkState::Primary, rig.now);
    let call = rig.motion("m1");
    rig.start(true);
    rig.client.handle_answer(call, Answer::Done, rig.now);
    rig.take();
    for _ in 0..20 {
        rig.client.alive(rig.now);
        rig.pass(W / 10);
    }
    assert!(rig.take().iter().any(|o| matches!(o, Out::Beat { .. })));
    rig.pass(W * 2);
    let seen = rig.take();
    assert!(seen.iter().filter(|o| matches!(o, Out::Beat { .. })).count() <= 2);
    assert!(seen.contains(&Out::Event(Event::Lapsed { id: ID })));
}

#[test]
fn beats_go_over_the_standby_for_half_a_window_at_most() {
    let mut rig = Rig::live(true);
    rig.client.handle_link(B, LinkState::Standby, rig.now);
    rig.client.handle_hedge(Some(B), rig.now);
    rig.pass(W * 2);
    let on_b = rig.beats().iter().filter(|b| b.1 == B).count();
    assert!((2..=4).contains(&on_b), "{on_b}");
}

/// The seed of a schedule: doubt that comes and goes does not begin the half window anew.
#[test]
fn a_hedge_that_comes_again_has_what_is_left_of_half_a_window() {
    let mut rig = Rig::live(true);
    rig.client.handle_link(B, LinkState::Standby, rig.now);
    for _ in 0..6 {
        rig.client.handle_hedge(Some(B), rig.now);
        rig.pass_silently(W / 5);
        rig.client.handle_hedge(None, rig.now);
    }
    assert!(rig.beats().iter().filter(|beat| beat.1 == B).count() <= 6);
    rig.take();
    rig.client.handle_hedge(Some(B), rig.now);
    let call = rig.motion("m1");
    rig.client.give_up(call, rig.now);
    assert!(rig.beats().iter().all(|beat| beat.1 == A), "telling is a beat too");
}

#[test]
fn a_path_slower_than_the_window_is_said_and_not_tried_in_a_loop() {
    let mut rig = Rig::connected();
    let call = rig.motion("m1");
    let attempt = rig.starts()[0].0;
    rig.now += W + W;
    rig.client.handle_started(attempt, Ok(Started { id: ID, window: W, ordered: true }), rig.now);
    assert!(matches!(&rig.failed()[..], [(failed, Failure::TooSlow(_))] if *failed == call));
    assert_eq!(rig.starts().len(), 1);
}

#[test]
fn a_start_whose_route_dies_is_asked_again_on_the_next() {
    let mut rig = Rig::connected();
    rig.motion("m1");
    let attempt = rig.starts()[0].0;
    rig.client.handle_no_route(true, rig.now);
    rig.client.handle_started(attempt, Err(StartError::Unreachable), rig.now);
    rig.take();
    rig.client.handle_link(B, LinkState::Primary, rig.now);
    assert_eq!(rig.starts().len(), 1);
    assert_eq!(rig.failed(), []);
}
