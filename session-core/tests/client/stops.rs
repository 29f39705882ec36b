//! Stops: past every queue, on every link, and before whatever comes after them.

use super::rig::*;

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

/// While the session is being resumed as well: a command of it may still be on its way, and only a number keeps it from running after the Stop.
#[test]
fn s94_a_stop_while_the_session_is_resumed_has_a_number_above_what_is_out() {
    let mut rig = Rig::live(true);
    let out = rig.motion("m1");
    let before = number(&rig.sent().pop().expect("sent").1).expect("a number");
    rig.pass_silently(W / 5);
    let beat = rig.beats()[0].0;
    rig.client.handle_beat(beat, Err(BeatError::Unanswered), rig.now);
    let parked = rig.motion("m1");
    assert_eq!(rig.starts().len(), 1);
    let stop = rig.client.issue("m1", Kind::Stop, rig.now);
    assert_eq!(rig.failed(), [(out, Failure::Superseded), (parked, Failure::Superseded)]);
    let letter = rig.take().into_iter().find_map(|o| match o {
        Out::SendStop { call, letter, .. } if call == stop => letter,
        _ => None,
    });
    assert!(number(&letter).is_some_and(|number| number > before) && open(&letter).is_empty());
}

/// The seed of a schedule: the copy on the standby came before a command that was on its way over the primary, and its answer after that one's end.
#[test]
fn s94_a_stock_machine_is_told_again_when_a_link_with_a_command_on_it_is_gone() {
    for severed in [true, false] {
        let mut rig = Rig::live(false);
        rig.client.handle_link(B, LinkState::Standby, rig.now);
        rig.motion("m1");
        rig.client.handle_hedge(Some(B), rig.now);
        rig.take();
        let stop = rig.client.issue("m1", Kind::Stop, rig.now);
        let on = |rig: &mut Rig| -> Vec<Link> {
            let link = |o| if let Out::SendStop { link, .. } = o { Some(link) } else { None };
            rig.take().into_iter().filter_map(link).collect()
        };
        assert_eq!(on(&mut rig), [A, B]);
        if !severed {
            rig.client.handle_link(A, LinkState::Gone, rig.now);
        }
        rig.client.handle_link(B, LinkState::Primary, rig.now);
        assert_eq!(on(&mut rig), [B], "severed: {severed}");
        rig.client.handle_stopped(stop, B, true, rig.now);
        assert!(rig.take().contains(&Out::StopDone(stop)));
    }
}

#[test]
fn s94_what_a_copy_from_before_that_is_answered_counts_for_nothing() {
    let mut rig = Rig::live(false);
    rig.client.handle_link(B, LinkState::Standby, rig.now);
    rig.motion("m1");
    rig.client.handle_hedge(Some(B), rig.now);
    let stop = rig.client.issue("m1", Kind::Stop, rig.now);
    rig.client.handle_link(A, LinkState::Gone, rig.now);
    rig.take();
    rig.client.handle_stopped(stop, B, true, rig.now);
    assert!(!rig.take().contains(&Out::StopDone(stop)));
    rig.client.handle_link(B, LinkState::Primary, rig.now);
    assert!(rig.take().iter().any(|o| matches!(o, Out::SendStop { link: B, .. })));
    rig.client.handle_stopped(stop, B, true, rig.now);
    assert!(rig.take().contains(&Out::StopDone(stop)));
}

/// The seed of a schedule: it is early, since a command of another component waits, and its copy on the standby came before the command it is to stop.
#[test]
fn s94_an_early_stop_of_a_stock_machine_waits_for_the_link_that_a_command_is_on() {
    let mut rig = Rig::live(false);
    rig.client.handle_link(B, LinkState::Standby, rig.now);
    rig.client.handle_hedge(Some(B), rig.now);
    rig.motion("m1");
    let other = rig.client.issue("m2", Kind::Stop, rig.now);
    rig.motion("m2");
    let stop = rig.client.issue("m1", Kind::Stop, rig.now);
    rig.take();
    rig.client.handle_stopped(stop, B, true, rig.now);
    rig.client.handle_stopped(other, A, true, rig.now);
    rig.client.handle_stopped(other, B, true, rig.now);
    assert!(!rig.take().contains(&Out::StopDone(stop)), "m1 may still begin to move");
    rig.client.handle_stopped(stop, A, true, rig.now);
    assert!(rig.take().contains(&Out::StopDone(stop)));
}
