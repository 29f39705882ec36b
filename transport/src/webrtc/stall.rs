//! Whether data is stalled: unacknowledged for too long although its path answers. Pure.

use std::time::{Duration, Instant};

/// The shortest time without an acknowledgement that is remarkable, beside three round trips.
const PATIENCE: Duration = Duration::from_millis(150);

/// Checks prove a path, not what is above them: SCTP may wait for the repetition of a packet while every check is answered.
#[derive(Debug, Default)]
pub(crate) struct Stall {
    /// Since when nothing was acknowledged although something is out.
    since: Option<Instant>,
    /// When the path last answered.
    answered: Option<Instant>,
    /// When the path was last asked because of this.
    asked: Option<Instant>,
}

fn patience(rtt: Duration) -> Duration {
    PATIENCE.max(3 * rtt)
}

impl Stall {
    /// So many bytes are out; `acknowledged` were just now.
    pub fn handle_unacknowledged(&mut self, out: usize, acknowledged: usize, now: Instant) {
        if out == 0 {
            self.since = None;
        } else if acknowledged > 0 || self.since.is_none() {
            self.since = Some(now);
        }
    }

    /// The selected pair answered a check.
    pub fn handle_answered(&mut self, now: Instant) {
        self.answered = Some(now);
    }

    /// Whether data is stalled.
    pub fn is_stalled(&self, rtt: Duration, now: Instant) -> bool {
        let due = self.since.map(|since| since + patience(rtt));
        due.is_some_and(|due| now >= due) && self.answered > self.since
    }

    /// Whether the path is to be asked now: it is not known whether it answers.
    pub fn wants_check(&mut self, rtt: Duration, now: Instant) -> bool {
        let wants = self.poll_timeout(rtt).is_some_and(|at| now >= at);
        if wants {
            self.asked = Some(now);
        }
        wants
    }

    /// When [`Stall::wants_check`] or [`Stall::is_stalled`] may change by itself.
    pub fn poll_timeout(&self, rtt: Duration) -> Option<Instant> {
        let since = self.since?;
        // Once it is known that the path answers only an acknowledgement changes anything.
        let last = self.asked.filter(|asked| *asked > since).unwrap_or(since);
        (self.answered <= self.since || self.asked <= self.since).then_some(last + patience(rtt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(10);

    #[test]
    fn data_is_stalled_once_the_path_answers_and_it_is_not_acknowledged() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut stall = Stall::default();
        assert_eq!(stall.poll_timeout(RTT), None);
        stall.handle_unacknowledged(100, 0, at(0));
        assert_eq!(stall.poll_timeout(RTT), Some(at(150)));
        assert!(
            !stall.wants_check(RTT, at(149)) && stall.wants_check(RTT, at(150)) && !stall.wants_check(RTT, at(151))
        );
        assert!(!stall.is_stalled(RTT, at(155)), "it may be the path");
        stall.handle_answered(at(160));
        assert!(stall.is_stalled(RTT, at(160)));
        assert_eq!(stall.poll_timeout(RTT), None, "nothing more to find out");
        stall.handle_unacknowledged(200, 0, at(170));
        assert!(stall.is_stalled(RTT, at(170)));
        stall.handle_unacknowledged(150, 50, at(180));
        assert!(!stall.is_stalled(RTT, at(180)));
        stall.handle_unacknowledged(0, 150, at(190));
        assert_eq!(stall.poll_timeout(RTT), None);
    }

    #[test]
    fn a_dead_path_is_asked_again_and_is_no_stall() {
        let start = Instant::now();
        let mut stall = Stall::default();
        stall.handle_answered(start);
        let (rtt, mut now, mut asked) = (Duration::from_millis(100), start + Duration::from_millis(1), 0);
        stall.handle_unacknowledged(100, 0, now);
        while let Some(at) = stall.poll_timeout(rtt).filter(|at| *at <= start + Duration::from_secs(2)) {
            now = at;
            asked += usize::from(stall.wants_check(rtt, now));
            assert!(!stall.is_stalled(rtt, now));
        }
        assert_eq!(asked, 6, "every three round trips");
    }
}
