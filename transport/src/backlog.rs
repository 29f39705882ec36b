//! What a thin way may hold of a connection's data: TCP fills whatever queue stands before it, and every beat then waits behind that. Pure.
//!
//! While the socket is full for most of the time, what it takes is what the way carries. Where that is little, the kernel is to hold no more unsent
//! and unacknowledged bytes (SO_SNDBUF, with each write apart) than the way needs to stay busy: `rate x (round trip + 50 ms)`, as on WebRTC. Where the way carries more again,
//! what is allowed leaves with less delay than the 50 ms, so the next rate is higher, and so is what is allowed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What the queues on the way may add to the round trip.
const QUEUE: Duration = Duration::from_millis(50);
/// What may always be out: eleven packets. With less, TCP could not tell a lost one by those that follow it.
const FLOOR: usize = 16 << 10;
/// From here on the kernel decides by itself: it is 200 ms at 10 Mbit/s, and a queue that long is seldom allowed to stand before a faster way.
const UNBOUNDED: usize = 256 << 10;
/// The shortest time over which a rate is taken: what fills an empty queue of 200 ms is not carried yet, and makes a fifth of it.
const SAMPLE: Duration = Duration::from_secs(1);
/// Samples whose best is the rate.
const SAMPLES: usize = 3;
/// Writes that follow each other this closely belong together.
const IDLE: Duration = Duration::from_millis(5);
/// How long the best round trip counts, twice at most. What is on its way makes it longer, so while a long message goes all of them are too long by
/// up to the queue that is allowed: this is how often that is mistaken for the way itself.
const ROUND_TRIP_MEMORY: Duration = Duration::from_secs(30);
/// A full socket that takes nothing for longer than this, or round trips, is not on a slow way but on a broken one: this tells no rate.
const STUCK: Duration = Duration::from_secs(1);

/// From a full socket to the next: what it takes in between is what the way carried meanwhile.
#[derive(Debug)]
struct Cycle {
    since: Instant,
    /// When the socket took something again.
    took_at: Option<Instant>,
    taken: usize,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    /// The best round trip of this memory and of the one before, and since when this one counts.
    best: [Option<Duration>; 2],
    best_since: Option<Instant>,
    cycle: Option<Cycle>,
    /// Of the cycles of the running sample.
    taken: usize,
    took: Duration,
    /// Bytes per second, newest last.
    rates: VecDeque<f64>,
    /// What was allowed last, once anything was.
    allowed: Option<usize>,
}

impl Backlog {
    /// A round trip was measured.
    pub(crate) fn handle_round_trip(&mut self, round_trip: Duration, now: Instant) {
        let since = *self.best_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= ROUND_TRIP_MEMORY {
            self.best = [None, self.best[0]];
            self.best_since = Some(now);
        }
        self.best[0] = Some(self.best[0].map_or(round_trip, |best| best.min(round_trip)));
    }

    fn round_trip(&self) -> Duration {
        self.best.into_iter().flatten().min().unwrap_or_default()
    }

    /// Whether writes that succeed are to be told.
    pub(crate) fn is_sampling(&self) -> bool {
        self.cycle.is_some()
    }

    /// The socket took so much.
    pub(crate) fn handle_taken(&mut self, bytes: usize, now: Instant) {
        let round_trip = self.round_trip();
        let Some(cycle) = &mut self.cycle else { return };
        let took_at = *cycle.took_at.get_or_insert(now);
        cycle.taken += bytes;
        let waited = took_at.saturating_duration_since(cycle.since);
        // The program has nothing more to send, or nothing came through for a long time: this will be nobody's rate.
        let idle = now.saturating_duration_since(took_at) > waited.max(IDLE);
        if idle || waited >= STUCK.max(2 * round_trip) {
            self.cycle = None;
        }
    }

    /// The socket was full. What the kernel may hold from now on, in bytes, where that changes.
    pub(crate) fn handle_full(&mut self, now: Instant) -> Option<usize> {
        let Some(cycle) = &self.cycle else {
            self.cycle = Some(Cycle { since: now, took_at: None, taken: 0 });
            return None;
        };
        let took_at = cycle.took_at?;
        let (waited, whole) =
            (took_at.saturating_duration_since(cycle.since), now.saturating_duration_since(cycle.since));
        // Else the program had nothing to send for a while, and this is its rate and not the way's.
        if waited.mul_f64(1.33) >= whole {
            self.taken += cycle.taken;
            self.took += whole;
        }
        self.cycle = Some(Cycle { since: now, took_at: None, taken: 0 });
        if self.took < SAMPLE.max(self.round_trip()) {
            return None;
        }
        if self.rates.len() == SAMPLES {
            self.rates.pop_front();
        }
        self.rates.push_back(self.taken as f64 / self.took.as_secs_f64());
        (self.taken, self.took) = (0, Duration::ZERO);
        self.allow()
    }

    fn allow(&mut self) -> Option<usize> {
        let rate = self.rates.iter().copied().fold(0.0, f64::max);
        let needed = ((rate * (self.round_trip() + QUEUE).as_secs_f64()) as usize).max(FLOOR);
        // Once there is a bound it is kept true.
        if self.allowed.is_none() && needed >= UNBOUNDED {
            return None;
        }
        let is_near = self.allowed.is_some_and(|allowed| needed.abs_diff(allowed) * 4 < allowed);
        if is_near {
            return None;
        }
        self.allowed = Some(needed);
        self.allowed
    }

    /// How long a piece of a large message may be: half of what may be out, so that what comes after it waits for no more than that.
    pub(crate) fn longest(&self) -> usize {
        self.allowed.map_or(usize::MAX, |allowed| allowed / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A kernel that holds at most what it is allowed before a way of `rate` bytes per second: for how long what is written last waits in the end, and
    /// the share of the way that was used in the last half.
    fn run(rates: &[(u64, f64)], round_trip: Duration) -> (Duration, f64) {
        let start = Instant::now();
        let mut backlog = Backlog::default();
        backlog.handle_round_trip(round_trip, start);
        // What the kernel allows by itself fills any queue.
        let (mut allowed, mut held, mut carried, mut could) = (4_000_000.0_f64, 0.0_f64, 0.0, 0.0);
        let mut now = start;
        for (seconds, rate) in rates {
            (carried, could) = (0.0, 0.0);
            for step in 0..seconds * 1000 {
                now += MS;
                // A packet is held from when it is written until its acknowledgement: what is on its way does not wait for the link.
                let flying = (rate * round_trip.as_secs_f64()).min(held);
                let left = (rate * 0.001).min(held - flying + rate * 0.001).min(held);
                held -= left;
                if step * 2 >= seconds * 1000 {
                    carried += left;
                    could += rate * 0.001;
                }
                let room = (allowed - held).max(0.0);
                if room >= 1.0 {
                    held += room;
                    backlog.handle_taken(room as usize, now);
                }
                if let Some(bytes) = backlog.handle_full(now) {
                    allowed = bytes as f64;
                }
            }
        }
        let rate = rates[rates.len() - 1].1;
        (Duration::from_secs_f64(held / rate), carried / could)
    }

    #[test]
    fn a_thin_way_holds_little_and_stays_busy() {
        let (waits, used) = run(&[(60, 250_000.0)], 20 * MS);
        assert!(waits <= 100 * MS, "{waits:?}");
        assert!(used > 0.95, "{used}");
    }

    #[test]
    fn a_fast_way_is_left_to_the_kernel() {
        let start = Instant::now();
        let mut backlog = Backlog::default();
        backlog.handle_round_trip(MS, start);
        for step in 1..10_000 {
            assert_eq!(backlog.handle_full(start + step * MS), None);
            backlog.handle_taken(64 << 10, start + step * MS + MS);
        }
        assert_eq!(backlog.longest(), usize::MAX);
    }

    #[test]
    fn what_waits_on_the_way_is_not_its_length_for_a_minute() {
        let start = Instant::now();
        let mut backlog = Backlog::default();
        backlog.handle_round_trip(20 * MS, start);
        for second in 1..59 {
            backlog.handle_round_trip(220 * MS, start + second * 1_000 * MS);
            assert_eq!(backlog.round_trip(), 20 * MS, "{second}");
        }
        for second in 59..120 {
            backlog.handle_round_trip(220 * MS, start + second * 1_000 * MS);
        }
        assert_eq!(backlog.round_trip(), 220 * MS, "a way may become longer");
    }

    #[test]
    fn a_way_that_gets_wider_is_used() {
        let (waits, used) = run(&[(20, 100_000.0), (20, 5_000_000.0)], 20 * MS);
        assert!(used > 0.9, "{used}");
        assert!(waits <= 100 * MS, "{waits:?}");
    }

    #[test]
    fn what_the_program_does_not_send_is_no_rate() {
        let start = Instant::now();
        let mut backlog = Backlog::default();
        for step in 0..1_000 {
            // Full for 2 ms of every 20: that is a program with messages of some length, not a slow way.
            let now = start + step * 20 * MS;
            assert_eq!(backlog.handle_full(now), None);
            backlog.handle_taken(10_000, now + 2 * MS);
        }
    }

    #[test]
    fn messages_one_after_the_other_tell_the_rate_of_a_thin_way() {
        let start = Instant::now();
        let (mut backlog, mut now, mut allowed) = (Backlog::default(), start, None);
        backlog.handle_round_trip(20 * MS, start);
        for _ in 0..20 {
            // Each waits for four times what 16 ms carry, then for its answer.
            for _ in 0..5 {
                allowed = backlog.handle_full(now).or(allowed);
                now += 16 * MS;
                backlog.handle_taken(4_000, now);
            }
            now += 200 * MS;
            backlog.handle_taken(4_000, now);
        }
        let allowed = allowed.expect("a thin way");
        assert!((16 << 10..20_000).contains(&allowed), "{allowed}");
    }

    #[test]
    fn a_way_that_carries_nothing_for_a_while_is_not_a_slow_one() {
        let start = Instant::now();
        let mut backlog = Backlog::default();
        for step in 0..100 {
            let now = start + step * Duration::from_secs(3);
            assert_eq!(backlog.handle_full(now), None);
            backlog.handle_taken(1_000, now + Duration::from_secs(2));
            assert_eq!(backlog.handle_full(now + Duration::from_secs(2)), None);
        }
    }
}
