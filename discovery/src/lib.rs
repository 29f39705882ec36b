//! A name in, addresses out: multicast DNS, DNS, or the address itself.
//!
//! Whatever answers is only a candidate. Nothing here is trusted: the machine proves its name over TLS, later.

pub mod answer;
mod browse;
#[cfg(target_os = "linux")]
mod changes;
mod finder;
mod listen;
mod mdns;
mod memory;
pub mod name;
pub mod question;
mod repeats;
mod responder;
mod surroundings;

pub use browse::{Browse, BrowseError, Sighting};
#[cfg(target_os = "linux")]
pub use changes::kernel_changes;
pub use finder::{Finder, FinderOptions, Found, Search, Source, SourceError};
pub use listen::Announcements;
pub use memory::Memory;
pub use name::{AddressError, MachineAddress, MachineName};
pub use responder::{Responder, ResponderOptions};
pub use surroundings::{Surroundings, is_private};

/// The port of machines whose DNS record or address names none: the default of existing machines.
pub const DEFAULT_PORT: u16 = 8080;
