//! Any sequence of inputs keeps what the rules promise.

mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use dialer::agent::*;

use step::Step;
pub use step::{LENGTH, Life};

const MS: Duration = Duration::from_millis(1);

/// Lives it, looking at what came out after every step.
pub fn run(life: &Life) {
    let mut model = Model::new(life.policy.clone());
    model.check();
    for step in &life.steps {
        model.apply(step);
        model.check();
    }
}

fn direct(n: u8) -> Route {
    Route::Direct(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)), 8080))
}

fn path(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, n, 1))
}

/// What the world around the agent knows: far less than the agent.
struct Model {
    agent: RouteAgent,
    now: Instant,
    attempts: Vec<(Attempt, Route)>,
    probes: Vec<Attempt>,
    search: Option<Attempt>,
    /// Links that were reported connected and neither closed nor aborted.
    links: BTreeSet<LinkId>,
    /// Given up, and not used since.
    drained: BTreeSet<LinkId>,
    refused: BTreeSet<Route>,
    tiers: BTreeMap<Route, Tier>,
    using: Option<LinkId>,
    hedging: bool,
    listening: bool,
    slow: Option<LinkId>,
    /// A session is held.
    held: bool,
    /// Links that were asked by its beat and have not answered.
    asked: BTreeSet<LinkId>,
    /// Where it is known to be held: where it began, and where its beat was answered last.
    proven: BTreeSet<LinkId>,
    ids: u64,
}

impl Model {
    #[allow(clippy::disallowed_methods, reason = "a life needs a first instant")]
    fn new(policy: Policy) -> Self {
        let now = Instant::now();
        Self {
            agent: RouteAgent::new(policy, 3, now),
            now,
            attempts: vec![],
            probes: vec![],
            search: None,
            links: BTreeSet::new(),
            drained: BTreeSet::new(),
            refused: BTreeSet::new(),
            tiers: BTreeMap::new(),
            using: None,
            hedging: false,
            listening: false,
            slow: None,
            held: false,
            asked: BTreeSet::new(),
            proven: BTreeSet::new(),
            ids: 0,
        }
    }

    fn link(&self, n: usize) -> LinkId {
        let count = self.links.len();
        self.links.iter().nth(n % count.max(1)).copied().unwrap_or(LinkId(9999))
    }

    fn apply(&mut self, step: &Step) {
        let now = self.now;
        match *step {
            Step::Candidate(n, origin, tier) => {
                self.tiers.insert(direct(n), tier);
                self.agent.handle_candidate(Candidate { route: direct(n), origin, tier }, now);
            }
            Step::Connected(n, from) => {
                let Some((attempt, route)) = self.take(n) else { return };
                self.ids += 1;
                let link = LinkId(self.ids);
                self.links.insert(link);
                let tier = self.tiers.get(&route).copied().unwrap_or(Tier::LanDirect);
                let facts = LinkFacts { tier, path: Some(path(from)), rtt: MS };
                self.agent.handle_connected(attempt, link, facts, now);
            }
            Step::Failed(n, verdict) => {
                let Some((attempt, route)) = self.take(n) else { return };
                if verdict {
                    self.refused.insert(route);
                }
                let why = Failure { stage: Stage::Tcp, verdict, message: "refused".into() };
                self.agent.handle_failed(attempt, why, now);
            }
            Step::Closed(n) => {
                let link = self.link(n);
                self.links.remove(&link);
                if self.using == Some(link) {
                    self.using = None;
                }
                self.agent.handle_closed(link, now);
            }
            Step::Sent(n) => self.agent.handle_sent(self.link(n), now),
            Step::Life(n) => self.agent.handle_life(self.link(n), Sign::Reply, now),
            Step::Stalled(n, stalled) => self.agent.handle_stalled(self.link(n), stalled, now),
            Step::Probe(n, rtt) => {
                if !self.probes.is_empty() {
                    let probe = self.probes.remove(n % self.probes.len());
                    self.agent.handle_probe(probe, rtt, now);
                }
            }
            Step::Beat(n, answered) => self.agent.handle_beat(self.link(n), answered, now),
            Step::Validated(n, same) => {
                let (link, what) =
                    (self.link(n), if same { Validated::SameSession } else { Validated::ForeignOrUnknown });
                if self.asked.remove(&link) && same {
                    self.proven.insert(link);
                }
                self.agent.handle_validated(link, what, now);
            }
            Step::Held(n) => {
                let held = match n {
                    0 => Held::Nothing,
                    n => Held::Session { window: MS * 2000, monitored_out: n - 1 },
                };
                if self.held != (n > 0) {
                    self.held = n > 0;
                    self.asked.clear();
                    self.proven = self.using.into_iter().collect();
                }
                self.agent.handle_held(held, if n == 2 { Peer::Stock } else { Peer::Ours { boot: 1 } }, now);
            }
            Step::Net(n) => {
                let change = match n {
                    0 => NetChange::Changed,
                    1 => NetChange::Resumed,
                    n => NetChange::Lost(path(n as u8 - 2)),
                };
                self.refused.clear();
                self.agent.handle_network_changed(change, now);
            }
            Step::Process(n, boot) => self.agent.handle_process(self.link(n), boot, now),
            Step::Moved(n, tier, from) => self.agent.handle_moved(self.link(n), tier, Some(path(from)), now),
            Step::Motion(n) => self.agent.handle_unheld_motion(self.link(n), now),
            Step::Done(conclusive) => {
                if let Some(search) = self.search.take() {
                    self.agent.handle_sources_done(search, conclusive, now);
                }
            }
            Step::Pass(time) => {
                self.now += time;
                self.agent.handle_timeout(self.now);
            }
            Step::Timers(count) => {
                for _ in 0..count {
                    let Some((at, timer)) = self.agent.poll_timeout() else { return };
                    self.now = self.now.max(at);
                    self.agent.handle_timeout(self.now);
                    self.check();
                    let next = self.agent.poll_timeout();
                    assert!(next.is_none_or(|(next, _)| next > self.now), "{timer:?} did not clear: {next:?}");
                }
            }
        }
    }

    fn take(&mut self, n: usize) -> Option<(Attempt, Route)> {
        (!self.attempts.is_empty()).then(|| self.attempts.remove(n % self.attempts.len()))
    }

    fn check(&mut self) {
        let mut before: Option<LinkId> = self.using;
        while let Some(output) = self.agent.poll_output() {
            match output {
                Output::Listen { on } => {
                    assert_ne!(on, self.listening, "said twice");
                    self.listening = on;
                }
                Output::Search { attempt } => assert_eq!(self.search.replace(attempt), None, "two searches at once"),
                Output::Connect { attempt, route } => {
                    assert!(!self.refused.contains(&route), "a verdict is not asked for twice: {route}");
                    self.attempts.push((attempt, route));
                }
                Output::Cancel { attempt } => self.attempts.retain(|(out, _)| *out != attempt),
                Output::Probe { attempt, link } => {
                    assert!(self.links.contains(&link), "probes a dead link");
                    self.probes.push(attempt);
                    let excess = self.probes.len().saturating_sub(64);
                    self.probes.drain(..excess);
                }
                Output::Validate { link } => {
                    assert!(self.links.contains(&link), "validates a dead link");
                    self.asked.insert(link);
                }
                Output::Use { link } => {
                    assert!(self.links.contains(&link), "uses a dead link");
                    assert!(!self.hedging, "HedgeOff comes before Use");
                    assert!(!self.held || self.proven.contains(&link), "uses a link that nobody knows the session of");
                    self.drained.remove(&link);
                    before = self.using.replace(link);
                }
                Output::NoRoute { .. } => self.using = None,
                Output::Hedge { from, on } => {
                    assert_eq!(Some(from), self.using);
                    assert!(self.links.contains(&on) && on != from);
                    assert!(!self.held || self.proven.contains(&on), "sends copies where nobody knows the session");
                    self.hedging = true;
                }
                Output::HedgeOff => assert!(std::mem::take(&mut self.hedging)),
                Output::Drain { link, until, .. } => {
                    assert_ne!(self.using, Some(link), "Use comes before Drain (before: {before:?})");
                    assert!(until >= self.now && self.links.contains(&link));
                    self.drained.insert(link);
                }
                Output::Abort { link } => {
                    self.links.remove(&link);
                    if self.using == Some(link) {
                        self.using = None;
                    }
                }
                Output::MovePair { link } | Output::RestartIce { link } | Output::Decide { link } => {
                    assert!(self.links.contains(&link))
                }
                Output::Event(event) => self.told(&event),
            }
        }
        assert_eq!(self.agent.primary(), self.using, "what was said is what is so");
        if let Some((at, timer)) = self.agent.poll_timeout() {
            assert!(at >= self.now, "{timer:?} lies before now");
        }
        assert!(self.agent.candidates() <= MAX_CANDIDATES);
        assert!(self.links.len() <= MAX_LINKS);
        assert!(self.attempts.len() <= 2 * self.agent.candidates(), "at most two attempts per route");
        assert_eq!(self.agent.links().collect::<BTreeSet<_>>(), self.links, "no link is forgotten");
    }

    fn told(&mut self, event: &Event) {
        match *event {
            Event::TooSlow { link, took, window } => {
                assert_eq!(self.slow.replace(link), None, "said twice");
                assert!(took > window / 2 && self.links.contains(&link));
            }
            Event::InTime { link } => assert_eq!(self.slow.take(), Some(link), "it was not said to be slow"),
            _ => {}
        }
    }
}
