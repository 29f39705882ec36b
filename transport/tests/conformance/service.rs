//! A service of all four kinds of calls, and a client for it, both on tonic.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt, TryStreamExt};
use http::uri::PathAndQuery;
use prost::Message as _;
use tokio::sync::{Notify, Semaphore};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::service_fn;
use transport::{Body, Lane, Link};

/// The only message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Blob {
    #[prost(bytes = "bytes", tag = "1")]
    pub data: Bytes,
    #[prost(uint32, tag = "2")]
    pub number: u32,
}

pub fn blob(length: usize, number: u32) -> Blob {
    Blob { data: vec![7; length].into(), number }
}

/// What the service has seen.
#[derive(Clone, Default)]
pub struct Seen {
    /// One for each call of `Wait` that began.
    pub began: Arc<Began>,
    /// Rings when such a call was dropped.
    pub dropped: Arc<Notify>,
}

pub struct Began(Semaphore);

impl Default for Began {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

impl Seen {
    /// Waits until `calls` more have begun.
    pub async fn began(&self, calls: u32) {
        self.began.0.acquire_many(calls).await.expect("never closed").forget();
    }
}

struct OnDrop(Arc<Notify>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

type Reply = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

/// The service that a machine serves.
pub fn service(
    seen: Seen,
) -> impl tower::Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible, Future = Reply>
+ Clone
+ Send
+ Sync
+ 'static {
    service_fn(move |request: http::Request<Body>| {
        let seen = seen.clone();
        Box::pin(async move { Ok(route(seen, request).await) }) as Reply
    })
}

async fn route(seen: Seen, request: http::Request<Body>) -> http::Response<Body> {
    let mut grpc = tonic::server::Grpc::new(ProstCodec::<Blob, Blob>::default())
        .max_decoding_message_size(machine_api::MAX_MESSAGE)
        .max_encoding_message_size(usize::MAX);
    match request.uri().path() {
        "/test.Echo/Unary" => grpc.unary(service_fn(unary), request).await,
        "/test.Echo/Fail" => grpc.unary(service_fn(fail), request).await,
        "/test.Echo/Wait" => grpc.unary(service_fn(move |r| wait(seen.clone(), r)), request).await,
        "/test.Echo/Repeat" => grpc.server_streaming(service_fn(repeat), request).await,
        "/test.Echo/Collect" => grpc.client_streaming(service_fn(collect), request).await,
        "/test.Echo/Chat" => grpc.streaming(service_fn(chat), request).await,
        "/test.Echo/Leave" => grpc.streaming(service_fn(leave), request).await,
        _ => Status::unimplemented("Unimplemented").into_http(),
    }
}

/// Gives back what it got, the metadata too.
async fn unary(request: Request<Blob>) -> Result<Response<Blob>, Status> {
    let (metadata, _, blob) = request.into_parts();
    // Asked for a reply of a certain size.
    let reply = if blob.number > 0 { self::blob(blob.number as usize, 0) } else { blob };
    let mut response = Response::new(reply);
    *response.metadata_mut() = metadata;
    Ok(response)
}

async fn fail(_: Request<Blob>) -> Result<Response<Blob>, Status> {
    Err(failure())
}

/// A status with everything.
pub fn failure() -> Status {
    let info =
        machine_api::google::rpc::ErrorInfo { reason: "NOT_RUN".into(), domain: "test".into(), ..Default::default() };
    let any =
        prost_types::Any { type_url: "type.googleapis.com/google.rpc.ErrorInfo".into(), value: info.encode_to_vec() };
    let status =
        machine_api::google::rpc::Status { code: 9, message: "not now: 50 % \u{e9}\n".into(), details: vec![any] };
    let details = status.encode_to_vec().into();
    let mut status = Status::with_details(Code::FailedPrecondition, status.message, details);
    status.metadata_mut().insert("why", "because".parse().expect("a value"));
    status
}

async fn wait(seen: Seen, _: Request<Blob>) -> Result<Response<Blob>, Status> {
    let _gone = OnDrop(seen.dropped.clone());
    seen.began.0.add_permits(1);
    std::future::pending().await
}

async fn repeat(request: Request<Blob>) -> Result<Response<BoxStream<'static, Result<Blob, Status>>>, Status> {
    let blob = request.into_inner();
    let count = blob.number;
    let all = (0..count).map(move |number| Ok(Blob { data: blob.data.clone(), number }));
    Ok(Response::new(stream::iter(all).boxed()))
}

async fn collect(request: Request<Streaming<Blob>>) -> Result<Response<Blob>, Status> {
    let sum = |sum: usize, blob: Blob| async move { Ok(sum + blob.data.len()) };
    let sum = request.into_inner().try_fold(0, sum).await?;
    Ok(Response::new(Blob { data: Bytes::new(), number: u32::try_from(sum).unwrap_or(u32::MAX) }))
}

async fn chat(request: Request<Streaming<Blob>>) -> Result<Response<BoxStream<'static, Result<Blob, Status>>>, Status> {
    Ok(Response::new(request.into_inner().boxed()))
}

/// Leaves after the first message.
async fn leave(
    request: Request<Streaming<Blob>>,
) -> Result<Response<BoxStream<'static, Result<Blob, Status>>>, Status> {
    let first = request.into_inner().message().await?;
    let end = stream::iter([first.ok_or_else(|| Status::internal("no message")), Err(Status::aborted("enough"))]);
    Ok(Response::new(end.boxed()))
}

/// Calls as generated clients do, on one lane.
#[derive(Clone)]
pub struct Calls(pub Link, pub Lane);

impl tower::Service<http::Request<Body>> for Calls {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Status>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let call = self.0.call(request, self.1);
        Box::pin(async move { call.await.map_err(|e| e.status) })
    }
}

/// A client of the service.
#[derive(Clone)]
pub struct Client(pub Link);

impl Client {
    fn grpc(&self, lane: Lane) -> tonic::client::Grpc<Calls> {
        tonic::client::Grpc::new(Calls(self.0.clone(), lane))
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX)
    }

    pub async fn call(&self, lane: Lane, path: &'static str, request: Request<Blob>) -> Result<Response<Blob>, Status> {
        let codec = ProstCodec::<Blob, Blob>::default();
        self.grpc(lane).unary(request, PathAndQuery::from_static(path), codec).await
    }

    pub async fn unary(&self, blob: Blob) -> Result<Blob, Status> {
        self.call(Lane::Ordinary, "/test.Echo/Unary", Request::new(blob)).await.map(Response::into_inner)
    }

    pub async fn wait(&self, timeout: Option<Duration>) -> Result<Blob, Status> {
        let mut request = Request::new(blob(1, 0));
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        self.call(Lane::Ordinary, "/test.Echo/Wait", request).await.map(Response::into_inner)
    }

    pub async fn repeat(&self, blob: Blob) -> Result<Streaming<Blob>, Status> {
        let codec = ProstCodec::<Blob, Blob>::default();
        let path = PathAndQuery::from_static("/test.Echo/Repeat");
        Ok(self.grpc(Lane::Ordinary).server_streaming(Request::new(blob), path, codec).await?.into_inner())
    }

    pub async fn stream(
        &self,
        path: &'static str,
        blobs: impl Stream<Item = Blob> + Send + 'static,
    ) -> Result<Streaming<Blob>, Status> {
        let codec = ProstCodec::<Blob, Blob>::default();
        let path = PathAndQuery::from_static(path);
        Ok(self.grpc(Lane::Ordinary).streaming(Request::new(blobs), path, codec).await?.into_inner())
    }
}
