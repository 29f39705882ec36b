//! A session begins, is resumed, and is left.

use super::rig::*;

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
fn s33_a_machine_without_sessions_is_driven_without() {
    let mut rig = Rig::connected();
    let first = rig.motion("m1");
    let attempt = rig.starts()[0].0;
    rig.client.handle_started(attempt, Err(StartError::Unsupported), rig.now);
    let second = rig.motion("m1");
    assert_eq!(rig.sent(), [(first, None), (second, None)]);
    assert_eq!(rig.starts().len(), 1);
    rig.pass(W * 5);
    assert_eq!(rig.beats(), []);
    // Over another connection another machine may answer, or the same one after it was brought up to date.
    rig.client.handle_link(B, LinkState::Primary, rig.now);
    rig.motion("m1");
    assert_eq!(rig.starts().len(), 2);
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

/// To a machine that does not take order nothing else says that a move which is still under way is not wanted any more.
#[test]
fn s27_leaving_any_other_machine_stops_what_is_out_too() {
    let mut rig = Rig::live(false);
    rig.motion("m2");
    assert_eq!(rig.client.close(rig.now), BTreeSet::from(["m1", "m2"]));
}
