//! The whole crate against real servers on loopback.

mod calls;
mod dial;
mod hedge;
mod machine;
