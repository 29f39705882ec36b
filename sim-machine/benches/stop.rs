//! From a session's last beat to its actuator's Stop: idle, and with every core oversubscribed twice. The sessions, gates and threads are
//! those of a served machine. `cargo bench -p sim-machine --bench stop`.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use machine_host::{Actuator, Admission, DriverError, ResourceName, Safety, SafetyOptions};
use prost_types::Struct;
use session_core::registry::{Holder, Incoming};
use session_core::{Connection, Owner, SessionId};
use support::{Samples, bar};

const W: Duration = Duration::from_millis(200);
/// Sessions at once, each with an actuator of its own.
const SESSIONS: u64 = 100;

/// Notes when it was stopped.
#[derive(Default)]
struct Noted(Mutex<Option<Instant>>);

impl Actuator for Noted {
    fn stop(&self, _: Option<&Struct>) -> Result<(), DriverError> {
        *self.0.lock().expect("no panic") = Some(Instant::now());
        Ok(())
    }
}

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let idle = runtime.block_on(measure(20));
    let busy = Arc::new(AtomicBool::new(true));
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let load: Vec<_> = (0..cores * 2)
        .map(|_| {
            let busy = busy.clone();
            std::thread::spawn(move || {
                let mut x = 0u64;
                while busy.load(Ordering::Relaxed) {
                    for _ in 0..10_000 {
                        x = std::hint::black_box(x.wrapping_mul(31).wrapping_add(7));
                    }
                }
            })
        })
        .collect();
    let loaded = runtime.block_on(measure(20));
    busy.store(false, Ordering::Relaxed);
    load.into_iter().for_each(|thread| thread.join().expect("no panic"));
    idle.print("last beat to Stop, idle, beyond the window");
    loaded.print("last beat to Stop, loaded, beyond the window");
    println!("p99.9: idle {:.1?}, loaded {:.1?}", idle.at(0.999), loaded.at(0.999));
    bar("beyond the window, idle, median", idle.median(), Duration::from_millis(5));
    bar("beyond the window, idle, p99", idle.at(0.99), Duration::from_millis(20));
    bar("beyond the window, loaded, p99.9", loaded.at(0.999), Duration::from_millis(50));
}

/// How long after the window each Stop came.
async fn measure(rounds: u64) -> Samples {
    let safety = Safety::new(SafetyOptions { window: W, ..SafetyOptions::default() }).expect("a thread");
    let owner = Owner([1; 32]);
    safety.opened(Connection(1), None);
    let mut actuators = Vec::new();
    for at in 0..SESSIONS {
        let name = ResourceName::component("motor", format!("m{at}"));
        let actuator = Arc::new(Noted::default());
        safety.configure(name.clone(), Some(actuator.clone()), Default::default()).expect("a thread");
        actuators.push((name, actuator));
    }
    let mut samples = Samples::default();
    for round in 0..rounds {
        let mut beats = Vec::new();
        for (at, (name, actuator)) in actuators.iter().enumerate() {
            *actuator.0.lock().expect("no panic") = None;
            let id = SessionId(u128::from(round * SESSIONS) + at as u128 + 1);
            safety.start(id, None, owner).expect("a session");
            let incoming = Incoming {
                sid: Some(id),
                owner: &owner,
                otherwise: Holder::Connection(Connection(1)),
                monitored: true,
                resource: name.clone(),
                order: None,
                digest: 0,
            };
            let Ok(Admission::Run(running)) = safety.admit(incoming) else { panic!("not admitted") };
            drop(running.permit().enter(None).await.expect("an open gate"));
            running.finish(None);
            let beat = Instant::now();
            safety.beat(id, &owner, None).expect("alive");
            beats.push(beat);
            // Not all at the same moment.
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        tokio::time::sleep(W + Duration::from_millis(100)).await;
        for ((_, actuator), beat) in actuators.iter().zip(beats) {
            let stopped = actuator.0.lock().expect("no panic").expect("it was stopped");
            samples.push(stopped.saturating_duration_since(beat).saturating_sub(W));
        }
    }
    samples
}
