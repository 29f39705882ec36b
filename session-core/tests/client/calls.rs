//! Commands: numbered as they leave, open until they are answered.

use super::rig::*;

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
fn s51_with_no_route_a_motion_call_fails_at_once() {
    let mut rig = Rig::live(true);
    rig.client.handle_no_route(false, rig.now);
    let call = rig.motion("m1");
    assert!(matches!(&rig.failed()[..], [(failed, Failure::NotConnected { lapses: Some(_) })] if *failed == call));
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
fn a_stock_machines_old_route_is_severed_before_the_next_command() {
    let mut rig = Rig::live(false);
    rig.motion("m1");
    rig.take();
    rig.client.handle_link(B, LinkState::Primary, rig.now);
    assert!(matches!(rig.take()[..], [Out::Abort(A), Out::Beat { link: B, .. }]));
}

/// Its caller was told that it may have run: from then on it is to start no more.
#[test]
fn a_command_whose_outcome_is_lost_is_told_as_given_up() {
    let mut rig = Rig::live(true);
    let lost = rig.motion("m2");
    rig.take();
    rig.client.handle_answer(lost, Answer::Lost, rig.now);
    let beats = rig.beats();
    assert_eq!((beats.len(), open(&Some(beats[0].2.clone()))), (1, vec![]));
}
