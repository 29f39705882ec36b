//! The agent over simulated networks, on virtual time: delay is nobody's death.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::*;
use super::rig::*;

/// A path: its round trip, and how many of a hundred packets are lost in each direction.
#[derive(Clone, Copy)]
struct Path {
    rtt: Duration,
    loss: u64,
    webrtc: bool,
}

/// Two paths to one machine, and a client that holds a session of 2 s and beats five times in it.
struct World {
    rig: Rig,
    paths: BTreeMap<LinkId, Path>,
    /// What a new link over a route is like.
    routes: BTreeMap<Route, Path>,
    dialled: u64,
    /// What is answered when; over TCP nothing overtakes.
    answers: BTreeMap<(Instant, u64), Answer>,
    in_order: BTreeMap<LinkId, Instant>,
    random: u64,
    count: u64,
    uses: usize,
    /// How often calls went nowhere.
    nowhere: usize,
    /// The newest beat that was answered: when it was sent.
    beaten: Instant,
    worst: Duration,
}

#[derive(Clone)]
enum Answer {
    Probe(Attempt, Instant),
    Beat(LinkId, Instant),
    Call(LinkId),
    Connected(Attempt, Route),
    Validated(LinkId),
}

const WINDOW: Duration = Duration::from_secs(2);

impl World {
    fn new(paths: &[Path], seed: u64) -> Self {
        let mut rig = Rig::new(Policy::default());
        let tier = |path: &Path| if path.webrtc { Tier::LanWebRtc } else { LAN };
        let (mut linked, mut routes) = (BTreeMap::new(), BTreeMap::new());
        for (n, path) in (1..).zip(paths) {
            rig.near(n, Origin::Given, tier(path));
            if n > 1 {
                rig.hold(0, Peer::Ours { boot: 1 });
                rig.pass(MS * 2, &[]);
            }
            let link = rig.connect(n, LinkFacts { rtt: path.rtt, ..facts(tier(path), n) });
            if n > 1 {
                rig.agent.handle_validated(link, Validated::SameSession, rig.now);
                rig.collect();
            }
            linked.insert(link, *path);
            routes.insert(direct(n), *path);
        }
        rig.hold(0, Peer::Ours { boot: 1 });
        rig.out.clear();
        let now = rig.now;
        Self {
            rig,
            paths: linked,
            routes,
            dialled: 100,
            answers: BTreeMap::new(),
            in_order: BTreeMap::new(),
            random: seed,
            count: 0,
            uses: 0,
            nowhere: 0,
            beaten: now,
            worst: Duration::ZERO,
        }
    }

    fn lost(&mut self, path: Path) -> bool {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // There and back.
        let whole = 10_000 - (100 - path.loss).pow(2);
        (self.random >> 33) % 10_000 < whole
    }

    /// How much longer TCP takes than a round trip: a tail loss probe after two of them (RFC 8985), then the retransmission timeout (RFC 6298), which
    /// does not grow on a connection that carries little.
    fn sent_again(&mut self, path: Path) -> Duration {
        let (mut late, mut wait) = (Duration::ZERO, path.rtt * 2);
        while self.lost(path) {
            late += wait;
            wait = path.rtt + MS * 200;
        }
        late
    }

    /// A dial: three round trips, the first of which is only asked again after a second.
    fn dial(&mut self, attempt: Attempt, route: Route) {
        let Some(path) = self.routes.get(&route).copied() else { return };
        let mut at = self.rig.now + path.rtt * 3;
        let mut wait = Duration::from_secs(1);
        while self.lost(path) {
            at += wait;
            wait *= 2;
        }
        at += self.sent_again(path) + self.sent_again(path);
        self.count += 1;
        self.answers.insert((at, self.count), Answer::Connected(attempt, route));
    }

    /// Something leaves; its answer comes after a round trip, after TCP has sent it again, or never.
    fn ask(&mut self, link: LinkId, datagram: bool, answer: Answer) {
        let (Some(path), now) = (self.paths.get(&link).copied(), self.rig.now) else { return };
        let mut at = now + path.rtt;
        if datagram {
            if self.lost(path) {
                return;
            }
        } else if self.in_order.get(&link).is_none_or(|before| *before <= at) {
            // What leaves behind a loss goes with what is sent again.
            at += self.sent_again(path);
        }
        if !datagram {
            let before = self.in_order.entry(link).or_insert(at);
            at = at.max(*before);
            *before = at;
        }
        self.count += 1;
        self.answers.insert((at, self.count), answer);
    }

    fn run(&mut self, time: Duration) {
        let end = self.rig.now + time;
        let mut next_beat = self.rig.now;
        let mut next_call = self.rig.now;
        while self.rig.now < end {
            self.outputs();
            let answer = self.answers.keys().next().map(|(at, _)| *at);
            let timer = self.rig.agent.poll_timeout().map(|(at, _)| at);
            let next = [answer, timer, Some(next_beat), Some(next_call), Some(end)].into_iter().flatten().min();
            self.rig.now = next.unwrap_or(end).max(self.rig.now);
            let now = self.rig.now;
            self.rig.agent.handle_timeout(now);
            while self.answers.first_key_value().is_some_and(|((at, _), _)| *at <= now) {
                if let Some((_, answer)) = self.answers.pop_first() {
                    self.answered(answer);
                }
            }
            if next_beat <= now {
                next_beat = now + WINDOW / 5;
                self.leave(Answer::Beat, now);
            }
            if next_call <= now {
                next_call = now + MS * 20;
                self.leave(|link, _| Answer::Call(link), now);
            }
            self.worst = self.worst.max(now - self.beaten);
        }
    }

    fn leave(&mut self, answer: impl Fn(LinkId, Instant) -> Answer, now: Instant) {
        // While the primary is suspect, beats and calls go over the standby as well.
        let hedged = self.rig.agent.hedge.map(|(_, on)| on);
        for link in self.rig.agent.primary().into_iter().chain(hedged) {
            self.rig.agent.handle_sent(link, now);
            self.ask(link, false, answer(link, now));
        }
    }

    fn answered(&mut self, answer: Answer) {
        let now = self.rig.now;
        match answer {
            Answer::Probe(attempt, sent) => self.rig.agent.handle_probe(attempt, now - sent, now),
            Answer::Call(link) => self.rig.agent.handle_life(link, Sign::Reply, now),
            Answer::Beat(link, sent) => {
                self.beaten = self.beaten.max(sent);
                self.rig.agent.handle_beat(link, true, now);
            }
            Answer::Validated(link) => self.rig.agent.handle_validated(link, Validated::SameSession, now),
            Answer::Connected(attempt, route) => {
                let Some(path) = self.routes.get(&route).copied() else { return };
                self.dialled += 1;
                let link = LinkId(self.dialled);
                self.paths.insert(link, path);
                self.rig.agent.handle_connected(attempt, link, LinkFacts { rtt: path.rtt, ..facts(LAN, 1) }, now);
            }
        }
        self.outputs();
    }

    fn outputs(&mut self) {
        self.rig.collect();
        for output in std::mem::take(&mut self.rig.out) {
            match output {
                Output::Probe { attempt, link } => {
                    let datagram = self.paths.get(&link).is_some_and(|path| path.webrtc);
                    self.ask(link, datagram, Answer::Probe(attempt, self.rig.now));
                }
                Output::Use { link } => {
                    self.uses += 1;
                    self.ask(link, false, Answer::Beat(link, self.rig.now));
                }
                Output::NoRoute { .. } => self.nowhere += 1,
                Output::Connect { attempt, route } => self.dial(attempt, route),
                Output::Validate { link } => self.ask(link, false, Answer::Validated(link)),
                _ => {}
            }
        }
    }
}

const SLOW: Path = Path { rtt: Duration::from_millis(800), loss: 0, webrtc: false };

#[test]
fn s68_800_ms_without_loss_for_a_minute_swap_nothing_and_lapse_nothing() {
    for paths in [&[SLOW][..], &[SLOW, SLOW], &[SLOW, Path { webrtc: true, ..SLOW }], &[Path { webrtc: true, ..SLOW }]]
    {
        for seed in 0..5 {
            let mut world = World::new(paths, seed);
            world.run(Duration::from_secs(60));
            assert_eq!((world.uses, world.nowhere), (0, 0), "{} paths, seed {seed}", paths.len());
            assert!(world.worst < WINDOW, "{:?}", world.worst);
        }
    }
}

const LOSSY: Path = Path { rtt: Duration::from_millis(40), loss: 20, webrtc: false };

/// Minutes of driving: how many lapsed, and how often calls moved in all.
fn minutes(paths: &[Path], many: u64) -> (usize, usize) {
    let (mut lapses, mut uses) = (0, 0);
    for seed in 1..=many {
        let mut world = World::new(paths, seed * 7919);
        world.run(Duration::from_secs(60));
        lapses += usize::from(world.worst >= WINDOW);
        uses += world.uses;
    }
    (lapses, uses)
}

/// In these minutes TCP alone leaves nothing unanswered for longer than a window twice a minute. What is left is two ways stuck at once.
#[test]
fn s68_a_fifth_of_the_packets_lost_at_40_ms_hardly_ever_lapses() {
    for paths in [&[LOSSY][..], &[LOSSY, LOSSY]] {
        let (lapses, uses) = minutes(paths, 20);
        assert!(lapses <= 1, "{} paths: {lapses} of 20 minutes", paths.len());
        assert!(uses <= 20 * 20, "{} paths: {uses} swaps", paths.len());
    }
}

#[test]
fn a_way_that_becomes_long_lapses_nothing() {
    const SHORT: Path = Path { rtt: Duration::from_millis(2), loss: 0, webrtc: false };
    for (rtt, paths) in [480, 800].into_iter().flat_map(|rtt| {
        [&[SHORT][..], &[SHORT, SHORT], &[SHORT, Path { webrtc: true, ..SHORT }]].map(|paths| (rtt, paths))
    }) {
        let mut world = World::new(paths, 1);
        world.run(Duration::from_secs(2));
        world.paths.values_mut().chain(world.routes.values_mut()).for_each(|path| path.rtt = MS * rtt);
        world.run(Duration::from_secs(30));
        assert!(world.worst < WINDOW, "{rtt} ms: {:?}", world.worst);
        // Calls wait while nothing has come over the long way, and the link is the same ever after.
        assert!(world.nowhere <= 1 && world.uses <= 1, "{rtt} ms: {} swaps", world.uses);
        assert_eq!(world.rig.agent.primary(), Some(LinkId(1)), "{rtt} ms");
    }
}
