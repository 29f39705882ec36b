//! A machine that is a client of another: what the other has is offered as `<remote>:<component>`, and moves for this machine's own callers.
//!
//! ```text
//!   client ── its session ──► this machine ── this machine's own session ──► the remote
//! ```
//!
//! Neither end learns the other's session, and no header of a caller goes on: not its session, not its order (safety.md 5). What a
//! caller moved through this machine is that caller's here: when its session lapses, [`machine_host`] calls the Stop of what it held, which is a
//! Stop at the remote. When this machine is cut off or dies, the remote stops what it moved by this machine's session there. So a remote's
//! motor rests within the window of whichever lease ended, plus the path's delay.
//!
//! A caller's answers name what they put under its session's guard (`viam-smrn`) with the remote's name before it, through as many
//! machines as there are.

mod drivers;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use machine_host::{Machine, ResourceName};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::AbortHandle;

use crate::{ConnectError, Robot, RobotBuilder, RouteEvent, runtime};

/// How often the remote is asked what it has, besides after each change of route.
const REFRESH: Duration = Duration::from_secs(5);
/// How long to wait after an answer that another try would not change by itself, such as a refused key.
const REFUSED: Duration = Duration::from_secs(10);

/// A connection to another machine, whose components are components of this one for as long as this value lives.
#[must_use = "what the remote has is removed again when this is dropped"]
pub struct Remote {
    task: AbortHandle,
    offered: Arc<Offered>,
}

impl Remote {
    /// Connects `machine` to what `connect` describes, for ever again, and offers what is there as `<name>:<component>`. Returns at once.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(
        machine: Machine,
        name: impl Into<String>,
        connect: impl Fn() -> RobotBuilder + Send + 'static,
    ) -> Result<Self, ConnectError> {
        let runtime = runtime::handle().map_err(ConnectError::failed)?;
        let offered = Arc::new(Offered { machine, remote: name.into(), names: Default::default() });
        let task = runtime.spawn(run(offered.clone(), connect));
        Ok(Self { task: task.abort_handle(), offered })
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.task.abort();
        self.offered.change(&BTreeSet::new(), None);
    }
}

/// What of the remote this machine offers at the moment.
struct Offered {
    machine: Machine,
    remote: String,
    /// By the remote's own names.
    names: std::sync::Mutex<BTreeSet<ResourceName>>,
}

impl Offered {
    /// Adds what is new of `there`, with drivers over `robot`, and removes what is gone: it is stopped.
    fn change(&self, there: &BTreeSet<ResourceName>, robot: Option<&Robot>) {
        let mut names = self.names.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for gone in names.difference(there) {
            self.machine.remove(&ResourceName::component(gone.subtype.clone(), self.here(&gone.name)));
        }
        names.retain(|name| there.contains(name));
        let Some(robot) = robot else { return };
        for new in there {
            if names.contains(new) {
                continue;
            }
            let Some(component) = drivers::component(&self.remote, new, robot) else { continue };
            match self.machine.configure(&self.here(&new.name), component) {
                Ok(()) => {
                    names.insert(new.clone());
                }
                // Tried again at the next refresh.
                Err(error) => tracing::error!(remote = self.remote, resource = %new, %error, "not offered"),
            }
        }
    }

    fn here(&self, name: &str) -> String {
        format!("{}:{name}", self.remote)
    }
}

async fn run(offered: Arc<Offered>, connect: impl Fn() -> RobotBuilder + Send + 'static) {
    let robot = loop {
        match connect().initial_attempts(0).connect().await {
            Ok(robot) => break robot,
            Err(error) => tracing::error!(remote = offered.remote, %error, "not connected; trying again"),
        }
        tokio::time::sleep(REFUSED).await;
    };
    tracing::info!(remote = offered.remote, route = robot.route(), "connected");
    let mut routes = robot.route_events();
    loop {
        // A remote that cannot be asked has what it had: calls fail until it is back.
        if let Ok(there) = robot.resource_names().await {
            let component = |name: machine_api::viam::common::v1::ResourceName| {
                (name.r#type == "component").then(|| ResourceName::component(name.subtype, name.name))
            };
            offered.change(&there.into_iter().filter_map(component).collect(), Some(&robot));
        }
        let refresh = tokio::time::sleep(REFRESH);
        tokio::pin!(refresh);
        loop {
            tokio::select! {
                () = &mut refresh => break,
                event = routes.recv() => match event {
                    Ok(RouteEvent::Use(..)) | Err(RecvError::Lagged(_)) => break,
                    Ok(_) => {}
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }
}
