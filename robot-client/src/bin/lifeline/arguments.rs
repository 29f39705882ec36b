//! What the tool takes.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Find a machine, see what it does, drive it, stop it.
///
/// Exit codes: 0 done, 1 failed, 2 usage, 3 unreachable, 4 refused (authentication), 5 stopped for safety.
#[derive(Parser)]
#[command(name = "lifeline", version, max_term_width = 100)]
pub struct Arguments {
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// Log to standard error; twice or three times for more.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    #[command(flatten)]
    pub connection: ConnectionArguments,
    #[command(subcommand)]
    pub command: Command,
}

/// How a machine is reached.
#[derive(Args)]
pub struct ConnectionArguments {
    /// Id of the api key.
    #[arg(long, global = true, env = "VIAM_API_KEY_ID", hide_env_values = true)]
    pub api_key_id: Option<String>,
    /// The api key. Prefer the environment: arguments can be read by other users of this computer.
    #[arg(long, global = true, env = "VIAM_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// PEM file of a certificate authority to trust besides the system's.
    #[arg(long, global = true, env = "LIFELINE_CA_FILE")]
    pub ca_file: Option<PathBuf>,
    /// Speak without TLS. Whoever shares the network can read everything and take the machine over.
    #[arg(long, global = true)]
    pub insecure: bool,
    /// The name that the machine's certificate must bear, where it is not the address.
    #[arg(long, global = true)]
    pub tls_name: Option<String>,
    /// A signaling service that arranges WebRTC connections by the machine's name: host, host:port or https://host; none: nobody is asked. Default:
    /// what LIFELINE_CLOUD says, else the one that the name belongs to, if there is an api key.
    // The library reads the environment, for every program alike.
    #[arg(long, global = true)]
    pub cloud: Option<String>,
    /// How long dialling may take; calls have deadlines of their own.
    #[arg(long, global = true, default_value = "20s", value_parser = duration)]
    pub dial_timeout: Duration,
}

#[derive(Subcommand)]
pub enum Command {
    /// List the machines that answer on this network.
    Discover {
        /// How long to listen.
        #[arg(long = "for", default_value = "2s", value_parser = duration)]
        duration: Duration,
    },
    /// What a machine is and has.
    Status {
        /// A machine's name, host:port, an IP address or unix:PATH.
        address: String,
    },
    /// Drive a base with the keyboard: arrows or W A S D, space stops, Q quits.
    ///
    /// The base stops when no key repeats for 300 ms, and when this program ends in any way.
    Drive {
        /// A machine's name, host:port, an IP address or unix:PATH.
        address: String,
        /// The base.
        #[arg(long, default_value = "base")]
        base: String,
        /// Forward speed in mm/s.
        #[arg(long, default_value_t = 200.0)]
        speed: f64,
        /// Turning speed in degrees/s.
        #[arg(long, default_value_t = 45.0)]
        turn: f64,
    },
    /// Stop components, or everything.
    Stop {
        /// A machine's name, host:port, an IP address or unix:PATH.
        address: String,
        /// Components by name.
        #[arg(required_unless_present = "all")]
        components: Vec<String>,
        /// Stop every actuator and cancel every operation.
        #[arg(long)]
        all: bool,
    },
    /// Who holds a session with a machine.
    Sessions {
        /// A machine's name, host:port, an IP address or unix:PATH.
        address: String,
    },
    /// What a machine is doing.
    Ops {
        /// A machine's name, host:port, an IP address or unix:PATH.
        address: String,
    },
    /// Cancel an operation.
    Cancel {
        /// A machine's name, host:port, an IP address or unix:PATH.
        address: String,
        /// The operation's id, as `ops` lists it.
        operation: String,
    },
    /// Call a component's method, such as: call robot base MoveStraight '{"distanceMm": 100, "mmPerSec": 50}'.
    Call {
        /// A machine's name, host:port, an IP address or unix:PATH.
        address: String,
        /// The component's name, or type/name where two share a name.
        component: String,
        /// The method.
        method: String,
        /// The request as JSON, without the component's name.
        #[arg(default_value = "{}")]
        request: String,
    },
    /// Where calls go, live: route, round trip, standby, sessions, the last swap and why. With --json one object a line.
    Watch {
        /// A machine's name, host:port, an IP address or unix:PATH.
        address: String,
    },
    /// Dial and say how: every candidate, stage and time.
    Dial {
        /// A machine's name, host:port, an IP address or unix:PATH.
        address: String,
        /// Show the waterfall of candidates and stages.
        #[arg(long)]
        explain: bool,
    },
}

/// A duration such as `300ms`, `2s` or `1.5s`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration; write it like 300ms or 2s");
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => (text.strip_suffix('s').ok_or_else(wrong)?, 1.0),
    };
    let value: f64 = number.parse().map_err(|_| wrong())?;
    // A day bounds what anybody can mean, and keeps sums of instants representable.
    if !(0.0..=86_400.0).contains(&(value * unit)) {
        return Err(wrong());
    }
    Ok(Duration::from_secs_f64(value * unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        for wrong in ["", "s", "2", "-1s", "NaNs", "1e9s", "2m"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn arguments_are_consistent() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }
}
