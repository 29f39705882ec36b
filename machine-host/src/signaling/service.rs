//! The gRPC service in front of a queue.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use machine_api::google::rpc;
use machine_api::proto::rpc::webrtc::v1::signaling_service_server::{SignalingService, SignalingServiceServer};
use machine_api::proto::rpc::webrtc::v1::{
    AnswerRequest, AnswerResponse, CallRequest, CallResponse, CallResponseInitStage, CallResponseUpdateStage,
    CallUpdateRequest, CallUpdateResponse, OptionalWebRtcConfigRequest, OptionalWebRtcConfigResponse,
    ReportConnectionMetadataRequest, ReportConnectionMetadataResponse, WebRtcConfig, call_response,
    call_update_request,
};
use tonic::codegen::BoxStream;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status, Streaming};
use uuid::Uuid;

use super::exchange::{Answering, run};
use super::rate::Rates;
use super::{
    Access, CREDENTIAL_TYPE, Call, CallQueue, FromAnswerer, FromCaller, MAX_HOST, MAX_SDP, Offer, Party, RateLimit,
    Refused, check_sdp, plain,
};
use crate::Principal;

/// The header that names the machine.
const HOST: &str = "rpc-host";
/// Hosts that one answerer may have.
const MAX_HOSTS: usize = 5;
/// Largest message that is read: the largest SDP with what is around it.
const MAX_REQUEST: usize = MAX_SDP + (16 << 10);

/// How the service behaves.
#[derive(Clone, Debug)]
pub struct SignalingOptions {
    /// How often an answerer that waits is told that the service is there. Default 15 s.
    pub heartbeat: Duration,
    /// How often the same caller may call the same host; as often as it likes where `None`, the default.
    pub rate: Option<RateLimit>,
}

impl Default for SignalingOptions {
    fn default() -> Self {
        Self { heartbeat: Duration::from_secs(15), rate: None }
    }
}

/// The signaling service. Requests bear the [`Party`] that signals in their extensions.
#[derive(Clone)]
pub struct Signaling {
    queue: Arc<dyn CallQueue>,
    access: Arc<dyn Access>,
    heartbeat: Duration,
    rates: Option<Arc<Mutex<Rates>>>,
}

impl fmt::Debug for Signaling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signaling")
    }
}

impl Signaling {
    /// The service over `queue`, for whom `access` lets in.
    pub fn new(queue: Arc<dyn CallQueue>, access: Arc<dyn Access>, options: &SignalingOptions) -> Self {
        let rates = options.rate.map(|limit| Arc::new(Mutex::new(Rates::new(limit))));
        Self { queue, access, heartbeat: options.heartbeat, rates }
    }

    /// As what tonic routes to, with bounds on what is read.
    pub fn into_server(self) -> SignalingServiceServer<Self> {
        SignalingServiceServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }

    /// The one host of a caller's request, if it may call it.
    fn called<T>(&self, request: &Request<T>) -> Result<(Party, String), Status> {
        let party = party(request)?;
        let mut hosts = hosts(request.metadata(), 1)?;
        let host = self.known(&hosts.pop().unwrap_or_default())?;
        self.access.may_call(&party.principal, &host)?;
        Ok((party, host))
    }

    /// What a host is called here.
    fn known(&self, host: &str) -> Result<String, Status> {
        // Existing clients know these words: there is no signaling for this machine here, a direct connection may do.
        self.access.host(host).ok_or_else(|| Status::invalid_argument("host not preconfigured"))
    }

    /// The hosts of an answerer's request, as they are called here.
    fn answered<T>(&self, request: &Request<T>) -> Result<Vec<String>, Status> {
        let mut known = Vec::new();
        for host in hosts(request.metadata(), MAX_HOSTS)? {
            let host = self.known(&host)?;
            if !known.contains(&host) {
                known.push(host);
            }
        }
        Ok(known)
    }

    fn count(&self, method: &str, principal: &Principal, host: &str) -> Result<(), Status> {
        let Some(rates) = &self.rates else { return Ok(()) };
        let key = format!("{method} {host} by {} {}", principal.kind, principal.id);
        let mut rates = rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.count(&key, Instant::now()).map_err(Status::resource_exhausted)
    }
}

/// Whoever authenticated the request has said who it is.
fn party<T>(request: &Request<T>) -> Result<Party, Status> {
    request.extensions().get::<Party>().cloned().ok_or_else(|| Status::unauthenticated("authentication required"))
}

/// The hosts that a request names, each once. Their errors have the code and the words of existing services.
fn hosts(metadata: &MetadataMap, most: usize) -> Result<Vec<String>, Status> {
    let mut hosts = Vec::new();
    for (i, host) in metadata.get_all(HOST).iter().enumerate() {
        if i == most {
            return Err(Status::unknown(if most == 1 { "expected 1 rpc-host" } else { "too many rpc-host" }));
        }
        match host.to_str() {
            Ok("") => return Err(Status::unknown("expected non-empty rpc-host")),
            Ok(host) if host.len() <= MAX_HOST => {
                if !hosts.iter().any(|h| h == host) {
                    hosts.push(host.to_owned());
                }
            }
            _ => return Err(Status::invalid_argument("host not preconfigured")),
        }
    }
    match hosts.is_empty() {
        true if most == 1 => Err(Status::unknown("expected 1 rpc-host")),
        true => Err(Status::unknown("expected rpc-host to be set in metadata")),
        false => Ok(hosts),
    }
}

#[tonic::async_trait]
impl SignalingService for Signaling {
    async fn call(&self, request: Request<CallRequest>) -> Result<Response<BoxStream<CallResponse>>, Status> {
        let (party, host) = self.called(&request)?;
        self.count("Call", &party.principal, &host)?;
        let CallRequest { sdp, disable_trickle } = request.into_inner();
        check_sdp(&sdp)?;
        let call = self.queue.call(Offer { host, sdp, disable_trickle, caller: party.principal }).await?;
        Ok(Response::new(answers(call)))
    }

    async fn call_update(&self, request: Request<CallUpdateRequest>) -> Result<Response<CallUpdateResponse>, Status> {
        let (party, host) = self.called(&request)?;
        let CallUpdateRequest { uuid, update } = request.into_inner();
        let said = match update {
            Some(call_update_request::Update::Candidate(candidate)) => FromCaller::Candidate(candidate),
            Some(call_update_request::Update::Error(status)) => FromCaller::Error(plain(status)),
            Some(call_update_request::Update::Done(true)) => FromCaller::Done,
            // Nothing that we know of, so nothing to pass on: later versions may say more.
            Some(call_update_request::Update::Done(false)) | None => return Ok(Response::new(CallUpdateResponse {})),
        };
        said.check()?;
        if uuid.is_empty() && matches!(said, FromCaller::Error(_)) {
            // A caller that gives up before it has heard its id; its stream ends with that.
            return Ok(Response::new(CallUpdateResponse {}));
        }
        let Ok(id) = uuid.parse::<Uuid>() else {
            let shown: String = uuid.chars().take(64).collect();
            return Err(Status::not_found(format!("no active offer for {shown:?}")));
        };
        self.queue.update(id, &party.principal, &host, said).await?;
        Ok(Response::new(CallUpdateResponse {}))
    }

    async fn answer(
        &self,
        request: Request<Streaming<AnswerResponse>>,
    ) -> Result<Response<BoxStream<AnswerRequest>>, Status> {
        let party = party(&request)?;
        let hosts = self.answered(&request)?;
        for host in &hosts {
            self.access.may_answer(&party.principal, host)?;
        }
        self.count("Answer", &party.principal, &hosts[0])?;
        let wants_heartbeats = request.metadata().get("heartbeats-allowed").is_some_and(|v| v == "true");
        let answering = Answering {
            queue: self.queue.clone(),
            access: self.access.clone(),
            heartbeat: wants_heartbeats.then_some(self.heartbeat),
            party,
            hosts,
        };
        Ok(Response::new(run(answering, request.into_inner())))
    }

    async fn optional_web_rtc_config(
        &self,
        request: Request<OptionalWebRtcConfigRequest>,
    ) -> Result<Response<OptionalWebRtcConfigResponse>, Status> {
        let party = party(&request)?;
        let hosts = self.answered(&request)?;
        for host in &hosts {
            if self.access.may_answer(&party.principal, host).is_err() {
                self.access.may_call(&party.principal, host)?;
            }
        }
        let additional_ice_servers = self.access.ice_servers(&party.principal, &hosts[0]);
        let config = WebRtcConfig { additional_ice_servers, disable_trickle: false };
        Ok(Response::new(OptionalWebRtcConfigResponse { config: Some(config) }))
    }

    /// Telemetry of newer clients: taken, and not kept.
    async fn report_connection_metadata(
        &self,
        _: Request<ReportConnectionMetadataRequest>,
    ) -> Result<Response<ReportConnectionMetadataResponse>, Status> {
        Ok(Response::new(ReportConnectionMetadataResponse {}))
    }
}

/// What the caller is told, until the machine has said everything.
fn answers(call: Call) -> BoxStream<CallResponse> {
    futures_util::stream::unfold(Some(call), |call| async move {
        let mut call = call?;
        let said = call.answers.recv().await?;
        let response = |stage| CallResponse { uuid: call.id.to_string(), stage: Some(stage) };
        match said {
            Ok(FromAnswerer::Answer(sdp)) => {
                Some((Ok(response(call_response::Stage::Init(CallResponseInitStage { sdp }))), Some(call)))
            }
            Ok(FromAnswerer::Candidate(candidate)) => {
                let update = CallResponseUpdateStage { candidate: Some(candidate) };
                Some((Ok(response(call_response::Stage::Update(update))), Some(call)))
            }
            Ok(FromAnswerer::Done) => None,
            Ok(FromAnswerer::Error(status)) => Some((Err(from_answerer(&status)), None)),
            Err(refused) => Some((Err(Status::from(refused)), None)),
        }
    })
    .boxed()
}

/// What the machine said, with its code: a client that hears RESOURCE_EXHAUSTED tries again.
fn from_answerer(status: &rpc::Status) -> Status {
    let code = match Code::from_i32(status.code) {
        Code::Ok => Code::Unknown,
        code => code,
    };
    Status::new(code, format!("error from answerer: {}", status.message))
}

/// What is told to an answerer of who calls, beside the entity.
pub(super) fn caller_metadata(principal: &Principal) -> HashMap<String, String> {
    HashMap::from([(CREDENTIAL_TYPE.to_owned(), principal.kind.clone())])
}

/// A refusal as the wire has it.
pub(super) fn refusal(refused: &Refused) -> rpc::Status {
    let status = Status::from(refused.clone());
    rpc::Status { code: status.code() as i32, message: status.message().to_owned(), details: Vec::new() }
}
