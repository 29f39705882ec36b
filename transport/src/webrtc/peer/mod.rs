//! The seam between a library's peer connection and the driver that gives it sockets and a clock.
//!
//! A [`Peer`] is sans-IO: datagrams and time in, datagrams and events out. [`str0m::Str0m`] is the default implementation; with the
//! feature `webrtc-rs` there is `webrtc_rs::WebrtcRs` beside it.

mod sctp;
pub mod str0m;
#[cfg(feature = "webrtc-rs")]
pub mod webrtc_rs;

use std::net::SocketAddr;
use std::time::Instant;

use aws_lc_rs::digest;
use bytes::Bytes;

use super::channel::{CandidateKind, CandidatePair};
use super::sdp::Description;

/// The largest datagram that a peer connection makes, in bytes of UDP payload: what WebRTC stacks have used for a decade without
/// meeting a path that does not carry it.
pub const MAX_DATAGRAM: usize = 1200;

/// Which half of the exchange this side is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Makes the offer; controls which pair is used.
    Caller,
    /// Answers it.
    Answerer,
}

/// An address of ours that packets may come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LocalCandidate {
    /// An interface's address and our port.
    Host(SocketAddr),
    /// What a STUN server saw of `base`.
    ServerReflexive {
        /// What it saw.
        mapped: SocketAddr,
        /// The host candidate that was asked from.
        base: SocketAddr,
    },
    /// An address of a TURN server, reached from `base`.
    Relayed {
        /// The server's address.
        relay: SocketAddr,
        /// Our own end.
        base: SocketAddr,
    },
}

/// ICE credentials of both sides and our role, for checks of our own.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Ours.
    pub local_ufrag: String,
    /// The peer's.
    pub remote_ufrag: String,
    /// The peer's.
    pub remote_password: String,
    /// Whether we are the controlling side.
    pub controlling: bool,
    /// Our tie-breaker.
    pub tie_breaker: u64,
}

/// What a peer connection tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Packets go over this pair from now on.
    Selected(CandidatePair),
    /// The DTLS handshake is done and the certificate is the described one.
    Secured,
    /// Both channels are open.
    Open,
    /// A text message on the negotiation channel.
    Negotiation(String),
    /// The connection is over.
    Closed(Ended),
}

/// Why a connection is over.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Ended {
    /// The peer closed it in order.
    #[error("closed by the peer")]
    ByPeer,
    /// The certificate is not the one that signaling described: somebody else answers.
    #[error(
        "the peer's certificate is not the one that its description promised: somebody else answers at its address"
    )]
    Impostor,
    /// DTLS gave up.
    #[error("dtls: {0}")]
    Dtls(String),
    /// SCTP gave up.
    #[error("sctp: {0}")]
    Sctp(String),
}

/// Why a description or message was not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PeerError {
    /// It does not fit where the connection stands.
    #[error("{0}")]
    State(&'static str),
    /// The message is longer than the peer reads.
    #[error("a message of {0} bytes is longer than the peer reads")]
    TooLong(usize),
    /// The library refused, in its words.
    #[error("the WebRTC library refused: {0}")]
    Library(String),
    /// The connection is over.
    #[error("the connection is over")]
    Closed,
}

/// Which library makes a peer connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Backend {
    /// str0m's parts.
    #[default]
    Str0m,
    /// The `webrtc` crate's sans-IO half.
    #[cfg(feature = "webrtc-rs")]
    WebrtcRs,
}

impl Backend {
    /// A new peer connection. Without `sctp_init` its descriptions do not tell of the SCTP association, which only str0m's do.
    ///
    /// # Errors
    ///
    /// Where the library makes none.
    pub fn make(self, role: Role, sctp_init: bool, now: Instant) -> Result<Box<dyn Peer>, Ended> {
        Ok(match self {
            Self::Str0m => {
                let mut peer = str0m::Str0m::new(role, now)?;
                if !sctp_init {
                    peer.make_handshakes();
                }
                Box::new(peer)
            }
            #[cfg(feature = "webrtc-rs")]
            Self::WebrtcRs => Box::new(webrtc_rs::WebrtcRs::new(role, now)?),
        })
    }
}

/// Of a certificate: its fingerprint.
fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    sum
}

/// Text on the negotiation channel that the peer has not acknowledged, in bytes: each of its offers is answered there, and it may withhold its acknowledgements.
const MAX_NEGOTIATION: usize = 64 << 10;

/// Whether there is room for more of it.
fn negotiable(unacknowledged: usize) -> Result<(), PeerError> {
    if unacknowledged < MAX_NEGOTIATION {
        return Ok(());
    }
    Err(PeerError::State("the peer acknowledges nothing on the negotiation channel"))
}

/// A candidate as signaling carries it. The user name stands in the description already, and old peers know no such extension.
fn text_of(candidate: &::is::Candidate) -> String {
    let text = candidate.to_sdp_string();
    text.split(" ufrag ").next().unwrap_or_default().to_owned()
}

fn kind_of(candidate: &::is::Candidate) -> CandidateKind {
    match candidate.kind() {
        ::is::CandidateKind::Host => CandidateKind::Host,
        ::is::CandidateKind::PeerReflexive => CandidateKind::PeerReflexive,
        ::is::CandidateKind::ServerReflexive => CandidateKind::ServerReflexive,
        ::is::CandidateKind::Relayed => CandidateKind::Relayed,
    }
}

/// A library's peer connection. See the module.
pub trait Peer: Send {
    /// Our description: an offer, with the candidates that are known so far.
    fn offer(&mut self) -> Description;
    /// Takes the peer's offer and answers it. A second offer renegotiates: with other credentials it restarts ICE.
    fn answer(&mut self, offer: &Description, now: Instant) -> Result<Description, PeerError>;
    /// Takes the peer's answer to our offer.
    fn accept(&mut self, answer: &Description, now: Instant) -> Result<(), PeerError>;
    /// Forgets every pair and offers new credentials. Traffic goes on over the selected pair meanwhile.
    fn restart(&mut self) -> Result<Description, PeerError>;
    /// Adds an address of ours; returns it as signaling carries it, or `None` where it adds nothing.
    fn add_local(&mut self, candidate: LocalCandidate, now: Instant) -> Option<String>;
    /// Adds an address of the peer's.
    fn add_remote(&mut self, candidate: &::is::Candidate, now: Instant);
    /// Selects the other pair, and gives up the candidate of this one that the other does not share, so that it is not nominated again.
    /// For the controlling side; the other side follows the data. No [`Event::Selected`] follows where the library lets nobody choose.
    fn leave_pair(&mut self, pair: CandidatePair, for_other: CandidatePair, now: Instant);
    /// The pairs that may be tried, at most 32.
    fn pairs(&self) -> Vec<CandidatePair>;
    /// Once both descriptions are known.
    fn credentials(&self) -> Option<Credentials>;
    /// Whether the peer has shown in its description that it is an end of ours: only those tell of the SCTP association.
    fn is_ours(&self) -> bool;
    /// Our ICE user name fragment: requests for us bear it.
    fn local_ufrag(&self) -> String;
    /// A datagram that came from `remote` to `local`.
    fn handle_datagram(&mut self, local: SocketAddr, remote: SocketAddr, datagram: &[u8], now: Instant);
    /// Time has passed.
    fn handle_timeout(&mut self, now: Instant);
    /// When [`Peer::handle_timeout`] is due.
    fn poll_timeout(&mut self) -> Option<Instant>;
    /// Hands every datagram that is ready to `send`, as (our end, the peer's end, bytes).
    fn drain(&mut self, now: Instant, send: &mut dyn FnMut(SocketAddr, SocketAddr, &[u8]));
    /// What happened.
    fn poll_event(&mut self) -> Option<Event>;
    /// The next message of the data channel. What is not read holds the peer back.
    fn read(&mut self) -> Option<Bytes>;
    /// Writes one message on the data channel.
    fn write(&mut self, message: &Bytes) -> Result<(), PeerError>;
    /// Writes one message on the negotiation channel.
    fn negotiate(&mut self, text: &str) -> Result<(), PeerError>;
    /// Bytes written and not acknowledged.
    fn unacknowledged(&mut self) -> usize;
    /// The longest message that the peer reads, in bytes.
    fn max_message(&self) -> usize;
    /// Says goodbye; one more [`Peer::drain`] sends it.
    fn close(&mut self, now: Instant);
}

#[cfg(test)]
mod tests;
