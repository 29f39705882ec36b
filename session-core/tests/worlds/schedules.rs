//! Many generated schedules, from one seed that is printed and can be given back.

use std::cell::Cell;
use std::fmt::Debug;
use std::sync::Once;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngSeed, TestError, TestRunner};

thread_local! {
    static SHRINKING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `run` on `count` schedules; fails with the smallest that fails, and with the seed that found it. `LIFELINE_SEED` replays a seed,
/// `LIFELINE_SCHEDULES` multiplies the count.
#[allow(clippy::disallowed_methods, reason = "a seed comes from somewhere")]
pub fn hold<S: Strategy>(test: &str, count: u32, schedules: S, run: impl Fn(S::Value))
where
    S::Value: Debug,
{
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
    let result = TestRunner::new(config).run(&schedules, |schedule| {
        run(schedule);
        Ok(())
    });
    SHRINKING.set(false);
    match result {
        Ok(()) => println!("{test}: {cases} schedules of seed {seed}"),
        Err(TestError::Fail(why, schedule)) => panic!(
            "{why}\nthe smallest schedule that fails: {schedule:#?}\nreplay: LIFELINE_SEED={seed} cargo test -p session-core --test {test}"
        ),
        Err(error) => panic!("{error}"),
    }
}
