//! The clock of leases: it runs through suspend.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Tells instants that go on while the computer is suspended: a base [`Instant`] plus what CLOCK_BOOTTIME has counted since. (`Instant`
/// by itself stands still in suspend, and a lease would outlive its client by the time asleep.)
#[derive(Clone, Copy, Debug)]
pub struct BootClock {
    base: Instant,
    booted: Duration,
}

impl BootClock {
    /// A clock that agrees with `Instant::now()` at this moment.
    pub fn new() -> Self {
        Self { base: Instant::now(), booted: boottime() }
    }

    /// Now.
    pub fn now(&self) -> Instant {
        self.base + boottime().saturating_sub(self.booted)
    }
}

impl Default for BootClock {
    fn default() -> Self {
        Self::new()
    }
}

fn boottime() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    // The kernel counts up from zero: neither part is ever negative.
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_at_now_and_never_goes_back() {
        let clock = BootClock::new();
        let (first, second) = (clock.now(), clock.now());
        assert!(second >= first);
        assert!(first.saturating_duration_since(Instant::now()) < Duration::from_secs(1));
    }
}
