//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Parser, ValueEnum};
use machine_host::config::duration;

/// A machine without hardware: bases, motors, arms and more that really move, in a simulated world.
#[derive(Parser, Clone, Debug)]
#[command(version, about)]
#[command(group(ArgGroup::new("account").args(["part_id", "cloud_key_id"])))]
pub struct Arguments {
    /// The machine's configuration, in the JSON format of existing machines; re-read when it changes and on SIGHUP. Without one a
    /// default machine is started.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Its name, instead of the configuration's `fqdn`.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Where it listens, `host:port`, `:port` or `unix:PATH`, instead of the configuration's `bind_address`.
    #[arg(long, value_name = "ADDRESS")]
    pub bind: Option<String>,
    /// Where its local CA and its key are kept.
    #[arg(long, value_name = "FOLDER")]
    pub state_dir: Option<PathBuf>,
    /// Writes what really moves as JSON lines, to a file or (`-`) to standard output.
    #[arg(long, value_name = "FILE|-")]
    pub observe: Option<String>,
    /// Writes which calls arrive as JSON lines (time, path, session, order, connection), to a file or (`-`) to standard output. No credentials.
    #[arg(long, value_name = "FILE|-")]
    pub calls: Option<String>,
    /// How long a session lives without a beat, from 30ms to 1m, instead of the configuration's.
    #[arg(long, value_parser = duration::window)]
    pub window: Option<Duration>,
    /// What callers without a session may do, instead of the configuration's.
    #[arg(long, value_enum)]
    pub policy: Option<Policy>,
    /// Serves in clear. For trials on one host only.
    #[arg(long)]
    pub no_tls: bool,
    /// The cloud to register with, `https://host[:port]`, instead of the configuration's `cloud`.
    #[arg(long, value_name = "URL", requires = "account")]
    pub cloud: Option<String>,
    /// The part's id at the cloud.
    #[arg(long, value_name = "ID", requires_all = ["cloud", "secret"])]
    pub part_id: Option<String>,
    /// The part's secret at the cloud.
    #[arg(long, value_name = "SECRET", requires = "part_id")]
    pub secret: Option<String>,
    /// The id of an api key that the cloud takes for this machine's, instead of its part's id and secret.
    #[arg(long, value_name = "ID", requires_all = ["cloud", "cloud_key"])]
    pub cloud_key_id: Option<String>,
    /// That key.
    #[arg(long, value_name = "KEY", requires = "cloud_key_id")]
    pub cloud_key: Option<String>,
    /// A CA that the cloud's certificate may be of, beside the system's.
    #[arg(long, value_name = "FILE", env = "LIFELINE_CA_FILE")]
    pub ca_file: Option<PathBuf>,
    /// The UDP port of all WebRTC connections; the system chooses where there is none.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub webrtc_port: u16,
    /// Takes no calls over WebRTC.
    #[arg(long)]
    pub no_webrtc: bool,
    /// Says nothing of what existing machines do not have, the order of commands, its process, and one handshake less over
    /// WebRTC: clients treat it as one of them.
    #[arg(long)]
    pub no_order: bool,
    /// Does not answer on local networks.
    #[arg(long)]
    pub no_mdns: bool,
}

/// What callers without a session may do.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Policy {
    /// Drive; what they moved last stops when their connection ends.
    Guard,
    /// Drive, and leave things moving.
    Allow,
    /// Not drive.
    Refuse,
}

impl From<Policy> for machine_host::Policy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Guard => Self::Guard,
            Policy::Allow => Self::Allow,
            Policy::Refuse => Self::Refuse,
        }
    }
}

/// Existing launchers pass `-config FILE`, with one dash.
pub fn with_two_dashes(arguments: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    arguments.map(|argument| match argument.to_str() {
        Some("-config") => "--config".into(),
        Some(text) if text.starts_with("-config=") => format!("-{text}").into(),
        _ => argument,
    })
}
