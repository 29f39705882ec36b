//! The machine over a data channel: the same guard, the same sessions, another way of knowing who calls.

mod rig;

use std::time::Duration;

use machine_api::proto::rpc::v1::{AuthenticateRequest, Credentials, auth_service_client::AuthServiceClient};
use machine_api::viam::component::motor::v1::motor_service_client::MotorServiceClient;
use machine_api::viam::robot::v1::robot_service_client::RobotServiceClient;
use machine_api::viam::robot::v1::*;
use rig::{Rig, power, with};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};
use transport::serve::Introduced;
use transport::webrtc::{DataChannel, PairLimits, service};
use transport::{Body, Lane, Link};

const W: Duration = Duration::from_millis(300);
const KEY: (&str, &str) = ("6a1b0f8e-8f0e-4b0e-9a53-2f0f3c1d5e77", "secret");

/// Calls as generated clients do.
#[derive(Clone)]
struct Calls(Link);

impl tower::Service<http::Request<Body>> for Calls {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Status>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let call = self.0.call(request, Lane::Ordinary);
        Box::pin(async move { call.await.map_err(|e| e.status) })
    }
}

/// A caller whom the signaling service introduced like this.
fn caller(rig: &Rig, credential: Option<(&str, &str)>) -> Calls {
    let (near, far) = DataChannel::pair(PairLimits::default());
    let credential = credential.map(|(kind, id)| (kind.to_owned(), id.to_owned()));
    let introduced = Introduced { credential, hosts: vec!["rig-main.loc1.viam.cloud".into()] };
    let machine = rig.machine.clone();
    tokio::spawn(async move { machine.serve_channel(far, introduced, CancellationToken::new()).await });
    Calls(service::link(near))
}

#[tokio::test]
async fn a_session_over_webrtc_moves_a_motor_and_stops_it_when_its_client_is_gone() {
    let rig = Rig::start(W, &[]).await;
    let caller = caller(&rig, None);
    let mut robot = RobotServiceClient::new(caller.clone());
    let id = robot.start_session(StartSessionRequest::default()).await.expect("started").into_inner().id;
    let mut motor = MotorServiceClient::new(caller.clone());
    motor.set_power(with(power("m1", 1.0), "viam-sid", &id)).await.expect("moved");
    let sessions = robot.get_sessions(GetSessionsRequest {}).await.expect("listed").into_inner().sessions;
    let peer = sessions[0].peer_connection_info.clone().expect("where it speaks from");
    assert_eq!(peer.r#type, PeerConnectionType::Webrtc as i32);
    assert!(peer.remote_address.expect("a candidate").starts_with("host "));
    assert_eq!(rig.writes("m1"), [0.0, 1.0]);
    caller.0.sever("the client is gone");
    rig.until(|rig| rig.writes("m1") == [0.0, 1.0, 0.0]).await;
}

#[tokio::test]
async fn s13_sessions_of_every_owner_are_listed_each_with_where_it_speaks_from() {
    let rig = Rig::start(Duration::from_secs(5), &[KEY]).await;
    let bearer = bearer(&rig).await;
    let mut direct = RobotServiceClient::new(rig.channel());
    let start = with(StartSessionRequest::default(), "authorization", &bearer);
    let mine = direct.start_session(start).await.expect("started").into_inner().id;
    let mut strange = RobotServiceClient::new(caller(&rig, Some(("api-key", "another"))));
    let theirs = strange.start_session(StartSessionRequest::default()).await.expect("started").into_inner().id;
    let list = with(GetSessionsRequest {}, "authorization", &bearer);
    let sessions = direct.get_sessions(list).await.expect("listed").into_inner().sessions;
    assert_eq!(sessions.len(), 2);
    for session in sessions {
        let peer = session.peer_connection_info.expect("where it speaks from");
        let (local, remote) = (peer.local_address.expect("our end"), peer.remote_address.expect("their end"));
        if session.id == mine {
            assert_eq!(peer.r#type, PeerConnectionType::Grpc as i32);
            remote.parse::<std::net::SocketAddr>().expect("ip:port");
        } else {
            assert_eq!((session.id, peer.r#type), (theirs.clone(), PeerConnectionType::Webrtc as i32));
            assert!(local.starts_with("host ") && remote.starts_with("host "), "both candidates: {local} {remote}");
        }
    }
}

/// The header of who knows the key.
async fn bearer(rig: &Rig) -> String {
    let credentials = Credentials { r#type: "api-key".into(), payload: KEY.1.into() };
    let request = AuthenticateRequest { entity: KEY.0.into(), credentials: Some(credentials) };
    let token = AuthServiceClient::new(rig.channel()).authenticate(request).await.expect("a token").into_inner();
    format!("Bearer {}", token.access_token)
}

#[tokio::test]
async fn what_a_caller_without_a_session_moved_stops_with_its_channel() {
    let rig = Rig::start(W, &[]).await;
    let caller = caller(&rig, None);
    MotorServiceClient::new(caller.clone()).set_power(power("m1", 1.0)).await.expect("moved");
    let began = std::time::Instant::now();
    caller.0.sever("the client is gone");
    rig.until(|rig| rig.writes("m1") == [0.0, 1.0, 0.0]).await;
    assert!(began.elapsed() < W, "at once, not after a window");
}

#[tokio::test]
async fn a_session_belongs_to_its_principal_and_not_to_its_route() {
    let rig = Rig::start(Duration::from_secs(5), &[KEY]).await;
    let bearer = bearer(&rig).await;
    let mut direct = RobotServiceClient::new(rig.channel());
    let start = with(StartSessionRequest::default(), "authorization", &bearer);
    let id = direct.start_session(start).await.expect("started").into_inner().id;
    let beat = |caller: Calls| {
        let id = id.clone();
        async move {
            let beat = SendSessionHeartbeatRequest { id };
            RobotServiceClient::new(caller).send_session_heartbeat(Request::new(beat)).await
        }
    };
    beat(caller(&rig, Some(("api-key", KEY.0)))).await.expect("the same principal by another route");
    for other in [None, Some(("api-key", "another")), Some(("location-secret", KEY.0))] {
        beat(caller(&rig, other)).await.expect_err("a foreign session");
    }
}
