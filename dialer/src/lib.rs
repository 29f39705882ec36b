//! Which route, when, and what if it dies: one sans-IO [`agent::RouteAgent`] and the task that runs it.
//!
//! [`Dialer::start`] gives two halves. The [`MachineChannel`] is what callers hold: any generated tonic client runs on it,
//! and it never changes while the route beneath it does. The [`LinkSwitch`] is what the session layer holds: it hears of
//! *use*, *drain*, *hedge* and *validate*, tells what is held and what its beats found, and may use every link by itself.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell has a clock and tasks; the agent has not"
)]

#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod agent;
mod carrier;
mod channel;
mod flight;
mod options;
mod pass;
mod plan;
mod probe;
mod shell;
mod status;
mod switch;

pub use channel::MachineChannel;
pub use flight::{DialError, FlightRecord, Outcome, Try, TryResult};
pub use options::{Admit, Admitted, Anonymous, DialOptions, Refusal, Whom};
pub use plan::{CallPlan, DialClass};
pub use shell::Dialer;
pub use status::{RouteState, RouteStatus, Swap, SwapReason, TooSlow};
pub use switch::{LinkSwitch, LinkView, RouteEvent};

#[cfg(test)]
mod tests;
