//! Any sequence of inputs keeps what the rules promise.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::*;
use super::rig::*;

/// One input; numbers choose among what exists.
#[derive(Clone, Debug)]
enum Step {
    Candidate(u8, u8, u8),
    Connected(u8, u8),
    Failed(u8, bool),
    Closed(u8),
    Sent(u8),
    Life(u8),
    Stalled(u8, bool),
    Probe(u8),
    Beat(u8, bool),
    Validated(u8, bool),
    Held(u8),
    Net(u8),
    Motion(u8),
    Process(u8, u8),
    Done(bool),
    Pass(u16),
    Timers(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..6u8, 0..4u8, 0..5u8).prop_map(|(n, origin, tier)| Step::Candidate(n, origin, tier)),
        (any::<u8>(), 0..3u8).prop_map(|(n, path)| Step::Connected(n, path)),
        (any::<u8>(), prop::bool::weighted(0.1)).prop_map(|(n, verdict)| Step::Failed(n, verdict)),
        any::<u8>().prop_map(Step::Closed),
        any::<u8>().prop_map(Step::Sent),
        any::<u8>().prop_map(Step::Life),
        (any::<u8>(), any::<bool>()).prop_map(|(n, stalled)| Step::Stalled(n, stalled)),
        any::<u8>().prop_map(Step::Probe),
        (any::<u8>(), any::<bool>()).prop_map(|(n, answered)| Step::Beat(n, answered)),
        (any::<u8>(), prop::bool::weighted(0.8)).prop_map(|(n, same)| Step::Validated(n, same)),
        (0..4u8).prop_map(Step::Held),
        (0..4u8).prop_map(Step::Net),
        any::<u8>().prop_map(Step::Motion),
        (any::<u8>(), 0..2u8).prop_map(|(n, boot)| Step::Process(n, boot)),
        any::<bool>().prop_map(Step::Done),
        (0..700u16).prop_map(Step::Pass),
        (1..12u8).prop_map(Step::Timers),
    ]
}

fn tier(n: u8) -> Tier {
    [Tier::LanDirect, Tier::LanWebRtc, Tier::WanDirect, Tier::WebRtcDirect, Tier::WebRtcRelayed][usize::from(n) % 5]
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
    ids: u64,
}

impl Model {
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
            ids: 0,
        }
    }

    fn link(&self, n: u8) -> LinkId {
        let count = self.links.len();
        self.links.iter().nth(usize::from(n) % count.max(1)).copied().unwrap_or(LinkId(9999))
    }

    fn apply(&mut self, step: &Step) {
        let now = self.now;
        match *step {
            Step::Candidate(n, origin, t) => {
                let origin = [Origin::Remembered, Origin::Given, Origin::Mdns, Origin::Dns][usize::from(origin)];
                self.tiers.insert(direct(n), tier(t));
                self.agent.handle_candidate(Candidate { route: direct(n), origin, tier: tier(t) }, now);
            }
            Step::Connected(n, path) => {
                let Some((attempt, route)) = self.take(n) else { return };
                self.ids += 1;
                let link = LinkId(self.ids);
                self.links.insert(link);
                let tier = self.tiers.get(&route).copied().unwrap_or(LAN);
                self.agent.handle_connected(attempt, link, facts(tier, path), now);
            }
            Step::Failed(n, verdict) => {
                let Some((attempt, route)) = self.take(n) else { return };
                if verdict {
                    self.refused.insert(route);
                }
                self.agent.handle_failed(attempt, failure(verdict), now);
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
            Step::Probe(n) => {
                if !self.probes.is_empty() {
                    let probe = self.probes.remove(usize::from(n) % self.probes.len());
                    self.agent.handle_probe(probe, MS * u32::from(n), now);
                }
            }
            Step::Beat(n, answered) => self.agent.handle_beat(self.link(n), answered, now),
            Step::Validated(n, same) => {
                let what = if same { Validated::SameSession } else { Validated::ForeignOrUnknown };
                self.agent.handle_validated(self.link(n), what, now);
            }
            Step::Held(n) => {
                let held = match n {
                    0 => Held::Nothing,
                    n => Held::Session { window: MS * 2000, monitored_out: usize::from(n - 1) },
                };
                self.agent.handle_held(held, if n == 2 { Peer::Stock } else { Peer::Ours { boot: 1 } }, now);
            }
            Step::Net(n) => {
                let change = match n {
                    0 => NetChange::Changed,
                    1 => NetChange::Resumed,
                    n => NetChange::Lost(facts(LAN, n - 2).path.unwrap()),
                };
                self.refused.clear();
                self.agent.handle_network_changed(change, now);
            }
            Step::Process(n, boot) => self.agent.handle_process(self.link(n), u128::from(boot), now),
            Step::Motion(n) => self.agent.handle_unheld_motion(self.link(n), now),
            Step::Done(conclusive) => {
                if let Some(search) = self.search.take() {
                    self.agent.handle_sources_done(search, conclusive, now);
                }
            }
            Step::Pass(ms) => {
                self.now += MS * u32::from(ms);
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

    fn take(&mut self, n: u8) -> Option<(Attempt, Route)> {
        (!self.attempts.is_empty()).then(|| self.attempts.remove(usize::from(n) % self.attempts.len()))
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
                Output::Validate { link } => assert!(self.links.contains(&link), "validates a dead link"),
                Output::Use { link } => {
                    assert!(self.links.contains(&link), "uses a dead link");
                    assert!(!self.hedging, "HedgeOff comes before Use");
                    self.drained.remove(&link);
                    before = self.using.replace(link);
                }
                Output::NoRoute { .. } => self.using = None,
                Output::Hedge { from, on } => {
                    assert_eq!(Some(from), self.using);
                    assert!(self.links.contains(&on) && on != from);
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
                Output::Event(_) => {}
            }
        }
        assert_eq!(self.agent.primary(), self.using, "what was said is what is so");
        if let Some((at, timer)) = self.agent.poll_timeout() {
            assert!(at >= self.now, "{timer:?} lies before now");
        }
        assert!(self.agent.prospects.len() <= MAX_CANDIDATES);
        assert!(self.agent.lines.len() <= MAX_LINKS);
        assert!(self.attempts.len() <= 2 * self.agent.prospects.len(), "at most two attempts per route");
        assert_eq!(self.agent.lines.keys().copied().collect::<BTreeSet<_>>(), self.links, "no link is forgotten");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn the_rules_hold_for_any_sequence(
        steps in prop::collection::vec(step(), 1..120),
        attempts in 0..3u32,
        standby in 0..3u8,
        reconnect in prop::bool::weighted(0.9),
    ) {
        let standby = [StandbyPolicy::Never, StandbyPolicy::WhileControlling, StandbyPolicy::Always][usize::from(standby)];
        let mut model = Model::new(Policy { initial_attempts: attempts, standby, reconnect, ..Policy::default() });
        model.check();
        for step in &steps {
            model.apply(step);
            model.check();
        }
    }
}
