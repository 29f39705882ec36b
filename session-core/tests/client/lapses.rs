//! A session ends, here or at the machine: nothing resumes by itself.

use super::rig::*;

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

/// A second link may lead to another process of that name, which never knew the session: what it says is about itself.
#[test]
fn only_the_primarys_machine_says_that_the_session_is_over() {
    let mut rig = Rig::live(true);
    let strange = rig.client.validate(B, rig.now).expect("a beat");
    rig.take();
    rig.client.handle_beat(strange, Err(BeatError::Expired(None)), rig.now);
    assert_eq!(rig.take(), [], "what moves over the primary moves on, and is beaten for");
    rig.pass(W * 3);
    assert!(rig.client.session().is_some_and(|(id, _)| id == ID));
    // With nobody else to ask, as after the machine's own restart, it is the machine that speaks.
    rig.client.handle_no_route(true, rig.now);
    let only = rig.client.validate(B, rig.now).expect("a beat");
    rig.take();
    rig.client.handle_beat(only, Err(BeatError::Expired(None)), rig.now);
    let told = |o: &Out<_>| matches!(o, Out::Event(Event::Stopped(s)) if s.told && s.what == BTreeSet::from(["m1"]));
    assert!(rig.take().iter().any(told));
}
