//! The little of protocol buffers that frames need, over borrowed bytes: packets are sliced out of a frame, never copied.

use bytes::{BufMut, BytesMut};

/// What is wrong with a frame, for the log and for the status that answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrong(pub &'static str);

/// The value of a field, as its wire type tells it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Of a fixed size; no field of ours has one.
    Other,
}

impl<'a> Value<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], Wrong> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Err(Wrong("a field is of the wrong type")) }
    }

    pub(super) fn varint(self) -> Result<u64, Wrong> {
        if let Self::Varint(value) = self { Ok(value) } else { Err(Wrong("a field is of the wrong type")) }
    }

    pub(super) fn flag(self) -> Result<bool, Wrong> {
        Ok(self.varint()? != 0)
    }

    pub(super) fn text(self) -> Result<&'a str, Wrong> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Wrong("a text is not UTF-8"))
    }
}

/// The fields of a message, in the order in which they stand there.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    /// The next field's number and value; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Wrong> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.read_varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.read_varint()?),
            1 => self.take(8).map(|_| Value::Other)?,
            2 => {
                let length = usize::try_from(self.read_varint()?).map_err(|_| Wrong("a field is too long"))?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Other)?,
            _ => return Err(Wrong("a field has no wire type")),
        };
        match key >> 3 {
            0 => Err(Wrong("a field has no number")),
            number => Ok(Some((number, value))),
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Wrong> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Wrong("it is cut off"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn read_varint(&mut self) -> Result<u64, Wrong> {
        let mut value = 0;
        for (at, &byte) in self.0.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                self.0 = &self.0[at + 1..];
                return Ok(value);
            }
        }
        Err(Wrong("a number is cut off"))
    }
}

/// Bytes that a varint takes.
pub(super) fn varint_len(value: u64) -> usize {
    prost::encoding::encoded_len_varint(value)
}

/// Writes a number, which protocol buffers leave out where it is zero.
pub(super) fn put_varint(to: &mut BytesMut, field: u32, value: u64) {
    prost::encoding::encode_varint(u64::from(field << 3), to);
    prost::encoding::encode_varint(value, to);
}

/// Writes the beginning of a field of `length` bytes.
pub(super) fn put_length(to: &mut BytesMut, field: u32, length: usize) {
    prost::encoding::encode_varint(u64::from(field << 3 | 2), to);
    prost::encoding::encode_varint(length as u64, to);
}

pub(super) fn put_bytes(to: &mut BytesMut, field: u32, bytes: &[u8]) {
    put_length(to, field, bytes.len());
    to.put_slice(bytes);
}

/// Bytes that a field of `length` bytes takes with its beginning, for field numbers below 16.
pub(super) fn field_len(length: usize) -> usize {
    1 + varint_len(length as u64) + length
}
