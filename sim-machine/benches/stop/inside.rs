//! The sessions, gates and threads of a served machine, without its sockets.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use machine_host::{Actuator, Admission, DriverError, ResourceName, Running, Safety, SafetyOptions};
use prost_types::Struct;
use session_core::registry::{Holder, Incoming};
use session_core::{Connection, Owner, SessionId};

use crate::support::Samples;

const OWNER: Owner = Owner([1; 32]);

/// How many sessions end, and how.
#[derive(Clone, Copy)]
pub struct Crowd {
    /// Sessions at once, each with an actuator of its own.
    sessions: u32,
    window: Duration,
    /// Between one session's last beat and the next one's.
    apart: Duration,
    rounds: u32,
}

pub const FEW: Crowd =
    Crowd { sessions: 100, window: Duration::from_millis(200), apart: Duration::from_micros(500), rounds: 20 };
/// All of them within a second.
pub const MANY: Crowd =
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

impl Noted {
    /// When it was stopped, once it is.
    async fn stopped(&self) -> Instant {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(stopped) = *self.0.lock().expect("no panic") {
                return stopped;
            }
            assert!(Instant::now() < until, "an actuator was never stopped");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// How long after the window each Stop came.
pub async fn measure(crowd: Crowd) -> Samples {
    let Crowd { sessions, window, apart, rounds } = crowd;
    let safety = Safety::new(SafetyOptions { window, ..SafetyOptions::default() }).expect("a thread");
    safety.opened(Connection(1), None);
    let mut actuators = Vec::new();
    for at in 0..sessions {
        let name = ResourceName::component("motor", format!("m{at}"));
        let actuator = Arc::new(Noted::default());
        safety.configure(name.clone(), Some(actuator.clone()), Default::default()).expect("a thread");
        actuators.push((name, actuator));
    }
    let mut samples = Samples::default();
    let mut id = SessionId(0);
    for _ in 0..rounds {
        let mut begun = Vec::new();
        for (name, actuator) in &actuators {
            *actuator.0.lock().expect("no panic") = None;
            begun.push(begin(&safety, &mut id, name).await);
        }
        let (start, mut last_heard) = (Instant::now(), Vec::new());
        for (at, (id, admitted)) in (0..).zip(begun) {
            // Not all at the same moment, and none too late to be alive.
            tokio::time::sleep_until((start + apart * at).into()).await;
            let beat = Instant::now();
            // A computer that stood still for a window meanwhile has rightly stopped what it moved: then its command was the last that was heard.
            last_heard.push(if safety.beat(id, &OWNER, None).is_ok() { beat } else { admitted });
        }
        tokio::time::sleep(window).await;
        for ((_, actuator), last) in actuators.iter().zip(last_heard) {
            let stopped = actuator.stopped().await;
            samples.push(stopped.saturating_duration_since(last).saturating_sub(window));
        }
    }
    samples
}

/// A session that moves its actuator, and when its command was admitted.
async fn begin(safety: &Safety, id: &mut SessionId, name: &ResourceName) -> (SessionId, Instant) {
    for _ in 0..100 {
        id.0 += 1;
        safety.start(*id, None, OWNER).expect("a session");
        let incoming = Incoming {
            sid: Some(*id),
            owner: &OWNER,
            otherwise: Holder::Connection(Connection(1)),
            monitored: true,
            resource: name.clone(),
            order: None,
            digest: 0,
        };
        let now = Instant::now();
        // Between the two this thread may have had no core for a whole window, where others build or test beside it: that session is over.
        if let Ok(Admission::Run(running)) = safety.admit(incoming)
            && moved(running).await
        {
            return (*id, now);
        }
    }
    panic!("no session of a hundred lived long enough to move anything: this computer has no time at all");
}

async fn moved(running: Running) -> bool {
    let moved = running.permit().enter(None).await.is_ok();
    running.finish(None);
    moved
}
