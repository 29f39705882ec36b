//! A client and a machine on virtual time, with a network between them that delays, reorders, loses, repeats, swallows, gives back and cuts, on
//! two computers that stand still now and then and whose clocks do not run alike. Whatever the schedule: a machine never moves for a client that
//! is gone, nothing moves after an answered Stop, nothing runs twice, a late beat revives nothing, liveness is not proven for long on a path that
//! carries no commands, and nobody lapses while the network is good.

mod checks;
mod client;
mod machine;
mod network;
mod program;
mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use session_core::client::{
    Answer, Attempt, BeatError, Call, ClientOptions, ClientOutput, ClientSession, Kind, Letter, Link, LinkState,
    Started,
};
use session_core::registry::{
    Admitted, Cause, Holder, Incoming, MachineOutput, NoSession, Outcome, Past, Policy, Refused, SessionRegistry, Shut,
    Ticket,
};
use session_core::{Connection, Owner, SessionId};

use step::Step;
pub use step::{LENGTH, Life};

const W: Duration = Duration::from_millis(2000);
const COMPONENTS: [&str; 3] = ["base", "left", "arm"];
const OWNER: Owner = Owner([7; 32]);
/// The longest one-way delay of a link.
const SLOWEST: u64 = 60;
/// How much later than its link's delay a message may come, and so be overtaken by others.
const JITTER: u64 = 40;
/// How far the clocks' rates differ at most, in thousandths: ten times what a bad crystal does.
const SKEW: i64 = 5;

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
    /// Beats that are out, and when the first one left on the primary that it has not answered, nor any later one.
    asked: BTreeMap<Attempt, (Link, Instant)>,
    owed: Option<Instant>,
    /// When the primary last answered one.
    answered: Option<Instant>,
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
            asked: BTreeMap::new(),
            owed: None,
            answered: None,
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
pub fn run(ordered: bool, life: &Life) {
    let mut world = World::new(ordered, life.delays, life.skew);
    for step in &life.steps {
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
