//! The frames of the channel `data`: every message on it is one serialized `Request` or `Response`.
//!
//! What existing peers do differently from each other is tolerated here and in [`mux`](super::mux): ids from 0, any cut of a message,
//! empty packets, an end of stream on every packet or on none, metadata that is raw or base64, fields that nobody knows.

mod assembly;
mod cut;
mod encode;
mod metadata;
mod wire;

#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use machine_api::google::rpc;
use prost::Message as _;
use tonic::{Code, Status};

pub use assembly::{Assembly, Message, TooLarge};
pub use cut::{Cutter, Piece, Unsendable};
pub use encode::{MAX_HEAD, request, response};
pub use wire::Wrong;
use wire::{Fields, Value};

/// A field that existing peers skip: how many bytes of messages a peer takes on a stream before they are read. It rides on the
/// heads of our ends, and alone where it grows. See [`mux`](super::mux).
const WINDOW: u64 = 1000;

/// A slice of a serialized gRPC message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The slice, a part of the frame that it came in.
    pub data: Bytes,
    /// The message ends with it.
    pub last: bool,
}

/// A frame, as a side reads it: its stream, what it says, and a window if it carries one.
#[derive(Clone, Debug)]
pub struct Frame<T> {
    /// The call it belongs to.
    pub stream: u64,
    /// `None` where it says nothing that is known here.
    pub what: Option<T>,
    /// Bytes of messages that its sender takes on this stream, counted from the stream's beginning.
    pub window: Option<u64>,
}

/// What a client says.
#[derive(Clone, Debug)]
pub enum Request {
    /// The beginning of a call.
    Head {
        /// Its path, `/package.Service/Method`.
        method: String,
        /// Its metadata, without what a hop means.
        metadata: HeaderMap,
        /// How long it may take, from the field or from `grpc-timeout`; `None` where it may take for ever.
        timeout: Option<Duration>,
    },
    /// A part of a message, the end of the client's messages, or both.
    Message {
        /// A part of a message.
        packet: Option<Packet>,
        /// The client sends no message after the one that this frame belongs to.
        end: bool,
    },
    /// The client has given up.
    Reset,
}

/// What a machine says.
#[derive(Clone, Debug)]
pub enum Response {
    /// The beginning of an answer.
    Head(HeaderMap),
    /// A part of a message.
    Message(Packet),
    /// The end of the call.
    Trailers(Trailers),
}

/// How a call ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trailers {
    /// Its status; absent on the wire where it is OK.
    pub status: rpc::Status,
    /// Metadata besides.
    pub metadata: HeaderMap,
}

impl Trailers {
    /// Those of a status.
    pub fn of(status: &Status) -> Self {
        let mut metadata = status.metadata().clone().into_headers();
        metadata.remove("grpc-status-details-bin");
        // Details that are no google.rpc.Status have no place on the channel.
        let details = rpc::Status::decode(status.details()).map(|s| s.details).unwrap_or_default();
        let status = rpc::Status { code: status.code() as i32, message: status.message().to_owned(), details };
        Self { status, metadata }
    }

    /// Those that stand in HTTP's; `None` where they hold no status.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        Status::from_header_map(headers).map(|status| Self::of(&status))
    }

    /// As a status.
    pub fn to_status(&self) -> Status {
        let details = if self.status.details.is_empty() { Bytes::new() } else { self.status.encode_to_vec().into() };
        let metadata = tonic::metadata::MetadataMap::from_headers(self.metadata.clone());
        Status::with_details_and_metadata(Code::from(self.status.code), &*self.status.message, details, metadata)
    }

    /// As HTTP's trailers.
    pub fn to_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Err(status) = self.to_status().add_header(&mut headers) {
            // Only a message that cannot be a header's value, which percent-encoding rules out.
            headers.insert("grpc-status", http::HeaderValue::from(status.code() as i32));
        }
        headers
    }
}

/// A message that is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The stream, where it could be read.
    pub stream: Option<u64>,
    /// It would have begun a call or an answer.
    pub head: bool,
    /// What is wrong.
    pub why: Wrong,
}

/// Reads what a client sent.
pub fn read_request(frame: &Bytes) -> Result<Frame<Request>, Malformed> {
    read(frame, |number, value| {
        Ok(match number {
            2 => Some(read_request_head(value.bytes()?)?),
            3 => Some(read_request_message(frame, value.bytes()?)?),
            4 => value.flag()?.then_some(Request::Reset),
            _ => None,
        })
    })
}

/// Reads what a machine sent.
pub fn read_response(frame: &Bytes) -> Result<Frame<Response>, Malformed> {
    read(frame, |number, value| {
        Ok(match number {
            2 => {
                let mut metadata = HeaderMap::new();
                read_metadata(value.bytes()?, 1, &mut metadata)?;
                Some(Response::Head(metadata))
            }
            3 => {
                let mut packet = None;
                let mut fields = Fields(value.bytes()?);
                while let Some((number, value)) = fields.next()? {
                    if number == 1 {
                        packet = Some(read_packet(frame, value.bytes()?)?);
                    }
                }
                Some(Response::Message(packet.unwrap_or(Packet { data: Bytes::new(), last: false })))
            }
            4 => Some(Response::Trailers(read_trailers(value.bytes()?)?)),
            _ => None,
        })
    })
}

/// Reads what both directions share. `known` reads the fields 2 to 4, of which the last one counts.
fn read<T>(
    frame: &Bytes,
    mut known: impl FnMut(u64, Value<'_>) -> Result<Option<T>, Wrong>,
) -> Result<Frame<T>, Malformed> {
    let (mut stream, mut what, mut window, mut head) = (None, None, None, false);
    let mut fields = Fields(frame);
    loop {
        let malformed = |why| Malformed { stream, head, why };
        match fields.next().map_err(malformed)? {
            None => break,
            Some((1, value)) => stream = Some(value.bytes().and_then(read_stream).map_err(malformed)?),
            Some((WINDOW, value)) => window = Some(value.varint().map_err(malformed)?),
            Some((number @ 2..=4, value)) => {
                head = number == 2;
                let malformed = |why| Malformed { stream, head, why };
                what = known(number, value).map_err(malformed)?;
            }
            Some(_) => {}
        }
    }
    let stream = stream.ok_or(Malformed { stream: None, head, why: Wrong("it names no stream") })?;
    Ok(Frame { stream, what, window })
}

fn read_stream(bytes: &[u8]) -> Result<u64, Wrong> {
    let (mut fields, mut id) = (Fields(bytes), 0);
    while let Some((number, value)) = fields.next()? {
        if number == 1 {
            id = value.varint()?;
        }
    }
    Ok(id)
}

fn read_request_head(bytes: &[u8]) -> Result<Request, Wrong> {
    let (mut method, mut metadata, mut timeout, mut header) = ("", HeaderMap::new(), None, None);
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => method = value.text()?,
            2 => metadata::read(value.bytes()?, &mut metadata, &mut header)?,
            3 => timeout = read_timeout(value.bytes()?)?,
            _ => {}
        }
    }
    if timeout.is_none()
        && let Some(text) = header
    {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", text);
        timeout = crate::timeout::grpc_timeout(&headers);
    }
    Ok(Request::Head { method: method.to_owned(), metadata, timeout })
}

/// A `google.protobuf.Duration`. Zero means none, as existing clients send it; below zero the time is over.
fn read_timeout(bytes: &[u8]) -> Result<Option<Duration>, Wrong> {
    let (mut fields, mut seconds, mut nanos) = (Fields(bytes), 0, 0);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => seconds = value.varint()?.cast_signed(),
            // An int32 below zero is written with 64 bits.
            2 => nanos = value.varint()?.cast_signed(),
            _ => {}
        }
    }
    if (seconds, nanos) == (0, 0) {
        return Ok(None);
    }
    let nanos = u32::try_from(nanos).unwrap_or(0).min(999_999_999);
    Ok(Some(u64::try_from(seconds).map_or(Duration::ZERO, |seconds| Duration::new(seconds, nanos))))
}

fn read_request_message(frame: &Bytes, bytes: &[u8]) -> Result<Request, Wrong> {
    let (mut has_message, mut packet, mut end) = (false, None, false);
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => has_message = value.flag()?,
            2 => packet = Some(read_packet(frame, value.bytes()?)?),
            3 => end = value.flag()?,
            _ => {}
        }
    }
    let packet = has_message.then(|| packet.unwrap_or(Packet { data: Bytes::new(), last: false }));
    Ok(Request::Message { packet, end })
}

fn read_packet(frame: &Bytes, bytes: &[u8]) -> Result<Packet, Wrong> {
    let (mut data, mut last): (&[u8], bool) = (&[], false);
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => data = value.bytes()?,
            2 => last = value.flag()?,
            _ => {}
        }
    }
    // An empty slice may point anywhere.
    let data = if data.is_empty() { Bytes::new() } else { frame.slice_ref(data) };
    Ok(Packet { data, last })
}

fn read_trailers(bytes: &[u8]) -> Result<Trailers, Wrong> {
    let mut trailers = Trailers::default();
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => trailers.status = rpc::Status::decode(value.bytes()?).map_err(|_| Wrong("its status is malformed"))?,
            2 => metadata::read(value.bytes()?, &mut trailers.metadata, &mut None)?,
            _ => {}
        }
    }
    Ok(trailers)
}

/// Reads the metadata that stands in field `field` of a message.
fn read_metadata(bytes: &[u8], field: u64, into: &mut HeaderMap) -> Result<(), Wrong> {
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        if number == field {
            metadata::read(value.bytes()?, into, &mut None)?;
        }
    }
    Ok(())
}
