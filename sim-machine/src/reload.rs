//! Takes over a changed configuration: what is new is added, what is gone is stopped, what is the same is left alone.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use machine_host::Machine;
use machine_host::config::{Config, ConfigError};
use sim_machine::catalogue::Catalogue;
use sim_machine::world::World;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Watches a configuration and applies it.
pub struct Reloader {
    machine: Machine,
    catalogue: Catalogue,
    path: Option<PathBuf>,
    applied: Config,
}

impl Reloader {
    /// For a machine without components.
    pub fn new(machine: Machine, world: World, path: Option<PathBuf>) -> Self {
        Self { machine, catalogue: Catalogue::new(world), path, applied: Config::default() }
    }

    /// Brings the machine from the configuration that it has to this one. On an error nothing has changed but what came before it.
    pub fn apply(&mut self, config: Config) -> Result<(), ConfigError> {
        for gone in
            self.applied.components.iter().filter(|old| !config.components.iter().any(|new| new.name == old.name))
        {
            tracing::info!(resource = %gone.name, "removed");
            self.machine.remove(&gone.name);
            self.catalogue.forget(gone);
        }
        // Bases first: sensors and cameras ride on them.
        let mut rows: Vec<_> = config.components.iter().enumerate().collect();
        rows.sort_by_key(|(_, row)| &*row.name.subtype != "base");
        for (at, row) in rows {
            if self.applied.components.contains(row) {
                continue;
            }
            let component = self.catalogue.make(at, row)?;
            tracing::info!(resource = %row.name, "configured");
            let configured = self.machine.configure(&row.name.name, component);
            configured
                .map_err(|e| ConfigError::Field { field: format!("components[{at}]"), problem: e.to_string() })?;
        }
        let network = |c: &Config| (c.bind_address.clone(), c.fqdn.clone(), c.window, c.tls.clone(), c.no_tls);
        let first = self.applied == Config::default();
        if !first && (network(&self.applied) != network(&config) || self.applied.api_keys != config.api_keys) {
            tracing::warn!("network and auth take effect when the machine is started again");
        }
        self.applied = config;
        Ok(())
    }

    /// Applies the file whenever it changes, and on SIGHUP.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let Some(path) = self.path.clone() else { return };
        let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
        let mut seen = modified(&path);
        loop {
            let told = tokio::select! {
                () = shutdown.cancelled() => return,
                _ = hangup.recv() => true,
                () = tokio::time::sleep(LOOK) => false,
            };
            let now = modified(&path);
            if !told && now == seen {
                continue;
            }
            seen = now;
            match Config::read(&path).and_then(|config| self.apply(config)) {
                Ok(()) => tracing::info!("the configuration is taken over"),
                Err(error) => {
                    tracing::error!(%error, "the changed configuration is not taken over; the machine goes on as it was")
                }
            }
        }
    }
}

fn modified(path: &PathBuf) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|m| m.modified()).ok()
}
