//! How often the same caller may ask for the same thing.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Keys that are counted at once; beyond it the one that asked least recently is forgotten.
const MAX_KEYS: usize = 4096;

/// A sliding window of calls per caller, method and host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Calls within `window`.
    pub calls: usize,
    /// How long a call counts.
    pub window: Duration,
}

/// The calls that count, by key.
pub(super) struct Rates {
    limit: RateLimit,
    times: BTreeMap<String, VecDeque<Instant>>,
    /// Keys by when they were last asked for.
    latest: BTreeMap<(Instant, String), ()>,
}

impl Rates {
    pub(super) fn new(limit: RateLimit) -> Self {
        Self { limit, times: BTreeMap::new(), latest: BTreeMap::new() }
    }

    /// Counts one call of `key`; an error says that it is one too many.
    pub(super) fn count(&mut self, key: &str, now: Instant) -> Result<(), String> {
        let RateLimit { calls, window } = self.limit;
        self.forget(now);
        let times = self.times.entry(key.to_owned()).or_default();
        while times.front().is_some_and(|at| *at + window <= now) {
            times.pop_front();
        }
        if times.len() >= calls {
            return Err(format!("request exceeds rate limit (limit: {calls} in {window:?}) for {key}"));
        }
        if let Some(last) = times.back() {
            self.latest.remove(&(*last, key.to_owned()));
        }
        times.push_back(now);
        self.latest.insert((now, key.to_owned()), ());
        Ok(())
    }

    /// Forgets keys that have not been asked for within a window, and the oldest of too many.
    fn forget(&mut self, now: Instant) {
        while let Some(((last, key), ())) = self.latest.first_key_value() {
            if now < *last + self.limit.window && self.times.len() < MAX_KEYS {
                return;
            }
            self.times.remove(key);
            self.latest.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: RateLimit = RateLimit { calls: 2, window: Duration::from_secs(10) };

    #[test]
    fn the_window_slides() {
        let (start, mut rates) = (Instant::now(), Rates::new(LIMIT));
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(rates.count("a", at(0)), Ok(()));
        assert_eq!(rates.count("a", at(6)), Ok(()));
        let refused = rates.count("a", at(9)).expect_err("the third in ten seconds");
        assert_eq!(refused, "request exceeds rate limit (limit: 2 in 10s) for a");
        assert_eq!(rates.count("b", at(9)), Ok(()), "another key");
        assert_eq!(rates.count("a", at(10)), Ok(()), "the first counts no longer");
        assert!(rates.count("a", at(15)).is_err());
        assert_eq!(rates.count("a", at(16)), Ok(()));
    }

    #[test]
    fn a_hundred_thousand_keys_are_not_kept() {
        let (start, mut rates) = (Instant::now(), Rates::new(LIMIT));
        for i in 0..100_000u64 {
            assert_eq!(rates.count(&format!("key {i}"), start + Duration::from_micros(i)), Ok(()));
        }
        assert!(rates.times.len() <= MAX_KEYS && rates.latest.len() <= MAX_KEYS);
        assert_eq!(rates.count("late", start + Duration::from_secs(60)), Ok(()));
        assert_eq!((rates.times.len(), rates.latest.len()), (1, 1));
    }
}
