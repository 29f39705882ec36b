//! The safety shell with real threads and short windows: what drivers are told, and when.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use machine_host::{
    Actuator, Admission, DriverError, Event, FailedStop, ResourceName, Running, Safety, SafetyOptions, Watchdog,
};
use prost_types::Struct;
use session_core::registry::{Holder, Incoming, Refused, Shut, Why};
use session_core::{Connection, Order, Owner, SessionId};

const OWNER: Owner = Owner([1; 32]);
const WINDOW: Duration = Duration::from_millis(100);
/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a driver does when it is told to stop.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Well,
    Panics,
    Hangs,
}

/// A driver that reports each Stop with its time.
struct Driver {
    name: &'static str,
    manner: Manner,
    told: Mutex<Sender<(&'static str, Instant)>>,
    released: Arc<(Mutex<bool>, Condvar)>,
}

impl Actuator for Driver {
    fn stop(&self, _: Option<&Struct>) -> Result<(), DriverError> {
        self.told.lock().expect("not poisoned").send((self.name, Instant::now())).expect("the test listens");
        match self.manner {
            Manner::Well => Ok(()),
            Manner::Panics => panic!("a driver's own mistake"),
            Manner::Hangs => {
                let (released, changed) = &*self.released;
                let guard = released.lock().expect("not poisoned");
                drop(changed.wait_while(guard, |released| !*released).expect("not poisoned"));
                Ok(())
            }
        }
    }
}

struct Machine {
    safety: Safety,
    stops: Receiver<(&'static str, Instant)>,
    told: Sender<(&'static str, Instant)>,
    released: Arc<(Mutex<bool>, Condvar)>,
}

impl Machine {
    fn new(actuators: &[(&'static str, Manner)]) -> Self {
        let safety = Safety::new(SafetyOptions { window: WINDOW, ..Default::default() }).expect("threads");
        let (told, stops) = channel();
        let machine = Self { safety, stops, told, released: Arc::default() };
        for (name, manner) in actuators {
            machine.add(name, *manner);
        }
        machine.safety.opened(Connection(1), None);
        machine
    }

    fn add(&self, name: &'static str, manner: Manner) {
        let driver = Driver { name, manner, told: Mutex::new(self.told.clone()), released: self.released.clone() };
        self.safety.configure(motor(name), Some(Arc::new(driver)), BTreeSet::new()).expect("a thread");
    }

    fn session(&self, id: u128) -> SessionId {
        self.safety.start(SessionId(id), None, OWNER).expect("room").id
    }

    fn stopped(&self) -> (&'static str, Instant) {
        self.stops.recv_timeout(PATIENCE).expect("a Stop")
    }

    fn release(&self) {
        *self.released.0.lock().expect("not poisoned") = true;
        self.released.1.notify_all();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.release();
    }
}

fn motor(name: &str) -> ResourceName {
    ResourceName::component("motor", name)
}

fn call(sid: Option<SessionId>, name: &str, order: Option<&'static Order>) -> Incoming<'static, ResourceName> {
    static OWNER_REF: Owner = OWNER;
    let otherwise = Holder::Connection(Connection(1));
    Incoming { sid, owner: &OWNER_REF, otherwise, monitored: true, resource: motor(name), order, digest: 5 }
}

fn run(machine: &Machine, call: Incoming<'_, ResourceName>) -> Running {
    match machine.safety.admit(call).expect("admitted") {
        Admission::Run(running) => running,
        Admission::Copy(_) => panic!("expected to run"),
    }
}

/// A set-and-forget command from beginning to end.
async fn command(machine: &Machine, sid: Option<SessionId>, name: &str) {
    let running = run(machine, call(sid, name, None));
    drop(running.permit().enter(None).await.expect("an open gate"));
    running.finish(None);
}

#[tokio::test]
async fn s16_a_lapse_stops_the_driver_at_the_end_of_the_window() {
    let machine = Machine::new(&[("m1", Manner::Well), ("m2", Manner::Well)]);
    let mut events = machine.safety.events();
    let id = machine.session(1);
    command(&machine, Some(id), "m1").await;
    let last = Instant::now();
    machine.safety.beat(id, &OWNER, None).expect("alive");
    let (name, at) = machine.stopped();
    assert_eq!(name, "m1");
    let after = at - last;
    assert!(after >= WINDOW, "{after:?}");
    assert!(after < WINDOW * 5, "{after:?}");
    assert!(machine.safety.beat(id, &OWNER, None).is_err());
    assert!(machine.safety.sessions().is_empty());
    let lapsed = events.recv().await.expect("an event");
    assert!(
        matches!(lapsed, Event::Lapsed { holder: Holder::Session(of), stopped, .. } if of == id && stopped == [motor("m1")].into())
    );
    assert!(machine.stops.try_recv().is_err(), "m2 was not touched, m1 was stopped once");
}

#[test]
fn a_lapse_stops_although_every_worker_is_blocked() {
    let machine = Machine::new(&[("m1", Manner::Well)]);
    let id = machine.session(1);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().expect("a runtime");
    runtime.block_on(command(&machine, Some(id), "m1"));
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    for _ in 0..4 {
        let gate = gate.clone();
        runtime.spawn(async move {
            let guard = gate.0.lock().expect("not poisoned");
            drop(gate.1.wait_while(guard, |open| !*open).expect("not poisoned"));
        });
    }
    let stopped = machine.stopped();
    *gate.0.lock().expect("not poisoned") = true;
    gate.1.notify_all();
    assert_eq!(stopped.0, "m1");
}

#[tokio::test]
async fn s23_a_driver_that_panics_does_not_prevent_another() {
    let machine = Machine::new(&[("m1", Manner::Panics), ("m2", Manner::Well)]);
    let id = machine.session(1);
    command(&machine, Some(id), "m1").await;
    command(&machine, Some(id), "m2").await;
    let stopped: BTreeSet<_> = [machine.stopped().0, machine.stopped().0].into();
    assert_eq!(stopped, ["m1", "m2"].into());
    assert_eq!(machine.stopped().0, "m1", "it is tried again");
}

#[tokio::test]
async fn s24_a_stop_that_hangs_delays_nobody_and_is_reported() {
    let machine = Machine::new(&[("m1", Manner::Hangs), ("m2", Manner::Well)]);
    let mut events = machine.safety.events();
    let id = machine.session(1);
    command(&machine, Some(id), "m1").await;
    command(&machine, Some(id), "m2").await;
    let (one, two) = (machine.stopped(), machine.stopped());
    let apart = one.1.max(two.1) - one.1.min(two.1);
    assert!(apart < Duration::from_millis(100), "{apart:?}");
    let other = machine.session(2);
    machine.safety.beat(other, &OWNER, None).expect("beats are answered meanwhile");
    loop {
        if let Event::StopLost { resource, .. } = events.recv().await.expect("an event") {
            break assert_eq!(resource, motor("m1"));
        }
    }
    let waiting = run(&machine, call(None, "m1", None));
    assert_eq!(waiting.permit().enter(None).await.err(), Some(DriverError::Shut(Shut::Busy)));
    machine.release();
    drop(waiting.permit().enter(None).await.expect("open again"));
    waiting.finish(None);
}

#[tokio::test]
async fn s44_a_later_command_ends_the_earlier_one() {
    let machine = Machine::new(&[("m1", Manner::Well)]);
    let id = machine.session(1);
    let going = run(&machine, call(Some(id), "m1", None));
    drop(going.permit().enter(None).await.expect("an open gate"));
    command(&machine, Some(id), "m1").await;
    assert_eq!(going.permit().cancelled().await, Why::Preempted);
    assert_eq!(going.permit().enter(None).await.err(), Some(DriverError::Shut(Shut::Revoked(Why::Preempted))));
}

#[tokio::test]
async fn a_dropped_call_stops_what_it_moved() {
    let machine = Machine::new(&[("m1", Manner::Well)]);
    machine.session(1);
    let going = run(&machine, call(None, "m1", None));
    drop(going.permit().enter(None).await.expect("an open gate"));
    drop(going);
    assert_eq!(machine.stopped().0, "m1");
}

#[tokio::test]
async fn s85_a_closed_connection_stops_its_guarded_callers_actuator() {
    let machine = Machine::new(&[("m1", Manner::Well)]);
    command(&machine, None, "m1").await;
    machine.safety.closed(Connection(1));
    assert_eq!(machine.stopped().0, "m1");
    assert!(matches!(machine.safety.admit(call(None, "m1", None)), Err(Refused::CallerLeft)));
}

#[tokio::test]
async fn s90_a_copy_gets_the_reply_of_the_first() {
    static ORDER: Order = Order { key: 1, number: 1, open: BTreeSet::new(), end: false };
    let machine = Machine::new(&[("m1", Manner::Well)]);
    let id = machine.session(1);
    let first = run(&machine, call(Some(id), "m1", Some(&ORDER)));
    let Ok(Admission::Copy(copy)) = machine.safety.admit(call(Some(id), "m1", Some(&ORDER))) else { panic!("a copy") };
    first.finish(Some(Arc::new(42u32)));
    let reply = copy.reply().await.expect("kept");
    assert_eq!(reply.downcast_ref::<u32>(), Some(&42));
    let Ok(Admission::Copy(late)) = machine.safety.admit(call(Some(id), "m1", Some(&ORDER))) else { panic!("a copy") };
    assert!(late.reply().await.is_some());
}

#[tokio::test]
async fn a_callers_stop_is_answered_when_its_driver_has_returned() {
    let machine = Machine::new(&[("m1", Manner::Well), ("m2", Manner::Panics)]);
    let id = machine.session(1);
    assert_eq!(machine.safety.stop(call(Some(id), "m1", None), false, vec![]).done().await, Ok(vec![]));
    assert_eq!(machine.stopped().0, "m1");
    let failed = machine.safety.stop(call(Some(id), "", None), true, vec![]).done().await.expect("it ran");
    assert_eq!(failed, [FailedStop { resource: motor("m2"), error: "its driver panicked".to_owned() }]);
}

#[tokio::test]
async fn a_removed_actuator_is_stopped() {
    let machine = Machine::new(&[("m1", Manner::Well)]);
    machine.safety.remove(&motor("m1"));
    assert_eq!(machine.stopped().0, "m1");
}

#[test]
fn the_threads_of_a_machine_end_with_it() {
    let machine = Machine::new(&[("m1", Manner::Well)]);
    let events = machine.safety.events();
    drop(machine);
    let until = Instant::now() + PATIENCE;
    // The sender lives as long as the shared state, which the deadline thread lets go of.
    while events.sender_strong_count() > 0 {
        assert!(Instant::now() < until, "the machine's threads still run");
        std::thread::yield_now();
    }
}

/// The boot clock of a computer that sleeps when a test says so.
#[derive(Clone, Default)]
struct Sleeper {
    asleep: Arc<Mutex<Duration>>,
    stuck: Arc<(Mutex<Stuck>, Condvar)>,
}

/// Whether whoever asks for the time waits for it, and how many do.
#[derive(Default)]
struct Stuck {
    stuck: bool,
    waiting: u32,
}

impl Sleeper {
    fn machine(&self, window: Duration) -> Machine {
        let (clock, base) = (self.clone(), Instant::now());
        let options = SafetyOptions { window, ..Default::default() };
        let safety = Safety::on_clock(options, move || {
            let mut guard = clock.stuck.0.lock().expect("not poisoned");
            guard.waiting += 1;
            clock.stuck.1.notify_all();
            guard = clock.stuck.1.wait_while(guard, |stuck| stuck.stuck).expect("not poisoned");
            guard.waiting -= 1;
            drop(guard);
            base + base.elapsed() + *clock.asleep.lock().expect("not poisoned")
        });
        let (told, stops) = channel();
        let machine = Machine { safety: safety.expect("threads"), stops, told, released: Arc::default() };
        machine.add("m1", Manner::Well);
        machine.safety.opened(Connection(1), None);
        machine
    }

    fn stick(&self, stuck: bool) {
        self.stuck.0.lock().expect("not poisoned").stuck = stuck;
        self.stuck.1.notify_all();
    }

    /// Waits until somebody does not get the time.
    fn until_somebody_is_stuck(&self) {
        let guard = self.stuck.0.lock().expect("not poisoned");
        let nobody = |stuck: &mut Stuck| !(stuck.stuck && stuck.waiting > 0);
        assert!(!self.stuck.1.wait_timeout_while(guard, PATIENCE, nobody).expect("not poisoned").1.timed_out());
    }
}

#[tokio::test]
async fn s16_time_asleep_counts_and_beats_queued_meanwhile_revive_nothing() {
    let sleeper = Sleeper::default();
    // Longer than any pause of this computer's own.
    let machine = sleeper.machine(Duration::from_secs(60));
    let id = machine.session(1);
    command(&machine, Some(id), "m1").await;
    // A second asleep is within the window.
    *sleeper.asleep.lock().expect("not poisoned") += Duration::from_secs(1);
    machine.safety.beat(id, &OWNER, None).expect("alive");
    assert!(machine.stops.try_recv().is_err());
    // Ten minutes are not, and the first thing that is heard of them is a beat that waited in the socket.
    *sleeper.asleep.lock().expect("not poisoned") += Duration::from_secs(600);
    assert!(machine.safety.beat(id, &OWNER, None).is_err());
    assert_eq!(machine.stopped().0, "m1");
}

#[tokio::test]
async fn s16_a_computer_that_wakes_up_stops_what_it_moved_though_nobody_says_anything() {
    let sleeper = Sleeper::default();
    let machine = sleeper.machine(Duration::from_secs(60));
    let id = machine.session(1);
    command(&machine, Some(id), "m1").await;
    *sleeper.asleep.lock().expect("not poisoned") += Duration::from_secs(600);
    let woken = Instant::now();
    assert_eq!(machine.stopped().0, "m1");
    assert!(woken.elapsed() < Duration::from_secs(5), "{:?}", woken.elapsed());
}

/// Counts.
#[derive(Default)]
struct Dog(Mutex<u32>, Condvar);

impl Watchdog for Dog {
    fn period(&self) -> Duration {
        Duration::from_millis(10)
    }

    fn kick(&self) {
        *self.0.lock().expect("not poisoned") += 1;
        self.1.notify_all();
    }
}

impl Dog {
    fn kicks(&self) -> u32 {
        *self.0.lock().expect("not poisoned")
    }

    /// Whether it is kicked within this time.
    fn is_kicked_within(&self, time: Duration) -> bool {
        let guard = self.0.lock().expect("not poisoned");
        let before = *guard;
        !self.1.wait_timeout_while(guard, time, |now| *now == before).expect("not poisoned").1.timed_out()
    }

    fn wait_for(&self, kicks: u32) {
        let guard = self.0.lock().expect("not poisoned");
        let waited = self.1.wait_timeout_while(guard, PATIENCE, |now| *now < kicks).expect("not poisoned");
        assert!(*waited.0 >= kicks, "only {} kicks", *waited.0);
    }
}

#[test]
fn a_watchdog_is_kicked_as_long_as_leases_are_watched_over() {
    let sleeper = Sleeper::default();
    let machine = sleeper.machine(WINDOW);
    let dog = Arc::new(Dog::default());
    machine.safety.kick(dog.clone());
    dog.wait_for(5);
    // The thread that ends leases is stuck, as in a computer that hangs: nobody says that all is well.
    sleeper.stick(true);
    sleeper.until_somebody_is_stuck();
    let before = dog.kicks();
    assert!(!dog.is_kicked_within(20 * dog.period()), "a kick although nothing is watched over");
    sleeper.stick(false);
    dog.wait_for(before + 2);
}

#[test]
fn a_machine_whose_runtime_unwinds_has_stopped_everything_before_it_goes_on() {
    let machine = Machine::new(&[("m1", Manner::Well)]);
    assert!(machine.safety.close_now(PATIENCE), "its driver has returned");
    assert_eq!(machine.stops.try_recv().map(|(name, _)| name), Ok("m1"));
    assert!(matches!(machine.safety.admit(call(None, "m1", None)), Err(Refused::Closed)));
}

/// A write that was inside the old driver goes on there, whatever is called by its name now: nobody else would ever stop what it moved.
#[tokio::test]
async fn a_driver_that_was_replaced_during_a_write_is_stopped_after_it() {
    let machine = Machine::new(&[]);
    let driver = |name| {
        let driver =
            Driver { name, manner: Manner::Well, told: Mutex::new(machine.told.clone()), released: Arc::default() };
        machine.safety.configure(motor("m1"), Some(Arc::new(driver)), BTreeSet::new()).expect("a thread");
    };
    driver("old");
    let going = run(&machine, call(None, "m1", None));
    let inside = going.permit().enter(None).await.expect("an open gate");
    driver("new");
    assert_eq!(machine.stopped().0, "old", "at once, past the write");
    drop(inside);
    let after: BTreeSet<_> = [machine.stopped().0, machine.stopped().0].into();
    assert_eq!(after, ["old", "new"].into(), "and again behind it");
    command(&machine, None, "m1").await;
}
