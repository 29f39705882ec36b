//! The words that the client's session and its shell exchange.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::{Order, SessionId};

/// A monitored call or a Stop of the program, from [`super::ClientSession::issue`] to its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call(pub(super) u64);

/// A StartSession or a beat; its answer is matched by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub(super) u64);

/// The shell's number of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link(pub u64);

/// What a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Moves something.
    Motion,
    /// Moves something, and streams: numbered once, sent once.
    Stream,
    /// Stops its component.
    Stop,
    /// Stops everything.
    StopAll,
}

/// Where a link stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Calls go over it. There is one at most: a new one takes the place of the old.
    Primary,
    /// It is there, and carries no calls.
    Standby,
    /// Nothing new goes over it, and what is out on it may still be answered.
    Draining,
    /// It is gone.
    Gone,
}

/// What a message carries in its headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Its session.
    pub session: SessionId,
    /// Its order, for a machine that asks for it. The same on every copy.
    pub order: Option<Order>,
}

/// What became of a motion call that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<C> {
    /// The machine's handler answered, with success or with an error of its own.
    Done,
    /// It certainly did not run.
    NotRun,
    /// It may have run.
    Lost,
    /// SESSION_EXPIRED; what the machine says it stopped, where it says so.
    Expired(Option<BTreeSet<C>>),
}

/// A session as the machine started or resumed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// Its id.
    pub id: SessionId,
    /// Its window.
    pub window: Duration,
    /// Whether the machine announced order.
    pub ordered: bool,
}

/// Why StartSession failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// The machine has no sessions (s33).
    Unsupported,
    /// It was not reached, or did not answer in time.
    Unreachable,
    /// It refused.
    Refused,
}

/// Why a beat failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BeatError<C> {
    /// SESSION_EXPIRED; what the machine says it stopped, where it says so.
    Expired(Option<BTreeSet<C>>),
    /// It was not answered, or not by the machine.
    Unanswered,
}

/// Why a call fails without an answer of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure<C> {
    /// A Stop was issued after it.
    Superseded,
    /// The session ended, and with it what it moved.
    Stopped(Stopped<C>),
    /// The session ended twice in a row while this call was tried.
    Expired,
    /// There is no link. `lapses`: when the session ends if none comes.
    NotConnected {
        /// The end of the session's lease, as far as this end knows.
        lapses: Option<Instant>,
    },
    /// No answer takes less than the session's window.
    TooSlow(TooSlow),
    /// StartSession was refused.
    NotStarted,
    /// The client was closed.
    Closed,
    /// A Stop was not answered within the window, or everybody who answered failed.
    StopUnanswered,
}

/// What a session held when it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped<C> {
    /// What was stopped: as the machine says, else by our own record.
    pub what: BTreeSet<C>,
    /// When this end learned of it.
    pub at: Instant,
    /// Whether the machine said so; else it may still be moving, for at most a window.
    pub told: bool,
}

/// The path cannot hold a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSlow {
    /// How long the machine took to answer.
    pub took: Duration,
    /// The machine's window.
    pub window: Duration,
}

/// What programs are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<C> {
    /// A session began, or was resumed.
    Started {
        /// Its id.
        id: SessionId,
        /// Its window.
        window: Duration,
        /// Whether it is the one that was there before.
        resumed: bool,
    },
    /// It may be held no longer: the machine may still be moving for up to a window.
    Lapsed {
        /// Whose.
        id: SessionId,
    },
    /// It has ended, and this is at rest or was given to somebody else.
    Stopped(Stopped<C>),
    /// The path cannot hold the machine's window.
    TooSlow(TooSlow),
}

/// What the shell is to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientOutput<C> {
    /// Send StartSession on the primary, and report with `handle_started`.
    Start {
        /// To report by.
        attempt: Attempt,
        /// The session to resume.
        resume: Option<SessionId>,
    },
    /// Send a beat, with a deadline of a window, and report with `handle_beat`.
    Beat {
        /// To report by.
        attempt: Attempt,
        /// Over which link.
        link: Link,
        /// What it carries.
        letter: Letter,
    },
    /// Send a motion call on the primary, and report with `handle_answer`.
    Send {
        /// Which.
        call: Call,
        /// What it carries; nothing where the machine has no sessions.
        letter: Option<Letter>,
    },
    /// Send a copy of a Stop, and report with `handle_stopped`. A copy of it that is still out on that link is dropped.
    SendStop {
        /// Which.
        call: Call,
        /// Over which link.
        link: Link,
        /// What it carries.
        letter: Option<Letter>,
    },
    /// The Stop was answered with OK.
    StopDone(Call),
    /// Sever a link: what is out on it must not act any more.
    Abort(Link),
    /// The call fails, and is not sent or waited for any more.
    Fail {
        /// Which.
        call: Call,
        /// Why.
        why: Failure<C>,
    },
    /// Tell the program.
    Event(Event<C>),
}

/// What a deadline of [`super::ClientSession::poll_timeout`] is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientTimer {
    /// The session lapses.
    Lapse,
    /// A beat is due.
    Beat,
    /// A Stop is sent again, or given up.
    Stop,
}

/// How a session is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientOptions {
    /// Beats go only while the program said that it is alive within this long; always where `None`.
    pub watched: Option<Duration>,
    /// Retry after a lapse although something was held (as the reference does).
    pub resume_motion: bool,
}
