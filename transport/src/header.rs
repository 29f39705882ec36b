//! Names of headers that are looked up at every call. A name written as text is parsed again each time it is used.

use http::HeaderName;
use machine_api::{BEARER_HEADER, OPERATION_HEADER, ORDER_HEADER, SAFETY_NAMES_HEADER, SESSION_HEADER};

/// [`SESSION_HEADER`].
pub static SESSION: HeaderName = HeaderName::from_static(SESSION_HEADER);
/// [`ORDER_HEADER`].
pub static ORDER: HeaderName = HeaderName::from_static(ORDER_HEADER);
/// [`BEARER_HEADER`].
pub static BEARER: HeaderName = HeaderName::from_static(BEARER_HEADER);
/// [`OPERATION_HEADER`].
pub static OPERATION: HeaderName = HeaderName::from_static(OPERATION_HEADER);
/// [`SAFETY_NAMES_HEADER`].
pub static SAFETY_NAMES: HeaderName = HeaderName::from_static(SAFETY_NAMES_HEADER);
/// A call's outcome, in trailers or, for a refusal, in the headers.
pub static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// How long a call may take.
pub static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
