//! gRPC-web for browsers on the machine's port, and `/` for health checks; without TLS over HTTP/1.1, with TLS also over HTTP/2.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use http::header::{ACCESS_CONTROL_REQUEST_HEADERS, CONTENT_TYPE};
use http::{HeaderName, StatusCode};
use tonic_web::GrpcWebLayer;
use tower::{Layer, Service, ServiceExt};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer, ExposeHeaders};

use crate::Body;

/// Response headers that a browser's program may read; gRPC-web carries statuses in them when a call fails at once.
const EXPOSED: [HeaderName; 6] = [
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
    HeaderName::from_static("opid"),
    HeaderName::from_static("viam-smrn"),
    HeaderName::from_static("lifeline-order"),
];

/// Any origin may ask: what protects a machine is the credential, which a page has to be given. Asked-for headers are mirrored,
/// since `*` does not cover `authorization`.
pub(super) fn router<S>(grpc: S) -> Router
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::any())
        .allow_methods(AllowMethods::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(ExposeHeaders::list(EXPOSED))
        .vary([ACCESS_CONTROL_REQUEST_HEADERS])
        .max_age(Duration::from_secs(3600));
    let web = GrpcWebLayer::new().layer(tower::util::MapRequest::new(grpc, |r: http::Request<Body>| r));
    let calls = any(move |request: Request| {
        let web = web.clone();
        async move { call(web, request).await }
    });
    Router::new().route("/", get(|| async { "This machine speaks gRPC and gRPC-web.\n" })).fallback(calls).layer(cors)
}

/// Only gRPC-web is a call; everything else has no page here.
async fn call<W>(web: W, request: Request) -> Response
where
    W: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
{
    let kind = request.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !kind.starts_with("application/grpc-web") {
        return (StatusCode::NOT_FOUND, "This machine serves no pages; use gRPC, gRPC-web or an SDK.\n")
            .into_response();
    }
    match web.oneshot(request.map(Body::new)).await {
        Ok(response) => response.map(axum::body::Body::new).into_response(),
        Err(never) => match never {},
    }
}
