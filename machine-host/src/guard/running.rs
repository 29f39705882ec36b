//! Calls while they run: how many, for how long, and until what ends them.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body::Frame;
use session_core::registry::Why;
use tokio::time::Instant;
use tonic::Status;
use transport::timeout::grpc_timeout;
use transport::{Body, header};
use uuid::Uuid;

use super::refusal::shut_out;
use crate::ResourceName;
use crate::operations::{Entry, Operation};
use crate::safety::{Permit, Running};

/// Calls that run on one resource at once, as existing machines have it. Stop is not counted.
const MAX_CALLS: u32 = 100;
/// What a call without a deadline gets (s47).
const DEFAULT_DEADLINE: Duration = Duration::from_secs(600);
/// The longest deadline that a caller may set: what it says beyond is taken as this.
const MAX_DEADLINE: Duration = Duration::from_secs(24 * 3600);

/// Calls in flight for each resource.
#[derive(Clone, Default)]
pub(crate) struct Limits(Arc<Mutex<BTreeMap<ResourceName, u32>>>);

/// One call's place; given back when dropped.
pub(super) struct Place {
    limits: Limits,
    resource: ResourceName,
}

impl Limits {
    pub(super) fn enter(&self, resource: &ResourceName) -> Result<Place, Status> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(resource.clone()).or_insert(0);
        if *count >= MAX_CALLS {
            let text =
                format!("exceeded request limit {MAX_CALLS} on resource {}; wait for calls to end", resource.name);
            return Err(Status::resource_exhausted(text));
        }
        *count += 1;
        Ok(Place { limits: self.clone(), resource: resource.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.limits.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.resource) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.resource);
            }
        }
    }
}

/// When a call is ended: its `grpc-timeout`, or ten minutes.
pub(super) fn deadline(headers: &HeaderMap) -> Instant {
    Instant::now() + grpc_timeout(headers).unwrap_or(DEFAULT_DEADLINE).min(MAX_DEADLINE)
}

pub(super) fn too_late() -> Status {
    Status::deadline_exceeded("the call's deadline passed, or 10 minutes without one")
}

/// Tells the caller its operation's id (s41).
pub(super) fn name_operation(response: &mut Response<Body>, id: Uuid) {
    let mut text = Uuid::encode_buffer();
    if let Ok(mut value) = HeaderValue::from_str(id.hyphenated().encode_lower(&mut text)) {
        // No two responses have the same one: it would only push others out of the compression's table.
        value.set_sensitive(true);
        response.headers_mut().insert(header::OPERATION.clone(), value);
    }
}

/// Keeps a call running until its response has ended, and ends the response when the call is.
pub(super) fn hold(
    response: Response<Body>,
    entry: Entry,
    running: Option<Running>,
    deadline: Instant,
) -> Response<Body> {
    let operation = entry.operation.clone();
    let permit = running.as_ref().map(Running::permit);
    if let Some(permit) = permit.clone() {
        end_unread(operation.clone(), permit, deadline);
    }
    let end = Box::pin(async move {
        tokio::select! {
            biased;
            () = operation.cancelled() => Status::cancelled("cancelled by CancelOperation or StopAll"),
            () = tokio::time::sleep_until(deadline) => too_late(),
            why = async { match &permit { Some(permit) => permit.cancelled().await, None => std::future::pending().await } } => shut_out(why),
        }
    });
    response.map(|body| Body::new(Held { body, end, running, entry: Some(entry) }))
}

/// Ends what a stream moves when its operation is to end, whether or not anybody reads the response: while nobody does, nobody asks [`Held`].
fn end_unread(operation: Operation, permit: Permit, deadline: Instant) {
    tokio::spawn(async move {
        tokio::select! {
            () = operation.ended() => return,
            () = operation.cancelled() => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
        permit.cancel(Why::Cancelled);
    });
}

/// A response that streams.
struct Held {
    body: Body,
    end: Pin<Box<dyn Future<Output = Status> + Send>>,
    running: Option<Running>,
    entry: Option<Entry>,
}

impl Held {
    /// It is ended from outside: what it moves stops with it.
    fn cancel(&mut self) {
        self.entry = None;
        if let Some(running) = self.running.take() {
            running.cancel(Why::Cancelled);
        }
    }

    fn finish(&mut self) {
        self.entry = None;
        if let Some(running) = self.running.take() {
            running.finish(None);
        }
    }
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.entry.is_none() {
            return Poll::Ready(None);
        }
        if let Poll::Ready(status) = self.end.as_mut().poll(cx) {
            self.cancel();
            let mut trailers = HeaderMap::new();
            // A status without metadata always has header form.
            let _ = status.add_header(&mut trailers);
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(&polled, Poll::Ready(None | Some(Err(_))))
            || matches!(&polled, Poll::Ready(Some(Ok(f))) if f.is_trailers())
        {
            self.finish();
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use session_core::registry::{Holder, Incoming};
    use session_core::{Connection, Owner};

    use super::*;
    use crate::operations::Operations;
    use crate::safety::{Admission, Safety, SafetyOptions};

    /// A client whose window is full, or that was written so, reads no answer; its arm has been told where to go, and goes there.
    #[tokio::test]
    async fn s42_a_cancelled_stream_ends_although_nobody_reads_it() {
        let safety = Safety::new(SafetyOptions::default()).expect("threads");
        safety.opened(Connection(1), None);
        let arm = ResourceName::component("arm", "a");
        safety.configure(arm.clone(), None, BTreeSet::new()).expect("nothing to fail");
        let incoming = Incoming {
            sid: None,
            owner: &Owner([1; 32]),
            otherwise: Holder::Connection(Connection(1)),
            monitored: true,
            resource: arm,
            order: None,
            digest: 0,
        };
        let Ok(Admission::Run(running)) = safety.admit(incoming) else { panic!("not admitted") };
        let (operations, permit) = (Operations::default(), running.permit());
        let entry = operations.begin(None, "/a.B/C", None);
        let id = entry.operation.id;
        let _unread = hold(Response::new(Body::empty()), entry, Some(running), deadline(&HeaderMap::new()));
        operations.cancel(id);
        assert_eq!(permit.cancelled().await, Why::Cancelled);
    }

    #[test]
    fn a_resource_takes_a_hundred_calls_and_no_more() {
        let limits = Limits::default();
        let (base, arm) = (ResourceName::component("base", "b"), ResourceName::component("arm", "a"));
        let mut places: Vec<_> = (0..MAX_CALLS).map(|_| limits.enter(&base).expect("a place")).collect();
        assert_eq!(limits.enter(&base).map(|_| ()).expect_err("full").code(), tonic::Code::ResourceExhausted);
        limits.enter(&arm).expect("another resource");
        places.pop();
        limits.enter(&base).expect("a place again");
    }
}
