//! The end of a machine, and of its resources: the last Stop is the last word.

mod rig;

use rig::{ALICE, Call, Rig, in_session, ms};
use session_core::registry::{Cause, Refused, Shut, Why};

#[test]
fn a_machine_that_ends_opens_no_gate_any_more() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    let admitted = rig.run("m1", in_session(id));
    let inside = rig.run("m2", in_session(id));
    let slot = rig.registry.enter(inside, &"m2", rig.now).expect("open");
    rig.registry.close(rig.now);
    assert_eq!(rig.registry.enter(admitted, &"m1", rig.now), Err(Shut::Revoked(Why::Stopped)));
    assert_eq!(rig.admit("m1", in_session(id)), Err(Refused::Closed));
    rig.stop_all(Call::default());
    rig.registry.leave(slot, rig.now);
    rig.settle();
    let twice = rig.stopped().into_iter().filter(|stopped| *stopped == "m2").count();
    assert_eq!(twice, 2, "once past the write that was inside, and again after it");
}

#[test]
fn a_removed_actuator_that_does_not_stop_is_told_of() {
    let mut rig = Rig::new();
    rig.failing.insert("m1");
    rig.registry.remove(&"m1", rig.now);
    rig.settle();
    rig.pass(ms(100 + 200 + 400));
    assert_eq!(rig.lost(), [("m1", Cause::Removed)]);
}
