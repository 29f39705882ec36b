//! End to end: a machine in another process, a thousand clients with a session, a motor and a TLS connection each, that fall silent within one
//! second. Clients are plain gRPC, as those of every SDK are.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use machine_api::SESSION_HEADER;
use machine_api::viam::component::motor::v1::SetPowerRequest;
use machine_api::viam::component::motor::v1::motor_service_client::MotorServiceClient;
use machine_api::viam::robot::v1::robot_service_client::RobotServiceClient;
use machine_api::viam::robot::v1::{SendSessionHeartbeatRequest, StartSessionRequest};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::support::{KEY, Samples, authenticate, connect, connector};

const CLIENTS: u32 = 1000;
const WINDOW: Duration = Duration::from_secs(2);
/// Between one client's last beat and the next one's: all of them within a second.
const APART: Duration = Duration::from_millis(1);
const ROUNDS: usize = 5;
const NAME: &str = "stop-bench.loc1.viam.cloud";

/// The machine and its clients.
pub struct Crowd {
    _machine: Process,
    folder: TempDir,
    clients: Vec<Client>,
}

/// Ends with this value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Clone)]
struct Client {
    channel: Channel,
    bearer: MetadataValue<Ascii>,
    motor: String,
}

impl Crowd {
    /// Starts the machine and connects every client.
    pub async fn gather() -> Self {
        files(u64::from(CLIENTS) * 2 + 200);
        let folder = tempfile::tempdir().expect("a folder");
        let (machine, address) = start(&folder);
        let tls = connector(&folder.path().join("state/ca.pem"));
        let bearer = authenticate(connect(&tls, NAME, address).await).await.parse().expect("ascii");
        let mut clients = Vec::new();
        for at in 0..CLIENTS {
            let channel = connect(&tls, NAME, address).await;
            clients.push(Client { channel, bearer: MetadataValue::clone(&bearer), motor: format!("m{at}") });
        }
        Self { _machine: machine, folder, clients }
    }

    /// How long after the window the observer saw each Stop, counted from just before its client sent its last beat.
    pub async fn measure(&self) -> Samples {
        let mut samples = Samples::default();
        for _ in 0..ROUNDS {
            let begun = unix_time();
            // Time for a thousand sessions to begin; until its turn each client beats as any other.
            let first = Instant::now() + Duration::from_secs(3);
            let mut living = JoinSet::new();
            for (client, turn) in self.clients.iter().cloned().zip(0..) {
                living.spawn(async move {
                    let last = client.live_until(first + APART * turn).await;
                    (format!("motor/{}", client.motor), last)
                });
            }
            let mut last_beats = BTreeMap::new();
            while let Some(lived) = living.join_next().await {
                let (motor, last) = lived.expect("no panic");
                last_beats.insert(motor, last.expect("a session whose client beats lives"));
            }
            let stops = self.stops_of_all(begun).await;
            for (motor, last) in last_beats {
                let stopped = stops.get(&motor).unwrap_or_else(|| panic!("{motor} was never stopped"));
                let after = Duration::try_from_secs_f64(stopped - last).expect("after its last beat");
                assert!(after >= WINDOW, "{motor} was stopped {after:?} after a beat: its client was there");
                samples.push(after - WINDOW);
            }
        }
        samples
    }

    /// When each motor was told to stop, once all were; they have ten windows for it.
    async fn stops_of_all(&self, begun: f64) -> BTreeMap<String, f64> {
        for _ in 0..10 {
            tokio::time::sleep(WINDOW).await;
            let stops = self.stops_since(begun);
            if stops.len() == self.clients.len() {
                return stops;
            }
        }
        self.stops_since(begun)
    }

    /// When each motor was told to stop, by the observer's clock, which is this process's too.
    fn stops_since(&self, begun: f64) -> BTreeMap<String, f64> {
        let text = fs::read_to_string(self.folder.path().join("observed.jsonl")).expect("the observer's file");
        // A line that is being written is left for the next time.
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let mut stops = BTreeMap::new();
        for line in whole.lines() {
            let seen: Value = serde_json::from_str(line).expect("a line of JSON");
            assert!(seen.get("lost_before").is_none(), "the observer lost lines");
            if seen["event"] == "write" && seen["cause"] == "stop" && seen["t"].as_f64().is_some_and(|t| t > begun) {
                let actuator = seen["actuator"].as_str().expect("a name").to_owned();
                let stopped_before = stops.insert(actuator, seen["t"].as_f64().expect("a time"));
                assert_eq!(stopped_before, None, "once is enough: {line}");
            }
        }
        stops
    }
}

impl Client {
    /// Drives its motor in a session of its own and beats every fifth of the window. The last beat goes out at `end`; when that was.
    async fn live_until(&self, end: Instant) -> Result<f64, Status> {
        let mut robot = RobotServiceClient::new(self.channel.clone());
        let id = robot.start_session(self.request(StartSessionRequest::default())).await?.into_inner().id;
        let mut moving = self.request(SetPowerRequest { name: self.motor.clone(), power_pct: 0.5, extra: None });
        moving.metadata_mut().insert(SESSION_HEADER, id.parse().expect("ascii"));
        MotorServiceClient::new(self.channel.clone()).set_power(moving).await?;
        let mut next = Instant::now() + WINDOW / 5;
        loop {
            tokio::time::sleep_until(next.min(end).into()).await;
            let sent = unix_time();
            robot.send_session_heartbeat(self.request(SendSessionHeartbeatRequest { id: id.clone() })).await?;
            if next >= end {
                return Ok(sent);
            }
            next += WINDOW / 5;
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.bearer.clone());
        request
    }
}

/// The machine, and where it serves.
fn start(folder: &TempDir) -> (Process, SocketAddr) {
    let motors = (0..CLIENTS).map(|at| json!({ "name": format!("m{at}"), "type": "motor", "model": "fake" }));
    let config = json!({
        "components": motors.collect::<Vec<_>>(),
        "network": { "bind_address": "127.0.0.1:0", "fqdn": NAME },
        "auth": { "handlers": [{ "type": "api-key", "config": { KEY.0: KEY.1 } }] },
    });
    let file = folder.path().join("machine.json");
    fs::write(&file, config.to_string()).expect("written");
    let mut child = Command::new(env!("CARGO_BIN_EXE_sim-machine"))
        .arg("--config")
        .arg(&file)
        .arg("--state-dir")
        .arg(folder.path().join("state"))
        .arg("--observe")
        .arg(folder.path().join("observed.jsonl"))
        .args(["--no-mdns", "--no-webrtc"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the machine");
    let mut said = BufReader::new(child.stderr.take().expect("piped")).lines();
    let machine = Process(child);
    let banner = format!("{NAME} serves on ");
    let serves = said.by_ref().map_while(Result::ok).find_map(|line| line.strip_prefix(&banner).map(str::to_owned));
    let address = serves.expect("it serves").parse().expect("an address");
    // What it says later is read as well: a full pipe would keep its log waiting.
    std::thread::spawn(move || said.map_while(Result::ok).for_each(drop));
    (machine, address)
}

/// Lets this process and the machine have that many files open.
fn files(wanted: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised).expect("`ulimit -n` has to allow a connection for each client");
    }
}

fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}
