//! When beats leave, and over which link.

use super::rig::*;

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

/// Answers that wait behind others on a way that became long: the standby's, which wait behind nothing, keep the session meanwhile.
#[test]
fn a_beat_that_is_due_while_one_is_unanswered_goes_over_the_standby_too() {
    let mut rig = Rig::live(true);
    rig.client.handle_link(B, LinkState::Standby, rig.now);
    rig.pass_silently(W * 4 / 5);
    let beats = rig.beats();
    let on = |link| beats.iter().filter(|beat| beat.1 == link).collect::<Vec<_>>();
    assert_eq!((on(A).len(), on(B).len()), (4, 2), "for half a window since the first that is unanswered");
    let last = on(B)[1].0;
    rig.client.handle_beat(last, Ok(()), rig.now);
    rig.pass_silently(W * 3 / 4);
    assert!(rig.client.session().is_some(), "kept by what left after 3 fifths of a window");
    rig.pass_silently(W);
    assert!(rig.client.session().is_none(), "and no longer: nothing was proven on the path that commands use");
}

#[test]
fn no_beat_goes_over_the_standby_while_the_primary_answers_each_before_the_next() {
    let mut rig = Rig::live(true);
    rig.client.handle_link(B, LinkState::Standby, rig.now);
    rig.pass(W * 3);
    assert!(rig.beats().iter().all(|beat| beat.1 == A));
}

/// A round trip of 800 ms: every beat finds one unanswered, and none for half a window.
#[test]
fn beats_go_over_both_links_as_long_as_the_primary_answers_within_half_a_window() {
    let mut rig = Rig::live(true);
    rig.client.handle_link(B, LinkState::Standby, rig.now);
    let mut out: Vec<Attempt> = Vec::new();
    for _ in 0..20 {
        rig.pass_silently(W / 5);
        let beats = rig.beats();
        rig.take();
        out.extend(beats.iter().filter(|beat| beat.1 == A).map(|beat| beat.0));
        if let [.., answered, _, _] = out[..] {
            assert!(beats.iter().any(|beat| beat.1 == B));
            rig.client.handle_beat(answered, Ok(()), rig.now);
        }
    }
    assert!(rig.client.session().is_some());
}

#[test]
fn what_the_primary_answers_beside_beats_proves_it_too() {
    let mut rig = Rig::live(true);
    rig.client.handle_link(B, LinkState::Standby, rig.now);
    for link in [A, A, B] {
        rig.pass_silently(W * 3 / 5);
        assert!(rig.beats().iter().any(|beat| beat.1 == B), "{link:?}");
        for beat in rig.beats().iter().filter(|beat| beat.1 == B) {
            rig.client.handle_beat(beat.0, Ok(()), rig.now);
        }
        rig.take();
        rig.client.handle_answering(link, rig.now);
    }
    rig.pass_silently(W);
    assert!(rig.beats().iter().all(|beat| beat.1 == A), "the standby's own answers prove nothing of the primary");
}

/// Answers that come, each later than half a window: the path is alive, however long what waits on it takes.
#[test]
fn beats_go_over_both_links_as_long_as_the_primary_answers_anything() {
    let mut rig = Rig::live(true);
    rig.client.handle_link(B, LinkState::Standby, rig.now);
    let mut out: Vec<Attempt> = Vec::new();
    for _ in 0..20 {
        rig.pass_silently(W / 5);
        let beats = rig.beats();
        rig.take();
        out.extend(beats.iter().filter(|beat| beat.1 == A).map(|beat| beat.0));
        if let [.., answered, _, _, _, _] = out[..] {
            rig.client.handle_beat(answered, Ok(()), rig.now);
        }
        for beat in beats.iter().filter(|beat| beat.1 == B) {
            rig.client.handle_beat(beat.0, Ok(()), rig.now);
        }
    }
    assert!(rig.client.session().is_some());
    rig.pass_silently(W);
    assert!(rig.beats().iter().filter(|beat| beat.1 == B).count() <= 3, "nothing came for half a window");
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

/// StartSession hangs on a route that has gone silent: the session is beaten for all the same, there and on the next.
#[test]
fn a_session_that_is_being_resumed_is_beaten_for() {
    let mut rig = Rig::live(true);
    rig.pass_silently(W / 5);
    let failed = rig.beats()[0].0;
    rig.client.handle_beat(failed, Err(BeatError::Unanswered), rig.now);
    let waits = rig.motion("m1");
    let hangs = rig.starts().pop().expect("it resumes first").0;
    rig.take();
    rig.pass_silently(W / 5);
    assert_eq!(rig.beats().len(), 1);
    rig.client.handle_link(B, LinkState::Primary, rig.now);
    rig.pass(W * 3);
    assert!(rig.client.session().is_some_and(|(id, _)| id == ID), "its beats are answered");
    rig.take();
    rig.client.handle_started(hangs, Err(StartError::Unreachable), rig.now);
    rig.start(true);
    assert_eq!(rig.sent().iter().map(|sent| sent.0).collect::<Vec<_>>(), [waits]);
}
