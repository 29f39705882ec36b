//! Many calls on one channel: [`Caller`] the client's half, [`Callee`] the machine's.
//!
//! Both are plain values: packets and times in, packets and events out, and questions that are answered at once.
//!
//! **What goes next** is decided when the channel has a place: resets, refusals and windows first, then the reserved calls (Stop,
//! beats, probes), then the others in turn, a packet each: up to 65,000 bytes while no other call waits, 16 KiB as soon as one does or the path is slow.
//!
//! **What is not read** is kept per call, and never holds another call up. Between our ends each call has a window: a sender stops
//! 4 MiB ahead of the reader, and only that call waits. Existing peers know no windows: there a call whose reader leaves more than
//! 32 MiB besides the first unread message fails with RESOURCE_EXHAUSTED, and at 128 MiB in all the call that keeps most does; the
//! rest goes on. A message over 32 MiB fails its call the same way.
//!
//! A window is a number of bytes, counted from the beginning of the call, each message counting [`MESSAGE`] besides its own; it
//! rides in a field that existing peers skip, on the heads, and later alone.

mod callee;
mod caller;
mod inbox;
mod outbox;

#[cfg(test)]
mod tests;

pub use callee::{Callee, Limits, Opened, is_reserved, single_request};
pub use caller::Caller;

use std::collections::BTreeMap;

use http::HeaderMap;
use tonic::Status;

use super::frame::{Message, Trailers};

/// The largest part of a message that one packet carries, in bytes, while no other call waits.
pub const ALONE: usize = 65_000;
/// And as soon as one does: at 2 Mbit/s a packet of this size is on its way for 65 ms.
pub const SHARED: usize = 16 << 10;
/// What a message counts besides its bytes, so that a million empty ones are no less bounded than one large one.
pub const MESSAGE: u64 = 64;
/// How far a sender may be ahead of the reader, in bytes: 300 Mbit/s at a round trip of 100 ms.
pub const WINDOW: u64 = 4 << 20;
/// Bytes that may wait to be sent before a call's body is asked for more.
pub const AHEAD: usize = 64 << 10;
/// Unread bytes of complete messages besides the first, at which a call fails.
pub const UNREAD: u64 = 32 << 20;
/// Unread bytes of all calls at which the one that keeps most fails.
pub const UNREAD_IN_ALL: u64 = 128 << 20;
/// Ordinary calls at once: of the protocol's 256, eight stay free for reserved ones.
pub const ORDINARY: usize = 248;

/// Removes a value, and with the last one the map's memory: those of an idle connection would keep a node each.
pub(super) fn remove<V>(map: &mut BTreeMap<u64, V>, id: u64) -> Option<V> {
    let value = map.remove(&id);
    if map.is_empty() {
        *map = BTreeMap::new();
    }
    value
}

/// What happened to a call, for whoever waits on it.
#[derive(Debug)]
pub enum Event {
    /// A client began a call. Boxed: the others are a fraction of its size.
    Opened(Box<Opened>),
    /// There is something to read, or the call has ended.
    Readable(u64),
    /// There is room to send, or the call has ended.
    Writable(u64),
    /// The call has ended before its answer: the handler is to be dropped.
    Aborted(u64),
}

/// The next thing of a call that was not read yet.
#[derive(Debug)]
pub enum Read {
    /// Nothing is there yet.
    Pending,
    /// The answer's head.
    Head(HeaderMap),
    /// A message.
    Message(Message),
    /// The call's end; for a machine the end of the client's messages.
    End(Trailers),
    /// The call broke.
    Failed(Status),
}
