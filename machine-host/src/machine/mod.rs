//! A machine: its components, its port, its beginning and its end.

mod certificate;
mod webrtc;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use discovery::{MachineName, Responder, ResponderOptions, answer::Advertisement};
use machine_api::MAX_MESSAGE;
use machine_api::proto::rpc::v1::auth_service_server::AuthServiceServer;
use machine_api::viam::robot::v1::robot_service_server::RobotServiceServer;
use session_core::Connection;
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use transport::CloseReason;
use transport::serve::{ConnectionEvent, Introduced, Listener, ServeOptions, serve};
use transport::webrtc::DataChannel;
use transport::webrtc::serve::{ChannelOptions, serve as serve_channel};
use uuid::Uuid;
use webrtc::Answerers;

use crate::component::{Component, Components, register};
use crate::guard::{self, Guard};
use crate::robot::Robot;
use crate::signaling::Signaling;
use crate::{AuthError, Authenticator, CloudAccount, ResourceName, Safety, SafetyOptions};

pub use certificate::local as local_certificate;

/// How long stopping everything may take at the beginning and the end (safety.md 3).
const STOP_BOUND: Duration = Duration::from_secs(1);

/// Connections that the kernel holds until they are accepted; beyond it a client waits a second for its next try. Kernels lower it to
/// their own limit, 4,096 as a rule.
const BACKLOG: u32 = 4096;

/// Why a machine cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Its name is none.
    #[error("the machine's name: {0}")]
    Name(#[from] discovery::AddressError),
    /// The port is not to be had.
    #[error("cannot listen on {0}: {1}")]
    Listen(String, io::Error),
    /// A file of the certificate, or the local CA's.
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
    /// The certificate is not usable.
    #[error("the machine's certificate: {0}")]
    Tls(#[from] transport::tls::TlsError),
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// Its cloud's address is none.
    #[error("the cloud's address {0:?}: {1}")]
    Cloud(String, String),
    /// Its keys are not usable.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// A thread or socket could not be had.
    #[error("the system refused a thread or a socket: {0}")]
    System(io::Error),
}

/// How the port is secured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// With a certificate of a local CA, made at first start and kept in this folder (`ca.pem` is what clients trust).
    Local(PathBuf),
    /// With this certificate chain and key, PEM files.
    Files(PathBuf, PathBuf),
    /// In clear.
    None,
}

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct MachineOptions {
    /// Its name, `<machine>.<location>.viam.cloud`.
    pub name: String,
    /// `host:port` or `unix:PATH`. Default `localhost:8080`: this host only. `:8080` is every interface.
    pub bind: String,
    /// How the port is secured. Default: in clear, for a name that nobody else can reach.
    pub tls: Tls,
    /// API keys by id. Without any, nobody is asked for one.
    pub api_keys: BTreeMap<String, String>,
    /// Sessions and their rules.
    pub safety: SafetyOptions,
    /// Whether it answers on local networks. Default true.
    pub mdns: bool,
    /// Where it answers.
    pub responder: ResponderOptions,
    /// Whether callers may come over WebRTC, through the machine's own signaling or its cloud's. Default true.
    pub webrtc: bool,
    /// The UDP port of all WebRTC connections. Default 0: the system chooses.
    pub webrtc_port: u16,
    /// The cloud that it registers with. Default none.
    pub cloud: Option<CloudAccount>,
    /// Whether clients are told what existing machines do not have: that commands are kept in order, which process answers, and how peer
    /// connections need one handshake less. Default true. Without it they treat the machine as an existing one: nothing is sent twice, and commands whose route dies may fail.
    pub order: bool,
    /// The program's version, for GetVersion.
    pub version: String,
}

impl MachineOptions {
    /// The defaults for a machine of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            bind: "localhost:8080".to_owned(),
            tls: Tls::None,
            api_keys: BTreeMap::new(),
            safety: SafetyOptions::default(),
            mdns: true,
            responder: ResponderOptions::default(),
            webrtc: true,
            webrtc_port: 0,
            cloud: None,
            order: true,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// A machine. Clones are the same machine.
#[derive(Clone)]
pub struct Machine(Arc<Shared>);

struct Shared {
    options: MachineOptions,
    name: MachineName,
    guard: Arc<guard::Machine>,
    components: Components,
    boot: String,
    started: SystemTime,
    tls: Option<Arc<rustls::ServerConfig>>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Machine({})", self.0.name)
    }
}

impl Machine {
    /// A machine without components that does not serve yet. Reads its certificate, or makes one.
    pub fn new(options: MachineOptions) -> Result<Self, MachineError> {
        let name: MachineName = options.name.parse()?;
        let authenticator = match options.api_keys.is_empty() {
            true => None,
            false => Some(Arc::new(Authenticator::new(options.api_keys.clone(), name.forms())?)),
        };
        let safety = Safety::new(options.safety).map_err(MachineError::System)?;
        let tls = certificate::load(&options.tls, &name)?;
        Ok(Self(Arc::new(Shared {
            guard: Arc::new(guard::Machine::new(safety, authenticator)),
            components: Components::default(),
            boot: Uuid::new_v4().simple().to_string(),
            started: SystemTime::now(),
            name,
            options,
            tls,
        })))
    }

    /// Its name.
    pub fn name(&self) -> &MachineName {
        &self.0.name
    }

    /// Its sessions, gates and stops.
    pub fn safety(&self) -> &Safety {
        &self.0.guard.safety
    }

    /// What runs on it.
    pub fn operations(&self) -> &crate::Operations {
        &self.0.guard.operations
    }

    /// Calls as they arrive, from now on. A receiver that falls 4,096 behind misses the oldest and is told so.
    pub fn arrivals(&self) -> tokio::sync::broadcast::Receiver<crate::Arrival> {
        self.0.guard.arrivals.subscribe()
    }

    /// What it has.
    pub fn resources(&self) -> Vec<ResourceName> {
        self.0.components.names()
    }

    /// Adds a component, or replaces the one of that type and name: its calls end, and what it moved is stopped.
    pub fn configure(&self, name: &str, component: Component) -> io::Result<()> {
        let resource = ResourceName::component(component.subtype(), name);
        self.safety().configure(resource.clone(), component.actuator(), component.resource().parts())?;
        self.0.components.insert(resource, component);
        Ok(())
    }

    /// Removes a component: it is stopped, and its calls end.
    pub fn remove(&self, resource: &ResourceName) {
        self.0.components.remove(resource);
        self.safety().remove(resource);
    }

    /// Ends every connection at once; clients that are still there come back. Sessions go on.
    pub fn sever_connections(&self, why: &'static str) {
        self.0.guard.peers().iter().for_each(|peer| peer.sever(why));
    }

    /// Opens its port.
    pub async fn listen(&self) -> Result<Listening, MachineError> {
        let bind = &self.0.options.bind;
        let failed = |e| MachineError::Listen(bind.clone(), e);
        if let Some(path) = bind.strip_prefix("unix:") {
            // A file that a process before us left behind is in nobody's way; one that answers is somebody's.
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(failed(io::ErrorKind::AddrInUse.into()));
            }
            let _ = std::fs::remove_file(path);
            let listener = UnixListener::bind(path).map_err(failed)?;
            return Ok(Listening { machine: self.clone(), listener: Listener::Unix(listener), address: None });
        }
        let listener = match bind.strip_prefix(':') {
            // Hosts without IPv6 have the other.
            Some(port) => match listen_on(&format!("[::]:{port}")).await {
                Err(_) => listen_on(&format!("0.0.0.0:{port}")).await,
                bound => bound,
            },
            None => listen_on(bind).await,
        };
        let listener = listener.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Listening { machine: self.clone(), listener: Listener::Tcp(listener), address: Some(address) })
    }

    /// Serves the calls of a caller that a signaling service introduced, as the port's are served, until the channel ends or
    /// `shutdown`. Only while the machine serves: before, its actuators were not stopped yet.
    pub async fn serve_channel(
        &self,
        channel: DataChannel,
        introduced: Introduced,
        shutdown: CancellationToken,
    ) -> CloseReason {
        let events = |event| self.connection(event);
        serve_channel(channel, self.service(None), introduced, ChannelOptions::default(), events, shutdown).await
    }

    fn service(&self, signaling: Option<&Signaling>) -> Guard {
        let shared = &self.0;
        let mut routes = Routes::builder();
        let robot = Robot {
            machine: shared.guard.clone(),
            components: shared.components.clone(),
            boot: shared.options.order.then(|| shared.boot.clone()),
            started: shared.started,
            version: shared.options.version.clone(),
            name: shared.name.cloud(),
        };
        routes.add_service(RobotServiceServer::new(robot).max_decoding_message_size(MAX_MESSAGE));
        if let Some(authenticator) = &shared.guard.authenticator {
            routes.add_service(AuthServiceServer::from_arc(authenticator.clone()));
        }
        if let Some(signaling) = signaling {
            routes.add_service(signaling.clone().into_server());
        }
        register(&mut routes, &shared.components);
        Guard::new(shared.guard.clone(), routes.routes().prepare())
    }

    fn connection(&self, event: ConnectionEvent) {
        let guard = &self.0.guard;
        match event {
            ConnectionEvent::Opened(peer) => {
                guard.safety.opened(Connection(peer.id), None);
                guard.met(peer);
            }
            ConnectionEvent::Closed(peer) => {
                guard.left(peer.id);
                guard.safety.closed(Connection(peer.id));
                guard.tokens.forget(peer.id);
            }
        }
    }

    fn respond(&self, address: SocketAddr) -> Option<Responder> {
        let Shared { options, name, .. } = &*self.0;
        if !options.mdns {
            return None;
        }
        let advertisement = Advertisement { names: vec![name.clone()], port: address.port(), webrtc: options.webrtc };
        match Responder::start(advertisement, options.responder.clone()) {
            Ok(responder) => Some(responder),
            Err(error) => {
                tracing::warn!(%error, "no answers on local networks: clients need an address");
                None
            }
        }
    }
}

/// A machine whose port is open.
pub struct Listening {
    machine: Machine,
    listener: Listener,
    /// Where it listens, for ports.
    pub address: Option<SocketAddr>,
}

impl Listening {
    /// Serves until `shutdown`. Every actuator is stopped before the first call, and at the end before anything else; from then on nothing
    /// moves any more. The same where this unwinds or is dropped, as by a panic of the runtime's: its thread then waits for the drivers,
    /// a second at most. A process that is killed or aborts (`panic = "abort"`, a second panic, `std::process::abort`) stops nothing: that
    /// takes a [`crate::Watchdog`].
    pub async fn serve(self, shutdown: CancellationToken) -> Result<(), MachineError> {
        let Self { machine, listener, address } = self;
        let safety = machine.safety().clone();
        safety.stop_everything(STOP_BOUND).await;
        let mut at_the_end = StopAtEnd(Some(safety.clone()));
        let signaling = machine.0.options.webrtc.then(|| webrtc::signaling(&machine.0.name));
        let service = machine.service(signaling.as_ref());
        let answerers = match signaling {
            Some(signaling) => Some(Answerers::start(&machine, signaling, &shutdown)?),
            None => None,
        };
        let responder = address.and_then(|address| machine.respond(address));
        let options = ServeOptions { tls: machine.0.tls.clone(), ..ServeOptions::default() };
        let told = machine.clone();
        let served =
            tokio::spawn(serve(listener, service, options, move |event| told.connection(event), shutdown.clone()));
        shutdown.cancelled().await;
        // First of all what moves; then nobody is sent here any more; then the calls that still run.
        safety.close(STOP_BOUND).await;
        at_the_end.0 = None;
        drop(answerers);
        if let Some(responder) = responder {
            responder.shutdown().await;
        }
        match served.await {
            Ok(served) => served.map_err(|e| MachineError::Listen(machine.0.options.bind.clone(), e)),
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
}

/// Listens on the first of a host's addresses that is ours.
async fn listen_on(host: &str) -> io::Result<TcpListener> {
    let mut last = io::ErrorKind::AddrNotAvailable.into();
    for address in tokio::net::lookup_host(host).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        match socket.bind(address).and_then(|()| socket.listen(BACKLOG)) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Stops everything when its owner ends in a way that nobody expected.
struct StopAtEnd(Option<Safety>);

impl Drop for StopAtEnd {
    fn drop(&mut self) {
        if let Some(safety) = &self.0 {
            safety.close_now(STOP_BOUND);
        }
    }
}
