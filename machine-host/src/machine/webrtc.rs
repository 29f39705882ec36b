//! Callers over WebRTC: offers that come through the machine's own signaling and its cloud's, all on one UDP socket.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use discovery::MachineName;
use http::{Request, Response};
use machine_api::proto::rpc::webrtc::v1::signaling_service_server::SignalingServiceServer;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use tower::Service;
use transport::Body;
use transport::serve::Introduced;
use transport::webrtc::{AnswerOptions, CallerIdentity, IncomingPeer, Mux, PeerOptions, SocketChoice, answer};

use super::{Machine, MachineError};
use crate::cloud::CloudLink;
use crate::signaling::{Access, CREDENTIAL_TYPE, Limits, MemoryQueue, Party, Signaling, SignalingOptions};
use crate::{API_KEY, Principal};

/// The principal that answers for the machine within its own process; no credential has this type.
const INTERNAL: &str = "__internal";

/// Signaling for one machine: everybody who may call it at all may call it over WebRTC; only its own process answers.
struct Own(MachineName);

impl Access for Own {
    /// The machine, under each of its names, with and without a port; and under the addresses and names of this host.
    fn host(&self, host: &str) -> Option<String> {
        let bare = match host.rsplit_once(':') {
            Some((bare, port)) if port.parse::<u16>().is_ok() && !bare.ends_with(':') => bare,
            _ => host,
        };
        let address = bare.trim_start_matches('[').trim_end_matches(']');
        let ours = self.0.forms().iter().any(|form| form.eq_ignore_ascii_case(bare));
        (ours || bare == "localhost" || address.parse::<IpAddr>().is_ok()).then(|| self.0.to_string())
    }

    fn may_call(&self, _: &Principal, _: &str) -> Result<(), Status> {
        Ok(())
    }

    fn may_answer(&self, principal: &Principal, _: &str) -> Result<(), Status> {
        match principal.kind == INTERNAL {
            true => Ok(()),
            false => Err(Status::permission_denied("this machine answers for itself")),
        }
    }
}

/// The machine's own signaling service.
pub(super) fn signaling(name: &MachineName) -> Signaling {
    // At the start an offer may come before the answerer asks for one.
    let limits = Limits { patience: std::time::Duration::from_secs(10), ..Limits::default() };
    Signaling::new(Arc::new(MemoryQueue::new(limits)), Arc::new(Own(name.clone())), &SignalingOptions::default())
}

/// The machine's own signaling as its answerer reaches it: without a connection, and as nobody else can.
#[derive(Clone)]
struct Inside(SignalingServiceServer<Signaling>);

impl Service<Request<Body>> for Inside {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = <SignalingServiceServer<Signaling> as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let principal = Principal { kind: INTERNAL.to_owned(), id: String::new() };
        request.extensions_mut().insert(Party { principal, connection: 0 });
        self.0.call(request)
    }
}

/// Answers until dropped.
pub(super) struct Answerers {
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Answerers {
    /// Answers through `own`, and through the cloud where there is one.
    pub(super) fn start(machine: &Machine, own: Signaling, shutdown: &CancellationToken) -> Result<Self, MachineError> {
        let options = &machine.0.options;
        let port = options.webrtc_port;
        let mux = Mux::bind(port).map_err(|e| MachineError::Listen(format!("UDP port {port} (WebRTC)"), e))?;
        tracing::info!(port = mux.port(), "WebRTC on UDP");
        let sctp_init = machine.0.options.order;
        let peer = PeerOptions { socket: SocketChoice::Shared(mux), sctp_init, ..PeerOptions::default() };
        let answering = AnswerOptions { peer, ..AnswerOptions::default() };
        let name = machine.0.name.to_string();
        let serving = Serving { machine: machine.clone(), shutdown: shutdown.clone() };
        let mut tasks = vec![answer_through(Inside(own.into_server()), name, answering.clone(), serving.clone())];
        if let Some(account) = &options.cloud {
            let cloud = CloudLink::new(account.clone())?;
            let peer = PeerOptions { turn_tls: cloud.tls(), stock_stun: true, ..answering.peer.clone() };
            let answering = AnswerOptions { peer, ..answering };
            tasks.push(answer_through(cloud, machine.0.name.cloud(), answering, serving));
        }
        Ok(Self { _tasks: tasks })
    }
}

fn answer_through<S>(signaling: S, host: String, options: AnswerOptions, serving: Serving) -> AbortOnDropHandle<()>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    S::Future: Future<Output = Result<Response<Body>, S::Error>> + Send,
{
    AbortOnDropHandle::new(tokio::spawn(async move {
        let answered = answer::run(signaling, &[host], &options, move |peer| serving.serve(peer)).await;
        if let Err(status) = answered {
            tracing::error!(%status, "nobody can be answered over WebRTC");
        }
    }))
}

/// Whom the signaling service has authenticated. Services that do not say how have users with api keys.
fn credential(caller: &CallerIdentity) -> Option<(String, String)> {
    let kind = caller.metadata.get(CREDENTIAL_TYPE).map_or(API_KEY, String::as_str);
    (!caller.entity.is_empty()).then(|| (kind.to_owned(), caller.entity.clone()))
}

/// What a caller gets once its channel is open.
#[derive(Clone)]
struct Serving {
    machine: Machine,
    shutdown: CancellationToken,
}

impl Serving {
    fn serve(&self, peer: IncomingPeer) {
        let Self { machine, shutdown } = self.clone();
        tokio::spawn(async move {
            let IncomingPeer { channel, control, caller, hosts } = peer;
            let introduced = Introduced { credential: credential(&caller), hosts: hosts.to_vec() };
            let why = machine.serve_channel(channel, introduced, shutdown).await;
            tracing::debug!(%why, "a WebRTC connection ended");
            drop(control);
        });
    }
}
