//! The machine's shell: serves the calls of one channel with the service that the port serves.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, TE};
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response};
use http_body::{Body as _, Frame};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tower::{Service, ServiceExt};

use super::channel::DataChannel;
use super::frame::{Cutter, Piece, Trailers};
use super::mux::{AHEAD, Callee, Limits, Opened, Read, single_request};
use super::port::{For, Port, Portion, now, run};
use super::service::refusal;
use crate::serve::{ConnectionEvent, Introduced, PeerConnection};
use crate::{Body, CloseReason};

/// How a channel is served.
#[derive(Clone, Copy, Debug)]
pub struct ChannelOptions {
    /// How many calls a client may have at once.
    pub limits: Limits,
    /// Which methods have exactly one request message. Default: those of the protocol that do not stream; a method that it does not
    /// have may have several, and ends where the client says so.
    pub single_request: fn(&str) -> bool,
    /// How long calls that run may go on after `shutdown`. Default 2 s.
    pub drain: Duration,
}

impl Default for ChannelOptions {
    fn default() -> Self {
        Self { limits: Limits::default(), single_request, drain: Duration::from_secs(2) }
    }
}

/// Serves `grpc` on `channel` until the channel ends, or `shutdown` and the calls that run have drained. Gives the reason.
pub async fn serve<S>(
    channel: DataChannel,
    grpc: S,
    introduced: Introduced,
    options: ChannelOptions,
    events: impl Fn(ConnectionEvent) + Send + Sync,
    shutdown: CancellationToken,
) -> CloseReason
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let DataChannel { outgoing, incoming, closed, sever, silence, longest, info } = channel;
    let peer = Arc::new(PeerConnection::over_channel(introduced, sever.clone(), silence, info));
    let port = Port::new(Callee::new(options.limits, options.single_request), outgoing, longest);
    let open = Open { port: &port, events, peer: peer.clone() };
    (open.events)(ConnectionEvent::Opened(peer.clone()));
    let opened = |opened: Opened| {
        tokio::spawn(answer(port.clone(), grpc.clone(), peer.clone(), opened));
    };
    let why = tokio::select! {
        why = run(&port, incoming, closed, opened) => why,
        () = drained(&port, options.drain, shutdown) => CloseReason::Closed,
    };
    drop(open);
    sever.sever("the machine ended the connection");
    why
}

/// Says when dropped that the connection is gone, and ends its calls.
struct Open<'a, E: Fn(ConnectionEvent)> {
    port: &'a Port<Callee>,
    events: E,
    peer: Arc<PeerConnection>,
}

impl<E: Fn(ConnectionEvent)> Drop for Open<'_, E> {
    fn drop(&mut self) {
        self.port.with(|state| state.mux.handle_closed());
        (self.events)(ConnectionEvent::Closed(self.peer.clone()));
    }
}

/// Resolves once `shutdown` was asked for and no call runs any more, or they took too long.
async fn drained(port: &Port<Callee>, drain: Duration, shutdown: CancellationToken) {
    /// How often it is looked whether calls still run, and how long the last answer may take to leave.
    const LOOK: Duration = Duration::from_millis(20);
    shutdown.cancelled().await;
    port.with(|state| state.mux.close());
    let end = tokio::time::Instant::now() + drain;
    while tokio::time::Instant::now() < end && !port.with(|state| state.mux.is_idle()) {
        tokio::time::sleep(LOOK).await;
    }
    tokio::time::sleep(LOOK).await;
}

/// Runs one call until its answer is complete or nobody waits for it.
async fn answer<S>(port: Arc<Port<Callee>>, grpc: S, peer: Arc<PeerConnection>, opened: Opened)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let call = Call { port: port.clone(), id: opened.id };
    tokio::select! {
        biased;
        () = poll_fn(|cx| port.poll_over(call.id, For::End, cx)) => {}
        () = handle(&call, grpc, peer, opened) => {}
    }
}

/// A call under way; one that is dropped without an answer, as by a panic, has failed.
struct Call {
    port: Arc<Port<Callee>>,
    id: u64,
}

impl Call {
    fn finish(&self, status: &Status) {
        self.port.with(|state| state.mux.finish(self.id, &Trailers::of(status), now()));
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.port.with(|state| {
            if state.mux.is_live(self.id) {
                state.mux.finish(self.id, &Trailers::of(&Status::internal("the call's handler failed")), now());
            }
            state.unlist(self.id);
        });
    }
}

async fn handle<S>(call: &Call, grpc: S, peer: Arc<PeerConnection>, opened: Opened)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let request = match request(call, peer, opened) {
        Ok(request) => request,
        Err(status) => return call.finish(&status),
    };
    let response = match grpc.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let (head, body) = response.into_parts();
    if let Some(trailers) = Trailers::from_headers(&head.headers) {
        return call.port.with(|state| state.mux.finish(call.id, &trailers, now()));
    }
    if head.status != http::StatusCode::OK {
        return call.finish(&Status::unknown(format!("the service answered with HTTP status {}", head.status)));
    }
    let mut download = Download { body, cutter: Cutter::default() };
    let mut begun = false;
    loop {
        let gathered = poll_fn(|cx| match download.gather(cx) {
            // The head does not wait for the first message, but leaves with it where that is there.
            Poll::Pending if !begun => Poll::Ready((VecDeque::new(), None)),
            gathered => gathered,
        });
        let (pieces, end) = gathered.await;
        let over = end.is_some();
        call.port.with(|state| {
            if !begun {
                state.mux.respond(call.id, &head.headers);
            }
            state.mux.send(call.id, pieces);
            if let Some(trailers) = end {
                state.mux.finish(call.id, &trailers, now());
            }
        });
        begun = true;
        if over || !poll_fn(|cx| call.port.poll_room(call.id, cx)).await {
            return;
        }
    }
}

fn request(call: &Call, peer: Arc<PeerConnection>, opened: Opened) -> Result<Request<Body>, Status> {
    let Opened { id, method, metadata, timeout } = opened;
    let path = PathAndQuery::try_from(method)
        .map_err(|_| Status::invalid_argument("the call's method is no path, /package.Service/Method"))?;
    let incoming =
        Incoming { port: call.port.clone(), id, slices: VecDeque::new(), portion: Portion::default(), over: false };
    let mut request = Request::new(Body::new(incoming));
    *request.method_mut() = http::Method::POST;
    *request.version_mut() = http::Version::HTTP_2;
    *request.uri_mut() = path.into();
    *request.headers_mut() = metadata;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    if let Some(text) = timeout.and_then(|timeout| HeaderValue::try_from(crate::timeout::text(timeout)).ok()) {
        headers.insert("grpc-timeout", text);
    }
    request.extensions_mut().insert(peer);
    Ok(request)
}

/// A request's body, as its handler reads it.
struct Incoming {
    port: Arc<Port<Callee>>,
    id: u64,
    /// What is left of the message that is being read.
    slices: VecDeque<Bytes>,
    portion: Portion,
    over: bool,
}

impl http_body::Body for Incoming {
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
        let read = this.port.with(|state| match state.mux.read(this.id) {
            Read::Pending => {
                state.wait(this.id, For::Reading, cx);
                Poll::Pending
            }
            read => Poll::Ready(read),
        });
        Poll::Ready(match ready!(read) {
            Read::Message(message) => {
                this.slices = message.into_body();
                this.slices.pop_front().map(|slice| Ok(Frame::data(slice)))
            }
            Read::Failed(status) => {
                this.over = true;
                Some(Err(status))
            }
            Read::Head(_) | Read::End(_) | Read::Pending => {
                this.over = true;
                None
            }
        })
    }
}

/// A response's body on its way.
struct Download {
    body: Body,
    cutter: Cutter,
}

impl Download {
    /// What the body has ready, up to what may wait in the connection, and its end.
    fn gather(&mut self, cx: &mut Context<'_>) -> Poll<(VecDeque<Piece>, Option<Trailers>)> {
        let (mut pieces, mut bytes) = (VecDeque::new(), 0);
        while bytes < AHEAD {
            let end = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending if pieces.is_empty() => return Poll::Pending,
                Poll::Pending => break,
                Poll::Ready(None) => Trailers::of(&Status::internal("the call's handler ended without a status")),
                Poll::Ready(Some(Err(status))) => Trailers::of(&status),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        bytes += data.len();
                        match self.cutter.push(data, &mut pieces) {
                            Ok(()) => continue,
                            Err(unsendable) => Trailers::of(&refusal(unsendable)),
                        }
                    }
                    Err(frame) => match frame.into_trailers().ok().and_then(|t| Trailers::from_headers(&t)) {
                        Some(trailers) => trailers,
                        None => continue,
                    },
                },
            };
            return Poll::Ready((pieces, Some(end)));
        }
        Poll::Ready((pieces, None))
    }
}
