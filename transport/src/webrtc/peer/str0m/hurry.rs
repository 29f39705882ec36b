//! The clock that the DTLS handshake is shown. Pure.
//!
//! The library doubles the pause before every repetition of a flight, from [`super::DTLS_RTO`] on, and has no setting for where that
//! ends: at a tenth of all packets lost, one dial in some hundreds waited for more than three seconds. Its clock is ours to tell, so
//! that it runs ahead where a pause would be longer than that.

use std::time::{Duration, Instant};

/// The longest pause before a flight is repeated to a peer of ours. A round trip around the earth is 300 ms.
const LONGEST: Duration = Duration::from_millis(400);
/// The same to others: some repeat their own flight only after a second in which nothing came, so that one who repeats oftener than that
/// never hears from them again.
const LONGEST_TO_OTHERS: Duration = Duration::from_millis(1_200);
/// Pauses above this are no flight's, but the end of the handshake or no pause at all.
const NO_FLIGHT: Duration = Duration::from_secs(3 * 3600);

/// How far the clock runs ahead.
#[derive(Debug, Default)]
pub(super) struct Hurry {
    ahead: Duration,
}

impl Hurry {
    /// What DTLS is told.
    pub fn clock(&self, now: Instant) -> Instant {
        now + self.ahead
    }

    /// When DTLS is to be woken that asks for `at` by its clock, to a peer that is `ours` or not.
    pub fn wake(&mut self, at: Instant, now: Instant, ours: bool) -> Instant {
        let pause = at.saturating_duration_since(self.clock(now));
        let longest = if ours { LONGEST } else { LONGEST_TO_OTHERS };
        if pause > longest && pause < NO_FLIGHT {
            self.ahead += pause - longest;
        }
        now + at.saturating_duration_since(self.clock(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_that_doubles_ends_at_the_longest_and_time_never_runs_back() {
        for (ours, pauses) in [(true, [100, 200, 400, 400, 400, 400]), (false, [100, 200, 400, 800, 1200, 1200])] {
            let (mut hurry, mut now, mut pause) = (Hurry::default(), Instant::now(), Duration::from_millis(100));
            for waited in pauses {
                let asked = hurry.clock(now) + pause;
                let at = hurry.wake(asked, now, ours);
                assert_eq!(at - now, Duration::from_millis(waited));
                // Asked again meanwhile, the same moment is meant.
                assert_eq!(hurry.wake(asked, now + Duration::from_millis(50), ours), at);
                now = at;
                assert_eq!(hurry.clock(now), asked);
                pause *= 2;
            }
        }
    }

    #[test]
    fn the_end_of_the_handshake_is_not_hurried() {
        let (mut hurry, now) = (Hurry::default(), Instant::now());
        let end = now + NO_FLIGHT;
        assert_eq!(hurry.wake(end, now, true), end);
        assert_eq!(hurry.clock(now), now);
    }
}
