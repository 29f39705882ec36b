//! A connected machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dialer::{FlightRecord, LinkSwitch, LinkView, MachineChannel, RouteEvent, RouteStatus};
use machine_api::viam::common::v1::ResourceName;
use machine_api::viam::robot::v1::robot_service_client::RobotServiceClient;
use machine_api::viam::robot::v1::{ResourceNamesRequest, StopAllRequest};
use tokio::runtime::Handle;
use tokio::sync::{broadcast, watch};
use tonic::Status;

use crate::builder::{RobotBuilder, Sessions};
use crate::channel::RobotChannel;
use crate::session::Session;

/// How long leaving may take: the machine stops by itself a window later.
const LEAVING: Duration = Duration::from_millis(500);
/// How long the last drop of a robot waits for that, where something is still moving.
const DROPPING: Duration = Duration::from_millis(200);

/// A machine, over whatever route is best at the moment. Clones are the same robot; when the last of them and of its channels and handles
/// is dropped, what its session still moves is stopped.
#[derive(Clone)]
pub struct Robot(Arc<Inside>);

pub(crate) struct Inside {
    pub(crate) address: String,
    pub(crate) channel: MachineChannel,
    pub(crate) switch: LinkSwitch,
    pub(crate) session: Arc<Session>,
    pub(crate) sessions: Sessions,
    runtime: Handle,
    closed: AtomicBool,
}

/// What happens to a robot's session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RobotEvent {
    /// A session began, or was resumed.
    SessionStarted {
        /// Its id.
        id: String,
        /// How long it lives without a beat.
        window: Duration,
        /// Whether it is the one that was there before.
        resumed: bool,
    },
    /// It may be held no longer: the machine may still be moving for up to a window.
    SessionLapsed {
        /// Its id.
        id: String,
    },
    /// What it moved is stopped.
    Stopped {
        /// What: `type/name`.
        what: std::collections::BTreeSet<String>,
        /// Whether the machine said so, or it follows from our own record.
        told: bool,
    },
    /// No session can be counted on over this path: it could not be started in time, or the route has become too slow for it (told again only
    /// after it was in time meanwhile, [`crate::RouteStatus::too_slow`]).
    TooSlow {
        /// How long the machine took to answer.
        took: Duration,
        /// Its window.
        window: Duration,
    },
}

/// What is held at the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SessionStatus {
    /// Nothing, yet or any more.
    #[default]
    None,
    /// A session.
    Held {
        /// Its id.
        id: String,
        /// How long it lives without a beat.
        window: Duration,
    },
    /// It may be held no longer: the machine may still be moving for up to a window.
    Lapsed {
        /// Its id.
        id: String,
    },
}

impl std::fmt::Debug for Robot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Robot").field("address", &self.0.address).field("route", &self.route()).finish()
    }
}

impl Robot {
    /// How to connect to a machine: by its name, `host:port`, an IP address or `unix:PATH`.
    pub fn builder(address: &str) -> RobotBuilder {
        RobotBuilder::new(address)
    }

    pub(crate) fn new(
        address: String,
        channel: MachineChannel,
        switch: LinkSwitch,
        session: Arc<Session>,
        sessions: Sessions,
        runtime: Handle,
    ) -> Self {
        Self(Arc::new(Inside { address, channel, switch, session, sessions, runtime, closed: AtomicBool::new(false) }))
    }

    /// Takes over the link that there is already.
    pub(crate) fn look_around(&self) {
        self.0.session.look_around();
    }

    /// A channel that any generated client runs on. It outlives every link.
    pub fn channel(&self) -> RobotChannel {
        RobotChannel::new(self.0.clone())
    }

    /// What the machine has.
    pub async fn resource_names(&self) -> Result<Vec<ResourceName>, Status> {
        let reply = RobotServiceClient::new(self.channel()).resource_names(ResourceNamesRequest {}).await?;
        Ok(reply.into_inner().resources)
    }

    /// Stops every actuator and cancels every operation, whoever's they are.
    pub async fn stop_all(&self) -> Result<(), Status> {
        RobotServiceClient::new(self.channel()).stop_all(StopAllRequest::default()).await?;
        Ok(())
    }

    /// The program is there ([`Sessions::Watched`]).
    pub fn alive(&self) {
        self.0.session.alive();
    }

    /// The link that calls go over, for people; `None` while there is none.
    pub fn route(&self) -> Option<String> {
        self.link().map(|link| link.route)
    }

    /// The link that calls go over.
    pub fn link(&self) -> Option<LinkView> {
        self.0.switch.current()
    }

    /// Where calls go, live: the link and its round trip, the standby, the last swap and why.
    pub fn watch_route(&self) -> watch::Receiver<RouteStatus> {
        self.0.switch.watch_route()
    }

    /// What is held at the machine, live.
    pub fn watch_session(&self) -> watch::Receiver<SessionStatus> {
        self.0.session.watch()
    }

    /// How the first link came to be: every candidate, stage and time.
    pub fn first_dial(&self) -> Option<Arc<FlightRecord>> {
        self.0.switch.first_record()
    }

    /// What happens to the session from now on.
    pub fn events(&self) -> broadcast::Receiver<RobotEvent> {
        self.0.session.events()
    }

    /// What happens to routes from now on.
    pub fn route_events(&self) -> broadcast::Receiver<RouteEvent> {
        self.0.switch.events()
    }

    /// Something about the network changed that the operating system may not tell: try everything now.
    pub fn network_changed(&self) {
        self.0.switch.network_changed();
    }

    /// Leaves: what the session still moves stops at once, and the connection closes. Calls fail from now on.
    pub async fn close(&self) {
        if self.0.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        // What cannot be told within this time the machine finds out by itself.
        let _ = tokio::time::timeout(LEAVING, self.0.session.leave()).await;
        self.0.switch.close().await;
    }

    /// Stops what the session moves and ends this process with code 130 when it is told to end (SIGINT, SIGTERM, SIGHUP). Without this the machine
    /// stops by itself, a window later. For programs that handle no signals of their own.
    pub fn end_on_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let _inside = self.0.runtime.enter();
        let mut int = signal(SignalKind::interrupt())?;
        let mut term = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let robot = Arc::downgrade(&self.0);
        self.0.runtime.spawn(async move {
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
                _ = hangup.recv() => {}
            }
            if let Some(robot) = robot.upgrade() {
                Robot(robot).close().await;
            }
            std::process::exit(130);
        });
        Ok(())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        let (session, switch) = (self.session.clone(), self.switch.clone());
        let holds = session.holds();
        let (done, left) = std::sync::mpsc::channel();
        self.runtime.spawn(async move {
            let _ = tokio::time::timeout(LEAVING, session.leave()).await;
            // Nobody waits any more where nothing was held.
            let _ = done.send(());
            switch.close().await;
        });
        if holds {
            // The process may end right after this: what it leaves moving is worth the wait. The task runs on threads of its own.
            let _ = left.recv_timeout(DROPPING);
        }
    }
}
