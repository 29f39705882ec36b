//! Metadata: `map<string, Strings>` on the channel, HTTP headers on both sides of it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD_INDIFFERENT as BASE64;
use bytes::BytesMut;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::wire::{Fields, Wrong, field_len, put_bytes, put_length};

/// Headers of one hop of HTTP, which some clients send as metadata and no call means; `authorization` besides: nothing authenticates
/// on a data channel, and credentials do not belong there. A deadline has a field of its own.
fn is_hop(name: &HeaderName) -> bool {
    const HOP: [HeaderName; 9] =
        [TE, CONTENT_TYPE, CONTENT_LENGTH, CONNECTION, HOST, TRAILER, TRANSFER_ENCODING, UPGRADE, AUTHORIZATION];
    HOP.contains(name)
        || matches!(
            name.as_str(),
            "grpc-timeout"
                | "grpc-encoding"
                | "grpc-accept-encoding"
                | "grpc-status"
                | "grpc-message"
                | "grpc-status-details-bin"
        )
}

/// Reads metadata; binary values become base64 text, whether they came as such or raw. What a hop means is left out, but
/// `grpc-timeout` is given to `timeout`.
pub(super) fn read(bytes: &[u8], into: &mut HeaderMap, timeout: &mut Option<HeaderValue>) -> Result<(), Wrong> {
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        if number == 1 {
            read_entry(value.bytes()?, into, timeout)?;
        }
    }
    Ok(())
}

fn read_entry(entry: &[u8], into: &mut HeaderMap, timeout: &mut Option<HeaderValue>) -> Result<(), Wrong> {
    let (mut key, mut values): (&str, &[u8]) = ("", &[]);
    let mut fields = Fields(entry);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => key = value.text()?,
            2 => values = value.bytes()?,
            _ => {}
        }
    }
    if key.starts_with(':') {
        return Ok(());
    }
    let name = HeaderName::from_bytes(key.as_bytes()).map_err(|_| Wrong("a metadata key is malformed"))?;
    let binary = name.as_str().ends_with("-bin");
    let mut fields = Fields(values);
    while let Some((number, value)) = fields.next()? {
        if number != 1 {
            continue;
        }
        let text = value.text()?;
        let value = if binary { binary_value(text) } else { HeaderValue::from_str(text) };
        let value = value.map_err(|_| Wrong("a metadata value is malformed"))?;
        if name.as_str() == "grpc-timeout" {
            *timeout = Some(value);
        } else if !is_hop(&name) {
            into.try_append(name.clone(), value).map_err(|_| Wrong("there is too much metadata"))?;
        }
    }
    Ok(())
}

fn binary_value(text: &str) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    if BASE64.decode(text).is_ok() {
        return HeaderValue::from_str(text);
    }
    HeaderValue::from_str(&BASE64.encode(text))
}

/// Writes headers as metadata, field `field`, unless there are none. Fails where a value is not text.
pub(super) fn write(to: &mut BytesMut, field: u32, headers: &HeaderMap) -> Result<(), Wrong> {
    let mut entries = BytesMut::new();
    for name in headers.keys().filter(|name| !is_hop(name)) {
        let mut length = 0;
        for value in headers.get_all(name) {
            std::str::from_utf8(value.as_bytes()).map_err(|_| Wrong("a metadata value is not UTF-8"))?;
            length += field_len(value.len());
        }
        put_length(&mut entries, 1, field_len(name.as_str().len()) + field_len(length));
        put_bytes(&mut entries, 1, name.as_str().as_bytes());
        put_length(&mut entries, 2, length);
        for value in headers.get_all(name) {
            put_bytes(&mut entries, 1, value.as_bytes());
        }
    }
    if !entries.is_empty() {
        put_bytes(to, field, &entries);
    }
    Ok(())
}
