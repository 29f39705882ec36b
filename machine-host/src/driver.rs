//! What every driver shares: how it fails.

use session_core::registry::Shut;

/// A driver could not do what it was told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The hardware or its driver failed.
    #[error("{0}")]
    Failed(String),
    /// This component cannot do that at all.
    #[error("this component does not support {0}")]
    Unsupported(&'static str),
    /// What the caller asked for makes no sense for this component.
    #[error("{0}")]
    Invalid(String),
    /// Another machine, which is this driver's hardware, answered that; its caller is told the same.
    #[error("{message}")]
    Answered {
        /// The kind of failure.
        code: tonic::Code,
        /// What it said.
        message: String,
    },
    /// The call was shut out at its gate: nothing was written.
    #[error("the write was shut out: {0:?}")]
    Shut(Shut),
}

impl DriverError {
    /// The hardware or its driver failed.
    pub fn failed(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }

    /// What the caller asked for makes no sense for this component.
    pub fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }
}
