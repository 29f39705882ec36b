//! One function of bytes for each target; the crates' own tests replay the committed corpus with the same functions.

#![allow(unused_imports, reason = "the worlds say how long a step is, for tests that make them up")]

#[path = "../../session-core/tests/worlds/bytes.rs"]
mod bytes;
#[path = "../../session-core/tests/worlds/client/mod.rs"]
mod client;
#[path = "../../session-core/tests/worlds/pair/mod.rs"]
mod pair;
#[path = "../../session-core/tests/worlds/registry/mod.rs"]
mod registry;
#[cfg(feature = "wire")]
#[path = "../../dialer/tests/worlds/routes/mod.rs"]
mod routes;
#[path = "../../session-core/tests/worlds/targets.rs"]
pub mod targets;

#[cfg(feature = "wire")]
pub mod dns;
#[cfg(feature = "wire")]
pub mod wire;
/// A life of the agent that decides about routes.
#[cfg(feature = "wire")]
pub fn route_agent(bytes: &[u8]) {
    routes::run(&routes::Life::of(bytes));
}
