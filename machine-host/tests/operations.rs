//! Operations over real sockets: listed, waited for, cancelled, pre-empted, stopped.

mod rig;

use std::time::{Duration, Instant};

use machine_api::viam::common::v1::ResourceName as WireName;
use machine_api::viam::component::motor::v1::{GoForRequest, GoForResponse, StopRequest};
use machine_api::viam::robot::v1::*;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use rig::{Rig, power, with};
use tokio::task::JoinHandle;
use tonic::{Code, Request, Response, Status};

const W: Duration = Duration::from_millis(300);

fn far(motor: &str) -> GoForRequest {
    GoForRequest { name: motor.into(), rpm: 10.0, revolutions: 100_000.0, extra: None }
}

/// A move without end, once its motor turns.
async fn moving(rig: &Rig, request: Request<GoForRequest>) -> JoinHandle<Result<Response<GoForResponse>, Status>> {
    let mut motor = rig.motor();
    let name = request.get_ref().name.clone();
    // A move before this one may have left the same write behind.
    let turns = |rig: &Rig| rig.writes(&name).iter().filter(|power| **power == 10.0).count();
    let before = turns(rig);
    let moving = tokio::spawn(async move { motor.go_for(request).await });
    rig.until(|rig| turns(rig) > before).await;
    moving
}

async fn operations(rig: &Rig) -> Vec<Operation> {
    rig.robot().get_operations(GetOperationsRequest {}).await.expect("listed").into_inner().operations
}

#[tokio::test]
async fn s41_an_operation_has_the_id_of_its_response_and_its_session() {
    let rig = Rig::start(W * 20, &[]).await;
    let id = rig.session().await;
    let wanted = uuid::Uuid::new_v4().to_string();
    let mut request = with(GoForRequest { revolutions: 0.3, ..far("m1") }, "viam-sid", &id);
    request.metadata_mut().insert("opid", wanted.parse().expect("ascii"));
    let moving = moving(&rig, request).await;
    let listed = operations(&rig).await;
    assert_eq!(listed.len(), 1, "not the call itself");
    assert_eq!((listed[0].id.as_str(), listed[0].session_id.as_deref()), (wanted.as_str(), Some(id.as_str())));
    assert_eq!(listed[0].method, "/viam.component.motor.v1.MotorService/GoFor");
    assert!(listed[0].started.is_some());
    let reply = moving.await.expect("no panic").expect("arrived");
    assert_eq!(reply.metadata().get("opid").expect("told"), &wanted);
    assert!(operations(&rig).await.is_empty());
}

#[tokio::test]
async fn s43_waiting_for_an_operation_ends_within_10_ms_of_it_or_with_its_own_deadline() {
    let rig = Rig::start(W * 20, &[]).await;
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let moving = moving(&rig, Request::new(far("m1"))).await;
        let id = operations(&rig).await[0].id.clone();
        let mut robot = rig.robot();
        let mut impatient = Request::new(BlockForOperationRequest { id: id.clone() });
        impatient.set_timeout(Duration::from_millis(30));
        let late = robot.block_for_operation(impatient).await.expect_err("it goes on");
        assert!(matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled), "{late}");
        let waiting = {
            let (mut robot, id) = (rig.robot(), id.clone());
            tokio::spawn(async move {
                robot.block_for_operation(BlockForOperationRequest { id }).await.expect("over");
                Instant::now()
            })
        };
        tokio::time::sleep(Duration::from_millis(20)).await;
        robot.cancel_operation(CancelOperationRequest { id }).await.expect("cancelled");
        assert_eq!(moving.await.expect("no panic").expect_err("cancelled").code(), Code::Cancelled);
        let ended = Instant::now();
        best = best.min(waiting.await.expect("no panic").saturating_duration_since(ended));
    }
    // A loaded computer may delay some of them, not all.
    assert!(best < Duration::from_millis(10), "{best:?}");
    let unknown = uuid::Uuid::new_v4().to_string();
    rig.robot().block_for_operation(BlockForOperationRequest { id: unknown }).await.expect("at once");
}

#[tokio::test]
async fn s42_a_call_that_its_caller_drops_is_cancelled_and_its_motor_stopped() {
    let rig = Rig::start(W * 20, &[]).await;
    let moving = moving(&rig, Request::new(far("m1"))).await;
    moving.abort();
    rig.until(|rig| rig.writes("m1") == [0.0, 10.0, 0.0]).await;
    assert!(operations(&rig).await.is_empty());
}

#[tokio::test]
async fn s44_a_stop_and_a_later_command_end_a_move_without_waiting_for_it() {
    let rig = Rig::start(W * 20, &[]).await;
    let first = moving(&rig, Request::new(far("m1"))).await;
    rig.motor().set_power(power("m1", 0.5)).await.expect("it does not wait");
    assert_eq!(first.await.expect("no panic").expect_err("pre-empted").code(), Code::Cancelled);
    assert_eq!(rig.writes("m1").last(), Some(&0.5), "the pre-empted one writes nothing any more");
    let second = moving(&rig, Request::new(far("m2"))).await;
    rig.motor().stop(StopRequest { name: "m2".into(), extra: None }).await.expect("it does not wait");
    assert_eq!(second.await.expect("no panic").expect_err("stopped").code(), Code::Cancelled);
    assert_eq!(rig.writes("m2").last(), Some(&0.0));
}

fn marked(name: &str, mark: f64) -> StopExtraParameters {
    let value = Value { kind: Some(Kind::NumberValue(mark)) };
    let params = Struct { fields: [("mark".to_owned(), value)].into() };
    let name =
        WireName { namespace: "rdk".into(), r#type: "component".into(), subtype: "motor".into(), name: name.into() };
    StopExtraParameters { name: Some(name), params: Some(params) }
}

#[tokio::test]
async fn s46_stop_all_gives_each_its_own_and_tells_of_every_failure() {
    let rig = Rig::start(W * 20, &[]).await;
    rig.add_broken("bad");
    rig.add_broken("worse");
    let request = StopAllRequest { extra: vec![marked("m1", 0.11), marked("nobody", 0.12)] };
    let failed = rig.robot().stop_all(request).await.expect_err("two failed");
    let text = |name: &str| format!("failed to stop component named {name} with error no answer from the controller");
    assert_eq!(failed.message(), format!("{}; {}", text("bad"), text("worse")));
    assert_eq!((rig.writes("m1"), rig.writes("m2")), (vec![0.0, 0.11], vec![0.0, 0.0]));
    rig.motor().stop(StopRequest { name: "m1".into(), extra: None }).await.expect("stopped");
    assert_eq!(rig.writes("m1").last(), Some(&0.0), "what a Stop was given is that Stop's alone");
}

#[tokio::test]
async fn s46_a_stop_all_whose_caller_leaves_stops_everything_all_the_same() {
    let rig = Rig::start(W * 20, &[]).await;
    let moving = moving(&rig, Request::new(far("m1"))).await;
    let mut robot = rig.robot();
    let mut leaving = Box::pin(async move { robot.stop_all(StopAllRequest::default()).await });
    for _ in 0..200 {
        // Polled until it has left this process, and no further.
        if futures_util::poll!(&mut leaving).is_ready() || rig.writes("m2").len() > 1 {
            break;
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    drop(leaving);
    rig.until(|rig| rig.writes("m1").last() == Some(&0.0) && rig.writes("m2").len() == 2).await;
    assert_eq!(moving.await.expect("no panic").expect_err("cancelled").code(), Code::Cancelled);
}

#[tokio::test]
async fn s94_a_late_copy_of_stop_all_ends_nothing_that_came_after_it() {
    let rig = Rig::start(W * 20, &[]).await;
    let id = rig.session().await;
    let stop_all = || {
        let mut request = with(StopAllRequest::default(), "viam-sid", &id);
        request.metadata_mut().insert("lifeline-order", "00000000000000aa-1; open=".parse().expect("ascii"));
        request
    };
    rig.robot().stop_all(stop_all()).await.expect("stopped");
    let moving = moving(&rig, Request::new(far("m1"))).await;
    rig.robot().stop_all(stop_all()).await.expect("answered as the first copy was");
    assert_eq!(rig.writes("m1"), [0.0, 0.0, 10.0]);
    assert_eq!(operations(&rig).await.len(), 1, "it goes on");
    moving.abort();
}

#[tokio::test]
async fn s47_a_call_without_a_deadline_is_ended_after_ten_minutes() {
    let rig = Rig::start(W * 20, &[]).await;
    let moving = moving(&rig, Request::new(far("m1"))).await;
    // From here on the runtime's clock stands still but for this test, and runs where everybody waits.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(590)).await;
    assert!(!moving.is_finished());
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
    let ended = moving.await.expect("no panic").expect_err("too long");
    assert_eq!(ended.code(), Code::DeadlineExceeded);
    rig.until(|rig| rig.writes("m1") == [0.0, 10.0, 0.0]).await;
}
