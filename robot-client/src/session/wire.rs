//! StartSession and beats on the wire.

use std::time::Duration;

use dialer::agent::Validated;
use http::{Request, Response};
use machine_api::google::rpc::{ErrorInfo, Status as RpcStatus};
use machine_api::viam::robot::v1::robot_service_client::RobotServiceClient;
use machine_api::viam::robot::v1::{SendSessionHeartbeatRequest, StartSessionRequest};
use machine_api::{BOOT_HEADER, ERROR_DOMAIN, ORDER_HEADER, SESSION_EXPIRED};
use prost::Message;
use session_core::SessionId;
use session_core::client::{Attempt, BeatError, Letter, Link, StartError, Started};
use tokio::time::timeout;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tower::Service;
use transport::{Body, Lane, LinkId};

use super::{Names, Session};
use crate::channel::write;

/// How long StartSession may take: it is answered from memory.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// Calls on one link, past the places of ordinary calls.
#[derive(Clone)]
pub(super) struct OnLink {
    pub(super) switch: dialer::LinkSwitch,
    pub(super) link: LinkId,
}

impl Service<Request<Body>> for OnLink {
    type Response = Response<Body>;
    type Error = Status;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Status>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let reply = self.switch.call_on(self.link, request, Lane::Reserved);
        Box::pin(async move { reply.await.map_err(|error| error.status) })
    }
}

impl Session {
    pub(super) fn send_start(&self, attempt: Attempt, resume: Option<SessionId>) {
        let (switch, this) = (self.switch.clone(), self.this.clone());
        self.runtime.spawn(async move {
            let started = match switch.current() {
                None => Err(StartError::Unreachable),
                Some(view) => {
                    let on_link = OnLink { switch, link: view.id };
                    timeout(START_TIMEOUT, start(on_link, resume)).await.unwrap_or(Err(StartError::Unreachable))
                }
            };
            let Some(session) = this.upgrade() else { return };
            session.with(|state, now| {
                let started = started.map(|(started, boot)| {
                    state.boot = boot;
                    started
                });
                state.core.handle_started(attempt, started, now);
            });
        });
    }

    pub(super) fn send_beat(&self, attempt: Attempt, Link(link): Link, letter: Letter, window: Option<Duration>) {
        let (switch, this) = (self.switch.clone(), self.this.clone());
        self.runtime.spawn(async move {
            let on_link = OnLink { switch: switch.clone(), link: LinkId(link) };
            let bound = window.unwrap_or(START_TIMEOUT);
            let result = timeout(bound, beat(on_link, &letter)).await.unwrap_or(Err(BeatError::Unanswered));
            let Some(session) = this.upgrade() else { return };
            switch.handle_beat(LinkId(link), !matches!(result, Err(BeatError::Unanswered)));
            session.with(|state, now| {
                let validated = match &result {
                    Ok(()) => Some(Validated::SameSession),
                    Err(BeatError::Expired(_)) => Some(Validated::ForeignOrUnknown),
                    Err(BeatError::Unanswered) => None,
                };
                if let (Some(id), Some(validated)) = (state.validations.remove(&attempt), validated) {
                    switch.handle_validated(id, validated);
                }
                if state.leaving == Some(attempt) {
                    state.leaving = None;
                }
                state.core.handle_beat(attempt, result, now);
            });
            session.wake.notify_waiters();
        });
    }
}

async fn start(on_link: OnLink, resume: Option<SessionId>) -> Result<(Started, Option<u128>), StartError> {
    let request = StartSessionRequest { resume: resume.map(|id| id.to_string()).unwrap_or_default() };
    let reply =
        RobotServiceClient::new(on_link).start_session(request).await.map_err(|status| match status.code() {
            Code::Unimplemented => StartError::Unsupported,
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal => {
                StartError::Unreachable
            }
            _ => StartError::Refused,
        })?;
    let ordered = reply.metadata().get(ORDER_HEADER).is_some_and(|v| v == "1");
    let boot = boot(reply.metadata());
    let reply = reply.into_inner();
    let id = reply.id.parse().map_err(|_| StartError::Refused)?;
    let window = reply.heartbeat_window.and_then(|w| Duration::try_from(w).ok()).unwrap_or_default();
    Ok((Started { id, window, ordered }, boot))
}

fn boot(headers: &MetadataMap) -> Option<u128> {
    u128::from_str_radix(headers.get(BOOT_HEADER)?.to_str().ok()?, 16).ok()
}

async fn beat(on_link: OnLink, letter: &Letter) -> Result<(), BeatError<String>> {
    let mut request = tonic::Request::new(SendSessionHeartbeatRequest { id: letter.session.to_string() });
    let mut headers = http::HeaderMap::new();
    // The id travels in the message; a beat's header is its order alone.
    write(Some(letter), &mut headers);
    headers.remove(machine_api::SESSION_HEADER);
    *request.metadata_mut() = MetadataMap::from_headers(headers);
    match RobotServiceClient::new(on_link).send_session_heartbeat(request).await {
        Ok(_) => Ok(()),
        Err(status) => Err(expired(&status).map_or(BeatError::Unanswered, BeatError::Expired)),
    }
}

/// Whether a status says SESSION_EXPIRED; what the machine stopped, where it says so (safety.md 6).
pub(crate) fn expired(status: &Status) -> Option<Option<Names>> {
    if status.code() != Code::InvalidArgument || status.message() != SESSION_EXPIRED {
        return None;
    }
    let details = RpcStatus::decode(status.details()).unwrap_or_default().details;
    let told = details.iter().find_map(|any| {
        let info = ErrorInfo::decode(any.value.as_slice()).ok()?;
        if info.domain != ERROR_DOMAIN {
            return None;
        }
        let stopped = info.metadata.get("stopped")?;
        // `rdk:component:motor/m1`, and of a remote's `rdk:component:motor/remote:m1`.
        let short = |full: &str| match full.split_once('/') {
            Some((api, name)) => format!("{}/{name}", api.rsplit(':').next().unwrap_or(api)),
            None => full.to_owned(),
        };
        Some(stopped.split(',').filter(|name| !name.is_empty()).map(short).collect())
    });
    Some(told)
}
