//! Our client and a machine that knows nothing of ours: no order, no details, and sessions that are whatever a test makes of them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use machine_api::SESSION_HEADER;
use machine_api::viam::component::motor::v1::motor_service_server::{MotorService, MotorServiceServer};
use machine_api::viam::component::motor::v1::{SetPowerRequest, SetPowerResponse, StopRequest, StopResponse};
use machine_api::viam::robot::v1::robot_service_server::{RobotService, RobotServiceServer};
use machine_api::viam::robot::v1::*;
use robot_client::{Robot, SessionError, Sessions};
use tokio::task::AbortHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};

const W: Duration = Duration::from_millis(400);

/// What a machine was told, in its words.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Start { resume: String },
    Beat(String),
    Power { session: Option<String>, numbered: bool },
    Stop,
}

/// What a machine makes of sessions.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// Keeps them.
    Keeps,
    /// Has never heard of them.
    Unimplemented,
    /// Gives them a window of so many nanoseconds.
    Window(i32),
    /// Keeps them, and answers no beat.
    Deaf,
    /// Forgets each before it is used.
    Forgetful,
}

struct State {
    manner: Manner,
    told: Vec<Told>,
    sessions: BTreeSet<String>,
    next: u32,
}

#[derive(Clone)]
struct Stock {
    state: Arc<Mutex<State>>,
    address: String,
    serving: AbortHandle,
}

/// Its services.
struct Services(Arc<Mutex<State>>);

#[tonic::async_trait]
impl RobotService for Services {
    async fn start_session(
        &self,
        request: Request<StartSessionRequest>,
    ) -> Result<Response<StartSessionResponse>, Status> {
        let mut state = self.0.lock().expect("no panic");
        let resume = request.into_inner().resume;
        state.told.push(Told::Start { resume: resume.clone() });
        let window = match state.manner {
            Manner::Unimplemented => return Err(Status::unimplemented("no such method")),
            Manner::Window(nanos) => prost_types::Duration { seconds: 0, nanos },
            _ => prost_types::Duration::try_from(W).expect("short"),
        };
        let known = state.sessions.contains(&resume);
        state.next += u32::from(!known);
        let id = if known { resume } else { format!("67e55044-10b1-426f-9247-{:012x}", state.next) };
        if state.manner != Manner::Forgetful {
            state.sessions.insert(id.clone());
        }
        Ok(Response::new(StartSessionResponse { id, heartbeat_window: Some(window) }))
    }

    async fn send_session_heartbeat(
        &self,
        request: Request<SendSessionHeartbeatRequest>,
    ) -> Result<Response<SendSessionHeartbeatResponse>, Status> {
        let mut state = self.0.lock().expect("no panic");
        let id = request.into_inner().id;
        state.told.push(Told::Beat(id.clone()));
        match state.manner {
            Manner::Deaf => Err(Status::unavailable("busy")),
            _ if state.sessions.contains(&id) => Ok(Response::new(SendSessionHeartbeatResponse {})),
            _ => Err(Status::invalid_argument("SESSION_EXPIRED")),
        }
    }
}

#[tonic::async_trait]
impl MotorService for Services {
    async fn set_power(&self, request: Request<SetPowerRequest>) -> Result<Response<SetPowerResponse>, Status> {
        let mut state = self.0.lock().expect("no panic");
        let text = |name: &str| request.metadata().get(name).map(|value| value.to_str().expect("ascii").to_owned());
        let session = text(SESSION_HEADER);
        state.told.push(Told::Power { session: session.clone(), numbered: text("lifeline-order").is_some() });
        match session {
            Some(id) if !state.sessions.contains(&id) => Err(Status::invalid_argument("SESSION_EXPIRED")),
            _ => Ok(Response::new(SetPowerResponse {})),
        }
    }

    async fn stop(&self, _: Request<StopRequest>) -> Result<Response<StopResponse>, Status> {
        self.0.lock().expect("no panic").told.push(Told::Stop);
        Ok(Response::new(StopResponse {}))
    }
}

impl Stock {
    async fn start(manner: Manner) -> Self {
        let state = Arc::new(Mutex::new(State { manner, told: Vec::new(), sessions: BTreeSet::new(), next: 0 }));
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let address = incoming.local_addr().expect("tcp").to_string();
        let served = Server::builder()
            .add_service(RobotServiceServer::new(Services(state.clone())))
            .add_service(MotorServiceServer::new(Services(state.clone())))
            .serve_with_incoming(incoming);
        let serving = tokio::spawn(async move { served.await.expect("served") }).abort_handle();
        Self { state, address, serving }
    }

    async fn robot(&self) -> Robot {
        Robot::builder(&self.address).insecure(true).connect().await.expect("connected")
    }

    fn told(&self) -> Vec<Told> {
        self.state.lock().expect("no panic").told.clone()
    }

    fn count(&self, what: impl Fn(&Told) -> bool) -> usize {
        self.told().iter().filter(|told| what(told)).count()
    }

    fn starts(&self) -> usize {
        self.count(|told| matches!(told, Told::Start { .. }))
    }

    /// The session of each command that came.
    fn powers(&self) -> Vec<Option<String>> {
        let powers = self.told().into_iter().filter_map(|told| match told {
            Told::Power { session, numbered } => {
                assert!(!numbered, "nobody asked for numbers");
                Some(session)
            }
            _ => None,
        });
        powers.collect()
    }

    fn becomes(&self, manner: Manner) {
        self.state.lock().expect("no panic").manner = manner;
    }

    fn forgets(&self) {
        self.state.lock().expect("no panic").sessions.clear();
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[tokio::test]
async fn s33_a_machine_without_sessions_is_asked_once_and_driven_without() {
    let stock = Stock::start(Manner::Unimplemented).await;
    let robot = stock.robot().await;
    for _ in 0..3 {
        robot.motor("m1").set_power(0.5).await.expect("moved");
    }
    tokio::time::sleep(W).await;
    assert_eq!((stock.starts(), stock.powers()), (1, vec![None; 3]));
    assert_eq!(stock.count(|told| matches!(told, Told::Beat(_))), 0);
    // Nobody else would: what it was told to do it does until it is told to stop.
    robot.close().await;
    assert_eq!(stock.count(|told| *told == Told::Stop), 1);
}

#[tokio::test]
async fn s34_without_sessions_nothing_is_said_of_any() {
    let stock = Stock::start(Manner::Keeps).await;
    let robot = Robot::builder(&stock.address).insecure(true).sessions(Sessions::Off).connect().await.expect("there");
    robot.motor("m1").set_power(0.5).await.expect("moved");
    tokio::time::sleep(W).await;
    assert_eq!(stock.told(), [Told::Power { session: None, numbered: false }]);
}

#[tokio::test]
async fn s35_where_nothing_is_held_a_forgotten_session_is_started_again_and_the_call_succeeds() {
    let stock = Stock::start(Manner::Keeps).await;
    let robot = stock.robot().await;
    robot.motor("m1").set_power(0.5).await.expect("moved");
    robot.motor("m1").stop().await.expect("stopped");
    stock.forgets();
    robot.motor("m1").set_power(0.7).await.expect("in a session that was started for it");
    let powers = stock.powers();
    assert_eq!((powers.len(), stock.starts()), (3, 2), "{:?}", stock.told());
    assert!(powers[0] == powers[1] && powers[1] != powers[2], "{powers:?}");
}

#[tokio::test]
async fn s35_a_call_that_is_refused_again_is_tried_no_third_time() {
    let stock = Stock::start(Manner::Forgetful).await;
    let robot = stock.robot().await;
    let refused = robot.motor("m1").set_power(0.5).await.expect_err("forgotten again");
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, "SESSION_EXPIRED"));
    tokio::time::sleep(W).await;
    assert_eq!((stock.powers().len(), stock.starts()), (2, 2), "{:?}", stock.told());
}

/// What was moved has been stopped by now, and its caller is not to find it moving again.
#[tokio::test]
async fn s35_where_something_was_held_the_call_fails_instead() {
    let stock = Stock::start(Manner::Keeps).await;
    let robot = stock.robot().await;
    robot.motor("m1").set_power(0.5).await.expect("moved");
    stock.forgets();
    let failed = robot.motor("m1").set_power(0.7).await.expect_err("stopped");
    assert!(matches!(SessionError::of(&failed), Some(SessionError::Stopped { .. })), "{failed:?}");
    robot.motor("m1").set_power(0.7).await.expect("the program called again");
}

#[tokio::test]
async fn s36_a_window_that_is_none_is_no_session_and_no_loop() {
    for nanos in [0, -5_000_000] {
        let stock = Stock::start(Manner::Window(nanos)).await;
        let robot = stock.robot().await;
        robot.motor("m1").set_power(0.5).await.expect("moved");
        tokio::time::sleep(W).await;
        let told = [Told::Start { resume: String::new() }, Told::Power { session: None, numbered: false }];
        assert_eq!(stock.told(), told, "{nanos} ns");
        assert_eq!(robot.watch_session().borrow().clone(), robot_client::SessionStatus::None);
    }
}

#[tokio::test]
async fn s37_after_a_beat_that_failed_the_next_call_resumes_the_session_first() {
    let stock = Stock::start(Manner::Keeps).await;
    let robot = stock.robot().await;
    robot.motor("m1").set_power(0.5).await.expect("moved");
    let id = stock.powers()[0].clone().expect("a session");
    stock.becomes(Manner::Deaf);
    let beats = |stock: &Stock| stock.count(|told| matches!(told, Told::Beat(_)));
    let before = beats(&stock);
    while beats(&stock) == before {
        tokio::time::sleep(W / 40).await;
    }
    // Its answer is on its way.
    tokio::time::sleep(W / 20).await;
    stock.becomes(Manner::Keeps);
    robot.motor("m1").set_power(0.7).await.expect("moved");
    let told = stock.told();
    let resumed = told.iter().rposition(|told| *told == Told::Start { resume: id.clone() }).expect("resumed");
    let after = told[resumed..].iter().find(|told| matches!(told, Told::Power { .. }));
    assert_eq!(after, Some(&Told::Power { session: Some(id), numbered: false }), "{told:?}");
    assert_eq!(stock.powers().len(), 2);
}
