//! The client's half of a session (statements 30 to 40, 90, 94).

#![allow(clippy::disallowed_methods, reason = "any beginning of time will do")]

mod beats;
mod calls;
mod lapses;
mod rig;
mod sessions;
mod stops;
