//! What callers are told when their call is not run.

use std::time::Instant;

use bytes::Bytes;
use machine_api::google::rpc::{ErrorInfo, Status as RpcStatus};
use machine_api::{ERROR_DOMAIN, MAY_HAVE_RUN, NOT_RUN, SESSION_EXPIRED};
use prost::Message;
use session_core::registry::{NoSession, Past, Refused, Shut, Why};
use tonic::{Code, Status};

use crate::safety::FailedStop;
use crate::{DriverError, ResourceName};

/// The status of a refused call.
pub(crate) fn refused(refused: Refused<ResourceName>, now: Instant) -> Status {
    match refused {
        Refused::NoSession(tombstone) => no_session(NoSession(tombstone), now),
        Refused::GivenUp => detailed(Code::Aborted, "not run: its caller gave it up before it arrived", NOT_RUN, &[]),
        Refused::Superseded => {
            detailed(Code::Aborted, "not run: a later command or Stop of the same client was there first", NOT_RUN, &[])
        }
        Refused::MayHaveRun => {
            detailed(Code::Aborted, "it ran, and its outcome is not known any more", MAY_HAVE_RUN, &[])
        }
        Refused::Differs => Status::invalid_argument("a copy of this number had another method or request"),
        Refused::Policy => {
            Status::failed_precondition("this machine takes commands within a session only: call StartSession first")
        }
        Refused::CallerLeft => Status::cancelled("the caller's connection has ended"),
        Refused::Closed => Status::unavailable("the machine is shutting down: it takes no commands any more"),
    }
}

/// A copy of a call whose outcome is not there to be shared.
pub(super) fn lost() -> Status {
    detailed(Code::Aborted, "it ran, and its outcome is not known any more", MAY_HAVE_RUN, &[])
}

/// No component of that type and name.
pub(crate) fn not_found(resource: &ResourceName) -> Status {
    Status::not_found(format!("resource {resource:?} not found", resource = resource.to_string()))
}

/// Drivers whose Stop failed, one after another, in the words of existing machines (s46).
pub(super) fn stop_failed(failed: &[FailedStop]) -> Status {
    let text = |f: &FailedStop| format!("failed to stop component named {} with error {}", f.resource.name, f.error);
    Status::internal(failed.iter().map(text).collect::<Vec<_>>().join("; "))
}

/// A Stop whose caller gave it up, and which is not known to have succeeded.
pub(crate) fn stop_over(past: Past) -> Status {
    match past {
        Past::NotRun => {
            detailed(Code::Aborted, "not run: its caller gave this Stop up before it arrived", NOT_RUN, &[])
        }
        _ => detailed(
            Code::Aborted,
            "this Stop was given up after it had begun, and is not known to have succeeded",
            MAY_HAVE_RUN,
            &[],
        ),
    }
}

/// The status that tells a client its session is gone: the message is exactly what existing clients look for; details go to the session's
/// owner only, so that nobody else learns that it existed.
pub(crate) fn no_session(NoSession(tombstone): NoSession<ResourceName>, now: Instant) -> Status {
    let Some(tombstone) = tombstone else { return Status::invalid_argument(SESSION_EXPIRED) };
    let stopped: Vec<_> = tombstone.stopped.iter().map(ToString::to_string).collect();
    let age = now.saturating_duration_since(tombstone.at).as_millis();
    let facts =
        [("stopped", stopped.join(",")), ("age_ms", age.to_string()), ("cause", format!("{:?}", tombstone.cause))];
    detailed(Code::InvalidArgument, SESSION_EXPIRED, SESSION_EXPIRED, &facts)
}

/// The status of a call that was shut out while it ran.
pub(crate) fn shut_out(why: Why) -> Status {
    match why {
        Why::Stopped => Status::cancelled("ended by a Stop"),
        Why::Lapsed => Status::cancelled("ended: its session has lapsed, and what it moved was stopped"),
        Why::Preempted => Status::cancelled("ended by a later command on the same actuator"),
        Why::GivenUp | Why::CallerLeft => Status::cancelled("ended: its caller gave it up"),
        Why::Cancelled => Status::cancelled("cancelled"),
        Why::Removed => Status::not_found("the component was removed"),
    }
}

/// What a driver's failure looks like to its caller. What the driver itself says is UNKNOWN, as existing machines answer it.
impl From<DriverError> for Status {
    fn from(error: DriverError) -> Self {
        match error {
            DriverError::Failed(text) => Self::unknown(text),
            DriverError::Unsupported(what) => Self::unimplemented(format!("this component does not support {what}")),
            DriverError::Invalid(text) => Self::invalid_argument(text),
            DriverError::Answered { code, message } => Self::new(code, message),
            DriverError::Shut(Shut::Busy) => {
                Self::unavailable("the actuator's driver is busy: a write or a Stop has been inside for 500 ms")
            }
            DriverError::Shut(Shut::Revoked(why)) => shut_out(why),
        }
    }
}

fn detailed(code: Code, message: &str, reason: &str, facts: &[(&str, String)]) -> Status {
    let info = ErrorInfo {
        reason: reason.to_owned(),
        domain: ERROR_DOMAIN.to_owned(),
        metadata: facts.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
    };
    let any = prost_types::Any {
        type_url: "type.googleapis.com/google.rpc.ErrorInfo".to_owned(),
        value: info.encode_to_vec(),
    };
    let details = RpcStatus { code: code as i32, message: message.to_owned(), details: vec![any] };
    Status::with_details(code, message, Bytes::from(details.encode_to_vec()))
}
