//! What stands before every service: who calls, in which session, in which order; who may run, who waits, what is stopped.
//!
//! A call passes here once its first message is complete, and reaches its service with a [`Permit`](crate::Permit) and a [`Caller`] in
//! its extensions. Stop and StopAll never reach a service: they go to the registry, past every queue and limit.

mod arrivals;
mod caller;
mod command;
mod refusal;
mod reply;
mod running;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use http::{Request, Response};
use machine_api::methods::{self, Class, Method};
use tonic::Status;
use tonic::service::Routes;
use tower::Service;
use transport::serve::PeerConnection;
use transport::{Body, header};
use uuid::Uuid;

use crate::operations::Operations;
use crate::signaling::Party;
use crate::{Authenticator, ResourceName, Safety};
pub use arrivals::Arrival;
pub(crate) use arrivals::Arrivals;
pub use caller::Caller;
pub(crate) use caller::{Tokens, order};
pub(crate) use refusal::{no_session, not_found};
use running::Limits;

/// What the guard and the services share.
pub(crate) struct Machine {
    pub(crate) safety: Safety,
    pub(crate) operations: Operations,
    pub(crate) authenticator: Option<Arc<Authenticator>>,
    pub(crate) tokens: Tokens,
    pub(crate) limits: Limits,
    pub(crate) arrivals: Arrivals,
    /// The connections there are, by their number.
    peers: Mutex<BTreeMap<u64, Arc<PeerConnection>>>,
    /// Held by who changes how closely connections are watched.
    watching: Mutex<()>,
}

impl Machine {
    pub(crate) fn new(safety: Safety, authenticator: Option<Arc<Authenticator>>) -> Self {
        Self {
            safety,
            operations: Operations::default(),
            authenticator,
            tokens: Tokens::default(),
            limits: Limits::default(),
            arrivals: Arrivals::default(),
            peers: Mutex::new(BTreeMap::new()),
            watching: Mutex::new(()),
        }
    }

    /// A connection was made.
    pub(crate) fn met(&self, peer: Arc<PeerConnection>) {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).insert(peer.id, peer);
    }

    /// A connection ended.
    pub(crate) fn left(&self, id: u64) {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// The connections there are.
    pub(crate) fn peers(&self) -> Vec<Arc<PeerConnection>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// The service that the port serves.
#[derive(Clone)]
pub(crate) struct Guard {
    machine: Arc<Machine>,
    routes: Routes,
}

impl Guard {
    pub(crate) fn new(machine: Arc<Machine>, routes: Routes) -> Self {
        Self { machine, routes }
    }

    async fn handle(self, mut request: Request<Body>) -> Result<Response<Body>, Status> {
        let method = methods::find(request.uri().path());
        let peer = request.extensions().get::<Arc<PeerConnection>>();
        self.machine.arrivals.tell(&request, peer.map(|peer| &**peer));
        if method.is_some_and(|m| m.service() == "proto.rpc.v1.AuthService") {
            return Ok(self.route(request).await);
        }
        let caller = self.machine.identify(&request)?;
        request.extensions_mut().insert(caller.clone());
        if method.is_some_and(|m| m.service() == "proto.rpc.webrtc.v1.SignalingService") {
            // No operation, and without a deadline of ours: who answers waits for days.
            let party = Party { principal: caller.principal, connection: caller.peer.id };
            request.extensions_mut().insert(party);
            return Ok(self.route(request).await);
        }
        // Services answer calls of theirs that the protocol does not have.
        let Some(method) = method else { return Ok(self.route(request).await) };
        match (method.class, subtype(method)) {
            (Class::Stop, subtype) => self.stop(subtype, caller, request).await,
            (_, Some(subtype)) if method.monitored => self.command(method, &subtype, caller, request).await,
            // Whatever may move something without being monitored: DoCommand, a gantry's Home.
            (Class::Other, Some(subtype)) => self.command(method, &subtype, caller, request).await,
            _ => self.read(method, request).await,
        }
    }

    /// A call that moves nothing.
    async fn read(self, method: &Method, request: Request<Body>) -> Result<Response<Body>, Status> {
        let deadline = running::deadline(request.headers());
        if is_own_affair(method) {
            let reply = tokio::time::timeout_at(deadline, self.route(request)).await;
            return reply.map_err(|_| running::too_late());
        }
        let session = caller::one_session(request.headers()).ok().flatten();
        let entry = self.machine.operations.begin(operation_id(&request), method.path, session);
        let operation = entry.operation.clone();
        tokio::select! {
            biased;
            () = operation.cancelled() => Err(Status::cancelled("cancelled by CancelOperation or StopAll")),
            () = tokio::time::sleep_until(deadline) => Err(running::too_late()),
            mut response = self.route(request) => {
                running::name_operation(&mut response, operation.id);
                Ok(if method.response_stream { running::hold(response, entry, None, deadline) } else { response })
            }
        }
    }

    async fn route(&self, request: Request<Body>) -> Response<Body> {
        let mut routes = self.routes.clone();
        match routes.call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

impl Service<Request<Body>> for Guard {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let handled = self.clone().handle(request);
        Box::pin(async move { Ok(handled.await.unwrap_or_else(Status::into_http)) })
    }
}

/// Which type of component a service serves: `viam.component.movementsensor.v1.MovementSensorService` serves `movement_sensor`.
fn subtype(method: &Method) -> Option<String> {
    let package = method.service().strip_prefix("viam.component.")?;
    Some(match package.split('.').next()? {
        "movementsensor" => "movement_sensor".to_owned(),
        other => other.to_owned(),
    })
}

/// Calls about sessions and operations are no operations themselves.
fn is_own_affair(method: &Method) -> bool {
    const OWN: [&str; 6] = [
        "StartSession",
        "SendSessionHeartbeat",
        "GetSessions",
        "GetOperations",
        "CancelOperation",
        "BlockForOperation",
    ];
    method.service() == "viam.robot.v1.RobotService" && OWN.contains(&method.name())
}

/// The id that the caller would like its operation to have; a malformed one, or several, count as none (s48).
fn operation_id<B>(request: &Request<B>) -> Option<Uuid> {
    let mut values = request.headers().get_all(&header::OPERATION).iter();
    let (first, second) = (values.next()?, values.next());
    if second.is_some() { None } else { first.to_str().ok()?.parse().ok() }
}

/// The resource of a call.
fn resource(subtype: &str, name: String) -> ResourceName {
    ResourceName::component(subtype, name)
}
