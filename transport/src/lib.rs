//! Makes [`Link`]s: gRPC over one HTTP/2 connection or one WebRTC data channel, both ends. Never retries, ranks or hears of sessions.
//!
//! A link is one live connection. It dies once and never reconnects by itself; whoever holds it learns of its end from
//! [`Link::closed`]. [`direct::connect`] makes one over TCP, with or without TLS, or over a Unix socket; the machine's end is
//! [`serve`] (feature `server`).

mod backlog;
mod body;
mod clearance;
mod clock;
pub mod direct;
pub mod header;
mod http2;
mod link;
pub mod message;
mod pace;
mod places;
mod priority;
#[cfg(feature = "server")]
pub mod serve;
mod sever;
pub mod timeout;
pub mod tls;
pub mod webrtc;

pub use clock::BootClock;
pub use direct::{Address, ConnectError, ConnectOptions, Security, Stage, Target};
pub use link::{CallError, CloseReason, Lane, Link, LinkId, LinkInfo, LinkKind};
pub use priority::raise_thread;

/// The body of every request and response: tonic's own, so that generated clients and servers need no conversion.
pub type Body = tonic::body::Body;
