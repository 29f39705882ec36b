//! What the client says of its session when the path is slow or gone, and what goes on without it.

mod rig;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use machine_api::viam::component::arm::v1::arm_service_client::ArmServiceClient;
use machine_api::viam::component::arm::v1::move_through_joint_positions_streamed_request::{
    Init, Message, TrajectoryBatch,
};
use machine_api::viam::component::arm::v1::{
    JointPositions, MoveThroughJointPositionsStreamedRequest, TrajectoryPoint,
};
use machine_api::viam::robot::v1::robot_service_client::RobotServiceClient;
use machine_api::viam::robot::v1::{CancelOperationRequest, GetOperationsRequest};
use machine_host::component::Component;
use rig::proxy::Proxy;
use rig::{Served, W};
use robot_client::{Robot, RobotEvent, SessionError};
use sim_machine::drivers::SimArm;
use sim_machine::observer::Observer;
use sim_machine::world::{Axes, Body, World};
use tonic::Code;

#[tokio::test]
async fn a_window_that_the_path_cannot_hold_is_too_slow_and_moves_nothing() {
    const SHORT: Duration = Duration::from_millis(100);
    let served = Served::with(|options| options.safety.window = SHORT).await;
    let path = Proxy::start(&served.address);
    path.delay(SHORT * 7 / 10);
    let robot = Robot::builder(&path.address).insecure(true).connect().await.expect("connected");
    let mut events = robot.events();
    let status = robot.motor("m1").set_power(0.5).await.expect_err("no session can be kept");
    let Some(SessionError::TooSlow { took, window }) = SessionError::of(&status) else { panic!("{status:?}") };
    assert!(*took >= SHORT && *window == SHORT, "{took:?} {window:?}");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(matches!(events.recv().await, Ok(RobotEvent::TooSlow { .. })));
    assert!(!served.moves(0));
}

#[tokio::test]
async fn a_lapse_is_told_when_it_may_have_come_and_again_what_was_held() {
    let served = Served::start().await;
    let path = Proxy::start(&served.address);
    let robot = Robot::builder(&path.address).insecure(true).connect().await.expect("connected");
    let mut events = robot.events();
    robot.motor("m1").set_power(0.5).await.expect("moved");
    let Ok(RobotEvent::SessionStarted { id: started, window, .. }) = events.recv().await else { panic!("a session") };
    assert_eq!(window, W);
    let cut = Instant::now();
    path.cut();
    let lapsed = events.recv().await;
    assert!(matches!(&lapsed, Ok(RobotEvent::SessionLapsed { id }) if *id == started), "{lapsed:?}");
    assert!(cut.elapsed() <= W + W / 4, "{:?}", cut.elapsed());
    let stopped = events.recv().await;
    // By its own record: nobody could tell it.
    assert!(
        matches!(&stopped, Ok(RobotEvent::Stopped { what, told: false }) if what.iter().eq(["motor/m1"])),
        "{stopped:?}"
    );
    served.until("the motor stops", |s| !s.moves(0)).await;
    assert!(cut.elapsed() <= W + W / 2, "{:?}", cut.elapsed());
    // What is sent meanwhile arrives late, and moves nothing.
    let late = robot.motor("m1");
    let late = tokio::spawn(async move { late.set_power(0.5).await });
    tokio::time::sleep(W).await;
    late.abort();
    path.mend();
    tokio::time::sleep(W).await;
    assert!(!served.moves(0), "a command of a caller that is gone moved something");
}

#[tokio::test]
async fn s90_an_operation_outlives_its_link_and_answers_on_the_next() {
    let served = Served::start().await;
    let robot = served.robot().await;
    let motor = robot.motor("m1");
    let going = motor.clone();
    // Half a turn in a second: longer than the window.
    let moving = tokio::spawn(async move { going.go_for(30.0, 0.5).await });
    served.until("it moves", |s| s.moves(0)).await;
    let before = robot.link().expect("a link").id;
    served.machine.sever_connections("a test");
    served.until("another link", |_| robot.link().is_some_and(|link| link.id != before)).await;
    assert!(served.moves(0), "it goes on");
    moving.await.expect("no panic").expect("its outcome came over the other link");
    let position = motor.position().await.expect("read");
    assert!((position - 0.5).abs() < 0.05, "it ran once: {position}");
    assert_eq!(served.sessions(), 1);
}

/// Whatever becomes of its links: the same session, proven before anything else is sent, and one rhythm of beats.
#[tokio::test]
async fn s38_s39_a_new_link_begins_with_the_sessions_beat_and_beats_go_on_as_before() {
    let served = Served::start().await;
    let robot = served.robot().await;
    robot.motor("m1").set_power(0.5).await.expect("moved");
    let (session, _) = served.machine.safety().sessions()[0];
    let mut arrivals = served.machine.arrivals();
    for _ in 0..3 {
        let before = robot.link().expect("a link").id;
        served.machine.sever_connections("a test");
        served.until("another link", |_| robot.link().is_some_and(|link| link.id != before)).await;
        robot.motor("m1").set_power(0.5).await.expect("in the same session");
        assert!(served.moves(0), "it never stopped");
    }
    // What each connection carried of the session, in its order.
    let mut carried: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    while let Ok(arrival) = arrivals.try_recv() {
        let method = arrival.path.rsplit('/').next().unwrap_or_default().to_owned();
        assert_ne!(method, "StartSession", "the same session goes on");
        if ["SendSessionHeartbeat", "SetPower"].contains(&method.as_str()) {
            carried.entry(arrival.connection).or_default().push(method);
        }
    }
    let driven: Vec<_> = carried.values().filter(|methods| methods.contains(&"SetPower".to_owned())).collect();
    assert!(driven.len() >= 3, "{carried:?}");
    assert!(driven.iter().all(|methods| methods[0] == "SendSessionHeartbeat"), "{carried:?}");
    assert!(served.machine.safety().sessions().iter().map(|(id, _)| *id).eq([session]));
    tokio::time::sleep(W / 5).await;
    while arrivals.try_recv().is_ok() {}
    tokio::time::sleep(4 * W).await;
    let mut beats = 0;
    while let Ok(arrival) = arrivals.try_recv() {
        beats += u32::from(arrival.path.ends_with("/SendSessionHeartbeat"));
    }
    // Twenty are due; a second rhythm would be twenty more.
    assert!((15..=24).contains(&beats), "{beats} beats in four windows");
    assert!(served.moves(0));
}

#[tokio::test]
async fn s42_a_cancelled_stream_stops_what_it_moved() {
    let served = Served::start().await;
    let world = World::new(Observer::none()).expect("a thread");
    let joints = world.part("arm/a", Axes::at(&[0.0; 6], f64::INFINITY));
    served.machine.configure("a", Component::Arm(Arc::new(SimArm::new(joints.clone())))).expect("a thread");
    let robot = served.robot().await;
    let mut arm = ArmServiceClient::new(robot.channel());
    let mut acks =
        arm.move_through_joint_positions_streamed(stream::iter(far_away())).await.expect("taken").into_inner();
    let following = tokio::spawn(async move { acks.message().await });
    served.until("the arm moves", |_| joints.read(Body::is_moving)).await;
    let mut service = RobotServiceClient::new(robot.channel());
    let listed = service.get_operations(GetOperationsRequest {}).await.expect("listed").into_inner().operations;
    assert_eq!(listed.len(), 1);
    service.cancel_operation(CancelOperationRequest { id: listed[0].id.clone() }).await.expect("cancelled");
    let ended = following.await.expect("no panic").expect_err("cancelled");
    assert_eq!(ended.code(), Code::Cancelled);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!joints.read(Body::is_moving), "it moves on for nobody");
}

/// Without its first message, which names the arm, there is no trajectory, and nothing moves.
#[tokio::test]
async fn s26_a_stream_keeps_its_first_message_and_stops_with_its_session() {
    let served = Served::start().await;
    let world = World::new(Observer::none()).expect("a thread");
    let joints = world.part("arm/a", Axes::at(&[0.0; 6], f64::INFINITY));
    served.machine.configure("a", Component::Arm(Arc::new(SimArm::new(joints.clone())))).expect("a thread");
    let path = Proxy::start(&served.address);
    let robot = Robot::builder(&path.address).insecure(true).connect().await.expect("connected");
    let mut arm = ArmServiceClient::new(robot.channel());
    let open = stream::iter(far_away()).chain(stream::pending());
    let _acks = arm.move_through_joint_positions_streamed(open).await.expect("taken");
    served.until("the arm moves", |_| joints.read(Body::is_moving)).await;
    assert_eq!(served.sessions(), 1);
    path.cut();
    served.until("the session is over", |s| s.sessions() == 0).await;
    served.until("the arm rests", |_| !joints.read(Body::is_moving)).await;
}

/// A trajectory that takes longer than any of these tests.
fn far_away() -> [MoveThroughJointPositionsStreamedRequest; 2] {
    let say = |message| MoveThroughJointPositionsStreamedRequest { name: "a".into(), message: Some(message) };
    let far = TrajectoryPoint {
        positions: Some(JointPositions { values: vec![170.0, 80.0, 80.0, 80.0, 80.0, 80.0] }),
        ..Default::default()
    };
    [say(Message::Init(Init::default())), say(Message::Batch(TrajectoryBatch { points: vec![far] }))]
}
