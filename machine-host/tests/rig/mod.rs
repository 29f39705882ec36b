//! A machine with two recording motors on a port of its own, and clients for it.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use machine_api::viam::component::motor::v1::SetPowerRequest;
use machine_api::viam::component::motor::v1::motor_service_client::MotorServiceClient;
use machine_api::viam::robot::v1::StartSessionRequest;
use machine_api::viam::robot::v1::robot_service_client::RobotServiceClient;
use machine_host::component::{Component, Motor, Resource};
use machine_host::{Actuator, DriverError, Machine, MachineOptions, Permit, SafetyOptions};
use prost_types::Struct;
use prost_types::value::Kind;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

/// Writes down what it is told.
#[derive(Clone, Default)]
pub struct Recorder {
    writes: Arc<Mutex<Vec<f64>>>,
    /// Its Stop fails.
    broken: bool,
}

/// A power at which the driver has moved its motor, and then falls over its own feet.
pub const PANICS: f64 = 0.13;

/// A power at which the driver has moved its motor, and then loses it.
pub const FAILS: f64 = 0.14;

impl Recorder {
    fn write(&self, value: f64) {
        self.writes.lock().expect("no panic").push(value);
    }
}

/// The number `mark` of what a caller gave to a driver.
fn mark(extra: Option<&Struct>) -> Option<f64> {
    match extra?.fields.get("mark")?.kind {
        Some(Kind::NumberValue(mark)) => Some(mark),
        _ => None,
    }
}

impl Actuator for Recorder {
    /// Writes zero, or the mark that its caller gave.
    fn stop(&self, extra: Option<&Struct>) -> Result<(), DriverError> {
        self.write(mark(extra).unwrap_or(0.0));
        if self.broken { Err(DriverError::failed("no answer from the controller")) } else { Ok(()) }
    }
}

#[tonic::async_trait]
impl Resource for Recorder {
    /// Moves it without being monitored.
    async fn do_command(&self, permit: &Permit, command: Struct) -> Result<Struct, DriverError> {
        let _inside = permit.enter(None).await?;
        self.write(mark(Some(&command)).unwrap_or(0.3));
        Ok(Struct::default())
    }
}

#[tonic::async_trait]
impl Motor for Recorder {
    async fn set_power(&self, permit: &Permit, power: f64, _: Option<&Struct>) -> Result<(), DriverError> {
        let _inside = permit.enter(None).await?;
        self.write(power);
        assert!(power != PANICS, "a driver's own mistake");
        if power == FAILS { Err(DriverError::failed("the controller does not answer any more")) } else { Ok(()) }
    }
    /// Writes its speed, turns for a second each revolution, and writes zero.
    async fn go_for(&self, permit: &Permit, rpm: f64, revolutions: f64, _: Option<&Struct>) -> Result<(), DriverError> {
        permit.enter(None).await.map(|_inside| self.write(rpm))?;
        tokio::time::sleep(Duration::from_secs_f64(revolutions)).await;
        let _inside = permit.enter(None).await?;
        self.write(0.0);
        Ok(())
    }
    async fn is_powered(&self, _: Option<&Struct>) -> Result<(bool, f64), DriverError> {
        Ok((false, 0.0))
    }
    async fn is_moving(&self) -> Result<bool, DriverError> {
        Ok(false)
    }
}

pub struct Rig {
    pub machine: Machine,
    motors: Mutex<BTreeMap<String, Recorder>>,
    address: String,
    shutdown: CancellationToken,
    served: Option<JoinHandle<()>>,
}

impl Rig {
    pub async fn start(window: Duration, keys: &[(&str, &str)]) -> Self {
        Self::with(window, keys, |_| {}).await
    }

    pub async fn with(window: Duration, keys: &[(&str, &str)], change: impl FnOnce(&mut MachineOptions)) -> Self {
        let mut options = MachineOptions::new("rig-main.loc1.viam.cloud");
        options.bind = "127.0.0.1:0".to_owned();
        options.mdns = false;
        options.safety = SafetyOptions { window, ..SafetyOptions::default() };
        options.api_keys = keys.iter().map(|(id, key)| ((*id).to_owned(), (*key).to_owned())).collect();
        change(&mut options);
        let machine = Machine::new(options).expect("a machine");
        let mut rig = Self {
            machine,
            motors: Mutex::default(),
            address: String::new(),
            shutdown: CancellationToken::new(),
            served: None,
        };
        rig.add("m1");
        rig.add("m2");
        let listening = rig.machine.listen().await.expect("a port");
        let address = format!("http://{}", listening.address.expect("tcp"));
        let shutdown = rig.shutdown.clone();
        let served = tokio::spawn(async move { listening.serve(shutdown).await.expect("served") });
        (rig.address, rig.served) = (address, Some(served));
        // The port is open already; what is written before serving is written first.
        rig.until(|rig| rig.writes("m1") == [0.0] && rig.writes("m2") == [0.0]).await;
        rig
    }

    pub fn add(&self, name: &str) {
        self.add_motor(name, Recorder::default());
    }

    /// One whose Stop fails.
    pub fn add_broken(&self, name: &str) {
        self.add_motor(name, Recorder { broken: true, ..Recorder::default() });
    }

    fn add_motor(&self, name: &str, motor: Recorder) {
        self.machine.configure(name, Component::Motor(Arc::new(motor.clone()))).expect("a stop thread");
        self.motors.lock().expect("no panic").insert(name.to_owned(), motor);
    }

    pub fn writes(&self, motor: &str) -> Vec<f64> {
        self.motors.lock().expect("no panic")[motor].writes.lock().expect("no panic").clone()
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        self.address.trim_start_matches("http://")
    }

    /// A connection of its own.
    pub fn channel(&self) -> Channel {
        Endpoint::from_shared(self.address.clone()).expect("an address").connect_lazy()
    }

    pub fn motor(&self) -> MotorServiceClient<Channel> {
        MotorServiceClient::new(self.channel())
    }

    pub fn robot(&self) -> RobotServiceClient<Channel> {
        RobotServiceClient::new(self.channel())
    }

    pub async fn session(&self) -> String {
        self.robot().start_session(StartSessionRequest::default()).await.expect("started").into_inner().id
    }

    /// Waits for something that is to happen, for at most 5 s.
    pub async fn until(&self, happened: impl Fn(&Self) -> bool) {
        for _ in 0..1000 {
            if happened(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("it did not happen; m1: {:?}, m2: {:?}", self.writes("m1"), self.writes("m2"));
    }

    pub async fn shutdown(&mut self) {
        self.shutdown.cancel();
        self.served.take().expect("once").await.expect("no panic");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

pub fn power(motor: &str, power_pct: f64) -> SetPowerRequest {
    SetPowerRequest { name: motor.into(), power_pct, extra: None }
}

/// A request with one header.
pub fn with<T>(message: T, header: &'static str, value: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(header, value.parse().expect("ascii"));
    request
}
