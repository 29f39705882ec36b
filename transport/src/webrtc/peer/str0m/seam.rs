//! What the driver orders and hears.

use super::*;

impl Peer for Str0m {
    fn offer(&mut self) -> Description {
        let mut offer = self.describe(Kind::Offer, Setup::ActPass);
        offer.sctp_init = self.sctp.init();
        offer
    }

    fn answer(&mut self, offer: &Description, now: Instant) -> Result<Description, PeerError> {
        if offer.kind != Kind::Offer {
            return Err(PeerError::State("an answer came where an offer was due"));
        }
        if self.is_new_generation(offer) {
            self.renew();
        }
        // Both channels' SCTP is opened by whoever opens DTLS; the answering side does, as stock peers do, unless it is asked not to.
        self.take(offer, offer.setup != Setup::Active)?;
        self.mid.clone_from(&offer.mid);
        let setup = if self.active == Some(true) { Setup::Active } else { Setup::Passive };
        let mut answer = self.describe(Kind::Answer, setup).answering(offer);
        if let (Some(theirs), false) = (&offer.sctp_init, self.secured) {
            answer.sctp_init = self.sctp.init();
            self.sctp.set_peers_init(theirs);
        }
        self.due.get_or_insert(now);
        Ok(answer)
    }

    fn accept(&mut self, answer: &Description, now: Instant) -> Result<(), PeerError> {
        if answer.kind != Kind::Answer {
            return Err(PeerError::State("an offer came where an answer was due"));
        }
        if self.active.is_some() && !self.restarting {
            return Err(PeerError::State("an answer to no offer"));
        }
        self.restarting = false;
        self.take(answer, answer.setup == Setup::Passive)?;
        if let Some(theirs) = &answer.sctp_init {
            self.sctp.set_peers_init(theirs);
        }
        self.due.get_or_insert(now);
        Ok(())
    }

    fn restart(&mut self) -> Result<Description, PeerError> {
        if self.closed || self.active.is_none() {
            return Err(PeerError::State("there is no connection whose ICE could be restarted"));
        }
        self.restarting = true;
        self.renew();
        Ok(self.describe(Kind::Offer, Setup::ActPass))
    }

    fn add_local(&mut self, candidate: LocalCandidate, now: Instant) -> Option<String> {
        let made = match candidate {
            LocalCandidate::Host(address) => IceCandidate::host(address, Protocol::Udp),
            LocalCandidate::ServerReflexive { mapped, base } => {
                IceCandidate::server_reflexive(mapped, base, Protocol::Udp)
            }
            LocalCandidate::Relayed { relay, base } => IceCandidate::relayed(relay, base, Protocol::Udp),
        };
        let text = self.ice.add_local_candidate(made.ok()?).map(text_of);
        self.due.get_or_insert(now);
        text
    }

    fn add_remote(&mut self, candidate: &IceCandidate, now: Instant) {
        self.ice.add_remote_candidate(candidate.clone());
        self.due.get_or_insert(now);
    }

    fn leave_pair(&mut self, pair: CandidatePair, for_other: CandidatePair, now: Instant) {
        let leaving = if pair.local.address == for_other.local.address {
            self.ice.remote_candidates().find(|c| c.addr() == pair.remote.address)
        } else {
            self.ice.local_candidates().find(|c| c.addr() == pair.local.address)
        };
        if let Some(candidate) = leaving {
            self.ice.invalidate_candidate(&candidate);
            self.run_ice(now);
        }
        // What ICE takes for the best of the rest may be as dead; this one has just answered.
        self.select(Path { local: for_other.local.address, remote: for_other.remote.address });
    }

    fn pairs(&self) -> Vec<CandidatePair> {
        let own = |c: &IceCandidate| matches!(c.kind(), is::CandidateKind::Host | is::CandidateKind::Relayed);
        let remotes = self.ice.remote_candidates();
        self.ice
            .local_candidates()
            .filter(own)
            .flat_map(|l| {
                let local = l.addr();
                let of_family = move |r: &IceCandidate| r.addr().is_ipv4() == local.is_ipv4();
                remotes.clone().filter(of_family).map(move |r| Path { local, remote: r.addr() })
            })
            .take(MAX_TOLD)
            .map(|path| self.pair(path))
            .collect()
    }

    fn credentials(&self) -> Option<Credentials> {
        let remote = self.ice.remote_credentials()?;
        Some(Credentials {
            local_ufrag: self.local_ufrag(),
            remote_ufrag: remote.ufrag.clone(),
            remote_password: remote.pass.clone(),
            controlling: self.ice.controlling(),
            tie_breaker: self.tie_breaker,
        })
    }

    fn is_ours(&self) -> bool {
        self.sctp.is_agreed()
    }

    fn local_ufrag(&self) -> String {
        self.ice.local_credentials().ufrag.clone()
    }

    fn handle_datagram(&mut self, local: SocketAddr, remote: SocketAddr, datagram: &[u8], now: Instant) {
        match datagram.first() {
            // RFC 7983 section 7: the first byte tells the protocol.
            Some(0..=3) => {
                if let Ok(message) = StunMessage::parse(datagram) {
                    let packet = StunPacket { proto: Protocol::Udp, source: remote, destination: local, message };
                    if self.ice.handle_packet(now, packet) {
                        self.run_ice(now);
                    }
                }
            }
            // Only from addresses that have shown the ICE password.
            Some(20..=63) if self.active.is_some() && !self.closed && self.heard.contains(&remote) => {
                let path = Path { local, remote };
                self.answered = Some(path);
                self.taken = false;
                let fed =
                    self.dtls.handle_timeout(self.hurry.clock(now)).and_then(|()| self.dtls.handle_packet(datagram));
                if let Err(e) = fed {
                    self.end(Ended::Dtls(e.to_string()));
                }
                self.drain_dtls(now);
                if self.taken {
                    self.follow(path, datagram);
                }
            }
            _ => {}
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.due.take().is_some() || self.ice.poll_timeout().is_none_or(|at| at <= now) {
            self.run_ice(now);
        }
        if self.dtls_timeout.is_some_and(|at| at <= now) {
            self.run_dtls_timeout(now);
        }
        if self.sctp.poll_timeout().is_some_and(|at| at <= now) {
            self.sctp.handle_timeout(now);
        }
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        if self.closed {
            return None;
        }
        // Before the peer's credentials are known there is nobody to check.
        let ice = self.ice.remote_credentials().is_some().then(|| self.due.or(self.ice.poll_timeout())).flatten();
        let dtls = self.started.then_some(self.dtls_timeout).flatten().or(self.answered.and(self.dtls_timeout));
        [ice, dtls, self.sctp.poll_timeout(), self.copies.poll_timeout()].into_iter().flatten().min()
    }

    fn drain(&mut self, now: Instant, send: &mut dyn FnMut(SocketAddr, SocketAddr, &[u8])) {
        if self.secured && !self.closed {
            self.drain_sctp(now);
        }
        while let Some((path, datagram)) = self.copies.due(now) {
            // A pair that was left has no use for it.
            if self.selected.or(self.answered) == Some(path) {
                self.out.push(path, &datagram);
            }
        }
        self.out.drain(send);
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn read(&mut self) -> Option<Bytes> {
        loop {
            let (binary, message) = self.sctp.read(DATA)?;
            if binary {
                return Some(message);
            }
        }
    }

    fn write(&mut self, message: &Bytes) -> Result<(), PeerError> {
        self.sctp.write(DATA, true, message)
    }

    fn negotiate(&mut self, text: &str) -> Result<(), PeerError> {
        self.sctp.write(NEGOTIATION, false, text.as_bytes())
    }

    fn unacknowledged(&mut self) -> usize {
        self.sctp.unacknowledged()
    }

    fn max_message(&self) -> usize {
        self.sctp.max_message()
    }

    fn close(&mut self, now: Instant) {
        if self.secured && !self.closed {
            let _ = self.dtls.close();
            self.drain_dtls(now);
        }
        self.closed = true;
    }
}
