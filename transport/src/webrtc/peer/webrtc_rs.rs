//! The peer connection of the `webrtc` crate: `rtc`, the sans-IO half that the crate drives, behind the same seam (feature `webrtc-rs`).
//!
//! For those who already depend on it, and as a second opinion in the tests: both implementations run the same suites and face each
//! other. What this one does not do is listed in `ARCHITECTURE.md` with the figures that made the other the default; the tests that
//! show it are `peer::tests::webrtc_rs_*`.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use is::Candidate as IceCandidate;
use rtc::data_channel::{RTCDataChannel, RTCDataChannelId, RTCDataChannelInit};
use rtc::ice::mdns::MulticastDnsMode;
use rtc::peer_connection::configuration::setting_engine::{SettingEngine, SettingEngineBuilder};
use rtc::peer_connection::event::{RTCDataChannelEvent, RTCPeerConnectionEvent};
use rtc::peer_connection::message::RTCMessage;
use rtc::peer_connection::sdp::RTCSessionDescription;
use rtc::peer_connection::state::RTCPeerConnectionState;
use rtc::peer_connection::transport::{
    RTCDtlsTransportState, RTCIceCandidate, RTCIceCandidateInit, RTCSctpTransportState,
};
use rtc::peer_connection::{RTCPeerConnection, RTCPeerConnectionBuilder};
use rtc::sansio::Protocol as _;
use rtc::shared::{TransportContext, TransportMessage, TransportProtocol};

use super::{Credentials, Ended, Event, LocalCandidate, Peer, PeerError, Role, kind_of, negotiable, sha256, text_of};
use crate::webrtc::channel::{Candidate, CandidateKind, CandidatePair, MAX_PACKET};
use crate::webrtc::sdp::{Description, Kind};

/// Pairs are checked so often; the library's own pace is 200 ms, and every step of a connection would wait for it.
const CHECK: Duration = Duration::from_millis(50);
/// Checks of a pair before it is given up: 10 s of them, as long as a dial.
const CHECKS: u16 = 200;
/// Between two timeouts, at least.
const PAUSE: Duration = Duration::from_millis(1);
/// What is read and not taken holds the peer back from here, in bytes.
const RECEIVE_BUFFER: u32 = 1 << 20;
/// Pairs that are told.
const MAX_TOLD: usize = 32;

/// One peer connection. See the module.
pub struct WebrtcRs {
    role: Role,
    inner: RTCPeerConnection,
    /// Data and negotiation.
    channels: [RTCDataChannelId; 2],
    opened: [bool; 2],
    /// Whether that both are open was told.
    told: bool,
    /// With how signaling carries them.
    locals: Vec<(IceCandidate, String)>,
    remotes: Vec<IceCandidate>,
    ours: Description,
    theirs: Option<Description>,
    secured: bool,
    selected: Option<(SocketAddr, SocketAddr)>,
    /// A message that was fetched and not read.
    read: Option<Bytes>,
    events: VecDeque<Event>,
    closed: bool,
    /// When the library was last told that time has passed.
    handled: Option<Instant>,
    now: Instant,
}

impl fmt::Debug for WebrtcRs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebrtcRs").field("role", &self.role).field("selected", &self.selected).finish_non_exhaustive()
    }
}

fn settings() -> SettingEngine {
    SettingEngineBuilder::new()
        // Names that end in .local are resolved nowhere here, and without multicast the library would not even start.
        .with_multicast_dns_mode(MulticastDnsMode::Disabled)
        // The first pair that works carries traffic; by default those beside host candidates wait up to two seconds.
        .with_host_acceptance_min_wait(Some(Duration::ZERO))
        .with_srflx_acceptance_min_wait(Some(Duration::ZERO))
        .with_prflx_acceptance_min_wait(Some(Duration::ZERO))
        .with_relay_acceptance_min_wait(Some(Duration::ZERO))
        .with_ice_connection_attempts(Some(CHECK), Some(CHECKS))
        // Whether the path is gone is judged by the driver's checks; zero turns the library's own verdict off.
        .with_ice_timeouts(Some(Duration::ZERO), Some(Duration::ZERO), Some(Duration::from_secs(2)))
        .with_discard_local_candidates_during_ice_restart(false)
        .with_include_loopback_candidate(true)
        .with_sctp_max_receive_buffer_size(RECEIVE_BUFFER)
        // Done here; see `look_at_security`.
        .with_disable_certificate_fingerprint_verification(true)
        .build()
}

fn library(error: impl fmt::Display) -> Ended {
    Ended::Dtls(error.to_string())
}

fn refused(error: impl fmt::Display) -> PeerError {
    PeerError::Library(error.to_string())
}

impl WebrtcRs {
    /// A connection with credentials and a certificate of its own.
    ///
    /// # Errors
    ///
    /// Where the library makes none.
    pub fn new(role: Role, now: Instant) -> Result<Self, Ended> {
        let mut inner = RTCPeerConnectionBuilder::new().with_setting_engine(settings()).build(now).map_err(library)?;
        let mut channel = |label: &str, id| -> Result<RTCDataChannelId, Ended> {
            let init = RTCDataChannelInit { ordered: true, negotiated: Some(id), ..RTCDataChannelInit::default() };
            Ok(inner.create_data_channel(label, Some(init)).map_err(library)?.id())
        };
        let (data, negotiation) = (channel("data", 0)?, channel("negotiation", 1)?);
        // An offer that is not applied yet has no effect but to tell our ICE name, which a shared socket wants first.
        let draft = inner.create_offer(None).map_err(library)?;
        let draft = Description::parse(Kind::Offer, &draft.sdp).map_err(library)?;
        Ok(Self {
            role,
            inner,
            channels: [data, negotiation],
            opened: [false; 2],
            told: false,
            locals: Vec::new(),
            remotes: Vec::new(),
            ours: draft,
            theirs: None,
            secured: false,
            selected: None,
            read: None,
            events: VecDeque::new(),
            closed: false,
            handled: None,
            now,
        })
    }

    fn end(&mut self, why: Ended) {
        if !std::mem::replace(&mut self.closed, true) {
            self.events.push_back(Event::Closed(why));
        }
    }

    /// Takes a description that the library made as ours; the candidates are told by us, with the addresses that others see.
    fn describe(&mut self, made: &RTCSessionDescription, kind: Kind) -> Result<Description, PeerError> {
        let mut ours = Description::parse(kind, &made.sdp)
            .map_err(|_| PeerError::State("the library's description cannot be read"))?;
        ours.candidates = self.locals.iter().map(|(_, text)| text.clone()).collect();
        ours.complete = false;
        self.ours = ours.clone();
        Ok(ours)
    }

    /// Our offer, with new credentials where ICE is to be restarted.
    fn make_offer(&mut self) -> Result<Description, PeerError> {
        let made = self.inner.create_offer(None).map_err(refused)?;
        self.inner.set_local_description(self.now, made.clone()).map_err(refused)?;
        self.describe(&made, Kind::Offer)
    }

    /// The peer's description as the library is given it: the data channels alone, and no candidates; those come one by one, as far as
    /// they are admitted.
    fn take(&mut self, theirs: &Description, now: Instant) -> Result<(), PeerError> {
        if self.theirs.as_ref().is_some_and(|known| known.fingerprint != theirs.fingerprint) {
            return Err(PeerError::State("a renegotiation must not change the certificate"));
        }
        let Description { kind, ufrag, password, .. } = theirs;
        let mut plain =
            Description::new(*kind, theirs.origin.0, ufrag.clone(), password.clone(), theirs.fingerprint, theirs.setup);
        plain.origin = theirs.origin;
        plain.mid.clone_from(&theirs.mid);
        plain.max_message_size = theirs.max_message_size;
        let text = plain.to_string();
        let described = match kind {
            Kind::Offer => RTCSessionDescription::offer(text),
            Kind::Answer => RTCSessionDescription::answer(text),
        };
        self.inner.set_remote_description(now, described.map_err(refused)?).map_err(refused)?;
        // Kept, and not given to the library: it tells who made the description.
        plain.sctp_init.clone_from(&theirs.sctp_init);
        if self.theirs.replace(plain).is_some_and(|before| before.ufrag != *ufrag) {
            self.remotes.clear();
        }
        Ok(())
    }

    /// What the last input changed: the pair in use, the security, the channels.
    fn look(&mut self) {
        while let Some(event) = self.inner.poll_event() {
            match event {
                RTCPeerConnectionEvent::OnConnectionStateChangeEvent(RTCPeerConnectionState::Failed) => {
                    self.end(Ended::Dtls("the handshake failed".into()));
                }
                RTCPeerConnectionEvent::OnDataChannel(RTCDataChannelEvent::OnOpen(id)) => {
                    for (open, channel) in self.opened.iter_mut().zip(self.channels) {
                        *open |= channel == id;
                    }
                }
                RTCPeerConnectionEvent::OnDataChannel(RTCDataChannelEvent::OnClose(_)) => self.end(Ended::ByPeer),
                _ => {}
            }
        }
        self.look_at_security();
        if self.secured && self.opened == [true; 2] && !std::mem::replace(&mut self.told, true) {
            self.events.push_back(Event::Open);
        }
    }

    /// The certificate is compared here, so that an impostor is told from silence: the library only falls silent. Nothing is read or
    /// written before.
    fn look_at_security(&mut self) {
        let Some(sctp) = self.inner.sctp() else { return };
        let (dtls, expected) = (sctp.transport(), self.theirs.as_ref().map(|d| d.fingerprint));
        match dtls.state() {
            RTCDtlsTransportState::Connected if !self.secured => {
                let shown = dtls.get_remote_certificates().first().map(|certificate| sha256(certificate));
                if shown.is_none() || shown != expected {
                    return self.end(Ended::Impostor);
                }
                self.secured = true;
                self.events.push_back(Event::Secured);
            }
            RTCDtlsTransportState::Closed => self.end(Ended::ByPeer),
            RTCDtlsTransportState::Failed => self.end(Ended::Dtls("the handshake failed".into())),
            _ if self.told && sctp.state() == RTCSctpTransportState::Closed => {
                self.end(Ended::Sctp("the association was ended".into()));
            }
            _ => {}
        }
    }

    /// ICE's choice; only checks change it.
    fn look_at_pair(&mut self) {
        let Some(sctp) = self.inner.sctp() else { return };
        let Some(pair) = sctp.transport().ice_transport().get_selected_candidate_pair() else { return };
        let (Some(local), Some(remote)) = (address_of(pair.local()), address_of(pair.remote())) else { return };
        if self.selected.replace((local, remote)) != Some((local, remote)) {
            self.events.push_back(Event::Selected(self.pair(local, remote)));
        }
    }

    fn pair(&self, local: SocketAddr, remote: SocketAddr) -> CandidatePair {
        let ours = self.locals.iter().map(|(candidate, _)| candidate).find(|c| c.addr() == local);
        let theirs = self.remotes.iter().find(|c| c.addr() == remote);
        CandidatePair {
            local: Candidate { address: local, kind: ours.map_or(CandidateKind::Host, kind_of) },
            remote: Candidate { address: remote, kind: theirs.map_or(CandidateKind::PeerReflexive, kind_of) },
        }
    }

    /// Fetches the next message of the data channel, and what the negotiation channel has before it.
    fn fetch(&mut self) {
        while self.secured && !self.closed && self.read.is_none() {
            let Some(tagged) = self.inner.poll_read() else { return };
            let RTCMessage::DataChannelMessage(id, message) = tagged.message else { continue };
            if id == self.channels[0] && !message.is_string {
                self.read = Some(message.data.freeze());
            } else if id == self.channels[1]
                && let Ok(text) = String::from_utf8(message.data.to_vec())
            {
                self.events.push_back(Event::Negotiation(text));
            }
        }
    }

    fn channel(&mut self, which: usize) -> Result<RTCDataChannel<'_>, PeerError> {
        if self.closed || !self.secured || !self.opened[which] {
            return Err(PeerError::Closed);
        }
        self.inner.data_channel(self.channels[which]).ok_or(PeerError::Closed)
    }
}

fn address_of(candidate: &RTCIceCandidate) -> Option<SocketAddr> {
    Some(SocketAddr::new(candidate.address.parse().ok()?, candidate.port))
}

fn init(text: &str) -> RTCIceCandidateInit {
    RTCIceCandidateInit { candidate: text.to_owned(), ..RTCIceCandidateInit::default() }
}

impl Peer for WebrtcRs {
    fn offer(&mut self) -> Description {
        // The same call made the draft; were it ever to fail now, the draft has everything but the candidates.
        self.make_offer().unwrap_or_else(|_| self.ours.clone())
    }

    fn answer(&mut self, offer: &Description, now: Instant) -> Result<Description, PeerError> {
        if offer.kind != Kind::Offer {
            return Err(PeerError::State("an answer came where an offer was due"));
        }
        self.now = now;
        self.take(offer, now)?;
        let made = self.inner.create_answer(None).map_err(refused)?;
        self.inner.set_local_description(now, made.clone()).map_err(refused)?;
        let answer = self.describe(&made, Kind::Answer)?.answering(offer);
        self.look();
        Ok(answer)
    }

    fn accept(&mut self, answer: &Description, now: Instant) -> Result<(), PeerError> {
        if answer.kind != Kind::Answer {
            return Err(PeerError::State("an offer came where an answer was due"));
        }
        self.now = now;
        self.take(answer, now)?;
        self.look();
        Ok(())
    }

    fn restart(&mut self) -> Result<Description, PeerError> {
        if self.closed || self.theirs.is_none() {
            return Err(PeerError::State("there is no connection whose ICE could be restarted"));
        }
        self.inner.restart_ice();
        self.make_offer()
    }

    fn add_local(&mut self, candidate: LocalCandidate, _now: Instant) -> Option<String> {
        let made = match candidate {
            LocalCandidate::Host(address) => IceCandidate::host(address, "udp"),
            LocalCandidate::ServerReflexive { mapped, base } => IceCandidate::server_reflexive(mapped, base, "udp"),
            LocalCandidate::Relayed { relay, base } => IceCandidate::relayed(relay, base, "udp"),
        };
        let made = made.ok()?;
        if self.locals.iter().any(|(known, _)| known.addr() == made.addr()) {
            return None;
        }
        let text = text_of(&made);
        // A server-reflexive address is checked from its base, which is a candidate already (RFC 8445 section 6.1.2.4).
        if made.kind() != is::CandidateKind::ServerReflexive {
            self.inner.add_local_candidate(init(&text)).ok()?;
        }
        self.locals.push((made, text.clone()));
        Some(text)
    }

    fn add_remote(&mut self, candidate: &IceCandidate, _now: Instant) {
        if self.inner.add_remote_candidate(init(&text_of(candidate))).is_ok() {
            self.remotes.push(candidate.clone());
        }
    }

    /// The library's ICE agent chooses alone, and has no way to be told: nothing happens. A restart is the way out.
    fn leave_pair(&mut self, _pair: CandidatePair, _for_other: CandidatePair, _now: Instant) {}

    fn pairs(&self) -> Vec<CandidatePair> {
        let own = |c: &&IceCandidate| matches!(c.kind(), is::CandidateKind::Host | is::CandidateKind::Relayed);
        let locals = self.locals.iter().map(|(candidate, _)| candidate).filter(own).map(IceCandidate::addr);
        locals
            .flat_map(|local| {
                let remotes = self.remotes.iter().map(IceCandidate::addr);
                remotes.filter(move |remote| remote.is_ipv4() == local.is_ipv4()).map(move |remote| (local, remote))
            })
            .take(MAX_TOLD)
            .map(|(local, remote)| self.pair(local, remote))
            .collect()
    }

    fn credentials(&self) -> Option<Credentials> {
        let theirs = self.theirs.as_ref()?;
        Some(Credentials {
            local_ufrag: self.local_ufrag(),
            remote_ufrag: theirs.ufrag.clone(),
            remote_password: theirs.password.clone(),
            controlling: self.role == Role::Caller,
            // The library does not tell its own. It decides who yields where both control (RFC 8445 section 7.3.1.1); a check of
            // ours yields always.
            tie_breaker: 0,
        })
    }

    fn is_ours(&self) -> bool {
        self.theirs.as_ref().is_some_and(|theirs| theirs.sctp_init.is_some())
    }

    fn local_ufrag(&self) -> String {
        self.ours.ufrag.clone()
    }

    fn handle_datagram(&mut self, local: SocketAddr, remote: SocketAddr, datagram: &[u8], now: Instant) {
        if self.closed {
            return;
        }
        self.now = now;
        let transport = TransportContext {
            local_addr: local,
            peer_addr: remote,
            transport_protocol: TransportProtocol::UDP,
            ecn: None,
        };
        // What cannot be read is dropped, as everybody may send it.
        let _ = self.inner.handle_read(TransportMessage { now, transport, message: BytesMut::from(datagram) });
        self.look();
        // RFC 7983 section 7: the first byte tells the protocol, and only STUN moves the path.
        if datagram.first().is_some_and(|first| *first < 4) || self.selected.is_none() {
            self.look_at_pair();
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        if self.closed || self.theirs.is_none() || self.poll_timeout().is_none_or(|at| at > now) {
            return;
        }
        self.handled = Some(now);
        if let Err(error) = self.inner.handle_timeout(now) {
            return self.end(library(error));
        }
        self.look();
        self.look_at_pair();
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        if self.closed || self.theirs.is_none() {
            return None;
        }
        // Under loss the library asks again for moments that it was given already, for seconds on end; a driver would spin.
        let at = self.inner.poll_timeout()?;
        Some(self.handled.map_or(at, |handled| at.max(handled + PAUSE)))
    }

    fn drain(&mut self, now: Instant, send: &mut dyn FnMut(SocketAddr, SocketAddr, &[u8])) {
        self.now = now;
        while let Some(packet) = self.inner.poll_write() {
            send(packet.transport.local_addr, packet.transport.peer_addr, &packet.message);
        }
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.fetch();
        self.events.pop_front()
    }

    fn read(&mut self) -> Option<Bytes> {
        self.fetch();
        self.read.take()
    }

    fn write(&mut self, message: &Bytes) -> Result<(), PeerError> {
        let (now, most) = (self.now, self.max_message());
        if message.len() > most {
            return Err(PeerError::TooLong(message.len()));
        }
        self.channel(0)?.send(now, BytesMut::from(&message[..])).map_err(|_| PeerError::Closed)
    }

    fn negotiate(&mut self, text: &str) -> Result<(), PeerError> {
        let now = self.now;
        let mut channel = self.channel(1)?;
        negotiable(channel.outstanding_bytes())?;
        channel.send_text(now, text).map_err(|_| PeerError::Closed)
    }

    fn unacknowledged(&mut self) -> usize {
        [0, 1].into_iter().filter_map(|which| Some(self.channel(which).ok()?.outstanding_bytes())).sum()
    }

    fn max_message(&self) -> usize {
        let theirs = self.theirs.as_ref().map_or(0, |d| d.max_message_size as usize);
        if theirs == 0 { MAX_PACKET } else { theirs.min(MAX_PACKET) }
    }

    fn close(&mut self, now: Instant) {
        self.now = now;
        if !std::mem::replace(&mut self.closed, true) {
            let _ = self.inner.close();
        }
    }
}
