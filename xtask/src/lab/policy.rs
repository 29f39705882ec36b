//! What one direction of a link does to packets, as a pure value: no clock, no socket, randomness from a seed. The link emulator drives it with
//! real packets; a simulator in one process can drive it with messages (this file needs nothing but the standard library).

use std::time::{Duration, Instant};

/// The longest queue before a rate limit. Real access links hold more; a row that does so says it.
pub const QUEUE: Duration = Duration::from_millis(200);

/// How a direction treats what it is given. The default is a perfect wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Time on the way.
    pub delay: Duration,
    /// Added to it, evenly spread from zero to this. Packets stay in order.
    pub jitter: Duration,
    /// Share of packets that are lost, 0 to 1.
    pub loss: f64,
    /// Mean number of packets lost in a row; 1 and below: each is lost or not by itself.
    pub burst: f64,
    /// Share of packets that overtake: they leave without delay, 0 to 1.
    pub reorder: f64,
    /// Bits per second; 0: as many as come.
    pub rate: u64,
    /// How long a packet may wait for the rate; what would wait longer is dropped (tail drop).
    pub queue: Duration,
    /// Everything vanishes, and nobody is told.
    pub black_hole: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            burst: 1.0,
            reorder: 0.0,
            rate: 0,
            queue: QUEUE,
            black_hole: false,
        }
    }
}

impl Policy {
    /// A wire of this delay, in milliseconds.
    pub fn delayed(ms: u64) -> Self {
        Self { delay: Duration::from_millis(ms), ..Self::default() }
    }

    /// A wire that swallows everything.
    pub fn hole() -> Self {
        Self { black_hole: true, ..Self::default() }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives then.
    Arrives(Instant),
    /// It was lost on the way, or in a black hole.
    Lost,
    /// The queue before the rate limit was full.
    Dropped,
}

/// One direction of a link.
#[derive(Clone, Debug)]
pub struct Way {
    policy: Policy,
    dice: Dice,
    /// Within a burst of losses.
    losing: bool,
    /// When the last bit given so far has left.
    free: Option<Instant>,
    /// When the last packet in order arrives.
    last: Option<Instant>,
}

impl Way {
    /// A direction whose decisions follow from `seed`.
    pub fn new(policy: Policy, seed: u64) -> Self {
        Self { policy, dice: Dice(seed), losing: false, free: None, last: None }
    }

    /// From now on. What is on the way already is not touched.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
        self.losing = false;
    }

    /// A packet of this many bytes is given to the link.
    pub fn handle_packet(&mut self, bytes: usize, now: Instant) -> Fate {
        let policy = self.policy;
        if policy.black_hole || self.loses() {
            return Fate::Lost;
        }
        // Packets are far below 2^32 bytes. Without a rate they take no time.
        let nanos = (bytes as u64).saturating_mul(8).saturating_mul(1_000_000_000).checked_div(policy.rate);
        let sent = match nanos {
            None => now,
            Some(nanos) => {
                let begins = self.free.map_or(now, |free| free.max(now));
                if begins.duration_since(now) > policy.queue {
                    return Fate::Dropped;
                }
                let sent = begins + Duration::from_nanos(nanos);
                self.free = Some(sent);
                sent
            }
        };
        if policy.reorder > 0.0 && self.dice.share() < policy.reorder {
            return Fate::Arrives(sent);
        }
        let arrives = sent + policy.delay + policy.jitter.mul_f64(self.dice.share());
        let arrives = self.last.map_or(arrives, |last| last.max(arrives));
        self.last = Some(arrives);
        Fate::Arrives(arrives)
    }

    /// Losses by themselves, or in bursts (a chain of two states: in the bad one everything is lost).
    fn loses(&mut self) -> bool {
        let Policy { loss, burst, .. } = self.policy;
        if loss <= 0.0 {
            return false;
        }
        let dice = self.dice.share();
        if burst <= 1.0 {
            return dice < loss;
        }
        self.losing = if self.losing { dice >= 1.0 / burst } else { dice < loss / (burst * (1.0 - loss).max(0.001)) };
        self.losing
    }
}

/// Numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1, without 1.
    #[allow(clippy::cast_precision_loss, reason = "53 bits fit")]
    pub fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Packets of 1,000 bytes every millisecond: how many of 20,000 were lost, and in how many rows.
    fn losses(policy: Policy) -> (usize, usize) {
        let start = Instant::now();
        let mut way = Way::new(policy, 7);
        let lost: Vec<bool> = (0..20_000).map(|i| way.handle_packet(1000, start + ms(i)) == Fate::Lost).collect();
        let rows = lost.windows(2).filter(|w| !w[0] && w[1]).count();
        (lost.iter().filter(|l| **l).count(), rows)
    }

    #[test]
    fn a_wire_delays_and_keeps_order() {
        let now = Instant::now();
        let mut way = Way::new(Policy { jitter: ms(10), ..Policy::delayed(20) }, 1);
        let mut last = now;
        for i in 0..1000_u32 {
            let given = now + Duration::from_micros(100) * i;
            let Fate::Arrives(at) = way.handle_packet(100, given) else { panic!("a wire loses nothing") };
            assert!(at >= last && at >= given + ms(20) && at < given + ms(31));
            last = at;
        }
    }

    #[test]
    fn losses_are_as_many_as_asked_and_as_long() {
        let (lost, rows) = losses(Policy { loss: 0.2, ..Policy::default() });
        assert!((3_700..4_300).contains(&lost), "{lost}");
        // By themselves: a row is 1 / (1 - 0.2) long.
        assert!((1.15..1.35).contains(&(lost as f64 / rows as f64)));
        let (lost, rows) = losses(Policy { loss: 0.2, burst: 8.0, ..Policy::default() });
        assert!((3_000..5_000).contains(&lost), "{lost}");
        assert!((6.5..9.5).contains(&(lost as f64 / rows as f64)), "{lost} in {rows} rows");
    }

    #[test]
    fn a_rate_queues_and_then_drops() {
        let now = Instant::now();
        // 1,000 bytes take 4 ms.
        let mut way = Way::new(Policy { rate: 2_000_000, ..Policy::default() }, 1);
        let fates: Vec<_> = (0..100).map(|_| way.handle_packet(1000, now)).collect();
        assert_eq!(fates[0], Fate::Arrives(now + ms(4)));
        assert_eq!(fates[50], Fate::Arrives(now + ms(204)));
        assert_eq!(fates[51], Fate::Dropped);
        // A queue that has drained takes packets again.
        assert_eq!(way.handle_packet(1000, now + ms(300)), Fate::Arrives(now + ms(304)));
    }

    #[test]
    fn some_overtake() {
        let now = Instant::now();
        let mut way = Way::new(Policy { reorder: 0.1, ..Policy::delayed(20) }, 3);
        let early = (0..1000).filter(|_| way.handle_packet(100, now) == Fate::Arrives(now)).count();
        assert!((60..140).contains(&early), "{early}");
    }

    #[test]
    fn a_hole_swallows_everything_and_a_seed_repeats() {
        let now = Instant::now();
        let mut way = Way::new(Policy::hole(), 3);
        assert!((0..100).all(|_| way.handle_packet(100, now) == Fate::Lost));
        let lossy = Policy { loss: 0.5, ..Policy::default() };
        let run = |seed| {
            let mut way = Way::new(lossy, seed);
            (0..64).map(|_| way.handle_packet(1, now) == Fate::Lost).collect::<Vec<_>>()
        };
        assert_eq!(run(9), run(9));
        assert_ne!(run(9), run(10));
    }
}
