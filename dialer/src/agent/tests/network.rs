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
    /// What is answered when; over TCP nothing overtakes.
    answers: BTreeMap<(Instant, u64), Answer>,
    in_order: BTreeMap<LinkId, Instant>,
    random: u64,
    count: u64,
    uses: usize,
    /// The newest beat that was answered: when it was sent.
    beaten: Instant,
    worst: Duration,
}

#[derive(Clone, Copy)]
enum Answer {
    Probe(Attempt, Instant),
    Beat(LinkId, Instant),
    Call(LinkId),
}

const WINDOW: Duration = Duration::from_secs(2);

impl World {
    fn new(paths: &[Path], seed: u64) -> Self {
        let mut rig = Rig::new(Policy::default());
        let tier = |path: &Path| if path.webrtc { Tier::LanWebRtc } else { LAN };
        let mut linked = BTreeMap::new();
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
        }
        rig.hold(0, Peer::Ours { boot: 1 });
        rig.out.clear();
        let now = rig.now;
        Self {
            rig,
            paths: linked,
            answers: BTreeMap::new(),
            in_order: BTreeMap::new(),
            random: seed,
            count: 0,
            uses: 0,
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

    /// Something leaves; its answer comes after a round trip, after TCP has sent it again, or never.
    fn ask(&mut self, link: LinkId, datagram: bool, answer: Answer) {
        let (Some(path), now) = (self.paths.get(&link).copied(), self.rig.now) else { return };
        let mut at = now + path.rtt;
        // A tail loss probe after two round trips, then the retransmission timeout, doubling (RFC 8985, RFC 6298).
        let mut wait = path.rtt * 2;
        while self.lost(path) {
            if datagram {
                return;
            }
            at += wait;
            wait = (wait * 2).max(path.rtt + MS * 200);
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
                Output::Use { .. } => self.uses += 1,
                Output::NoRoute { .. } => self.uses += 100,
                Output::Validate { link } => {
                    self.rig.agent.handle_validated(link, Validated::SameSession, self.rig.now);
                    self.rig.collect();
                }
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
            assert_eq!(world.uses, 0, "{} paths, seed {seed}", paths.len());
            assert!(world.worst < WINDOW, "{:?}", world.worst);
        }
    }
}
