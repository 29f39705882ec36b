//! What generated clients run on: every call gets what the session has to say about it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use dialer::{CallPlan, DialClass, MachineChannel};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::Full;
use machine_api::methods::{self, Class, Method};
use session_core::client::{Answer, Kind, Letter};
use tonic::{Code, Status};
use tower::Service;
use transport::message::{First, first};
use transport::timeout::grpc_timeout;
use transport::{Body, header};

use crate::builder::Sessions;
use crate::robot::Inside;
use crate::session::{Fate, Motion, StopRequest, expired};

/// A gRPC channel to a machine, with its session. Cheap to clone.
#[derive(Clone)]
pub struct RobotChannel(Arc<Inside>);

impl std::fmt::Debug for RobotChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RobotChannel").field(&self.0.address).finish()
    }
}

impl Service<Request<Body>> for RobotChannel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let method = methods::find(request.uri().path());
        if self.0.sessions != Sessions::Manual {
            // Only the session layer writes these.
            request.headers_mut().remove(&header::SESSION);
            request.headers_mut().remove(&header::ORDER);
        }
        let automatic = matches!(self.0.sessions, Sessions::Auto | Sessions::Watched(_));
        match method {
            Some(method) if automatic && method.class == Class::Stop => {
                let robot = self.0.clone();
                Box::pin(in_time(request, move |request| robot.stop(method, request)))
            }
            Some(method) if automatic && method.monitored => {
                let robot = self.0.clone();
                Box::pin(in_time(request, move |request| robot.motion(method, request)))
            }
            _ => {
                if automatic && method.is_some_and(|m| m.class == Class::Other) {
                    self.0.name_holder(request.headers_mut());
                }
                let mut channel = self.0.channel.clone();
                let robot = self.0.clone();
                let reply = channel.call(request);
                Box::pin(async move {
                    // A call keeps its robot.
                    let _robot = robot;
                    reply.await
                })
            }
        }
    }
}

impl RobotChannel {
    pub(crate) fn new(robot: Arc<Inside>) -> Self {
        Self(robot)
    }
}

/// Bounds a call by its own deadline, from before it waits for a session on.
async fn in_time<F>(request: Request<Body>, call: impl FnOnce(Request<Body>) -> F) -> Result<Response<Body>, Status>
where
    F: Future<Output = Result<Response<Body>, Status>>,
{
    match grpc_timeout(request.headers()) {
        None => call(request).await,
        Some(timeout) => tokio::time::timeout(timeout, call(request)).await.unwrap_or_else(|_| {
            Err(Status::deadline_exceeded(format!("the machine did not answer within the call's {timeout:?}")))
        }),
    }
}

/// `motor/m1`: what the session calls a component.
fn component(method: &Method, name: &str) -> String {
    let package = method.service().strip_prefix("viam.component.").unwrap_or_default();
    let subtype = match package.split('.').next().unwrap_or_default() {
        "movementsensor" => "movement_sensor",
        other => other,
    };
    format!("{subtype}/{name}")
}

impl Inside {
    /// Calls that may move something without being monitored are held by the session, at a machine that knows what that means.
    fn name_holder(&self, headers: &mut HeaderMap) {
        if let Some(value) = self.session.holder().and_then(|id| HeaderValue::from_str(&id).ok()) {
            headers.insert(header::SESSION.clone(), value);
        }
    }

    async fn stop(self: Arc<Self>, method: &'static Method, request: Request<Body>) -> Result<Response<Body>, Status> {
        let (head, body) = request.into_parts();
        let First { name, message, .. } = first(body).await?;
        let all = !method.service().starts_with("viam.component.");
        let stop = StopRequest { path: method.path, headers: head.headers, message };
        self.session.stop(if all { None } else { Some(component(method, &name)) }, stop).await
    }

    async fn motion(
        self: Arc<Self>,
        method: &'static Method,
        request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        let (head, body) = request.into_parts();
        let streams = method.request_stream || method.response_stream;
        let First { name, framed, body, .. } = first(body).await?;
        let kind = if streams { Kind::Stream } else { Kind::Motion };
        let mut motion = self.session.motion(component(method, &name), kind);
        let mut body = Some(body);
        loop {
            let letter = match motion.fate().await {
                Fate::Go(letter) => letter,
                Fate::Fail(status) => return Err(status),
            };
            let body = match body.take().filter(|_| streams) {
                Some(body) => body,
                None => Body::new(Full::new(framed.clone())),
            };
            let request = self.request(method, &head, body, letter.as_ref());
            let mut channel: MachineChannel = self.channel.clone();
            let reply = tokio::select! {
                biased;
                fate = motion.fate() => match fate {
                    Fate::Fail(status) => return Err(status),
                    Fate::Go(_) => return Err(Status::internal("the session sent a call twice")),
                },
                reply = channel.call(request) => reply,
            };
            let answer = answer(&reply);
            let again = matches!(answer, Answer::Expired(_));
            motion.answered(answer);
            if !again {
                return if streams { reply.map(|reply| held_by(reply, motion)) } else { reply };
            }
        }
    }

    fn request(&self, method: &Method, head: &Parts, body: Body, letter: Option<&Letter>) -> Request<Body> {
        let mut request = Request::new(body);
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = head.uri.clone();
        *request.version_mut() = head.version;
        *request.headers_mut() = head.headers.clone();
        write(letter, request.headers_mut());
        let numbered = letter.is_some_and(|letter| letter.order.is_some());
        let unary = !method.request_stream && !method.response_stream;
        let plan = CallPlan {
            class: DialClass::Motion,
            copyable: numbered && unary,
            numbered: numbered && unary,
            held: letter.is_some(),
            unary_reply: !method.response_stream,
            wait: None,
            fail_fast: false,
        };
        request.extensions_mut().insert(plan);
        request
    }
}

/// Writes what a message carries.
pub(crate) fn write(letter: Option<&Letter>, headers: &mut HeaderMap) {
    let Some(letter) = letter else { return };
    if let Ok(value) = HeaderValue::try_from(letter.session.to_string()) {
        headers.insert(header::SESSION.clone(), value);
    }
    if let Some(Ok(mut value)) = letter.order.as_ref().map(|order| HeaderValue::try_from(order.to_string())) {
        // No two messages have the same one: it would only push others out of the compression's table.
        value.set_sensitive(true);
        headers.insert(header::ORDER.clone(), value);
    }
}

/// A message with gRPC's prefix.
pub(crate) fn framed(message: &Bytes) -> Body {
    let mut framed = Vec::with_capacity(message.len() + 5);
    framed.push(0);
    // Messages are 32 MiB at most.
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend_from_slice(message);
    Body::new(Full::new(Bytes::from(framed)))
}

/// What a reply says about its call's fate.
fn answer(reply: &Result<Response<Body>, Status>) -> Answer<String> {
    let failed;
    let status = match reply {
        // Refusals come as headers alone.
        Ok(reply) if !reply.headers().contains_key(&header::GRPC_STATUS) => return Answer::Done,
        Ok(reply) => match Status::from_header_map(reply.headers()) {
            Some(status) => {
                failed = status;
                &failed
            }
            None => return Answer::Done,
        },
        Err(status) => status,
    };
    if let Some(told) = expired(status) {
        return Answer::Expired(told);
    }
    match (reply, status.code()) {
        (_, Code::Aborted) if String::from_utf8_lossy(status.details()).contains(machine_api::NOT_RUN) => {
            Answer::NotRun
        }
        (Ok(_), _) => Answer::Done,
        (Err(_), _) => Answer::Lost,
    }
}

/// A stream's call is open until its reply has ended or was dropped.
fn held_by(reply: Response<Body>, motion: Motion) -> Response<Body> {
    reply.map(|body| Body::new(HeldBody { body, _motion: motion }))
}

struct HeldBody {
    body: Body,
    _motion: Motion,
}

impl http_body::Body for HeldBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
}
