//! A client and a machine on virtual time, with a network between them that delays, reorders, loses, repeats, swallows, gives back and cuts, on
//! two computers that stand still now and then and whose clocks do not run alike. Whatever the schedule: a machine never moves for a client that
//! is gone, nothing moves after an answered Stop, nothing runs twice, a late beat revives nothing, liveness is not proven for long on a path that
//! carries no commands, and nobody lapses while the network is good.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use session_core::client::{
    Answer, Attempt, BeatError, Call, ClientOptions, ClientOutput, ClientSession, Kind, Letter, Link, LinkState,
    Started,
};
use session_core::registry::{
    Admitted, Cause, Holder, Incoming, MachineOutput, NoSession, Outcome, Policy, Refused, SessionRegistry, Shut,
    Ticket,
};
use session_core::{Connection, Owner, SessionId};

const W: Duration = Duration::from_millis(2000);
const COMPONENTS: [&str; 3] = ["base", "left", "arm"];
const OWNER: Owner = Owner([7; 32]);
/// The longest one-way delay of a link.
const SLOWEST: u64 = 60;
/// How much later than its link's delay a message may come, and so be overtaken by others.
const JITTER: u64 = 40;
/// How far the clocks' rates differ at most, in thousandths: ten times what a bad crystal does.
const SKEW: i64 = 5;

/// One thing that may happen.
#[derive(Clone, Debug)]
pub enum Step {
    Motion(usize),
    Stop(usize),
    StopAll,
    GiveUp(usize),
    /// The link swallows everything for now.
    Swallow(usize),
    /// What it swallowed arrives, late.
    GiveBack(usize),
    /// It is cut, and what was on it is lost.
    Cut(usize),
    /// Calls go over it from now on.
    Use(usize),
    /// It stands by, and answers where the primary does not; the primary itself: it answers again.
    Hedge(usize),
    /// The next message on it, towards the machine (`true`) or back, is lost.
    Lose(usize, bool),
    /// The next numbered message on it arrives twice.
    Repeat(usize),
    /// Messages come so many milliseconds later from now on, one after the other differently.
    Jitter(u64),
    Pass(u64),
    /// The client's computer stands still, or sleeps.
    ClientStalls(u64),
    /// The machine does.
    MachineStalls(u64),
    /// The client's process dies.
    Die,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..3usize).prop_map(Step::Motion),
        3 => (0..3usize).prop_map(Step::Stop),
        1 => Just(Step::StopAll),
        2 => (0..4usize).prop_map(Step::GiveUp),
        2 => (0..2usize).prop_map(Step::Swallow),
        2 => (0..2usize).prop_map(Step::GiveBack),
        1 => (0..2usize).prop_map(Step::Cut),
        3 => (0..2usize).prop_map(Step::Use),
        1 => (0..2usize).prop_map(Step::Hedge),
        10 => (1..400u64).prop_map(Step::Pass),
        2 => (400..3000u64).prop_map(Step::Pass),
        1 => (0..2usize, prop::bool::ANY).prop_map(|(path, up)| Step::Lose(path, up)),
        1 => (0..2usize).prop_map(Step::Repeat),
        1 => (0..JITTER).prop_map(Step::Jitter),
        1 => (1..6000u64).prop_map(Step::ClientStalls),
        1 => (1..6000u64).prop_map(Step::MachineStalls),
        1 => Just(Step::Die),
    ]
}

/// What travels.
#[derive(Clone, Debug)]
enum Message {
    Start(Attempt, Option<SessionId>),
    Beat(Attempt, Letter),
    Motion(Call, Option<Letter>),
    Stop(Call, Option<Letter>, u64),
    Started(Attempt, Started),
    Beaten(Attempt, Result<(), BeatError<&'static str>>),
    Answered(Call, Answer<&'static str>),
    Stopped(Call, bool, u64),
}

/// One of two links: a number that is new each time it is made.
struct Path {
    link: Link,
    delay: Duration,
    swallows: bool,
    swallowed: Vec<(bool, Message)>,
    /// What becomes of the next message: towards the machine and back.
    loses: [bool; 2],
    repeats: bool,
}

/// For whom something moves.
#[derive(Clone, Copy, Debug)]
struct Motion {
    call: Call,
    holder: Holder,
}

/// A program's call.
#[derive(Clone, Copy, Debug)]
struct Issued {
    /// `None`: everything.
    component: Option<&'static str>,
    motion: bool,
}

struct World {
    start: Instant,
    now: Instant,
    /// By how many thousandths the client's clock runs faster.
    skew: i64,
    jitter: u64,
    /// Who stands still.
    stalled: [bool; 2],
    /// When something last happened that a network or a computer should not do.
    trouble: Instant,
    /// When the machine last stood still until: what waited for it counts from then.
    woke: Instant,
    /// Since when the primary is doubted, by the client's clock.
    doubted: Option<Instant>,
    /// Which path answers for the primary.
    hedging: Option<usize>,
    /// The session that the client holds.
    session: Option<SessionId>,
    /// Until when a session may live, whatever is believed.
    leases: BTreeMap<SessionId, Instant>,
    open_connections: BTreeSet<Connection>,
    client: ClientSession<&'static str>,
    alive: bool,
    died: Option<Instant>,
    machine: SessionRegistry<&'static str>,
    ordered: bool,
    next_session: u128,
    next_link: u64,
    paths: [Path; 2],
    primary: usize,
    /// By arrival and order of sending: to the machine (`true`) or to the client.
    travelling: BTreeMap<(Instant, u64), (Link, bool, Message)>,
    sent: u64,
    issued: BTreeMap<Call, Issued>,
    /// Motion calls whose program still waits.
    open: BTreeMap<Call, Option<Letter>>,
    tickets: BTreeMap<Ticket, Call>,
    /// Copies that wait for a call's outcome, and outcomes.
    copies: BTreeMap<Ticket, Vec<Link>>,
    over: BTreeSet<Ticket>,
    busy: BTreeSet<Ticket>,
    stops: BTreeMap<Ticket, Vec<(Link, Call, u64)>>,
    /// The copy of a Stop whose answer is waited for on a link: a repeat drops the one before it.
    copy: BTreeMap<(Call, Link), u64>,
    writes: BTreeMap<Call, u32>,
    moving: BTreeMap<&'static str, Motion>,
    holders: BTreeMap<Ticket, Holder>,
    /// Components that an answered Stop covers, and which no call was issued for since.
    still: BTreeSet<&'static str>,
    sends: BTreeMap<Call, u32>,
}

impl World {
    #[allow(clippy::disallowed_methods, reason = "a schedule needs a first instant")]
    fn new(ordered: bool, delays: (u64, u64), skew: i64) -> Self {
        let now = Instant::now();
        let mut machine = SessionRegistry::new(W, 16, Policy::Guard);
        for component in COMPONENTS {
            // Which components are parts of others no client knows: with a machine that does not take order, Stop is promised for its own
            // component only.
            let parts = if component == "base" && ordered { ["left"].into() } else { BTreeSet::new() };
            machine.configure(component, true, parts, now);
        }
        let path = |link: u64, delay: u64| Path {
            link: Link(link),
            delay: Duration::from_millis(delay),
            swallows: false,
            swallowed: Vec::new(),
            loses: [false; 2],
            repeats: false,
        };
        let mut world = Self {
            start: now,
            now,
            skew,
            jitter: 0,
            stalled: [false; 2],
            trouble: now,
            woke: now,
            doubted: None,
            hedging: None,
            session: None,
            leases: BTreeMap::new(),
            open_connections: BTreeSet::new(),
            client: ClientSession::new(ClientOptions::default(), 9),
            alive: true,
            died: None,
            machine,
            ordered,
            next_session: 0,
            next_link: 3,
            paths: [path(1, delays.0), path(2, delays.1)],
            primary: 0,
            travelling: BTreeMap::new(),
            sent: 0,
            issued: BTreeMap::new(),
            open: BTreeMap::new(),
            tickets: BTreeMap::new(),
            copies: BTreeMap::new(),
            over: BTreeSet::new(),
            busy: BTreeSet::new(),
            stops: BTreeMap::new(),
            copy: BTreeMap::new(),
            writes: BTreeMap::new(),
            moving: BTreeMap::new(),
            holders: BTreeMap::new(),
            still: BTreeSet::new(),
            sends: BTreeMap::new(),
        };
        for at in 0..2 {
            world.opened(world.paths[at].link);
        }
        world.client.handle_link(Link(2), LinkState::Standby, now);
        world.client.handle_link(Link(1), LinkState::Primary, now);
        world
    }

    fn opened(&mut self, link: Link) {
        self.open_connections.insert(Connection(link.0));
        self.machine.handle_opened(Connection(link.0), None, self.now);
    }

    fn closed(&mut self, link: Link) {
        self.open_connections.remove(&Connection(link.0));
        self.machine.handle_closed(Connection(link.0), self.now);
    }

    /// What the client's clock says when the machine's says `at`.
    fn client_clock(&self, at: Instant) -> Instant {
        let nanos = (at - self.start).as_nanos() as i64;
        self.start + Duration::from_nanos((nanos + nanos / 1000 * self.skew) as u64)
    }

    /// When the client's clock says `at`, a little late rather than early.
    fn machine_clock(&self, at: Instant) -> Instant {
        let nanos = (at - self.start).as_nanos() as i64;
        self.start + Duration::from_nanos((nanos * 1000 / (1000 + self.skew)) as u64 + 10)
    }

    fn there(&self) -> Instant {
        self.client_clock(self.now)
    }

    fn apply(&mut self, step: &Step) {
        let harmless =
            matches!(step, Step::Motion(_) | Step::Stop(_) | Step::StopAll | Step::GiveUp(_) | Step::Pass(_));
        if !harmless || self.paths.iter().any(|path| path.swallows) {
            self.trouble = self.now;
        }
        match *step {
            Step::Motion(component) if self.alive => self.issue(COMPONENTS[component], Kind::Motion),
            Step::Stop(component) if self.alive => self.issue(COMPONENTS[component], Kind::Stop),
            Step::StopAll if self.alive => self.issue("", Kind::StopAll),
            Step::GiveUp(which) if self.alive => {
                if let Some(call) = self.open.keys().nth(which).copied() {
                    self.open.remove(&call);
                    self.client.give_up(call, self.there());
                }
            }
            Step::Swallow(path) => self.paths[path].swallows = true,
            Step::GiveBack(path) => self.give_back(path),
            Step::Cut(path) => self.cut(path),
            Step::Use(path) if self.alive => self.use_path(path),
            // As the dialer does, it says first that nothing is hedged any more.
            Step::Hedge(path) if self.alive && path == self.primary => {
                self.hedging = None;
                self.client.handle_hedge(None, self.there());
            }
            Step::Hedge(path) if self.alive && self.open_connections.contains(&Connection(self.paths[path].link.0)) => {
                self.client.handle_timeout(self.there());
                self.notice_lapse();
                self.hedging = Some(path);
                let link = self.paths[path].link;
                self.doubted.get_or_insert(self.there());
                self.client.handle_hedge(Some(link), self.there());
                self.send_open_again(link);
            }
            Step::Lose(path, up) if self.ordered => self.paths[path].loses[usize::from(up)] = true,
            Step::Repeat(path) => self.paths[path].repeats = self.ordered,
            // A machine that does not take order is promised nothing about messages that overtake each other.
            Step::Jitter(most) if self.ordered => self.jitter = most,
            Step::Pass(millis) => self.pass(Duration::from_millis(millis), [false; 2]),
            Step::ClientStalls(millis) => self.pass(Duration::from_millis(millis), [true, false]),
            Step::MachineStalls(millis) => self.pass(Duration::from_millis(millis), [false, true]),
            Step::Die => self.die(),
            _ => {}
        }
        self.settle();
    }

    fn issue(&mut self, component: &'static str, kind: Kind) {
        let motion = kind == Kind::Motion;
        let call = self.client.issue(component, kind, self.there());
        let named = (kind != Kind::StopAll).then_some(component);
        self.issued.insert(call, Issued { component: named, motion });
        if motion {
            self.open.insert(call, None);
            let moved = covers(self.ordered, component);
            self.still.retain(|still| !moved.contains(still));
        }
    }

    fn die(&mut self) {
        if self.alive {
            self.alive = false;
            self.died = Some(self.now);
            // The kernel closes its sockets and throws away what it could not deliver (SO_LINGER 0): what is on its way arrives, and so does
            // the end, where the path lets it.
            for at in 0..2 {
                self.paths[at].swallowed.clear();
                if !self.paths[at].swallows {
                    self.closed(self.paths[at].link);
                }
            }
        }
    }

    fn use_path(&mut self, path: usize) {
        let (old, link) = (self.primary, self.paths[path].link);
        self.primary = path;
        if old != path {
            (self.hedging, self.doubted) = (None, None);
        }
        self.client.handle_link(link, LinkState::Primary, self.there());
        if old != path {
            self.settle();
            self.send_open_again(link);
        }
    }

    /// What the channel does with numbered calls on a new route, or a second one.
    fn send_open_again(&mut self, link: Link) {
        let open: Vec<_> = self.open.iter().filter_map(|(c, l)| Some((*c, l.clone()?))).collect();
        for (call, letter) in open.into_iter().filter(|(_, letter)| letter.order.is_some()) {
            self.send(link, true, Message::Motion(call, Some(letter)));
        }
    }

    fn give_back(&mut self, path: usize) {
        self.paths[path].swallows = false;
        let link = self.paths[path].link;
        for (to_machine, message) in std::mem::take(&mut self.paths[path].swallowed) {
            self.send(link, to_machine, message);
        }
        if !self.alive {
            self.closed(link);
        }
    }

    fn cut(&mut self, path: usize) {
        let link = self.paths[path].link;
        self.paths[path].swallowed.clear();
        self.paths[path].swallows = false;
        self.hedging = self.hedging.filter(|hedging| *hedging != path);
        if path == self.primary {
            self.doubted = None;
        }
        self.travelling.retain(|_, (on, _, _)| *on != link);
        self.closed(link);
        if !self.alive {
            return;
        }
        self.client.handle_link(link, LinkState::Gone, self.there());
        self.settle();
        if !self.ordered && path == self.primary {
            // Calls on it fail, and their outcome is not known.
            for call in self.open.iter().filter(|(_, l)| l.is_some()).map(|(c, _)| *c).collect::<Vec<_>>() {
                self.open.remove(&call);
                self.client.handle_answer(call, Answer::Lost, self.there());
            }
        }
        // The dialer makes a new one at once, and uses it or the other.
        self.paths[path].link = Link(self.next_link);
        self.next_link += 1;
        let fresh = self.paths[path].link;
        self.opened(fresh);
        if path == self.primary {
            self.client.handle_link(fresh, LinkState::Primary, self.there());
            self.settle();
            self.send_open_again(fresh);
        } else {
            self.client.handle_link(fresh, LinkState::Standby, self.there());
        }
    }

    fn send(&mut self, link: Link, to_machine: bool, message: Message) {
        let Some(path) = self.paths.iter_mut().find(|path| path.link == link) else { return };
        if path.swallows {
            path.swallowed.push((to_machine, message));
            return;
        }
        if std::mem::take(&mut path.loses[usize::from(to_machine)]) {
            return;
        }
        let copies = if to_machine && is_numbered(&message) && std::mem::take(&mut path.repeats) { 2 } else { 1 };
        for _ in 0..copies {
            self.sent += 1;
            // Different from message to message, and the same in every replay.
            let late = self.sent.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
            let arrives = self.now + path.delay + Duration::from_millis(late % (self.jitter + 1));
            self.travelling.insert((arrives, self.sent), (link, to_machine, message.clone()));
        }
    }

    /// Lets time pass, everything in its order. Who is stalled (client, machine) hears of everything at its end.
    fn pass(&mut self, time: Duration, stalled: [bool; 2]) {
        let end = self.now + time;
        self.stalled = stalled;
        loop {
            self.settle();
            let arrival = self.travelling.keys().next().map(|(at, _)| *at);
            let client = self.client.poll_timeout().map(|(at, _)| self.machine_clock(at));
            let client = client.filter(|_| self.alive && !stalled[0]);
            let machine = self.machine.poll_timeout().map(|(at, _)| at).filter(|_| !stalled[1]);
            let Some(next) = [arrival, client, machine].into_iter().flatten().min().filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(next);
            if arrival.is_some_and(|at| at <= self.now) {
                if let Some(((_, number), (link, to_machine, message))) = self.travelling.pop_first() {
                    if stalled[usize::from(to_machine)] {
                        self.travelling.insert((end + Duration::from_nanos(1), number), (link, to_machine, message));
                    } else {
                        self.arrive(link, to_machine, message);
                    }
                }
            } else {
                if client.is_some_and(|at| at <= self.now) {
                    self.client.handle_timeout(self.there());
                }
                if !stalled[1] {
                    self.machine.handle_timeout(self.now);
                    self.settle();
                    self.check_holders();
                }
            }
        }
        self.now = end;
        self.stalled = [false; 2];
        if stalled != [false; 2] {
            // What waited comes before the timers.
            self.trouble = self.now;
            self.woke = if stalled[1] { self.now } else { self.woke };
            while self.travelling.keys().next().is_some_and(|(at, _)| *at <= end + Duration::from_nanos(1)) {
                if let Some((_, (link, to_machine, message))) = self.travelling.pop_first() {
                    self.arrive(link, to_machine, message);
                    self.settle();
                }
            }
        }
        self.machine.handle_timeout(self.now);
        if self.alive {
            self.client.handle_timeout(self.there());
        }
        self.settle();
        self.check();
    }

    /// Nothing moves but for a session that lives, by the machine's word and by this world's own count, or for a connection that is there.
    fn check_holders(&self) {
        for (component, Motion { holder, call }) in &self.moving {
            let lives = match holder {
                Holder::Session(id) => {
                    self.machine.sessions().any(|(live, _)| live == *id)
                        && self.leases.get(id).is_some_and(|until| *until > self.now)
                }
                Holder::Connection(connection) => self.open_connections.contains(connection),
                _ => false,
            };
            assert!(lives, "{component} moves by {call:?} for {holder:?}, who is gone");
        }
    }

    /// What must hold at any time.
    fn check(&self) {
        self.check_holders();
        for (call, writes) in &self.writes {
            assert!(*writes <= 1, "{call:?} was written {writes} times");
        }
        if let Some(died) = self.died {
            // A beat that was on its way when it died, and the lease that it extended.
            if self.now > died.max(self.woke) + W + Duration::from_millis(SLOWEST + JITTER)
                && self.paths.iter().all(|p| p.swallowed.is_empty())
            {
                assert!(self.moving.is_empty(), "{:?} moves for a client that is gone", self.moving);
            }
        }
        for component in &self.still {
            assert!(!self.moving.contains_key(component), "{component} moves after an answered Stop");
        }
        if !self.ordered {
            for (call, sends) in &self.sends {
                assert!(*sends <= 2, "{call:?} was sent {sends} times to a machine that does not take order");
            }
        }
    }

    /// After a lapse nothing is doubted any more: a new session is a new beginning.
    fn notice_lapse(&mut self) {
        let session = self.client.session().map(|(id, _)| id);
        if self.session.is_some() && session != self.session {
            (self.hedging, self.doubted) = (None, None);
        }
        self.session = session;
    }

    fn settle(&mut self) {
        self.notice_lapse();
        loop {
            if self.alive
                && !self.stalled[0]
                && let Some(output) = self.client.poll_output()
            {
                self.client_says(output);
            } else if !self.stalled[1]
                && let Some(output) = self.machine.poll_output()
            {
                self.machine_says(output);
            } else if self.stalled[1] || !self.enter_waiting() {
                return;
            }
        }
    }

    fn client_says(&mut self, output: ClientOutput<&'static str>) {
        let primary = self.paths[self.primary].link;
        match output {
            ClientOutput::Start { attempt, resume } => self.send(primary, true, Message::Start(attempt, resume)),
            ClientOutput::Beat { attempt, link, letter } => {
                if link != primary {
                    let since = self.doubted.expect("beats leave the primary while it is doubted");
                    assert!(
                        self.there() - since <= W / 2,
                        "a beat on a path without commands {:?} later",
                        self.there() - since
                    );
                }
                self.send(link, true, Message::Beat(attempt, letter));
            }
            ClientOutput::Send { call, letter } => {
                *self.sends.entry(call).or_insert(0) += 1;
                if let Some(open) = self.open.get_mut(&call) {
                    open.clone_from(&letter);
                }
                self.send(primary, true, Message::Motion(call, letter));
            }
            ClientOutput::SendStop { call, link, letter } => {
                self.sent += 1;
                self.copy.insert((call, link), self.sent);
                self.send(link, true, Message::Stop(call, letter, self.sent));
            }
            ClientOutput::StopDone(call) => self.stop_answered(call),
            ClientOutput::Abort(link) => {
                self.travelling.retain(|_, (on, _, _)| *on != link);
                if let Some(path) = self.paths.iter_mut().find(|path| path.link == link) {
                    path.swallowed.clear();
                }
                self.closed(link);
                self.hedging = self.hedging.filter(|hedging| self.paths[*hedging].link != link);
                self.client.handle_link(link, LinkState::Gone, self.there());
            }
            ClientOutput::Fail { call, .. } => {
                self.open.remove(&call);
            }
            ClientOutput::Event(_) => {}
        }
    }

    /// Nothing that this Stop covers moves from now on, unless a later command moves it.
    fn stop_answered(&mut self, call: Call) {
        let Some(stop) = self.issued.get(&call) else { return };
        for component in stop.component.map_or(COMPONENTS.to_vec(), |c| covers(self.ordered, c)) {
            let later = |(c, issued): (&Call, &Issued)| {
                *c > call
                    && issued.motion
                    && issued.component.is_some_and(|c| covers(self.ordered, c).contains(&component))
            };
            if !self.issued.iter().any(later) {
                assert!(!self.moving.contains_key(component), "{component} moves although its Stop was answered");
                self.still.insert(component);
            }
        }
    }

    fn arrive(&mut self, link: Link, to_machine: bool, message: Message) {
        if !to_machine && !self.alive {
            return;
        }
        let now = self.now;
        match message {
            Message::Start(attempt, resume) => {
                self.next_session += 1;
                if let Ok(started) = self.machine.start(SessionId(self.next_session), resume, OWNER, now) {
                    let started = Started { id: started.id, window: started.window, ordered: self.ordered };
                    self.leases.insert(started.id, now + W);
                    self.send(link, false, Message::Started(attempt, started));
                }
            }
            Message::Beat(attempt, letter) => {
                let result = self.machine.beat(letter.session, &OWNER, letter.order.as_ref(), now);
                let lived = self.leases.get(&letter.session).is_some_and(|until| *until > now);
                assert!(lived || result.is_err(), "a late beat was answered");
                if result.is_ok() {
                    self.leases.insert(letter.session, now + W);
                }
                let told = |NoSession(tombstone): NoSession<_>| BeatError::Expired(tombstone.map(|t| t.stopped));
                self.send(link, false, Message::Beaten(attempt, result.map_err(told)));
            }
            Message::Motion(call, letter) => self.motion_arrives(link, call, letter.as_ref()),
            Message::Stop(call, letter, copy) => self.stop_arrives(link, call, letter.as_ref(), copy),
            Message::Started(attempt, started) => self.client.handle_started(attempt, Ok(started), self.there()),
            Message::Beaten(attempt, result) => {
                if result.is_ok() && self.hedging.is_none() && link == self.paths[self.primary].link {
                    self.doubted = None;
                }
                self.client.handle_beat(attempt, result, self.there())
            }
            Message::Answered(call, answer) => {
                if !matches!(answer, Answer::Expired(_)) {
                    self.open.remove(&call);
                }
                self.client.handle_answer(call, answer, self.there());
            }
            Message::Stopped(call, ok, copy) => {
                if self.copy.get(&(call, link)) == Some(&copy) {
                    self.client.handle_stopped(call, link, ok, self.there());
                }
            }
        }
    }

    fn incoming<'a>(
        &self,
        link: Link,
        call: Call,
        letter: Option<&'a Letter>,
        monitored: bool,
    ) -> Incoming<'a, &'static str> {
        Incoming {
            sid: letter.map(|letter| letter.session),
            owner: &OWNER,
            otherwise: Holder::Connection(Connection(link.0)),
            monitored,
            resource: self.issued[&call].component.unwrap_or_default(),
            order: letter.and_then(|letter| letter.order.as_ref()),
            digest: 0,
        }
    }

    fn motion_arrives(&mut self, link: Link, call: Call, letter: Option<&Letter>) {
        match self.machine.admit(self.incoming(link, call, letter, true), self.now) {
            Ok(Admitted::Run(ticket)) => {
                let session = letter.map(|letter| letter.session);
                if let Some(id) = session {
                    assert!(self.leases.get(&id).is_some_and(|until| *until > self.now), "a late command was admitted");
                    self.leases.insert(id, self.now + W);
                }
                let holder = session.map_or(Holder::Connection(Connection(link.0)), Holder::Session);
                self.holders.insert(ticket, holder);
                self.tickets.insert(ticket, call);
                self.copies.entry(ticket).or_default().push(link);
                self.busy.insert(ticket);
            }
            Ok(Admitted::Copy(ticket)) => {
                if self.over.contains(&ticket) {
                    self.send(link, false, Message::Answered(call, Answer::Done));
                } else {
                    self.copies.entry(ticket).or_default().push(link);
                }
            }
            Ok(Admitted::Over { .. })
            | Err(Refused::MayHaveRun | Refused::Differs | Refused::Policy | Refused::Closed) => {
                self.send(link, false, Message::Answered(call, Answer::Done));
            }
            Err(Refused::NoSession(tombstone)) => {
                self.send(link, false, Message::Answered(call, Answer::Expired(tombstone.map(|t| t.stopped))));
            }
            Err(Refused::GivenUp | Refused::Superseded | Refused::CallerLeft) => {
                self.send(link, false, Message::Answered(call, Answer::NotRun));
            }
        }
    }

    fn stop_arrives(&mut self, link: Link, call: Call, letter: Option<&Letter>, copy: u64) {
        let all = self.issued[&call].component.is_none();
        match self.machine.stop(self.incoming(link, call, letter, false), all, self.now) {
            Admitted::Run(ticket) | Admitted::Copy(ticket) => {
                self.stops.entry(ticket).or_default().push((link, call, copy))
            }
            Admitted::Over { ran } => self.send(link, false, Message::Stopped(call, ran, copy)),
        }
    }

    /// Handlers that wait for their gate try it; whether any got through or was shut out.
    fn enter_waiting(&mut self) -> bool {
        let mut changed = false;
        for ticket in self.busy.clone() {
            let call = self.tickets[&ticket];
            let component = self.issued[&call].component.unwrap_or_default();
            match self.machine.enter(ticket, &component, self.now) {
                Ok(slot) => {
                    *self.writes.entry(call).or_insert(0) += 1;
                    // A whole moves by its parts.
                    if let Some(moved) = covers(self.ordered, component).pop() {
                        self.moving.insert(moved, Motion { call, holder: self.holders[&ticket] });
                    }
                    self.machine.leave(slot, self.now);
                }
                Err(Shut::Busy) => continue,
                Err(Shut::Revoked(_)) => {}
            }
            self.finish(ticket);
            changed = true;
        }
        changed
    }

    fn finish(&mut self, ticket: Ticket) {
        self.busy.remove(&ticket);
        if !self.over.insert(ticket) {
            return;
        }
        let call = self.tickets[&ticket];
        self.machine.handle_done(ticket, Some(Outcome::Kept), self.now);
        for link in self.copies.remove(&ticket).unwrap_or_default() {
            self.send(link, false, Message::Answered(call, Answer::Done));
        }
    }

    fn machine_says(&mut self, output: MachineOutput<&'static str>) {
        match output {
            MachineOutput::Stop { id, resource, .. } => {
                for stopped in covers(self.ordered, resource) {
                    self.moving.remove(stopped);
                }
                self.machine.handle_stopped(id, Ok(()), self.now);
            }
            MachineOutput::StopDone { of, failed } => {
                for (link, call, copy) in self.stops.remove(&of).unwrap_or_default() {
                    self.send(link, false, Message::Stopped(call, failed.is_empty(), copy));
                }
            }
            MachineOutput::Lapsed { holder: Holder::Session(_), cause: Cause::Lapse, .. } if self.alive => {
                let calm = self.now - self.trouble;
                assert!(calm < W * 3, "a session lapsed although all was well for {calm:?}");
            }
            MachineOutput::Cancel { ticket, .. } if self.tickets.contains_key(&ticket) => self.finish(ticket),
            _ => {}
        }
    }
}

fn is_numbered(message: &Message) -> bool {
    match message {
        Message::Beat(_, letter) => letter.order.is_some(),
        Message::Motion(_, letter) => letter.as_ref().is_some_and(|letter| letter.order.is_some()),
        _ => false,
    }
}

/// What moves, and stops, with a component: a base and its wheel, where the machine knows of it.
fn covers(ordered: bool, component: &'static str) -> Vec<&'static str> {
    if component == "base" && ordered { vec!["base", "left"] } else { vec![component] }
}

/// Lives it; panics where a property does not hold.
pub fn run(ordered: bool, (delays, skew, steps): ((u64, u64), i64, Vec<Step>)) {
    let mut world = World::new(ordered, delays, skew);
    for step in &steps {
        world.apply(step);
        world.check();
    }
    // In the end the client dies, the network gives everything back, and everything has to rest.
    world.die();
    world.apply(&Step::GiveBack(0));
    world.apply(&Step::GiveBack(1));
    world.pass(W * 3, [false; 2]);
    assert!(world.moving.is_empty(), "{:?} moves for ever", world.moving);
}

/// The links' delays in milliseconds, the clocks' skew, and what happens.
pub fn schedule() -> impl Strategy<Value = ((u64, u64), i64, Vec<Step>)> {
    ((1..SLOWEST, 1..SLOWEST), -SKEW..=SKEW, prop::collection::vec(step(), 1..60))
}
