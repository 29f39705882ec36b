//! What came on a stream and was not read yet.

use std::collections::VecDeque;

use machine_api::MAX_MESSAGE;
use tonic::Status;

use super::{MESSAGE, UNREAD, WINDOW};
use crate::webrtc::frame::{Assembly, Message, Packet, TooLarge};

/// Bytes after which a sender is told its window for the first time: most calls are shorter.
const FIRST: u64 = 256 << 10;

/// Why a stream takes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overflow {
    /// One message is too large.
    Message,
    /// Its reader is too slow.
    Unread,
}

#[derive(Debug, Default)]
pub(super) struct Inbox {
    assembly: Assembly,
    ready: VecDeque<Message>,
    /// Of `ready`, as windows count.
    unread: u64,
    /// Of all that ever came.
    received: u64,
    /// The window that the sender knows.
    granted: u64,
    /// The sender keeps to windows.
    windows: bool,
}

impl Inbox {
    /// The sender keeps to windows, and knows of this one already.
    pub(super) fn keeps_windows(&mut self, granted: u64) {
        (self.windows, self.granted) = (true, granted);
    }

    /// The window as it stands, for a head that tells it.
    pub(super) fn window(&mut self) -> Option<u64> {
        self.granted = self.granted.max(self.received - self.unread + WINDOW);
        self.windows.then_some(self.granted)
    }

    /// Whether a message is under way.
    pub(super) fn is_within(&self) -> bool {
        !self.assembly.is_empty()
    }

    /// Takes a packet of a frame of `frame` bytes; tells whether a message is complete.
    pub(super) fn push(&mut self, packet: Packet, frame: usize) -> Result<bool, Overflow> {
        self.received += packet.data.len() as u64;
        let Some(message) = self.assembly.push(packet, frame).map_err(|TooLarge| Overflow::Message)? else {
            return Ok(false);
        };
        self.received += MESSAGE;
        self.unread += cost(&message);
        self.ready.push_back(message);
        let first = self.ready.front().map_or(0, cost);
        if self.unread - first > UNREAD { Err(Overflow::Unread) } else { Ok(true) }
    }

    pub(super) fn read(&mut self) -> Option<Message> {
        let message = self.ready.pop_front()?;
        self.unread -= cost(&message);
        Some(message)
    }

    /// What it keeps, in bytes.
    pub(super) fn held(&self) -> u64 {
        self.unread + self.assembly.len() as u64
    }

    /// A window that the sender should be told. A message that is under way is not held up: nobody can read it before it is
    /// complete.
    pub(super) fn grant(&mut self) -> Option<u64> {
        let window = self.received - self.unread + WINDOW;
        if !self.windows || self.received < FIRST || window < self.granted + WINDOW / 4 {
            return None;
        }
        self.granted = window;
        Some(window)
    }
}

fn cost(message: &Message) -> u64 {
    message.len() as u64 + MESSAGE
}

impl Overflow {
    /// What the call fails with.
    pub(super) fn status(self) -> Status {
        match self {
            Self::Message => Status::resource_exhausted(format!("a message is over the limit of {MAX_MESSAGE} bytes")),
            Self::Unread => Status::resource_exhausted(
                "messages came faster than they were read; read faster, or ask for fewer or smaller ones",
            ),
        }
    }
}
