//! Callers with and without a session, over real sockets: what they may do, what they leave moving, what they are told.

mod rig;

use std::time::{Duration, Instant};

use machine_api::google::rpc::{ErrorInfo, Status as RpcStatus};
use machine_api::proto::rpc::v1::auth_service_client::AuthServiceClient;
use machine_api::proto::rpc::v1::{AuthenticateRequest, Credentials};
use machine_api::viam::common::v1::DoCommandRequest;
use machine_api::viam::component::motor::v1::StopRequest;
use machine_api::viam::robot::v1::*;
use machine_api::{ERROR_DOMAIN, SESSION_EXPIRED};
use machine_host::{Policy, Safety, SafetyOptions};
use prost::Message;
use rig::{FAILS, PANICS, Rig, power, with};
use session_core::{Owner, SessionId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::{Code, Request, Status};

const W: Duration = Duration::from_millis(300);

/// One gRPC-web call as a browser sends it over HTTP/1.1; the connection stays open.
async fn web_call(connection: &mut TcpStream, path: &str, message: Vec<u8>) -> String {
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).expect("short").to_be_bytes());
    framed.extend_from_slice(&message);
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: m\r\ncontent-type: application/grpc-web+proto\r\ncontent-length: {}\r\n\r\n",
        framed.len()
    );
    connection.write_all(head.as_bytes()).await.expect("sent");
    connection.write_all(&framed).await.expect("sent");
    let mut reply = Vec::new();
    let mut chunk = [0; 1024];
    while !String::from_utf8_lossy(&reply).contains("grpc-status") {
        let read = connection.read(&mut chunk).await.expect("an answer");
        assert!(read > 0, "the connection ended: {}", String::from_utf8_lossy(&reply));
        reply.extend_from_slice(&chunk[..read]);
    }
    String::from_utf8_lossy(&reply).into_owned()
}

const SET_POWER: &str = "/viam.component.motor.v1.MotorService/SetPower";

#[tokio::test]
async fn s85_over_http_1_a_principal_has_a_window_after_its_last_connection() {
    let rig = Rig::start(W, &[]).await;
    let mut one = TcpStream::connect(rig.address()).await.expect("connected");
    let mut two = TcpStream::connect(rig.address()).await.expect("connected");
    let reply = web_call(&mut one, SET_POWER, power("m1", 0.5).encode_to_vec()).await;
    assert!(reply.contains("grpc-status:0") || reply.contains("grpc-status: 0"), "{reply}");
    // Browsers use several connections for one page: the second keeps what the first moved.
    web_call(&mut two, SET_POWER, power("m2", 0.5).encode_to_vec()).await;
    drop(one);
    tokio::time::sleep(2 * W).await;
    assert_eq!((rig.writes("m1"), rig.writes("m2")), (vec![0.0, 0.5], vec![0.0, 0.5]));
    let left = Instant::now();
    drop(two);
    tokio::time::sleep(W / 2).await;
    assert_eq!(rig.writes("m1"), [0.0, 0.5], "it may come back within a window");
    rig.until(|rig| rig.writes("m1") == [0.0, 0.5, 0.0] && rig.writes("m2") == [0.0, 0.5, 0.0]).await;
    assert!(left.elapsed() >= W && left.elapsed() < 4 * W, "{:?}", left.elapsed());
}

/// How long the kernel will wait, at most, before it asks whether the peer of the machine's connection is still there.
async fn asked_within(rig: &Rig, connection: &TcpStream) -> Duration {
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next().unwrap_or_default(), 16).ok();
    let (ours, theirs) = (rig.address().rsplit(':').next(), connection.local_addr().expect("tcp").port());
    let ours: u16 = ours.and_then(|port| port.parse().ok()).expect("a port");
    loop {
        let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
        let mut rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
        let row = rows.find(|row| port(row[1]) == Some(ours) && port(row[2]) == Some(theirs));
        let row = row.expect("the machine's end");
        // "02": keep-alive; the time in hundredths of a second. Until its last answer is acknowledged another timer stands here.
        if let Some(ticks) = row[5].strip_prefix("02:") {
            return Duration::from_millis(10 * u64::from_str_radix(ticks, 16).expect("hex"));
        }
        assert!(row[5].starts_with("01:"), "not asked at all: {}", row[5]);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The loss of a client is the loss of all its connections: one that only ever read is not to be waited for half a minute.
#[tokio::test]
async fn s85_over_http_1_every_connection_of_who_moves_something_is_asked_whether_it_is_there() {
    const READ: &str = "/viam.robot.v1.RobotService/GetSessions";
    let (soon, late) = (Duration::from_millis(1100), Duration::from_secs(2));
    let rig = Rig::start(W, &[]).await;
    let mut reads = TcpStream::connect(rig.address()).await.expect("connected");
    web_call(&mut reads, READ, Vec::new()).await;
    assert!(asked_within(&rig, &reads).await > late);
    let mut drives = TcpStream::connect(rig.address()).await.expect("connected");
    web_call(&mut drives, SET_POWER, power("m1", 0.5).encode_to_vec()).await;
    assert!(asked_within(&rig, &drives).await < soon && asked_within(&rig, &reads).await < soon);
    let mut joins = TcpStream::connect(rig.address()).await.expect("connected");
    web_call(&mut joins, READ, Vec::new()).await;
    assert!(asked_within(&rig, &joins).await < soon);
    let stop = StopRequest { name: "m1".into(), extra: None }.encode_to_vec();
    web_call(&mut joins, "/viam.component.motor.v1.MotorService/Stop", stop).await;
    for connection in [&reads, &drives, &joins] {
        assert!(asked_within(&rig, connection).await > late);
    }
}

#[tokio::test]
async fn s85_allow_leaves_moving_and_refuse_moves_nothing() {
    let rig = Rig::with(W, &[], |options| options.safety.policy = Policy::Allow).await;
    let mut motor = rig.motor();
    motor.set_power(power("m1", 0.5)).await.expect("moved");
    drop(motor);
    tokio::time::sleep(3 * W).await;
    assert_eq!(rig.writes("m1"), [0.0, 0.5], "as existing machines do it");
    let rig = Rig::with(W, &[], |options| options.safety.policy = Policy::Refuse).await;
    let refused = rig.motor().set_power(power("m1", 0.5)).await.expect_err("no session");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let id = rig.session().await;
    rig.motor().set_power(with(power("m1", 0.5), "viam-sid", &id)).await.expect("in a session");
    assert_eq!(rig.writes("m1"), [0.0, 0.5]);
}

#[tokio::test]
async fn an_unmonitored_command_is_its_connections_or_its_live_sessions() {
    let rig = Rig::start(W, &[]).await;
    let command = || DoCommandRequest { name: "m1".into(), command: Some(Default::default()) };
    let mut alone = rig.motor();
    alone.do_command(command()).await.expect("moved");
    drop(alone);
    rig.until(|rig| rig.writes("m1") == [0.0, 0.3, 0.0]).await;
    // In a session: the connection may end, the session's lapse stops it, and the call has not extended it.
    let id = rig.session().await;
    let started = Instant::now();
    let mut motor = rig.motor();
    tokio::time::sleep(W / 2).await;
    motor.do_command(with(command(), "viam-sid", &id)).await.expect("moved");
    drop(motor);
    assert_eq!(rig.writes("m1"), [0.0, 0.3, 0.0, 0.3], "not its connection's");
    rig.until(|rig| rig.writes("m1").len() == 5).await;
    assert!(started.elapsed() < W + W / 2, "it extended the session: {:?}", started.elapsed());
    // A session that is gone holds nothing: the call still runs, and its connection holds what it moves.
    let mut late = rig.motor();
    late.do_command(with(command(), "viam-sid", &id)).await.expect("never checked");
    tokio::time::sleep(2 * W).await;
    assert_eq!(rig.writes("m1").last(), Some(&0.3));
    drop(late);
    rig.until(|rig| rig.writes("m1").last() == Some(&0.0)).await;
}

async fn token(rig: &Rig, id: &str) -> String {
    let credentials = Credentials { r#type: "api-key".into(), payload: format!("key of {id}") };
    let request = AuthenticateRequest { entity: id.into(), credentials: Some(credentials) };
    let reply = AuthServiceClient::new(rig.channel()).authenticate(request).await.expect("let in");
    format!("Bearer {}", reply.into_inner().access_token)
}

fn told(status: &Status) -> Option<ErrorInfo> {
    let details = RpcStatus::decode(status.details()).expect("details").details;
    details.iter().map(|any| ErrorInfo::decode(any.value.as_slice()).expect("an ErrorInfo")).next()
}

#[tokio::test]
async fn s08_s09_only_its_owner_may_use_a_session_and_learns_what_its_lapse_stopped() {
    let rig = Rig::start(W, &[("alice", "key of alice"), ("bob", "key of bob")]).await;
    let (alice, bob) = (token(&rig, "alice").await, token(&rig, "bob").await);
    let by = |who: &str, id: &str| {
        let mut request = with(SendSessionHeartbeatRequest { id: id.into() }, "authorization", who);
        request.set_timeout(Duration::from_secs(5));
        request
    };
    let resume = |who: &str, id: &str| with(StartSessionRequest { resume: id.into() }, "authorization", who);
    let mut robot = rig.robot();
    let id = robot.start_session(resume(&alice, "")).await.expect("started").into_inner().id;
    let again = robot.start_session(resume(&alice, &id)).await.expect("resumed");
    assert_eq!(again.metadata().get("lifeline-order").expect("announced again"), "1");
    assert_eq!(again.into_inner().id, id);
    let other = robot.start_session(resume(&bob, &id)).await.expect("a new one").into_inner().id;
    assert_ne!(other, id);
    let mut moving = with(power("m1", 0.5), "viam-sid", &id);
    moving.metadata_mut().insert("authorization", alice.parse().expect("ascii"));
    rig.motor().set_power(moving).await.expect("moved");
    let foreign = robot.send_session_heartbeat(by(&bob, &id)).await.expect_err("alice's");
    let mut taken = with(power("m1", 0.9), "viam-sid", &id);
    taken.metadata_mut().insert("authorization", bob.parse().expect("ascii"));
    let taken = rig.motor().set_power(taken).await.expect_err("alice's");
    rig.until(|rig| rig.writes("m1") == [0.0, 0.5, 0.0]).await;
    let mine = robot.send_session_heartbeat(by(&alice, &id)).await.expect_err("gone");
    let theirs = robot.send_session_heartbeat(by(&bob, &id)).await.expect_err("gone");
    for status in [&foreign, &taken, &mine, &theirs] {
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, SESSION_EXPIRED));
    }
    let info = told(&mine).expect("its owner is told");
    assert_eq!((info.domain.as_str(), info.reason.as_str()), (ERROR_DOMAIN, SESSION_EXPIRED));
    assert_eq!(info.metadata["stopped"], "rdk:component:motor/m1");
    assert!(info.metadata["age_ms"].parse::<u64>().expect("a number") < 5000);
    assert_eq!(info.metadata["cause"], "Lapse");
    assert!(
        [&foreign, &taken, &theirs].iter().all(|status| status.details().is_empty()),
        "nobody else learns that it existed"
    );
    let fresh = robot.start_session(resume(&alice, &id)).await.expect("a new one").into_inner().id;
    assert_ne!(fresh, id);
}

#[tokio::test]
async fn s14_there_are_as_many_sessions_as_the_machine_was_told() {
    let rig = Rig::with(W * 20, &[], |options| options.safety.max_sessions = 2).await;
    rig.session().await;
    rig.session().await;
    let full = rig.robot().start_session(StartSessionRequest::default()).await.expect_err("a third");
    assert_eq!((full.code(), full.message()), (Code::ResourceExhausted, "too many concurrent sessions"));
}

#[test]
fn s14_a_machine_that_was_told_nothing_keeps_1024_sessions() {
    let safety = Safety::new(SafetyOptions::default()).expect("threads");
    let owner = Owner([1; 32]);
    for id in 0..1024 {
        safety.start(SessionId(id), None, owner).expect("room");
    }
    safety.start(SessionId(1024), None, owner).expect_err("one too many");
}

#[tokio::test]
async fn a_driver_that_panics_leaves_nothing_moving_and_the_machine_whole() {
    let rig = Rig::start(W * 20, &[]).await;
    let id = rig.session().await;
    rig.motor().set_power(power("m1", PANICS)).await.expect_err("it fell over");
    rig.until(|rig| rig.writes("m1") == [0.0, PANICS, 0.0]).await;
    let mut numbered = with(power("m2", PANICS), "viam-sid", &id);
    numbered.metadata_mut().insert("lifeline-order", "00000000000000aa-1; open=".parse().expect("ascii"));
    rig.motor().set_power(numbered).await.expect_err("it fell over");
    rig.until(|rig| rig.writes("m2") == [0.0, PANICS, 0.0]).await;
    rig.motor().set_power(with(power("m1", 0.5), "viam-sid", &id)).await.expect("the gate is open");
    assert_eq!(rig.writes("m1").last(), Some(&0.5));
}

#[tokio::test]
async fn s21_a_call_that_fails_in_its_driver_is_its_sessions_all_the_same() {
    let rig = Rig::start(W, &[]).await;
    let id = rig.session().await;
    let failed = rig.motor().set_power(with(power("m1", FAILS), "viam-sid", &id)).await.expect_err("the driver's");
    assert_eq!((failed.code(), failed.message()), (Code::Unknown, "the controller does not answer any more"));
    assert_eq!(rig.writes("m1"), [0.0, FAILS], "it moves");
    rig.until(|rig| rig.writes("m1") == [0.0, FAILS, 0.0]).await;
}

#[tokio::test]
async fn s20_a_call_of_a_session_that_is_over_takes_nothing_away() {
    let rig = Rig::start(W, &[]).await;
    let over = rig.session().await;
    rig.until(|rig| rig.machine.safety().sessions().is_empty()).await;
    let lives = rig.session().await;
    rig.motor().set_power(with(power("m1", 0.5), "viam-sid", &lives)).await.expect("moved");
    let refused = rig.motor().set_power(with(power("m1", 0.9), "viam-sid", &over)).await.expect_err("over");
    assert_eq!(refused.message(), SESSION_EXPIRED);
    rig.until(|rig| rig.writes("m1") == [0.0, 0.5, 0.0]).await;
}

#[tokio::test]
async fn s25_a_lapse_ends_a_blocking_move_and_its_caller_hears_it() {
    let rig = Rig::start(W, &[]).await;
    let id = rig.session().await;
    let go = machine_api::viam::component::motor::v1::GoForRequest {
        name: "m1".into(),
        rpm: 10.0,
        revolutions: 1000.0,
        extra: None,
    };
    let ended = rig.motor().go_for(with(go, "viam-sid", &id)).await.expect_err("lapsed");
    assert_eq!(ended.code(), Code::Cancelled);
    rig.until(|rig| rig.writes("m1") == [0.0, 10.0, 0.0]).await;
}

#[tokio::test]
async fn nothing_moves_once_the_machine_has_begun_to_end() {
    let mut rig = Rig::start(W * 20, &[]).await;
    let mut motor = rig.motor();
    motor.set_power(power("m1", 0.5)).await.expect("moved");
    let going = rig.motor();
    let flood = tokio::spawn(async move {
        // On a connection that was there before: it may go on for as long as calls are drained.
        loop {
            let mut going = going.clone();
            if going.set_power(Request::new(power("m1", 0.7))).await.is_err_and(|e| e.code() == Code::Unavailable) {
                return;
            }
        }
    });
    tokio::time::sleep(W / 10).await;
    rig.shutdown().await;
    assert_eq!(rig.writes("m1").last(), Some(&0.0));
    flood.await.expect("refused at last");
}
