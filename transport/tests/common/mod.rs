//! A machine's port in this process: RobotService with what the tests need, over any security.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::SocketAddr;
use std::sync::Arc;

use machine_api::viam::common::v1 as common_api;
use machine_api::viam::component::base::v1 as base;
use machine_api::viam::component::base::v1::base_service_server::{BaseService, BaseServiceServer};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use transport::serve::{ConnectionEvent, Listener, ServeOptions, serve};

/// The name that the machine's certificate bears.
pub const NAME: &str = "m-main.loc1.viam.cloud";

/// A base whose Stop answers at once and whose MoveStraight waits until it is released or dropped.
#[derive(Clone)]
pub struct Peer {
    started: Arc<Semaphore>,
    pub dropped: Arc<Notify>,
    pub release: Arc<Notify>,
}

impl Peer {
    fn new() -> Self {
        Self { started: Arc::new(Semaphore::new(0)), dropped: Arc::default(), release: Arc::default() }
    }

    /// Waits until `calls` more moves have begun.
    pub async fn began(&self, calls: u32) {
        self.started.acquire_many(calls).await.expect("never closed").forget();
    }
}

struct OnDrop(Arc<Notify>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[tonic::async_trait]
impl BaseService for Peer {
    async fn move_straight(
        &self,
        _: Request<base::MoveStraightRequest>,
    ) -> Result<Response<base::MoveStraightResponse>, Status> {
        let _gone = OnDrop(self.dropped.clone());
        self.started.add_permits(1);
        self.release.notified().await;
        Ok(Response::new(base::MoveStraightResponse {}))
    }

    async fn spin(&self, _: Request<base::SpinRequest>) -> Result<Response<base::SpinResponse>, Status> {
        Err(Status::unimplemented("spin"))
    }

    async fn set_power(&self, _: Request<base::SetPowerRequest>) -> Result<Response<base::SetPowerResponse>, Status> {
        Err(Status::unimplemented("set_power"))
    }

    async fn set_velocity(
        &self,
        _: Request<base::SetVelocityRequest>,
    ) -> Result<Response<base::SetVelocityResponse>, Status> {
        Err(Status::unimplemented("set_velocity"))
    }

    async fn stop(&self, _: Request<base::StopRequest>) -> Result<Response<base::StopResponse>, Status> {
        Ok(Response::new(base::StopResponse {}))
    }

    async fn is_moving(&self, _: Request<base::IsMovingRequest>) -> Result<Response<base::IsMovingResponse>, Status> {
        Ok(Response::new(base::IsMovingResponse { is_moving: true }))
    }

    async fn do_command(
        &self,
        r: Request<common_api::DoCommandRequest>,
    ) -> Result<Response<common_api::DoCommandResponse>, Status> {
        Ok(Response::new(common_api::DoCommandResponse { result: r.into_inner().command }))
    }

    async fn get_status(
        &self,
        _: Request<common_api::GetStatusRequest>,
    ) -> Result<Response<common_api::GetStatusResponse>, Status> {
        Err(Status::unimplemented("get_status"))
    }

    async fn get_geometries(
        &self,
        _: Request<common_api::GetGeometriesRequest>,
    ) -> Result<Response<common_api::GetGeometriesResponse>, Status> {
        Err(Status::unimplemented("get_geometries"))
    }

    async fn get_properties(
        &self,
        _: Request<base::GetPropertiesRequest>,
    ) -> Result<Response<base::GetPropertiesResponse>, Status> {
        Err(Status::unimplemented("get_properties"))
    }
}

/// A served port; it ends with the value.
pub struct Port {
    pub address: SocketAddr,
    pub peer: Peer,
    pub events: mpsc::UnboundedReceiver<ConnectionEvent>,
    pub shutdown: CancellationToken,
    pub served: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

pub async fn port(options: ServeOptions) -> Port {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (events_in, events) = mpsc::unbounded_channel();
    let (peer, shutdown) = (Peer::new(), CancellationToken::new());
    let grpc = tonic::service::Routes::new(BaseServiceServer::new(peer.clone()));
    let forward = move |event| {
        let _ = events_in.send(event);
    };
    let served = tokio::spawn(serve(Listener::Tcp(listener), grpc, options, forward, shutdown.clone()));
    Port { address, peer, events, shutdown, served }
}

/// An authority, and a machine's certificate and key that it signed.
pub struct Identity {
    pub ca: String,
    pub chain: String,
    pub key: String,
}

pub fn identity(name: &str) -> Identity {
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "test authority");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().expect("a key")).expect("an authority");
    let mut leaf = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    leaf.distinguished_name.push(DnType::CommonName, name);
    leaf.use_authority_key_identifier_extension = true;
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().expect("a key");
    let leaf = leaf.signed_by(&key, &ca).expect("a certificate");
    Identity { ca: ca.pem(), chain: leaf.pem(), key: key.serialize_pem() }
}
