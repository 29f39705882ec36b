//! A machine with one motor and a clock that only a test moves.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prost_types::Struct;
use session_core::registry::{Holder, Incoming, Policy, Refused};
use session_core::{Connection, Order, Owner, SessionId};
use shuttle::future::block_on;
use shuttle::scheduler::RandomScheduler;
use shuttle::thread;

use crate::safety::{Actuator, Admission, Permit, Safety, SafetyOptions};
use crate::{DriverError, ResourceName};

pub const W: Duration = Duration::from_secs(2);
pub const ID: SessionId = SessionId(7);
pub const CONNECTION: Connection = Connection(1);
const OWNER: Owner = Owner([1; 32]);
/// Orders of each test: thousands, in a second or two.
const SCHEDULES: usize = 2_000;
/// Turns that a Stop's thread gets before a motor that still turns is one that turns for ever.
const TURNS: usize = 20_000;

/// Runs `test` in many orders of its threads, from one seed that is printed; `LIFELINE_SEED` gives another. A failure prints its order too. `test` says
/// whether its command came through: in some orders it has to, and where `always` is not said, in some it must not.
pub fn in_any_order(always: bool, test: fn() -> bool) {
    let seed = std::env::var("LIFELINE_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let seed = seed.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64));
    let came = Arc::new(AtomicUsize::new(0));
    let counted = came.clone();
    let scheduler = RandomScheduler::new_from_seed(seed, SCHEDULES);
    println!("{SCHEDULES} orders of seed {seed}");
    shuttle::Runner::new(scheduler, shuttle::Config::new()).run(move || {
        counted.fetch_add(usize::from(test()), Ordering::SeqCst);
    });
    let came = came.load(Ordering::SeqCst);
    println!("the command came through in {came} of them");
    assert!(came > 0 && (always == (came == SCHEDULES)), "the orders are too much alike");
}

/// What a motor has been told. No thread is put off while it holds this lock.
#[derive(Default)]
struct Axis {
    turns: Option<u64>,
    writes: Vec<u64>,
}

/// A motor behind a slow bus: everybody else may come in between.
#[derive(Clone, Default)]
pub struct Motor(Arc<Mutex<Axis>>);

impl Motor {
    fn axis(&self) -> std::sync::MutexGuard<'_, Axis> {
        self.0.lock().expect("no panic")
    }

    /// Turns for the command of this mark.
    pub fn obey(&self, mark: u64) {
        let mut axis = self.axis();
        axis.turns = Some(mark);
        axis.writes.push(mark);
    }

    pub fn turns(&self) -> Option<u64> {
        self.axis().turns
    }

    pub fn writes(&self) -> Vec<u64> {
        self.axis().writes.clone()
    }

    /// Whether a command came through.
    pub fn was_written(&self) -> bool {
        !self.axis().writes.is_empty()
    }

    /// Whether it comes to rest by itself.
    pub fn rests(&self) -> bool {
        (0..TURNS).any(|_| {
            thread::yield_now();
            self.turns().is_none()
        })
    }
}

impl Actuator for Motor {
    fn stop(&self, _: Option<&Struct>) -> Result<(), DriverError> {
        thread::yield_now();
        self.axis().turns = None;
        thread::yield_now();
        Ok(())
    }
}

/// Something that has happened, and that everybody knows of from then on.
#[derive(Clone, Default)]
pub struct Known(Arc<AtomicBool>);

impl Known {
    pub fn happened(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub fn is_so(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[derive(Clone)]
pub struct Rig {
    pub safety: Safety,
    pub motor: Motor,
    millis: Arc<AtomicU64>,
    /// From here on no command that was admitted before may enter.
    pub over: Known,
}

impl Rig {
    /// With a session, and a connection without one.
    pub fn new() -> Self {
        let millis = Arc::new(AtomicU64::new(0));
        let (passed, start) = (millis.clone(), Instant::now());
        let clock = move || start + Duration::from_millis(passed.load(Ordering::SeqCst));
        let options = SafetyOptions { window: W, max_sessions: 4, policy: Policy::Guard };
        let safety = Safety::on_clock(options, clock).expect("threads");
        let motor = Motor::default();
        safety.configure(name(), Some(Arc::new(motor.clone())), BTreeSet::new()).expect("a thread");
        safety.opened(CONNECTION, None);
        safety.start(ID, None, OWNER).expect("room");
        Self { safety, motor, millis, over: Known::default() }
    }

    /// Time passes, at some time.
    pub fn pass(&self, time: Duration) {
        thread::yield_now();
        self.millis.fetch_add(time.as_millis() as u64, Ordering::SeqCst);
    }

    pub fn beat(&self, order: Option<&Order>) -> bool {
        self.safety.beat(ID, &OWNER, order).is_ok()
    }

    fn call<'a>(
        &self,
        sid: Option<SessionId>,
        order: Option<&'a Order>,
        monitored: bool,
    ) -> Incoming<'a, ResourceName> {
        let otherwise = Holder::Connection(CONNECTION);
        Incoming { sid, owner: &OWNER, otherwise, monitored, resource: name(), order, digest: 1 }
    }

    /// A command that its test carries out itself.
    pub fn admitted(&self, sid: SessionId) -> Result<Admission, Refused<ResourceName>> {
        self.safety.admit(self.call(Some(sid), None, true))
    }

    /// A command as the machine runs it: admitted, then one write; its reply is its mark. `None` where it was refused.
    pub fn command(&self, sid: Option<SessionId>, order: Option<&Order>, mark: u64) -> Option<u64> {
        match self.safety.admit(self.call(sid, order, true)).ok()? {
            Admission::Run(running) => {
                self.write(&running.permit(), mark);
                running.finish(Some(Arc::new(mark)));
                Some(mark)
            }
            Admission::Copy(first) => block_on(first.reply()).and_then(|reply| reply.downcast_ref().copied()),
        }
    }

    /// One write, if its gate lets it in.
    pub fn write(&self, permit: &Permit, mark: u64) {
        let over = self.over.is_so();
        if let Ok(write) = block_on(permit.enter(None)) {
            assert!(!over, "a command from before entered the driver");
            thread::yield_now();
            self.motor.obey(mark);
            thread::yield_now();
            drop(write);
        }
    }

    /// A caller's Stop, to its answer. Whether it said that the motor stopped.
    pub fn stop(&self, order: Option<&Order>) -> bool {
        let stopping = self.safety.stop(self.call(Some(ID), order, false), false, Vec::new());
        block_on(stopping.done()).is_ok_and(|failed| failed.is_empty())
    }
}

pub fn name() -> ResourceName {
    ResourceName::component("motor", "m1")
}

/// The number of a message, with the lower ones that are still wanted.
pub fn numbered<const N: usize>(number: u64, open: [u64; N]) -> Order {
    Order { key: 7, number, open: open.into(), end: false }
}
