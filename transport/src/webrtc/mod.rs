//! gRPC over WebRTC data channels, both ends.
//!
//! A peer connection gives a [`channel::DataChannel`]; everything above it is the same whatever made the connection.

pub mod channel;
pub mod frame;
pub mod lane;
pub mod mux;
mod port;
#[cfg(feature = "server")]
pub mod serve;
pub mod service;

pub use channel::{
    Candidate, CandidateKind, CandidatePair, ChannelInfo, DataChannel, DriverEnd, Longest, PairLimits, Sever, Silence,
};

#[cfg(feature = "webrtc")]
pub mod answer;
#[cfg(feature = "webrtc")]
mod burst;
#[cfg(feature = "webrtc")]
pub mod call;
#[cfg(feature = "webrtc")]
mod candidate;
#[cfg(feature = "webrtc")]
mod checks;
#[cfg(feature = "webrtc")]
mod driver;
#[cfg(feature = "webrtc")]
pub mod exchange;
#[cfg(feature = "webrtc")]
mod gate;
#[cfg(feature = "webrtc")]
mod gather;
#[cfg(feature = "webrtc")]
mod moves;
#[cfg(feature = "webrtc")]
pub mod options;
#[cfg(feature = "webrtc")]
pub mod peer;
#[cfg(feature = "webrtc")]
mod relay;
#[cfg(feature = "webrtc")]
pub mod sdp;
#[cfg(feature = "webrtc")]
mod socket;
#[cfg(feature = "webrtc")]
mod stall;
#[cfg(all(test, feature = "webrtc"))]
mod tests;
#[cfg(feature = "webrtc")]
mod trickle;

#[cfg(feature = "webrtc")]
pub use answer::{AnswerOptions, IncomingPeer};
#[cfg(feature = "webrtc")]
pub use call::{CallError, CallStage, Called, call};
#[cfg(feature = "webrtc")]
pub use driver::{Control, OpenError};
#[cfg(feature = "webrtc")]
pub use exchange::CallerIdentity;
#[cfg(feature = "webrtc")]
pub use options::{IcePolicy, IceServer, PeerOptions, SocketChoice, TurnFilter};
#[cfg(feature = "webrtc")]
pub use peer::Backend;
#[cfg(feature = "webrtc")]
pub use socket::Mux;
