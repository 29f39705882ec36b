//! gRPC over WebRTC data channels, both ends.
//!
//! A peer connection gives a [`channel::DataChannel`]; everything above it is the same whatever made the connection.

pub mod channel;
pub mod frame;
pub mod mux;
mod port;
#[cfg(feature = "server")]
pub mod serve;
pub mod service;

pub use channel::{Candidate, CandidateKind, CandidatePair, ChannelInfo, DataChannel, DriverEnd, PairLimits, Sever};
