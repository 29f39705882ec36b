//! `sim-machine`: a machine without hardware, for everything else as real as any.

mod arguments;
mod calls;
mod reload;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use machine_host::config::Config;
use machine_host::{CloudAccount, CloudIdentity, Machine, MachineOptions, SafetyOptions, Tls};
use sim_machine::observer::Observer;
use sim_machine::world::World;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use arguments::Arguments;
use reload::Reloader;

type Failure = Box<dyn std::error::Error>;

/// The machine that is started without a configuration.
const DEFAULT: &str = include_str!("../default.json");
const DEFAULT_NAME: &str = "sim-main.loc1.viam.cloud";

fn main() -> ExitCode {
    let arguments = Arguments::parse_from(arguments::with_two_dashes(std::env::args_os()));
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,turn_client_proto=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    // Beats are read, and stops ordered, on these threads: other work of the computer is not to delay them.
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    let done = threads.on_thread_start(machine_host::raise_thread).enable_all().build().map_err(Failure::from);
    match done.and_then(|runtime| runtime.block_on(run(arguments))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sim-machine: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let state = arguments.state_dir.clone().unwrap_or_else(default_state);
    let config = match &arguments.config {
        Some(path) => Config::read(path)?,
        None => default_machine(&state)?,
    };
    if !config.remotes.is_empty() {
        // A machine without hardware is no client: the crate that can be one is another machine's choice.
        tracing::warn!(
            "`remotes` are not connected by this program; robot_client::remote does it, see its example `parent`"
        );
    }
    let machine = Machine::new(options(&arguments, &config, &state))?;
    if let Some(to) = &arguments.calls {
        calls::record(&machine, to).map_err(|e| format!("--calls {to}: {e}"))?;
    }
    let world = World::new(observer(arguments.observe.as_deref())?)?;
    let mut reloader = Reloader::new(machine.clone(), world, arguments.config.clone());
    reloader.apply(config.clone())?;
    let listening = machine.listen().await?;
    banner(&machine, listening.address.map(|a| a.to_string()), &config, &state);
    let shutdown = CancellationToken::new();
    tokio::spawn(until_told_to_end(shutdown.clone()));
    tokio::spawn(reloader.run(shutdown.clone()));
    listening.serve(shutdown).await?;
    tracing::info!("stopped");
    Ok(())
}

fn options(arguments: &Arguments, config: &Config, state: &Path) -> MachineOptions {
    let name = arguments.name.clone().or_else(|| config.fqdn.clone()).unwrap_or_else(|| DEFAULT_NAME.to_owned());
    let mut options = MachineOptions::new(name);
    options.bind = arguments.bind.clone().unwrap_or_else(|| config.bind_address.clone());
    options.tls = match &config.tls {
        _ if arguments.no_tls || config.no_tls => Tls::None,
        Some((chain, key)) => Tls::Files(chain.clone(), key.clone()),
        None => Tls::Local(state.to_path_buf()),
    };
    options.api_keys = config.api_keys.clone();
    options.mdns = !arguments.no_mdns;
    options.order = !arguments.no_order;
    options.webrtc = !arguments.no_webrtc;
    options.webrtc_port = arguments.webrtc_port;
    let part = arguments.part_id.as_ref().zip(arguments.secret.as_ref()).map(|named| (CloudIdentity::Part, named));
    let key =
        arguments.cloud_key_id.as_ref().zip(arguments.cloud_key.as_ref()).map(|named| (CloudIdentity::ApiKey, named));
    options.cloud = match (&arguments.cloud, part.or(key)) {
        (Some(url), Some((identity, (id, secret)))) => {
            Some(CloudAccount { url: url.clone(), identity, id: id.clone(), secret: secret.clone(), ca_file: None })
        }
        _ => config.cloud.clone(),
    };
    if let Some(account) = &mut options.cloud {
        account.ca_file = arguments.ca_file.clone();
    }
    options.safety = SafetyOptions {
        window: arguments.window.unwrap_or(config.window),
        max_sessions: config.max_sessions,
        policy: arguments.policy.map_or(config.policy, Into::into),
    };
    options
}

/// The default machine, with a key of its own that is made at its first start.
fn default_machine(state: &Path) -> Result<Config, Failure> {
    let mut config = Config::parse(DEFAULT)?;
    config.api_keys = api_key(&state.join("api-key.json"))?;
    Ok(config)
}

fn api_key(path: &Path) -> Result<BTreeMap<String, String>, Failure> {
    if !path.exists() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path.parent().unwrap_or(Path::new(".")))?;
        let secret = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        let file = serde_json::json!({ "id": uuid::Uuid::new_v4().to_string(), "key": secret });
        let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        out.write_all(serde_json::to_string_pretty(&file)?.as_bytes())?;
    }
    let file: serde_json::Value = serde_json::from_str(&fs::read_to_string(path)?)?;
    match (file["id"].as_str(), file["key"].as_str()) {
        (Some(id), Some(key)) => Ok([(id.to_owned(), key.to_owned())].into()),
        _ => Err(format!("{} holds no key; remove it to have a new one made", path.display()).into()),
    }
}

fn default_state() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).or_else(home);
    state.unwrap_or_else(std::env::temp_dir).join("lifeline/sim-machine")
}

fn observer(to: Option<&str>) -> io::Result<Observer> {
    match to {
        None => Ok(Observer::none()),
        Some("-") => Observer::start(io::stdout()),
        Some(path) => Observer::start(OpenOptions::new().create(true).append(true).open(path)?),
    }
}

/// What a user has to know to connect; on standard error, since the observer may have standard output.
fn banner(machine: &Machine, address: Option<String>, config: &Config, state: &Path) {
    eprintln!("{} serves on {}", machine.name(), address.unwrap_or_else(|| "a Unix socket".to_owned()));
    if config.tls.is_none() && !config.no_tls {
        eprintln!("  certificate to trust: {}", state.join("ca.pem").display());
    }
    if state.join("api-key.json").exists() && !config.api_keys.is_empty() {
        eprintln!("  api key: in {}", state.join("api-key.json").display());
    }
}

async fn until_told_to_end(shutdown: CancellationToken) {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::error!("signals cannot be heard: this process ends without stopping what moves");
        return;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    tracing::info!("stopping everything");
    shutdown.cancel();
}
