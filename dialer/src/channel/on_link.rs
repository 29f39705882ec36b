//! A call on one link, whatever its place: Stops and beats.

use std::task::Poll;

use http::request::Parts;
use http::{Request, Response};
use tonic::body::Body;
use transport::{CallError, Lane};

use super::body::Payload;
use crate::carrier::Carrier;

/// What is kept of a body in case a remembered token is not accepted; a Stop and a beat are below 1 KiB.
const KEPT: usize = 64 << 10;

/// Sends it at once, neither retried on other links nor waited for. A Stop does not wait until a remembered token is proven either: where the
/// machine refuses that token the call did not run, and goes again with a new one.
pub(crate) async fn call_on(
    carrier: &Carrier,
    request: Request<Body>,
    lane: Lane,
) -> Result<Response<Body>, CallError> {
    let (parts, body) = request.into_parts();
    let mut body = Some(body);
    let mut payload =
        std::future::poll_fn(|cx| Poll::Ready(Payload::peek(body.take().unwrap_or_default(), KEPT, cx))).await;
    if !carrier.pass.is_proven() && !payload.repeatable() {
        carrier.pass.prove(&carrier.link).await;
    }
    let carried = carrier.pass.header();
    let reply = once(carrier, &parts, payload.body(), lane).await?;
    if !payload.repeatable() || !carrier.pass.is_refused(reply.headers(), carried.as_ref()) {
        return Ok(reply);
    }
    carrier.pass.prove(&carrier.link).await;
    once(carrier, &parts, payload.body(), lane).await
}

async fn once(carrier: &Carrier, parts: &Parts, body: Option<Body>, lane: Lane) -> Result<Response<Body>, CallError> {
    let mut request = Request::new(body.unwrap_or_default());
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = parts.uri.clone();
    *request.version_mut() = parts.version;
    *request.headers_mut() = parts.headers.clone();
    carrier.pass.write(request.headers_mut());
    let out = carrier.meter.sent(false);
    let reply = carrier.link.call(request, lane).await?;
    out.answered();
    Ok(reply)
}
