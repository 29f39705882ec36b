//! What stops, when, and what is left alone (statements 16 to 27, 44, 45, 85).

mod rig;

use rig::{ALICE, BOB, Call, Rig, W, in_session, ms};
use session_core::Connection;
use session_core::registry::{Admitted, Cause, Holder, MachineOutput, Policy, Refused, Shut, StopFailed, Why};

#[test]
fn s16_a_lapse_stops_the_base_once_at_the_deadline() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    rig.command("base", in_session(id));
    rig.pass(W - ms(1));
    assert_eq!(rig.stopped(), [""; 0]);
    rig.pass(ms(1));
    rig.pass(W * 10);
    assert_eq!(rig.stopped(), ["base"]);
}

#[test]
fn s17_only_what_the_session_touched_is_stopped() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    rig.command("m1", in_session(id));
    rig.pass(W);
    assert_eq!(rig.stopped(), ["m1"]);
}

#[test]
fn s18_the_last_toucher_owns_the_stop() {
    let mut rig = Rig::new();
    let (first, second) = (rig.session(ALICE), rig.session(BOB));
    rig.command("m1", in_session(first));
    rig.pass(W / 2);
    rig.command("m1", Call { owner: Some(BOB), ..in_session(second) });
    rig.pass(W / 2);
    assert_eq!(rig.stopped(), [""; 0]);
    rig.pass(W / 2);
    assert_eq!(rig.stopped(), ["m1"]);
}

#[test]
fn s19_a_caller_without_a_session_takes_the_actuator_over() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    rig.command("m1", in_session(id));
    rig.command("m1", Call::default());
    rig.pass(W);
    assert_eq!(rig.stopped(), [""; 0]);
}

#[test]
fn s20_an_expired_call_changes_no_association() {
    let mut rig = Rig::new();
    let (dead, alive) = (rig.session(ALICE), rig.session(ALICE));
    rig.pass(W / 2);
    rig.registry.beat(alive, &ALICE, None, rig.now).expect("alive");
    rig.pass(W / 2);
    rig.command("m1", in_session(alive));
    assert!(rig.admit("m1", in_session(dead)).is_err());
    rig.pass(W);
    assert_eq!(rig.stopped(), ["m1"]);
}

#[test]
fn s21_a_call_that_fails_in_its_driver_is_associated_all_the_same() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    let ticket = rig.run("m1", in_session(id));
    // The driver's write returned an error: the gate neither knows nor cares.
    rig.write(ticket, "m1").expect("an open gate");
    rig.done(ticket);
    rig.pass(W);
    assert_eq!(rig.stopped(), ["m1"]);
}

#[test]
fn s22_what_has_no_stop_is_left_alone() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    rig.command("switch", in_session(id));
    rig.pass(W);
    assert_eq!((rig.stopped(), rig.lost()), (vec![], vec![]));
}

#[test]
fn s23_one_failing_stop_does_not_prevent_another_and_is_retried() {
    let mut rig = Rig::new();
    rig.failing.insert("m1");
    let id = rig.session(ALICE);
    rig.command("m1", in_session(id));
    rig.command("m2", in_session(id));
    rig.pass(W);
    assert_eq!(rig.stopped(), ["m1", "m2"]);
    rig.pass(ms(100 + 200 + 400));
    assert_eq!(rig.stopped(), ["m1", "m2", "m1", "m1", "m1"]);
    assert_eq!(rig.lost(), [("m1", Cause::Lapse)]);
}

#[test]
fn a_retried_stop_never_ends_a_later_command() {
    let mut rig = Rig::new();
    rig.failing.insert("m1");
    let id = rig.session(ALICE);
    rig.command("m1", in_session(id));
    rig.stop("m1", in_session(id));
    rig.failing.clear();
    rig.clear();
    rig.command("m1", in_session(id));
    rig.pass(ms(1000));
    assert_eq!(rig.stopped(), [""; 0]);
}

#[test]
fn s24_a_hanging_stop_delays_nothing_and_is_reported() {
    let mut rig = Rig::new();
    rig.hanging.insert("m1");
    let id = rig.session(ALICE);
    rig.command("m1", in_session(id));
    rig.command("m2", in_session(id));
    rig.pass(W);
    assert_eq!(rig.stopped(), ["m1", "m2"]);
    let other = rig.session(BOB);
    rig.command("m2", Call { owner: Some(BOB), ..in_session(other) });
    let waiting = rig.run("m1", Call { owner: Some(BOB), ..in_session(other) });
    assert_eq!(rig.write(waiting, "m1"), Err(Shut::Busy));
    rig.pass(ms(500));
    assert_eq!(rig.lost(), [("m1", Cause::Lapse)]);
    assert_eq!(rig.write(waiting, "m1"), Err(Shut::Busy), "shut until it returns");
    let hung = rig.hung.remove(0);
    rig.registry.handle_stopped(hung, Ok(()), rig.now);
    rig.write(waiting, "m1").expect("open again");
}

#[test]
fn s25_a_lapse_ends_a_blocking_move() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    let moving = rig.run("base", in_session(id));
    rig.write(moving, "base").expect("an open gate");
    rig.pass(W);
    assert_eq!(rig.stopped(), ["base"]);
    assert_eq!(rig.cancelled(), [(moving, Why::Lapsed)]);
    assert_eq!(rig.write(moving, "base"), Err(Shut::Revoked(Why::Lapsed)));
}

#[test]
fn s26_a_stream_is_associated_when_it_first_moves_something() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    let stream = rig.run("arm", in_session(id));
    rig.write(stream, "arm").expect("its first message");
    rig.pass(W);
    assert_eq!(rig.stopped(), ["arm"]);
}

#[test]
fn s27_a_client_that_leaves_stops_what_it_holds_at_once() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    rig.command("m1", in_session(id));
    let mut end = rig::order(9, &[]);
    end.end = true;
    rig.registry.beat(id, &ALICE, Some(&end), rig.now).expect("the last beat");
    rig.settle();
    assert_eq!(rig.stopped(), ["m1"]);
    assert!(rig.registry.beat(id, &ALICE, None, rig.now).is_err());
}

#[test]
fn s44_a_later_base_command_shuts_the_earlier_one_out() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    let straight = rig.run("base", in_session(id));
    rig.write(straight, "base").expect("an open gate");
    rig.command("base", in_session(id));
    assert_eq!(rig.cancelled(), [(straight, Why::Preempted)]);
    assert_eq!(rig.write(straight, "base"), Err(Shut::Revoked(Why::Preempted)));
    assert_eq!(rig.stopped(), [""; 0], "the new command moves on, without a Stop between");
}

#[test]
fn s45_a_later_motor_command_takes_over_from_another_client() {
    let mut rig = Rig::new();
    let (first, second) = (rig.session(ALICE), rig.session(BOB));
    let going = rig.run("m1", in_session(first));
    rig.write(going, "m1").expect("an open gate");
    rig.command("m1", Call { owner: Some(BOB), ..in_session(second) });
    assert_eq!(rig.cancelled(), [(going, Why::Preempted)]);
}

#[test]
fn s46_stop_all_stops_every_actuator_and_ends_every_call() {
    let mut rig = Rig::new();
    rig.failing.insert("arm");
    let id = rig.session(ALICE);
    let moving = rig.run("base", in_session(id));
    rig.write(moving, "base").expect("an open gate");
    let waiting = rig.run("switch", in_session(id));
    let Admitted::Run(ticket) = rig.stop_all(in_session(id)) else { panic!("it runs") };
    let mut stopped = rig.stopped();
    stopped.sort_unstable();
    assert_eq!(stopped, ["arm", "base", "left", "m1", "m2", "right"]);
    assert_eq!(rig.cancelled(), [(moving, Why::Stopped), (waiting, Why::Stopped)]);
    assert!(rig.seen.contains(&MachineOutput::StopDone { of: ticket, failed: vec!["arm"] }));
}

#[test]
fn a_stop_overtakes_a_write_and_is_written_again() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    let ticket = rig.run("m1", in_session(id));
    let slot = rig.registry.enter(ticket, &"m1", rig.now).expect("an open gate");
    rig.stop("m1", in_session(id));
    assert_eq!(rig.stopped(), ["m1"]);
    rig.registry.leave(slot, rig.now);
    rig.settle();
    assert_eq!(rig.stopped(), ["m1", "m1"]);
    assert!(!rig.registry.holds(Holder::Session(id)));
}

#[test]
fn s85_a_guarded_caller_is_stopped_when_its_connection_ends() {
    let mut rig = Rig::new();
    rig.command("base", Call::default());
    rig.pass(W * 5);
    assert_eq!(rig.stopped(), [""; 0]);
    let late = rig.run("m1", Call::default());
    rig.registry.handle_closed(Connection(1), rig.now);
    rig.settle();
    assert_eq!(rig.stopped(), ["base"]);
    assert_eq!(rig.write(late, "m1"), Err(Shut::Revoked(Why::Lapsed)));
    assert_eq!(rig.admit("m1", Call::default()), Err(Refused::CallerLeft));
}

#[test]
fn s85_over_http1_the_principal_has_a_window_after_its_last_connection() {
    let mut rig = Rig::new();
    for connection in [8, 9] {
        rig.registry.handle_opened(Connection(connection), Some(BOB), rig.now);
    }
    let call = || Call { owner: Some(BOB), otherwise: Some(Holder::Principal(BOB)), ..Call::default() };
    rig.command("m1", call());
    rig.registry.handle_closed(Connection(8), rig.now);
    rig.pass(W * 2);
    rig.registry.handle_closed(Connection(9), rig.now);
    rig.pass(W / 2);
    rig.registry.handle_opened(Connection(10), Some(BOB), rig.now);
    rig.pass(W * 2);
    assert_eq!(rig.stopped(), [""; 0]);
    rig.registry.handle_closed(Connection(10), rig.now);
    rig.pass(W);
    assert_eq!(rig.stopped(), ["m1"]);
}

#[test]
fn policies_allow_and_refuse_callers_without_a_session() {
    let mut rig = Rig::with(Policy::Allow);
    rig.command("m1", Call::default());
    rig.registry.handle_closed(Connection(1), rig.now);
    rig.settle();
    assert_eq!(rig.stopped(), [""; 0]);
    let mut rig = Rig::with(Policy::Refuse);
    assert_eq!(rig.admit("m1", Call::default()), Err(Refused::Policy));
    let id = rig.session(ALICE);
    rig.command("m1", in_session(id));
}

#[test]
fn a_lapse_stops_a_whole_or_only_the_parts_that_are_still_held() {
    let mut rig = Rig::new();
    let (driver, other) = (rig.session(ALICE), rig.session(BOB));
    rig.command("base", in_session(driver));
    rig.command("left", Call { owner: Some(BOB), ..in_session(other) });
    rig.pass(W - ms(1));
    rig.registry.beat(other, &BOB, None, rig.now).expect("alive");
    rig.pass(ms(1));
    assert_eq!(rig.stopped(), ["right"]);
    rig.pass(W);
    assert_eq!(rig.stopped(), ["right", "left"]);
}

#[test]
fn cancelling_an_operation_stops_what_it_still_holds() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    let moving = rig.run("base", in_session(id));
    rig.write(moving, "base").expect("an open gate");
    rig.registry.cancel(moving, Why::CallerLeft, rig.now);
    rig.settle();
    assert_eq!(rig.stopped(), ["base"]);
    assert_eq!(rig.cancelled(), [(moving, Why::CallerLeft)]);
    rig.clear();
    let never_moved = rig.run("base", in_session(id));
    rig.registry.cancel(never_moved, Why::Cancelled, rig.now);
    rig.settle();
    assert_eq!(rig.stopped(), [""; 0]);
}

#[test]
fn an_execution_outlives_who_asked_for_it_and_ends_by_stop_command_or_itself() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    rig.command("base", in_session(id));
    let plan = rig.registry.claim(&"base", Holder::Execution(1), rig.now);
    rig.write(plan, "base").expect("its own gate");
    rig.pass(W);
    assert_eq!(rig.stopped(), [""; 0], "the starter's lapse no longer lists the base");
    rig.command("base", Call::default());
    assert_eq!(rig.cancelled(), [(plan, Why::Preempted)]);
    assert_eq!(rig.stopped(), [""; 0]);
    let plan = rig.registry.claim(&"base", Holder::Execution(2), rig.now);
    rig.write(plan, "base").expect("its own gate");
    rig.registry.handle_ended(Holder::Execution(2), rig.now);
    rig.settle();
    assert_eq!(rig.stopped(), ["base"]);
}

#[test]
fn a_removed_resource_is_stopped_and_its_calls_end() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    let moving = rig.run("m1", in_session(id));
    rig.write(moving, "m1").expect("an open gate");
    rig.registry.remove(&"m1", rig.now);
    rig.settle();
    assert_eq!(rig.stopped(), ["m1"]);
    assert!(matches!(rig.write(moving, "m1"), Err(Shut::Revoked(_))));
    rig.registry.configure("m1", true, [].into(), rig.now);
    assert!(matches!(rig.write(moving, "m1"), Err(Shut::Revoked(_))), "a namesake is another actuator");
}

/// The seed of a schedule: a base moves, and one of its wheels is stopped, or taken, by itself.
#[test]
fn a_wheel_does_not_turn_on_for_a_move_whose_other_wheel_was_taken() {
    for stopped in [true, false] {
        let mut rig = Rig::new();
        let id = rig.session(ALICE);
        let straight = rig.run("base", in_session(id));
        rig.write(straight, "base").expect("an open gate");
        if stopped {
            rig.stop("left", in_session(id));
            assert_eq!(rig.stopped(), ["left", "right"]);
            assert_eq!(rig.cancelled(), [(straight, Why::Stopped)]);
        } else {
            rig.command("left", in_session(id));
            assert_eq!(rig.stopped(), ["right"]);
            assert_eq!(rig.cancelled(), [(straight, Why::Preempted)]);
        }
    }
}

/// The seed of a schedule: a failed Stop of a base came again after somebody else had taken one of its wheels.
#[test]
fn a_failed_stop_of_a_whole_is_repeated_only_for_the_parts_that_nobody_took() {
    let mut rig = Rig::new();
    let (driver, other) = (rig.session(ALICE), rig.session(BOB));
    rig.command("base", in_session(driver));
    rig.failing.insert("base");
    rig.stop("base", in_session(driver));
    rig.command("left", Call { owner: Some(BOB), ..in_session(other) });
    rig.clear();
    rig.pass(ms(100));
    assert_eq!(rig.stopped(), ["right"]);
    rig.pass(ms(1000));
    assert_eq!((rig.stopped(), rig.lost()), (vec!["right"], vec![]));
}

/// The seed of a schedule: a write was inside, or the Stop failed, when the resource was removed.
#[test]
fn a_removed_resource_is_stopped_until_it_rests() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    let moving = rig.run("m1", in_session(id));
    let slot = rig.registry.enter(moving, &"m1", rig.now).expect("an open gate");
    rig.registry.remove(&"m1", rig.now);
    rig.settle();
    assert_eq!(rig.stopped(), ["m1"]);
    let late = rig.run("m1", in_session(id));
    assert_eq!(rig.write(late, "m1"), Err(Shut::Revoked(Why::Removed)));
    rig.failing.insert("m1");
    rig.registry.leave(slot, rig.now);
    rig.settle();
    assert!(!rig.seen.contains(&MachineOutput::Removed("m1")), "its driver is still needed");
    rig.failing.clear();
    rig.pass(ms(100));
    assert_eq!(rig.stopped(), ["m1", "m1", "m1"]);
    assert_eq!(rig.seen.last(), Some(&MachineOutput::Removed("m1")));
}

/// The seed of a schedule: of two Stops of a whole, the older fails after the one that was written when the write inside had left.
#[test]
fn an_older_stop_that_fails_last_does_not_take_back_the_newer_ones_repetition() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    let ticket = rig.run("base", in_session(id));
    let slot = rig.registry.enter(ticket, &"base", rig.now).expect("an open gate");
    rig.hanging.insert("base");
    rig.stop_all(in_session(id));
    rig.registry.leave(slot, rig.now);
    rig.settle();
    let [older, newer] = rig.hung[..] else { panic!("one more after the write") };
    for stop in [newer, older] {
        rig.registry.handle_stopped(stop, Err(StopFailed), rig.now);
    }
    rig.hanging.clear();
    rig.clear();
    rig.pass(ms(100));
    assert_eq!(rig.stopped(), ["base"]);
}
