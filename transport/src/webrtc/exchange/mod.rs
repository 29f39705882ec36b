//! The order of an exchange of descriptions and candidates through a signaling service, both halves. Pure.
//!
//! Each half says `done` or `error` at most once. The caller holds its candidates back until the answer tells the exchange's
//! number; the answerer sends its answer first, and lets the caller's agent begin before either side's candidates are told. It ends when the channel
//! opens: what is found later, ends of ours tell each other there.

mod answerer;
mod caller;
#[cfg(test)]
mod tests;

use std::time::Duration;

use machine_api::google::rpc::Status as RpcStatus;
use machine_api::proto::rpc::webrtc::v1::IceCandidate;
use tonic::Code;

pub use answerer::{Answerer, AnswererOutput, CallerIdentity, Offer};
pub use caller::{Caller, CallerOutput};

/// Candidates of one side that are passed on.
const MAX_CANDIDATES: usize = 64;
/// The longest text of an error that is passed on, in characters.
const MAX_ERROR: usize = 300;

/// Why an exchange failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// As gRPC has it.
    pub code: Code,
    /// What happened.
    pub what: String,
}

impl Failure {
    fn new(code: Code, what: impl Into<String>) -> Self {
        Self { code, what: what.into().chars().take(MAX_ERROR).collect() }
    }

    fn status(&self) -> RpcStatus {
        RpcStatus { code: self.code as i32, message: self.what.clone(), details: Vec::new() }
    }
}

/// How long two ends that have each other's descriptions may go on without the service that carried them: what they know of each other is checked within
/// a second, on a lossy way within a few, and what they do not know nobody will tell them.
const ALONE: Duration = Duration::from_secs(5);

fn candidate(text: &str) -> IceCandidate {
    IceCandidate {
        candidate: text.to_owned(),
        sdp_mid: Some("0".into()),
        sdpm_line_index: Some(0),
        username_fragment: None,
    }
}
