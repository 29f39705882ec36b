//! How much may be unacknowledged: enough to keep the path busy, little enough that a beat behind it is not late. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What may always be out: on a path of 2 Mbit/s it is 131 ms.
pub const FLOOR: usize = 32 << 10;
/// What may be out at most: the receive window of existing peers.
const CEILING: usize = 1 << 20;
/// What the queues on the path may add to the round trip.
const QUEUE: Duration = Duration::from_millis(50);
/// And in bytes: 10 ms at 25 MB/s, and about what a UDP socket with Linux's default buffer takes while its process does not run.
const QUEUE_BYTES: f64 = (256 << 10) as f64;
/// The shortest time over which a rate is taken.
const SAMPLE: Duration = Duration::from_millis(20);
/// Samples whose best is the rate.
const SAMPLES: usize = 8;
/// How long the best round trip counts, twice at most.
const RTT_MEMORY: Duration = Duration::from_secs(10);
/// What the next message is taken to be at least, once it is known that larger ones come.
const EXPECTED: usize = 16 << 10;

/// The gate: `max(32 KiB, acknowledged rate x (round trip + 50 ms))`, of those 50 ms at most 256 KiB.
#[derive(Debug)]
pub(crate) struct Gate {
    unacknowledged: usize,
    last_message: usize,
    /// Of the running sample: what was acknowledged, and the time in which something was out, up to `since`. A fast path acknowledges each message
    /// before the next is written: a sample that began anew then would never be full, and its rate never known.
    acknowledged: usize,
    busy: Duration,
    since: Instant,
    /// Bytes per second, of full samples, newest last.
    rates: VecDeque<f64>,
    /// The best round trip of this memory and of the one before.
    best: [Option<Duration>; 2],
    best_since: Instant,
}

impl Gate {
    pub fn new(now: Instant) -> Self {
        Self {
            unacknowledged: 0,
            last_message: 0,
            acknowledged: 0,
            busy: Duration::ZERO,
            since: now,
            rates: VecDeque::with_capacity(SAMPLES),
            best: [None; 2],
            best_since: now,
        }
    }

    /// A round trip was measured.
    pub fn handle_rtt(&mut self, rtt: Duration, now: Instant) {
        if now.saturating_duration_since(self.best_since) >= RTT_MEMORY {
            self.best = [None, self.best[0]];
            self.best_since = now;
        }
        self.best[0] = Some(self.best[0].map_or(rtt, |b| b.min(rtt)));
    }

    /// A message was written.
    pub fn handle_written(&mut self, bytes: usize, now: Instant) {
        if self.unacknowledged == 0 {
            // Nothing was out: the time that passed tells nothing of the path.
            self.since = now;
        }
        self.unacknowledged += bytes;
        self.last_message = bytes;
    }

    /// So much is unacknowledged now; returns what has been acknowledged since the last time.
    pub fn handle_unacknowledged(&mut self, bytes: usize, now: Instant) -> usize {
        let news = self.unacknowledged.saturating_sub(bytes);
        if self.unacknowledged > 0 {
            self.busy += now.saturating_duration_since(self.since);
            self.since = now;
        }
        self.unacknowledged = bytes;
        self.acknowledged += news;
        if self.busy >= SAMPLE.max(self.rtt()) {
            let rate = self.acknowledged as f64 / self.busy.as_secs_f64();
            // While little is out the path is not full, and a low rate is the program's, not the path's.
            if bytes >= FLOOR / 2 || rate > self.rate() {
                if self.rates.len() == SAMPLES {
                    self.rates.pop_front();
                }
                self.rates.push_back(rate);
            }
            (self.acknowledged, self.busy) = (0, Duration::ZERO);
        }
        news
    }

    /// What may be unacknowledged, in bytes.
    pub fn limit(&self) -> usize {
        let queue = (self.rate() * QUEUE.as_secs_f64()).min(QUEUE_BYTES);
        let allowed = self.rate() * self.rtt().as_secs_f64() + queue;
        (allowed as usize).clamp(FLOOR, CEILING)
    }

    /// How long the next message may be so that two of them are out at once, and one that comes after them waits for no more than the rest does.
    pub fn longest(&self) -> usize {
        self.limit() / 2
    }

    /// Whether the next message may be taken. Something always may when nothing is out.
    pub fn is_open(&self) -> bool {
        self.unacknowledged == 0 || self.unacknowledged + self.last_message.min(EXPECTED) <= self.limit()
    }

    fn rate(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    fn rtt(&self) -> Duration {
        self.best.into_iter().flatten().min().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path that carries `rate` bytes per second with a round trip of `rtt`; returns the most that stood before the wire, as time.
    fn run(rate: f64, rtt: Duration, message: usize) -> (Duration, f64) {
        let start = Instant::now();
        let (mut now, mut gate) = (start, Gate::new(start));
        gate.handle_rtt(rtt, start);
        let mut flying: VecDeque<(Instant, usize)> = VecDeque::new();
        let (mut idle, mut worst, mut delivered, mut unacked) = (start, Duration::ZERO, 0, 0);
        while now < start + Duration::from_secs(10) {
            while flying.front().is_some_and(|(at, _)| *at <= now) {
                let (_, bytes) = flying.pop_front().expect("looked at");
                unacked -= bytes;
                delivered += bytes;
            }
            gate.handle_unacknowledged(unacked, now);
            while gate.is_open() {
                idle = idle.max(now) + Duration::from_secs_f64(message as f64 / rate);
                flying.push_back((idle + rtt, message));
                unacked += message;
                gate.handle_written(message, now);
                worst = worst.max(idle - now);
            }
            now += Duration::from_millis(1);
        }
        (worst, delivered as f64 / (10.0 * rate))
    }

    #[test]
    fn a_slow_path_keeps_its_queue_below_200_ms_and_stays_busy() {
        let (queue, used) = run(250_000.0, Duration::from_millis(10), 16 << 10);
        assert!(queue <= Duration::from_millis(200), "{queue:?}");
        assert!(used > 0.95, "{used}");
    }

    #[test]
    fn a_fast_long_path_is_filled() {
        let (queue, used) = run(10_000_000.0, Duration::from_millis(40), 16 << 10);
        assert!(used > 0.9, "{used}");
        assert!(queue <= Duration::from_millis(100), "{queue:?}");
    }

    #[test]
    fn a_path_that_acknowledges_each_message_before_the_next_is_known_to_be_fast() {
        let start = Instant::now();
        let (mut now, mut gate) = (start, Gate::new(start));
        gate.handle_rtt(Duration::from_micros(100), start);
        for _ in 0..1_000 {
            gate.handle_written(16 << 10, now);
            now += Duration::from_micros(100);
            gate.handle_unacknowledged(0, now);
            // The program takes its time.
            now += Duration::from_millis(1);
        }
        let (rate, known) = (f64::from(16 << 10) / 100e-6, gate.rate());
        assert!((rate - known).abs() < rate / 100.0, "{known}");
        assert!(gate.longest() >= 65_000, "{}", gate.longest());
    }

    #[test]
    fn on_one_computer_the_queue_is_bounded_in_bytes() {
        let start = Instant::now();
        let mut gate = Gate::new(start);
        gate.handle_rtt(Duration::from_micros(100), start);
        for n in 0..100u32 {
            let now = start + n * Duration::from_millis(20);
            gate.handle_unacknowledged(gate.unacknowledged / 2, now);
            while gate.is_open() {
                gate.handle_written(16 << 10, now);
            }
            assert!(gate.unacknowledged <= 288 << 10, "{}", gate.unacknowledged);
        }
    }
}
