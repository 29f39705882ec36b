//! A link's calls over one HTTP/2 connection.
//!
//! h2 itself, without a client around it: a call's head and its message, where that is whole, leave in one packet, which the machine wakes
//! up for once. Handed over one after the other they are two, and each call, beat and Stop takes longer by what a wakeup costs.

mod reply;
mod request;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{Connection, ResponseFuture, SendRequest};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;

use crate::Body;
use crate::clearance::Turn;
use crate::link::{CallError, Carrier, CloseReason, Link, LinkInfo, Sent, chain};
use crate::places::Places;
use crate::sever::Cord;
use crate::webrtc::CandidatePair;
use reply::Reply;
use request::{Outgoing, Pump};

/// What HTTP/2 and TLS may each hold of unsent data: everything in these queues stands before a beat.
pub(crate) const SEND_BUFFER: usize = 16 << 10;
/// Receive window of one stream: 4 MiB carry 300 Mbit/s at a round trip of 100 ms. Fixed; adaptive windows send pings,
/// and existing machines close connections that ping more often than every 5 s.
const STREAM_WINDOW: u32 = 4 << 20;
/// Receive window of the connection: four streams at their full rate.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Largest response header list, in bytes; tokens and error details fit many times.
const MAX_HEADERS: u32 = 64 << 10;
/// Streams that most peers allow before they have said how many.
const BEFORE_SETTINGS: u32 = 100;
/// Streams kept free for [`Lane::Reserved`](crate::Lane::Reserved): ordinary calls over the peer's limit wait in the link, and take no stream
/// that a Stop could have.
const KEPT_FREE: u32 = 8;

/// Speaks HTTP/2 on `stream`. What carries calls, how many of them at once, and what drives the connection to its end.
pub(crate) async fn handshake<S>(
    info: &LinkInfo,
    stream: S,
    cord: Arc<Cord>,
) -> Result<(Http2, Places, impl Future<Output = Option<CloseReason>> + Send + 'static + use<S>), h2::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_max_send_streams(BEFORE_SETTINGS as usize)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(MAX_HEADERS)
        .enable_push(false)
        .handshake(stream)
        .await?;
    let places = Places::from(BEFORE_SETTINGS - KEPT_FREE);
    let connection = drive(connection, places.clone());
    Ok((Http2::new(info, cord, sender), places, connection))
}

/// Drives the connection to its end, and keeps as many places as the peer allows at the moment.
async fn drive<S>(mut connection: Connection<S, Bytes>, places: Places) -> Option<CloseReason>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let done = poll_fn(|cx| {
        let polled = Pin::new(&mut connection).poll(cx);
        let allowed = u32::try_from(connection.max_concurrent_send_streams()).unwrap_or(u32::MAX);
        places.set(allowed.saturating_sub(KEPT_FREE));
        polled
    })
    .await;
    done.err().map(|error| CloseReason::Broken(chain(&error)))
}

/// Our half of the connection and the socket's cord.
pub(crate) struct Http2 {
    cord: Arc<Cord>,
    sender: SendRequest<Bytes>,
    scheme: Scheme,
    /// The machine's end of the connection.
    authority: Option<Authority>,
    /// Where bodies that come piece by piece are sent from: the connection's, whoever's call it is.
    runtime: Handle,
}

impl Http2 {
    fn new(info: &LinkInfo, cord: Arc<Cord>, sender: SendRequest<Bytes>) -> Self {
        let scheme = if info.encrypted { Scheme::HTTPS } else { Scheme::HTTP };
        let authority = info.remote.map_or_else(|| "localhost".to_owned(), |remote| remote.to_string());
        Self { cord, sender, scheme, authority: authority.parse().ok(), runtime: Handle::current() }
    }

    /// HTTP/2 wants scheme and authority in every request; a service below generated clients sees only the path.
    fn complete(&self, head: &mut Parts) {
        if head.uri.authority().is_some() {
            return;
        }
        let mut uri = std::mem::take(&mut head.uri).into_parts();
        uri.scheme = Some(self.scheme.clone());
        uri.authority = self.authority.clone();
        uri.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
        head.uri = http::Uri::from_parts(uri).unwrap_or_default();
        head.version = http::Version::HTTP_2;
    }
}

impl Carrier for Http2 {
    fn send(&self, link: &Link, request: http::Request<Body>, place: Option<OwnedSemaphorePermit>) -> Sent {
        let (link, cord, runtime) = (link.clone(), self.cord.clone(), self.runtime.clone());
        let (mut head, body) = request.into_parts();
        self.complete(&mut head);
        let sender = self.sender.clone();
        Box::pin(async move {
            let turn = match &place {
                Some(_) => cord.clear().await,
                None => {
                    cord.hurry();
                    None
                }
            };
            // A connection that is over, or whose peer takes no new streams, gives the call back.
            let given_back = |error: &h2::Error| {
                link.refuses();
                CallError { status: link.broken(&chain(error)), never_written: true }
            };
            let mut sender = sender.ready().await.map_err(|e| given_back(&e))?;
            let outgoing = Outgoing::of(body).await?;
            let written = cord.bytes().1;
            let request = http::Request::from_parts(head, ());
            let (response, mut stream) =
                sender.send_request(request, matches!(outgoing, Outgoing::Nothing)).map_err(|e| given_back(&e))?;
            let pump = match outgoing {
                Outgoing::Nothing => None,
                Outgoing::Whole(message) => {
                    // An error is the stream's, which the response tells too.
                    let _ = stream.send_data(message, true);
                    None
                }
                Outgoing::Pieces(pieces) => Some(Pump::start(&runtime, stream, pieces, cord.clone())),
            };
            match answer(response, turn).await {
                Ok(response) => {
                    let reply = |stream| Body::new(Reply::new(stream, link, place, pump));
                    Ok(response.map(reply))
                }
                Err(error) => {
                    // Not a byte has left since, or nothing of its message was taken: nobody can have run it.
                    let untouched = pump.as_ref().is_some_and(|pump| !pump.has_begun()) || cord.bytes().1 == written;
                    let never_written = untouched || is_refused(&error);
                    Err(CallError { status: link.broken(&chain(&error)), never_written })
                }
            }
        })
    }

    fn sever(&self, why: &'static str) {
        self.cord.sever(why);
    }

    fn severed(&self) -> Option<&'static str> {
        self.cord.severed()
    }

    fn bound_silence(&self, bound: Duration) {
        self.cord.set_user_timeout(bound);
    }

    fn watch_silence(&self, bound: Duration) {
        // Nothing moves for the sake of these: half of the bound is soon enough.
        self.cord.set_keepalive(bound / 2, bound / 4);
    }

    fn set_round_trip(&self, round_trip: Duration) {
        self.cord.set_round_trip(round_trip);
    }

    fn closes(&self) {
        self.cord.set_abortive(false);
    }

    fn last_read(&self) -> Instant {
        self.cord.last_read()
    }

    fn bytes(&self) -> (u64, u64) {
        self.cord.bytes()
    }

    fn pair(&self) -> Option<CandidatePair> {
        None
    }
}

/// Waits for a response; its call's turn in a full socket is over as soon as something was written.
async fn answer(mut response: ResponseFuture, turn: Option<Turn<'_>>) -> Result<http::Response<RecvStream>, h2::Error> {
    if let Some(turn) = turn {
        tokio::select! {
            biased;
            response = &mut response => return response,
            () = turn.used() => {}
        }
    }
    response.await
}

/// Whether the peer said that it did not process the stream (RFC 9113 section 8.7): it refused it, or its GOAWAY excludes it.
/// h2 fails a stream with the peer's GOAWAY only where that names a lower last stream.
fn is_refused(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
}
