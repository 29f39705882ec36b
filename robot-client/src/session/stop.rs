//! Stops on the wire: copies on several links, the first good answer counts.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use machine_api::viam::component::base::v1::StopRequest as WireStop;
use prost::Message;
use session_core::client::{Call, Kind, Letter, Link};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tonic::Status;
use transport::{Body, Lane, LinkId};

use super::{Names, Session, State};
use crate::channel::{framed, write};
use crate::error::SessionError;

/// How long a copy may be out: the longest window there is.
const COPY_TIMEOUT: Duration = Duration::from_secs(60);

/// What a program asked to be stopped, as it goes on the wire.
#[derive(Clone)]
pub(crate) struct StopRequest {
    pub(crate) path: &'static str,
    pub(crate) headers: HeaderMap,
    pub(crate) message: Bytes,
}

/// A complete answer to a copy.
struct Answered {
    headers: HeaderMap,
    data: Bytes,
    trailers: Option<HeaderMap>,
}

/// The copies of a Stop that are out on one link: the oldest and the newest, so that a Stop takes two of the link's reserved streams at most.
#[derive(Default)]
struct Copies {
    letter: Option<Letter>,
    out: BTreeMap<u64, AbortHandle>,
    sent: u64,
}

impl Copies {
    /// What the next copy is called. A repeat drops the one before it, but not the oldest: where a round trip takes longer than the pause between
    /// repeats, that would drop every answer. What another letter was on tells nothing any more.
    fn next(&mut self, letter: Option<&Letter>) -> u64 {
        let kept = if self.letter.as_ref() == letter { 1 } else { 0 };
        while self.out.len() > kept
            && let Some((_, before)) = self.out.pop_last()
        {
            before.abort();
        }
        self.letter = letter.cloned();
        self.sent += 1;
        self.sent
    }
}

/// A Stop whose caller waits, or that is delivered without one.
pub(super) struct OpenStop {
    request: StopRequest,
    copies: BTreeMap<Link, Copies>,
    caller: Option<oneshot::Sender<Result<Response<Body>, Status>>>,
    /// The last good answer, for the caller.
    good: Option<Answered>,
    /// The last bad one: what is told if none is good.
    bad: Option<Status>,
}

impl Session {
    /// Stops a component, or everything. Delivery goes on when the caller does not wait any more.
    pub(crate) async fn stop(&self, component: Option<String>, request: StopRequest) -> Result<Response<Body>, Status> {
        let (caller, done) = oneshot::channel();
        let kind = if component.is_some() { Kind::Stop } else { Kind::StopAll };
        self.with(|state, now| {
            let call = state.core.issue(component.unwrap_or_default(), kind, now);
            let open = OpenStop { request, copies: BTreeMap::new(), caller: Some(caller), good: None, bad: None };
            state.stops.insert(call, open);
        });
        done.await.unwrap_or_else(|_| Err(SessionError::Closed.into()))
    }

    /// Stops what a session held at a machine that does not end sessions by itself.
    pub(super) async fn stop_each(&self, held: Names) {
        let Some(view) = self.switch.current() else { return };
        let copies = held.into_iter().filter_map(|component| {
            let (subtype, name) = component.split_once('/')?;
            let path = stop_path(subtype)?;
            let message = Bytes::from(WireStop { name: name.to_owned(), extra: None }.encode_to_vec());
            let request = StopRequest { path, headers: grpc_headers(), message };
            Some(self.copy(&request, view.id, None))
        });
        join_all(copies.collect::<Vec<_>>()).await;
    }

    pub(super) fn send_stop(&self, state: &mut State, call: Call, link: Link, letter: Option<Letter>) {
        let Some(open) = state.stops.get_mut(&call) else { return };
        let copy = self.copy(&open.request, LinkId(link.0), letter.as_ref());
        let copies = open.copies.entry(link).or_default();
        let number = copies.next(letter.as_ref());
        let this = self.this.clone();
        let task = self.runtime.spawn(async move {
            let answer = copy.await;
            let Some(session) = this.upgrade() else { return };
            session.with(|state, now| {
                let Some(open) = state.stops.get_mut(&call) else { return };
                if let Some(copies) = open.copies.get_mut(&link) {
                    copies.out.remove(&number);
                }
                let ok = match answer {
                    Ok(answer) => match answer.failure() {
                        None => {
                            open.good = Some(answer);
                            true
                        }
                        Some(status) => {
                            open.bad = Some(status);
                            false
                        }
                    },
                    Err(status) => {
                        open.bad = Some(status);
                        false
                    }
                };
                state.core.handle_stopped(call, link, ok, now);
            });
        });
        copies.out.insert(number, task.abort_handle());
    }

    /// One copy on one link, up to its complete answer.
    fn copy(
        &self,
        stop: &StopRequest,
        link: LinkId,
        letter: Option<&Letter>,
    ) -> impl Future<Output = Result<Answered, Status>> + Send + use<> {
        let mut request = Request::new(framed(&stop.message));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static(stop.path);
        *request.version_mut() = http::Version::HTTP_2;
        *request.headers_mut() = stop.headers.clone();
        request.headers_mut().remove("grpc-timeout");
        write(letter, request.headers_mut());
        let reply = self.switch.call_on(link, request, Lane::Reserved);
        async move {
            let complete = async {
                let (head, body) = reply.await.map_err(|error| error.status)?.into_parts();
                let body = body.collect().await?;
                let trailers = body.trailers().cloned();
                Ok(Answered { headers: head.headers, data: body.to_bytes(), trailers })
            };
            timeout(COPY_TIMEOUT, complete)
                .await
                .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer to Stop")))
        }
    }
}

impl Answered {
    fn failure(&self) -> Option<Status> {
        let status = Status::from_header_map(self.trailers.as_ref().unwrap_or(&self.headers));
        match status {
            None => Some(Status::unknown("the answer to Stop has no status")),
            Some(status) if status.code() == tonic::Code::Ok => None,
            Some(status) => Some(status),
        }
    }

    fn into_response(self) -> Response<Body> {
        let body = Full::new(self.data);
        let body = match self.trailers {
            Some(trailers) => Body::new(body.with_trailers(async move { Some(Ok(trailers)) })),
            None => Body::new(body),
        };
        let mut response = Response::new(body);
        *response.headers_mut() = self.headers;
        response
    }
}

/// Every copy that matters was answered with OK.
pub(super) fn done(state: &mut State, call: Call) {
    let Some(open) = state.stops.get_mut(&call) else { return };
    if let (Some(caller), Some(good)) = (open.caller.take(), open.good.take()) {
        // Its caller may not wait any more; what it asked for is done.
        let _ = caller.send(Ok(good.into_response()));
    }
    forget_finished(state);
}

/// It was given up, or there is no link: delivery may go on.
pub(super) fn failed(state: &mut State, call: Call, error: SessionError) {
    let Some(open) = state.stops.get_mut(&call) else { return };
    if let Some(caller) = open.caller.take() {
        let status = match (&error, open.bad.take()) {
            (SessionError::StopUnanswered, Some(bad)) => bad,
            _ => error.into(),
        };
        let _ = caller.send(Err(status));
    }
    forget_finished(state);
}

/// Stops whose caller was answered are kept while their copies are out or the core may send more, at most a window.
fn forget_finished(state: &mut State) {
    const KEPT: usize = 128;
    while state.stops.len() > KEPT {
        let Some(oldest) = state.stops.keys().next().copied() else { return };
        state.stops.remove(&oldest);
    }
}

fn stop_path(subtype: &str) -> Option<&'static str> {
    let service = format!("viam.component.{}.", subtype.replace('_', ""));
    let stop = machine_api::methods::all().iter().find(|m| m.service().starts_with(&service) && m.name() == "Stop");
    stop.map(|method| method.path)
}

fn grpc_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/grpc"));
    headers.insert(http::header::TE, http::HeaderValue::from_static("trailers"));
    headers
}

#[cfg(test)]
mod tests {
    use session_core::SessionId;

    use super::*;

    /// Over a round trip of five repeats: the answer to the first one is the first that comes.
    #[tokio::test]
    async fn a_repeat_drops_the_copy_before_it_but_not_the_oldest() {
        let mut copies = Copies::default();
        let mut send = |letter: Option<&Letter>| {
            let number = copies.next(letter);
            let out = tokio::spawn(std::future::pending::<()>());
            copies.out.insert(number, out.abort_handle());
            out
        };
        let dropped = async |sent: &[tokio::task::JoinHandle<()>]| {
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
            sent.iter().map(tokio::task::JoinHandle::is_finished).collect::<Vec<_>>()
        };
        let mut sent: Vec<_> = (0..5).map(|_| send(None)).collect();
        assert_eq!(dropped(&sent).await, [false, true, true, true, false]);
        // Another letter: what the old one would bring tells nothing any more.
        let letter = Letter { session: SessionId(7), order: None };
        sent.push(send(Some(&letter)));
        sent.push(send(Some(&letter)));
        assert_eq!(dropped(&sent).await, [true, true, true, true, true, false, false]);
        sent.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
