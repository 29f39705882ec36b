//! A link's calls over one HTTP/2 connection.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http_body::Body as _;
use hyper::client::conn::http2::{Connection, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;

use crate::Body;
use crate::body::{Cut, Held};
use crate::link::{CallError, Carrier, CloseReason, Link, LinkInfo, Sent, chain};
use crate::places::Places;
use crate::sever::Cord;
use crate::webrtc::CandidatePair;

/// Streams that most peers allow before they have said how many.
const BEFORE_SETTINGS: u32 = 100;
/// Streams kept free for [`Lane::Reserved`](crate::Lane::Reserved): hyper holds everything back behind one stream that is over
/// the peer's limit, so ordinary calls wait in the link instead.
const KEPT_FREE: u32 = 8;

/// When the limit is looked at besides with every call: hyper reads SETTINGS in a task of its own and tells nobody.
const LOOKS: [Duration; 4] =
    [Duration::from_millis(10), Duration::from_millis(50), Duration::from_millis(250), Duration::from_millis(1000)];

/// Drives the connection to its end, and keeps as many places as the peer allows at the moment.
pub(crate) async fn drive<S>(
    mut connection: Connection<TokioIo<S>, Cut, TokioExecutor>,
    cord: Arc<Cord>,
    places: Places,
) -> Option<CloseReason>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut looks = LOOKS.iter().copied();
    let mut look = Box::pin(tokio::time::sleep(looks.next().unwrap_or_default()));
    let done = poll_fn(|cx| {
        let polled = Pin::new(&mut connection).poll(cx);
        while look.as_mut().poll(cx).is_ready() {
            let Some(next) = looks.next() else { break };
            look.as_mut().reset(tokio::time::Instant::now() + next);
        }
        let allowed = u32::try_from(connection.current_max_send_streams()).unwrap_or(u32::MAX);
        places.set(allowed.saturating_sub(KEPT_FREE));
        polled
    })
    .await;
    if done.is_ok() {
        // hyper is done as soon as the peer has said goodbye; the streams that are out finish in a task of its own.
        tokio::select! {
            () = places.vacated() => {}
            () = cord.ended() => {}
        }
    }
    done.err().map(|error| CloseReason::Broken(chain(&error)))
}

/// The places of a connection whose peer has not said anything yet.
pub(crate) fn places() -> Places {
    Places::from(BEFORE_SETTINGS - KEPT_FREE)
}

/// hyper's half of the connection and the socket's cord.
pub(crate) struct Http2 {
    pub(crate) cord: Arc<Cord>,
    pub(crate) sender: SendRequest<Cut>,
}

impl Carrier for Http2 {
    fn send(&self, link: &Link, request: http::Request<Body>, place: Option<OwnedSemaphorePermit>) -> Sent {
        let (mut sender, link, cord) = (self.sender.clone(), link.clone(), self.cord.clone());
        Box::pin(async move {
            let turn = match &place {
                Some(_) => cord.clear().await,
                None => {
                    cord.hurry();
                    None
                }
            };
            let (mut head, body) = request.into_parts();
            complete(&mut head, link.info());
            // Without a body the head is the whole call.
            let empty = body.is_end_stream();
            let (cut, pulled) = Cut::new(body);
            // It is handed over now; the answer is waited for below.
            let mut reply = std::pin::pin!(sender.try_send_request(http::Request::from_parts(head, cut)));
            let early = match turn {
                Some(turn) => tokio::select! {
                    biased;
                    reply = &mut reply => Some(reply),
                    () = turn.used() => None,
                },
                None => None,
            };
            let reply = match early {
                Some(reply) => reply,
                None => reply.await,
            };
            match reply {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    Ok(http::Response::from_parts(head, Body::new(Held { body, link, place })))
                }
                Err(mut e) => {
                    let returned = e.take_message().is_some();
                    if returned {
                        link.refuses();
                    }
                    let untouched = !empty && !pulled.load(Ordering::Relaxed);
                    let never_written = returned || untouched || refused(e.error());
                    Err(CallError { status: link.broken(&chain(e.error())), never_written })
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

/// HTTP/2 wants scheme and authority in every request; a service below generated clients sees only the path.
fn complete(head: &mut http::request::Parts, info: &LinkInfo) {
    if head.uri.authority().is_some() {
        return;
    }
    let scheme = if info.encrypted { "https" } else { "http" };
    let authority = info.remote.map_or_else(|| "localhost".to_owned(), |a| a.to_string());
    let path = head.uri.path_and_query().map_or("/", |p| p.as_str());
    if let Ok(uri) = http::Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build() {
        head.uri = uri;
    }
    head.version = http::Version::HTTP_2;
}

/// Whether the peer said that it did not process the stream (RFC 9113 section 8.7): it refused it, or its GOAWAY excludes it.
/// h2 fails a stream with the peer's GOAWAY only where that names a lower last stream.
fn refused(error: &hyper::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = source {
        if let Some(e) = e.downcast_ref::<h2::Error>() {
            return e.is_remote() && (e.is_go_away() || e.reason() == Some(h2::Reason::REFUSED_STREAM));
        }
        source = e.source();
    }
    false
}
