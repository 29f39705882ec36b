//! Bodies on their way: requests re-cut so that nothing waits behind bulk, responses whose errors say what happened.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::Status;

use crate::Body;

/// The most bytes of a request body that are handed to HTTP/2 at once. A frame cannot be interrupted: at 2 Mbit/s one
/// of this size holds a Stop back for 65 ms, one of 1 MiB for 4 s.
const CUT: usize = 16 << 10;

/// A request body in frames of at most [`CUT`] bytes, which notes when its first frame was taken.
pub(crate) struct Cut {
    body: Body,
    rest: Bytes,
    pulled: Arc<AtomicBool>,
}

impl Cut {
    pub(crate) fn new(body: Body) -> (Self, Arc<AtomicBool>) {
        let pulled = Arc::new(AtomicBool::new(false));
        (Self { body, rest: Bytes::new(), pulled: pulled.clone() }, pulled)
    }

    fn next_cut(&mut self) -> Option<Frame<Bytes>> {
        if self.rest.is_empty() {
            return None;
        }
        self.pulled.store(true, Ordering::Relaxed);
        Some(Frame::data(self.rest.split_to(CUT.min(self.rest.len()))))
    }
}

impl http_body::Body for Cut {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            if let Some(cut) = this.next_cut() {
                return Poll::Ready(Some(Ok(cut)));
            }
            let Some(frame) = ready!(Pin::new(&mut this.body).poll_frame(cx)) else { return Poll::Ready(None) };
            match frame?.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => this.rest = data,
                Err(other) => return Poll::Ready(Some(Ok(other))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// A response body that an orderly close waits for.
pub(crate) struct Counted<P> {
    pub(crate) body: Body,
    pub(crate) counted: Option<P>,
}

impl<P: Send + Unpin + 'static> http_body::Body for Counted<P> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            this.counted = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response body that keeps its stream's place in the link until it ends, and whose errors are statuses.
pub(crate) struct Held<P> {
    pub(crate) body: hyper::body::Incoming,
    pub(crate) link: crate::Link,
    pub(crate) place: Option<P>,
}

impl<P: Send + Unpin + 'static> http_body::Body for Held<P> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
            Some(Ok(frame)) => Poll::Ready(Some(Ok(frame))),
            Some(Err(e)) => {
                this.place = None;
                Poll::Ready(Some(Err(this.link.broken(&crate::link::chain(&e)))))
            }
            None => {
                this.place = None;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
