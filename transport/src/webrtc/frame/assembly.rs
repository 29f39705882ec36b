//! Putting messages together again.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use machine_api::MAX_MESSAGE;

use super::Packet;

/// Slices below this are copied together: each kept slice costs its frame and some 100 bytes besides, and whoever sends a message
/// byte by byte must not make a machine keep a hundred times as much.
const SMALL: usize = 2 << 10;
/// gRPC's prefix of a message in HTTP's bodies: a flag and its length.
const PREFIX: usize = 5;

/// A complete message, in the slices in which it came.
#[derive(Clone, Debug, Default)]
pub struct Message {
    slices: VecDeque<Bytes>,
    length: usize,
}

/// A message over 32 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

impl Message {
    /// Its bytes, without any prefix.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it has no bytes at all, as many messages have.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Its bytes as the body of an HTTP message has them: with gRPC's prefix, in one piece where it came in one, else in several.
    pub fn into_body(mut self) -> VecDeque<Bytes> {
        let whole = self.slices.len() < 2;
        let mut start = BytesMut::with_capacity(PREFIX + if whole { self.length } else { 0 });
        start.put_u8(0);
        start.put_u32(u32::try_from(self.length).unwrap_or(u32::MAX));
        if whole {
            // Copied: readers get nearly every message in one piece this way, and such a piece is at most 64 KiB.
            start.put_slice(&self.slices.pop_front().unwrap_or_default());
        }
        self.slices.push_front(start.freeze());
        self.slices
    }

    /// Its bytes in one piece.
    pub fn to_bytes(&self) -> Bytes {
        if self.slices.len() == 1 {
            return self.slices[0].clone();
        }
        let mut all = BytesMut::with_capacity(self.length);
        self.slices.iter().for_each(|slice| all.put_slice(slice));
        all.freeze()
    }
}

/// A message that is under way.
#[derive(Debug, Default)]
pub struct Assembly {
    slices: VecDeque<Bytes>,
    /// Small slices that came last, copied together.
    small: BytesMut,
    length: usize,
}

impl Assembly {
    /// Bytes of it that have come.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Adds a packet, which came in a frame of `frame` bytes; gives the message that it completes.
    pub fn push(&mut self, packet: Packet, frame: usize) -> Result<Option<Message>, TooLarge> {
        let Packet { data, last } = packet;
        self.length += data.len();
        if self.length > MAX_MESSAGE {
            return Err(TooLarge);
        }
        if last && self.slices.is_empty() && self.small.is_empty() {
            let length = std::mem::take(&mut self.length);
            let slices = if data.is_empty() { VecDeque::new() } else { VecDeque::from([data]) };
            return Ok(Some(Message { slices, length }));
        }
        if data.len() < SMALL || data.len() < frame / 2 {
            self.small.put_slice(&data);
        } else {
            self.flush();
            self.slices.push_back(data);
        }
        if !last {
            return Ok(None);
        }
        self.flush();
        Ok(Some(Message { slices: std::mem::take(&mut self.slices), length: std::mem::take(&mut self.length) }))
    }

    fn flush(&mut self) {
        if !self.small.is_empty() {
            self.slices.push_back(self.small.split().freeze());
        }
    }
}
