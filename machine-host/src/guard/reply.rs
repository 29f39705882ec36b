//! A reply that several copies of a call share.

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt, Full};
use tonic::Status;
use transport::Body;

/// Replies up to this size are kept for copies, in bytes: what moves something answers with next to nothing.
const KEPT: usize = 4 << 10;

/// A complete unary reply.
#[derive(Clone)]
pub(super) struct Whole {
    headers: HeaderMap,
    data: Bytes,
    trailers: Option<HeaderMap>,
}

impl Whole {
    /// Reads a reply to its end.
    pub(super) async fn collect(response: http::Response<Body>) -> Self {
        let (head, body) = response.into_parts();
        match body.collect().await {
            Ok(all) => {
                let trailers = all.trailers().cloned();
                Self { headers: head.headers, data: all.to_bytes(), trailers }
            }
            Err(status) => Self::failed(&status),
        }
    }

    /// The reply of a call that failed.
    pub(super) fn failed(status: &Status) -> Self {
        let response: http::Response<()> = status.clone().into_http();
        Self { headers: response.into_parts().0.headers, data: Bytes::new(), trailers: None }
    }

    /// Whether it is small enough to be kept.
    pub(super) fn is_small(&self) -> bool {
        self.data.len() <= KEPT
    }

    pub(super) fn into_response(self) -> http::Response<Body> {
        let body = match self.trailers {
            Some(trailers) => Body::new(
                Full::new(self.data)
                    .map_err(|never| match never {})
                    .with_trailers(async move { Some(Ok::<_, Status>(trailers)) }),
            ),
            None if self.data.is_empty() => Body::empty(),
            None => Body::new(Full::new(self.data)),
        };
        let mut response = http::Response::new(body);
        *response.headers_mut() = self.headers;
        response
    }
}

/// The reply of every Stop: an empty message and OK.
pub(super) fn empty() -> http::Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let mut headers = HeaderMap::new();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/grpc"));
    Whole { headers, data: Bytes::from_static(&[0; 5]), trailers: Some(trailers) }.into_response()
}
