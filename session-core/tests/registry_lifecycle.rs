//! Sessions: started, kept, resumed, over (statements 4 to 14).

#![allow(clippy::disallowed_methods, reason = "a test needs a first instant")]

mod rig;

use rig::{ALICE, BOB, Call, Rig, W, in_session, ms};
use session_core::SessionId;
use session_core::registry::{Cause, MachineTimer, NoSession, Policy, Refused, SessionRegistry, TooManySessions};

#[test]
fn s04_a_session_without_beats_is_gone_at_its_deadline() {
    let mut rig = Rig::new();
    rig.session(ALICE);
    assert_eq!(rig.registry.poll_timeout(), Some((rig.start + W, MachineTimer::Lease)));
    rig.pass(W - ms(1));
    assert_eq!(rig.registry.sessions().count(), 1);
    rig.pass(ms(1));
    assert_eq!(rig.registry.sessions().count(), 0);
}

#[test]
fn s05_beats_every_fifth_of_the_window_keep_a_session() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    for _ in 0..50 {
        rig.pass(W / 5);
        rig.registry.beat(id, &ALICE, None, rig.now).expect("alive");
    }
    assert_eq!(rig.registry.sessions().count(), 1);
}

#[test]
fn s06_monitored_calls_extend_the_lease_and_others_do_not() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    for _ in 0..10 {
        rig.pass(W / 2);
        rig.command("m1", in_session(id));
    }
    for _ in 0..2 {
        rig.pass(W / 2);
        let _ = rig.admit("m1", Call { unmonitored: true, ..in_session(id) });
    }
    assert_eq!(rig.registry.sessions().count(), 0);
}

#[test]
fn s07_unknown_and_expired_ids_are_no_session_and_nothing_runs() {
    let mut rig = Rig::new();
    let unknown = SessionId(99);
    assert_eq!(rig.registry.beat(unknown, &ALICE, None, rig.now), Err(NoSession(None)));
    assert_eq!(rig.admit("m1", in_session(unknown)), Err(Refused::NoSession(None)));
    let id = rig.session(ALICE);
    rig.command("m1", in_session(id));
    // Nobody polls the timeout: the late beat finds the session gone all the same.
    rig.now += W;
    let NoSession(tombstone) = rig.registry.beat(id, &ALICE, None, rig.now).expect_err("expired");
    let tombstone = tombstone.expect("its owner is told");
    assert_eq!((tombstone.cause, tombstone.stopped), (Cause::Lapse, ["m1"].into()));
    rig.settle();
    assert_eq!(rig.stopped(), ["m1"]);
    assert!(matches!(rig.admit("m1", in_session(id)), Err(Refused::NoSession(Some(_)))));
}

#[test]
fn s08_another_owners_session_looks_like_none() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    assert_eq!(rig.registry.beat(id, &BOB, None, rig.now), Err(NoSession(None)));
    assert_eq!(rig.admit("m1", Call { owner: Some(BOB), ..in_session(id) }), Err(Refused::NoSession(None)));
    rig.now += W / 2;
    let other = rig.registry.start(SessionId(50), Some(id), BOB, rig.now).expect("a new one");
    assert!(!other.resumed && other.id != id);
    rig.pass(W / 2 - ms(1));
    assert!(rig.registry.is_live(id), "untouched");
    rig.pass(ms(1));
    assert!(!rig.registry.is_live(id), "and nobody but its owner has extended it");
    // Not even a tombstone tells that it existed.
    assert_eq!(rig.registry.beat(id, &BOB, None, rig.now), Err(NoSession(None)));
}

#[test]
fn s09_resume_keeps_a_live_id_and_replaces_an_expired_one() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    rig.pass(W - ms(1));
    let resumed = rig.registry.start(SessionId(50), Some(id), ALICE, rig.now).expect("alive");
    assert_eq!((resumed.id, resumed.window, resumed.resumed), (id, W, true));
    rig.pass(W - ms(1));
    assert_eq!(rig.registry.sessions().count(), 1);
    rig.pass(W);
    let fresh = rig.registry.start(SessionId(51), Some(id), ALICE, rig.now).expect("room");
    assert_eq!((fresh.id, fresh.resumed), (SessionId(51), false));
}

#[test]
fn s12_a_bad_session_id_on_an_unmonitored_call_is_ignored() {
    let mut rig = Rig::new();
    let call = Call { unmonitored: true, ..in_session(SessionId(99)) };
    rig.run("m1", call);
}

#[test]
fn s14_sessions_are_bounded() {
    let mut rig = Rig::new();
    for _ in 0..4 {
        rig.session(ALICE);
    }
    assert_eq!(rig.registry.start(SessionId(60), None, ALICE, rig.now), Err(TooManySessions));
    rig.pass(W);
    rig.session(ALICE);
}

#[test]
fn a_late_beat_never_revives() {
    let mut rig = Rig::new();
    let id = rig.session(ALICE);
    rig.command("base", in_session(id));
    // Frozen for ten seconds; beats queued meanwhile come before the timer.
    rig.now += ms(10_000);
    assert!(rig.registry.beat(id, &ALICE, None, rig.now).is_err());
    assert!(rig.registry.start(SessionId(70), Some(id), ALICE, rig.now).is_ok_and(|s| !s.resumed));
    rig.settle();
    assert_eq!(rig.stopped(), ["base"]);
}

#[test]
fn an_early_timeout_is_harmless_and_nothing_pending_says_so() {
    let mut rig = Rig::new();
    assert_eq!(rig.registry.poll_timeout(), None);
    rig.session(ALICE);
    rig.registry.handle_timeout(rig.now);
    assert_eq!(rig.registry.sessions().count(), 1);
    rig.pass(W);
    assert_eq!(rig.registry.poll_timeout(), None);
}

#[test]
fn tombstones_are_bounded_in_number_and_time() {
    let mut registry: SessionRegistry<&str> = SessionRegistry::new(W, 4096, Policy::Guard);
    let mut now = std::time::Instant::now();
    for id in 0..2000 {
        registry.start(SessionId(id), None, ALICE, now).expect("room");
    }
    now += W;
    registry.handle_timeout(now);
    let kept =
        (0..2000).filter(|id| matches!(registry.beat(SessionId(*id), &ALICE, None, now), Err(NoSession(Some(_)))));
    assert_eq!(kept.count(), 1024);
}
