//! A signaling service as small as one can be: offers wait for an answerer, everything else is passed on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use machine_api::google::rpc::Status as RpcStatus;
use machine_api::proto::rpc::webrtc::v1::signaling_service_server::{SignalingService, SignalingServiceServer};
use machine_api::proto::rpc::webrtc::v1::{
    self as api, answer_request, answer_response, call_response, call_update_request,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, Streaming};

struct Offer {
    uuid: String,
    call: api::CallRequest,
    host: String,
    to_caller: mpsc::Sender<Result<api::CallResponse, Status>>,
    updates: mpsc::Receiver<api::CallUpdateRequest>,
}

/// What it was told, for the tests.
#[derive(Default)]
pub struct Seen {
    pub done: u32,
    pub errors: Vec<RpcStatus>,
    pub candidates: u32,
    /// Descriptions of callers, as they came.
    pub offers: Vec<String>,
}

#[derive(Clone)]
pub struct Signaling {
    offers: (async_channel::Sender<Offer>, async_channel::Receiver<Offer>),
    updates: Arc<Mutex<BTreeMap<String, mpsc::Sender<api::CallUpdateRequest>>>>,
    begun: Arc<AtomicU64>,
    pub seen: Arc<Mutex<Seen>>,
    pub servers: Arc<Mutex<Vec<api::IceServer>>>,
    /// Where it serves.
    #[allow(dead_code, reason = "a bench uses this module too")]
    pub address: std::net::SocketAddr,
    pub host: &'static str,
}

/// As small as a queue that several may read can be.
mod async_channel {
    use std::sync::Arc;
    use tokio::sync::{Mutex, mpsc};

    pub type Sender<T> = mpsc::Sender<T>;
    pub type Receiver<T> = Arc<Mutex<mpsc::Receiver<T>>>;

    pub fn bounded<T>(n: usize) -> (Sender<T>, Receiver<T>) {
        let (to, from) = mpsc::channel(n);
        (to, Arc::new(Mutex::new(from)))
    }
}

impl Signaling {
    /// Serves it on loopback; returns it and a client's channel.
    pub async fn start(host: &'static str) -> (Self, Channel) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let service = Self {
            address,
            offers: async_channel::bounded(64),
            updates: Arc::default(),
            begun: Arc::default(),
            seen: Arc::default(),
            servers: Arc::default(),
            host,
        };
        let server = Server::builder().tcp_nodelay(true).add_service(SignalingServiceServer::new(service.clone()));
        // Small messages do not wait for each other's acknowledgements: 40 ms each.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        tokio::spawn(server.serve_with_incoming(incoming));
        let channel =
            Channel::from_shared(format!("http://{address}")).expect("a URL").connect().await.expect("served");
        (service, channel)
    }

    fn host(&self, request: &tonic::metadata::MetadataMap) -> Result<String, Status> {
        let host = request
            .get("rpc-host")
            .and_then(|h| h.to_str().ok())
            .ok_or_else(|| Status::unknown("expected rpc-host"))?;
        if host == self.host { Ok(host.to_owned()) } else { Err(Status::invalid_argument("host not preconfigured")) }
    }
}

#[tonic::async_trait]
impl SignalingService for Signaling {
    async fn call(&self, request: Request<api::CallRequest>) -> Result<Response<BoxStream<api::CallResponse>>, Status> {
        let host = self.host(request.metadata())?;
        let (to_caller, from_answerer) = mpsc::channel(16);
        let (to_answerer, updates) = mpsc::channel(64);
        let uuid = format!("exchange {}", self.begun.fetch_add(1, Ordering::Relaxed));
        self.updates.lock().expect("whole").insert(uuid.clone(), to_answerer);
        let offer = Offer { uuid, call: request.into_inner(), host, to_caller, updates };
        self.offers.0.send(offer).await.map_err(|_| Status::unavailable("closed"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(from_answerer))))
    }

    async fn call_update(
        &self,
        request: Request<api::CallUpdateRequest>,
    ) -> Result<Response<api::CallUpdateResponse>, Status> {
        self.host(request.metadata())?;
        let update = request.into_inner();
        {
            let mut seen = self.seen.lock().expect("whole");
            match &update.update {
                Some(call_update_request::Update::Done(_)) => seen.done += 1,
                Some(call_update_request::Update::Error(e)) => seen.errors.push(e.clone()),
                Some(call_update_request::Update::Candidate(_)) => seen.candidates += 1,
                None => {}
            }
        }
        let is_last = !matches!(update.update, Some(call_update_request::Update::Candidate(_)));
        let to = {
            let mut updates = self.updates.lock().expect("whole");
            if is_last { updates.remove(&update.uuid) } else { updates.get(&update.uuid).cloned() }
        };
        if let Some(to) = to {
            let _ = to.send(update).await;
        }
        Ok(Response::new(api::CallUpdateResponse {}))
    }

    async fn answer(
        &self,
        request: Request<Streaming<api::AnswerResponse>>,
    ) -> Result<Response<BoxStream<api::AnswerRequest>>, Status> {
        self.host(request.metadata())?;
        let mut responses = request.into_inner();
        let (to_answerer, requests) = mpsc::channel(16);
        let this = self.clone();
        tokio::spawn(async move {
            let heartbeat = api::AnswerRequest {
                uuid: String::new(),
                stage: Some(answer_request::Stage::Heartbeat(Default::default())),
            };
            let _ = to_answerer.send(Ok(heartbeat)).await;
            let offer = tokio::select! {
                offer = async { this.offers.1.lock().await.recv().await } => offer,
                () = to_answerer.closed() => None,
            };
            let Some(mut offer) = offer else { return };
            this.seen.lock().expect("whole").offers.push(offer.call.sdp.clone());
            let config = api::WebRtcConfig {
                additional_ice_servers: this.servers.lock().expect("whole").clone(),
                disable_trickle: offer.call.disable_trickle,
            };
            let init = api::AnswerRequestInitStage {
                sdp: offer.call.sdp.clone(),
                optional_config: Some(config),
                caller_auth_entity: format!("whoever calls {}", offer.host),
                ..Default::default()
            };
            let stage = |stage| Ok(api::AnswerRequest { uuid: offer.uuid.clone(), stage: Some(stage) });
            let _ = to_answerer.send(stage(answer_request::Stage::Init(init))).await;
            loop {
                tokio::select! {
                    Some(update) = offer.updates.recv() => {
                        let stage_of = match update.update {
                            Some(call_update_request::Update::Candidate(candidate)) => {
                                answer_request::Stage::Update(api::AnswerRequestUpdateStage { candidate: Some(candidate) })
                            }
                            Some(call_update_request::Update::Done(_)) => answer_request::Stage::Done(Default::default()),
                            Some(call_update_request::Update::Error(status)) => {
                                answer_request::Stage::Error(api::AnswerRequestErrorStage { status: Some(status) })
                            }
                            None => continue,
                        };
                        let _ = to_answerer.send(stage(stage_of)).await;
                    }
                    response = responses.message() => {
                        let Ok(Some(response)) = response else { return };
                        let stage = match response.stage {
                            Some(answer_response::Stage::Init(init)) => {
                                call_response::Stage::Init(api::CallResponseInitStage { sdp: init.sdp })
                            }
                            Some(answer_response::Stage::Update(update)) => {
                                call_response::Stage::Update(api::CallResponseUpdateStage { candidate: update.candidate })
                            }
                            Some(answer_response::Stage::Error(error)) => {
                                let text = error.status.unwrap_or_default().message;
                                let _ = offer.to_caller.send(Err(Status::unknown(format!("error from answerer: {text}")))).await;
                                return;
                            }
                            _ => return,
                        };
                        let _ = offer.to_caller.send(Ok(api::CallResponse { uuid: offer.uuid.clone(), stage: Some(stage) })).await;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(requests))))
    }

    async fn optional_web_rtc_config(
        &self,
        request: Request<api::OptionalWebRtcConfigRequest>,
    ) -> Result<Response<api::OptionalWebRtcConfigResponse>, Status> {
        self.host(request.metadata())?;
        let additional_ice_servers = self.servers.lock().expect("whole").clone();
        let config = Some(api::WebRtcConfig { additional_ice_servers, disable_trickle: false });
        Ok(Response::new(api::OptionalWebRtcConfigResponse { config }))
    }

    async fn report_connection_metadata(
        &self,
        _: Request<api::ReportConnectionMetadataRequest>,
    ) -> Result<Response<api::ReportConnectionMetadataResponse>, Status> {
        Ok(Response::new(api::ReportConnectionMetadataResponse {}))
    }
}
