//! Questions that are asked twice at once. Pure.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Existing Rust clients ask from a socket for each of their interfaces, and all of these questions may leave by one. They look for a machine by one spelling
/// of its name after the other, and wait for a quarter of a second before they ask for the next, unless an answer comes before that: the second answer does,
/// where it does not come with the first. Others that ask the same meanwhile have it from the group, at most this much later.
const APART: Duration = Duration::from_millis(20);

/// The last question that was answered to the group, and its repetition.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    last: Option<(Instant, Vec<u8>)>,
    later: Option<(Instant, SocketAddr)>,
}

impl Repeats {
    /// Whether a question to the group is to be answered at once; else it is [`Repeats::due`] later, or was asked a third time.
    pub fn at_once(&mut self, packet: &[u8], from: SocketAddr, now: Instant) -> bool {
        if let Some((at, last)) = &self.last
            && last == packet
            && now < *at + APART
        {
            self.later.get_or_insert((*at + APART, from));
            return false;
        }
        // Another question does not take the answer from the one that waits.
        if self.later.is_none() {
            self.last = Some((now, packet.to_vec()));
        }
        true
    }

    /// A question that is to be answered now.
    pub fn due(&mut self, now: Instant) -> Option<(Vec<u8>, SocketAddr)> {
        let (_, from) = self.later.take_if(|(at, _)| now >= *at)?;
        self.last.take().map(|(_, packet)| (packet, from))
    }

    /// When that will be.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.later.map(|(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_that_is_asked_twice_at_once_is_answered_twice_apart() {
        let (now, mut repeats) = (Instant::now(), Repeats::default());
        let [asker, other] = ["192.0.2.1:5353", "192.0.2.2:5353"].map(|a| a.parse().expect("an address"));
        let at = |ms| now + Duration::from_millis(ms);
        assert!(repeats.at_once(b"who", asker, at(0)));
        assert_eq!(repeats.poll_timeout(), None);
        assert!(!repeats.at_once(b"who", asker, at(1)));
        assert!(!repeats.at_once(b"who", other, at(2)), "the same answer serves both");
        assert!(repeats.at_once(b"another", other, at(3)));
        assert_eq!(repeats.poll_timeout(), Some(at(20)));
        assert_eq!(repeats.due(at(19)), None);
        assert_eq!(repeats.due(at(20)), Some((b"who".to_vec(), asker)));
        assert_eq!((repeats.due(at(20)), repeats.poll_timeout()), (None, None));
        // The next round of the same asker.
        assert!(repeats.at_once(b"who", asker, at(250)));
        assert!(!repeats.at_once(b"who", asker, at(269)));
        assert!(repeats.due(at(270)).is_some());
        assert!(repeats.at_once(b"who", asker, at(271)));
        assert!(repeats.at_once(b"who", asker, at(291)), "asked later, it is no repetition");
    }
}
