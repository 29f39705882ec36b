//! A machine without hardware of its own: it offers what its remotes have. `parent CONFIG`, a machine's configuration with `remotes`; what signs
//! their certificates comes from LIFELINE_CA_FILE.

use std::env::{args, var_os};
use std::path::Path;

use machine_host::config::Config;
use machine_host::{Machine, MachineOptions, SafetyOptions, Tls};
use robot_client::{Robot, remote::Remote};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::read(Path::new(&args().nth(1).ok_or("usage: parent CONFIG")?))?;
    let mut options = MachineOptions::new(config.fqdn.clone().unwrap_or_else(|| "parent-main.loc1.viam.cloud".into()));
    options.bind = config.bind_address.clone();
    options.tls = match config.tls.clone() {
        Some((chain, key)) => Tls::Files(chain, key),
        None if config.no_tls => Tls::None,
        None => return Err("network: a certificate (tls_cert_file, tls_key_file) or no_tls is wanted".into()),
    };
    options.api_keys = config.api_keys.clone();
    options.safety = SafetyOptions { window: config.window, max_sessions: config.max_sessions, policy: config.policy };
    let machine = Machine::new(options)?;
    let mut remotes = Vec::new();
    for remote in config.remotes {
        let name = remote.name.clone();
        let connect = move || {
            let mut builder = Robot::builder(&remote.address).insecure(remote.insecure);
            if let Some((id, key)) = &remote.api_key {
                builder = builder.api_key(id, key);
            }
            match var_os("LIFELINE_CA_FILE") {
                Some(file) => builder.trust_ca(file),
                None => builder,
            }
        };
        remotes.push(Remote::start(machine.clone(), name, connect)?);
    }
    let shutdown = tokio_util::sync::CancellationToken::new();
    let (told, mut term) = (shutdown.clone(), signal(SignalKind::terminate())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        told.cancel();
    });
    machine.listen().await?.serve(shutdown).await?;
    Ok(())
}
