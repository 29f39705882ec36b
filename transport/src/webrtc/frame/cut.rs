//! Taking messages out of HTTP bodies, however those were cut.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use machine_api::MAX_MESSAGE;

/// gRPC's prefix of a message: a flag and its length.
const PREFIX: usize = 5;

/// A part of a message, ready to be cut into packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its bytes.
    pub data: Bytes,
    /// The message ends with it.
    pub last: bool,
}

/// Why a body's message cannot go over a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsendable {
    /// It is compressed; frames have no flag for that.
    Compressed,
    /// It has more than 32 MiB.
    TooLarge(usize),
}

/// Reads a body's bytes and gives its messages' parts. Nothing is copied.
#[derive(Debug, Default)]
pub struct Cutter {
    prefix: [u8; PREFIX],
    /// Bytes of the prefix that have come.
    have: usize,
    /// Bytes of the message that have not.
    missing: usize,
}

impl Cutter {
    /// The next bytes of the body; the parts of messages that they make are put into `pieces`.
    pub fn push(&mut self, mut data: Bytes, pieces: &mut VecDeque<Piece>) -> Result<(), Unsendable> {
        while data.has_remaining() {
            if self.have < PREFIX {
                let take = data.len().min(PREFIX - self.have);
                data.split_to(take).copy_to_slice(&mut self.prefix[self.have..self.have + take]);
                self.have += take;
                if self.have < PREFIX {
                    return Ok(());
                }
                self.missing = self.length()?;
            }
            let part = data.split_to(data.len().min(self.missing));
            self.missing -= part.len();
            if self.missing == 0 {
                self.have = 0;
            }
            if self.missing == 0 || !part.is_empty() {
                pieces.push_back(Piece { data: part, last: self.missing == 0 });
            }
        }
        Ok(())
    }

    /// Whether a message is under way: a body that ends now has cut it off.
    pub fn is_within(&self) -> bool {
        self.have > 0
    }

    fn length(&self) -> Result<usize, Unsendable> {
        if self.prefix[0] != 0 {
            return Err(Unsendable::Compressed);
        }
        let length = (&self.prefix[1..]).get_u32() as usize;
        if length > MAX_MESSAGE { Err(Unsendable::TooLarge(length)) } else { Ok(length) }
    }
}
