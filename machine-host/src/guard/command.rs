//! Calls that may move something, and those that stop it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use machine_api::methods::Method;
use machine_api::viam::component::base::v1::StopRequest;
use machine_api::viam::robot::v1::StopAllRequest;
use prost::Message;
use prost_types::Struct;
use session_core::Order;
use session_core::registry::{Incoming, Why};
use tonic::Status;
use transport::message::{First, first};
use transport::{Body, header};

use super::caller::{one_session, order};
use super::refusal::{self, shut_out};
use super::reply::{Whole, empty};
use super::running::{Place, deadline, hold, name_operation, too_late};
use super::{Caller, Guard, operation_id, resource};
use crate::ResourceName;
use crate::operations::Entry;
use crate::safety::{Admission, Running};

/// A call that has been admitted, on its way to its service.
struct Admitted {
    running: Running,
    entry: Entry,
    _place: Place,
    deadline: tokio::time::Instant,
}

impl Guard {
    /// A call that may move something.
    pub(super) async fn command(
        self,
        method: &'static Method,
        subtype: &str,
        caller: Caller,
        request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        let deadline = deadline(request.headers());
        // On calls that are not monitored the session only names the holder, and a bad id is none (s12).
        let sid = match one_session(request.headers()) {
            Err(status) if method.monitored => return Err(status),
            sid => sid.ok().flatten(),
        };
        let order = if method.monitored { order(request.headers())? } else { None };
        let (head, body) = request.into_parts();
        let First { name, message, body, .. } =
            tokio::time::timeout_at(deadline, first(body)).await.map_err(|_| too_late())??;
        let resource = resource(subtype, name);
        let mut request = Request::from_parts(head, body);
        let incoming = Incoming {
            sid,
            owner: &caller.owner,
            otherwise: caller.otherwise(),
            monitored: method.monitored,
            resource: resource.clone(),
            order: order.as_ref(),
            digest: digest(method, &message),
        };
        let admission =
            self.machine.safety.admit(incoming).map_err(|why| refusal::refused(why, self.machine.safety.now()))?;
        let running = match admission {
            Admission::Run(running) => running,
            Admission::Copy(call) => {
                let reply = call.reply().await.ok_or_else(refusal::lost)?;
                let whole = reply.downcast::<Whole>().map_err(|_| refusal::lost())?;
                return Ok(Whole::clone(&whole).into_response());
            }
        };
        let place = match self.machine.limits.enter(&resource) {
            Ok(place) => place,
            Err(status) => {
                running.finish(Some(Arc::new(Whole::failed(&status))));
                return Err(status);
            }
        };
        if let (Some(id), true) = (sid, method.monitored) {
            self.machine.safety.heard(id, &caller.peer);
        }
        // Whether what moves is a session's or the caller's own: its silent loss is to be found out soon.
        self.machine.watch_closely(&caller);
        let entry = self.machine.operations.begin(operation_id(&request), method.path, sid);
        request.extensions_mut().insert(running.permit());
        let admitted = Admitted { running, entry, _place: place, deadline };
        let guarded = sid.is_some() && method.monitored;
        let mut response = match order {
            Some(_) if !method.request_stream && !method.response_stream => self.run_apart(admitted, request).await?,
            _ => self.run(admitted, method, request).await?,
        };
        if guarded && let Ok(value) = HeaderValue::from_str(&resource.to_string()) {
            response.headers_mut().insert(header::SAFETY_NAMES.clone(), value);
        }
        Ok(response)
    }

    /// Runs a call that ends with its request.
    async fn run(self, admitted: Admitted, method: &Method, request: Request<Body>) -> Result<Response<Body>, Status> {
        let Admitted { running, entry, _place, deadline } = admitted;
        let id = entry.operation.id;
        let mut response =
            self.until_ended(&running, &entry, deadline, request).await.unwrap_or_else(Status::into_http);
        name_operation(&mut response, id);
        if method.request_stream || method.response_stream {
            return Ok(hold(response, entry, Some(running), deadline));
        }
        running.finish(None);
        Ok(response)
    }

    /// Runs a numbered call in a task of its own: its request may die with its route, and the call goes on for its copies. A call that is over
    /// at once, as most commands are, needs no task.
    async fn run_apart(self, admitted: Admitted, request: Request<Body>) -> Result<Response<Body>, Status> {
        let mut call = Box::pin(async move {
            let Admitted { running, entry, _place, deadline } = admitted;
            let mut response =
                self.until_ended(&running, &entry, deadline, request).await.unwrap_or_else(Status::into_http);
            name_operation(&mut response, entry.operation.id);
            let whole = Arc::new(Whole::collect(response).await);
            running.finish(whole.is_small().then(|| whole.clone() as _));
            whole
        });
        // Nothing is awaited between admission and the task: a request that dies finds the call on its way.
        let ended = match futures_util::poll!(&mut call) {
            Poll::Ready(whole) => Ok(whole),
            Poll::Pending => tokio::spawn(call).await,
        };
        match ended {
            Ok(whole) => Ok(Whole::clone(&whole).into_response()),
            Err(_) => Err(Status::internal("the component's driver panicked")),
        }
    }

    /// The service's answer, or why it was not waited for.
    async fn until_ended(
        &self,
        running: &Running,
        entry: &Entry,
        deadline: tokio::time::Instant,
        request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        let permit = running.permit();
        let ended = tokio::select! {
            biased;
            why = permit.cancelled() => return Err(shut_out(why)),
            () = entry.operation.cancelled() => Status::cancelled("cancelled by CancelOperation or StopAll"),
            () = tokio::time::sleep_until(deadline) => too_late(),
            response = self.route(request) => return Ok(response),
        };
        self.machine.safety.cancel(running.ticket(), Why::Cancelled);
        Err(ended)
    }

    /// Stop of a component, or of everything: never refused, never queued.
    pub(super) async fn stop(
        self,
        subtype: Option<String>,
        caller: Caller,
        request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        let all = subtype.is_none();
        let sid = one_session(request.headers()).ok().flatten();
        let order: Option<Order> = order(request.headers()).ok().flatten();
        let (head, body) = request.into_parts();
        // A Stop says little, and whoever sends less within 10 s has gone.
        let bound = std::time::Duration::from_secs(10);
        let First { name, message, .. } = tokio::time::timeout(bound, first(body)).await.map_err(|_| too_late())??;
        let resource = resource(subtype.as_deref().unwrap_or_default(), name);
        if !all && !self.machine.safety.has(&resource) {
            return Err(refusal::not_found(&resource));
        }
        let incoming = Incoming {
            sid,
            owner: &caller.owner,
            otherwise: caller.otherwise(),
            monitored: false,
            resource,
            order: order.as_ref(),
            digest: digest_of(head.uri.path(), &message),
        };
        let extras = extras(all, &message);
        // What StopAll ends is what runs now: not what is called after it, nor anything once more by a late copy.
        let before = if all { self.machine.operations.list() } else { Vec::new() };
        // A Stop whose extras nobody can read stops all the same.
        let stopping = self.machine.safety.stop(incoming, all, extras.unwrap_or_default());
        if stopping.runs {
            before.iter().for_each(|operation| self.machine.operations.cancel(operation.id));
        }
        let failed = stopping.done().await.map_err(refusal::stop_over)?;
        self.machine.watch_less(&caller, sid);
        if failed.is_empty() { Ok(with_operation(empty())) } else { Err(refusal::stop_failed(&failed)) }
    }
}

/// A Stop is over before anybody could cancel it; its id is there for clients that read one from every response.
fn with_operation(mut response: Response<Body>) -> Response<Body> {
    if let Ok(value) = HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()) {
        response.headers_mut().insert(header::OPERATION.clone(), value);
    }
    response
}

/// What callers give to the drivers that they stop.
fn extras(all: bool, message: &Bytes) -> Result<Vec<(Option<ResourceName>, Struct)>, Status> {
    let malformed = |e: prost::DecodeError| Status::invalid_argument(format!("the request is malformed: {e}"));
    if !all {
        // Every component's StopRequest has the same fields.
        let request = StopRequest::decode(message.clone()).map_err(malformed)?;
        return Ok(request.extra.map(|extra| (None, extra)).into_iter().collect());
    }
    let request = StopAllRequest::decode(message.clone()).map_err(malformed)?;
    let named = request.extra.into_iter().filter_map(|extra| {
        let name = extra.name?;
        Some((Some(ResourceName::component(name.subtype, name.name)), extra.params?))
    });
    Ok(named.collect())
}

/// Tells copies of one call from different calls under one number.
fn digest(method: &Method, message: &Bytes) -> u64 {
    digest_of(method.path, message)
}

fn digest_of(path: &str, message: &Bytes) -> u64 {
    // Compared within this process only, between calls of one authenticated client.
    let mut hasher = DefaultHasher::new();
    (path, &message[..]).hash(&mut hasher);
    hasher.finish()
}
