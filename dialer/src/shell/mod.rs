//! The task that runs the agent: waits for the next thing, feeds it in, does what comes out.

mod attempt;
mod changes;
mod homes;
mod inputs;
mod network;
mod outputs;
mod sources;
mod warm;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use discovery::{FinderOptions, MachineAddress, Surroundings};
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use transport::LinkId;

use crate::agent::{Attempt, Origin, Route, RouteAgent};
use crate::carrier::{Carrier, Shared, Signpost, Wake};
use crate::channel::{MOST_HEDGES, MachineChannel};
use crate::flight::{DialError, Recorder};
use crate::options::{Admit, DialOptions};
use crate::status::{RouteState, RouteStatus};
use crate::switch::{First, LinkSwitch, RouteEvent, Told};
use attempt::{Maker, Tls};
use changes::Changes;
use inputs::{Found, Input};
use network::{Network, SleepWatch};
use sources::{Remembering, Sources};
use warm::Warm;

/// How often the meters are read while there is traffic: a quarter of the shortest silence.
const TICK: Duration = Duration::from_millis(5);
/// Without a call for this long the task sleeps until the next one.
const REST: Duration = Duration::from_millis(200);
/// A call that is out this long after the last sign of life asks for a new one.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Events kept for a slow receiver.
const EVENTS: usize = 256;
/// Candidates that wait for the agent; a flood of answers waits in the source.
const FOUND: usize = 64;

/// Makes and keeps the connection to one machine.
pub struct Dialer;

impl Dialer {
    /// Starts dialling, in a task on the current Tokio runtime. Both halves are ready at once: calls wait for the first
    /// link as their class allows.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn start(options: DialOptions, admit: Arc<dyn Admit>) -> (MachineChannel, LinkSwitch) {
        let now = Instant::now();
        let address = options.target.to_string();
        let wake = Arc::new(Wake::default());
        let shared = Arc::new(Shared {
            address: address.clone(),
            primary: ArcSwapOption::empty(),
            standby: ArcSwapOption::empty(),
            links: ArcSwap::default(),
            changed: watch::Sender::new(Signpost::default()),
            hedges: Semaphore::new(MOST_HEDGES),
            call_timeout: options.call_timeout,
            fail_fast: options.fail_fast,
            status: watch::Sender::default(),
            large: Mutex::default(),
        });
        let (events, _) = broadcast::channel(EVENTS);
        let (first_told, first) = watch::channel(None);
        let (told, telling) = mpsc::unbounded_channel();
        let (inputs, reports) = mpsc::unbounded_channel();
        let (found_by, found) = mpsc::channel(FOUND);
        let tls = (!options.insecure).then(|| Tls {
            trust: options.trust,
            name: sources::server_name(options.tls_name.as_deref(), &options.target),
        });
        let host = match &options.target {
            MachineAddress::Machine(name) => Some(name.cloud()),
            MachineAddress::HostPort { host, .. } => Some(host.clone()),
            MachineAddress::Socket(_) | MachineAddress::Unix(_) => options.tls_name.clone(),
        };
        let maker = Arc::new(Maker {
            admit,
            tls,
            timeout: options.policy.dial_timeout,
            host,
            ice: options.ice,
            turn: options.turn,
            backend: options.webrtc,
            warm: Warm::default(),
        });
        if let Some(tls) = &maker.tls {
            // While the addresses are looked for; a handshake that comes first waits for it.
            tls.trust.read_ahead();
        }
        // In clear nobody proves to be the machine: what answers at an old address may be anybody.
        let memory = if options.insecure { None } else { options.finder.memory.clone() };
        let finder = FinderOptions { memory, ..options.finder };
        let remembering = Remembering::of(&options.target, &finder);
        let here = Surroundings::current();
        let task = Task {
            agent: RouteAgent::new(options.policy, options.seed, now),
            remembering,
            sources: Sources::new(options.target, finder, options.cloud),
            flight: Recorder::new(address, "dial", now),
            shared: shared.clone(),
            events: events.clone(),
            first: first_told,
            maker,
            told: telling,
            inputs,
            reports,
            found_by,
            found,
            wake,
            traffic: None,
            searching: None,
            listening: None,
            attempts: BTreeMap::new(),
            origins: BTreeMap::new(),
            carriers: BTreeMap::new(),
            using: None,
            before: None,
            ended: None,
            nowhere: now,
            network: Network::of(&here),
            here,
            sleep: SleepWatch::new(),
            window: None,
        };
        tokio::spawn(task.run());
        let switch = LinkSwitch { shared: shared.clone(), events: events.downgrade(), first, told: told.clone() };
        (MachineChannel { shared, alive: told }, switch)
    }
}

/// A link and what was read off its meter.
struct Served {
    carrier: Arc<Carrier>,
    life: Option<Instant>,
    /// The last sign of life of a peer connection that was told.
    checked: Instant,
    /// The last acknowledgement of data that was told.
    acknowledged: Option<Instant>,
    asked: Instant,
}

struct Task {
    agent: RouteAgent,
    sources: Sources,
    remembering: Option<Remembering>,
    flight: Recorder,
    shared: Arc<Shared>,
    events: broadcast::Sender<RouteEvent>,
    first: watch::Sender<Option<First>>,
    maker: Arc<Maker>,
    told: mpsc::UnboundedReceiver<Told>,
    inputs: mpsc::UnboundedSender<Input>,
    reports: mpsc::UnboundedReceiver<Input>,
    found_by: mpsc::Sender<Found>,
    found: mpsc::Receiver<Found>,
    wake: Arc<Wake>,
    /// While there is traffic: when the last call was seen.
    traffic: Option<Instant>,
    searching: Option<AbortHandle>,
    /// Hears what machines announce on the local network.
    listening: Option<AbortHandle>,
    attempts: BTreeMap<Attempt, (AbortHandle, Route)>,
    /// Who told of a route first; bounded by the agent's candidates.
    origins: BTreeMap<Route, Origin>,
    carriers: BTreeMap<LinkId, Served>,
    /// The link that was told last to be the one that carries calls, and how it ended.
    using: Option<LinkId>,
    /// The one before.
    before: Option<LinkId>,
    ended: Option<String>,
    /// Since when calls go nowhere.
    nowhere: Instant,
    /// Where this computer is: listed at the beginning and after every change.
    here: Arc<Surroundings>,
    network: Network,
    sleep: SleepWatch,
    /// The window of the session that is held: every link's kernel gives up unacknowledged data accordingly.
    window: Option<Duration>,
}

impl Task {
    async fn run(mut self) {
        // Whoever waits for the first link waits for nothing else.
        self.perform();
        let mut changes = Changes::new();
        // The runtime's timers are exact to a millisecond: nothing that is due at once may wait for one.
        let done = loop {
            self.perform();
            let due = self.agent.poll_timeout().map(|(at, _)| at);
            let now = Instant::now();
            if due.is_some_and(|at| at <= now) {
                // No deadline of the agent lies before `now` afterwards.
                self.agent.handle_timeout(now);
                continue;
            }
            let tick = self.traffic.map(|_| Instant::now() + TICK);
            let next = [due, tick].into_iter().flatten().min();
            tokio::select! {
                biased;
                told = self.told.recv() => match told {
                    // Every switch and channel is gone.
                    None => break None,
                    Some(Told::Close(done)) => break Some(done),
                    Some(told) => self.handle_told(told),
                },
                Some(input) = self.reports.recv() => self.handle_input(input),
                Some(found) = self.found.recv() => self.handle_found(found),
                () = self.wake.rung() => self.traffic = Some(Instant::now()),
                () = sleep_until(next) => self.agent.handle_timeout(Instant::now()),
                () = changes.look() => self.watch_network(),
            }
            if self.traffic.is_some() {
                self.read_meters();
            }
        };
        self.end(done);
    }

    fn end(mut self, done: Option<oneshot::Sender<()>>) {
        for (abort, _) in self.attempts.values() {
            abort.abort();
        }
        self.searching.iter().chain(&self.listening).for_each(AbortHandle::abort);
        self.shared.primary.store(None);
        self.shared.standby.store(None);
        self.shared.status.send_modify(|status| {
            *status = RouteStatus { state: RouteState::Over, link: None, standby: None, rtt: None, ..status.clone() };
        });
        self.shared.links.store(Arc::default());
        self.shared.changed.send_modify(|sign| *sign = Signpost { over: true, swapping: false, swaps: sign.swaps + 1 });
        self.carriers.values().for_each(|served| served.carrier.link.close());
        if self.first.borrow().is_none() {
            let error =
                DialError { verdict: false, record: self.flight.end(crate::flight::Outcome::Closed, Instant::now()) };
            self.first.send_replace(Some(Err(Arc::new(error))));
        }
        if let Some(done) = done {
            let _ = done.send(());
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
