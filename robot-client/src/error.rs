//! Why a call failed that the session, not the machine's handler, ended.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use session_core::client::Failure;
use tonic::{Code, Status};

/// The source of the statuses that the session layer makes; see [`SessionError::of`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// A Stop of the same component was issued after the call: it was not sent, or its outcome does not matter any more.
    #[error("superseded by a Stop that was issued after it")]
    Superseded,
    /// The session ended, and what it moved was stopped. Nothing moves again by itself: look, then call again.
    #[error("stopped for safety: {}{}", listed(.what), if *.told { "" } else { " may move for up to the machine's window" })]
    Stopped {
        /// What: `type/name`.
        what: BTreeSet<String>,
        /// Whether the machine said so; else it follows from our own record, and the machine may still be moving for up to its window.
        told: bool,
    },
    /// There is no link to the machine.
    #[error("not connected to machine at {address}{}", lapse_in(.lapses))]
    NotConnected {
        /// The machine, as it was dialled.
        address: String,
        /// When the session ends, and with it what it moves, unless a link comes.
        lapses: Option<Instant>,
    },
    /// The machine's window is shorter than its answers take.
    #[error(
        "the machine answers within {took:?}, and its sessions live for {window:?}: no session can be kept over this path"
    )]
    TooSlow {
        /// How long an answer took.
        took: std::time::Duration,
        /// The machine's window.
        window: std::time::Duration,
    },
    /// The session was gone twice in a row.
    #[error("SESSION_EXPIRED")]
    Expired,
    /// The machine refused to start a session.
    #[error("the machine refused to start a session")]
    NotStarted,
    /// A Stop was not answered with success: the component may still be moving.
    #[error("the Stop was not confirmed: the component may still be moving")]
    StopUnanswered,
    /// The robot was closed.
    #[error("the robot was closed")]
    Closed,
}

fn listed(what: &BTreeSet<String>) -> String {
    if what.is_empty() { "everything".to_owned() } else { what.iter().cloned().collect::<Vec<_>>().join(", ") }
}

fn lapse_in(lapses: &Option<Instant>) -> String {
    match lapses {
        None => String::new(),
        Some(at) => format!(
            "; what it moves stops in {:.1} s at the latest",
            at.saturating_duration_since(Instant::now()).as_secs_f64()
        ),
    }
}

impl SessionError {
    /// The session's reason for a status, where it had one.
    pub fn of(status: &Status) -> Option<&Self> {
        status.source()?.downcast_ref()
    }

    pub(crate) fn new(failure: Failure<String>, address: &str) -> Self {
        match failure {
            Failure::Superseded => Self::Superseded,
            Failure::Stopped(stopped) => Self::Stopped { what: stopped.what, told: stopped.told },
            Failure::Expired => Self::Expired,
            Failure::NotConnected { lapses } => Self::NotConnected { address: address.to_owned(), lapses },
            Failure::TooSlow(slow) => Self::TooSlow { took: slow.took, window: slow.window },
            Failure::NotStarted => Self::NotStarted,
            Failure::StopUnanswered => Self::StopUnanswered,
            Failure::Closed => Self::Closed,
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Superseded | Self::Stopped { .. } => Code::Aborted,
            Self::Expired => Code::InvalidArgument,
            Self::TooSlow { .. } => Code::FailedPrecondition,
            Self::StopUnanswered => Code::DeadlineExceeded,
            Self::NotConnected { .. } | Self::NotStarted | Self::Closed => Code::Unavailable,
        }
    }
}

impl From<SessionError> for Status {
    fn from(error: SessionError) -> Self {
        let mut status = Self::new(error.code(), error.to_string());
        status.set_source(Arc::new(error));
        status
    }
}
