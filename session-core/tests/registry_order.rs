//! Numbered calls: copies, calls given up, calls overtaken (statements 89 to 91, 94, 96).

mod rig;

use rig::{ALICE, BOB, Call, Rig, W, in_session, ms, numbered, order};
use session_core::registry::{Admitted, MachineOutput, Outcome, Past, Refused, Shut, Why};
use session_core::{Connection, Order};

#[test]
fn s89_a_call_given_up_is_refused_when_it_arrives() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    rig.pass(W / 2);
    rig.registry.beat(id, &ALICE, Some(&order(2, &[])), rig.now).expect("alive");
    rig.pass(W / 2);
    assert_eq!(rig.admit("m1", numbered(id, 1, &[])), Err(Refused::GivenUp));
    rig.pass(W / 2);
    assert_eq!(rig.registry.sessions().count(), 0, "and it extended nothing");
    assert_eq!(rig.stopped(), [""; 0]);
}

#[test]
fn s89_a_call_given_up_takes_nothing_over() {
    let mut rig = Rig::new();
    let (s, t) = (rig.session(ALICE), rig.session(BOB));
    rig.command("m1", Call { owner: Some(BOB), ..in_session(t) });
    rig.registry.beat(s, &ALICE, Some(&order(2, &[])), rig.now).expect("alive");
    assert_eq!(rig.admit("m1", numbered(s, 1, &[])), Err(Refused::GivenUp));
    rig.pass(W - ms(1));
    rig.registry.beat(t, &BOB, None, rig.now).expect("alive");
    rig.pass(ms(1));
    assert_eq!((rig.registry.is_live(s), rig.stopped()), (false, vec![]), "it is T's all the time");
    rig.pass(W);
    assert_eq!(rig.stopped(), ["m1"]);
}

#[test]
fn s89_a_call_given_up_is_cancelled_where_it_runs_and_others_are_not() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    let (one, two) = (rig.run("m1", numbered(id, 1, &[])), rig.run("m2", numbered(id, 2, &[1])));
    rig.write(one, "m1").expect("an open gate");
    rig.write(two, "m2").expect("an open gate");
    rig.registry.beat(id, &ALICE, Some(&order(3, &[2])), rig.now).expect("alive");
    rig.settle();
    assert_eq!(rig.cancelled(), [(one, Why::GivenUp)]);
    assert_eq!(rig.stopped(), ["m1"]);
    rig.write(two, "m2").expect("untouched");
}

#[test]
fn s90_copies_run_once_and_share_their_outcome() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    let ticket = rig.run("m1", numbered(id, 1, &[]));
    assert_eq!(rig.admit("m1", numbered(id, 1, &[])), Ok(Admitted::Copy(ticket)));
    rig.write(ticket, "m1").expect("an open gate");
    rig.done(ticket);
    assert_eq!(rig.admit("m1", numbered(id, 1, &[])), Ok(Admitted::Copy(ticket)), "its outcome is kept");
    let other = Call { digest: 77, ..numbered(id, 1, &[]) };
    assert_eq!(rig.admit("m1", other), Err(Refused::Differs));
    rig.registry.beat(id, &ALICE, Some(&order(2, &[])), rig.now).expect("alive");
    rig.settle();
    assert!(rig.seen.contains(&MachineOutput::Forget(ticket)));
    assert_eq!(rig.admit("m1", numbered(id, 1, &[])), Err(Refused::MayHaveRun), "NOT_RUN is said of what never was");
}

#[test]
fn s90_copies_extend_and_take_over_once() {
    let mut rig = Rig::new();
    let (s, t) = (rig.session(ALICE), rig.session(BOB));
    let ticket = rig.command("m1", numbered(s, 1, &[]));
    rig.pass(W / 2);
    assert_eq!(rig.admit("m1", numbered(s, 1, &[])), Ok(Admitted::Copy(ticket)));
    rig.command("m1", Call { owner: Some(BOB), ..in_session(t) });
    assert_eq!(rig.admit("m1", numbered(s, 1, &[])), Ok(Admitted::Copy(ticket)));
    rig.pass(W / 2);
    assert_eq!((rig.registry.is_live(s), rig.stopped()), (false, vec![]), "neither the lease nor the motor");
}

/// The second copy is all that is left of the call where the first one's request died with its route.
#[test]
fn s90_losing_one_copy_leaves_the_operation_to_the_other() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    let ticket = rig.run("m1", numbered(id, 1, &[]));
    rig.registry.handle_opened(Connection(2), None, rig.now);
    assert_eq!(rig.admit("m1", numbered(id, 1, &[])), Ok(Admitted::Copy(ticket)));
    rig.registry.handle_closed(Connection(1), rig.now);
    rig.settle();
    assert_eq!(rig.cancelled(), []);
    rig.write(ticket, "m1").expect("it goes on");
}

#[test]
fn s90_a_number_that_was_given_up_never_comes_back_whatever_a_later_list_says() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    let ticket = rig.run("m1", numbered(id, 1, &[]));
    rig.done(ticket);
    rig.registry.beat(id, &ALICE, Some(&order(2, &[])), rig.now).expect("alive");
    rig.registry.beat(id, &ALICE, Some(&order(3, &[1, 2])), rig.now).expect("alive");
    assert_eq!(rig.admit("m1", numbered(id, 1, &[])), Err(Refused::MayHaveRun));
}

#[test]
fn s90_a_copy_of_a_lost_outcome_may_have_run() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    let ticket = rig.run("m1", numbered(id, 1, &[]));
    rig.registry.handle_done(ticket, Some(Outcome::Lost), rig.now);
    assert_eq!(rig.admit("m1", numbered(id, 1, &[])), Err(Refused::MayHaveRun));
}

#[test]
fn s91_a_lower_number_never_runs_after_a_higher_one_on_its_resource_or_parts() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    rig.command("base", numbered(id, 5, &[1, 2, 3]));
    assert_eq!(rig.admit("base", numbered(id, 1, &[])), Err(Refused::Superseded));
    assert_eq!(rig.admit("left", numbered(id, 2, &[])), Err(Refused::Superseded));
    rig.command("m1", numbered(id, 3, &[]));
    let second_program = Call { order: Some(session_core::Order { key: 8, ..order(1, &[]) }), ..in_session(id) };
    rig.command("base", second_program);
    rig.command("base", in_session(id));
}

#[test]
fn s91_a_call_that_comes_too_late_extends_nothing_and_takes_nothing_over() {
    let mut rig = Rig::new();
    let (s, t) = (rig.session(ALICE), rig.session(BOB));
    // A Stop of the whole counts for its parts.
    rig.stop("base", numbered(s, 5, &[1, 2]));
    rig.command("left", Call { owner: Some(BOB), ..in_session(t) });
    rig.clear();
    rig.pass(W / 2);
    assert_eq!(rig.admit("left", numbered(s, 1, &[])), Err(Refused::Superseded));
    assert_eq!(rig.admit("base", numbered(s, 2, &[])), Err(Refused::Superseded));
    rig.registry.beat(t, &BOB, None, rig.now).expect("alive");
    rig.pass(W / 2);
    assert_eq!((rig.registry.is_live(s), rig.stopped()), (false, vec![]));
    rig.pass(W / 2);
    assert_eq!(rig.stopped(), ["left"], "T's, as before");
}

#[test]
fn s91_a_stop_is_never_refused_and_shuts_lower_numbers_out() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    rig.command("m1", numbered(id, 9, &[2, 3, 4]));
    rig.clear();
    assert!(matches!(rig.stop("m1", numbered(id, 4, &[])), Admitted::Run(_)));
    assert_eq!(rig.stopped(), ["m1"]);
    rig.stop_all(numbered(id, 12, &[2, 3]));
    assert_eq!(rig.admit("m2", numbered(id, 2, &[])), Err(Refused::Superseded));
    rig.command("m2", numbered(id, 13, &[]));
}

#[test]
fn s94_nothing_admitted_before_a_stop_moves_after_it() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    let parked = rig.run("base", numbered(id, 1, &[]));
    rig.stop("base", numbered(id, 2, &[1]));
    assert_eq!(rig.write(parked, "base"), Err(Shut::Revoked(Why::Stopped)));
    rig.clear();
    rig.command("base", numbered(id, 3, &[2]));
    // A late copy of the Stop is answered and does nothing.
    assert_eq!(rig.stop("base", numbered(id, 2, &[1])), Admitted::Over(Past::Succeeded));
    assert_eq!(rig.stopped(), [""; 0]);
    // One that is no longer open and never ran does nothing either.
    rig.registry.beat(id, &ALICE, Some(&order(9, &[])), rig.now).expect("alive");
    assert_eq!(rig.stop("base", numbered(id, 7, &[])), Admitted::Over(Past::NotRun));
}

#[test]
fn s94_a_copy_of_a_running_stop_waits_and_a_failed_one_runs_again() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    rig.hanging.insert("m1");
    let Admitted::Run(ticket) = rig.stop("m1", numbered(id, 1, &[])) else { panic!("it runs") };
    assert_eq!(rig.stop("m1", numbered(id, 1, &[])), Admitted::Copy(ticket));
    let hung = rig.hung.remove(0);
    rig.registry.handle_stopped(hung, Err(session_core::registry::StopFailed), rig.now);
    rig.settle();
    rig.hanging.clear();
    assert!(matches!(rig.stop("m1", numbered(id, 1, &[])), Admitted::Run(other) if other != ticket));
}

#[test]
fn s94_a_stop_that_failed_and_was_given_up_may_have_run() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    rig.failing.insert("m1");
    rig.stop("m1", numbered(id, 1, &[]));
    rig.settle();
    rig.hanging.insert("m2");
    rig.stop("m2", numbered(id, 2, &[1]));
    // Neither is wanted any more: the one failed, and the other is inside its driver.
    rig.registry.beat(id, &ALICE, Some(&order(4, &[])), rig.now).expect("alive");
    rig.clear();
    assert_eq!(rig.stop("m1", numbered(id, 1, &[])), Admitted::Over(Past::MayHaveRun));
    assert_eq!(rig.stop("m2", numbered(id, 2, &[1])), Admitted::Over(Past::MayHaveRun));
    assert_eq!(rig.stop("m1", numbered(id, 3, &[])), Admitted::Over(Past::NotRun), "this one never arrived");
    assert_eq!(rig.stopped(), [""; 0]);
}

#[test]
fn what_is_not_remembered_any_more_may_have_run() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    for number in 1..=Order::MAX_OPEN as u64 + 1 {
        let ticket = rig.run("m1", numbered(id, 2 * number, &[]));
        rig.done(ticket);
    }
    rig.registry.beat(id, &ALICE, Some(&order(999, &[])), rig.now).expect("alive");
    assert_eq!(rig.admit("m1", numbered(id, 1, &[])), Err(Refused::MayHaveRun), "it is older than what is remembered");
    assert_eq!(rig.admit("m1", numbered(id, 2, &[])), Err(Refused::MayHaveRun));
    assert_eq!(rig.admit("m1", numbered(id, 5, &[])), Err(Refused::GivenUp), "it never came");
}

#[test]
fn s96_a_stalled_copy_does_not_change_who_is_stopped() {
    let mut rig = Rig::new();
    let (s, t) = (rig.session(ALICE), rig.session(BOB));
    let ticket = rig.command("m1", numbered(s, 1, &[]));
    rig.command("m1", Call { owner: Some(BOB), ..in_session(t) });
    assert_eq!(rig.admit("m1", numbered(s, 1, &[])), Ok(Admitted::Copy(ticket)));
    rig.pass(W - ms(1));
    rig.registry.beat(s, &ALICE, None, rig.now).expect("alive");
    rig.pass(ms(1));
    assert_eq!(rig.stopped(), ["m1"], "T's lapse stops the motor");
}

#[test]
fn only_the_newest_message_extends_the_lease() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    rig.pass(W / 2);
    rig.registry.beat(id, &ALICE, Some(&order(5, &[4])), rig.now).expect("alive");
    rig.pass(W / 2);
    rig.registry.beat(id, &ALICE, Some(&order(3, &[])), rig.now).expect("answered, though late");
    rig.run("m1", numbered(id, 4, &[]));
    rig.pass(W / 2);
    assert_eq!(rig.registry.sessions().count(), 0);
}
