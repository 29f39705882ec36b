//! What a program imports to drive a machine.
//!
//! ```no_run
//! # async fn drive() -> Result<(), Box<dyn std::error::Error>> {
//! use robot_client::Robot;
//!
//! let robot = Robot::builder("rover-main.loc1.viam.cloud").api_key("<key id>", "<key>").connect().await?;
//! robot.base("base").move_straight(500, 200.0).await?;
//! robot.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! The [`Robot`] finds its machine, keeps the best route and changes it without its caller noticing. A session goes with the first command
//! that moves something: while the program lives, beats leave from a thread of this crate's own, and when it dies whatever it moved stops
//! within the machine's window (2 s by default). What became of the session is told by [`Robot::events`] and, on calls that it cost, by
//! [`SessionError`].

mod builder;
mod channel;
mod credentials;
mod error;
mod handles;
#[cfg(feature = "remote")]
pub mod remote;
mod robot;
mod runtime;
mod session;
mod tokens;

pub use builder::{ConnectError, ConnectErrorKind, RobotBuilder, Sessions};
pub use channel::RobotChannel;
pub use dialer::agent::{StandbyPolicy, Tier};
pub use dialer::{FlightRecord, LinkView, RouteEvent, RouteState, RouteStatus, Swap, SwapReason, TooSlow};
pub use error::SessionError;
pub use handles::*;
pub use robot::{Robot, RobotEvent, SessionStatus};
pub use tokens::{FileTokens, MemoryTokens, NoTokens, TokenStore};
pub use transport::webrtc::{Backend as WebRtcLibrary, IcePolicy, TurnFilter};

/// The examples of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
