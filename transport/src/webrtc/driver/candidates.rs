//! Candidates: ours from interfaces and servers, and the peer's.

use super::*;
use crate::webrtc::candidate::{Admitted, admit};
use crate::webrtc::options::Server;
use crate::webrtc::peer::LocalCandidate;
use crate::webrtc::trickle::Told;

/// Candidates of the peer that one connection takes over its life.
const MAX_REMOTE: usize = 64;

/// How far gathering is.
#[derive(Default)]
pub(super) struct Gathering {
    /// Whether signaling has said which servers there are.
    servers: bool,
    /// Names being looked up and allocations being made.
    under_way: usize,
    pub questions: Vec<Question>,
    pub told: bool,
}

impl Driver {
    /// Asks the servers; names are looked up and allocations made beside the connection.
    pub(super) fn ask(&mut self, servers: Vec<Server>) {
        self.gathering.servers = true;
        for server in servers {
            self.gathering.under_way += 1;
            relay::start(server, self.tls.clone(), self.relayed_in.clone());
        }
    }

    pub(super) fn handle_relay(&mut self, news: relay::News) {
        let now = Instant::now();
        match news {
            relay::News::Stun(servers) => {
                self.gathering.under_way -= 1;
                for server in servers {
                    if self.wire.socket().reaches(server.ip()) {
                        self.gathering.questions.push(Question::new(server));
                    }
                }
            }
            relay::News::Allocated(relay) => {
                self.gathering.under_way -= 1;
                let candidate = LocalCandidate::Relayed { relay: relay.address, base: relay.base };
                self.relays.insert(relay.address, relay);
                self.add_local(candidate, now);
            }
            relay::News::Failed(why) => {
                self.gathering.under_way -= 1;
                tracing::debug!(why, "no candidate from an ICE server");
            }
            relay::News::Datagram { relay, peer, bytes } => self.take_datagram(relay, peer, &bytes, now),
        }
    }

    pub(super) fn gather(&mut self, now: Instant) {
        let mut due = Vec::new();
        for question in &mut self.gathering.questions {
            if let Some(datagram) = question.poll(now) {
                due.push((question.server, datagram));
            }
        }
        let unspecified = |server: SocketAddr| match server {
            SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
            SocketAddr::V6(_) => SocketAddr::from(([0; 16], 0)),
        };
        for (server, datagram) in due {
            if let Wire::Shared(place) = &self.wire {
                place.asks(&datagram);
            }
            self.send((unspecified(server), server), &datagram);
        }
        let gathering = &mut self.gathering;
        gathering.questions.retain(|q| !q.is_done());
        if gathering.servers && gathering.under_way == 0 && gathering.questions.is_empty() && !gathering.told {
            gathering.told = true;
            self.report(Report::Gathered);
            if self.open.is_some() {
                self.reports = None;
            }
        }
    }

    pub(super) fn add_mapped(&mut self, local: SocketAddr, mapped: Option<SocketAddr>, now: Instant) {
        if let Some(mapped) = mapped
            && mapped.ip() != local.ip()
        {
            let candidate = LocalCandidate::ServerReflexive { mapped, base: local };
            self.add_local(candidate, now);
        }
    }

    pub(super) fn add_local(&mut self, candidate: LocalCandidate, now: Instant) {
        let Some(text) = self.peer.add_local(candidate, now) else { return };
        if self.open.is_some() {
            self.tell(text);
        } else {
            self.untold.wait(&text);
            self.report(Report::Candidate(text));
        }
    }

    /// Tells the peer of a candidate that it may not have heard of by way of the signaling service.
    pub(super) fn tell(&mut self, candidate: String) {
        if self.ours
            && let Err(error) = self.peer.negotiate(&Told::new(candidate, self.peer.local_ufrag()).encode())
        {
            tracing::debug!(%error, "a late candidate was not told");
        }
    }

    pub(super) fn add_remote(&mut self, candidates: &[String], now: Instant) {
        for text in candidates {
            if self.remotes.len() == MAX_REMOTE {
                return;
            }
            match admit(text, self.policy) {
                // Those that were found meanwhile are told twice.
                Admitted::Use(candidate) if self.remotes.contains(&candidate.addr()) => {}
                Admitted::Use(candidate) => {
                    self.remotes.push(candidate.addr());
                    if candidate.kind() == is::CandidateKind::Host {
                        self.life.told(candidate.addr().ip());
                    }
                    if let Wire::Shared(place) = &self.wire {
                        place.expect(candidate.addr());
                    }
                    self.peer.add_remote(&candidate, now);
                }
                Admitted::Hidden => {
                    tracing::debug!("a hidden (.local) candidate is left for the peer's own checks to tell")
                }
                Admitted::Skip(why) => tracing::debug!(why, "candidate skipped"),
            }
        }
    }
}
