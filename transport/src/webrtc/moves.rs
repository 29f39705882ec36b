//! When other pairs than the selected one are checked, and which one replaces it. Pure.
//!
//! The controlling side moves, and only by order. The other side helps it: a translator lets a packet in only from where one was sent to, so a side
//! whose selected pair falls silent sends checks over all others, too.

use std::time::{Duration, Instant};

use super::checks::Ends;

/// How long other pairs have to answer when the selected one is to be left.
const WAIT: Duration = Duration::from_secs(2);
/// How long the selected one may answer late.
const GRACE: Duration = Duration::from_millis(20);
/// How long a direct pair may answer after a relayed one.
const RELAYED_GRACE: Duration = Duration::from_millis(100);
/// How often all pairs are checked meanwhile: one check may be lost, or come before the other side's has opened the way.
const SWEEP: Duration = Duration::from_millis(200);
/// A pair whose check is unanswered for so long is silent.
const SILENCE: Duration = Duration::from_millis(300);
/// A pair that has been silent for so long is checked beside the others only so often: the peer may be gone.
const LONG: Duration = Duration::from_secs(3);
const SELDOM: Duration = Duration::from_secs(1);

/// What became of an order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Decision {
    /// The selected pair answers, or no other one does.
    Stay,
    /// This one answers in its place.
    Leave(Ends),
}

#[derive(Debug)]
struct Order {
    since: Instant,
    /// Who answered, whether a relay carries it, and when it is taken.
    other: Option<(Ends, bool, Instant)>,
}

/// Orders to leave the selected pair, and the checks of the others.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    /// Apart, since most connections never see one.
    order: Option<Box<Order>>,
    swept: Option<Instant>,
}

impl Moves {
    /// The selected pair is to be left if another one answers and it does not.
    pub fn order(&mut self, now: Instant) {
        *self = Self { order: Some(Box::new(Order { since: now, other: None })), swept: None };
    }

    /// A pair other than the selected one has answered.
    pub fn handle_answered(&mut self, ends: Ends, relayed: bool, now: Instant) {
        let Some(order) = &mut self.order else { return };
        let at = now + if relayed { RELAYED_GRACE } else { GRACE };
        match order.other {
            None => order.other = Some((ends, relayed, at)),
            Some((_, true, before)) if !relayed => order.other = Some((ends, false, at.min(before))),
            Some(_) => {}
        }
    }

    /// How often all pairs are checked now; `None` where they are not. `silent`: since when the selected one is, on the side that only helps.
    fn every(&self, silent: Option<Instant>, now: Instant) -> Option<Duration> {
        match (&self.order, silent) {
            (Some(order), _) => order.other.is_none_or(|(_, relayed, _)| relayed).then_some(SWEEP),
            (None, Some(since)) if now >= since + LONG => Some(SELDOM),
            (None, Some(since)) if now >= since + SILENCE => Some(SWEEP),
            (None, _) => None,
        }
    }

    /// Whether all pairs are to be checked now.
    pub fn sweeps(&mut self, silent: Option<Instant>, now: Instant) -> bool {
        let due = self.every(silent, now).is_some_and(|every| self.swept.is_none_or(|at| now >= at + every));
        if due {
            self.swept = Some(now);
        }
        due
    }

    /// When an order is decided, or all pairs are checked next.
    pub fn poll_timeout(&self, silent: Option<Instant>, now: Instant) -> Option<Instant> {
        let decided = self.order.as_ref().map(|order| order.other.map_or(order.since + WAIT, |(_, _, at)| at));
        let sweep = match self.every(silent, now) {
            Some(every) => Some(self.swept.map_or(now, |at| at + every)),
            None if self.order.is_none() => silent.map(|since| since + SILENCE),
            None => None,
        };
        [decided, sweep].into_iter().flatten().min()
    }

    /// What becomes of the order, once that is due. `answered`: when the selected pair did last.
    pub fn decide(&mut self, answered: Option<Instant>, now: Instant) -> Option<Decision> {
        let order = self.order.take_if(|o| now >= o.other.map_or(o.since + WAIT, |(_, _, at)| at))?;
        let lives = answered.is_some_and(|at| at >= order.since);
        Some(match order.other {
            Some((ends, ..)) if !lives => Decision::Leave(ends),
            _ => Decision::Stay,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn ends(port: u16) -> Ends {
        (([10, 0, 0, 1], port).into(), ([10, 0, 0, 2], port).into())
    }

    #[test]
    fn another_pair_that_answers_is_taken_once_the_selected_one_had_its_chance() {
        let (mut moves, now) = (Moves::default(), Instant::now());
        moves.order(now);
        assert!(moves.sweeps(None, now) && !moves.sweeps(None, now + 199 * MS));
        assert_eq!(moves.poll_timeout(None, now + MS), Some(now + SWEEP));
        moves.handle_answered(ends(1), false, now + 40 * MS);
        moves.handle_answered(ends(2), false, now + 41 * MS);
        assert!(!moves.sweeps(None, now + SWEEP), "enough is known");
        assert_eq!(moves.decide(Some(now - MS), now + 59 * MS), None);
        assert_eq!(moves.poll_timeout(None, now + 59 * MS), Some(now + 60 * MS));
        assert_eq!(moves.decide(Some(now - MS), now + 60 * MS), Some(Decision::Leave(ends(1))));
        assert_eq!((moves.decide(None, now + WAIT), moves.poll_timeout(None, now + WAIT)), (None, None));
    }

    #[test]
    fn a_selected_pair_that_answers_is_not_left() {
        let (mut moves, now) = (Moves::default(), Instant::now());
        moves.order(now);
        moves.handle_answered(ends(1), false, now + MS);
        assert_eq!(moves.decide(Some(now + 20 * MS), now + 21 * MS), Some(Decision::Stay));
        // Nor is it where nobody answers.
        moves.order(now);
        assert_eq!(moves.decide(None, now + WAIT - MS), None);
        assert_eq!(moves.decide(None, now + WAIT), Some(Decision::Stay));
    }

    #[test]
    fn a_direct_pair_that_answers_a_little_later_comes_before_a_relayed_one() {
        let (mut moves, now) = (Moves::default(), Instant::now());
        moves.order(now);
        moves.handle_answered(ends(1), true, now + 10 * MS);
        moves.handle_answered(ends(2), true, now + 11 * MS);
        moves.handle_answered(ends(3), false, now + 50 * MS);
        assert_eq!(moves.decide(None, now + 70 * MS), Some(Decision::Leave(ends(3))));
        moves.order(now);
        moves.handle_answered(ends(1), true, now + 10 * MS);
        assert_eq!(moves.decide(None, now + 109 * MS), None);
        assert_eq!(moves.decide(None, now + 110 * MS), Some(Decision::Leave(ends(1))));
    }

    #[test]
    fn a_side_that_only_helps_checks_while_its_pair_is_silent_and_seldom_after_a_while() {
        let (mut moves, start) = (Moves::default(), Instant::now());
        let (mut swept, mut now) = (Vec::new(), start);
        while now < start + Duration::from_secs(30) {
            if moves.sweeps(Some(start), now) {
                swept.push(now - start);
            }
            now = moves.poll_timeout(Some(start), now).expect("while it is silent");
        }
        assert_eq!(swept[..3], [300 * MS, 500 * MS, 700 * MS]);
        assert!((40..=42).contains(&swept.len()), "{}", swept.len());
        assert!(!moves.sweeps(None, now) && moves.poll_timeout(None, now).is_none(), "it answers again");
    }
}
