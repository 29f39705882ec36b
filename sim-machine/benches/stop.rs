//! From a session's last beat to its actuator's Stop: idle, and with every core oversubscribed twice; a hundred sessions, and a thousand that
//! expire within one second. The sessions, gates and threads are those of a served machine. `cargo bench -p sim-machine --bench stop`.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use machine_host::{Actuator, Admission, DriverError, ResourceName, Safety, SafetyOptions};
use prost_types::Struct;
use session_core::registry::{Holder, Incoming};
use session_core::{Connection, Owner, SessionId};
use support::{Samples, bar};

/// How many sessions end, and how.
#[derive(Clone, Copy)]
struct Crowd {
    /// Sessions at once, each with an actuator of its own.
    sessions: u64,
    window: Duration,
    /// Between one session's last beat and the next one's.
    apart: Duration,
    rounds: u64,
}

const FEW: Crowd =
    Crowd { sessions: 100, window: Duration::from_millis(200), apart: Duration::from_micros(500), rounds: 20 };
/// All of them within a second.
const MANY: Crowd =
    Crowd { sessions: 1000, window: Duration::from_secs(2), apart: Duration::from_millis(1), rounds: 5 };

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
    let (idle, many_idle) = (runtime.block_on(measure(FEW)), runtime.block_on(measure(MANY)));
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
    let (loaded, many_loaded) = (runtime.block_on(measure(FEW)), runtime.block_on(measure(MANY)));
    busy.store(false, Ordering::Relaxed);
    load.into_iter().for_each(|thread| thread.join().expect("no panic"));
    report("100 sessions", &idle, &loaded);
    report("1,000 in a second", &many_idle, &many_loaded);
}

fn report(who: &str, idle: &Samples, loaded: &Samples) {
    idle.print(&format!("{who}: last beat to Stop, idle, beyond the window"));
    loaded.print(&format!("{who}: last beat to Stop, loaded, beyond the window"));
    println!("p99.9: idle {:.1?}, loaded {:.1?}", idle.at(0.999), loaded.at(0.999));
    bar(&format!("{who}, beyond the window, idle, median"), idle.median(), Duration::from_millis(5));
    bar(&format!("{who}, beyond the window, idle, p99"), idle.at(0.99), Duration::from_millis(20));
    bar(&format!("{who}, beyond the window, loaded, p99.9"), loaded.at(0.999), Duration::from_millis(50));
}

/// How long after the window each Stop came.
async fn measure(crowd: Crowd) -> Samples {
    let Crowd { sessions, window, apart, rounds } = crowd;
    let safety = Safety::new(SafetyOptions { window, ..SafetyOptions::default() }).expect("a thread");
    let owner = Owner([1; 32]);
    safety.opened(Connection(1), None);
    let mut actuators = Vec::new();
    for at in 0..sessions {
        let name = ResourceName::component("motor", format!("m{at}"));
        let actuator = Arc::new(Noted::default());
        safety.configure(name.clone(), Some(actuator.clone()), Default::default()).expect("a thread");
        actuators.push((name, actuator));
    }
    let mut samples = Samples::default();
    for round in 0..rounds {
        let mut ids = Vec::new();
        for (at, (name, actuator)) in actuators.iter().enumerate() {
            *actuator.0.lock().expect("no panic") = None;
            let id = SessionId(u128::from(round * sessions) + at as u128 + 1);
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
            ids.push(id);
        }
        let (begun, mut beats) = (Instant::now(), Vec::new());
        for (at, id) in ids.into_iter().enumerate() {
            // Not all at the same moment, and none too late to be alive.
            let due = begun + apart * u32::try_from(at).expect("a few thousand");
            tokio::time::sleep_until(due.into()).await;
            let beat = Instant::now();
            safety.beat(id, &owner, None).expect("alive");
            beats.push(beat);
        }
        tokio::time::sleep(window + Duration::from_millis(200)).await;
        for ((_, actuator), beat) in actuators.iter().zip(beats) {
            let stopped = actuator.0.lock().expect("no panic").expect("it was stopped");
            samples.push(stopped.saturating_duration_since(beat).saturating_sub(window));
        }
    }
    samples
}
