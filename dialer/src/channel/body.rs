//! Bodies: requests that can be sent twice, replies that cannot hang.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use crate::carrier::{Carrier, Standing};

/// A reply is buffered up to this before it is handed over: an answer is complete only with its trailers.
pub(super) const REPLY_LIMIT: usize = 64 << 10;

/// A request's body: whole, or as it came.
pub(super) enum Payload {
    /// Can be sent any number of times.
    Whole(Bytes),
    /// Can be sent once; `None` when it was.
    Once(Option<Body>),
}

impl Payload {
    /// Takes what the body has ready without waiting for more. A unary body of tonic is ready at once, as one frame, so
    /// this copies nothing and delays nothing.
    pub fn peek(mut body: Body, limit: usize, cx: &mut Context<'_>) -> Self {
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        loop {
            let done = body.is_end_stream();
            let frame = if done { Poll::Ready(None) } else { Pin::new(&mut body).poll_frame(cx) };
            let before = |rest: BytesMut| if rest.is_empty() { first.clone() } else { rest.freeze() };
            match frame {
                Poll::Ready(None) => return Self::Whole(before(rest)),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if first.is_empty() && rest.is_empty() => first = data,
                    Ok(data) => {
                        if rest.is_empty() {
                            rest.extend_from_slice(&first);
                        }
                        rest.extend_from_slice(&data);
                    }
                    Err(trailers) => {
                        let before = before(rest);
                        return Self::Once(Some(Prefixed::body(before, Some(Ok(trailers)), body)));
                    }
                },
                Poll::Ready(Some(Err(status))) => {
                    let before = before(rest);
                    return Self::Once(Some(Prefixed::body(before, Some(Err(status)), body)));
                }
                Poll::Pending => return Self::Once(Some(Prefixed::body(before(rest), None, body))),
            }
            if first.len().max(rest.len()) > limit {
                let before = if rest.is_empty() { first } else { rest.freeze() };
                return Self::Once(Some(Prefixed::body(before, None, body)));
            }
        }
    }

    /// A body to send, or `None` if it can be sent only once and was.
    pub fn body(&mut self) -> Option<Body> {
        match self {
            Self::Whole(bytes) => Some(Body::new(http_body_util::Full::new(bytes.clone()))),
            Self::Once(body) => body.take(),
        }
    }

    pub fn repeatable(&self) -> bool {
        matches!(self, Self::Whole(_))
    }
}

/// What was taken from a body already, and then the body.
struct Prefixed {
    first: Option<Bytes>,
    second: Option<Result<Frame<Bytes>, Status>>,
    rest: Body,
}

impl Prefixed {
    fn body(first: Bytes, second: Option<Result<Frame<Bytes>, Status>>, rest: Body) -> Body {
        if first.is_empty() && second.is_none() {
            return rest;
        }
        Body::new(Self { first: Some(first).filter(|first| !first.is_empty()), second, rest })
    }
}

impl http_body::Body for Prefixed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if let Some(second) = self.second.take() {
            return Poll::Ready(Some(second));
        }
        Pin::new(&mut self.rest).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.second.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// What was read of a reply.
pub(super) enum Collected {
    /// All of it, and its trailers.
    Complete(Body, Option<HeaderMap>),
    /// More than a copy may hold: the rest follows as it comes.
    Large(Body),
}

/// Reads a reply up to its trailers or the limit.
pub(super) async fn collect(mut body: Body) -> Result<Collected, Status> {
    let mut frames = Frames::default();
    let mut size = 0;
    loop {
        if body.is_end_stream() {
            return Ok(Collected::Complete(Body::new(frames), None));
        }
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        match frame {
            None => return Ok(Collected::Complete(Body::new(frames), None)),
            Some(Err(status)) => return Err(status),
            Some(Ok(frame)) => {
                size += frame.data_ref().map_or(0, Bytes::len);
                let trailers = frame.trailers_ref().cloned();
                frames.frames.push_back(frame);
                if trailers.is_some() {
                    return Ok(Collected::Complete(Body::new(frames), trailers));
                }
                if size > REPLY_LIMIT {
                    frames.rest = Some(body);
                    return Ok(Collected::Large(Body::new(frames)));
                }
            }
        }
    }
}

/// Frames that were read, and what follows.
#[derive(Default)]
struct Frames {
    /// Bounded by `REPLY_LIMIT` and the frame that exceeded it.
    frames: std::collections::VecDeque<Frame<Bytes>>,
    rest: Option<Body>,
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(frame) = self.frames.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        match &mut self.rest {
            Some(rest) => Pin::new(rest).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }
}

/// A reply's body that ends with an error when its link is given up or its deadline passes: a black hole closes nothing.
pub(super) struct Guarded {
    body: Body,
    lost: Pin<Box<dyn Future<Output = Status> + Send>>,
    over: bool,
}

impl Guarded {
    pub fn body(body: Body, carrier: Arc<Carrier>, address: String, deadline: Option<tokio::time::Instant>) -> Body {
        let lost = async move {
            let mut standing = carrier.standing.subscribe();
            let gone = async {
                let waited = standing.wait_for(|standing| matches!(standing, Standing::Lost)).await.is_ok();
                debug_assert!(waited, "the carrier owns the sender");
            };
            match deadline {
                Some(at) => tokio::select! {
                    () = gone => super::may_have_run(&address, "the route died in the middle of the reply"),
                    () = tokio::time::sleep_until(at) => Status::deadline_exceeded("the call's deadline passed in the middle of the reply"),
                },
                None => {
                    gone.await;
                    super::may_have_run(&address, "the route died in the middle of the reply")
                }
            }
        };
        Body::new(Self { body, lost: Box::pin(lost), over: false })
    }
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        let status = ready!(self.lost.as_mut().poll(cx));
        self.over = true;
        // Dropping the body resets the stream.
        self.body = Body::empty();
        Poll::Ready(Some(Err(status)))
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
