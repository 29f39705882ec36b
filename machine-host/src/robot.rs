//! RobotService: the machine as a whole.

use std::sync::Arc;
use std::time::SystemTime;

use machine_api::viam::common::v1::ResourceName as WireName;
use machine_api::viam::robot::v1::robot_service_server::RobotService;
use machine_api::viam::robot::v1::*;
use machine_api::{BEARER_HEADER, BOOT_HEADER, ORDER_HEADER};
use session_core::SessionId;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Response, Status};
use transport::serve::PeerConnection;
use uuid::Uuid;

use crate::component::{Components, SERVICES};
use crate::guard::{self, Caller, order};
use crate::{ResourceName, guard::no_session};

/// What the service tells of its machine.
pub(crate) struct Robot {
    pub(crate) machine: Arc<guard::Machine>,
    pub(crate) components: Components,
    /// The process's id, new at every start; `None`: clients are told nothing of what existing machines do not have.
    pub(crate) boot: Option<String>,
    pub(crate) started: SystemTime,
    /// The version of the program, for GetVersion.
    pub(crate) version: String,
    /// The machine's name in its cloud, split: `<machine>.<location>.viam.cloud`.
    pub(crate) name: String,
}

impl Robot {
    /// Says which process of the machine answers, and what it takes.
    fn introduce(&self, headers: &mut MetadataMap) {
        let Some(boot) = &self.boot else { return };
        if let Ok(boot) = boot.parse() {
            headers.insert(BOOT_HEADER, boot);
        }
        headers.insert(BEARER_HEADER, MetadataValue::from_static("1"));
    }
}

/// The version of the protocol's definitions that the messages were written from.
const API_VERSION: &str = "v0.1.530";

#[tonic::async_trait]
impl RobotService for Robot {
    async fn resource_names(
        &self,
        _: Request<ResourceNamesRequest>,
    ) -> Result<Response<ResourceNamesResponse>, Status> {
        let resources = self.components.names().iter().map(wire).collect();
        Ok(Response::new(ResourceNamesResponse { resources }))
    }

    async fn resource_rpc_subtypes(
        &self,
        _: Request<ResourceRpcSubtypesRequest>,
    ) -> Result<Response<ResourceRpcSubtypesResponse>, Status> {
        let present = self.components.names();
        let row = |(subtype, service): &(&str, &str)| ResourceRpcSubtype {
            subtype: Some(wire(&ResourceName::component(*subtype, ""))),
            proto_service: (*service).to_owned(),
        };
        let present = |(subtype, _): &&(&str, &str)| present.iter().any(|n| *n.subtype == **subtype);
        let resource_rpc_subtypes = SERVICES.iter().filter(present).map(row).collect();
        Ok(Response::new(ResourceRpcSubtypesResponse { resource_rpc_subtypes }))
    }

    async fn start_session(
        &self,
        request: Request<StartSessionRequest>,
    ) -> Result<Response<StartSessionResponse>, Status> {
        let caller = caller(&request)?;
        let resume = request.into_inner().resume;
        let resume = if resume.is_empty() { None } else { Some(session_id("resume", &resume)?) };
        let fresh = SessionId(Uuid::new_v4().as_u128());
        let started = self.machine.safety.start(fresh, resume, caller.owner);
        let started = started.map_err(|full| Status::resource_exhausted(full.to_string()))?;
        self.machine.safety.heard(started.id, &caller.peer);
        let window = prost_types::Duration::try_from(started.window)
            .map_err(|_| Status::internal("the machine's window is out of range"))?;
        let mut response =
            Response::new(StartSessionResponse { id: started.id.to_string(), heartbeat_window: Some(window) });
        let headers = response.metadata_mut();
        if self.boot.is_some() {
            headers.insert(ORDER_HEADER, MetadataValue::from_static("1"));
        }
        self.introduce(headers);
        Ok(response)
    }

    async fn send_session_heartbeat(
        &self,
        request: Request<SendSessionHeartbeatRequest>,
    ) -> Result<Response<SendSessionHeartbeatResponse>, Status> {
        let caller = caller(&request)?;
        let order = order(request.metadata().as_ref())?;
        let id = session_id("the session's id", &request.into_inner().id)?;
        let beat = self.machine.safety.beat(id, &caller.owner, order.as_ref());
        beat.map_err(|gone| no_session(gone, self.machine.safety.now()))?;
        self.machine.safety.heard(id, &caller.peer);
        Ok(Response::new(SendSessionHeartbeatResponse {}))
    }

    async fn get_sessions(&self, _: Request<GetSessionsRequest>) -> Result<Response<GetSessionsResponse>, Status> {
        let sessions = self.machine.safety.contacts().into_iter().map(|(id, contact)| Session {
            id: id.to_string(),
            peer_connection_info: contact.map(|peer| peer_info(&peer)),
        });
        Ok(Response::new(GetSessionsResponse { sessions: sessions.collect() }))
    }

    async fn get_operations(
        &self,
        _: Request<GetOperationsRequest>,
    ) -> Result<Response<GetOperationsResponse>, Status> {
        let operations = self.machine.operations.list().into_iter().map(|operation| Operation {
            id: operation.id.to_string(),
            method: operation.method,
            arguments: Some(prost_types::Struct::default()),
            started: Some(operation.started.into()),
            session_id: operation.session.map(|id| id.to_string()),
        });
        Ok(Response::new(GetOperationsResponse { operations: operations.collect() }))
    }

    async fn cancel_operation(
        &self,
        request: Request<CancelOperationRequest>,
    ) -> Result<Response<CancelOperationResponse>, Status> {
        if let Ok(id) = request.into_inner().id.parse() {
            self.machine.operations.cancel(id);
        }
        Ok(Response::new(CancelOperationResponse {}))
    }

    async fn block_for_operation(
        &self,
        request: Request<BlockForOperationRequest>,
    ) -> Result<Response<BlockForOperationResponse>, Status> {
        if let Ok(id) = request.into_inner().id.parse() {
            self.machine.operations.ended(id).await;
        }
        Ok(Response::new(BlockForOperationResponse {}))
    }

    async fn stop_all(&self, _: Request<StopAllRequest>) -> Result<Response<StopAllResponse>, Status> {
        Err(Status::internal("StopAll is answered before the services"))
    }

    async fn frame_system_config(
        &self,
        _: Request<FrameSystemConfigRequest>,
    ) -> Result<Response<FrameSystemConfigResponse>, Status> {
        Ok(Response::new(FrameSystemConfigResponse::default()))
    }

    async fn get_cloud_metadata(
        &self,
        _: Request<GetCloudMetadataRequest>,
    ) -> Result<Response<GetCloudMetadataResponse>, Status> {
        let mut labels = self.name.split('.');
        let machine = labels.next().unwrap_or_default().to_owned();
        let location_id = labels.next().unwrap_or_default().to_owned();
        Ok(Response::new(GetCloudMetadataResponse {
            machine_id: machine.clone(),
            machine_part_id: machine,
            location_id,
            ..Default::default()
        }))
    }

    async fn get_machine_status(
        &self,
        _: Request<GetMachineStatusRequest>,
    ) -> Result<Response<GetMachineStatusResponse>, Status> {
        let row = |name: &ResourceName| ResourceStatus {
            name: Some(wire(name)),
            state: resource_status::State::Ready.into(),
            last_updated: Some(self.started.into()),
            ..Default::default()
        };
        Ok(Response::new(GetMachineStatusResponse {
            resources: self.components.names().iter().map(row).collect(),
            config: Some(ConfigStatus { revision: String::new(), last_updated: Some(self.started.into()) }),
            state: get_machine_status_response::State::Running.into(),
            ..Default::default()
        }))
    }

    async fn get_version(&self, _: Request<GetVersionRequest>) -> Result<Response<GetVersionResponse>, Status> {
        let mut response = Response::new(GetVersionResponse {
            platform: "lifeline".to_owned(),
            version: self.version.clone(),
            api_version: API_VERSION.to_owned(),
        });
        // The answer to a client's probes.
        self.introduce(response.metadata_mut());
        Ok(response)
    }
}

fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| Status::internal("the request came from nobody"))
}

fn session_id(what: &str, text: &str) -> Result<SessionId, Status> {
    text.parse().map_err(|e| Status::invalid_argument(format!("{what}: {e}")))
}

fn wire(name: &ResourceName) -> WireName {
    WireName {
        namespace: "rdk".to_owned(),
        r#type: "component".to_owned(),
        subtype: name.subtype.to_string(),
        name: name.name.to_string(),
    }
}

/// Where a session speaks from: addresses, or over WebRTC the candidates of the pair that packets go between now.
fn peer_info(peer: &PeerConnection) -> PeerConnectionInfo {
    let (kind, remote, local) = match peer.pair() {
        Some(pair) => (PeerConnectionType::Webrtc, Some(pair.remote.to_string()), Some(pair.local.to_string())),
        None => {
            let text = |address: Option<std::net::SocketAddr>| address.map(|a| a.to_string());
            (PeerConnectionType::Grpc, text(peer.remote), text(peer.local))
        }
    };
    PeerConnectionInfo { r#type: kind.into(), remote_address: remote, local_address: local }
}
