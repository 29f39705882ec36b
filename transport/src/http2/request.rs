//! A call's message on its way out.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use h2::{Reason, SendStream};
use http::HeaderMap;
use http_body::Body as _;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::Body;
use crate::link::CallError;
use crate::sever::Cord;

/// The most bytes of a request body that are handed to HTTP/2 at once. A frame cannot be interrupted: at 2 Mbit/s one
/// of this size holds a Stop back for 65 ms, one of 1 MiB for 4 s.
const CUT: usize = 16 << 10;

/// What there is of a request's body when its head leaves.
pub(super) enum Outgoing {
    /// The head is the whole call.
    Nothing,
    /// All of it, of at most [`CUT`] bytes: it leaves with the head.
    Whole(Bytes),
    /// The rest comes later, or is too much to leave at once.
    Pieces(Pieces),
}

/// What was taken from a body already, and the body.
pub(super) struct Pieces {
    first: Bytes,
    trailers: Option<HeaderMap>,
    rest: Body,
}

impl Outgoing {
    /// Takes what the body has ready, and waits for nothing. An error is the body's own, before anything left.
    pub async fn of(mut body: Body) -> Result<Self, CallError> {
        poll_fn(|cx| {
            let (mut first, mut trailers) = (Bytes::new(), None);
            while first.len() <= CUT && trailers.is_none() {
                let ended = body.is_end_stream();
                let frame = if ended { Poll::Ready(None) } else { Pin::new(&mut body).poll_frame(cx) };
                match frame {
                    Poll::Ready(None) if first.is_empty() => return Poll::Ready(Ok(Self::Nothing)),
                    Poll::Ready(None) if first.len() <= CUT => return Poll::Ready(Ok(Self::Whole(first))),
                    Poll::Ready(None) | Poll::Pending => break,
                    Poll::Ready(Some(Err(status))) => {
                        return Poll::Ready(Err(CallError { status, never_written: true }));
                    }
                    Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) if first.is_empty() => first = data,
                        Ok(data) => {
                            let mut joined = first.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
                            joined.extend_from_slice(&data);
                            first = joined.freeze();
                        }
                        Err(frame) => trailers = frame.into_trailers().ok(),
                    },
                }
            }
            let rest = std::mem::take(&mut body);
            Poll::Ready(Ok(Self::Pieces(Pieces { first, trailers, rest })))
        })
        .await
    }
}

/// Sends a body piece by piece; ends when dropped, and the stream with it if it is not over.
pub(super) struct Pump {
    task: AbortHandle,
    begun: Arc<AtomicBool>,
}

impl Pump {
    /// Pieces are as short as `cord` says at the time.
    pub fn start(runtime: &Handle, stream: SendStream<Bytes>, pieces: Pieces, cord: Arc<Cord>) -> Self {
        let begun = Arc::new(AtomicBool::new(false));
        let task = runtime.spawn(send(stream, pieces, begun.clone(), cord)).abort_handle();
        Self { task, begun }
    }

    /// Whether HTTP/2 has taken any of it.
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn send(mut stream: SendStream<Bytes>, pieces: Pieces, begun: Arc<AtomicBool>, cord: Arc<Cord>) {
    let Pieces { mut first, mut trailers, mut rest } = pieces;
    loop {
        while !first.is_empty() {
            let piece = CUT.min(cord.longest()).min(first.len());
            stream.reserve_capacity(piece);
            // The peer's windows decide how much of it goes now; none, or an error, is the stream's end.
            let Some(Ok(room)) = poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
            if room == 0 {
                continue;
            }
            begun.store(true, Ordering::Relaxed);
            let piece = first.split_to(piece.min(room));
            let last = first.is_empty() && trailers.is_none() && rest.is_end_stream();
            if stream.send_data(piece, last).is_err() || last {
                return;
            }
        }
        if let Some(trailers) = trailers.take() {
            begun.store(true, Ordering::Relaxed);
            // An error means that the stream is over.
            let _ = stream.send_trailers(trailers);
            return;
        }
        match poll_fn(|cx| Pin::new(&mut rest).poll_frame(cx)).await {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => first = data,
                Err(frame) => trailers = frame.into_trailers().ok(),
            },
            Some(Err(_)) => return stream.send_reset(Reason::CANCEL),
            None => {
                begun.store(true, Ordering::Relaxed);
                let _ = stream.send_data(Bytes::new(), true);
                return;
            }
        }
    }
}
