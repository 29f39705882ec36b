//! The first message of a call, read before its handler sees it and given back to it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http_body::Frame;
use http_body_util::BodyExt;
use machine_api::MAX_MESSAGE;
use prost::Message;
use tonic::Status;

use crate::Body;

/// gRPC's prefix of a message: a flag and its length.
const PREFIX: usize = 5;

/// What the protocol's calls have in common: field 1 names the component.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

/// A call's first message and its body, whole again.
#[derive(Debug)]
pub struct First {
    /// The component that it names.
    pub name: String,
    /// The message's bytes, without prefix.
    pub message: Bytes,
    /// The message with its prefix, as it goes on the wire.
    pub framed: Bytes,
    /// Everything, for the handler.
    pub body: Body,
}

/// Reads until the first message is complete. At most 32 MiB, as existing machines take.
pub async fn first(mut body: Body) -> Result<First, Status> {
    // Nearly every message comes in one piece, and is not copied then.
    let mut read = Bytes::new();
    let length = loop {
        if let Some(length) = length_of(&read)?
            && read.len() >= PREFIX + length
        {
            break length;
        }
        let Some(frame) = body.frame().await else {
            return Err(Status::invalid_argument("the call ended before its first message was complete"));
        };
        if let Ok(data) = frame?.into_data() {
            read = if read.is_empty() { data } else { joined(read, data) };
        }
    };
    let message = read.slice(PREFIX..PREFIX + length);
    let named = Named::decode(message.clone())
        .map_err(|e| Status::invalid_argument(format!("the request is malformed: {e}")))?;
    let framed = read.slice(..PREFIX + length);
    Ok(First { name: named.name, message, framed, body: Body::new(Replay { read: Some(read), rest: body }) })
}

/// One piece of two; grows what it has where nobody else holds it.
fn joined(read: Bytes, data: Bytes) -> Bytes {
    let mut whole = read.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    whole.extend_from_slice(&data);
    whole.freeze()
}

fn length_of(read: &Bytes) -> Result<Option<usize>, Status> {
    if read.len() < PREFIX {
        return Ok(None);
    }
    if read[0] != 0 {
        return Err(Status::unimplemented("compressed messages are not taken; send them as they are"));
    }
    let length = (&read[1..PREFIX]).get_u32() as usize;
    if length > MAX_MESSAGE {
        return Err(Status::resource_exhausted(format!(
            "a message of {length} bytes is over the limit of {MAX_MESSAGE}"
        )));
    }
    Ok(Some(length))
}

/// What was read already, then the rest.
struct Replay {
    read: Option<Bytes>,
    rest: Body,
}

impl http_body::Body for Replay {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(read) = self.read.take() {
            return Poll::Ready(Some(Ok(Frame::data(read))));
        }
        Poll::Ready(ready!(Pin::new(&mut self.rest).poll_frame(cx)))
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_none() && self.rest.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{Full, StreamBody};
    use tonic::Code;

    use super::*;

    fn framed(message: &[u8]) -> Vec<u8> {
        let mut framed = vec![0];
        framed.extend_from_slice(&u32::try_from(message.len()).expect("short").to_be_bytes());
        framed.extend_from_slice(message);
        framed
    }

    #[tokio::test]
    async fn the_handler_gets_everything_however_it_was_cut() {
        let named = Named { name: "base".into() }.encode_to_vec();
        let all = [framed(&named), framed(b"second")].concat();
        for cut in 1..all.len() {
            let parts: Vec<_> =
                all.chunks(cut).map(|part| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(part)))).collect();
            let body = Body::new(StreamBody::new(tokio_stream_of(parts)));
            let first = first(body).await.expect("complete");
            assert_eq!((first.name.as_str(), &first.message[..]), ("base", &named[..]));
            assert_eq!(first.body.collect().await.expect("whole").to_bytes(), all);
        }
    }

    fn tokio_stream_of(
        parts: Vec<Result<Frame<Bytes>, Status>>,
    ) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, Status>> {
        futures_util::stream::iter(parts)
    }

    #[tokio::test]
    async fn malformed_oversized_and_broken_messages_are_refused() {
        for (wrong, code) in [
            (vec![], Code::InvalidArgument),
            (vec![0, 0, 0], Code::InvalidArgument),
            (vec![0, 0, 0, 0, 9, 1], Code::InvalidArgument),
            (framed(&[0xff, 0xff]), Code::InvalidArgument),
            (vec![1, 0, 0, 0, 0], Code::Unimplemented),
            (vec![0, 0xff, 0xff, 0xff, 0xff], Code::ResourceExhausted),
        ] {
            let error = first(Body::new(Full::new(Bytes::from(wrong.clone())))).await.expect_err("refused");
            assert_eq!(error.code(), code, "{wrong:?}");
        }
    }
}
