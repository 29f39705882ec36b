//! The task that runs the agent: waits for the next thing, feeds it in, does what comes out.

mod attempt;
mod changes;
mod homes;
mod network;
mod outputs;
mod sources;
mod warm;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use discovery::{FinderOptions, MachineAddress, Surroundings};
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use transport::{CloseReason, LinkId};

use crate::agent::{
    Attempt, Candidate, Failure, Held, LinkFacts, NetChange, Origin, Route, RouteAgent, Sign, Signaler, Stage,
};
use crate::carrier::{Carrier, Meter, Shared, Signpost, Wake};
use crate::channel::{MOST_HEDGES, MachineChannel};
use crate::flight::{DialError, Recorder};
use crate::options::{Admit, DialOptions};
use crate::pass::Pass;
use crate::status::{RouteState, RouteStatus};
use crate::switch::{First, LinkSwitch, RouteEvent, Told};
use attempt::{Made, Maker, Tls};
use changes::Changes;
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

/// What the dialer's own tasks report. Every message answers an output of the agent, whose number is bounded.
pub(crate) enum Input {
    Stage {
        attempt: Attempt,
        stage: Stage,
    },
    Connected {
        attempt: Attempt,
        route: Route,
        made: Made,
    },
    Failed {
        attempt: Attempt,
        why: Failure,
    },
    Closed {
        link: LinkId,
        why: CloseReason,
    },
    /// The machine takes no new calls on the link.
    Refused {
        link: LinkId,
    },
    /// Data on a peer connection is not acknowledged although its path answers.
    Stalled {
        link: LinkId,
    },
    Heard(SocketAddr),
    Probed {
        attempt: Attempt,
        link: LinkId,
        rtt: Duration,
        boot: Option<u128>,
    },
}

/// What a search reports.
pub(crate) enum Found {
    Candidate(Route, Origin),
    Complaint(String),
    Done { search: Attempt, conclusive: bool },
}

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

    fn handle_told(&mut self, told: Told) {
        let now = Instant::now();
        match told {
            Told::Held(held, peer) => {
                let window = match held {
                    Held::Session { window, .. } => Some(window),
                    Held::Nothing => None,
                };
                if window != self.window {
                    self.window = window;
                    self.carriers.values().for_each(|served| served.carrier.link.hold(window));
                }
                self.agent.handle_held(held, peer, now);
            }
            Told::Beat(link, answered) => self.agent.handle_beat(link, answered, now),
            Told::Validated(link, what) => self.agent.handle_validated(link, what, now),
            Told::Standby(policy) => self.agent.set_standby(policy, now),
            Told::NetworkChanged => {
                self.maker.warm.forget();
                self.agent.handle_network_changed(NetChange::Changed, now);
            }
            Told::Close(_) => {}
        }
    }

    fn handle_input(&mut self, input: Input) {
        let now = Instant::now();
        match input {
            Input::Stage { attempt, stage } => self.flight.stage(attempt, stage, now),
            Input::Failed { attempt, why } => {
                if let Some((_, route)) = self.attempts.remove(&attempt) {
                    tracing::debug!(%route, stage = why.stage.name(), why = %why.message, "attempt failed");
                    self.flight.failed(attempt, &why, now);
                    if let (Some(remembering), Route::Direct(address)) = (&self.remembering, &route) {
                        remembering.failed(*address);
                    }
                    self.agent.handle_failed(attempt, why, now);
                }
            }
            Input::Connected { attempt, route, made } => {
                self.attempts.remove(&attempt);
                self.connected(attempt, route, made, now);
            }
            Input::Refused { link } => self.refused(link, now),
            Input::Stalled { link } => self.agent.handle_stalled(link, true, now),
            Input::Heard(address) => self.handle_found(Found::Candidate(Route::Direct(address), Origin::Mdns)),
            Input::Closed { link, why } => {
                tracing::debug!(%link, %why, "link closed");
                self.carriers.remove(&link);
                if self.using == Some(link) {
                    self.ended = Some(why.to_string());
                }
                self.agent.handle_closed(link, now);
                self.tell(RouteEvent::Closed { link, why });
            }
            Input::Probed { attempt, link, rtt, boot } => {
                self.look_at_pairs(now);
                self.agent.handle_probe(attempt, rtt, now);
                self.measured(link);
                if self.agent.primary() == Some(link) {
                    let rtt = self.agent.rtt(link);
                    self.shared.status.send_if_modified(|status| std::mem::replace(&mut status.rtt, rtt) != rtt);
                }
                if let Some(boot) = boot {
                    self.agent.handle_process(link, boot, now);
                }
            }
        }
    }

    /// What is out on the link may finish; for everything else it is gone.
    fn refused(&mut self, link: LinkId, now: Instant) {
        if let Some(served) = self.carriers.remove(&link) {
            tracing::debug!(%link, "the machine takes no new calls here");
            served.carrier.link.close();
            if self.using == Some(link) {
                self.ended = Some(CloseReason::ByPeer.to_string());
            }
            self.agent.handle_closed(link, now);
            self.tell(RouteEvent::Closed { link, why: CloseReason::ByPeer });
        }
    }

    fn connected(&mut self, attempt: Attempt, route: Route, made: Made, now: Instant) {
        let Made { link, admitted, control } = made;
        let info = link.info();
        let tier = link.pair().map_or_else(|| self.tier(&route), |pair| self.network.tier_of(&pair));
        let facts = LinkFacts { tier, path: info.local.map(|local| local.ip()), rtt: info.rtt };
        let id = info.id;
        if self.window.is_some() {
            link.hold(self.window);
        }
        self.flight.connected(attempt, id, now);
        if let (Some(remembering), Route::Direct(address), true) = (&self.remembering, &route, info.encrypted) {
            remembering.learned(*address, self.here.clone());
        }
        tokio::spawn(attempt::watch(link.clone(), self.inputs.clone()));
        if let Some(control) = &control {
            tokio::spawn(attempt::stalls(id, control.stalled(), self.inputs.clone()));
        }
        let carrier = Carrier::new(
            link,
            route,
            tier,
            Pass::new(admitted, self.maker.admit.clone()),
            Meter::new(self.wake.clone()),
            control,
        );
        let control = carrier.control.clone();
        self.carriers.insert(id, Served { carrier, life: None, checked: now, acknowledged: None, asked: now });
        self.agent.handle_connected(attempt, id, facts, now);
        control.iter().for_each(|control| self.learn_homes(control));
    }

    fn handle_found(&mut self, found: Found) {
        let now = Instant::now();
        match found {
            Found::Candidate(route, origin) => {
                if self.origins.len() < crate::agent::MAX_CANDIDATES {
                    self.origins.entry(route.clone()).or_insert(origin);
                }
                self.flight.found(&route, origin, now);
                let tier = self.tier(&route);
                self.agent.handle_candidate(Candidate { route, origin, tier }, now);
            }
            Found::Complaint(complaint) => self.flight.source_error(complaint),
            Found::Done { search, conclusive } => {
                self.searching = None;
                self.agent.handle_sources_done(search, conclusive, now);
            }
        }
    }

    fn tier(&self, route: &Route) -> crate::agent::Tier {
        match route {
            Route::Direct(address) => self.network.tier(address.ip()),
            Route::Unix(_) => crate::agent::Tier::LanDirect,
            // Before there is a pair: what it will be at best.
            Route::WebRtc(Signaler::Machine(address)) => match self.network.tier(address.ip()) {
                crate::agent::Tier::LanDirect => crate::agent::Tier::LanWebRtc,
                _ => crate::agent::Tier::WebRtcDirect,
            },
            Route::WebRtc(Signaler::Cloud { .. }) => crate::agent::Tier::WebRtcDirect,
        }
    }

    fn watch_network(&mut self) {
        let now = Instant::now();
        self.here = Surroundings::current();
        let network = Network::of(&self.here);
        let mut changes = network.since(&self.network);
        self.network = network;
        if self.sleep.slept() {
            changes.push(NetChange::Resumed);
        }
        if !changes.is_empty() && self.listening.is_some() {
            self.listen(true);
        }
        if !changes.is_empty() {
            self.maker.warm.forget();
        }
        for change in changes {
            tracing::debug!(?change, "the network changed");
            self.agent.handle_network_changed(change, now);
        }
    }

    /// Tells the agent what left and what was answered since the last tick.
    fn read_meters(&mut self) {
        let now = Instant::now();
        let mut busy = false;
        self.look_at_pairs(now);
        let refused = self.carriers.iter().find(|(_, served)| served.carrier.link.is_refused());
        if let Some(link) = refused.map(|(link, _)| *link) {
            self.refused(link, now);
        }
        for (id, served) in &mut self.carriers {
            let reading = served.carrier.meter.read();
            if reading.life > served.life {
                served.life = reading.life;
                busy = true;
                self.agent.handle_life(*id, Sign::Reply, now);
            }
            if let Some(control) = &served.carrier.control {
                let (last, acknowledged) = (control.last_life(), control.last_acknowledged());
                // A check's answer proves the path; acknowledged data ends a stall as well.
                let sign = if acknowledged > served.acknowledged { Sign::Sack } else { Sign::Stun };
                if last > served.checked || sign == Sign::Sack {
                    (served.checked, served.acknowledged) = (last, acknowledged);
                    busy = true;
                    self.agent.handle_life(*id, sign, now);
                }
            }
            if reading.unheld_motion {
                self.agent.handle_unheld_motion(*id, now);
            }
            let quiet = now.duration_since(served.asked) >= ASK_AGAIN;
            if reading.waiting || (reading.out > 0 && quiet) {
                served.asked = now;
                self.agent.handle_sent(*id, now);
            }
            busy |= reading.waiting || reading.out > 0;
        }
        if busy {
            self.traffic = Some(now);
        } else if self.traffic.is_some_and(|last| now.duration_since(last) > REST) {
            self.traffic = None;
            self.wake.rest();
            // A call that left between the reading and the rest rang no bell.
            if self.carriers.values().any(|served| served.carrier.meter.is_out()) {
                self.traffic = Some(now);
            }
        }
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
