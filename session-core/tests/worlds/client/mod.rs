//! A client alone, with a machine and a network that answer whatever they like, whenever they like. However that is: no message has a session that
//! is over, numbers go up and lists say who still waits, nothing is sent after the Stop that came after it, nothing overtakes a Stop to a machine
//! that does not take order, nothing resumes by itself, nobody beats for a program that is silent or has left, and everything ends.

mod checks;
mod inputs;
mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use session_core::client::{
    Answer, Attempt, BeatError, Call, ClientOptions, ClientOutput, ClientSession, Event, Failure, Kind, Letter, Link,
    LinkState, StartError, Started,
};
use session_core::{Order, SessionId};
pub use step::{LENGTH, Life};

const COMPONENTS: [&str; 3] = ["base", "left", "arm"];
/// How long a Stop is tried where no window is known.
const WINDOW: Duration = Duration::from_secs(2);
/// The longest that a Stop is tried: the longest window.
const LONGEST: Duration = Duration::from_secs(60);

/// A call that the program waits for.
struct Issued {
    /// `None`: everything.
    component: Option<&'static str>,
    stops: bool,
    /// Its number, once it has one and while its list names it.
    number: Option<u64>,
    sent: u32,
    /// What is known to be over: a Stop that failed for want of a link may be sent all the same.
    failed: bool,
    /// Of a Stop: it found no link when it was issued, and is kept for one that comes in time.
    kept: bool,
    /// Of a Stop: what it carried when it was numbered.
    letter: Option<Letter>,
    /// Of a Stop: until when it is tried, and a copy of it waited for.
    until: Instant,
    /// Of a Stop: links on which a copy of it is unanswered.
    out: BTreeSet<Link>,
}

struct Session {
    id: SessionId,
    window: Duration,
    /// When it lapses, by what was answered.
    until: Instant,
}

struct World {
    client: ClientSession<&'static str>,
    now: Instant,
    ordered: bool,
    watched: Option<Duration>,
    resume_motion: bool,
    alive: Option<Instant>,
    closed: bool,
    session: Option<Session>,
    /// One that lapsed here and may live on at the machine, and the beat that ends it there.
    ending: Option<(SessionId, Option<Attempt>)>,
    ids: u128,
    /// StartSession that is out, with when it left and what it asks to resume.
    starting: Option<(Attempt, Instant, Option<SessionId>)>,
    beats: BTreeMap<Attempt, (Instant, SessionId, Link)>,
    links: BTreeMap<Link, LinkState>,
    /// The links that the steps name; one that is gone gets another number.
    named: [Link; 3],
    last_link: u64,
    /// Since when the primary is doubted, and which link answers instead.
    doubted: Option<Instant>,
    hedge: Option<Link>,
    /// When the first beat left on the primary that was not answered there, nor any later one.
    owed: Option<Instant>,
    /// When one last was.
    proven: Option<Instant>,
    /// Beats that the shell asks for itself.
    validating: Option<Link>,
    highest: u64,
    used: BTreeSet<u64>,
    calls: BTreeMap<Call, Issued>,
    /// Calls that must not be sent any more: superseded, failed, given up, or answered.
    over: BTreeSet<Call>,
}

impl World {
    #[allow(clippy::disallowed_methods, reason = "a schedule needs a first instant")]
    fn new(life: &Life) -> Self {
        let watched = life.watched.map(Duration::from_millis);
        let options = ClientOptions { watched, resume_motion: life.resume_motion };
        Self {
            client: ClientSession::new(options, 9),
            now: Instant::now(),
            ordered: life.ordered,
            watched,
            resume_motion: life.resume_motion,
            alive: None,
            closed: false,
            session: None,
            ending: None,
            ids: 0,
            starting: None,
            beats: BTreeMap::new(),
            links: BTreeMap::new(),
            named: [Link(1), Link(2), Link(3)],
            last_link: 3,
            doubted: None,
            hedge: None,
            owed: None,
            proven: None,
            validating: None,
            highest: 0,
            used: BTreeSet::new(),
            calls: BTreeMap::new(),
            over: BTreeSet::new(),
        }
    }

    fn primary(&self) -> Option<Link> {
        self.links.iter().find(|(_, state)| **state == LinkState::Primary).map(|(link, _)| *link)
    }

    /// Whether the program counts as being there.
    fn counts_as_alive(&self) -> bool {
        self.watched.is_none_or(|silence| self.alive.is_some_and(|alive| self.now - alive <= silence))
    }
}

/// Lives it; panics where a property does not hold.
pub fn run(life: &Life) {
    let mut world = World::new(life);
    for step in &life.steps {
        world.apply(step);
        world.check();
    }
    world.end();
}
