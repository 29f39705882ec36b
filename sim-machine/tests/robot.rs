//! Our client and our machine over real sockets, in one process.

mod rig;

use std::sync::Arc;
use std::time::{Duration, Instant};

use discovery::answer::Advertisement;
use discovery::{FinderOptions, Responder, ResponderOptions};
use machine_api::viam::component::motor::v1::SetPowerRequest;
use machine_api::viam::component::motor::v1::motor_service_client::MotorServiceClient;
use machine_api::viam::robot::v1::robot_service_client::RobotServiceClient;
use machine_api::viam::robot::v1::{GetSessionsRequest, SendSessionHeartbeatRequest, StartSessionRequest};
use machine_host::component::Component;
use machine_host::{MachineOptions, Policy, ResourceName, Tls};
use rig::{Served, W};
use robot_client::{ConnectErrorKind, Robot, RobotEvent, SessionError, Sessions};
use sim_machine::drivers::SimMotor;
use sim_machine::observer::Observer;
use sim_machine::world::{Axes, World};
use tonic::Code;

#[tokio::test]
async fn s30_s31_a_hundred_first_commands_start_one_session_and_reads_none() {
    let served = Served::start().await;
    let robot = served.robot().await;
    let motor = robot.motor("m1");
    motor.is_moving().await.expect("read");
    assert_eq!(served.sessions(), 0);
    let commands = (0..100).map(|_| {
        let motor = motor.clone();
        tokio::spawn(async move { motor.set_power(0.5).await })
    });
    for command in commands.collect::<Vec<_>>() {
        // A later command may have taken the gate over before an earlier one came to it.
        match command.await.expect("no panic") {
            Ok(()) => {}
            Err(status) => assert!(matches!(status.code(), Code::Cancelled | Code::Aborted), "{status}"),
        }
    }
    assert_eq!(served.sessions(), 1);
    robot.close().await;
}

#[tokio::test]
async fn s32_a_program_that_blocks_its_runtime_keeps_its_session() {
    let served = Served::start().await;
    let robot = served.robot().await;
    robot.motor("m1").set_power(0.5).await.expect("moved");
    let mut arrivals = served.machine.arrivals();
    // The only thread of this test's runtime, for 25 windows.
    std::thread::sleep(Duration::from_secs(10));
    let mut beats = Vec::new();
    while let Ok(arrival) = arrivals.try_recv() {
        assert!(arrival.path.ends_with("/SendSessionHeartbeat"), "nobody says anything else: {}", arrival.path);
        beats.push(arrival.at);
    }
    // Every fifth of a window, within a fifth of that.
    assert!((104..=156).contains(&beats.len()), "{} beats in 10 s", beats.len());
    assert!(served.moves(0), "beats leave from threads of the client's own");
    robot.close().await;
}

#[tokio::test]
async fn s27_leaving_stops_what_is_held_at_once() {
    let served = Served::start().await;
    let robot = served.robot().await;
    robot.motor("m1").set_power(0.5).await.expect("moved");
    let left = Instant::now();
    robot.close().await;
    served.until("the motor stops", |s| !s.moves(0)).await;
    assert!(left.elapsed() < W / 2, "{:?}", left.elapsed());
    let status = robot.motor("m1").set_power(0.5).await.expect_err("closed");
    assert_eq!(SessionError::of(&status), Some(&SessionError::Closed));
}

#[tokio::test]
async fn s27_the_last_drop_stops_what_is_held_at_once() {
    let served = Served::start().await;
    let robot = served.robot().await;
    let motor = robot.motor("m1");
    motor.set_power(0.5).await.expect("moved");
    drop(robot);
    assert!(served.moves(0), "a handle keeps its robot");
    let left = Instant::now();
    drop(motor);
    served.until("the motor stops", |s| !s.moves(0)).await;
    assert!(left.elapsed() < W / 2, "{:?}", left.elapsed());
}

#[tokio::test]
async fn s34_without_sessions_the_connection_guards_what_moves() {
    let served = Served::start().await;
    let robot = served.builder().sessions(Sessions::Off).connect().await.expect("connected");
    robot.motor("m1").set_power(0.5).await.expect("moved");
    tokio::time::sleep(2 * W).await;
    assert!(served.moves(0));
    assert_eq!(served.sessions(), 0);
    robot.close().await;
    served.until("the motor stops", |s| !s.moves(0)).await;
}

#[tokio::test]
async fn s40_sessions_can_be_managed_by_hand() {
    let served = Served::start().await;
    let robot = served.builder().sessions(Sessions::Manual).connect().await.expect("connected");
    let mut service = RobotServiceClient::new(robot.channel());
    let id = service.start_session(StartSessionRequest::default()).await.expect("started").into_inner().id;
    let mut request = tonic::Request::new(SetPowerRequest { name: "m1".into(), power_pct: 0.5, extra: None });
    request.metadata_mut().insert("viam-sid", id.parse().expect("ascii"));
    MotorServiceClient::new(robot.channel()).set_power(request).await.expect("moved");
    let mut last = Instant::now();
    for _ in 0..6 {
        tokio::time::sleep(W / 3).await;
        last = Instant::now();
        service.send_session_heartbeat(SendSessionHeartbeatRequest { id: id.clone() }).await.expect("alive");
    }
    assert!(served.moves(0));
    served.until("the motor stops", |s| !s.moves(0)).await;
    let after = last.elapsed();
    assert!(after >= W && after < W + W / 4, "{after:?}");
    let late = service.send_session_heartbeat(SendSessionHeartbeatRequest { id }).await.expect_err("over");
    assert_eq!((late.code(), late.message()), (Code::InvalidArgument, "SESSION_EXPIRED"));
}

#[tokio::test]
async fn s13_every_session_is_listed_with_its_peer() {
    let served = Served::start().await;
    let (one, two) = (served.robot().await, served.robot().await);
    one.motor("m1").set_power(0.1).await.expect("moved");
    two.motor("m2").set_power(0.1).await.expect("moved");
    let mut service = RobotServiceClient::new(one.channel());
    let sessions = service.get_sessions(GetSessionsRequest {}).await.expect("listed").into_inner().sessions;
    assert_eq!(sessions.len(), 2);
    for session in sessions {
        let peer = session.peer_connection_info.expect("a peer");
        assert!(peer.remote_address.expect("an address").starts_with("127.0.0.1:"));
    }
}

#[tokio::test]
async fn s94_a_stop_overtakes_commands_before_it_and_none_after() {
    let served = Served::start().await;
    let robot = served.robot().await;
    let motor = robot.motor("m1");
    for round in 0..50 {
        let going = motor.clone();
        let mut command = Box::pin(async move { going.go_for(200.0, 1000.0).await });
        // Polled once it is issued: whatever became of it, the Stop comes after it.
        assert!(futures_util::poll!(&mut command).is_pending());
        let command = tokio::spawn(command);
        if round % 2 == 0 {
            served.until("the motor moves", |s| s.moves(0)).await;
        }
        motor.stop().await.expect("stopped");
        assert!(!served.moves(0), "round {round}");
        let ended = command.await.expect("no panic");
        assert!(ended.is_err(), "round {round}");
        motor.set_power(0.2).await.expect("a command after the Stop moves");
        assert!(served.moves(0), "round {round}");
        motor.stop().await.expect("stopped");
    }
}

#[tokio::test]
async fn a_lapse_is_told_and_nothing_resumes_by_itself() {
    let served = Served::start().await;
    let robot = served.robot().await;
    let mut events = robot.events();
    robot.motor("m1").set_power(0.5).await.expect("moved");
    assert!(matches!(events.recv().await, Ok(RobotEvent::SessionStarted { resumed: false, .. })));
    // The machine forgets everybody: a Stop of its own ends no session, a restart does. Here the session is ended behind the client's back.
    let (id, owner) = served.machine.safety().sessions()[0];
    let end = session_core::Order { key: 1, number: 1, open: Default::default(), end: true };
    served.machine.safety().beat(id, &owner, Some(&end)).expect("it lived");
    served.until("the motor stops", |s| !s.moves(0)).await;
    let status = robot.motor("m1").set_power(0.5).await.expect_err("it moved again by itself");
    let Some(SessionError::Stopped { what, .. }) = SessionError::of(&status) else { panic!("{status:?}") };
    assert_eq!(what.iter().map(String::as_str).collect::<Vec<_>>(), ["motor/m1"]);
    assert!(!served.moves(0));
    let told = events.recv().await;
    assert!(matches!(&told, Ok(RobotEvent::Stopped { what, told: true }) if what.iter().eq(["motor/m1"])), "{told:?}");
    robot.motor("m1").set_power(0.5).await.expect("the program called again: a new session");
    assert!(served.moves(0));
}

#[tokio::test]
async fn watched_a_hung_program_stops_its_robot() {
    let served = Served::start().await;
    let robot = served.builder().sessions(Sessions::Watched(W / 2)).connect().await.expect("connected");
    robot.motor("m1").set_power(0.5).await.expect("moved");
    for _ in 0..10 {
        robot.alive();
        tokio::time::sleep(W / 4).await;
    }
    assert!(served.moves(0));
    served.until("the motor stops", |s| !s.moves(0)).await;
    robot.close().await;
}

#[tokio::test]
async fn s53_handles_survive_the_end_of_their_link() {
    let served = Served::start().await;
    let robot = served.robot().await;
    let motor = robot.motor("m1");
    motor.set_power(0.5).await.expect("moved");
    let before = robot.link().expect("a link").id;
    served.machine.sever_connections("a test");
    served.until("another link", |_| robot.link().is_some_and(|link| link.id != before)).await;
    motor.is_moving().await.expect("the same handle");
    assert!(served.moves(0), "a reconnect within the window stops nothing (s38)");
    motor.set_power(0.1).await.expect("the same session");
    assert_eq!(served.sessions(), 1);
}

#[tokio::test]
async fn s54_what_went_and_what_came_during_an_outage_is_seen_after_it() {
    let served = Served::start().await;
    let robot = served.robot().await;
    let (stays, goes) = (robot.motor("m1"), robot.motor("m2"));
    goes.set_power(0.5).await.expect("moved");
    let before = robot.link().expect("a link").id;
    let gone = ResourceName::component("motor", "m2");
    served.machine.sever_connections("a test");
    served.machine.remove(&gone);
    let world = World::new(Observer::none()).expect("a thread");
    let shaft = world.part("motor/m3", Axes::at(&[0.0], f64::INFINITY));
    served.machine.configure("m3", Component::Motor(Arc::new(SimMotor { shaft, max_rpm: 200.0 }))).expect("configured");
    served.until("another link", |_| robot.link().is_some_and(|link| link.id != before)).await;
    for call in [goes.set_power(0.1).await, goes.is_moving().await.map(|_| ())] {
        assert_eq!(call.expect_err("its motor is gone").code(), Code::NotFound);
    }
    stays.set_power(0.1).await.expect("the one that stayed");
    robot.motor("m3").set_power(0.1).await.expect("the one that came");
    let names = robot.resource_names().await.expect("listed");
    let names: Vec<_> = names.iter().map(|name| name.name.as_str()).collect();
    assert!(names.contains(&"m1") && names.contains(&"m3") && !names.contains(&"m2"), "{names:?}");
}

#[tokio::test]
async fn a_machine_may_refuse_callers_without_a_session() {
    let served = Served::with(|options| options.safety.policy = Policy::Refuse).await;
    let off = served.builder().sessions(Sessions::Off).connect().await.expect("connected");
    let status = off.motor("m1").set_power(0.5).await.expect_err("refused");
    assert_eq!(status.code(), Code::FailedPrecondition);
    served.robot().await.motor("m1").set_power(0.5).await.expect("in a session");
}

#[tokio::test]
async fn wrong_keys_and_strange_authorities_are_refused_before_any_call() {
    let keys = |options: &mut MachineOptions| {
        options.tls = Tls::Local(Default::default());
        options.api_keys = [("id".to_owned(), "key".to_owned())].into();
    };
    let served = Served::with(keys).await;
    let ca = served.folder.path().join("ca.pem");
    let robot = Robot::builder(&served.address).api_key("id", "key").trust_ca(&ca).connect().await.expect("let in");
    robot.motor("m1").set_power(0.5).await.expect("moved");
    let wrong = Robot::builder(&served.address).api_key("id", "guess").trust_ca(&ca).connect().await;
    let error = wrong.expect_err("a wrong key");
    assert_eq!(error.kind(), ConnectErrorKind::Refused);
    assert!(!error.to_string().contains("guess"), "{error}");
    let other = Served::with(keys).await;
    let stranger =
        Robot::builder(&other.address).api_key("id", "key").trust_ca(&ca).initial_attempts(1).connect().await;
    let error = stranger.expect_err("another authority");
    assert_eq!(error.kind(), ConnectErrorKind::Unreachable);
    assert!(error.to_string().contains("--ca-file"), "{error}");
    let clear = Served::start().await;
    let plain = Robot::builder(&clear.address).api_key("id", "key").trust_ca(&ca).initial_attempts(1).connect().await;
    assert_eq!(plain.expect_err("a machine without TLS").kind(), ConnectErrorKind::Unreachable);
    let usage = Robot::builder("http://x").connect().await.expect_err("a URL");
    assert_eq!(usage.kind(), ConnectErrorKind::Usage);
}

/// Another machine of the same owner, at the address where the one that is meant is expected: its certificate is good, and not for that name.
#[tokio::test]
async fn another_machine_of_the_same_authority_is_not_the_one_that_was_meant() {
    let served = Served::with(|options| {
        options.tls = Tls::Local(Default::default());
        options.api_keys = [("id".to_owned(), "key".to_owned())].into();
    })
    .await;
    let dial = || Robot::builder(&served.address).api_key("id", "key").trust_ca(served.folder.path().join("ca.pem"));
    let other = dial().tls_name("other-main.loc1.viam.cloud").initial_attempts(1).connect().await;
    let error = other.expect_err("another name");
    assert_eq!(error.kind(), ConnectErrorKind::Unreachable);
    assert!(error.to_string().contains("other-main.loc1.viam.cloud"), "{error}");
    dial().connect().await.expect("the one that it is");
}

/// Whoever listens in clear where a machine is expected reads the beginning of a TLS handshake, and no credential.
#[tokio::test]
async fn who_speaks_no_tls_reads_no_credential() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("tcp").to_string();
    let listening = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.expect("a caller");
        let mut told = vec![0; 4096];
        let length = tcp.read(&mut told).await.expect("something");
        // The settings of a server that speaks HTTP/2 in clear.
        tcp.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.expect("written");
        told.truncate(length);
        // It ends in whatever way, and nothing more is told.
        let _ = tcp.read_to_end(&mut told).await;
        told
    });
    let robot = Robot::builder(&address).api_key("an-id", "a-secret").initial_attempts(1).connect().await;
    let error = robot.expect_err("no TLS");
    assert_eq!(error.kind(), ConnectErrorKind::Unreachable);
    assert!(error.to_string().contains("TLS"), "{error}");
    let told = listening.await.expect("heard");
    assert_eq!(told[..2], [22, 3], "a TLS handshake");
    assert!(!told.windows(8).any(|part| part == b"a-secret") && !told.windows(5).any(|part| part == b"an-id"));
}

/// Answers on the local network in the machine's name, with a certificate of its own making, and reads what it is told.
#[tokio::test]
async fn a_spoofed_answer_sees_neither_credential_nor_call() {
    const PORT: u16 = 15_353;
    let name = "victim-main.loc1.viam.cloud";
    let certified = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    let config = transport::tls::server_config(
        certified.cert.pem().as_bytes(),
        certified.signing_key.serialize_pem().as_bytes(),
    );
    let acceptor = tokio_rustls::TlsAcceptor::from(config.expect("a configuration"));
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.expect("a port");
    let port = listener.local_addr().expect("tcp").port();
    let advertisement = Advertisement { names: vec![name.parse().expect("a name")], port, webrtc: false };
    let options = ResponderOptions { port: PORT, interfaces: vec!["lo".to_owned()] };
    let _responder = Responder::start(advertisement, options).expect("multicast on loopback");
    let spoof = tokio::spawn(async move {
        let mut told = Vec::new();
        while let Ok((tcp, _)) = listener.accept().await {
            if let Ok(mut tls) = acceptor.accept(tcp).await {
                let _ = tokio::io::AsyncReadExt::read_to_end(&mut tls, &mut told).await;
            }
            if !told.is_empty() {
                return told;
            }
        }
        told
    });
    let finder = FinderOptions {
        dns: false,
        mdns_port: PORT,
        interfaces: vec!["lo".to_owned()],
        memory: None,
        ..Default::default()
    };
    let ca = Served::with(|options| options.tls = Tls::Local(Default::default())).await;
    let robot = Robot::builder(name)
        .api_key("id", "secret")
        .trust_ca(ca.folder.path().join("ca.pem"))
        .finder(finder)
        .initial_attempts(1)
        .connect()
        .await;
    let error = robot.expect_err("it cannot prove to be the machine");
    assert!(error.to_string().contains("signed by nobody"), "{error}");
    assert!(!spoof.is_finished(), "the spoof was told something");
    spoof.abort();
}

/// The token of an earlier link, which the machine has forgotten meanwhile, costs a question and no call: not a read, not a command, not a Stop.
#[tokio::test]
async fn a_token_that_the_machine_forgot_is_made_anew() {
    let keys = |options: &mut MachineOptions| options.api_keys = [("id".to_owned(), "key".to_owned())].into();
    let first = Served::with(keys).await;
    let address = first.address.clone();
    let dial = |key: &str| Robot::builder(&address).insecure(true).api_key("id", key);
    let robot = dial("key").connect().await.expect("admitted");
    robot.close().await;
    first.shutdown.cancel();
    for case in ["read", "command", "stop"] {
        // The one before lets go of its port when its last Stop has returned.
        while std::net::TcpListener::bind(&address).is_err() {
            tokio::task::yield_now().await;
        }
        // Another process would have another signing key too.
        let again = Served::with(|options| {
            keys(options);
            options.bind = address.clone();
        })
        .await;
        let robot = dial("key").connect().await.expect("connected with the old token");
        let done = match case {
            "read" => robot.motor("m1").is_moving().await.map(drop),
            "command" => robot.motor("m1").set_power(0.1).await,
            _ => robot.motor("m1").stop().await,
        };
        done.unwrap_or_else(|status| panic!("{case}: {status}"));
        robot.close().await;
        let refused = dial("wrong").initial_attempts(1).connect().await.expect_err("another key has no token");
        assert_eq!(refused.kind(), ConnectErrorKind::Refused, "{case}: {refused}");
        again.shutdown.cancel();
    }
}
