//! A machine with 100,000 sessions: what a beat costs, how exactly leases end, what the next deadline costs; beside a scan of all sessions every
//! 10 ms, which is how existing machines find the ones that are over.
//!
//! `cargo bench -p session-core`. Prints the ratios, and fails where a bar is missed: a beat within 300 ns, an end within 1 ms of its
//! deadline, a next deadline that does not cost more with a thousand times the sessions.

#![allow(clippy::disallowed_methods, reason = "a bench has a clock")]

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use session_core::registry::{MachineOutput, Policy, SessionRegistry};
use session_core::{Owner, SessionId};

const W: Duration = Duration::from_secs(2);
const OWNER: Owner = Owner([7; 32]);
const MANY: u128 = 100_000;
const FEW: u128 = 100;
/// How often existing machines look for sessions that are over.
const SCAN: Duration = Duration::from_millis(10);

/// Ids as random as real ones, and the same in every run.
fn id(n: u128) -> SessionId {
    SessionId((n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
}

/// Sessions whose leases end one after another over a whole window.
fn registry(sessions: u128, start: Instant) -> SessionRegistry<u32> {
    let mut registry = SessionRegistry::new(W, sessions as usize, Policy::Guard);
    registry.configure(1, true, BTreeSet::new(), start);
    for n in 0..sessions {
        let at = start + W.mul_f64(n as f64 / sessions as f64) / 2;
        registry.start(id(n), None, OWNER, at).expect("room");
    }
    registry
}

/// The time of one of `count` calls, the best of five rounds: what it costs where nothing else runs.
fn nanoseconds(count: u32, mut call: impl FnMut(u32)) -> f64 {
    let round = |call: &mut dyn FnMut(u32)| {
        let began = Instant::now();
        (0..count).for_each(&mut *call);
        began.elapsed().as_nanos() as f64 / f64::from(count)
    };
    (0..5).map(|_| round(&mut call)).fold(f64::INFINITY, f64::min)
}

/// A beat of every session in turn, while time goes on as it does when each beats five times a window.
fn beats(sessions: u128) -> f64 {
    let start = Instant::now();
    let mut registry = registry(sessions, start);
    let mut now = start + W / 2;
    let step = (W / 5) / sessions as u32;
    nanoseconds(200_000, |n| {
        now += step;
        black_box(registry.beat(id(u128::from(n) % sessions), &OWNER, None, now)).expect("alive");
    })
}

fn next_deadline(sessions: u128) -> f64 {
    let registry = registry(sessions, Instant::now());
    nanoseconds(100_000, |_| {
        black_box(registry.poll_timeout());
    })
}

/// How late the latest of all leases ends, on a clock that jumps from deadline to deadline.
fn latest_end(sessions: u128) -> Duration {
    let start = Instant::now();
    let mut registry = registry(sessions, start);
    let mut now = start + W / 2;
    let mut ends = BTreeMap::new();
    for n in 0..sessions {
        now += Duration::from_micros(9);
        registry.beat(id(n), &OWNER, None, now).expect("alive");
        ends.insert(id(n), now + W);
    }
    let mut latest = Duration::ZERO;
    while let Some((at, _)) = registry.poll_timeout() {
        now = now.max(at);
        registry.handle_timeout(now);
        while let Some(output) = registry.poll_output() {
            if let MachineOutput::Lapsed { holder: session_core::registry::Holder::Session(id), .. } = output {
                let end = ends.remove(&id).expect("a session that lived");
                assert!(now >= end, "a lease ended early");
                latest = latest.max(now - end);
            }
        }
    }
    assert!(ends.is_empty(), "{} leases never ended", ends.len());
    latest
}

/// The cost in a second of finding the sessions that are over: by scans of all, and by deadlines.
fn a_second_of_watching(sessions: u128) -> (Duration, Duration) {
    let start = Instant::now();
    let table: BTreeMap<SessionId, Instant> = (0..sessions).map(|n| (id(n), start + W)).collect();
    let began = Instant::now();
    let scans = 20;
    for scan in 0..scans {
        let now = start + SCAN * scan;
        black_box(table.values().filter(|deadline| **deadline <= now).count());
    }
    let by_scan = began.elapsed() * (1000 / SCAN.as_millis() as u32) / scans;
    // What deadlines cost beyond the beats themselves: each lease's place in the index is renewed once a window.
    let mut registry = registry(sessions, start);
    let mut now = start + W / 2;
    let mut spent = Duration::ZERO;
    let step = (W / 5) / sessions as u32;
    for round in 0..10 * sessions {
        now += step;
        if registry.poll_timeout().is_some_and(|(at, _)| at <= now) {
            let began = Instant::now();
            registry.handle_timeout(now);
            spent += began.elapsed();
        }
        registry.beat(id(round % sessions), &OWNER, None, now).expect("alive");
    }
    (by_scan, spent.div_f64((W * 2).as_secs_f64()))
}

fn bars(_: &mut Criterion) {
    let (few, many) = (beats(FEW), beats(MANY));
    println!("a beat: {many:.0} ns with {MANY} sessions, {few:.0} ns with {FEW} (x{:.1}); bar 300 ns", many / few);
    let late = latest_end(MANY);
    println!("the latest end of {MANY} leases: {late:?} after its deadline; bar 1 ms; a scan: up to {SCAN:?}");
    let (short, long) = (next_deadline(FEW), next_deadline(MANY));
    println!("the next deadline: {long:.1} ns with {MANY} sessions, {short:.1} ns with {FEW} (x{:.1})", long / short);
    let (by_scan, by_deadline) = a_second_of_watching(MANY);
    let ratio = by_scan.as_secs_f64() / by_deadline.as_secs_f64();
    println!("a second of watching {MANY} sessions: scans {by_scan:?}, deadlines {by_deadline:?} (x{ratio:.1} less)");
    assert!(many <= 300.0, "a beat takes {many:.0} ns");
    assert!(late <= Duration::from_millis(1), "a lease ended {late:?} late");
    assert!(
        long <= short * 4.0 + 10.0,
        "the next deadline costs {long:.1} ns with many sessions, {short:.1} ns with few"
    );
}

fn a_beat(criterion: &mut Criterion) {
    for sessions in [FEW, MANY] {
        let start = Instant::now();
        let mut registry = registry(sessions, start);
        let mut now = start + W / 2;
        let mut n = 0;
        criterion.bench_function(&format!("a beat among {sessions} sessions"), |bench| {
            bench.iter(|| {
                n = (n + 1) % sessions;
                now += (W / 5) / sessions as u32;
                registry.beat(id(n), &OWNER, None, now).expect("alive");
            });
        });
    }
}

criterion_group!(benches, bars, a_beat);
criterion_main!(benches);
