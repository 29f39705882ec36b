//! The session's shell: one lock around [`ClientSession`], a task that waits for its deadlines and for routes, calls on each link.

mod stop;
mod wire;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use dialer::agent::{Held, Peer, Validated};
use dialer::{LinkSwitch, RouteEvent};
use session_core::client::{
    Answer, Attempt, Call, ClientOptions, ClientOutput, ClientSession, Event, Kind, Letter, Link, LinkState,
};
use tokio::runtime::Handle;
use tokio::sync::{Notify, broadcast, watch};
use tonic::Status;
use transport::{BootClock, LinkId};

use crate::error::SessionError;
use crate::robot::{RobotEvent, SessionStatus};
use stop::OpenStop;
pub(crate) use stop::StopRequest;
pub(crate) use wire::expired;

/// Events kept for a slow receiver.
const EVENTS: usize = 64;

/// A robot's session. Components are called `type/name`.
pub(crate) struct Session {
    state: Mutex<State>,
    clock: BootClock,
    /// Wakes the task when a deadline has become earlier.
    wake: Notify,
    switch: LinkSwitch,
    address: String,
    events: broadcast::Sender<RobotEvent>,
    status: watch::Sender<SessionStatus>,
    runtime: Handle,
    this: Weak<Session>,
}

struct State {
    core: ClientSession<String>,
    motions: BTreeMap<Call, Arc<Desk>>,
    stops: BTreeMap<Call, OpenStop>,
    validations: BTreeMap<Attempt, LinkId>,
    /// The machine's process, where it is one of ours.
    boot: Option<u128>,
    /// What the dialer was told last.
    told: Option<(Held, Peer)>,
    /// When the task wakes by itself.
    armed: Option<Instant>,
    /// The beat that says goodbye.
    leaving: Option<Attempt>,
}

/// What is to be done with a motion call.
pub(crate) enum Fate {
    /// Send it.
    Go(Option<Letter>),
    /// It failed.
    Fail(Status),
}

/// A motion call of the program; given up when dropped before its answer.
pub(crate) struct Motion {
    session: Arc<Session>,
    call: Call,
    desk: Arc<Desk>,
    over: bool,
}

/// Where the session leaves word for a call. Word that was not read yet gives way to later word: a call that failed before it was sent is
/// not sent.
#[derive(Default)]
struct Desk {
    word: Mutex<Option<Fate>>,
    left: Notify,
}

impl Desk {
    fn leave(&self, fate: Fate) {
        *self.word.lock().unwrap_or_else(PoisonError::into_inner) = Some(fate);
        self.left.notify_one();
    }

    async fn word(&self) -> Fate {
        loop {
            if let Some(fate) = self.word.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return fate;
            }
            self.left.notified().await;
        }
    }
}

impl Motion {
    /// What is to be done next.
    pub(crate) async fn fate(&mut self) -> Fate {
        let fate = self.desk.word().await;
        self.over |= matches!(fate, Fate::Fail(_));
        fate
    }

    /// What became of it.
    pub(crate) fn answered(&mut self, answer: Answer<String>) {
        self.over = !matches!(answer, Answer::Expired(_));
        let call = self.call;
        self.session.with(|state, now| {
            if !matches!(answer, Answer::Expired(_)) {
                state.motions.remove(&call);
            }
            state.core.handle_answer(call, answer, now);
        });
    }
}

impl Drop for Motion {
    fn drop(&mut self) {
        if !self.over {
            let call = self.call;
            self.session.with(|state, now| {
                state.motions.remove(&call);
                state.core.give_up(call, now);
            });
        }
    }
}

impl Session {
    /// Starts the task that keeps it, on `runtime`. Without options there is no session, and nothing to keep.
    pub(crate) fn start(
        options: Option<ClientOptions>,
        switch: LinkSwitch,
        address: String,
        runtime: &Handle,
    ) -> Arc<Self> {
        let routes = switch.events();
        let session = Arc::new_cyclic(|this| Self {
            state: Mutex::new(State {
                core: ClientSession::new(options.unwrap_or_default(), rand::random()),
                motions: BTreeMap::new(),
                stops: BTreeMap::new(),
                validations: BTreeMap::new(),
                boot: None,
                told: None,
                armed: None,
                leaving: None,
            }),
            clock: BootClock::new(),
            wake: Notify::new(),
            switch,
            address,
            events: broadcast::Sender::new(EVENTS),
            status: watch::Sender::default(),
            runtime: runtime.clone(),
            this: this.clone(),
        });
        runtime.spawn(run(Arc::downgrade(&session), routes));
        session
    }

    pub(crate) fn events(&self) -> broadcast::Receiver<RobotEvent> {
        self.events.subscribe()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<SessionStatus> {
        self.status.subscribe()
    }

    pub(crate) fn alive(&self) {
        self.with(|state, now| state.core.alive(now));
    }

    /// Whether something may be moving for this session.
    pub(crate) fn holds(&self) -> bool {
        let state = self.lock();
        state.core.held().next().is_some() || state.core.unanswered() > 0
    }

    /// The id that names the holder of what unmonitored calls move, at a machine of ours.
    pub(crate) fn holder(&self) -> Option<String> {
        let state = self.lock();
        if !state.core.is_ordered() {
            return None;
        }
        state.core.session().map(|(id, _)| id.to_string())
    }

    /// A call that moves `component`.
    pub(crate) fn motion(self: &Arc<Self>, component: String, kind: Kind) -> Motion {
        let desk = Arc::new(Desk::default());
        let call = self.with(|state, now| {
            let call = state.core.issue(component, kind, now);
            state.motions.insert(call, desk.clone());
            call
        });
        Motion { session: self.clone(), call, desk, over: false }
    }

    /// Leaves: the machine stops what is held at once.
    pub(crate) async fn leave(&self) {
        let (held, goodbye) = self.with(|state, now| {
            let before = state.core.is_ordered();
            (state.core.close(now), before)
        });
        self.status.send_replace(SessionStatus::None);
        if goodbye {
            // The beat is on its way; its answer means that everything was ordered to stop.
            self.until_left().await;
        }
        self.stop_each(held).await;
    }

    async fn until_left(&self) {
        loop {
            let woken = self.wake.notified();
            if self.lock().leaving.is_none() {
                return;
            }
            woken.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts something to the core and acts on what comes out, in its order.
    fn with<T>(&self, act: impl FnOnce(&mut State, Instant) -> T) -> T {
        let mut state = self.lock();
        let now = self.clock.now();
        let answer = act(&mut state, now);
        while let Some(output) = state.core.poll_output() {
            self.perform(&mut state, output);
        }
        self.tell_dialer(&mut state);
        let next = state.core.poll_timeout().map(|(at, _)| at);
        let earlier = next.is_some_and(|next| state.armed.is_none_or(|armed| next < armed));
        drop(state);
        if earlier {
            self.wake.notify_waiters();
        }
        answer
    }

    fn perform(&self, state: &mut State, output: ClientOutput<String>) {
        match output {
            ClientOutput::Start { attempt, resume } => self.send_start(attempt, resume),
            ClientOutput::Beat { attempt, link, letter } => {
                if letter.order.as_ref().is_some_and(|order| order.end) {
                    state.leaving = Some(attempt);
                }
                self.send_beat(attempt, link, letter, state.core.session().map(|(_, window)| window));
            }
            ClientOutput::Send { call, letter } => {
                if let Some(motion) = state.motions.get(&call) {
                    motion.leave(Fate::Go(letter));
                }
            }
            ClientOutput::SendStop { call, link, letter } => self.send_stop(state, call, link, letter),
            ClientOutput::StopDone(call) => stop::done(state, call),
            ClientOutput::Abort(Link(link)) => self.switch.abort(LinkId(link)),
            ClientOutput::Fail { call, why } => {
                let error = SessionError::new(why, &self.address);
                if let Some(motion) = state.motions.remove(&call) {
                    motion.leave(Fate::Fail(error.into()));
                } else {
                    stop::failed(state, call, error);
                }
            }
            ClientOutput::Event(event) => self.tell(event),
        }
    }

    fn tell(&self, event: Event<String>) {
        let event = match event {
            Event::Started { id, window, resumed } => {
                RobotEvent::SessionStarted { id: id.to_string(), window, resumed }
            }
            Event::Lapsed { id } => RobotEvent::SessionLapsed { id: id.to_string() },
            Event::Stopped(stopped) => RobotEvent::Stopped { what: stopped.what, told: stopped.told },
            Event::TooSlow(slow) => RobotEvent::TooSlow { took: slow.took, window: slow.window },
        };
        tracing::info!(?event, "session");
        match &event {
            RobotEvent::SessionStarted { id, window, .. } => {
                self.status.send_replace(SessionStatus::Held { id: id.clone(), window: *window });
            }
            RobotEvent::SessionLapsed { id } => {
                self.status.send_replace(SessionStatus::Lapsed { id: id.clone() });
            }
            RobotEvent::Stopped { .. } | RobotEvent::TooSlow { .. } => {}
        }
        // Nobody has to listen.
        let _ = self.events.send(event);
    }

    /// The dialer keeps a second link warm, and proves new ones by the session, while there is one.
    fn tell_dialer(&self, state: &mut State) {
        let held = match state.core.session() {
            None => Held::Nothing,
            // With a machine that takes order a swap costs no call; with another it waits while anything is out, however much.
            Some((_, window)) => {
                let out = if state.core.is_ordered() { 0 } else { state.core.unanswered().min(1) };
                Held::Session { window, monitored_out: out }
            }
        };
        let peer = match state.boot.filter(|_| state.core.is_ordered()) {
            Some(boot) => Peer::Ours { boot },
            None => Peer::Stock,
        };
        if state.told != Some((held, peer)) {
            state.told = Some((held, peer));
            self.switch.handle_held(held, peer);
        }
    }

    fn handle_route(&self, event: RouteEvent) {
        let link = |id: LinkId| Link(id.0);
        self.with(|state, now| match event {
            RouteEvent::Use(view, _) => state.core.handle_link(link(view.id), LinkState::Primary, now),
            RouteEvent::NoRoute { swapping } => state.core.handle_no_route(swapping, now),
            RouteEvent::Drain { link: id, .. } => state.core.handle_link(link(id), LinkState::Draining, now),
            RouteEvent::Closed { link: id, .. } | RouteEvent::Foreign { link: id } => {
                state.core.handle_link(link(id), LinkState::Gone, now);
            }
            RouteEvent::Standby { link: Some(id) } => state.core.handle_link(link(id), LinkState::Standby, now),
            RouteEvent::Hedge { on, .. } => state.core.handle_hedge(Some(link(on)), now),
            // Where checks are signs of life they prove the path, and nothing about the data on it.
            RouteEvent::Alive { link: id } if self.switch.current().is_some_and(|view| !view.tier.is_webrtc()) => {
                state.core.handle_answering(link(id), now);
            }
            RouteEvent::HedgeOff => state.core.handle_hedge(None, now),
            RouteEvent::Validate { link: id } => match state.core.validate(link(id), now) {
                Some(attempt) => {
                    state.validations.insert(attempt, id);
                }
                // Nothing is held that could be lost.
                None => self.switch.handle_validated(id, Validated::SameSession),
            },
            RouteEvent::TooSlow { by, .. } => {
                // Nobody has to listen.
                let _ = self.events.send(RobotEvent::TooSlow { took: by.took, window: by.window });
            }
            _ => {}
        });
    }

    /// Where a link that carries calls is known already, or events were missed.
    pub(crate) fn look_around(&self) {
        if let Some(view) = self.switch.current() {
            self.with(|state, now| state.core.handle_link(Link(view.id.0), LinkState::Primary, now));
        }
    }
}

/// Waits for deadlines and routes until the session or the dialer is gone.
async fn run(session: Weak<Session>, mut routes: broadcast::Receiver<RouteEvent>) {
    if let Some(session) = session.upgrade() {
        session.look_around();
    }
    loop {
        let Some(strong) = session.upgrade() else { return };
        // Made before the deadline is read: one that becomes earlier in between is not missed.
        let woken = strong.wake.notified();
        let due = {
            let mut state = strong.lock();
            state.armed = state.core.poll_timeout().map(|(at, _)| at);
            state.armed.map(|at| tokio::time::Instant::now() + at.saturating_duration_since(strong.clock.now()))
        };
        let event = {
            let deadline = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = routes.recv() => Some(event),
                () = woken => None,
                () = deadline => {
                    strong.with(|state, now| state.core.handle_timeout(now));
                    None
                }
            }
        };
        match event {
            Some(Ok(event)) => strong.handle_route(event),
            Some(Err(broadcast::error::RecvError::Lagged(_))) => strong.look_around(),
            Some(Err(broadcast::error::RecvError::Closed)) => return,
            None => {}
        }
    }
}

/// What a set of components is called in events.
pub(crate) type Names = BTreeSet<String>;
