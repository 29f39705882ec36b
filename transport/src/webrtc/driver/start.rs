//! How a connection begins.

use std::io;

use super::*;
use crate::webrtc::gather::hosts;
use crate::webrtc::lane::lane;
use crate::webrtc::options::{PeerOptions, SocketChoice};
use crate::webrtc::peer::{LocalCandidate, PeerError, Role};
use crate::webrtc::sdp::Description;

/// The caller's half: makes an offer with the candidates that are known at once, and drives the connection.
pub(crate) fn offer(options: &PeerOptions) -> Result<(Connection, Description), OpenError> {
    start(Role::Caller, options, None)
}

/// The answerer's half.
pub(crate) fn answer(options: &PeerOptions, offer: &Description) -> Result<(Connection, Description), OpenError> {
    start(Role::Answerer, options, Some(offer))
}

/// Why no connection could be begun.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No UDP socket.
    #[error("no UDP socket: {0}")]
    Socket(#[from] io::Error),
    /// The library refused.
    #[error("{0}")]
    Library(#[from] Ended),
    /// The peer's description does not fit.
    #[error("{0}")]
    Peer(#[from] PeerError),
}

fn start(
    role: Role,
    options: &PeerOptions,
    offer: Option<&Description>,
) -> Result<(Connection, Description), OpenError> {
    let now = Instant::now();
    let mut peer = options.backend.make(role, options.sctp_init, now)?;
    let (wire, shared) = match &options.socket {
        SocketChoice::Ephemeral => (Wire::Own(Arc::new(Socket::bind(0)?)), None),
        SocketChoice::Shared(mux) => {
            let (place, from) = mux.join(&peer.local_ufrag());
            (Wire::Shared(place), Some(from))
        }
    };
    if options.policy != IcePolicy::RelayOnly {
        let socket = wire.socket();
        for ip in hosts(options.loopback, |ip| socket.reaches(ip)) {
            peer.add_local(LocalCandidate::Host(SocketAddr::new(ip, socket.port())), now);
        }
    }
    let description = match offer {
        None => peer.offer(),
        Some(offer) => peer.answer(offer, now)?,
    };
    let ours = offer.is_some() && peer.is_ours();
    let (to_driver, commands) = lane(64);
    let (reports, from_driver) = lane(64);
    let (relayed_in, relayed) = lane(256);
    let mut driver = Driver {
        peer,
        wire,
        policy: options.policy,
        loopback: options.loopback,
        tls: options.turn_tls.clone(),
        control: to_driver.downgrade(),
        reports: Some(reports),
        gathering: Gathering::default(),
        relayed_in,
        relays: BTreeMap::new(),
        checks: Checks::default(),
        probes: Vec::new(),
        moves: Moves::default(),
        moving: None,
        helps: role == Role::Answerer,
        restarting: None,
        checked: false,
        selected: None,
        remotes: Vec::new(),
        ours,
        untold: Untold::default(),
        life: Arc::new(Life::new(now)),
        next_check: now + IDLE_CHECK,
        gate: Gate::new(now),
        stall: Stall::default(),
        open: None,
        pending: None,
        closing: None,
        ended: None,
        burst: Burst::default(),
    };
    if let Some(offer) = offer {
        driver.add_remote(&offer.candidates, now);
    }
    tokio::spawn(Box::new(driver).run(commands, shared, relayed));
    Ok((Connection { commands: to_driver, reports: from_driver }, description))
}
