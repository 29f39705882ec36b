//! Many generated schedules, from one seed that is printed and can be given back.

use std::cell::Cell;
use std::fmt::Debug;
use std::sync::Once;

use proptest::collection::vec;
use proptest::prelude::{Strategy, any};
use proptest::test_runner::{Config, RngSeed, TestError, TestRunner};

thread_local! {
    static SHRINKING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `run` on `count` schedules, each told by fewer than `steps` times `length` bytes; fails with the smallest that fails, and with the seed
/// that found it. `LIFELINE_SEED` replays a seed, `LIFELINE_SCHEDULES` multiplies the count.
#[allow(clippy::disallowed_methods, reason = "a seed comes from somewhere")]
pub fn hold<S: Debug>(
    test: &str,
    count: u32,
    (steps, length): (usize, usize),
    told: impl Fn(&[u8]) -> S,
    run: impl Fn(&S),
) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let fresh = || std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64);
    let seed = number("LIFELINE_SEED").unwrap_or_else(fresh);
    let cases = count * number("LIFELINE_SCHEDULES").unwrap_or(1) as u32;
    let config = Config { cases, rng_seed: RngSeed::Fixed(seed), failure_persistence: None, ..Config::default() };
    // A failing schedule is shrunk by running many smaller ones: only the last one's panic is worth reading.
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !SHRINKING.get() {
                hook(panic);
            }
        }));
    });
    SHRINKING.set(true);
    // Whole steps are left out first, then their bytes become smaller.
    let steps = vec(vec(any::<u8>(), length), 1..steps);
    let schedules = steps.prop_map(|steps| told(&steps.concat()));
    let result = TestRunner::new(config).run(&schedules, |schedule| {
        run(&schedule);
        Ok(())
    });
    SHRINKING.set(false);
    match result {
        Ok(()) => println!("{test}: {cases} schedules of seed {seed}"),
        Err(TestError::Fail(why, schedule)) => panic!(
            "{why}\nthe smallest schedule that fails: {schedule:#?}\nreplay: LIFELINE_SEED={seed} cargo test -p {} --test worlds {test}",
            env!("CARGO_PKG_NAME")
        ),
        Err(error) => panic!("{error}"),
    }
}
