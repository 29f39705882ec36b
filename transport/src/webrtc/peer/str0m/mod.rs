//! The peer connection, composed of str0m's parts: its ICE agent, its DTLS, its SCTP.
//!
//! The composition is ours, because str0m keeps the timers of the parts to itself that loss turns into seconds.

mod copies;
mod hurry;
mod seam;
mod secrets;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dimpl::{Config, Dtls, DtlsCertificate, Output};
use is::stun::{StunMessage, StunPacket};
use is::{Candidate as IceCandidate, IceAgent, IceAgentEvent, IceCreds};
use str0m_proto::Protocol;

use super::sctp::{DATA, NEGOTIATION, Sctp, Told};
use super::{Credentials, Ended, Event, LocalCandidate, MAX_DATAGRAM, Peer, PeerError, Role, kind_of, sha256, text_of};
use crate::webrtc::channel::{Candidate, CandidateKind, CandidatePair};
use crate::webrtc::sdp::{Description, Kind, Setup};
use copies::Copies;
use hurry::Hurry;
pub(crate) use secrets::Hmac;
use secrets::{credentials, random_u64};

/// The first repetition of a STUN check. Loss of the first check is the commonest delay of a dial.
const STUN_RTO: Duration = Duration::from_millis(50);
/// The first repetition of a DTLS flight; it doubles from there, to what [`hurry`] allows.
const DTLS_RTO: Duration = Duration::from_millis(100);
/// Repetitions of a DTLS flight: 100, 200 and 14 times 400 ms give up after 6 s, before the dial does; with a peer that is not ours the
/// dial gives up first.
const DTLS_RETRIES: usize = 16;
/// The handshake's end is the dial's; this one is out of the way of a clock that runs ahead.
const DTLS_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Pairs that are checked: eight of our addresses with eight of the peer's.
const MAX_PAIRS: usize = 64;
/// Addresses that DTLS is taken from; each has shown the ICE password.
const MAX_HEARD: usize = 64;
/// Pairs that are told.
const MAX_TOLD: usize = 32;

/// Where packets go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Path {
    local: SocketAddr,
    remote: SocketAddr,
}

/// Datagrams that are ready, back to back.
#[derive(Default)]
struct Outbox {
    bytes: Vec<u8>,
    packets: Vec<(Path, usize)>,
}

/// What an outbox's memory may have grown to if the thread is to keep it, in bytes: a burst of data.
const KEPT: usize = 128 << 10;

thread_local! {
    /// The memory of the outbox that was emptied last on this thread: a connection that is idle holds none.
    static SPARE: Cell<Outbox> = const { Cell::new(Outbox { bytes: Vec::new(), packets: Vec::new() }) };
}

impl Outbox {
    /// Hands over what is ready, in order.
    fn drain(&mut self, send: &mut dyn FnMut(SocketAddr, SocketAddr, &[u8])) {
        if self.packets.is_empty() {
            return;
        }
        let mut at = 0;
        for (path, length) in self.packets.drain(..) {
            send(path.local, path.remote, &self.bytes[at..at + length]);
            at += length;
        }
        self.bytes.clear();
        let emptied = std::mem::take(self);
        if emptied.bytes.capacity() <= KEPT {
            SPARE.set(emptied);
        }
    }

    fn push(&mut self, path: Path, packet: &[u8]) {
        if self.packets.is_empty() {
            *self = SPARE.take();
        }
        self.bytes.extend_from_slice(packet);
        self.packets.push((path, packet.len()));
    }
}

/// One peer connection. See the module.
pub struct Str0m {
    role: Role,
    ice: IceAgent,
    tie_breaker: u64,
    /// ICE has something new to act on since then: the rest of a description's candidates, which mostly comes with it, first. Requests
    /// that came before the description would else make candidates of their own, and a check that is under way is lost where such a
    /// one is replaced: 50 ms.
    due: Option<Instant>,
    dtls: Dtls,
    /// Ours.
    fingerprint: [u8; 32],
    /// The peer's, from its description.
    expected: Option<[u8; 32]>,
    /// Whether we open the DTLS handshake; known once both descriptions are.
    active: Option<bool>,
    started: bool,
    secured: bool,
    dtls_timeout: Option<Instant>,
    hurry: Hurry,
    sctp: Sctp,
    selected: Option<Path>,
    /// Where DTLS last came from, for the time before a pair is selected.
    answered: Option<Path>,
    /// The number of the newest record whose contents were taken, and whether any were of the datagram in hand.
    newest: u64,
    taken: bool,
    heard: BTreeSet<SocketAddr>,
    out: Outbox,
    copies: Copies,
    events: VecDeque<Event>,
    closed: bool,
    origin: (u64, u64),
    mid: String,
    /// Our restart that the peer has not answered.
    restarting: bool,
}

impl fmt::Debug for Str0m {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Str0m").field("role", &self.role).field("selected", &self.selected).finish_non_exhaustive()
    }
}

/// One configuration for all connections.
fn dtls_config() -> Result<Arc<Config>, Ended> {
    static CONFIG: OnceLock<Arc<Config>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(config.clone());
    }
    let built = Config::builder()
        .mtu(MAX_DATAGRAM)
        // ICE has shown that the peer is where it says.
        .use_server_cookie(false)
        .flight_start_rto(DTLS_RTO)
        .flight_retries(DTLS_RETRIES)
        .handshake_timeout(DTLS_TIMEOUT)
        .build()
        .map_err(|e| Ended::Dtls(e.to_string()))?;
    Ok(CONFIG.get_or_init(|| Arc::new(built)).clone())
}

thread_local! {
    /// What `poll_output` of DTLS writes into: one datagram or one record's plaintext. The thread's, since fresh zeros for every datagram were 4 % of
    /// what bulk costs.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; 17 << 10].into());
}

impl Str0m {
    /// A connection with credentials and a certificate of its own.
    ///
    /// # Errors
    ///
    /// Where the cryptographic library makes no certificate.
    pub fn new(role: Role, now: Instant) -> Result<Self, Ended> {
        let certificate =
            dimpl::certificate::generate_self_signed_certificate().map_err(|e| Ended::Dtls(e.to_string()))?;
        Self::with_certificate(role, certificate, now)
    }

    fn with_certificate(role: Role, certificate: DtlsCertificate, now: Instant) -> Result<Self, Ended> {
        let fingerprint = sha256(&certificate.certificate);
        let mut ice = IceAgent::with_hmac(credentials(), &Hmac);
        let tie_breaker = random_u64();
        ice.set_control_tie_breaker(tie_breaker);
        ice.set_controlling(role == Role::Caller);
        ice.set_initial_stun_rto(STUN_RTO);
        ice.set_max_candidate_pairs(MAX_PAIRS);
        // Checks leave as soon as there is something to check: 64 of them are 8 KiB, less than one burst of data.
        ice.set_timing_advance(Duration::ZERO);
        let dtls = Dtls::new_12(dtls_config()?, certificate, now);
        Ok(Self {
            role,
            ice,
            tie_breaker,
            due: None,
            dtls,
            fingerprint,
            expected: None,
            active: None,
            started: false,
            secured: false,
            dtls_timeout: None,
            hurry: Hurry::default(),
            sctp: Sctp::new(),
            selected: None,
            answered: None,
            newest: 0,
            taken: false,
            heard: BTreeSet::new(),
            out: Outbox::default(),
            copies: Copies::default(),
            events: VecDeque::new(),
            closed: false,
            origin: (random_u64() >> 2, 0),
            mid: "0".into(),
            restarting: false,
        })
    }

    /// The association is not told of in descriptions.
    pub fn make_handshakes(&mut self) {
        self.sctp.make_handshakes();
    }

    fn describe(&mut self, kind: Kind, setup: Setup) -> Description {
        let creds = self.ice.local_credentials().clone();
        let mut d = Description::new(kind, self.origin.0, creds.ufrag, creds.pass, self.fingerprint, setup);
        d.origin = self.origin;
        self.origin.1 += 1;
        d.mid.clone_from(&self.mid);
        d.candidates = self
            .ice
            .local_candidates()
            .filter(|c| c.kind() != is::CandidateKind::PeerReflexive)
            .map(|c| text_of(&c))
            .collect();
        d
    }

    /// Takes over what the peer's description says of the transport.
    fn take(&mut self, theirs: &Description, active: bool) -> Result<(), PeerError> {
        if self.expected.is_some_and(|known| known != theirs.fingerprint) {
            return Err(PeerError::State("a renegotiation must not change the certificate"));
        }
        self.expected = Some(theirs.fingerprint);
        self.sctp.set_max_message(theirs.max_message_size);
        self.ice.set_remote_credentials(IceCreds { ufrag: theirs.ufrag.clone(), pass: theirs.password.clone() });
        if self.active.is_none() {
            self.active = Some(active);
            self.dtls.set_active(active);
        }
        Ok(())
    }

    /// New credentials: addresses that showed the old ones count no more, save for those in use.
    fn renew(&mut self) {
        let used = [self.selected, self.answered].map(|p| p.map(|p| p.remote));
        self.heard.retain(|a| used.contains(&Some(*a)));
        self.ice.ice_restart(credentials(), true);
    }

    fn is_new_generation(&self, theirs: &Description) -> bool {
        self.ice.remote_credentials().is_some_and(|c| c.ufrag != theirs.ufrag || c.pass != theirs.password)
    }

    fn end(&mut self, why: Ended) {
        if !std::mem::replace(&mut self.closed, true) {
            self.events.push_back(Event::Closed(why));
        }
    }

    /// Lets ICE act until it has nothing more to do now.
    fn run_ice(&mut self, now: Instant) {
        for _ in 0..2 * MAX_PAIRS {
            self.ice.handle_timeout(now);
            self.drain_ice();
            // Without credentials of the peer there is nothing to do; what it asked already waits.
            if self.ice.remote_credentials().is_none() || self.ice.poll_timeout().is_some_and(|at| at > now) {
                break;
            }
        }
        self.start_dtls(now);
    }

    fn drain_ice(&mut self) {
        while let Some(transmit) = self.ice.poll_transmit() {
            let path = Path { local: transmit.source, remote: transmit.destination };
            self.out.push(path, &transmit.contents);
        }
        while let Some(event) = self.ice.poll_event() {
            match event {
                IceAgentEvent::NominatedSend { source, destination, .. } => {
                    self.select(Path { local: source, remote: destination });
                }
                IceAgentEvent::DiscoveredRecv { source, .. } if self.heard.len() < MAX_HEARD => {
                    self.heard.insert(source);
                }
                _ => {}
            }
        }
    }

    fn select(&mut self, path: Path) {
        if self.selected.replace(path) != Some(path) {
            self.sctp.handle_path();
            self.events.push_back(Event::Selected(self.pair(path)));
        }
    }

    /// Which pair carries traffic is the controlling side's choice, and where its data comes from tells it: nominations stay with the
    /// best pair that once worked. Only the newest record counts (as in RFC 9000 section 9.3), so what was late on the old pair does
    /// not lead back there.
    fn follow(&mut self, path: Path, datagram: &[u8]) {
        // Epoch and sequence number of a DTLS 1.2 record.
        let Some(number) = datagram.get(3..11).and_then(|n| n.try_into().ok()).map(u64::from_be_bytes) else { return };
        if number > self.newest {
            self.newest = number;
            if self.selected.is_some() && !self.ice.controlling() {
                self.select(path);
            }
        }
    }

    /// The handshake begins once there is a path, so that no flight is lost and repeated for want of one.
    fn start_dtls(&mut self, now: Instant) {
        if self.selected.is_some() && self.active == Some(true) && !std::mem::replace(&mut self.started, true) {
            self.run_dtls_timeout(now);
        }
    }

    fn run_dtls_timeout(&mut self, now: Instant) {
        if let Err(e) = self.dtls.handle_timeout(self.hurry.clock(now)) {
            self.end(Ended::Dtls(e.to_string()));
        }
        self.drain_dtls(now);
    }

    fn drain_dtls(&mut self, now: Instant) {
        SCRATCH.with_borrow_mut(|scratch| self.drain_dtls_into(scratch, now));
    }

    fn drain_dtls_into(&mut self, scratch: &mut [u8], now: Instant) {
        loop {
            match self.dtls.poll_output(scratch) {
                Output::Packet(packet) => {
                    if let Some(path) = self.selected.or(self.answered) {
                        self.out.push(path, packet);
                    }
                }
                Output::ApplicationData(packet) => {
                    self.taken = true;
                    self.sctp.handle_packet(packet, now);
                }
                Output::PeerCert(certificate) if self.expected != Some(sha256(certificate)) => {
                    return self.end(Ended::Impostor);
                }
                // Whoever was found out before is not let in after.
                Output::Connected if !self.closed => {
                    self.secured = true;
                    self.events.push_back(Event::Secured);
                    if (self.active == Some(true) || self.sctp.is_agreed())
                        && let Err(e) = self.sctp.connect()
                    {
                        return self.end(Ended::Sctp(e));
                    }
                }
                Output::CloseNotify => return self.end(Ended::ByPeer),
                Output::BufferTooSmall { needed } => {
                    return self.end(Ended::Dtls(format!("a record of {needed} bytes")));
                }
                Output::Timeout(at) => {
                    self.dtls_timeout = Some(self.hurry.wake(at, now, self.sctp.is_agreed()));
                    return;
                }
                _ => {}
            }
        }
    }

    fn drain_sctp(&mut self, now: Instant) {
        while let Some(told) = self.sctp.poll_event() {
            match told {
                Told::Open => self.events.push_back(Event::Open),
                Told::Lost(why) => self.end(Ended::Sctp(why)),
            }
        }
        while let Some((_, text)) = self.sctp.read(NEGOTIATION) {
            if let Ok(text) = std::str::from_utf8(&text) {
                self.events.push_back(Event::Negotiation(text.to_owned()));
            }
        }
        while let Some(packets) = self.sctp.poll_packets(now) {
            for packet in packets {
                let repeated = self.sctp.repeats(&packet);
                let (bytes, datagrams) = (self.out.bytes.len(), self.out.packets.len());
                if let Err(e) = self.dtls.send_application_data(&packet) {
                    return self.end(Ended::Dtls(e.to_string()));
                }
                self.drain_dtls(now);
                if self.copies.takes(packet.len(), repeated, now) {
                    let mut at = bytes;
                    for (path, length) in &self.out.packets[datagrams..] {
                        self.copies.keep(*path, &self.out.bytes[at..at + length], now);
                        at += length;
                    }
                }
            }
        }
    }

    /// How both ends of a path came about.
    fn pair(&self, path: Path) -> CandidatePair {
        let local =
            self.ice.local_candidates().find(|c| c.addr() == path.local).map_or(CandidateKind::Host, |c| kind_of(&c));
        let remote = self
            .ice
            .remote_candidates()
            .find(|c| c.addr() == path.remote)
            .map_or(CandidateKind::PeerReflexive, |c| kind_of(&c));
        CandidatePair {
            local: Candidate { address: path.local, kind: local },
            remote: Candidate { address: path.remote, kind: remote },
        }
    }
}
