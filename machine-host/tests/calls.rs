//! The whole machine over real sockets, called by a plain gRPC client that knows nothing of it.

mod rig;

use std::time::Duration;

use machine_api::proto::rpc::v1::auth_service_client::AuthServiceClient;
use machine_api::proto::rpc::v1::{AuthenticateRequest, Credentials};
use machine_api::viam::component::base::v1::IsMovingRequest;
use machine_api::viam::component::base::v1::base_service_client::BaseServiceClient;
use machine_api::viam::component::motor::v1::{GoForRequest, StopRequest};
use machine_api::viam::robot::v1::robot_service_client::RobotServiceClient;
use machine_api::viam::robot::v1::*;
use machine_api::{NOT_RUN, SAFETY_NAMES_HEADER, SESSION_EXPIRED};
use machine_host::SafetyOptions;
use rig::{Rig, power, with};
use tonic::{Code, Request};

const W: Duration = Duration::from_millis(300);

#[tokio::test]
async fn s01_a_session_has_an_id_and_the_machines_window() {
    let rig = Rig::with(W, &[], |options| options.safety = SafetyOptions::default()).await;
    let reply = rig.robot().start_session(StartSessionRequest::default()).await.expect("started");
    assert_eq!(reply.metadata().get("lifeline-order").expect("announced"), "1");
    assert_eq!(reply.metadata().get("lifeline-boot").expect("told").len(), 32);
    let reply = reply.into_inner();
    assert_eq!(uuid::Uuid::parse_str(&reply.id).expect("a uuid").get_version_num(), 4);
    assert_eq!(reply.heartbeat_window, Some(prost_types::Duration { seconds: 2, nanos: 0 }));
    let sessions = rig.robot().get_sessions(GetSessionsRequest {}).await.expect("listed").into_inner().sessions;
    assert_eq!(sessions.len(), 1);
    let peer = sessions[0].peer_connection_info.clone().expect("where it speaks from");
    assert_eq!(peer.r#type, PeerConnectionType::Grpc as i32);
    assert!(peer.remote_address.expect("an address").starts_with("127.0.0.1:"));
}

#[tokio::test]
async fn a_machine_without_order_says_nothing_of_it() {
    let rig = Rig::with(W, &[], |options| options.order = false).await;
    let session = rig.robot().start_session(StartSessionRequest::default()).await.expect("started");
    let version = rig.robot().get_version(GetVersionRequest {}).await.expect("answered");
    for metadata in [session.metadata(), version.metadata()] {
        let ours = ["lifeline-order", "lifeline-boot", "lifeline-bearer"];
        assert!(ours.iter().all(|header| metadata.get(*header).is_none()), "{metadata:?}");
    }
}

#[tokio::test]
async fn s02_sessions_have_the_window_that_was_configured() {
    for (sessions, seconds, nanos) in
        [(r#"{"heartbeat_window": "5s"}"#, 5, 0), (r#"{"heartbeat_window": "30ms"}"#, 0, 30_000_000), ("{}", 2, 0)]
    {
        let file = format!(r#"{{"network": {{"sessions": {sessions}}}}}"#);
        let configured = machine_host::config::Config::parse(&file).expect("a good file");
        let rig = Rig::start(configured.window, &[]).await;
        let reply = rig.robot().start_session(StartSessionRequest::default()).await.expect("started").into_inner();
        assert_eq!(reply.heartbeat_window, Some(prost_types::Duration { seconds, nanos }), "{sessions}");
    }
}

#[tokio::test]
async fn s07_an_unknown_session_is_told_so_and_moves_nothing() {
    let rig = Rig::start(W, &[]).await;
    let unknown = uuid::Uuid::new_v4().to_string();
    let beat = rig.robot().send_session_heartbeat(SendSessionHeartbeatRequest { id: unknown.clone() }).await;
    let call = rig.motor().set_power(with(power("m1", 1.0), "viam-sid", &unknown)).await;
    for status in [beat.expect_err("gone"), call.expect_err("gone")] {
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, SESSION_EXPIRED));
    }
    assert_eq!(rig.writes("m1"), [0.0], "only the Stop before serving");
}

#[tokio::test]
async fn s10_s11_malformed_ids_are_not_expired_ones() {
    let rig = Rig::start(W, &[]).await;
    let id = rig.session().await;
    let malformed = rig.motor().set_power(with(power("m1", 1.0), "viam-sid", "nonsense")).await;
    let resume = rig.robot().start_session(StartSessionRequest { resume: "nonsense".into() }).await;
    let beat = rig.robot().send_session_heartbeat(SendSessionHeartbeatRequest { id: "nonsense".into() }).await;
    let mut two = with(power("m1", 1.0), "viam-sid", &id);
    two.metadata_mut().append("viam-sid", id.parse().expect("ascii"));
    let two = rig.motor().set_power(two).await.expect_err("two ids");
    assert_eq!(two.message(), "found more than one session id in metadata");
    for status in [malformed.expect_err("malformed"), resume.expect_err("malformed"), beat.expect_err("malformed"), two]
    {
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_ne!(status.message(), SESSION_EXPIRED);
    }
    assert_eq!(rig.writes("m1"), [0.0]);
}

#[tokio::test]
async fn s12_a_bad_id_on_an_unmonitored_call_is_ignored() {
    let rig = Rig::start(W, &[]).await;
    let position =
        Request::new(machine_api::viam::component::motor::v1::IsPoweredRequest { name: "m1".into(), extra: None });
    let mut position = position;
    position.metadata_mut().insert("viam-sid", "nonsense".parse().expect("ascii"));
    rig.motor().is_powered(position).await.expect("answered");
    rig.motor()
        .stop(with(StopRequest { name: "m1".into(), extra: None }, "viam-sid", "nonsense"))
        .await
        .expect("stopped");
}

#[tokio::test]
async fn s16_s17_a_lapse_stops_what_the_session_moved_and_nothing_else() {
    let rig = Rig::start(W, &[]).await;
    let id = rig.session().await;
    let reply = rig.motor().set_power(with(power("m1", 0.5), "viam-sid", &id)).await.expect("moved");
    assert_eq!(reply.metadata().get(SAFETY_NAMES_HEADER).expect("named"), "rdk:component:motor/m1");
    assert!(reply.metadata().contains_key("opid"));
    assert_eq!(rig.writes("m1"), [0.0, 0.5]);
    rig.until(|rig| rig.writes("m1") == [0.0, 0.5, 0.0]).await;
    assert_eq!(rig.writes("m2"), [0.0]);
}

#[tokio::test]
async fn s85_what_a_connection_without_a_session_moved_stops_with_it() {
    let rig = Rig::start(W, &[]).await;
    let mut motor = rig.motor();
    motor.set_power(power("m1", 0.5)).await.expect("moved");
    tokio::time::sleep(2 * W).await;
    assert_eq!(rig.writes("m1"), [0.0, 0.5], "as long as it is there it may drive");
    drop(motor);
    rig.until(|rig| rig.writes("m1") == [0.0, 0.5, 0.0]).await;
}

#[tokio::test]
async fn s41_s42_an_operation_is_listed_cancelled_and_its_motor_stopped() {
    let rig = Rig::start(W, &[]).await;
    let mut motor = rig.motor();
    let moving = tokio::spawn(async move {
        motor.go_for(GoForRequest { name: "m1".into(), rpm: 10.0, revolutions: 100.0, extra: None }).await
    });
    rig.until(|rig| rig.writes("m1").last() == Some(&10.0)).await;
    let mut robot = rig.robot();
    let operations = robot.get_operations(GetOperationsRequest {}).await.expect("listed").into_inner().operations;
    assert_eq!(operations.len(), 1, "not the call itself");
    assert_eq!(operations[0].method, "/viam.component.motor.v1.MotorService/GoFor");
    robot.cancel_operation(CancelOperationRequest { id: operations[0].id.clone() }).await.expect("cancelled");
    robot.block_for_operation(BlockForOperationRequest { id: operations[0].id.clone() }).await.expect("over");
    assert_eq!(moving.await.expect("no panic").expect_err("cancelled").code(), Code::Cancelled);
    rig.until(|rig| rig.writes("m1").last() == Some(&0.0)).await;
    robot.cancel_operation(CancelOperationRequest { id: "unknown".into() }).await.expect("as if it had ended");
}

#[tokio::test]
async fn s45_a_later_command_ends_the_one_before() {
    let rig = Rig::start(W, &[]).await;
    let (mut first, mut second) = (rig.motor(), rig.motor());
    let go = |rpm| GoForRequest { name: "m1".into(), rpm, revolutions: 100.0, extra: None };
    let moving = tokio::spawn(async move { first.go_for(go(10.0)).await });
    rig.until(|rig| rig.writes("m1").last() == Some(&10.0)).await;
    let other = tokio::spawn(async move { second.go_for(go(20.0)).await });
    assert_eq!(moving.await.expect("no panic").expect_err("pre-empted").code(), Code::Cancelled);
    rig.until(|rig| rig.writes("m1").last() == Some(&20.0)).await;
    other.abort();
}

#[tokio::test]
async fn s46_stop_all_stops_everything_and_cancels_the_rest() {
    let rig = Rig::start(W, &[]).await;
    let (mut one, mut two) = (rig.motor(), rig.motor());
    two.set_power(power("m2", 0.7)).await.expect("moved");
    let moving = tokio::spawn(async move {
        one.go_for(GoForRequest { name: "m1".into(), rpm: 10.0, revolutions: 100.0, extra: None }).await
    });
    rig.until(|rig| rig.writes("m1").last() == Some(&10.0)).await;
    rig.robot().stop_all(StopAllRequest::default()).await.expect("stopped");
    assert_eq!(moving.await.expect("no panic").expect_err("cancelled").code(), Code::Cancelled);
    assert_eq!((rig.writes("m1").last(), rig.writes("m2").last()), (Some(&0.0), Some(&0.0)));
}

#[tokio::test]
async fn s48_a_malformed_operation_id_is_replaced() {
    let rig = Rig::start(W, &[]).await;
    let reply = rig.motor().set_power(with(power("m1", 0.1), "opid", "nonsense")).await.expect("ran");
    let given = reply.metadata().get("opid").expect("an id").to_str().expect("ascii").to_owned();
    uuid::Uuid::parse_str(&given).expect("a fresh one");
}

#[tokio::test]
async fn s90_copies_of_a_numbered_call_share_its_outcome_and_its_request_may_die() {
    let rig = Rig::start(W * 10, &[]).await;
    let id = rig.session().await;
    let numbered = |number: u64, open: &str| {
        let mut request =
            with(GoForRequest { name: "m1".into(), rpm: 10.0, revolutions: 0.2, extra: None }, "viam-sid", &id);
        let order = format!("00000000000000aa-{number}; open={open}");
        request.metadata_mut().insert("lifeline-order", order.parse().expect("ascii"));
        request
    };
    let mut dying = rig.motor();
    let request = numbered(1, "");
    let first = tokio::spawn(async move { dying.go_for(request).await });
    rig.until(|rig| rig.writes("m1").last() == Some(&10.0)).await;
    first.abort();
    let reply = rig.motor().go_for(numbered(1, "")).await;
    reply.expect("the outcome of the first copy");
    assert_eq!(rig.writes("m1"), [0.0, 10.0, 0.0], "it ran once, to its end");
    let mut other = with(power("m1", 1.0), "viam-sid", &id);
    other.metadata_mut().insert("lifeline-order", "00000000000000aa-1; open=".parse().expect("ascii"));
    let differs = rig.motor().set_power(other).await;
    assert_eq!(differs.expect_err("another call under its number").code(), Code::InvalidArgument);
    let mut stop = with(StopRequest { name: "m1".into(), extra: None }, "viam-sid", &id);
    stop.metadata_mut().insert("lifeline-order", "00000000000000aa-3; open=".parse().expect("ascii"));
    rig.motor().stop(stop).await.expect("stopped");
    let late = rig.motor().go_for(numbered(2, "")).await.expect_err("given up");
    assert_eq!(late.code(), Code::Aborted);
    assert!(String::from_utf8_lossy(late.details()).contains(NOT_RUN));
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let rig = Rig::start(W, &[]).await;
    let channel = rig.channel();
    let missing = BaseServiceClient::new(channel).is_moving(IsMovingRequest { name: "b".into() }).await;
    let missing = missing.expect_err("no base");
    assert_eq!(missing.code(), Code::NotFound);
    assert_eq!(missing.message(), "resource \"rdk:component:base/b\" not found");
    let status = rig.motor().set_power(power("nobody", 1.0)).await.expect_err("no such motor");
    assert_eq!(status.code(), Code::NotFound);
    let status = rig.motor().stop(StopRequest { name: "nobody".into(), extra: None }).await.expect_err("no such motor");
    assert_eq!(status.code(), Code::NotFound);
    let shutdown = rig.robot().shutdown(ShutdownRequest {}).await.expect_err("not offered");
    assert_eq!(shutdown.code(), Code::Unimplemented);
}

#[tokio::test]
async fn keys_are_asked_for_and_a_token_opens_everything() {
    let rig = Rig::start(W, &[("id", "key")]).await;
    let refused = rig.robot().resource_names(ResourceNamesRequest {}).await.expect_err("nobody");
    assert_eq!(refused.code(), Code::Unauthenticated);
    let authenticate = |key: &str| AuthenticateRequest {
        entity: "id".into(),
        credentials: Some(Credentials { r#type: "api-key".into(), payload: key.into() }),
    };
    let mut auth = AuthServiceClient::new(rig.channel());
    assert_eq!(auth.authenticate(authenticate("wrong")).await.expect_err("wrong").code(), Code::Unauthenticated);
    let token = auth.authenticate(authenticate("key")).await.expect("a token").into_inner().access_token;
    let request = with(ResourceNamesRequest {}, "authorization", &format!("Bearer {token}"));
    let names = RobotServiceClient::new(rig.channel()).resource_names(request).await.expect("let in").into_inner();
    assert_eq!(names.resources.len(), 2);
    let spoofed = with(ResourceNamesRequest {}, "authorization", &format!("Bearer {token}x"));
    let refused = rig.robot().resource_names(spoofed).await.expect_err("another token");
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_component_that_is_removed_is_stopped_and_replaced_ones_keep_working() {
    let rig = Rig::start(W * 10, &[]).await;
    let id = rig.session().await;
    rig.motor().set_power(with(power("m1", 0.5), "viam-sid", &id)).await.expect("moved");
    rig.motor().set_power(with(power("m2", 0.5), "viam-sid", &id)).await.expect("moved");
    rig.machine.remove(&machine_host::ResourceName::component("motor", "m1"));
    rig.until(|rig| rig.writes("m1").last() == Some(&0.0)).await;
    assert_eq!(rig.writes("m2"), [0.0, 0.5], "untouched");
    let gone = rig.motor().set_power(with(power("m1", 0.5), "viam-sid", &id)).await.expect_err("gone");
    assert_eq!(gone.code(), Code::NotFound);
    rig.add("m1");
    rig.motor().set_power(with(power("m1", 0.25), "viam-sid", &id)).await.expect("the same session, a new motor");
}

#[tokio::test]
async fn s15_shutdown_stops_what_moves_and_does_not_hang() {
    let mut rig = Rig::start(W * 10, &[]).await;
    let id = rig.session().await;
    rig.motor().set_power(with(power("m1", 0.5), "viam-sid", &id)).await.expect("moved");
    let started = std::time::Instant::now();
    rig.shutdown().await;
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    assert_eq!(rig.writes("m1").last(), Some(&0.0));
}
