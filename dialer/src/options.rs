//! What the user decides about a dial, and the seam where credentials enter.

use std::time::Duration;

use discovery::{FinderOptions, MachineAddress};
use futures_util::future::BoxFuture;
use http::HeaderValue;
use transport::Link;
use transport::tls::Trust;
use transport::webrtc::{Backend, IcePolicy, TurnFilter};

use crate::agent::Policy;

/// What to dial and how.
pub struct DialOptions {
    /// The machine.
    pub target: MachineAddress,
    /// The name its certificate must prove; `None`: the machine's own name, or the host or address given.
    pub tls_name: Option<String>,
    /// Speak without encryption, credentials included. Default: no.
    pub insecure: bool,
    /// Whose certificates are accepted.
    pub trust: Trust,
    /// How long calls without a deadline wait for a link at most. Default 5 s.
    pub call_timeout: Duration,
    /// Whether calls fail at once where there is no link, instead of waiting for the next. Default: no.
    pub fail_fast: bool,
    /// A signaling service that arranges WebRTC connections by the machine's name: host and port. Default: none. Never used for
    /// a `.local` name.
    pub cloud: Option<(String, u16)>,
    /// Which candidates WebRTC connections may use. Default: all.
    pub ice: IcePolicy,
    /// Which of the relays that a signaling service names are used, and how. Default: all of them as they are.
    pub turn: TurnFilter,
    /// Which library makes WebRTC connections. Default: str0m.
    pub webrtc: Backend,
    /// Where addresses come from.
    pub finder: FinderOptions,
    /// Attempts, timeouts, standby, probes.
    pub policy: Policy,
    /// Decides all jitter; print it to replay a run.
    pub seed: u64,
}

impl DialOptions {
    /// The defaults for a machine: verified by the system's roots, three initial attempts of at most 20 s.
    pub fn new(target: MachineAddress) -> Self {
        Self {
            target,
            tls_name: None,
            insecure: false,
            trust: Trust::system(),
            call_timeout: Duration::from_secs(5),
            fail_fast: false,
            cloud: None,
            ice: IcePolicy::default(),
            turn: TurnFilter::default(),
            webrtc: Backend::default(),
            finder: FinderOptions::default(),
            policy: Policy::default(),
            seed: u64::from(std::process::id()) ^ clock_bits(),
        }
    }
}

/// Enough to tell clients apart; jitter needs no more.
fn clock_bits() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_nanos() as u64
}

/// Who has proven its name at the other end of a link that is to be admitted. Each has tokens of its own, which are shown to nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom<'a> {
    /// The machine.
    Machine,
    /// A signaling service.
    Cloud {
        /// Its host.
        host: &'a str,
        /// Its port.
        port: u16,
    },
}

/// Authenticates on a fresh link, after the machine has proven its name and before anybody hears of the link.
pub trait Admit: Send + Sync + 'static {
    /// Authenticates. Called for every link, also when reconnecting.
    fn admit<'a>(&'a self, link: &'a Link, whom: Whom<'a>) -> BoxFuture<'a, Result<Admitted, Refusal>>;

    /// Authenticates anew: what [`admit`](Self::admit) remembered is not accepted.
    fn renew<'a>(&'a self, link: &'a Link, whom: Whom<'a>) -> BoxFuture<'a, Result<Admitted, Refusal>> {
        self.admit(link, whom)
    }
}

/// What calls on an admitted link carry.
#[derive(Clone, Debug, Default)]
pub struct Admitted {
    /// The `authorization` header; mark it sensitive.
    pub authorization: Option<HeaderValue>,
    /// The machine has not seen it on this link yet: it was good for an earlier one. Where it is refused [`Admit::renew`] is asked.
    pub remembered: bool,
}

/// Why a link was not admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The machine refused the credentials: they are not sent again. Otherwise the transport failed.
    pub verdict: bool,
    /// What happened.
    pub message: String,
}

/// Admits every link without credentials.
#[derive(Clone, Copy, Debug, Default)]
pub struct Anonymous;

impl Admit for Anonymous {
    fn admit<'a>(&'a self, _: &'a Link, _: Whom<'a>) -> BoxFuture<'a, Result<Admitted, Refusal>> {
        Box::pin(std::future::ready(Ok(Admitted::default())))
    }
}
