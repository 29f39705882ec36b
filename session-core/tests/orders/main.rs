//! Every order in which a handful of things can happen to a machine: copies arrive on two routes, callers give up, leases end, a route is swapped, a
//! Stop comes and is slow, a driver obeys at the last moment. Each order is lived from its beginning, and the same is held in each as in the
//! generated lives of `worlds`: s89, s90, s91, s94, s96, and S1, S2, S3, S5, S7 of the registry's model.
//!
//! A check that cannot fail shows nothing. So each scenario is lived again by machines that do one thing wrong, and has to say so.

mod machine;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use machine::Fault;
use session_core::SessionId;
use world::{Event, Message, What, World};

struct Scenario {
    sessions: usize,
    messages: Vec<Message>,
    /// Sessions whose lease ends at some time.
    expiring: &'static [u128],
}

fn says(session: u128, number: u64, open: &'static [u64], what: What) -> Message {
    Message { session: SessionId(session), number: Some(number), open, what }
}

/// A command, its copy on another route, and the next command on the same wheel.
fn copies() -> Scenario {
    let one = says(0, 1, &[], What::Motion("left"));
    let two = says(0, 2, &[1], What::Motion("base"));
    Scenario { sessions: 1, messages: vec![one, one, two, two], expiring: &[0] }
}

/// A command that is given up, the beat that says so, and one of another task.
fn given_up() -> Scenario {
    let one = says(0, 1, &[], What::Motion("left"));
    let other = says(0, 2, &[1], What::Motion("arm"));
    let beat = says(0, 3, &[2], What::Beat);
    Scenario { sessions: 1, messages: vec![one, one, other, beat], expiring: &[] }
}

/// A command of a whole, a Stop of its part on two routes, and the command after it.
fn stopped() -> Scenario {
    let one = says(0, 1, &[], What::Motion("base"));
    let stop = says(0, 2, &[1], What::Stop("left"));
    let next = says(0, 3, &[2], What::Motion("left"));
    Scenario { sessions: 1, messages: vec![one, stop, stop, next], expiring: &[] }
}

/// A Stop that was given up before it arrived, among commands.
fn stop_given_up() -> Scenario {
    let one = says(0, 1, &[], What::Motion("left"));
    let stop = says(0, 2, &[1], What::Stop("left"));
    let beat = says(0, 3, &[1], What::Beat);
    Scenario { sessions: 1, messages: vec![one, stop, stop, beat], expiring: &[0] }
}

/// Commands before and after a StopAll, and its copy.
fn all_stopped() -> Scenario {
    let one = says(0, 1, &[], What::Motion("arm"));
    let all = says(0, 2, &[1], What::StopAll);
    let next = says(0, 3, &[2], What::Motion("left"));
    Scenario { sessions: 1, messages: vec![one, all, all, next], expiring: &[] }
}

/// A command, beats that were in a queue, and the end of the lease.
fn lapsed() -> Scenario {
    let one = says(0, 1, &[], What::Motion("base"));
    let beat = says(0, 2, &[1], What::Beat);
    let late = says(0, 3, &[1], What::Beat);
    Scenario { sessions: 1, messages: vec![one, one, beat, late], expiring: &[0] }
}

/// One client's command and its stalled copy, another client on the same wheel, and the end of either.
fn taken_over() -> Scenario {
    let one = says(0, 1, &[], What::Motion("left"));
    let theirs = Message { session: SessionId(1), number: None, open: &[], what: What::Motion("left") };
    Scenario { sessions: 2, messages: vec![one, one, theirs], expiring: &[1, 0] }
}

/// Says which order it was, where a check fails in it.
struct Told<'a>(&'a [Event], &'a Scenario);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("in the order {:#?}\nof {:#?}", self.0, self.1.messages);
        }
    }
}

/// Lives every order; how many there are.
#[allow(clippy::disallowed_methods, reason = "an order needs a first instant")]
fn every_order(scenario: &Scenario, fault: Option<Fault>) -> usize {
    let start = Instant::now();
    // Of how many things that were possible which one came, step by step.
    let mut path: Vec<(usize, usize)> = Vec::new();
    let mut orders = 0;
    loop {
        let mut world = World::new(&scenario.messages, scenario.expiring, scenario.sessions, fault, start);
        let mut lived = Vec::new();
        loop {
            let possible = world.possible();
            if possible.is_empty() {
                break;
            }
            if path.len() == lived.len() {
                path.push((0, possible.len()));
            }
            let event = possible[path[lived.len()].0];
            lived.push(event);
            let told = Told(&lived, scenario);
            world.apply(event);
            drop(told);
        }
        let told = Told(&lived, scenario);
        world.end();
        drop(told);
        orders += 1;
        while let Some((chosen, of)) = path.pop() {
            if chosen + 1 < of {
                path.push((chosen + 1, of));
                break;
            }
        }
        if path.is_empty() {
            return orders;
        }
    }
}

/// Nothing goes wrong in any order.
fn holds(name: &str, scenario: &Scenario) {
    println!("{name}: {} orders", every_order(scenario, None));
}

/// A machine that does this wrong is caught, by this check.
fn catches(scenario: &Scenario, fault: Fault, by: &str) {
    let failed = catch_unwind(AssertUnwindSafe(|| every_order(scenario, Some(fault))));
    let panic = failed.expect_err("no check failed");
    let text =
        panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned()));
    let text = text.expect("a panic says why");
    assert!(text.contains(by), "{fault:?} was caught by another check: {text}");
}

#[test]
fn s90_copies_in_every_order() {
    holds("copies", &copies());
}

#[test]
fn s89_a_call_given_up_in_every_order() {
    holds("given up", &given_up());
}

#[test]
fn s94_a_stop_in_every_order() {
    holds("stopped", &stopped());
    holds("all stopped", &all_stopped());
}

#[test]
fn s91_a_stop_that_was_given_up_in_every_order() {
    holds("a stop given up", &stop_given_up());
}

#[test]
fn s16_a_lapse_in_every_order() {
    holds("lapsed", &lapsed());
}

#[test]
fn s96_a_stalled_copy_and_another_client_in_every_order() {
    holds("taken over", &taken_over());
}

#[test]
fn every_fault_is_caught() {
    catches(&copies(), Fault::RunsCopies, "s90");
    catches(&given_up(), Fault::IgnoresLists, "s89");
    catches(&copies(), Fault::RunsLate, "s91");
    catches(&lapsed(), Fault::ForgetsToStop, "S1");
    catches(&stopped(), Fault::StopsOnce, "s94");
    catches(&stopped(), Fault::OpensGates, "s94");
    catches(&lapsed(), Fault::OpensGates, "S2");
    catches(&lapsed(), Fault::Revives, "S3");
    catches(&lapsed(), Fault::ExtendsByOld, "S1");
    catches(&stopped(), Fault::AnswersEarly, "s94");
    catches(&taken_over(), Fault::StopsOthers, "S7");
    catches(&copies(), Fault::SaysNotRun, "s90");
    catches(&taken_over(), Fault::AssociatesCopies, "S7");
    catches(&stop_given_up(), Fault::RefusesStops, "s91");
}
