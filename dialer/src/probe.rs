//! The cheapest question there is.

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::Full;
use tonic::body::Body;

use crate::pass::Pass;

/// The cheapest call of every machine, ours names its process in the answer; UNIMPLEMENTED is an answer too.
const PROBE: &str = "/viam.robot.v1.RobotService/GetVersion";
/// gRPC's framing of an empty message: not compressed, length 0.
const EMPTY: Bytes = Bytes::from_static(&[0; 5]);

/// The question, with what lets it in.
pub(crate) fn question(pass: &Pass) -> Request<Body> {
    let mut request = Request::new(Body::new(Full::new(EMPTY)));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_static(PROBE);
    *request.version_mut() = http::Version::HTTP_2;
    let headers = request.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(http::header::TE, HeaderValue::from_static("trailers"));
    pass.write(headers);
    request
}
