//! A cloud in a box: authentication, signaling, STUN and TURN in one process, for machines and clients that need no other.
//!
//! What existing clients and machines expect of theirs, at an address that they are told: `AuthService` for users with api keys and
//! machines with part secrets, `ExternalAuthService`, `SignalingService` with each caller held to its own machines, gRPC-web with CORS.

mod relay;
mod state;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use machine_api::proto::rpc::v1::auth_service_server::AuthServiceServer;
use machine_api::proto::rpc::v1::external_auth_service_server::{ExternalAuthService, ExternalAuthServiceServer};
use machine_api::proto::rpc::v1::{AuthenticateToRequest, AuthenticateToResponse};
use machine_api::proto::rpc::webrtc::v1::IceServer;
use machine_host::signaling::{Access, Front, Limits, MemoryQueue, Party, RateLimit, Signaling, SignalingOptions};
use machine_host::{AuthError, Authenticator, MachineError, Principal, local_certificate};
use tokio::net::{TcpListener, lookup_host};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

pub use relay::{Relay, RelayOptions};
pub use state::{Part, State, StateError, User};

/// What a cloud is made of.
#[derive(Clone, Debug)]
pub struct CloudOptions {
    /// Where its CA, keys and secrets are kept.
    pub folder: PathBuf,
    /// `host:port` that it serves on. Default `localhost:8443`.
    pub bind: String,
    /// Further names that its certificate bears, beside this host's own.
    pub names: Vec<String>,
    /// In clear, for trials on one host only.
    pub no_tls: bool,
    /// Machines that it knows, by name, beside those that it knew before.
    pub machines: Vec<String>,
    /// STUN and TURN; none where `None`.
    pub relay: Option<RelayOptions>,
    /// How often one caller may call one machine. Default 1,000 times in 10 s: a client that dials in a loop is no flood yet.
    pub rate: RateLimit,
}

impl CloudOptions {
    /// The defaults, with the state in `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            bind: "localhost:8443".to_owned(),
            names: Vec::new(),
            no_tls: false,
            machines: Vec::new(),
            relay: Some(RelayOptions::default()),
            rate: RateLimit { calls: 1000, window: std::time::Duration::from_secs(10) },
        }
    }
}

/// Why a cloud does not start.
#[derive(Debug, thiserror::Error)]
pub enum CloudError {
    /// A port is not to be had.
    #[error("cannot listen on {what} {address}: {error}{}", advice(.error))]
    Listen {
        /// For what.
        what: &'static str,
        /// Where.
        address: String,
        /// Why not.
        error: io::Error,
    },
    /// Its users and machines.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its certificate.
    #[error(transparent)]
    Certificate(#[from] MachineError),
    /// Its signing key.
    #[error(transparent)]
    Auth(#[from] AuthError),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; does another one run? End it, or choose another port",
        io::ErrorKind::PermissionDenied => "; ports below 1024 are the system's: choose another",
        io::ErrorKind::AddrNotAvailable => "; that is no address of this host",
        _ => "",
    }
}

/// A cloud whose ports are open.
pub struct Cloud {
    /// Where it serves gRPC and gRPC-web.
    pub address: SocketAddr,
    /// STUN and TURN servers as clients are told them.
    pub ice_urls: Vec<String>,
    /// Users and machines.
    pub state: State,
    listener: TcpListener,
    front: Front,
    tls: Option<Arc<machine_host::ServerConfig>>,
    relay: Option<Relay>,
}

impl Cloud {
    /// Reads its state, or makes it, and opens its ports.
    pub async fn open(options: CloudOptions) -> Result<Self, CloudError> {
        let state = State::open(&options.folder, &options.machines)?;
        let listener = listen(&options.bind).await?;
        let refused = |error| CloudError::Listen { what: "TCP", address: options.bind.clone(), error };
        let address = listener.local_addr().map_err(refused)?;
        let mut names = options.names.clone();
        names.push("localhost".to_owned());
        let tls = if options.no_tls { None } else { Some(local_certificate(&options.folder, &names)?) };
        let relay = match &options.relay {
            Some(relay) => Some(Relay::open(relay, address, tls.clone()).await?),
            None => None,
        };
        let ice_urls = relay.as_ref().map(Relay::urls).unwrap_or_default();
        let authenticator = Arc::new(Authenticator::with_secrets(state.secrets(), names)?);
        let access = Arc::new(Rules { state: state.clone(), credentials: relay.as_ref().map(Relay::credentials) });
        let queue = Arc::new(MemoryQueue::new(Limits::default()));
        let signaling = SignalingOptions { rate: Some(options.rate), ..SignalingOptions::default() };
        let mut routes = Routes::builder();
        routes
            .add_service(AuthServiceServer::from_arc(authenticator.clone()))
            .add_service(ExternalAuthServiceServer::new(External(authenticator.clone())))
            .add_service(Signaling::new(queue, access, &signaling).into_server());
        let front = Front::new(authenticator, routes.routes());
        Ok(Self { address, ice_urls, state, listener, front, tls, relay })
    }

    /// Serves until `shutdown`.
    pub async fn serve(self, shutdown: CancellationToken) -> io::Result<()> {
        let Self { listener, front, tls, relay, .. } = self;
        let relaying = relay.map(|relay| tokio::spawn(relay.run(shutdown.clone())));
        let served = front.serve(listener, tls, shutdown.clone()).await;
        shutdown.cancel();
        if let Some(relaying) = relaying {
            let _ = relaying.await;
        }
        served
    }
}

/// Listens on the first of a host's addresses that is ours.
async fn listen(bind: &str) -> Result<TcpListener, CloudError> {
    let refused = |error| CloudError::Listen { what: "TCP", address: bind.to_owned(), error };
    let host = if bind.starts_with(':') { format!("[::]{bind}") } else { bind.to_owned() };
    let addresses: Vec<SocketAddr> = lookup_host(&host).await.map_err(refused)?.collect();
    TcpListener::bind(&addresses[..]).await.map_err(refused)
}

/// An address that others may reach a socket by that is bound to any.
pub(crate) fn reachable(bound: IpAddr) -> IpAddr {
    if !bound.is_unspecified() {
        return bound;
    }
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let outward = interfaces.iter().map(|i| i.ip()).find(|ip| ip.is_ipv4() && !ip.is_loopback());
    outward.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Who may signal what here.
struct Rules {
    state: State,
    credentials: Option<relay::Credentials>,
}

impl Access for Rules {
    /// Whoever asks for what it may not have does not learn whether it is there.
    fn host(&self, host: &str) -> Option<String> {
        Some(host.to_owned())
    }

    fn may_call(&self, principal: &Principal, host: &str) -> Result<(), Status> {
        match self.state.may_call(principal, host) {
            true => Ok(()),
            false => Err(Status::permission_denied(format!("there is no machine {host:?}, or this key is not for it"))),
        }
    }

    fn may_answer(&self, principal: &Principal, host: &str) -> Result<(), Status> {
        match self.state.may_answer(principal, host) {
            true => Ok(()),
            false => Err(Status::permission_denied(format!("this part's secret is not that of {host:?}"))),
        }
    }

    fn ice_servers(&self, principal: &Principal, _: &str) -> Vec<IceServer> {
        self.credentials.as_ref().map(|credentials| credentials.servers(&principal.id)).unwrap_or_default()
    }
}

/// Tokens for others, on behalf of who has authenticated here.
struct External(Arc<Authenticator>);

#[tonic::async_trait]
impl ExternalAuthService for External {
    async fn authenticate_to(
        &self,
        request: Request<AuthenticateToRequest>,
    ) -> Result<Response<AuthenticateToResponse>, Status> {
        let party = request.extensions().get::<Party>().cloned();
        let party = party.ok_or_else(|| Status::unauthenticated("authentication required"))?;
        let access_token = self.0.token_to(&party.principal, &request.into_inner().entity)?;
        Ok(Response::new(AuthenticateToResponse { access_token }))
    }
}
