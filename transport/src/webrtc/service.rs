//! The client's shell: turns a channel into a [`Link`].

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tonic::Status;

use super::channel::{CandidatePair, ChannelInfo, DataChannel, Sever};
use super::frame::{Cutter, Piece, Trailers, Unsendable};
use super::mux::{AHEAD, Caller, ORDINARY, Read};
use super::port::{For, Port, Portion, now, run};
use crate::link::{CallError, Carrier, Link, LinkId, LinkInfo, LinkKind, Sent};
use crate::timeout::grpc_timeout;
use crate::{Body, CloseReason};

/// Makes a link of a channel. Must be called within a runtime.
pub fn link(channel: DataChannel) -> Link {
    let DataChannel { outgoing, incoming, closed, sever, longest, info, silence: _ } = channel;
    let ChannelInfo { pair, rtt } = *info.borrow();
    let known = LinkInfo {
        id: LinkId::next(),
        kind: LinkKind::WebRtc(pair),
        encrypted: true,
        local: Some(pair.local.address),
        remote: Some(pair.remote.address),
        since: Instant::now(),
        rtt,
    };
    let port = Port::new(Caller::new(), outgoing, longest);
    let over = WebRtc { port: port.clone(), sever, info: info.clone() };
    Link::start(known, Box::new(over), ORDINARY as u32, async move {
        let why = run(&port, incoming, closed, |_| {}).await;
        fail_all(&port, &info, &why);
        Some(why)
    })
}

/// Fails every call, saying which machine was lost.
fn fail_all(port: &Port<Caller>, info: &watch::Receiver<ChannelInfo>, why: &CloseReason) {
    let remote = info.borrow().pair.remote;
    let lost = format!("connection to the machine at {} (WebRTC, {}) lost: {why}", remote.address, remote.kind);
    port.with(|state| state.mux.handle_closed(&Status::unavailable(lost)));
}

struct WebRtc {
    port: Arc<Port<Caller>>,
    sever: Sever,
    info: watch::Receiver<ChannelInfo>,
}

impl Carrier for WebRtc {
    fn send(&self, link: &Link, request: http::Request<Body>, place: Option<OwnedSemaphorePermit>) -> Sent {
        Box::pin(call(self.port.clone(), link.clone(), request, place))
    }

    fn sever(&self, why: &'static str) {
        self.sever.sever(why);
        fail_all(&self.port, &self.info, &CloseReason::Severed(why));
    }

    fn severed(&self) -> Option<&'static str> {
        self.sever.severed()
    }

    /// The peer connection judges silence by itself, and sooner.
    fn bound_silence(&self, _: Duration) {}

    /// It asks all the time, by itself.
    fn watch_silence(&self, _: Duration) {}

    /// It measures its own pairs, and bounds what is unacknowledged by that.
    fn set_round_trip(&self, _: Duration) {}

    /// Nothing of a call that has ended waits.
    fn closes(&self) {}

    fn last_read(&self) -> Instant {
        self.port.last_read()
    }

    fn bytes(&self) -> (u64, u64) {
        self.port.bytes()
    }

    fn pair(&self) -> Option<CandidatePair> {
        Some(self.info.borrow().pair)
    }
}

/// A call's place among the others; when dropped before its end, the machine is told.
struct Call {
    port: Arc<Port<Caller>>,
    id: u64,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.port.with(|state| {
            state.mux.forget(self.id);
            state.unlist(self.id);
        });
    }
}

async fn call(
    port: Arc<Port<Caller>>,
    link: Link,
    request: http::Request<Body>,
    place: Option<OwnedSemaphorePermit>,
) -> Result<http::Response<Body>, CallError> {
    let (head, body) = request.into_parts();
    let mut upload = Upload { body, cutter: Cutter::default(), ended: false };
    // A unary request is complete at once, and leaves in one go.
    let first = poll_fn(|cx| Poll::Ready(upload.gather(cx))).await;
    let refused = |status| CallError { status, never_written: true };
    let pieces = match first {
        Poll::Ready(Err(status)) => return Err(refused(status)),
        Poll::Ready(Ok(pieces)) => pieces,
        Poll::Pending => VecDeque::new(),
    };
    let (path, timeout, reserved) = (head.uri.path(), grpc_timeout(&head.headers), place.is_none());
    let opened = port.with(|state| {
        let id = state.mux.open(path, &head.headers, timeout, reserved, now())?;
        state.mux.send(id, pieces);
        if upload.ended {
            state.mux.end(id);
        }
        Ok(id)
    });
    let id = match opened {
        Ok(id) => id,
        Err(super::frame::Wrong(why)) => {
            let text = format!("the request cannot be sent over WebRTC: {why}; a head has at most 65,000 bytes");
            return Err(refused(Status::invalid_argument(text)));
        }
    };
    let call = Call { port: port.clone(), id };
    if !upload.ended {
        tokio::spawn(upload.run(port.clone(), id));
    }
    let mut answer =
        Answer { call, link, place, slices: VecDeque::new(), portion: Portion::default(), end: None, over: false };
    let metadata = poll_fn(|cx| answer.poll_head(cx)).await?;
    let mut response = http::Response::new(Body::empty());
    *response.headers_mut() = metadata;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/grpc"));
    *response.version_mut() = http::Version::HTTP_2;
    *response.body_mut() = Body::new(answer);
    Ok(response)
}

/// A request's body on its way.
struct Upload {
    body: Body,
    cutter: Cutter,
    ended: bool,
}

impl Upload {
    /// What the body has ready, up to what may wait in the link.
    fn gather(&mut self, cx: &mut Context<'_>) -> Poll<Result<VecDeque<Piece>, Status>> {
        let (mut pieces, mut bytes) = (VecDeque::new(), 0);
        while bytes < AHEAD {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending if pieces.is_empty() => return Poll::Pending,
                Poll::Pending => break,
                Poll::Ready(None) => {
                    self.ended = true;
                    if self.cutter.is_within() {
                        return Poll::Ready(Err(Status::internal("the request's last message was cut off")));
                    }
                    break;
                }
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Err(status)),
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    bytes += data.len();
                    if let Err(unsendable) = self.cutter.push(data, &mut pieces) {
                        return Poll::Ready(Err(refusal(unsendable)));
                    }
                }
            }
        }
        Poll::Ready(Ok(pieces))
    }

    /// Sends the rest of the body for as long as the call lives.
    async fn run(mut self, port: Arc<Port<Caller>>, id: u64) {
        while !self.ended && poll_fn(|cx| port.poll_room(id, cx)).await {
            let gathered = poll_fn(|cx| match port.poll_over(id, For::Writing, cx) {
                Poll::Ready(()) => Poll::Ready(None),
                Poll::Pending => self.gather(cx).map(Some),
            });
            match gathered.await {
                None => return,
                Some(Ok(pieces)) => port.with(|state| {
                    state.mux.send(id, pieces);
                    if self.ended {
                        state.mux.end(id);
                    }
                }),
                Some(Err(status)) => return port.with(|state| state.mux.cancel(id, status)),
            }
        }
    }
}

/// Why a message does not go over a channel, for the caller.
pub(super) fn refusal(unsendable: Unsendable) -> Status {
    match unsendable {
        Unsendable::Compressed => {
            Status::unimplemented("compressed messages cannot go over WebRTC; send them as they are")
        }
        Unsendable::TooLarge(bytes) => Status::resource_exhausted(format!(
            "a message of {bytes} bytes is over the limit of {}",
            machine_api::MAX_MESSAGE
        )),
    }
}

/// A response's body.
struct Answer {
    call: Call,
    link: Link,
    place: Option<OwnedSemaphorePermit>,
    /// What is left of the message that is being read.
    slices: VecDeque<Bytes>,
    portion: Portion,
    /// What came instead of a head.
    end: Option<Trailers>,
    over: bool,
}

impl Answer {
    fn poll_read(&self, cx: &Context<'_>) -> Poll<Read> {
        let id = self.call.id;
        self.call.port.with(|state| match state.mux.read(id) {
            Read::Pending => {
                state.wait(id, For::Reading, cx);
                Poll::Pending
            }
            read => Poll::Ready(read),
        })
    }

    fn poll_head(&mut self, cx: &Context<'_>) -> Poll<Result<http::HeaderMap, CallError>> {
        match ready!(self.poll_read(cx)) {
            Read::Head(metadata) => return Poll::Ready(Ok(metadata)),
            Read::End(trailers) => self.end = Some(trailers),
            Read::Failed(status) => {
                let written = self.call.port.with(|state| state.mux.is_written(self.call.id));
                // A broken connection is the link's affair, anything else an answer to this call.
                if self.link.is_closed().is_some() || status.code() == tonic::Code::Unavailable {
                    return Poll::Ready(Err(CallError { status, never_written: !written }));
                }
                self.end = Some(Trailers::of(&status));
            }
            Read::Message(_) | Read::Pending => self.end = Some(Trailers::of(&Status::internal("no head"))),
        }
        Poll::Ready(Ok(http::HeaderMap::new()))
    }

    fn finish(&mut self, end: Result<Trailers, Status>) -> Option<Result<Frame<Bytes>, Status>> {
        (self.place, self.over) = (None, true);
        Some(end.map(|trailers| Frame::trailers(trailers.to_headers())))
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if let Some(slice) = ready!(this.portion.poll_slice(&mut this.slices, cx)) {
            return Poll::Ready(Some(Ok(Frame::data(slice))));
        }
        if this.over {
            return Poll::Ready(None);
        }
        if let Some(trailers) = this.end.take() {
            return Poll::Ready(this.finish(Ok(trailers)));
        }
        Poll::Ready(match ready!(this.poll_read(cx)) {
            Read::Message(message) => {
                this.slices = message.into_body();
                this.slices.pop_front().map(|slice| Ok(Frame::data(slice)))
            }
            Read::End(trailers) => this.finish(Ok(trailers)),
            Read::Failed(status) => this.finish(Err(status)),
            Read::Head(_) | Read::Pending => this.finish(Err(Status::internal("a second head"))),
        })
    }
}
