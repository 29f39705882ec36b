//! The words the agent and its shell exchange.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use transport::LinkId;

/// One try of something that leaves the agent: a connection attempt, a probe, a search. Unique per agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub u64);

/// A way of making a link: data, storable, comparable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Route {
    /// gRPC over TCP to this address.
    Direct(SocketAddr),
    /// gRPC over a Unix socket.
    Unix(PathBuf),
    /// gRPC over WebRTC, arranged by this signaling service.
    WebRtc(Signaler),
}

/// Who arranges a WebRTC connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signaler {
    /// The machine itself, at this address: it proves its name there as on every direct link.
    Machine(SocketAddr),
    /// A service that proves its own name.
    Cloud {
        /// Its host.
        host: String,
        /// Its port.
        port: u16,
    },
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Direct(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::WebRtc(Signaler::Machine(address)) => write!(f, "WebRTC by {address}"),
            Self::WebRtc(Signaler::Cloud { host, port }) => write!(f, "WebRTC by {host}:{port}"),
        }
    }
}

/// Who told of a route; decides when it is tried first and how often again (routes.md 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// An address that worked before on this network.
    Remembered,
    /// The user named the address.
    Given,
    /// Multicast DNS.
    Mdns,
    /// DNS.
    Dns,
    /// A signaling service.
    Cloud,
}

impl Origin {
    /// The longest wait between two attempts: 1 s where an address is known, 5 s for what mDNS told (s52).
    pub(super) fn retry_cap(self) -> Duration {
        match self {
            Self::Remembered | Self::Given | Self::Dns => Duration::from_secs(1),
            Self::Mdns | Self::Cloud => Duration::from_secs(5),
        }
    }

    /// How the origin is written in messages and flight records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Remembered => "remembered",
            Self::Given => "given",
            Self::Mdns => "mDNS",
            Self::Dns => "DNS",
            Self::Cloud => "cloud",
        }
    }
}

/// How good a kind of route is, best first (routes.md 3). The order of the variants is the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Directly to an address on a prefix of one of our interfaces (also loopback and Unix sockets).
    LanDirect,
    /// WebRTC whose pair lies on one of our prefixes.
    LanWebRtc,
    /// Directly to a private, unique local, carrier-grade or link-local address beyond our prefixes, or to a public one.
    WanDirect,
    /// WebRTC over a direct path of the internet.
    WebRtcDirect,
    /// WebRTC through a relay.
    WebRtcRelayed,
}

impl Tier {
    /// Whether links of this tier speak WebRTC.
    pub fn is_webrtc(self) -> bool {
        matches!(self, Self::LanWebRtc | Self::WebRtcDirect | Self::WebRtcRelayed)
    }
}

/// A route and what is known of it before it was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// How to make the link.
    pub route: Route,
    /// Who told of it.
    pub origin: Origin,
    /// The tier a link over it will have.
    pub tier: Tier,
}

/// What a fresh link is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkFacts {
    /// Its tier.
    pub tier: Tier,
    /// The local address it leaves from: a stand-in for the interface. `None` for Unix sockets.
    pub path: Option<IpAddr>,
    /// Round trip of the handshake.
    pub rtt: Duration,
}

/// How far an attempt got before it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Waiting for the TCP handshake (or the Unix socket).
    Tcp,
    /// Waiting for the TLS handshake, where the machine proves its name.
    Tls,
    /// Waiting for HTTP/2.
    Http2,
    /// Authenticating.
    Auth,
    /// WebRTC: the offer is out, no answer yet.
    Signaling,
    /// WebRTC: no pair of addresses works yet.
    Ice,
    /// WebRTC: the machine proves the certificate that signaling named.
    Dtls,
    /// WebRTC: the channel is being opened.
    Channel,
    /// Connected and authenticated.
    Ready,
}

impl Stage {
    /// How the stage is written in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Http2 => "HTTP/2",
            Self::Auth => "authentication",
            Self::Signaling => "signaling",
            Self::Ice => "ICE",
            Self::Dtls => "DTLS",
            Self::Channel => "the data channel",
            Self::Ready => "ready",
        }
    }
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How far it got.
    pub stage: Stage,
    /// A verdict of the machine (not authorised), or at [`Stage::Signaling`] of the service (no such machine): the same question is not asked
    /// again. Otherwise the transport failed.
    pub verdict: bool,
    /// What happened, for people.
    pub message: String,
}

/// Who answers at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A machine of ours, one process of it.
    Ours {
        /// Identifies the process.
        boot: u128,
    },
    /// Any other machine.
    Stock,
}

/// What the session layer holds at the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Nothing: links need no validation.
    Nothing,
    /// A session.
    Session {
        /// Its window W.
        window: Duration,
        /// Monitored calls that are unanswered.
        monitored_out: usize,
    },
}

/// The result of a session's beat on a link that is not primary yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validated {
    /// The same machine process, the same owner.
    SameSession,
    /// A foreign owner or another process.
    ForeignOrUnknown,
}

/// A sign of life: an answer to something that was sent (routes.md 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// A STUN response.
    Stun,
    /// An acknowledged SCTP chunk.
    Sack,
    /// A reply of any status.
    Reply,
    /// `RESOURCE_EXHAUSTED`: busy, hence alive (s55).
    Refused,
}

/// What the operating system told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetChange {
    /// Interfaces or addresses appeared or changed.
    Changed,
    /// A local address is gone: links that leave from it cannot work any more.
    Lost(IpAddr),
    /// The computer was suspended.
    Resumed,
}

/// Why a link stops being the one that carries calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demotion {
    /// A better link took over; calls on this one may finish.
    Better,
    /// It is dead; calls on it are decided at once (design 9), and it is only probed from now on.
    Dead,
}

/// Why a dial ended without a link and will not go on by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No source knows the machine.
    Unknown,
    /// The machine refused the credentials.
    Refused {
        /// The route on which it said so.
        route: Route,
        /// Its words.
        message: String,
    },
    /// The limit of initial attempts is reached (s57).
    Unreachable {
        /// Attempts made.
        attempts: u32,
    },
}

/// What happened, for status, flight records and logs. Nothing needs to be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A dial, or a hunt after a loss, began.
    Hunting,
    /// A link was added.
    Connected {
        /// Its route.
        route: Route,
        /// The link.
        link: LinkId,
    },
    /// Something was asked and no sign of life came yet.
    Silent {
        /// The link.
        link: LinkId,
    },
    /// The standby answers where this link does not.
    Suspect {
        /// The link.
        link: LinkId,
    },
    /// Data is stuck although the path answers.
    Stalled {
        /// The link.
        link: LinkId,
    },
    /// A sign of life ended `Silent`, `Suspect`, `Stalled` or `Dead`.
    Alive {
        /// The link.
        link: LinkId,
    },
    /// The link that carries calls answers, and so late that the session's beats cannot be counted on to arrive within its window.
    TooSlow {
        /// The link.
        link: LinkId,
        /// Its smoothed round trip, what was lost and sent again included, or its newest where that took longer.
        took: Duration,
        /// The window of the session that is held, or was held last.
        window: Duration,
    },
    /// What was too slow is in time again, or carries calls no more.
    InTime {
        /// The link.
        link: LinkId,
    },
    /// The link is given up as a path.
    Dead {
        /// The link.
        link: LinkId,
    },
    /// The link is gone.
    Closed {
        /// The link.
        link: LinkId,
    },
    /// A standby is warm and validated; `None`: there is none any more.
    Standby {
        /// The link.
        link: Option<LinkId>,
    },
    /// The link belongs to another machine process or owner and is not used while something is held.
    Foreign {
        /// The link.
        link: LinkId,
    },
    /// The machine's or the limit's last word. Without a link before, the dial is over.
    Verdict(Verdict),
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask all sources; answer with candidates and then `handle_sources_done`.
    Search {
        /// Names this search.
        attempt: Attempt,
    },
    /// Listen to what machines announce on the local network, or no longer. What is heard of this one is a candidate.
    Listen {
        /// Whether to.
        on: bool,
    },
    /// Make a link; answer with `handle_connected` or `handle_failed`.
    Connect {
        /// Names this try.
        attempt: Attempt,
        /// How.
        route: Route,
    },
    /// Drop the attempt; an answer that comes all the same is ignored (and its link aborted).
    Cancel {
        /// Which.
        attempt: Attempt,
    },
    /// Ask the cheapest question; answer with `handle_probe`.
    Probe {
        /// Names this probe.
        attempt: Attempt,
        /// Where.
        link: LinkId,
    },
    /// Send the session's beat; answer with `handle_validated`.
    Validate {
        /// Where.
        link: LinkId,
    },
    /// WebRTC: move to another pair that answers.
    MovePair {
        /// Which link.
        link: LinkId,
    },
    /// WebRTC: restart ICE.
    RestartIce {
        /// Which link.
        link: LinkId,
    },
    /// Copy unanswered, copyable calls of one link to another.
    Hedge {
        /// The suspect primary.
        from: LinkId,
        /// The standby that answers.
        on: LinkId,
    },
    /// No more copies.
    HedgeOff,
    /// Calls go here from now on.
    Use {
        /// The new primary.
        link: LinkId,
    },
    /// Calls go nowhere.
    NoRoute {
        /// A link is being validated or is silent: a wait may be short (design 9: "during a swap").
        swapping: bool,
    },
    /// No new calls on this link; close it at `until`.
    Drain {
        /// Which.
        link: LinkId,
        /// When what is still out on it ends.
        until: Instant,
        /// What becomes of its calls.
        why: Demotion,
    },
    /// The link has answered nothing for long, and nothing has replaced it: what is out on it is decided now (s50), while
    /// the link itself is kept and may answer again.
    Decide {
        /// Which.
        link: LinkId,
    },
    /// Sever the link at once.
    Abort {
        /// Which.
        link: LinkId,
    },
    /// Something to tell.
    Event(Event),
}

/// What the next deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A candidate's first, staggered try, or the next search.
    Start,
    /// A regular probe.
    Probe,
    /// The primary turns silent.
    Silent,
    /// The primary turns suspect.
    Suspect,
    /// The primary is given up.
    Dead,
    /// A link that is better within its tier takes over.
    Promote,
    /// A link that was dead has answered long enough.
    Redeem,
    /// A candidate is tried again, an attempt is given up, a round ends.
    Retry,
    /// A drained link is closed.
    Drain,
    /// A validation was not answered.
    Validate,
}

/// When a second link is kept warm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum StandbyPolicy {
    /// While the session layer holds a session.
    #[default]
    WhileControlling,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The user's choices.
#[derive(Clone, Debug)]
pub struct Policy {
    /// When a second link is kept warm.
    pub standby: StandbyPolicy,
    /// Whether a relayed link may be the standby (it costs the relay's owner). Default: no.
    pub relayed_standby: bool,
    /// Rounds of the first dial before it fails; 0: for ever (s57). Default 3. Reconnecting is not limited.
    pub initial_attempts: u32,
    /// How long a round of the first dial, and each connection attempt, may take (s58). Default 20 s.
    pub dial_timeout: Duration,
    /// Whether lost links are replaced (s56). Default: yes.
    pub reconnect: bool,
    /// The longest pause between two attempts while reconnecting; `None`, the default: 1 s where an address is known, else 5 s.
    /// Less than 10 ms counts as 10 ms.
    pub reconnect_pause: Option<Duration>,
    /// Whether links are probed (s56). Default: yes.
    pub probe: bool,
    /// Pause between probes of an idle link; WebRTC is probed three times as often. Default 3 s.
    /// Less than 10 ms counts as 10 ms.
    pub idle_probe: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            standby: StandbyPolicy::default(),
            relayed_standby: false,
            initial_attempts: 3,
            dial_timeout: Duration::from_secs(20),
            reconnect: true,
            reconnect_pause: None,
            probe: true,
            idle_probe: Duration::from_secs(3),
        }
    }
}
