//! STUN checks of our own: signs of life with their round trip, on any pair, whenever asked for. Pure.
//!
//! Libraries check on a schedule of theirs and tell the results late. These are ordinary authenticated binding requests (RFC 8445
//! section 7.2.2) with our role and without USE-CANDIDATE; every ICE peer answers them. Their answers are taken out before the
//! library sees them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use is::stun::{StunMessage, TransId};

use super::peer::Credentials;
use super::peer::str0m::Hmac;

/// Checks that may be out; older ones are forgotten. Where all pairs are checked, 32 of them every 200 ms.
const MAX_OUT: usize = 128;
/// Pairs whose health is kept.
const MAX_PAIRS: usize = 64;
/// An answer later than this is none.
const TOO_LATE: Duration = Duration::from_secs(5);
/// A peer-reflexive candidate's priority (RFC 8445 section 7.1.1): what the peer would give an address that it learns of by this check.
const PRIORITY: u32 = 110 << 24 | 0x00FF_FFFF;

/// Our end and the peer's.
pub(crate) type Ends = (SocketAddr, SocketAddr);

/// What is known of a pair.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Health {
    /// Smoothed as TCP does (RFC 6298).
    pub rtt: Option<Duration>,
    /// The last answer.
    pub answered: Option<Instant>,
}

/// An answer to a check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Answered {
    /// Where it was sent.
    pub ends: Ends,
    /// Its round trip.
    pub rtt: Duration,
    /// Which check.
    pub check: TransId,
}

#[derive(Debug)]
struct Out {
    id: TransId,
    ends: Ends,
    at: Instant,
}

/// Checks that are out and what the answers told.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    out: Vec<Out>,
    /// By age of the pair.
    health: Vec<(Ends, Health)>,
}

impl Checks {
    /// The datagram of a check over `ends`, and its id.
    pub fn request(&mut self, ends: Ends, who: &Credentials, id: TransId, now: Instant) -> Option<Vec<u8>> {
        self.out.retain(|o| now.saturating_duration_since(o.at) < TOO_LATE);
        if self.out.len() == MAX_OUT {
            self.out.remove(0);
        }
        let username = format!("{}:{}", who.remote_ufrag, who.local_ufrag);
        let request = StunMessage::binding_request(&username, id, who.controlling, who.tie_breaker, PRIORITY, false);
        let mut datagram = vec![0; 256 + username.len()];
        let length = request.to_bytes(Some(who.remote_password.as_bytes()), &mut datagram, Hmac::of).ok()?;
        datagram.truncate(length);
        // Mostly one is out, and one pair is asked: room for four would be more than all the rest of this. What all pairs took is given back.
        self.out.shrink_to(self.out.len().max(1));
        self.out.reserve_exact(1);
        self.out.push(Out { id, ends, at: now });
        Some(datagram)
    }

    /// Whether `datagram` answers one of ours; then it is nobody else's.
    pub fn handle(&mut self, datagram: &[u8], who: &Credentials, now: Instant) -> Option<Answered> {
        // 0x0101: a binding's success.
        if self.out.is_empty() || datagram.first_chunk() != Some(&[1, 1]) {
            return None;
        }
        let message = StunMessage::parse(datagram).ok()?;
        let at = self.out.iter().position(|o| o.id == message.trans_id())?;
        if !message.verify(who.remote_password.as_bytes(), Hmac::of) {
            return None;
        }
        let Out { id, ends, at: sent } = self.out.remove(at);
        let rtt = now.saturating_duration_since(sent);
        if rtt > TOO_LATE {
            return None;
        }
        let known = self.health.iter().position(|(of, _)| *of == ends);
        let at = known.unwrap_or_else(|| {
            if self.health.len() == MAX_PAIRS {
                self.health.remove(0);
            }
            self.health.reserve_exact(1);
            self.health.push((ends, Health::default()));
            self.health.len() - 1
        });
        let health = &mut self.health[at].1;
        health.rtt = Some(health.rtt.map_or(rtt, |old| (7 * old + rtt) / 8));
        health.answered = Some(now);
        Some(Answered { ends, rtt, check: id })
    }

    /// What is known of a pair.
    pub fn health(&self, ends: Ends) -> Health {
        self.health.iter().find(|(of, _)| *of == ends).map(|(_, health)| *health).unwrap_or_default()
    }

    /// Since when a check of a pair is out that came after its last answer.
    pub fn silent_since(&self, ends: Ends) -> Option<Instant> {
        let answered = self.health(ends).answered;
        self.out.iter().find(|o| o.ends == ends && answered.is_none_or(|at| o.at > at)).map(|o| o.at)
    }

    /// Forgets everything: the credentials have changed.
    pub fn clear(&mut self) {
        self.out.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who() -> Credentials {
        Credentials {
            local_ufrag: "mine".into(),
            remote_ufrag: "theirs".into(),
            remote_password: "a-password-of-22-chars".into(),
            controlling: true,
            tie_breaker: 7,
        }
    }

    fn answer(id: TransId, password: &str) -> Vec<u8> {
        let mut datagram = vec![0; 256];
        let reply = StunMessage::binding_reply(id, "192.0.2.1:4000".parse().expect("address"));
        let length = reply.to_bytes(Some(password.as_bytes()), &mut datagram, Hmac::of).expect("fits");
        datagram.truncate(length);
        datagram
    }

    #[test]
    fn only_the_peers_own_answer_counts_and_it_counts_once() {
        let (now, id) = (Instant::now(), TransId::new());
        let ends = ("192.0.2.7:1".parse().expect("address"), "192.0.2.8:2".parse().expect("address"));
        let mut checks = Checks::default();
        let sent = checks.request(ends, &who(), id, now).expect("built");
        let request = StunMessage::parse(&sent).expect("well formed");
        assert_eq!(request.username(), Some("theirs:mine"));
        assert!(!request.use_candidate() && request.ice_controlling() == Some(7));
        assert!(request.verify(who().remote_password.as_bytes(), Hmac::of));

        let later = now + Duration::from_millis(30);
        assert_eq!(checks.handle(&answer(id, "not-the-password"), &who(), later), None);
        assert_eq!(checks.handle(&answer(TransId::new(), &who().remote_password), &who(), later), None);
        let good = answer(id, &who().remote_password);
        assert_eq!(
            checks.handle(&good, &who(), later),
            Some(Answered { ends, rtt: Duration::from_millis(30), check: id })
        );
        assert_eq!(checks.handle(&good, &who(), later), None);
        assert_eq!(checks.health(ends).rtt, Some(Duration::from_millis(30)));
    }

    #[test]
    fn a_pair_is_silent_from_its_first_check_after_the_last_answer() {
        let now = Instant::now();
        let ends = ("192.0.2.7:1".parse().expect("address"), "192.0.2.8:2".parse().expect("address"));
        let other = (ends.0, "192.0.2.9:2".parse().expect("address"));
        let at = |ms| now + Duration::from_millis(ms);
        let mut checks = Checks::default();
        assert_eq!(checks.silent_since(ends), None);
        // The first is lost, the second answered.
        checks.request(ends, &who(), TransId::new(), at(0)).expect("built");
        assert_eq!((checks.silent_since(ends), checks.silent_since(other)), (Some(at(0)), None));
        let id = TransId::new();
        checks.request(ends, &who(), id, at(10)).expect("built");
        checks.handle(&answer(id, &who().remote_password), &who(), at(20)).expect("taken");
        assert_eq!(checks.silent_since(ends), None);
        for ms in [30, 40] {
            checks.request(ends, &who(), TransId::new(), at(ms)).expect("built");
            assert_eq!(checks.silent_since(ends), Some(at(30)));
        }
    }

    #[test]
    fn what_nobody_answers_is_bounded() {
        let now = Instant::now();
        let ends = ("192.0.2.7:1".parse().expect("address"), "192.0.2.8:2".parse().expect("address"));
        let mut checks = Checks::default();
        for _ in 0..10_000 {
            checks.request(ends, &who(), TransId::new(), now);
        }
        assert_eq!(checks.out.len(), MAX_OUT);
        checks.request(ends, &who(), TransId::new(), now + TOO_LATE);
        assert_eq!(checks.out.len(), 1);
    }
}
