//! Datagrams that leave twice while the way loses some. Pure.
//!
//! SCTP doubles its pause with every repetition that is lost, and repeats one packet at a time: with a fifth of them lost each way an association was
//! found to carry nothing for 1.75 s, and a beat has 2 s. A second copy of what is small, or repeated, turns a fifth into a twenty-fifth. The peer's
//! DTLS takes the same record once (RFC 6347 section 4.1.2.6); a peer that takes it twice finds the same SCTP chunks in it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Path;

/// A way that lost something is taken for one that loses for this long.
const MEMORY: Duration = Duration::from_secs(2);
/// How long after the first the copy leaves: what is lost together is mostly lost within less.
const APART: Duration = Duration::from_millis(5);
/// SCTP packets up to this length are messages of programs and acknowledgements, longer ones parts of something large, which have less haste.
const SMALL: usize = 700;
/// Bytes per second that copies may take, and how many may be saved up: where a queue that overflows is what loses packets, this little does not feed
/// it. A hundred calls a second are half of it.
const RATE: f64 = 65_536.0;
const SAVED: f64 = 16_384.0;

/// What leaves a second time.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// When something was repeated last.
    lost: Option<Instant>,
    /// Bytes that copies may take, at that moment.
    allowed: Option<(f64, Instant)>,
    waiting: VecDeque<(Instant, Path, Vec<u8>)>,
}

impl Copies {
    /// A packet of this length leaves; `repeated`: because it, or what acknowledged it, was lost. Whether it leaves twice.
    pub(super) fn takes(&mut self, length: usize, repeated: bool, now: Instant) -> bool {
        if repeated {
            self.lost = Some(now);
        }
        let lossy = self.lost.is_some_and(|lost| now.saturating_duration_since(lost) < MEMORY);
        if !lossy || (length > SMALL && !repeated) {
            return false;
        }
        let (saved, since) = self.allowed.unwrap_or((SAVED, now));
        let allowed = (saved + now.saturating_duration_since(since).as_secs_f64() * RATE).min(SAVED);
        let takes = length as f64 <= allowed;
        self.allowed = Some((if takes { allowed - length as f64 } else { allowed }, now));
        takes
    }

    /// Keeps the copy of a datagram that has just left.
    pub(super) fn keep(&mut self, path: Path, datagram: &[u8], now: Instant) {
        self.waiting.push_back((now + APART, path, datagram.to_vec()));
    }

    /// When the next copy leaves.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.waiting.front().map(|(at, ..)| *at)
    }

    /// The next copy whose time has come.
    pub(super) fn due(&mut self, now: Instant) -> Option<(Path, Vec<u8>)> {
        self.poll_timeout().filter(|at| *at <= now)?;
        self.waiting.pop_front().map(|(_, path, datagram)| (path, datagram))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn nothing_leaves_twice_where_nothing_is_lost() {
        let (mut copies, now) = (Copies::default(), Instant::now());
        assert!(!copies.takes(100, false, now));
        assert!(copies.takes(1_100, true, now), "what was lost once");
        assert!(copies.takes(100, false, now + MS), "what is small, for a while");
        assert!(!copies.takes(1_100, false, now + MS), "parts of something large");
        assert!(!copies.takes(100, false, now + MEMORY));
    }

    #[test]
    fn copies_take_little_of_the_way() {
        let (mut copies, start) = (Copies::default(), Instant::now());
        let mut taken = 0;
        for ms in 0..10_000 {
            taken += if copies.takes(1_100, true, start + MS * ms) { 1_100 } else { 0 };
        }
        let most = RATE * 10.0 + SAVED;
        assert!(((most * 0.95) as usize..=most as usize).contains(&taken), "{taken}");
    }

    #[test]
    fn a_copy_leaves_a_little_later_and_once() {
        let (mut copies, now) = (Copies::default(), Instant::now());
        let address = |port| std::net::SocketAddr::from(([10, 0, 0, 1], port));
        let path = Path { local: address(1), remote: address(2) };
        copies.keep(path, b"beat", now);
        assert_eq!((copies.poll_timeout(), copies.due(now)), (Some(now + APART), None));
        assert_eq!(copies.due(now + APART), Some((path, b"beat".to_vec())));
        assert_eq!((copies.poll_timeout(), copies.due(now + APART)), (None, None));
    }
}
