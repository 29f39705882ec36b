//! The shell of sessions, stops and gates, its locks and threads as they are, in thousands of orders that shuttle chooses: whatever may be put off
//! between two locks is put off there sooner or later. What the registry decides under one lock has its own models in `session-core`; this shows
//! that nothing is lost between its decisions and the drivers.

#[path = "../../src/safety/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "the whole shell is here, and not every test needs all of it"
)]
mod safety;

mod rig;
mod runtime;

use machine_host::{DriverError, ResourceName};
use rig::{CONNECTION, ID, Rig, W, in_any_order, numbered};
use shuttle::thread;

/// Commands against the end of their lease: whatever was under way, the motor rests afterwards, and nothing enters once the session is gone.
#[test]
fn s16_a_lapse_against_admission_and_late_writes() {
    in_any_order(false, || {
        let rig = Rig::new();
        let commands: Vec<_> = (1..=2)
            .map(|mark| {
                let rig = rig.clone();
                thread::spawn(move || rig.command(Some(ID), None, mark))
            })
            .collect();
        let time = {
            let rig = rig.clone();
            thread::spawn(move || {
                rig.pass(W / 2);
                rig.beat(None);
                // A command may extend the lease in between.
                while !rig.safety.sessions().is_empty() {
                    rig.pass(W / 2);
                    thread::yield_now();
                }
                rig.over.happened();
                assert!(!rig.beat(None), "a late beat revives nothing");
            })
        };
        for command in commands {
            command.join().expect("no panic");
        }
        time.join().expect("no panic");
        assert!(rig.motor.rests(), "it turns for a session that is gone");
        rig.motor.was_written()
    });
}

/// One operation that writes again and again, cut off by the end of its lease.
#[test]
fn s25_a_lapse_ends_an_operation_between_its_writes() {
    in_any_order(false, || {
        let rig = Rig::new();
        let operation = {
            let rig = rig.clone();
            thread::spawn(move || {
                let Ok(safety::Admission::Run(running)) = rig.admitted(ID) else { return };
                while running.permit().is_cancelled().is_none() {
                    rig.write(&running.permit(), 1);
                    thread::yield_now();
                }
                running.finish(None);
            })
        };
        rig.pass(W * 2);
        assert!(rig.safety.sessions().is_empty());
        rig.over.happened();
        operation.join().expect("no panic");
        assert!(rig.motor.rests(), "it turns for a session that is gone");
        rig.motor.was_written()
    });
}

/// One numbered command on two routes.
fn two_copies(rig: &Rig) -> [thread::JoinHandle<Option<u64>>; 2] {
    [(); 2].map(|()| {
        let rig = rig.clone();
        thread::spawn(move || rig.command(Some(ID), Some(&numbered(1, [])), 5))
    })
}

/// Two copies of one number, on two routes.
#[test]
fn s90_two_copies_of_a_call_write_once_and_get_one_answer() {
    in_any_order(true, || {
        let rig = Rig::new();
        let copies = two_copies(&rig);
        for copy in copies {
            assert_eq!(copy.join().expect("no panic"), Some(5), "each copy gets the outcome");
        }
        assert_eq!(rig.motor.writes(), [5]);
        rig.motor.was_written()
    });
}

/// A call that was given up: once the beat that says so is answered, neither of its copies enters.
#[test]
fn s89_a_call_given_up_does_not_enter_after_the_beat_that_says_so() {
    in_any_order(false, || {
        let rig = Rig::new();
        let copies = two_copies(&rig);
        assert!(rig.beat(Some(&numbered(2, []))), "the session lives");
        rig.over.happened();
        for copy in copies {
            copy.join().expect("no panic");
        }
        assert!(rig.motor.writes().len() <= 1, "it was written twice");
        rig.motor.was_written()
    });
}

/// A Stop against a command with a lower number, which may come before, with or after it.
#[test]
fn s94_a_stop_against_motion_from_before() {
    in_any_order(false, || {
        let rig = Rig::new();
        let command = {
            let rig = rig.clone();
            thread::spawn(move || rig.command(Some(ID), Some(&numbered(1, [])), 1))
        };
        assert!(rig.stop(Some(&numbered(2, [1]))), "the motor stops");
        rig.over.happened();
        command.join().expect("no panic");
        assert!(rig.motor.rests(), "it turns after its Stop was answered");
        rig.motor.was_written()
    });
}

/// Late copies of a Stop against the command that came after it.
#[test]
fn s94_late_copies_of_a_stop_do_not_end_the_next_command() {
    in_any_order(true, || {
        let rig = Rig::new();
        rig.command(Some(ID), Some(&numbered(1, [])), 1);
        let copies: Vec<_> = (0..2)
            .map(|_| {
                let rig = rig.clone();
                thread::spawn(move || rig.stop(Some(&numbered(2, [1]))))
            })
            .collect();
        assert!(rig.stop(Some(&numbered(2, [1]))), "the motor stops");
        assert_eq!(rig.command(Some(ID), Some(&numbered(3, [2])), 3), Some(3));
        copies.into_iter().for_each(|copy| assert!(copy.join().expect("no panic")));
        assert_eq!(rig.motor.turns(), Some(3), "a copy of the Stop ended what came after it");
        rig.motor.was_written()
    });
}

/// A caller without a session, whose connection ends while its command is under way.
#[test]
fn s85_a_connection_that_ends_against_its_command() {
    in_any_order(false, || {
        let rig = Rig::new();
        let command = {
            let rig = rig.clone();
            thread::spawn(move || rig.command(None, None, 1))
        };
        rig.safety.closed(CONNECTION);
        rig.over.happened();
        command.join().expect("no panic");
        assert!(rig.motor.rests(), "it turns for a connection that is gone");
        rig.motor.was_written()
    });
}

/// The machine's end against everything.
#[test]
fn a_machine_that_ends_is_at_rest() {
    in_any_order(false, || {
        let rig = Rig::new();
        let command = {
            let rig = rig.clone();
            thread::spawn(move || rig.command(Some(ID), None, 1))
        };
        shuttle::future::block_on(rig.safety.close(W));
        rig.over.happened();
        command.join().expect("no panic");
        assert!(rig.motor.rests(), "it turns on a machine that has ended");
        rig.motor.was_written()
    });
}

/// What these tests would say of a driver that asks no gate.
#[test]
#[should_panic(expected = "it turns after its Stop was answered")]
fn a_write_beside_the_gate_is_caught() {
    in_any_order(false, || {
        let rig = Rig::new();
        let command = {
            let motor = rig.motor.clone();
            thread::spawn(move || {
                thread::yield_now();
                motor.obey(1);
            })
        };
        assert!(rig.stop(Some(&numbered(2, [1]))), "the motor stops");
        command.join().expect("no panic");
        assert!(rig.motor.rests(), "it turns after its Stop was answered");
        rig.motor.was_written()
    });
}

/// What these tests would say of a shell that lets a lapsed session's command in: its slot was taken before, and it writes again later.
#[test]
#[should_panic(expected = "it turns for a session that is gone")]
fn a_second_write_in_one_slot_is_caught() {
    in_any_order(false, || {
        let rig = Rig::new();
        let command = {
            let rig = rig.clone();
            thread::spawn(move || {
                if rig.command(Some(ID), None, 1).is_some() {
                    rig.motor.obey(1);
                }
            })
        };
        rig.pass(W * 2);
        assert!(rig.safety.sessions().is_empty());
        command.join().expect("no panic");
        assert!(rig.motor.rests(), "it turns for a session that is gone");
        rig.motor.was_written()
    });
}
