//! Writing frames. A message's bytes are copied once, into the frame that carries them.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use prost::Message as _;

use super::wire::{Wrong, field_len, put_bytes, put_length, put_varint, varint_len};
use super::{Trailers, WINDOW, metadata};

/// The longest head or trailers that are sent, in bytes: existing peers read a frame into a buffer of 65,535.
pub const MAX_HEAD: usize = 65_000;
/// Where a status message is cut off if the trailers would be too long with it.
const MAX_TEXT: usize = 8 << 10;

fn start(stream: u64, rest: usize) -> BytesMut {
    let mut frame = BytesMut::with_capacity(rest + 16);
    let id = if stream == 0 { 0 } else { 1 + varint_len(stream) };
    put_length(&mut frame, 1, id);
    if stream != 0 {
        put_varint(&mut frame, 1, stream);
    }
    frame
}

/// A `PacketMessage` as field `field`.
fn put_packet(to: &mut BytesMut, field: u32, data: &[u8], last: bool) {
    put_length(to, field, packet_len(data, last));
    if !data.is_empty() {
        put_bytes(to, 1, data);
    }
    if last {
        put_varint(to, 2, 1);
    }
}

fn packet_len(data: &[u8], last: bool) -> usize {
    let data = if data.is_empty() { 0 } else { field_len(data.len()) };
    data + if last { 2 } else { 0 }
}

fn fits(frame: BytesMut) -> Result<Bytes, Wrong> {
    if frame.len() > MAX_HEAD { Err(Wrong("there is too much metadata")) } else { Ok(frame.freeze()) }
}

/// A window alone, on a stream of either direction.
fn window(stream: u64, bytes: u64) -> Bytes {
    let mut frame = start(stream, 16);
    put_varint(&mut frame, WINDOW as u32, bytes);
    frame.freeze()
}

/// What a client sends.
pub mod request {
    use super::*;

    /// The beginning of a call. Fails where the metadata is too much or no text.
    pub fn head(
        stream: u64,
        method: &str,
        metadata: &HeaderMap,
        timeout: Option<Duration>,
        window: Option<u64>,
    ) -> Result<Bytes, Wrong> {
        let mut head = BytesMut::with_capacity(method.len() + 64);
        put_bytes(&mut head, 1, method.as_bytes());
        metadata::write(&mut head, 2, metadata)?;
        if let Some(timeout) = timeout {
            // Zero would mean none.
            let timeout = timeout.max(Duration::from_nanos(1));
            let seconds = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
            let nanos = timeout.subsec_nanos().cast_signed();
            put_bytes(&mut head, 3, &prost_types::Duration { seconds, nanos }.encode_to_vec());
        }
        let mut frame = start(stream, head.len() + 8);
        put_bytes(&mut frame, 2, &head);
        if let Some(bytes) = window {
            put_varint(&mut frame, WINDOW as u32, bytes);
        }
        fits(frame)
    }

    /// A part of a message; with `end` the last one of the call's last message.
    pub fn message(stream: u64, data: &[u8], last: bool, end: bool) -> Bytes {
        let packet = packet_len(data, last);
        let length = 2 + field_len(packet) + if end { 2 } else { 0 };
        let mut frame = start(stream, field_len(length));
        put_length(&mut frame, 3, length);
        put_varint(&mut frame, 1, 1);
        put_packet(&mut frame, 2, data, last);
        if end {
            put_varint(&mut frame, 3, 1);
        }
        frame.freeze()
    }

    /// The end of the client's messages, after its last one.
    pub fn end(stream: u64) -> Bytes {
        let mut frame = start(stream, 8);
        frame.put_slice(&[0x1a, 6, 0x12, 2, 0x10, 1, 0x18, 1]);
        frame.freeze()
    }

    /// The client gives up.
    pub fn reset(stream: u64) -> Bytes {
        let mut frame = start(stream, 2);
        put_varint(&mut frame, 4, 1);
        frame.freeze()
    }

    /// The client takes messages up to this byte of the stream.
    pub fn window(stream: u64, bytes: u64) -> Bytes {
        super::window(stream, bytes)
    }
}

/// What a machine sends.
pub mod response {
    use super::*;

    /// The beginning of an answer. Fails where the metadata is too much or no text.
    pub fn head(stream: u64, metadata: &HeaderMap, window: Option<u64>) -> Result<Bytes, Wrong> {
        let mut head = BytesMut::new();
        metadata::write(&mut head, 1, metadata)?;
        let mut frame = start(stream, head.len() + 8);
        put_bytes(&mut frame, 2, &head);
        if let Some(bytes) = window {
            put_varint(&mut frame, WINDOW as u32, bytes);
        }
        fits(frame)
    }

    /// A part of a message.
    pub fn message(stream: u64, data: &[u8], last: bool) -> Bytes {
        let packet = packet_len(data, last);
        let mut frame = start(stream, field_len(field_len(packet)));
        put_length(&mut frame, 3, field_len(packet));
        put_packet(&mut frame, 1, data, last);
        frame.freeze()
    }

    /// The end of a call. What does not fit is left out: first the details, then the metadata, then the rest of the message.
    pub fn trailers(stream: u64, trailers: &Trailers) -> Bytes {
        let none = HeaderMap::new();
        let mut status = trailers.status.clone();
        for metadata in [&trailers.metadata, &trailers.metadata, &none] {
            if let Ok(frame) = try_trailers(stream, &status, metadata) {
                return frame;
            }
            status.details.clear();
        }
        let cut = (0..=MAX_TEXT).rev().find(|at| status.message.is_char_boundary(*at)).unwrap_or(0);
        status.message.truncate(cut);
        try_trailers(stream, &status, &none).unwrap_or_default()
    }

    fn try_trailers(stream: u64, status: &machine_api::google::rpc::Status, m: &HeaderMap) -> Result<Bytes, Wrong> {
        let mut trailers = BytesMut::new();
        if status.code != 0 {
            put_bytes(&mut trailers, 1, &status.encode_to_vec());
        }
        metadata::write(&mut trailers, 2, m)?;
        let mut frame = start(stream, trailers.len() + 8);
        put_bytes(&mut frame, 4, &trailers);
        fits(frame)
    }

    /// The machine takes messages up to this byte of the stream.
    pub fn window(stream: u64, bytes: u64) -> Bytes {
        super::window(stream, bytes)
    }
}
