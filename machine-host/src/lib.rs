//! The machine's half as a library: sessions, gates and stops around drivers that are traits.
//!
//! [`Safety`] is the shell of [`session_core::registry`]: one lock around the registry, an OS thread for its deadlines, one
//! parked OS thread for each actuator's Stop. Whatever the rest of the process is busy with, a lapse stops what it has to.

mod auth;
mod cloud;
pub mod component;
pub mod config;
mod driver;
mod guard;
mod machine;
mod operations;
mod resource;
mod robot;
mod runtime;
mod safety;
pub mod signaling;

pub use auth::{API_KEY, AuthError, Authenticator, Principal, ROBOT_SECRET};
pub use cloud::{CloudAccount, CloudIdentity};
pub use driver::DriverError;
pub use guard::{Arrival, Caller};
pub use machine::local_certificate;
pub use machine::{Listening, Machine, MachineError, MachineOptions, Tls};
pub use operations::{Operation, Operations};
pub use resource::ResourceName;
pub use rustls::ServerConfig;
pub use safety::{
    Actuator, Admission, Call, Event, FailedStop, Permit, Running, Safety, SafetyOptions, Stopping, Watchdog, Write,
};
pub use session_core::registry::Policy;
pub use transport::raise_thread;
