//! How the tool ends.

use std::fmt;
use std::process::ExitCode;

use robot_client::SessionError;
use tonic::{Code, Status};

/// Why a command did not do what was asked.
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    text: String,
}

/// What a script can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The command was understood and tried, and failed.
    Failed,
    /// The arguments make no sense.
    Usage,
    /// No route to the machine.
    Unreachable,
    /// The machine does not accept the credentials.
    Refused,
    /// The machine stopped for safety.
    Stopped,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Refused => 4,
            Self::Stopped => 5,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Stopped => "stopped",
        }
    }
}

impl Failure {
    pub fn new(kind: Kind, text: impl fmt::Display) -> Self {
        Self { kind, text: text.to_string() }
    }

    pub fn failed(text: impl fmt::Display) -> Self {
        Self::new(Kind::Failed, text)
    }

    pub fn usage(text: impl fmt::Display) -> Self {
        Self::new(Kind::Usage, text)
    }

    /// Says what happened on standard error, as JSON where that was asked for.
    pub fn exit(&self, json: bool) -> ExitCode {
        if json {
            eprintln!("{}", serde_json::json!({ "error": { "kind": self.kind.word(), "message": self.text } }));
        } else {
            eprintln!("error: {}", self.text);
        }
        ExitCode::from(self.kind.code())
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let stopped = matches!(SessionError::of(&status), Some(SessionError::Stopped { .. }));
        let kind = match status.code() {
            _ if stopped => Kind::Stopped,
            Code::Unavailable => Kind::Unreachable,
            Code::Unauthenticated | Code::PermissionDenied => Kind::Refused,
            _ => Kind::Failed,
        };
        Self::new(kind, format!("{:?}: {}", status.code(), status.message()))
    }
}
