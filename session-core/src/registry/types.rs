//! The words that the registry and its shell exchange.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use crate::{Connection, Order, Owner, SessionId};

/// A command's place in the one sequence of everything that may move something on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(super) u64);

/// One call of a driver's Stop, from [`MachineOutput::Stop`] to [`super::SessionRegistry::handle_stopped`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StopId(pub(super) u64);

/// For whom a command moves something, and whose end stops it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// A session: ends with its lease.
    Session(SessionId),
    /// A caller without a session: ends with its connection.
    Connection(Connection),
    /// A caller without a session over HTTP/1.1, where one client uses several connections: ends a window after the last.
    Principal(Owner),
    /// A motion plan that runs on the machine, by the number its service gave it.
    Execution(u64),
    /// A module of the machine.
    Module(u64),
}

/// What callers without a session may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// They may drive; what they moved last stops when their connection ends.
    #[default]
    Guard,
    /// They may drive, and nothing stops what they leave moving (as the reference does).
    Allow,
    /// They may not drive.
    Refuse,
}

/// A call at the machine, as admission sees it.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a, R> {
    /// The session whose id the call carries.
    pub sid: Option<SessionId>,
    /// Who calls.
    pub owner: &'a Owner,
    /// Who holds what the call moves where no session does.
    pub otherwise: Holder,
    /// Whether the method is safety-monitored: checks the session and extends its lease.
    pub monitored: bool,
    /// What the call names.
    pub resource: R,
    /// Its order, from a client that numbers.
    pub order: Option<&'a Order>,
    /// A digest of method and request: copies of one number must agree.
    pub digest: u64,
}

/// What is to be done with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// Run it with this ticket.
    Run(Ticket),
    /// It runs or ran already: wait for that ticket's outcome and give it to this caller too.
    Copy(Ticket),
    /// A Stop with nothing left to do.
    Over(Past),
}

/// What became of a Stop that has nothing left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    /// It ran with success: answered OK.
    Succeeded,
    /// It was admitted, and whether it stopped anything is not known any more, or it did not: ABORTED with reason MAY_HAVE_RUN.
    MayHaveRun,
    /// Its caller gave it up before it arrived: ABORTED with reason NOT_RUN.
    NotRun,
}

/// Why a call is not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused<R> {
    /// SESSION_EXPIRED. The tombstone is there for the session's owner only.
    NoSession(Option<Tombstone<R>>),
    /// Its caller gave it up before it arrived (NOT_RUN).
    GivenUp,
    /// A later command or Stop of the same client was there first (NOT_RUN).
    Superseded,
    /// It was admitted, and its outcome is not kept any more (MAY_HAVE_RUN).
    MayHaveRun,
    /// A copy that differs from the first, or more clients in one session than are kept apart (INVALID_ARGUMENT).
    Differs,
    /// The machine's policy refuses callers without a session (FAILED_PRECONDITION).
    Policy,
    /// The caller's connection has ended meanwhile.
    CallerLeft,
    /// The machine ends.
    Closed,
}

/// Why a ticket does not pass its gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shut {
    /// A write or a Stop is inside the driver: try again on [`MachineOutput::Changed`].
    Busy,
    /// It never will.
    Revoked(Why),
}

/// Why a ticket was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// By a Stop.
    Stopped,
    /// Its holder's lease ended.
    Lapsed,
    /// By a later command on the actuator.
    Preempted,
    /// Its caller gave it up.
    GivenUp,
    /// Its caller's request ended.
    CallerLeft,
    /// By CancelOperation or its deadline.
    Cancelled,
    /// Its resource was removed.
    Removed,
}

/// Why something is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A caller's Stop.
    Call,
    /// A caller's StopAll.
    All,
    /// A lease ended.
    Lapse,
    /// A client said that it leaves.
    End,
    /// A guarded connection or principal ended.
    Disconnect,
    /// An operation that still held the actuator was cancelled.
    Cancel,
    /// An execution ended.
    Execution,
    /// The resource was removed.
    Removed,
}

/// One driver write's right to be inside the driver. Given back with [`super::SessionRegistry::leave`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a slot that is not given back keeps its gates shut"]
pub struct Slot<R> {
    pub(super) ticket: Ticket,
    pub(super) gates: Vec<R>,
}

/// A session that was started or resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// Its id.
    pub id: SessionId,
    /// Its window.
    pub window: Duration,
    /// Whether it is the one that was asked for.
    pub resumed: bool,
}

/// The machine keeps no more sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManySessions;

impl fmt::Display for TooManySessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too many concurrent sessions")
    }
}

impl std::error::Error for TooManySessions {}

/// The session does not exist, is over, or is another principal's: which of them is not told (s8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoSession<R>(pub Option<Tombstone<R>>);

/// What is remembered of a session that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone<R> {
    /// When it ended.
    pub at: Instant,
    /// Why.
    pub cause: Cause,
    /// What was stopped.
    pub stopped: BTreeSet<R>,
}

/// A driver's Stop failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopFailed;

/// What became of a numbered call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The shell keeps it for copies, until [`MachineOutput::Forget`].
    Kept,
    /// It is too large to keep.
    Lost,
}

/// What the shell is to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineOutput<R> {
    /// Call the driver's Stop, on the actuator's own thread, and report with `handle_stopped`.
    Stop {
        /// To report by.
        id: StopId,
        /// Whose driver.
        resource: R,
        /// Why.
        cause: Cause,
    },
    /// Every Stop that the call of this ticket asked for has returned.
    StopDone {
        /// The call.
        of: Ticket,
        /// Those that failed.
        failed: Vec<R>,
    },
    /// A Stop did not return within 500 ms, or failed four times: an event, a record and a counter, never silence.
    StopLost {
        /// Whose.
        resource: R,
        /// Why it was to stop.
        cause: Cause,
    },
    /// End the handler of this ticket. Its gate is shut already.
    Cancel {
        /// The call.
        ticket: Ticket,
        /// Why.
        why: Why,
    },
    /// The outcome of this ticket will not be asked for again.
    Forget(Ticket),
    /// Those who wait for this gate may try again.
    Changed(R),
    /// The driver of a removed resource is not called any more.
    Removed(R),
    /// A holder is gone; for the log (s29).
    Lapsed {
        /// Who.
        holder: Holder,
        /// What is being stopped.
        stopped: BTreeSet<R>,
        /// Why.
        cause: Cause,
    },
}

/// What a deadline of [`super::SessionRegistry::poll_timeout`] is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MachineTimer {
    /// A session's lease may end.
    Lease,
    /// A principal's lease may end.
    Principal,
    /// A Stop may be overdue.
    StopOverdue,
    /// A failed Stop is tried again.
    StopRetry,
}
