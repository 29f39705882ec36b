//! Sans-IO sessions: the machine's session registry, the order of numbered calls, the actuators' gates.
//!
//! A machine never moves for a client that is gone. That promise lives here as a plain value without clocks, tasks, sockets or
//! randomness: [`registry::SessionRegistry`]. A shell feeds it what happened and when, and acts on what it says.

pub mod client;
mod id;
mod order;
pub mod registry;

pub use id::{Connection, Owner, SessionId};
pub use order::{Order, OrderError};
