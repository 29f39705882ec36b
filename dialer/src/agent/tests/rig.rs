//! A bench for the agent: a clock, and a record of what came out.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::super::*;

pub const MS: Duration = Duration::from_millis(1);
pub const LAN: Tier = Tier::LanDirect;

pub struct Rig {
    pub agent: RouteAgent,
    pub now: Instant,
    pub began: Instant,
    /// What came out and was not asked for yet.
    pub out: Vec<Output>,
    links: u64,
}

pub fn direct(n: u8) -> Route {
    Route::Direct(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)), 8080))
}

pub fn facts(tier: Tier, path: u8) -> LinkFacts {
    LinkFacts { tier, path: Some(IpAddr::V4(Ipv4Addr::new(10, 0, path, 1))), rtt: MS }
}

pub fn failure(verdict: bool) -> Failure {
    Failure { stage: Stage::Tcp, verdict, message: "refused".into() }
}

impl Rig {
    pub fn new(policy: Policy) -> Self {
        let now = Instant::now();
        let mut rig = Self { agent: RouteAgent::new(policy, 7, now), now, began: now, out: vec![], links: 0 };
        rig.collect();
        rig
    }

    /// A rig with a primary over `direct(1)`.
    pub fn connected(policy: Policy) -> (Self, LinkId) {
        let mut rig = Self::new(policy);
        rig.near(1, Origin::Given, LAN);
        let link = rig.connect(1, facts(LAN, 1));
        rig.done(true);
        rig.out.clear();
        (rig, link)
    }

    /// A rig that holds a session, with a validated standby.
    pub fn controlling() -> (Self, LinkId, LinkId) {
        Self::controlling_over(LAN)
    }

    /// The same with links of another tier.
    pub fn controlling_over(tier: Tier) -> (Self, LinkId, LinkId) {
        let mut rig = Self::new(Policy::default());
        rig.near(1, Origin::Given, tier);
        let primary = rig.connect(1, facts(tier, 1));
        rig.done(true);
        rig.hold(0, Peer::Ours { boot: 1 });
        rig.near(2, Origin::Mdns, tier);
        let standby = rig.connect(2, facts(tier, 2));
        rig.agent.handle_validated(standby, Validated::SameSession, rig.now);
        rig.collect();
        assert_eq!(rig.agent.standby(), Some(standby));
        rig.out.clear();
        (rig, primary, standby)
    }

    pub fn collect(&mut self) {
        while let Some(output) = self.agent.poll_output() {
            self.out.push(output);
        }
        if let Some((at, timer)) = self.agent.poll_timeout() {
            assert!(at >= self.now, "{timer:?} lies {:?} in the past", self.now - at);
        }
    }

    pub fn hold(&mut self, monitored_out: usize, peer: Peer) {
        let held = Held::Session { window: MS * 2000, monitored_out };
        self.agent.handle_held(held, peer, self.now);
        self.collect();
    }

    pub fn candidate(&mut self, n: u8, origin: Origin, tier: Tier) {
        self.agent.handle_candidate(Candidate { route: direct(n), origin, tier }, self.now);
        self.collect();
    }

    /// A candidate whose turn has come, in a moment in which nothing else happens.
    pub fn near(&mut self, n: u8, origin: Origin, tier: Tier) {
        self.candidate(n, origin, tier);
        self.now += super::super::hunt::NEAR_STAGGER;
        self.agent.handle_timeout(self.now);
        self.collect();
    }

    pub fn done(&mut self, conclusive: bool) {
        let search = self.out.iter().rev().find_map(|output| match output {
            Output::Search { attempt } => Some(*attempt),
            _ => None,
        });
        self.agent.handle_sources_done(search.expect("a search is under way"), conclusive, self.now);
        self.collect();
    }

    /// The newest attempt over a route that came out, taken.
    pub fn attempt(&mut self, n: u8) -> Option<Attempt> {
        let position = self
            .out
            .iter()
            .rposition(|output| matches!(output, Output::Connect { route, .. } if *route == direct(n)))?;
        match self.out.remove(position) {
            Output::Connect { attempt, .. } => Some(attempt),
            _ => None,
        }
    }

    pub fn connect(&mut self, n: u8, facts: LinkFacts) -> LinkId {
        let attempt = self.attempt(n).expect("an attempt is under way");
        self.links += 1;
        let link = LinkId(self.links);
        self.agent.handle_connected(attempt, link, facts, self.now);
        self.collect();
        link
    }

    pub fn fail(&mut self, n: u8, verdict: bool) {
        let attempt = self.attempt(n).expect("an attempt is under way");
        self.agent.handle_failed(attempt, failure(verdict), self.now);
        self.collect();
    }

    pub fn close(&mut self, link: LinkId) {
        self.agent.handle_closed(link, self.now);
        self.collect();
    }

    /// Time passes; every timer fires when it is due. Probes of the links in `answering` are answered at once.
    pub fn pass(&mut self, time: Duration, answering: &[LinkId]) {
        let end = self.now + time;
        self.answer(answering);
        while let Some((at, timer)) = self.agent.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = at;
            self.agent.handle_timeout(at);
            self.collect();
            if let Some((next, again)) = self.agent.poll_timeout() {
                assert!(next > at, "{timer:?} did not clear: {again:?}");
            }
            self.answer(answering);
        }
        self.now = end;
    }

    fn answer(&mut self, answering: &[LinkId]) {
        let probes: Vec<_> = self
            .out
            .iter()
            .filter_map(|output| match output {
                Output::Probe { attempt, link } if answering.contains(link) => Some(*attempt),
                _ => None,
            })
            .collect();
        self.out.retain(|output| !matches!(output, Output::Probe { attempt, .. } if probes.contains(attempt)));
        for attempt in probes {
            self.agent.handle_probe(attempt, MS, self.now);
            self.collect();
        }
    }

    pub fn position(&self, wanted: impl Fn(&Output) -> bool) -> Option<usize> {
        self.out.iter().position(wanted)
    }

    pub fn saw(&self, wanted: impl Fn(&Output) -> bool) -> bool {
        self.position(wanted).is_some()
    }

    pub fn used(&self, link: LinkId) -> bool {
        self.saw(|output| *output == Output::Use { link })
    }

    pub fn verdict(&self) -> Option<Verdict> {
        self.out.iter().find_map(|output| match output {
            Output::Event(Event::Verdict(verdict)) => Some(verdict.clone()),
            _ => None,
        })
    }
}
