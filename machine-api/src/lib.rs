//! The contract: messages, stubs and the method table of the machine's wire protocol.
//!
//! Modules follow the protocol's packages. The code below `generated/` is made by `cargo xtask codegen` from `proto/`
//! and `methods.toml`, and checked in, so that nobody needs a protocol compiler to build this workspace.

pub mod methods;

#[allow(missing_docs, clippy::all, rustdoc::all)]
mod generated {
    include!("../generated/packages.rs");
}

pub use generated::google;
pub use generated::proto;
pub use generated::viam;

/// Every `.proto` file with its imports, as an encoded `google.protobuf.FileDescriptorSet`, the method option included.
pub const DESCRIPTORS: &[u8] = include_bytes!("../generated/descriptors.bin");

/// Request metadata: the caller's session, as UUID text.
pub const SESSION_HEADER: &str = "viam-sid";
/// Response metadata: full names of the resources that a call put under the session's guard.
pub const SAFETY_NAMES_HEADER: &str = "viam-smrn";
/// Request and response metadata: the operation's id, as UUID text.
pub const OPERATION_HEADER: &str = "opid";
/// Request metadata: a call's order in its session; in StartSession's answer the announcement `1`.
pub const ORDER_HEADER: &str = "lifeline-order";
/// Response metadata of our machines: the id of the machine's process, as 32 hex digits, new at every start.
pub const BOOT_HEADER: &str = "lifeline-boot";
/// In answers of our machines the announcement `1`: they take a token under this name too, as `Bearer <token>`. HTTP/2's compression never keeps
/// `authorization` and thus sends half a kilobyte with every call; what it does keep costs a byte.
pub const BEARER_HEADER: &str = "lifeline-bearer";
/// The message, exactly, of the INVALID_ARGUMENT status that tells a client its session is gone.
pub const SESSION_EXPIRED: &str = "SESSION_EXPIRED";
/// The domain of the `google.rpc.ErrorInfo` details that our machines attach.
pub const ERROR_DOMAIN: &str = "lifeline";
/// `ErrorInfo` reason: the call was refused before it could do anything.
pub const NOT_RUN: &str = "NOT_RUN";
/// `ErrorInfo` reason: the call's outcome is not known any more.
pub const MAY_HAVE_RUN: &str = "MAY_HAVE_RUN";
/// The largest message either side accepts, in bytes: 32 MiB, as existing peers do.
pub const MAX_MESSAGE: usize = 32 << 20;
