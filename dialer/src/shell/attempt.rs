//! One try: connect, let the machine prove its name, authenticate; and the probe of a link that stands.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use machine_api::BOOT_HEADER;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::sync::{mpsc, watch};
use transport::webrtc::{self, Backend, CallStage, Control, IcePolicy, PeerOptions, TurnFilter};
use transport::{Address, ConnectOptions, Lane, Link, LinkId, Security, Target};

use super::inputs::Input;
use super::warm::{Warm, answered};
use crate::agent::{Attempt, Failure, Route, Signaler, Stage};
use crate::carrier::Carrier;
use crate::options::{Admit, Admitted, Whom};
use crate::probe::question;

/// A probe that is out for longer is forgotten; the agent judged it long before.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// Addresses of a signaling service that are tried, one after the other.
const MOST_ADDRESSES: usize = 8;

/// What every attempt of a dialer needs.
pub(super) struct Maker {
    pub admit: Arc<dyn Admit>,
    /// `None`: in clear, because the user said so.
    pub tls: Option<Tls>,
    pub timeout: Duration,
    /// What a signaling service calls the machine; `None`: it has no name to be called by.
    pub host: Option<String>,
    /// What WebRTC connections may use.
    pub ice: IcePolicy,
    pub turn: TurnFilter,
    pub backend: Backend,
    /// The way to a signaling service that is known to lead there.
    pub warm: Warm,
}

/// A link that was made, what lets calls in, and the orders for a peer connection below it.
pub(crate) struct Made {
    pub link: Link,
    pub admitted: Admitted,
    pub control: Option<Control>,
}

/// How the machine is to prove itself.
pub(super) struct Tls {
    pub trust: transport::tls::Trust,
    /// The name, or why there is none.
    pub name: Result<ServerName<'static>, String>,
}

impl Tls {
    fn security(&self) -> Result<Security, String> {
        let config: Arc<ClientConfig> = self.trust.client_config().map_err(|error| error.to_string())?;
        Ok(Security::Tls { config, name: self.name.clone()? })
    }
}

impl Maker {
    /// Where the first connection goes: to the machine, or to who arranges one.
    async fn targets(&self, route: &Route) -> Result<Vec<Target>, (Stage, String)> {
        let unproven = |message: String| (Stage::Tls, message);
        match route {
            Route::WebRtc(Signaler::Cloud { host, port }) => {
                let Some(tls) = &self.tls else {
                    return Err(unproven("a signaling service is not spoken to in clear".to_owned()));
                };
                // Nobody was reached: that is no fault of anybody's name or certificate.
                let found = tokio::net::lookup_host((host.as_str(), *port)).await;
                let found = found.map_err(|e| (Stage::Tcp, e.to_string()))?;
                let name = ServerName::try_from(host.clone()).map_err(|_| unproven(format!("{host:?} is no name")))?;
                let config = tls.trust.client_config().map_err(|error| unproven(error.to_string()))?;
                let security =
                    |config: &Arc<ClientConfig>| Security::Tls { config: config.clone(), name: name.clone() };
                let target = |address| Target { address: Address::Tcp(address), security: security(&config) };
                Ok(found.take(MOST_ADDRESSES).map(target).collect())
            }
            // The file system's permissions decide who listens there.
            Route::Unix(path) => Ok(vec![Target { address: Address::Unix(path.clone()), security: Security::Clear }]),
            Route::Direct(address) | Route::WebRtc(Signaler::Machine(address)) => {
                let security = match &self.tls {
                    Some(tls) => tls.security().map_err(unproven)?,
                    None => Security::Clear,
                };
                Ok(vec![Target { address: Address::Tcp(*address), security }])
            }
        }
    }

    /// Makes a link and has it admitted. Reports every stage on the way, and the end.
    pub async fn make(self: Arc<Self>, attempt: Attempt, route: Route, inputs: mpsc::UnboundedSender<Input>) {
        let made = self.link(attempt, &route, &inputs).await;
        // An error means that the dialer is closed.
        let _ = inputs.send(match made {
            Ok(made) => Input::Connected { attempt, route, made },
            Err(why) => Input::Failed { attempt, why },
        });
    }

    async fn link(
        &self,
        attempt: Attempt,
        route: &Route,
        inputs: &mpsc::UnboundedSender<Input>,
    ) -> Result<Made, Failure> {
        if let Route::WebRtc(signaler) = route
            && let Some((link, admitted)) = self.warm.take(signaler)
        {
            let called = self.call(attempt, signaler, link.clone(), admitted, inputs);
            if let Some(made) = answered(&link, called).await {
                return made;
            }
            link.sever("what was kept does not answer");
        }
        let fail = |stage, message| Failure { stage, verdict: false, message };
        let targets = self.targets(route).await.map_err(|(stage, message)| fail(stage, message))?;
        let options = ConnectOptions { tcp_timeout: self.timeout, handshake_timeout: self.timeout };
        let mut stages = |stage, _| {
            let _ = inputs.send(Input::Stage { attempt, stage: stage_of(stage) });
        };
        let mut connected = Err(fail(Stage::Tcp, "the name has no address".to_owned()));
        for target in targets {
            connected = match transport::direct::connect(&target, &options, &mut stages).await {
                Ok(link) => Ok(link),
                // Who answers without proving to be the machine is not the machine: no verdict of it, whatever it says.
                Err(error) => Err(fail(stage_of(error.stage), error.what)),
            };
            if connected.is_ok() {
                break;
            }
        }
        let link = connected?;
        let admitted = tokio::time::timeout(self.timeout, self.admit.admit(&link, whom(route))).await;
        match admitted {
            Ok(Ok(admitted)) => {
                let _ = inputs.send(Input::Stage { attempt, stage: Stage::Auth });
                match route {
                    Route::WebRtc(signaler) => self.call(attempt, signaler, link, admitted, inputs).await,
                    Route::Direct(_) | Route::Unix(_) => Ok(Made { link, admitted, control: None }),
                }
            }
            Ok(Err(refusal)) => {
                link.sever("not admitted");
                Err(Failure { stage: Stage::Auth, verdict: refusal.verdict, message: refusal.message })
            }
            Err(_) => {
                link.sever("authentication took too long");
                Err(fail(Stage::Auth, format!("no answer within {:?}", self.timeout)))
            }
        }
    }
}

impl Maker {
    /// Has a signaling service, to which `signaling` leads, arrange a peer connection. The link to it ends with the arrangement, or is kept for the
    /// next where it leads to a service for many machines.
    async fn call(
        &self,
        attempt: Attempt,
        signaler: &Signaler,
        signaling: Link,
        admitted: Admitted,
        inputs: &mpsc::UnboundedSender<Input>,
    ) -> Result<Made, Failure> {
        let Some(host) = &self.host else {
            let message = "a signaling service finds machines by name, and this one has none".to_owned();
            return Err(Failure { stage: Stage::Signaling, verdict: false, message });
        };
        let turn_tls = self.tls.as_ref().and_then(|tls| tls.trust.client_config().ok());
        let (policy, turn, backend) = (self.ice, self.turn.clone(), self.backend);
        // A machine's own signaling is where it is.
        let stock_stun = matches!(signaler, Signaler::Cloud { .. });
        let (timeout, others) = (self.timeout, PeerOptions::default());
        let options = PeerOptions { timeout, stock_stun, turn_tls, policy, turn, backend, ..others };
        let service =
            |admitted: &Admitted| Authorized { link: signaling.clone(), authorization: admitted.authorization.clone() };
        let mut stages = |stage, _| {
            let stage = match stage {
                CallStage::Gather => return,
                CallStage::Signaling => Stage::Signaling,
                CallStage::Ice => Stage::Ice,
                CallStage::Dtls => Stage::Dtls,
                CallStage::Channel => Stage::Channel,
            };
            let _ = inputs.send(Input::Stage { attempt, stage });
        };
        let mut admitted = admitted;
        let mut called = webrtc::call(service(&admitted), host, &options, &mut stages).await;
        if called.as_ref().is_err_and(|error| admitted.remembered && error.code == tonic::Code::Unauthenticated)
            && let Ok(Ok(renewed)) =
                tokio::time::timeout(self.timeout, self.admit.renew(&signaling, whom_of(signaler))).await
        {
            admitted = renewed;
            called = webrtc::call(service(&admitted), host, &options, &mut stages).await;
        }
        // The service hears the rest of the arrangement in order.
        match signaler {
            Signaler::Cloud { .. } if called.is_ok() => self.warm.keep(signaler, signaling, admitted.clone()),
            _ => signaling.close(),
        }
        let called = called.map_err(|error| {
            let stage = match error.stage {
                CallStage::Gather | CallStage::Signaling => Stage::Signaling,
                CallStage::Ice => Stage::Ice,
                CallStage::Dtls => Stage::Dtls,
                CallStage::Channel => Stage::Channel,
            };
            // What a signaling service says binds nobody else: other routes go on. A machine that does not arrange calls says nothing of itself by that.
            let unknown = matches!(signaler, Signaler::Cloud { .. }) && stage == Stage::Signaling && error.verdict;
            Failure { stage, verdict: unknown, message: error.what }
        })?;
        let link = webrtc::service::link(called.channel);
        // A token of the machine's goes to the machine alone, which has proven its name on the way here.
        let admitted = match signaler {
            Signaler::Machine(_) => admitted,
            Signaler::Cloud { .. } => Admitted::default(),
        };
        Ok(Made { link, admitted, control: Some(called.control) })
    }
}

/// Calls on a link with what lets them in.
#[derive(Clone)]
struct Authorized {
    link: Link,
    authorization: Option<HeaderValue>,
}

impl tower::Service<http::Request<tonic::body::Body>> for Authorized {
    type Response = http::Response<tonic::body::Body>;
    type Error = tonic::Status;
    type Future = futures_util::future::BoxFuture<'static, Result<Self::Response, tonic::Status>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), tonic::Status>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<tonic::body::Body>) -> Self::Future {
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(http::header::AUTHORIZATION, authorization.clone());
        }
        let call = self.link.call(request, Lane::Ordinary);
        Box::pin(async move { call.await.map_err(|error| error.status) })
    }
}

/// Who has to prove its name at the beginning of a route.
fn whom(route: &Route) -> Whom<'_> {
    match route {
        Route::WebRtc(signaler) => whom_of(signaler),
        Route::Direct(_) | Route::Unix(_) => Whom::Machine,
    }
}

fn whom_of(signaler: &Signaler) -> Whom<'_> {
    match signaler {
        Signaler::Machine(_) => Whom::Machine,
        Signaler::Cloud { host, port } => Whom::Cloud { host, port: *port },
    }
}

fn stage_of(stage: transport::Stage) -> Stage {
    match stage {
        transport::Stage::Tcp => Stage::Tcp,
        transport::Stage::Tls => Stage::Tls,
        transport::Stage::Http2 => Stage::Http2,
    }
}

/// Checks the path of a peer connection, and reports the answer.
pub(super) async fn check(attempt: Attempt, link: LinkId, control: Control, inputs: mpsc::UnboundedSender<Input>) {
    if let Some(rtt) = control.probe().await {
        let _ = inputs.send(Input::Probed { attempt, link, rtt, boot: None });
    }
}

/// Asks the cheapest question and reports the answer, whatever it is.
pub(super) async fn probe(attempt: Attempt, carrier: Arc<Carrier>, inputs: mpsc::UnboundedSender<Input>) {
    let (began, link) = (Instant::now(), &carrier.link);
    let answer = tokio::time::timeout(PROBE_LIMIT, link.call(question(&carrier.pass), Lane::Reserved)).await;
    if link.is_refused() {
        let _ = inputs.send(Input::Refused { link: link.info().id });
    }
    if let Ok(Ok(answer)) = answer {
        carrier.pass.learn(answer.headers());
        let named = answer.headers().get(BOOT_HEADER).and_then(|value| value.to_str().ok());
        let boot = named.and_then(|text| u128::from_str_radix(text, 16).ok());
        let _ = inputs.send(Input::Probed { attempt, link: link.info().id, rtt: began.elapsed(), boot });
    }
}

/// Resolves with a link's end.
pub(super) async fn watch(link: Link, inputs: mpsc::UnboundedSender<Input>) {
    let why = link.closed().await;
    let id: LinkId = link.info().id;
    let _ = inputs.send(Input::Closed { link: id, why });
}

/// Reports every stall of a peer connection, until it ends.
pub(super) async fn stalls(link: LinkId, mut stalled: watch::Receiver<bool>, inputs: mpsc::UnboundedSender<Input>) {
    while stalled.wait_for(|stalled| *stalled).await.is_ok() {
        if inputs.send(Input::Stalled { link }).is_err() || stalled.wait_for(|stalled| !stalled).await.is_err() {
            return;
        }
    }
}
