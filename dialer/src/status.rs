//! Where calls go at this moment, for people and programs that watch.

use std::time::Duration;

use serde::Serialize;

use crate::switch::LinkView;

/// Where calls go, and what stands behind it. From [`crate::LinkSwitch::watch_route`].
#[derive(Clone, Debug, Default)]
pub struct RouteStatus {
    /// How the route is.
    pub state: RouteState,
    /// The link that carries calls.
    pub link: Option<LinkView>,
    /// Its smoothed round trip, from probes.
    pub rtt: Option<Duration>,
    /// The link answers too late for the session, or did when one was last held; `None`: it answers in time.
    pub too_slow: Option<TooSlow>,
    /// *Standby ready*: the link that takes over at once when the other dies.
    pub standby: Option<LinkView>,
    /// Changes of the link so far, the first dial included.
    pub swaps: u64,
    /// The last of them.
    pub last_swap: Option<Swap>,
}

/// A route over which the session's beats cannot be counted on to arrive in time: a command may find that the machine has stopped. Drive slower,
/// ask the machine's owner for a longer window, or find a better network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSlow {
    /// The smoothed round trip, what was lost and sent again included, or the newest where that took longer.
    pub took: Duration,
    /// The session's window.
    pub window: Duration,
}

/// How a route is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteState {
    /// No link yet, or none any more: every route is tried.
    #[default]
    Hunting,
    /// The machine answers.
    Good,
    /// Something was asked and is not answered in time.
    Silent,
    /// The standby answers where this link does not: calls are copied to it.
    Suspect,
    /// A new link is being proven.
    Swapping,
    /// It is over: closed, refused, or reconnecting is switched off.
    Over,
}

/// One change of the link that carries calls.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Swap {
    /// The route before, where there was one.
    pub from: Option<String>,
    /// The route since.
    pub to: String,
    /// Why.
    pub why: SwapReason,
    /// When: milliseconds since 1970, UTC.
    pub at_unix_ms: u64,
    /// How long calls went nowhere before it, in milliseconds.
    pub gap_ms: f64,
}

/// Why the link changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "how")]
pub enum SwapReason {
    /// It was the first.
    FirstDial,
    /// A better one was there.
    Better,
    /// The old one did not answer any more.
    Dead,
    /// The old one answered so late that a window could have passed, and another did not.
    Stalled,
    /// The old one ended, in the transport's words.
    Closed(String),
}

impl std::fmt::Display for SwapReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::FirstDial => f.write_str("first dial"),
            Self::Better => f.write_str("better route"),
            Self::Dead => f.write_str("no answer on the old one"),
            Self::Stalled => f.write_str("late answers on the old one"),
            Self::Closed(how) => write!(f, "the old one ended ({how})"),
        }
    }
}
