//! What is known of one candidate.

use std::time::{Duration, Instant};

use super::*;

/// The first pause after a failure; doubles up to the origin's cap.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause where an address is known, and where one would be better than what there is: with the dial itself it is within a second.
pub(super) const BETTER_CAP: Duration = Duration::from_millis(800);
/// The longest pause while a link carries calls and another would only stand by.
pub(super) const LUXURY_CAP: Duration = Duration::from_secs(5);
/// A link over a route that died is used again after this long of answers; doubles with every death, up to the limit.
const PENANCE: Duration = Duration::from_secs(3);
const PENANCE_LIMIT: Duration = Duration::from_secs(60);

/// What is known of one candidate.
#[derive(Debug)]
pub(super) struct Prospect {
    pub candidate: Candidate,
    /// A foreign owner answered there; left alone until then.
    pub banned: Option<Instant>,
    /// The machine refused the credentials there.
    pub refused: bool,
    /// The service that would arrange it knows no such machine: it is not asked again in the first dial.
    pub unknown: bool,
    pub failures: u32,
    /// When the next try may start; `None`: not in this round.
    pub next: Option<Instant>,
    /// The attempt that gets the whole dial timeout, for slow links (s58).
    pub patient: Option<(Attempt, Instant)>,
    /// A younger one beside it, replaced at every pause, for machines that just came back (s52): a SYN that was lost is
    /// only repeated after 1, 3, 7 s.
    pub eager: Option<(Attempt, Instant)>,
    pub deaths: u32,
    /// Failed in this round of a limited dial.
    pub tried: bool,
    /// It led to the machine before.
    pub proven: bool,
}

impl Prospect {
    pub fn connected(&mut self, now: Instant) {
        self.failures = 0;
        self.next = Some(now);
        self.proven = true;
    }

    /// Its link closed: tried again at once, unless that keeps happening.
    pub fn lost(&mut self, now: Instant) {
        self.next = Some(now + backoff(self.failures, LUXURY_CAP) / 4);
        self.failures = self.failures.saturating_add(1);
    }

    pub fn died(&mut self) {
        self.deaths = self.deaths.saturating_add(1);
    }

    /// How long a link must answer before it may replace one that lives.
    pub fn penance(&self) -> Duration {
        match self.deaths {
            0 => Duration::ZERO,
            n => (PENANCE * 2u32.saturating_pow((n - 1).min(8))).min(PENANCE_LIMIT),
        }
    }
}

pub(super) fn backoff(failures: u32, cap: Duration) -> Duration {
    (FIRST_PAUSE * 2u32.pow(failures.min(8))).min(cap)
}
