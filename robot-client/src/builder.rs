//! From an address to a connected robot.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dialer::agent::{Policy, StandbyPolicy};
use dialer::{Anonymous, DialError, DialOptions, Dialer, FlightRecord, Outcome};
use discovery::{FinderOptions, MachineAddress, Memory};
use session_core::client::ClientOptions;
use transport::tls::Trust;
use transport::webrtc::{Backend, IcePolicy, TurnFilter};

use crate::credentials::{ApiKey, KeyHolder};
use crate::robot::Robot;
use crate::runtime;
use crate::session::Session;
use crate::tokens::{MemoryTokens, TokenStore};

/// Whether and how a session is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sessions {
    /// Started by the first command that moves something, kept as long as this process runs.
    #[default]
    Auto,
    /// As `Auto`, but only while the program says that it is alive: by [`Robot::alive`] or by a command within this time. A hung control loop
    /// stops the robot.
    Watched(Duration),
    /// The program calls StartSession and SendSessionHeartbeat and sends `viam-sid` itself.
    Manual,
    /// None: the machine's policy decides what happens to what moves when this program dies.
    Off,
}

/// How to connect. Made by [`Robot::builder`].
pub struct RobotBuilder {
    address: String,
    key: Option<ApiKey>,
    tokens: Arc<dyn TokenStore>,
    ca: Option<PathBuf>,
    tls_name: Option<String>,
    insecure: bool,
    call_timeout: Duration,
    fail_fast: bool,
    cloud: Option<String>,
    ice: IcePolicy,
    turn: TurnFilter,
    webrtc: Backend,
    finder: FinderOptions,
    policy: Policy,
    sessions: Sessions,
    resume_motion: bool,
}

/// Why there is no robot.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct ConnectError {
    kind: ConnectErrorKind,
    text: String,
    record: Option<Box<FlightRecord>>,
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectErrorKind {
    /// What the builder was told makes no sense.
    Usage,
    /// The machine was not found or not reached.
    Unreachable,
    /// The machine does not accept the credentials.
    Refused,
    /// This computer refused something.
    Failed,
}

impl ConnectError {
    fn new(kind: ConnectErrorKind, text: impl ToString) -> Self {
        Self { kind, text: text.to_string(), record: None }
    }

    /// This computer refused something.
    #[cfg(feature = "remote")]
    pub(crate) fn failed(error: std::io::Error) -> Self {
        Self::new(ConnectErrorKind::Failed, error)
    }

    /// Whose fault it is.
    pub fn kind(&self) -> ConnectErrorKind {
        self.kind
    }

    /// Every route that was tried, how far it got and when.
    pub fn record(&self) -> Option<&FlightRecord> {
        self.record.as_deref()
    }
}

impl From<DialError> for ConnectError {
    fn from(error: DialError) -> Self {
        let kind = match error.record.outcome {
            Outcome::Refused => ConnectErrorKind::Refused,
            _ => ConnectErrorKind::Unreachable,
        };
        Self { kind, text: error.to_string(), record: Some(Box::new(error.record)) }
    }
}

/// The store that robots of one process share unless told otherwise.
fn process_tokens() -> Arc<dyn TokenStore> {
    static TOKENS: OnceLock<Arc<MemoryTokens>> = OnceLock::new();
    TOKENS.get_or_init(Arc::default).clone()
}

impl RobotBuilder {
    pub(crate) fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            key: None,
            tokens: process_tokens(),
            ca: None,
            tls_name: None,
            insecure: false,
            call_timeout: Duration::from_secs(5),
            fail_fast: false,
            cloud: None,
            ice: IcePolicy::default(),
            turn: TurnFilter::default(),
            webrtc: Backend::default(),
            finder: FinderOptions::default(),
            policy: Policy::default(),
            sessions: Sessions::default(),
            resume_motion: false,
        }
    }

    /// Authenticates with an api key. It is sent to the machine that has proven its name, to the signaling service that has ([`RobotBuilder::cloud`]),
    /// and to nobody else.
    pub fn api_key(mut self, id: impl Into<String>, key: impl Into<String>) -> Self {
        self.key = Some(ApiKey { id: id.into(), key: key.into() });
        self
    }

    /// Where tokens of earlier links are kept. Default: in this process's memory; [`crate::FileTokens`] for programs that start often,
    /// [`crate::NoTokens`] to authenticate on every link.
    pub fn tokens(mut self, tokens: impl TokenStore) -> Self {
        self.tokens = Arc::new(tokens);
        self
    }

    /// Trusts the certificate authority of a PEM file, besides the system's.
    pub fn trust_ca(mut self, file: impl AsRef<Path>) -> Self {
        self.ca = Some(file.as_ref().to_path_buf());
        self
    }

    /// The name that the machine's certificate must prove. Default: the machine's own name, or the host or address given.
    pub fn tls_name(mut self, name: impl Into<String>) -> Self {
        self.tls_name = Some(name.into());
        self
    }

    /// Speaks without TLS, credentials included: for trials on one host. Default: no.
    pub fn insecure(mut self, insecure: bool) -> Self {
        self.insecure = insecure;
        self
    }

    /// Rounds of the first dial before it fails; 0: for ever. Default 3. Reconnecting is not limited.
    pub fn initial_attempts(mut self, attempts: u32) -> Self {
        self.policy.initial_attempts = attempts;
        self
    }

    /// How long dialling may take, and nothing else: one round of the first dial, and each attempt to connect later. It bounds no call.
    /// Per-call deadlines are a separate option: `tonic::Request::set_timeout`. Default 20 s.
    pub fn dial_timeout(mut self, timeout: Duration) -> Self {
        self.policy.dial_timeout = timeout;
        self
    }

    /// How long calls without a deadline wait for a link while there is none. It bounds only that wait: a call that has left runs until it
    /// is answered, its own deadline passes or its link dies. Default 5 s.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// A signaling service that arranges WebRTC connections by the machine's name: `host`, `host:port` or `https://host[:port]`, port 443 by
    /// default; `none`: nobody is asked. It proves its name by TLS, gets the api key, and is never told of a `.local` name.
    ///
    /// Default: what the environment variable `LIFELINE_CLOUD` says in the same words. Where it says nothing, the service that the name belongs to
    /// (`app.viam.com` for `*.viam.cloud`), if there is an api key, without which it answers nobody, and TLS is not switched off.
    pub fn cloud(mut self, address: impl Into<String>) -> Self {
        self.cloud = Some(address.into());
        self
    }

    /// Which candidates WebRTC connections may use: [`IcePolicy::RelayOnly`] tells no peer our addresses, [`IcePolicy::NoRelay`] never pays for
    /// a relay. Direct links are not concerned. Default: all.
    pub fn ice_policy(mut self, policy: IcePolicy) -> Self {
        self.ice = policy;
        self
    }

    /// Which of the relays that the signaling service names are used, and how. A URL that cannot be read filters nothing. Default: all of them
    /// as they are.
    pub fn turn_filter(mut self, filter: TurnFilter) -> Self {
        self.turn = filter;
        self
    }

    /// Which library makes WebRTC connections. The feature `webrtc-rs` brings another, for programs that carry it already; what it does worse is
    /// listed in `ARCHITECTURE.md`. Default: str0m.
    pub fn webrtc(mut self, library: Backend) -> Self {
        self.webrtc = library;
        self
    }

    /// Whether calls fail at once where there is no link, instead of waiting for the next one. Commands that move something always do.
    /// Default: no.
    pub fn fail_fast(mut self, fail_fast: bool) -> Self {
        self.fail_fast = fail_fast;
        self
    }

    /// How often an idle link is asked whether it lives; over WebRTC three times as often. While a session is held and a standby is there,
    /// the link that carries calls is asked every 100 ms whatever this says. Zero: never, and silence is not noticed. At least
    /// 10 ms. Default 3 s.
    pub fn check_interval(mut self, interval: Duration) -> Self {
        self.policy.probe = !interval.is_zero();
        self.policy.idle_probe = interval;
        self
    }

    /// The longest pause between two attempts while there is no link; the first follow at once and after 0.1, 0.2, 0.4 s, and a change of
    /// this computer's network ends every pause. Zero: a lost link is not replaced. Default: 1 s where an address is known, else 5 s.
    pub fn reconnect_interval(mut self, interval: Duration) -> Self {
        self.policy.reconnect = !interval.is_zero();
        self.policy.reconnect_pause = Some(interval).filter(|interval| !interval.is_zero());
        self
    }

    /// When a second link is kept warm. Default: while a session is held.
    pub fn standby(mut self, standby: StandbyPolicy) -> Self {
        self.policy.standby = standby;
        self
    }

    /// Where addresses come from: interfaces, multicast DNS, DNS.
    pub fn finder(mut self, finder: FinderOptions) -> Self {
        self.finder = finder;
        self
    }

    /// Whether addresses that worked are remembered in the user's cache folder, and tried first the next time. Default: yes.
    pub fn remember_addresses(mut self, remember: bool) -> Self {
        self.finder.memory = remember.then(Memory::user).flatten();
        self
    }

    /// Whether and how a session is kept. Default: [`Sessions::Auto`].
    pub fn sessions(mut self, sessions: Sessions) -> Self {
        self.sessions = sessions;
        self
    }

    /// Retries a command that found its session expired although something had been moving (as existing clients do). Default: no, it fails with
    /// [`crate::SessionError::Stopped`] and the program decides.
    pub fn resume_motion(mut self, resume: bool) -> Self {
        self.resume_motion = resume;
        self
    }

    /// Dials, proves the machine's name, authenticates. Returns once the first link carries calls.
    ///
    /// # Errors
    /// An unusable address or file at once; an unknown machine within about a second on a local network; everything else names each route
    /// that was tried.
    pub async fn connect(self) -> Result<Robot, ConnectError> {
        let usage = |e: &dyn ToString| ConnectError::new(ConnectErrorKind::Usage, e.to_string());
        let target: MachineAddress = self.address.parse().map_err(|e| usage(&e))?;
        let mut options = DialOptions::new(target);
        if let Some(file) = self.ca.as_ref().filter(|_| !self.insecure) {
            options.trust = Trust::system().trust_ca(file).map_err(|e| usage(&e))?;
        }
        options.tls_name = self.tls_name;
        options.insecure = self.insecure;
        options.call_timeout = self.call_timeout;
        options.fail_fast = self.fail_fast;
        let environment = std::env::var("LIFELINE_CLOUD").ok();
        options.cloud = match self.cloud.or(environment.filter(|said| !said.is_empty())) {
            Some(said) => signaling(&said).map_err(|e| usage(&e))?,
            None if self.key.is_some() && !self.insecure => home(&options.target),
            None => None,
        };
        (options.ice, options.turn, options.webrtc) = (self.ice, self.turn, self.webrtc);
        options.finder = self.finder;
        options.policy = self.policy;
        let runtime = runtime::handle().map_err(|e| ConnectError::new(ConnectErrorKind::Failed, e))?;
        let (channel, switch) = {
            let _inside = runtime.enter();
            match self.key {
                Some(key) => {
                    let holder = KeyHolder::new(key, &self.address, self.tokens);
                    Dialer::start(options, Arc::new(holder))
                }
                None => Dialer::start(options, Arc::new(Anonymous)),
            }
        };
        let core = match self.sessions {
            Sessions::Auto => Some(ClientOptions { watched: None, resume_motion: self.resume_motion }),
            Sessions::Watched(silence) => {
                Some(ClientOptions { watched: Some(silence), resume_motion: self.resume_motion })
            }
            Sessions::Manual | Sessions::Off => None,
        };
        let session = Session::start(core, switch.clone(), self.address.clone(), &runtime);
        let first = switch.first_link().await;
        let robot = Robot::new(self.address, channel, switch, session, self.sessions, runtime);
        match first {
            Ok(_) => {
                // The session hears of routes by a task of its own; the program may call at once.
                robot.look_around();
                Ok(robot)
            }
            Err(error) => {
                robot.close().await;
                Err(error.into())
            }
        }
    }
}

/// The signaling service that the name of what is dialled belongs to.
fn home(target: &MachineAddress) -> Option<(String, u16)> {
    let MachineAddress::Machine(name) = target else { return None };
    name.signaling().map(|(host, port)| (host.to_owned(), port))
}

/// The host and port of a signaling service; `none` is none.
fn signaling(address: &str) -> Result<Option<(String, u16)>, String> {
    let wrong = || format!("{address:?} is no signaling service; write it like app.example.com:443, or none");
    if address == "none" {
        return Ok(None);
    }
    let place = address.strip_prefix("https://").unwrap_or(address).trim_end_matches('/');
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?),
        None => (place, 443),
    };
    if host.is_empty() || host.contains(['/', ':', '@', ' ']) {
        return Err(wrong());
    }
    Ok(Some((host.to_owned(), port)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{RobotBuilder, signaling};

    #[test]
    fn a_signaling_service_is_a_host_and_a_port() {
        let at = |host: &str, port| Ok(Some((host.to_owned(), port)));
        assert_eq!(signaling("app.example.com"), at("app.example.com", 443));
        assert_eq!(signaling("https://app.example.com/"), at("app.example.com", 443));
        assert_eq!(signaling("localhost:8443"), at("localhost", 8443));
        assert_eq!(signaling("none"), Ok(None));
        for wrong in ["", "http://app.example.com", "app.example.com:0", "app.example.com:x", "a b", "u@h", "https://"]
        {
            assert!(signaling(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn s56_intervals_of_zero_switch_checking_and_reconnecting_off() {
        let policy = |change: fn(RobotBuilder) -> RobotBuilder| change(crate::Robot::builder("localhost:8080")).policy;
        let second = Duration::from_secs(1);
        let default = policy(|builder| builder);
        assert!(default.probe && default.reconnect);
        let checked = policy(|builder| builder.check_interval(Duration::from_secs(1)));
        assert_eq!((checked.probe, checked.idle_probe), (true, second));
        assert!(!policy(|builder| builder.check_interval(Duration::ZERO)).probe);
        let patient = policy(|builder| builder.reconnect_interval(Duration::from_secs(1)));
        assert_eq!((patient.reconnect, patient.reconnect_pause), (true, Some(second)));
        assert!(!policy(|builder| builder.reconnect_interval(Duration::ZERO)).reconnect);
    }

    /// The comment above a method of the builder, on one line.
    fn documentation(method: &str) -> String {
        let before = include_str!("builder.rs").split(&format!("pub fn {method}(")).next().unwrap_or_default();
        let lines = before.lines().rev().skip(1).take_while(|line| line.trim().starts_with("///"));
        let mut lines: Vec<_> = lines.map(|line| line.trim().trim_start_matches("///").trim()).collect();
        lines.reverse();
        lines.join(" ")
    }

    #[test]
    fn s59_the_documentation_says_what_the_timeout_bounds() {
        let dial = documentation("dial_timeout");
        for part in [
            "How long dialling may take, and nothing else",
            "bounds no call",
            "Per-call deadlines are a separate option",
        ] {
            assert!(dial.contains(part), "{part:?} in {dial:?}");
        }
        assert!(documentation("call_timeout").contains("bounds only that wait"));
    }
}
