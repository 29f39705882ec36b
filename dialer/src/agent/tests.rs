//! The agent's life in order, on virtual time.

mod life;
mod network;
mod rig;
mod start;
mod swap;
