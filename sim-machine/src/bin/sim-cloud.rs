//! `sim-cloud`: a cloud in a box. One command, state in a directory, no other service.

use std::io::{self, IsTerminal};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use sim_machine::cloud::{Cloud, CloudOptions, RelayOptions, State};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// A cloud in a box: authentication, signaling, STUN and TURN, for machines and clients that need no other.
#[derive(Parser, Clone, Debug)]
#[command(version, about)]
struct Arguments {
    /// Where it serves gRPC and gRPC-web, `host:port` or `:port`.
    #[arg(long, value_name = "ADDRESS", default_value = "localhost:8443")]
    bind: String,
    /// Where its CA, keys and secrets are kept; default $XDG_STATE_HOME/lifeline/cloud.
    #[arg(long, value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
    /// A machine that it is to know, by name; may be given several times. Its part id and secret are made at its first start and kept in
    /// the state directory, as are those of machines that it knew before.
    #[arg(long = "machine", value_name = "NAME", default_value = "sim-main.loc1.viam.cloud")]
    machines: Vec<String>,
    /// A further name that its certificate is to bear; may be given several times.
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// The port of STUN and TURN, UDP and TCP; 0 lets the system choose.
    #[arg(long, value_name = "PORT", default_value_t = 3478)]
    turn_port: u16,
    /// The address at which TURN is reached and that it lends; default the one that it serves on, or this host's first.
    #[arg(long, value_name = "IP")]
    public_address: Option<IpAddr>,
    /// Serves neither STUN nor TURN.
    #[arg(long)]
    no_turn: bool,
    /// Serves in clear. For trials on one host only.
    #[arg(long)]
    no_tls: bool,
    /// Says where it serves as one line of JSON on standard output.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,turn_server_proto=warn,stun_proto=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = runtime.map_err(|e| e.to_string()).and_then(|runtime| runtime.block_on(run(arguments)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sim-cloud: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), String> {
    let folder = arguments.state_dir.clone().unwrap_or_else(default_state);
    let mut options = CloudOptions::new(folder);
    options.bind = arguments.bind.clone();
    options.names = arguments.names.clone();
    options.no_tls = arguments.no_tls;
    options.machines = arguments.machines.clone();
    let relay = RelayOptions { port: arguments.turn_port, public: arguments.public_address };
    options.relay = (!arguments.no_turn).then_some(relay);
    let cloud = Cloud::open(options.clone()).await.map_err(|e| e.to_string())?;
    banner(&cloud, &options, arguments.json);
    let shutdown = CancellationToken::new();
    tokio::spawn(until_told_to_end(shutdown.clone()));
    cloud.serve(shutdown).await.map_err(|e| e.to_string())
}

/// What a user has to know to connect: paths, not keys.
fn banner(cloud: &Cloud, options: &CloudOptions, json: bool) {
    let port = cloud.address.port();
    let host = if cloud.address.ip().is_loopback() { "localhost".to_owned() } else { cloud.address.ip().to_string() };
    let host = if cloud.address.ip().is_unspecified() { "localhost".to_owned() } else { host };
    let scheme = if options.no_tls { "http" } else { "https" };
    let url = format!("{scheme}://{host}:{port}");
    let (state, ca) = (State::path(&options.folder), options.folder.join("ca.pem"));
    let machines: Vec<&str> = cloud.state.machines.iter().map(|machine| machine.name.as_str()).collect();
    if json {
        let ca = (!options.no_tls).then_some(ca);
        let line =
            serde_json::json!({ "url": url, "ca": ca, "state": state, "ice": cloud.ice_urls, "machines": machines });
        println!("{line}");
        return;
    }
    eprintln!("the cloud serves on {url}");
    if !options.no_tls {
        eprintln!("  certificate to trust: {}", ca.display());
    }
    eprintln!("  api keys, part ids and secrets: in {}", state.display());
    eprintln!("  machines: {}", machines.join(", "));
    for ice in &cloud.ice_urls {
        eprintln!("  {ice}");
    }
}

fn default_state() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).or_else(home);
    state.unwrap_or_else(std::env::temp_dir).join("lifeline/cloud")
}

async fn until_told_to_end(shutdown: CancellationToken) {
    if let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        shutdown.cancel();
    }
}
