//! A machine that is a client of another: leases on both stretches of the way.

mod rig;

use std::time::Instant;

use machine_api::viam::component::motor::v1::motor_service_client::MotorServiceClient;
use machine_api::viam::component::motor::v1::{SetPowerRequest, StopRequest};
use machine_api::{ORDER_HEADER, SAFETY_NAMES_HEADER, SESSION_HEADER};
use machine_host::ResourceName;
use rig::proxy::Proxy;
use rig::{Served, W};
use robot_client::remote::Remote;
use robot_client::{Robot, Sessions};
use tonic::Code;

/// A client, its machine, and that machine's remote, with a path between each two that can be cut.
struct Chain {
    far: Served,
    parent: Served,
    to_far: Proxy,
    to_parent: Proxy,
    _remote: Remote,
}

impl Chain {
    async fn start() -> Self {
        let (far, parent) = (Served::start().await, Served::start().await);
        let (to_far, to_parent) = (Proxy::start(&far.address), Proxy::start(&parent.address));
        let address = to_far.address.clone();
        let connect = move || Robot::builder(&address).insecure(true);
        let remote = Remote::start(parent.machine.clone(), "r", connect).expect("a thread");
        let offered = ResourceName::component("motor", "r:m1");
        parent.until("the remote's motors are offered", |p| p.machine.resources().contains(&offered)).await;
        Self { far, parent, to_far, to_parent, _remote: remote }
    }

    async fn client(&self) -> Robot {
        Robot::builder(&self.to_parent.address).insecure(true).connect().await.expect("connected")
    }
}

#[tokio::test]
async fn s28_the_remotes_motor_stops_when_the_client_is_cut_off() {
    let chain = Chain::start().await;
    let robot = chain.client().await;
    robot.motor("r:m1").set_power(0.5).await.expect("moved");
    assert!(chain.far.moves(0));
    // Each end keeps its own: one session at the parent, and the parent's at the remote.
    assert_eq!((chain.parent.sessions(), chain.far.sessions()), (1, 1));
    tokio::time::sleep(3 * W).await;
    assert!(chain.far.moves(0), "beats keep it on both stretches");
    let cut = Instant::now();
    chain.to_parent.cut();
    chain.far.until("the remote's motor stops", |far| !far.moves(0)).await;
    let after = cut.elapsed();
    assert!(after >= W / 2 && after < W + W / 2, "{after:?}");
    assert_eq!(chain.far.sessions(), 1, "the parent's own session goes on");
}

#[tokio::test]
async fn s28_the_remote_stops_by_the_parents_session_when_the_parent_is_cut_off() {
    let chain = Chain::start().await;
    let robot = chain.client().await;
    robot.motor("r:m1").set_power(0.5).await.expect("moved");
    robot.motor("m2").set_power(0.5).await.expect("moved");
    let cut = Instant::now();
    chain.to_far.cut();
    chain.far.until("the remote's motor stops", |far| !far.moves(0)).await;
    let after = cut.elapsed();
    assert!(after >= W / 2 && after < W + W / 2, "{after:?}");
    assert!(chain.parent.moves(1), "what the client moves at the parent itself goes on");
    chain.to_far.mend();
    tokio::time::sleep(2 * W).await;
    assert!(!chain.far.moves(0), "nothing resumes by itself");
    // The client's session has not expired, whatever became of the parent's own: it is told something else.
    if let Err(status) = robot.motor("r:m1").set_power(0.5).await {
        assert_ne!(status.code(), Code::InvalidArgument, "{status}");
        robot.motor("r:m1").set_power(0.5).await.expect("the program called again");
    }
    assert!(chain.far.moves(0) && chain.parent.moves(1));
}

#[tokio::test]
async fn s28_what_a_call_moved_is_named_with_the_remote_before_it_and_headers_stay_behind() {
    let chain = Chain::start().await;
    let manual = Robot::builder(&chain.parent.address).insecure(true).sessions(Sessions::Manual);
    let manual = manual.connect().await.expect("connected");
    let mut service = machine_api::viam::robot::v1::robot_service_client::RobotServiceClient::new(manual.channel());
    let id = service.start_session(machine_api::viam::robot::v1::StartSessionRequest::default()).await;
    let id = id.expect("started").into_inner().id;
    let mut request = tonic::Request::new(SetPowerRequest { name: "r:m1".into(), power_pct: 0.5, extra: None });
    request.metadata_mut().insert(SESSION_HEADER, id.parse().expect("ascii"));
    // A number and a list of this caller's own: at the remote they would give up what the parent has open there.
    let order = "00000000000000aa-9; open=";
    request.metadata_mut().insert(ORDER_HEADER, order.parse().expect("ascii"));
    let reply = MotorServiceClient::new(manual.channel()).set_power(request).await.expect("moved");
    assert_eq!(reply.metadata().get(SAFETY_NAMES_HEADER).expect("named"), "rdk:component:motor/r:m1");
    // The same number and another message reach the remote as what they are: the parent's next command.
    let other = chain.client().await;
    other.motor("r:m1").set_power(0.7).await.expect("moved");
    assert!(chain.far.machine.safety().sessions().iter().all(|(session, _)| session.to_string() != id));
}

#[tokio::test]
async fn s28_a_stop_reaches_through_and_a_later_command_ends_the_one_before() {
    let chain = Chain::start().await;
    let robot = chain.client().await;
    let going = robot.motor("r:m1");
    let far = tokio::spawn(async move { going.go_for(100.0, 100_000.0).await });
    chain.far.until("it moves", |far| far.moves(0)).await;
    robot.motor("r:m1").set_power(0.3).await.expect("taken over");
    far.await.expect("no panic").expect_err("pre-empted");
    assert!(chain.far.moves(0));
    let stop = StopRequest { name: "r:m1".into(), extra: None };
    MotorServiceClient::new(robot.channel()).stop(stop).await.expect("stopped");
    assert!(!chain.far.moves(0), "answered once the remote's driver has returned");
    robot.motor("r:m2").set_power(0.3).await.expect("moved");
    robot.stop_all().await.expect("stopped");
    assert!(!chain.far.moves(1));
}

#[tokio::test]
async fn what_a_remote_has_comes_and_goes_with_it() {
    let chain = Chain::start().await;
    let robot = chain.client().await;
    let names = robot.resource_names().await.expect("listed");
    let names: Vec<_> = names.into_iter().map(|name| name.name).collect();
    assert_eq!(names, ["m1", "m2", "r:m1", "r:m2"]);
    robot.motor("r:m1").set_power(0.3).await.expect("moved");
    drop(chain._remote);
    chain.far.until("what it moved stops", |far| !far.moves(0)).await;
    let gone = robot.motor("r:m1").set_power(0.3).await.expect_err("gone");
    assert_eq!(gone.code(), Code::NotFound);
}
