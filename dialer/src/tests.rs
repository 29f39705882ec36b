//! The whole crate against real servers on loopback.

mod calls;
mod dial;
mod failover;
mod hedge;
mod machine;
mod proxy;
mod webrtc;
