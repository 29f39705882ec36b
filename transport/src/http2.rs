//! A link's calls over one HTTP/2 connection.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hyper::client::conn::http2::SendRequest;
use tokio::sync::OwnedSemaphorePermit;

use crate::Body;
use crate::body::{Cut, Held};
use crate::link::{CallError, Carrier, Link, LinkInfo, Sent, chain};
use crate::sever::Cord;
use crate::webrtc::CandidatePair;

/// Ordinary calls that a link carries at once. The rest wait in the link: hyper holds everything back behind one stream
/// that is over the peer's limit, which is 100 until its settings arrive and 200 at most servers; eight stay free for
/// [`Lane::Reserved`](crate::Lane::Reserved).
pub(crate) const PLACES: u32 = 92;

/// hyper's half of the connection and the socket's cord.
pub(crate) struct Http2 {
    pub(crate) cord: Arc<Cord>,
    pub(crate) sender: SendRequest<Cut>,
}

impl Carrier for Http2 {
    fn send(&self, link: &Link, request: http::Request<Body>, place: Option<OwnedSemaphorePermit>) -> Sent {
        let (mut sender, link) = (self.sender.clone(), link.clone());
        Box::pin(async move {
            let (mut head, body) = request.into_parts();
            complete(&mut head, link.info());
            let (cut, pulled) = Cut::new(body);
            match sender.try_send_request(http::Request::from_parts(head, cut)).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    Ok(http::Response::from_parts(head, Body::new(Held { body, link, place })))
                }
                Err(mut e) => {
                    let returned = e.take_message().is_some();
                    let never_written = returned || !pulled.load(Ordering::Relaxed) && refused(e.error());
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

/// Whether the peer said that it did not process the stream (RFC 9113 section 8.7).
fn refused(error: &hyper::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = source {
        if e.to_string().contains("refused stream") {
            return true;
        }
        source = e.source();
    }
    false
}
