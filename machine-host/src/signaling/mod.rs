//! The signaling service: callers leave offers for a machine by its name, the machine answers them, candidates pass both ways.
//!
//! [`Calls`](calls::Calls) is the queue as one sans-IO value, [`MemoryQueue`] its shell, [`Signaling`] the gRPC service in front of any
//! [`CallQueue`]. A machine serves it on its own port, for its own names; a cloud serves it for many machines. What may be asked by whom is
//! the [`Access`] of each. A clustered deployment implements [`CallQueue`] on the broker that it has.

mod calls;
mod exchange;
mod front;
mod memory;
mod rate;
mod service;

use std::fmt;
use std::time::{Duration, Instant};

use machine_api::google::rpc;
use machine_api::proto::rpc::webrtc::v1::{IceCandidate, IceServer};
use tokio::sync::mpsc;
use tonic::Status;
use uuid::Uuid;

use crate::Principal;
pub use calls::{Limits, Refused};
pub use front::Front;
pub use memory::MemoryQueue;
pub use rate::RateLimit;
pub use service::{Signaling, SignalingOptions};

/// Under which name a machine is told what type of credential its caller has shown to the signaling service.
pub(crate) const CREDENTIAL_TYPE: &str = "rpc_creds_type";
/// Longest SDP that is taken, in bytes as it travels (base64): those of data channels have 1 to 4 KiB, of a browser with media 30 KiB.
const MAX_SDP: usize = 64 << 10;
/// Longest candidate that is taken, in bytes with its attributes; real ones stay below 300.
const MAX_CANDIDATE: usize = 2 << 10;
/// Longest text of an error that is passed on, in characters.
const MAX_TEXT: usize = 2 << 10;
/// Longest host name, in bytes, as in DNS, with a port.
const MAX_HOST: usize = 260;

/// Who signals: in the extensions of every request, put there by whoever authenticated it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// Who it is.
    pub principal: Principal,
    /// The connection it came by, counted up: of two machines with one name the one that came last is the machine.
    pub connection: u64,
}

/// Who may signal what.
pub trait Access: Send + Sync + 'static {
    /// What a host that somebody names is called here, for hosts with several names; where there is none, everybody is told `host not
    /// preconfigured`.
    fn host(&self, host: &str) -> Option<String>;
    /// Whether `principal` may call `host`.
    fn may_call(&self, principal: &Principal, host: &str) -> Result<(), Status>;
    /// Whether `principal` may answer for `host`.
    fn may_answer(&self, principal: &Principal, host: &str) -> Result<(), Status>;
    /// STUN and TURN servers for a call between `principal` and `host`; none by default.
    fn ice_servers(&self, principal: &Principal, host: &str) -> Vec<IceServer> {
        let _ = (principal, host);
        Vec::new()
    }
}

/// What a caller asks of a machine.
#[derive(Clone, PartialEq)]
pub struct Offer {
    /// The machine's name.
    pub host: String,
    /// The offer, as it travels (base64 of JSON). Never looked into.
    pub sdp: String,
    /// No candidates will follow.
    pub disable_trickle: bool,
    /// Who calls.
    pub caller: Principal,
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An SDP bears the fragments and passwords of its ICE agent.
        write!(f, "Offer({:?} calls {:?}, {} bytes)", self.caller, self.host, self.sdp.len())
    }
}

/// What a caller says after its offer.
#[derive(Clone, Debug, PartialEq)]
pub enum FromCaller {
    /// A way to reach it.
    Candidate(IceCandidate),
    /// It gives up.
    Error(rpc::Status),
    /// It has said everything.
    Done,
}

/// What a machine says to an offer.
#[derive(Clone, Debug, PartialEq)]
pub enum FromAnswerer {
    /// Its answer (base64 of JSON), before everything else and once.
    Answer(String),
    /// A way to reach it.
    Candidate(IceCandidate),
    /// It does not take the call, or gives up.
    Error(rpc::Status),
    /// It has said everything.
    Done,
}

/// An offer that was left with the queue. Dropped, the caller has left.
#[derive(Debug)]
pub struct Call {
    /// Its id, which the caller's updates name.
    pub id: Uuid,
    /// What the machine says; an error is the queue's own verdict. Ends after `Done` and after any error.
    pub answers: mpsc::UnboundedReceiver<Result<FromAnswerer, Refused>>,
    /// Runs when dropped.
    pub leave: Leave,
}

/// An offer that a machine has taken. Dropped before it is answered, it goes to the next that asks.
#[derive(Debug)]
pub struct Exchange {
    /// The call's id.
    pub id: Uuid,
    /// What is asked.
    pub offer: Offer,
    /// When the caller gives up.
    pub until: Instant,
    /// What the caller says. Ends after `Done`.
    pub updates: mpsc::UnboundedReceiver<FromCaller>,
    /// Runs when dropped.
    pub leave: Leave,
}

/// Tells the queue that somebody left.
pub struct Leave(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Leave {
    /// Runs `tell` when dropped.
    pub fn new(tell: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(tell)))
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if let Some(tell) = self.0.take() {
            tell();
        }
    }
}

impl fmt::Debug for Leave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Leave")
    }
}

/// Where callers and machines meet. An offer lives for 10 s; one that has less than 2 s left is given to nobody.
#[tonic::async_trait]
pub trait CallQueue: Send + Sync + 'static {
    /// Leaves an offer. Returns at once: refused where too many wait or nobody answers for its host.
    async fn call(&self, offer: Offer) -> Result<Call, Refused>;
    /// What the caller of `id` says further; only `caller`, for `host`, is it.
    async fn update(&self, id: Uuid, caller: &Principal, host: &str, said: FromCaller) -> Result<(), Refused>;
    /// Waits for an offer to any of `hosts`. Dropped, the machine waits no longer.
    async fn take(&self, hosts: &[String], connection: u64) -> Result<Exchange, Refused>;
    /// What the machine that took `id` says to it.
    async fn answer(&self, id: Uuid, said: FromAnswerer) -> Result<(), Refused>;
}

impl FromCaller {
    /// Refuses what is too large to be passed on.
    fn check(&self) -> Result<(), Status> {
        match self {
            Self::Candidate(candidate) => check_candidate(candidate),
            Self::Error(_) | Self::Done => Ok(()),
        }
    }
}

fn check_candidate(candidate: &IceCandidate) -> Result<(), Status> {
    let length = candidate.candidate.len()
        + candidate.sdp_mid.as_ref().map_or(0, String::len)
        + candidate.username_fragment.as_ref().map_or(0, String::len);
    match length {
        0..=MAX_CANDIDATE => Ok(()),
        _ => Err(Status::invalid_argument(format!("a candidate of {length} bytes; at most {MAX_CANDIDATE} are taken"))),
    }
}

fn check_sdp(sdp: &str) -> Result<(), Status> {
    match sdp.len() {
        0 => Err(Status::invalid_argument("expected an SDP")),
        1..=MAX_SDP => Ok(()),
        length => Err(Status::invalid_argument(format!("an SDP of {length} bytes; at most {MAX_SDP} are taken"))),
    }
}

/// A status without its details, its text cut to a length that fits everywhere.
fn plain(status: rpc::Status) -> rpc::Status {
    let message = status.message.chars().take(MAX_TEXT).collect();
    rpc::Status { code: status.code, message, details: Vec::new() }
}

/// How long an offer lives.
const OFFER_LIFE: Duration = Duration::from_secs(10);
