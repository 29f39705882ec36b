//! A call's reply on its way in.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http_body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;

use super::request::Pump;
use crate::link::{Link, chain};

/// A response body that keeps its stream's place in the link until it ends, and whose errors are statuses. Dropped earlier it resets the
/// stream.
pub(super) struct Reply {
    stream: RecvStream,
    link: Link,
    place: Option<OwnedSemaphorePermit>,
    /// What still sends the request.
    pump: Option<Pump>,
    read: Read,
}

/// What was read of it.
#[derive(PartialEq, Eq)]
enum Read {
    Nothing,
    Data,
    Everything,
}

impl Reply {
    pub fn new(stream: RecvStream, link: Link, place: Option<OwnedSemaphorePermit>, pump: Option<Pump>) -> Self {
        Self { stream, link, place, pump, read: Read::Nothing }
    }

    /// It is over: its place is free, and nothing more of the request is of use.
    fn end(&mut self) {
        self.read = Read::Everything;
        self.place = None;
        self.pump = None;
    }

    fn ended_by(&mut self, error: &h2::Error) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.end();
        // The peer has said what it had to say and wants to hear no more (RFC 9113 section 8.1): not an error.
        if error.reason() == Some(Reason::NO_ERROR) {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Err(self.link.broken(&chain(error)))))
    }
}

impl http_body::Body for Reply {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.read == Read::Nothing {
            match ready!(this.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // The window opens as the data is read; an error means that the stream is over.
                    let _ = this.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return this.ended_by(&error),
                None => this.read = Read::Data,
            }
        }
        if this.read == Read::Everything {
            return Poll::Ready(None);
        }
        match ready!(this.stream.poll_trailers(cx)) {
            Ok(trailers) => {
                this.end();
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Err(error) => this.ended_by(&error),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read == Read::Everything || (self.read == Read::Nothing && self.stream.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
