//! Small packets over a long way: not more of them than TCP's first window, spread over the round trip.
//!
//! A connection begins with a window of ten packets, whatever their size (RFC 6928), and falls back to it whenever it was idle. Calls at 100 Hz, each
//! in a packet of its own, have spent it in a tenth of a second: over a round trip of 800 ms everything behind them, beats included, waits for the
//! rest of it, and so does every answer on its way back. So over a long way the first small packets leave at once and the next are gathered,
//! an eighth of the round trip at most; what fills a packet never waits. It is Nagle's thought without its wait for an answer.

use std::time::{Duration, Instant};

/// Shorter ways have their window back before anybody notices.
const LONG: Duration = Duration::from_millis(100);
/// Packets a round trip; with those at once they fit into a window of ten.
const PER_ROUND_TRIP: u32 = 8;
/// Packets that leave at once after a pause.
const AT_ONCE: u32 = 2;

/// When what was written leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaves {
    /// At once.
    Now,
    /// With what follows until then: whoever asked looks again at this time.
    Gathered(Instant),
    /// With what is gathered already.
    Along,
}

/// One direction of a connection over a long way.
#[derive(Debug)]
pub(crate) struct Pace {
    apart: Duration,
    /// When the next packet would leave if they left evenly.
    even: Instant,
    /// Something is gathered.
    gathering: bool,
}

impl Pace {
    /// `None`: the way is short.
    pub(crate) fn of(round_trip: Duration, now: Instant) -> Option<Self> {
        (round_trip >= LONG).then(|| Self { apart: round_trip / PER_ROUND_TRIP, even: now, gathering: false })
    }

    /// The way has become this long.
    pub(crate) fn set_round_trip(&mut self, round_trip: Duration) {
        self.apart = round_trip.max(LONG) / PER_ROUND_TRIP;
    }

    /// Something is written. What is `urgent` takes along whatever is gathered.
    pub(crate) fn write(&mut self, urgent: bool, now: Instant) -> Leaves {
        if urgent {
            self.leave(now);
            return Leaves::Now;
        }
        if self.gathering {
            return Leaves::Along;
        }
        let at = self.even.checked_sub(self.apart * (AT_ONCE - 1)).unwrap_or(now);
        if at <= now {
            self.leave(now);
            return Leaves::Now;
        }
        self.gathering = true;
        Leaves::Gathered(at)
    }

    /// The time has come for what is gathered; `false`: it has left already.
    pub(crate) fn due(&mut self, now: Instant) -> bool {
        let gathering = self.gathering;
        if gathering {
            self.leave(now);
        }
        gathering
    }

    fn leave(&mut self, now: Instant) {
        self.gathering = false;
        self.even = self.even.max(now) + self.apart;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(800);
    const MS: Duration = Duration::from_millis(1);

    /// Packets that leave when something is written every 10 ms, in each of the first round trips; urgent ones among them leave at once.
    fn packets(urgent_every: Option<u32>) -> Vec<u32> {
        let start = Instant::now();
        let mut pace = Pace::of(ROUND_TRIP, start).expect("a long way");
        let (mut left, mut due) = (vec![0; 4], None);
        for ms in 0..3_200 {
            let now = start + MS * ms;
            let counted = &mut left[(ms / 800) as usize];
            if due.is_some_and(|at| at <= now) {
                due = None;
                *counted += u32::from(pace.due(now));
            }
            if ms % 10 > 0 {
                continue;
            }
            let urgent = urgent_every.is_some_and(|every| ms % every == 0);
            match pace.write(urgent, now) {
                Leaves::Now => *counted += 1,
                Leaves::Gathered(at) => due = Some(at),
                Leaves::Along => assert!(!urgent && due.is_some()),
            }
        }
        left
    }

    #[test]
    fn many_small_packets_become_ten_a_round_trip_at_most() {
        assert_eq!(packets(None), [9, 8, 8, 8]);
        let with_beats = packets(Some(400));
        assert!(with_beats.iter().all(|packets| (8..=10).contains(packets)), "{with_beats:?}");
    }

    #[test]
    fn few_leave_at_once_and_a_short_way_is_left_alone() {
        let start = Instant::now();
        let mut pace = Pace::of(ROUND_TRIP, start).expect("a long way");
        for packet in 0..8 {
            assert_eq!(pace.write(false, start + MS * 110 * packet), Leaves::Now);
        }
        assert!(Pace::of(MS * 40, start).is_none());
    }

    #[test]
    fn what_is_urgent_takes_along_what_is_gathered() {
        let start = Instant::now();
        let mut pace = Pace::of(ROUND_TRIP, start).expect("a long way");
        assert_eq!((pace.write(false, start), pace.write(false, start)), (Leaves::Now, Leaves::Now));
        let Leaves::Gathered(at) = pace.write(false, start) else { panic!("two at once") };
        assert_eq!(at, start + MS * 100);
        assert_eq!(pace.write(true, start + MS), Leaves::Now);
        assert!(!pace.due(at), "it has left");
    }
}
