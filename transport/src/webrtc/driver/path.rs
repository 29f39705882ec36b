//! The path: checks of our own, moves, ICE restarts.

use super::*;
use crate::webrtc::checks::Answered;
use crate::webrtc::gather::hosts;
use crate::webrtc::peer::LocalCandidate;
use crate::webrtc::sdp::{Description, Kind};
use crate::webrtc::trickle::Told;

/// Checks that may be lost before a silent peer is given up.
const CHECKS: u32 = 8;
/// How long a better pair has to answer when the selected one is to be left, and how long the selected one may answer late.
pub(super) const MOVE_WAIT: Duration = Duration::from_secs(1);
const MOVE_GRACE: Duration = Duration::from_millis(20);
/// How long the peer may take to answer an ICE restart.
pub(super) const RESTART_WAIT: Duration = Duration::from_secs(5);

/// An order to leave the selected pair.
pub(super) struct Moving {
    pub answer: oneshot::Sender<CandidatePair>,
    pub since: Instant,
    /// The first other pair that answered, and when it is taken.
    pub other: Option<(Ends, Instant)>,
}

impl Driver {
    /// Sends a check of our own.
    pub(super) fn check_pair(&mut self, ends: Ends, now: Instant) -> Option<TransId> {
        let who = self.peer.credentials()?;
        let id = TransId::new();
        let datagram = self.checks.request(ends, &who, id, now)?;
        self.send(ends, &datagram);
        self.next_check = now + self.check_every();
        Some(id)
    }

    pub(super) fn handle_answered(&mut self, answered: Answered, now: Instant) {
        self.life.tell(now);
        if let Some(at) = self.probes.iter().position(|(id, _)| *id == answered.check) {
            let _ = self.probes.swap_remove(at).1.send(answered.rtt);
        }
        let selected = self.selected.map(|p| (p.local.address, p.remote.address));
        if selected == Some(answered.ends) {
            self.gate.handle_rtt(answered.rtt, now);
            self.stall.handle_answered(now);
            if let (Some(end), Some(rtt)) = (&self.open, self.checks.health(answered.ends).rtt) {
                end.info.send_if_modified(|info| std::mem::replace(&mut info.rtt, rtt) != rtt);
            }
        } else if let Some(moving) = &mut self.moving {
            moving.other.get_or_insert((answered.ends, now + MOVE_GRACE));
        }
    }

    /// Decides a move and gives up what takes too long.
    pub(super) fn settle(&mut self, now: Instant) {
        if self.restarting.as_ref().is_some_and(|(_, since)| now >= *since + RESTART_WAIT) {
            self.restarting = None;
        }
        let due = self.moving.as_ref().is_some_and(|m| now >= m.other.map_or(m.since + MOVE_WAIT, |(_, at)| at));
        if !due {
            return;
        }
        let (Some(moving), Some(selected)) = (self.moving.take(), self.selected) else { return };
        let ends = (selected.local.address, selected.remote.address);
        // One that answers is not left.
        if self.checks.health(ends).answered.is_some_and(|at| at >= moving.since) {
            return;
        }
        let other = moving
            .other
            .and_then(|(ends, _)| self.peer.pairs().into_iter().find(|p| (p.local.address, p.remote.address) == ends));
        if let Some(other) = other {
            self.peer.leave_pair(selected, other, now);
            while let Some(event) = self.peer.poll_event() {
                self.handle_event(event, now);
            }
            if let Some(new) = self.selected.filter(|new| *new != selected) {
                let _ = moving.answer.send(new);
            }
        }
    }

    pub(super) fn restart(&mut self, answer: oneshot::Sender<()>, now: Instant) {
        if self.policy != IcePolicy::RelayOnly {
            let port = self.wire.socket().port();
            for ip in hosts(self.loopback, |ip| self.wire.socket().reaches(ip)) {
                self.peer.add_local(LocalCandidate::Host(SocketAddr::new(ip, port)), now);
            }
        }
        let Ok(offer) = self.peer.restart() else { return };
        self.renamed();
        if self.peer.negotiate(&offer.encode()).is_ok() {
            self.restarting = Some((answer, now));
        }
    }

    /// The credentials are new.
    pub(super) fn renamed(&mut self) {
        self.checks.clear();
        self.remotes.clear();
        if let Wire::Shared(place) = &self.wire {
            place.rename(&self.peer.local_ufrag());
        }
    }

    /// A candidate or a description of the peer's on the negotiation channel.
    pub(super) fn negotiate(&mut self, text: &str, now: Instant) {
        if let Some(told) = Told::decode(text) {
            // One of another generation is in the description that follows, or was of one that is over.
            if self.peer.credentials().is_some_and(|who| who.remote_ufrag == told.ufrag) {
                self.add_remote(&[told.candidate], now);
            }
            return;
        }
        let theirs = match Description::decode(text) {
            Ok(theirs) => theirs,
            Err(error) => return tracing::debug!(%error, "renegotiation refused"),
        };
        let done = match theirs.kind {
            Kind::Offer => self.peer.answer(&theirs, now).map(Some),
            Kind::Answer => self.peer.accept(&theirs, now).map(|()| None),
        };
        match done {
            Ok(reply) => {
                self.renamed();
                self.add_remote(&theirs.candidates, now);
                if let Some(reply) = reply {
                    let _ = self.peer.negotiate(&reply.encode());
                } else if let Some((answer, _)) = self.restarting.take() {
                    let _ = answer.send(());
                }
            }
            Err(error) => tracing::debug!(%error, "renegotiation refused"),
        }
    }

    /// How often the path is checked without orders.
    fn check_every(&self) -> Duration {
        self.open.as_ref().map_or(IDLE_CHECK, |end| IDLE_CHECK.min(end.silence.get() / CHECKS))
    }

    /// Without orders the path is checked once a second or oftener; a peer that answers nothing for too long is gone.
    pub(super) fn check(&mut self, now: Instant) {
        if now < self.next_check {
            return;
        }
        self.next_check = now + self.check_every();
        if let Some(pair) = self.selected {
            self.check_pair((pair.local.address, pair.remote.address), now);
        }
        let Some(bound) = self.open.as_ref().map(|end| end.silence.get()) else { return };
        if now.saturating_duration_since(self.life.last()) >= bound {
            self.ended = Some(CloseReason::Broken(format!("no answer for {bound:?}")));
        }
    }

    /// The smoothed round trip of the selected pair.
    pub(super) fn rtt(&self) -> Duration {
        let pair = self.selected.map(|p| (p.local.address, p.remote.address));
        pair.and_then(|ends| self.checks.health(ends).rtt).unwrap_or_default()
    }

    /// Tells whether data is stalled, and asks the path where that decides it.
    pub(super) fn watch_data(&mut self, out: usize, acknowledged: usize, now: Instant) {
        self.stall.handle_unacknowledged(out, acknowledged, now);
        let rtt = self.rtt();
        if let (true, Some(pair)) = (self.stall.wants_check(rtt, now), self.selected) {
            self.check_pair((pair.local.address, pair.remote.address), now);
        }
        self.life.set_stalled(self.stall.is_stalled(rtt, now));
    }
}
