//! A simulated machine of two motors in this process, on threads of its own, and clients for it.

#![allow(dead_code, reason = "each test file uses its own part")]

pub mod proxy;

use std::sync::Arc;
use std::time::Duration;

use machine_host::component::Component;
use machine_host::{Machine, MachineOptions, SafetyOptions, Tls};
use robot_client::{Robot, RobotBuilder};
use sim_machine::drivers::SimMotor;
use sim_machine::observer::Observer;
use sim_machine::world::{Axes, Body, Part, World};
use tokio_util::sync::CancellationToken;

pub const W: Duration = Duration::from_millis(400);

/// A machine with two motors, served in clear.
pub struct Served {
    pub machine: Machine,
    pub address: String,
    shafts: [Part<Axes>; 2],
    pub shutdown: CancellationToken,
    pub folder: tempfile::TempDir,
}

impl Served {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut MachineOptions)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut options = MachineOptions::new("robot-main.loc1.viam.cloud");
        options.bind = "127.0.0.1:0".to_owned();
        options.mdns = false;
        options.safety = SafetyOptions { window: W, ..SafetyOptions::default() };
        options.tls = Tls::None;
        change(&mut options);
        if let Tls::Local(path) = &mut options.tls {
            *path = folder.path().to_path_buf();
        }
        let machine = Machine::new(options).expect("a machine");
        let world = World::new(Observer::none()).expect("a thread");
        let shafts = ["m1", "m2"].map(|name| {
            let shaft = world.part(format!("motor/{name}"), Axes::at(&[0.0], f64::INFINITY));
            let motor = Component::Motor(Arc::new(SimMotor { shaft: shaft.clone(), max_rpm: 200.0 }));
            machine.configure(name, motor).expect("a stop thread");
            shaft
        });
        let shutdown = CancellationToken::new();
        let listening = machine.listen().await.expect("a port");
        let address = listening.address.expect("tcp").to_string();
        let ended = shutdown.clone();
        // On threads of its own: a test that blocks its runtime blocks its client's program, not the machine.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
            runtime.expect("a runtime").block_on(listening.serve(ended)).expect("served");
        });
        Self { machine, address, shafts, shutdown, folder }
    }

    pub fn builder(&self) -> RobotBuilder {
        Robot::builder(&self.address).insecure(true)
    }

    pub async fn robot(&self) -> Robot {
        self.builder().connect().await.expect("connected")
    }

    pub fn moves(&self, motor: usize) -> bool {
        self.shafts[motor].read(Body::is_moving)
    }

    pub fn sessions(&self) -> usize {
        self.machine.safety().sessions().len()
    }

    pub async fn until(&self, what: &str, happened: impl Fn(&Self) -> bool) {
        for _ in 0..1000 {
            if happened(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("it never happened: {what}");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}
