//! The path: checks of our own, moves, ICE restarts.

use super::*;
use crate::webrtc::checks::Answered;
use crate::webrtc::gather::hosts;
use crate::webrtc::moves::Decision;
use crate::webrtc::peer::LocalCandidate;
use crate::webrtc::sdp::{Description, Kind};
use crate::webrtc::trickle::Told;

/// Checks that may be lost before a silent peer is given up.
const CHECKS: u32 = 8;
/// How long the peer may take to answer an ICE restart.
pub(super) const RESTART_WAIT: Duration = Duration::from_secs(5);

impl Driver {
    /// Sends a check of our own over the selected pair.
    pub(super) fn check_pair(&mut self, ends: Ends, now: Instant) -> Option<TransId> {
        let id = self.send_check(ends, now)?;
        self.next_check = now + self.check_every();
        Some(id)
    }

    fn send_check(&mut self, ends: Ends, now: Instant) -> Option<TransId> {
        let who = self.peer.credentials()?;
        let id = TransId::new();
        let datagram = self.checks.request(ends, &who, id, now)?;
        self.send(ends, &datagram);
        Some(id)
    }

    /// Since when the selected pair is silent, on the side that cannot leave it: that one opens the way for the other side's checks.
    pub(super) fn silent(&self) -> Option<Instant> {
        let pair = self.selected.filter(|_| self.helps && self.open.is_some())?;
        self.checks.silent_since((pair.local.address, pair.remote.address))
    }

    /// Checks all pairs, where it is time.
    pub(super) fn sweep(&mut self, now: Instant) {
        if self.moves.sweeps(self.silent(), now) {
            for pair in self.peer.pairs() {
                self.send_check((pair.local.address, pair.remote.address), now);
            }
        }
    }

    pub(super) fn handle_answered(&mut self, answered: Answered, now: Instant) {
        let selected = self.selected.map(|p| (p.local.address, p.remote.address));
        // Who is guarded by a connection is not alive for a path that carries no data.
        if selected == Some(answered.ends) || !self.helps {
            self.life.tell(now);
        }
        if let Some(at) = self.probes.iter().position(|(id, _)| *id == answered.check) {
            let _ = self.probes.swap_remove(at).1.send(answered.rtt);
        }
        if selected == Some(answered.ends) {
            self.gate.handle_rtt(answered.rtt, now);
            self.stall.handle_answered(now);
            if let (Some(end), Some(rtt)) = (&self.open, self.checks.health(answered.ends).rtt) {
                end.info.send_if_modified(|info| std::mem::replace(&mut info.rtt, rtt) != rtt);
            }
        } else if let Some(pair) = self.pair(answered.ends) {
            self.moves.handle_answered(answered.ends, pair.is_relayed(), now);
        }
    }

    /// Decides a move and gives up what takes too long.
    pub(super) fn settle(&mut self, now: Instant) {
        if self.restarting.as_ref().is_some_and(|(_, since)| now >= *since + RESTART_WAIT) {
            self.restarting = None;
        }
        let Some(selected) = self.selected else { return };
        let answered = self.checks.health((selected.local.address, selected.remote.address)).answered;
        let Some(decision) = self.moves.decide(answered, now) else { return };
        // Whoever ordered it learns of no pair where it is dropped.
        let answer = self.moving.take();
        let Decision::Leave(ends) = decision else { return };
        let Some(other) = self.pair(ends) else { return };
        self.peer.leave_pair(selected, other, now);
        while let Some(event) = self.peer.poll_event() {
            self.handle_event(event, now);
        }
        if let (Some(answer), Some(new)) = (answer, self.selected.filter(|new| *new != selected)) {
            let _ = answer.send(new);
        }
    }

    fn pair(&self, ends: Ends) -> Option<CandidatePair> {
        self.peer.pairs().into_iter().find(|p| (p.local.address, p.remote.address) == ends)
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

    /// The ICE user names of both sides: others are another generation.
    fn generation(&self) -> (String, Option<String>) {
        (self.peer.local_ufrag(), self.peer.credentials().map(|who| who.remote_ufrag))
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
        let before = self.generation();
        let done = match theirs.kind {
            Kind::Offer => self.peer.answer(&theirs, now).map(Some),
            Kind::Answer => self.peer.accept(&theirs, now).map(|()| None),
        };
        match done {
            Ok(reply) => {
                // A description may say the same words again, for a medium or for nothing: then what is known holds, and what is bounded stays so.
                if self.generation() != before {
                    self.renamed();
                }
                self.add_remote(&theirs.candidates, now);
                if let Some(reply) = reply {
                    if let Err(error) = self.peer.negotiate(&reply.encode()) {
                        self.ended = Some(CloseReason::Broken(format!("an offer cannot be answered: {error}")));
                    }
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
