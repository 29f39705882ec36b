//! Two connections on virtual time over a network of our own: delay and loss.

mod late;
mod suite;
mod timing;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::*;
use crate::webrtc::candidate::{Admitted, admit};
use crate::webrtc::checks::{Answered, Checks};
use crate::webrtc::options::IcePolicy;

struct Packet {
    at: Instant,
    /// 0 is the caller.
    to: usize,
    local: SocketAddr,
    remote: SocketAddr,
    bytes: Vec<u8>,
}

struct Net {
    peers: [Box<dyn Peer>; 2],
    now: Instant,
    delay: Duration,
    /// Of 256 packets.
    loss: u8,
    seed: u64,
    /// Nothing passes in this one of the two networks.
    cut: Option<usize>,
    /// Where two translators stand between the ends in network 1.
    translators: Option<Translators>,
    /// The drivers' own checks, and what was answered.
    checks: [Checks; 2],
    answered: [Vec<Answered>; 2],
    flying: VecDeque<Packet>,
    events: [Vec<Event>; 2],
    /// Steps in which no time passed.
    idle: usize,
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Lets in only what comes from where something was sent to (RFC 4787: address and port-dependent filtering), and not for long.
#[derive(Default)]
struct Translators {
    sent: [BTreeMap<SocketAddr, Instant>; 2],
}

/// How long a translator remembers.
const MEMORY: Duration = Duration::from_secs(30);
/// What the translators show of the ends.
const OUTSIDE: [&str; 2] = ["203.1.113.1:5001", "203.1.113.2:5002"];

impl Translators {
    /// The addresses that the receiving end sees: the sender's and its own; `None` where it gets nothing.
    fn pass(&mut self, from: usize, to: SocketAddr, now: Instant) -> Option<(SocketAddr, SocketAddr)> {
        self.sent[from].insert(to, now);
        let sender = address(OUTSIDE[from]);
        let known = self.sent[1 - from].get(&sender).is_some_and(|at| now < *at + MEMORY);
        (known && to == address(OUTSIDE[1 - from])).then(|| (sender, address([NEAR, FAR][1 - from][1])))
    }
}

const NEAR: [&str; 2] = ["10.0.0.1:1000", "10.1.0.1:1000"];
const FAR: [&str; 2] = ["10.0.0.2:2000", "10.1.0.2:2000"];

impl Net {
    /// A caller and an answerer that have exchanged their descriptions; each has an address in both networks.
    fn new(delay: Duration, loss: u8, seed: u64) -> Self {
        Self::after(delay, loss, seed, |_, _| {})
    }

    /// The same, where something happens to offers (0) and answers (1) on their way.
    fn after(delay: Duration, loss: u8, seed: u64, on_the_way: impl Fn(usize, &mut Description)) -> Self {
        Self::of([Backend::Str0m; 2], on_the_way).with(delay, loss, seed)
    }

    fn with(self, delay: Duration, loss: u8, seed: u64) -> Self {
        Self { delay, loss, seed, ..self }
    }

    /// Without delay and loss, of any two implementations.
    fn of(backends: [Backend; 2], on_the_way: impl Fn(usize, &mut Description)) -> Self {
        Self::between(backends, [&NEAR, &FAR], on_the_way)
    }

    /// The same at these addresses of each.
    fn between(backends: [Backend; 2], ends: [&[&str]; 2], on_the_way: impl Fn(usize, &mut Description)) -> Self {
        let now = Instant::now();
        let mut near = backends[0].make(Role::Caller, true, now).expect("made");
        let mut far = backends[1].make(Role::Answerer, true, now).expect("made");
        for text in ends[0] {
            near.add_local(LocalCandidate::Host(address(text)), now);
        }
        for text in ends[1] {
            far.add_local(LocalCandidate::Host(address(text)), now);
        }
        let mut offer = near.offer();
        on_the_way(0, &mut offer);
        let mut answer = far.answer(&offer, now).expect("answered");
        on_the_way(1, &mut answer);
        near.accept(&answer, now).expect("accepted");
        let events = [const { Vec::new() }; 2];
        let mut net = Self {
            peers: [near, far],
            now,
            delay: Duration::ZERO,
            loss: 0,
            seed: 1,
            cut: None,
            translators: None,
            checks: Default::default(),
            answered: Default::default(),
            flying: VecDeque::new(),
            events,
            idle: 0,
        };
        net.candidates(0, &answer);
        net.candidates(1, &offer);
        net
    }

    /// Gives a side the candidates of the other one's description.
    fn candidates(&mut self, to: usize, from: &Description) {
        for text in &from.candidates {
            if let Admitted::Use(candidate) = admit(text, IcePolicy::All) {
                self.peers[to].add_remote(&candidate, self.now);
            }
        }
    }

    fn lost(&mut self) -> bool {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.seed >> 33) as u8) < self.loss
    }

    /// Sends what both have, as far as the network lets it pass: only within one network.
    fn exchange(&mut self) {
        for from in [0, 1] {
            let mut sent = Vec::new();
            let now = self.now;
            self.peers[from].drain(now, &mut |local, remote, bytes| sent.push((local, remote, bytes.to_vec())));
            for (local, remote, bytes) in sent {
                self.send(from, local, remote, bytes);
            }
            while let Some(event) = self.peers[from].poll_event() {
                self.events[from].push(event);
            }
        }
    }

    fn send(&mut self, from: usize, local: SocketAddr, remote: SocketAddr, bytes: Vec<u8>) {
        let network = |a: SocketAddr| a.to_string().split('.').nth(1).and_then(|n| n.parse::<usize>().ok());
        let passes = network(local) == network(remote) && (self.cut.is_none() || network(local) != self.cut);
        let seen = match &mut self.translators {
            Some(both) if network(local) == Some(1) => both.pass(from, remote, self.now),
            _ => Some((local, remote)),
        };
        if let (true, Some((remote, local))) = (passes && !self.lost(), seen) {
            let at = self.now + self.delay;
            self.flying.push_back(Packet { at, to: 1 - from, local, remote, bytes });
        }
    }

    /// Advances to the next thing that happens; false where nothing will before `until`.
    fn step(&mut self, until: Instant) -> bool {
        self.exchange();
        let timers = self.peers.iter_mut().filter_map(|peer| peer.poll_timeout()).min();
        let next = [timers, self.flying.front().map(|p| p.at)].into_iter().flatten().min();
        let Some(next) = next.filter(|at| *at <= until) else {
            self.now = until;
            return false;
        };
        self.idle = if next > self.now { 0 } else { self.idle + 1 };
        assert!(
            self.idle < 10_000,
            "a timeout that is handled stays due, and a driver would spin: {:?}, {:?}",
            self.peers.iter_mut().map(|peer| peer.poll_timeout().map(|at| at <= next)).collect::<Vec<_>>(),
            self.events,
        );
        self.now = self.now.max(next);
        while self.flying.front().is_some_and(|p| p.at <= self.now) {
            let Some(packet) = self.flying.pop_front() else { break };
            self.take(packet);
        }
        for peer in &mut self.peers {
            peer.handle_timeout(self.now);
        }
        true
    }

    /// As a driver does: answers to its own checks are nobody else's.
    fn take(&mut self, Packet { to, local, remote, bytes, .. }: Packet) {
        let who = self.peers[to].credentials();
        match who.and_then(|who| self.checks[to].handle(&bytes, &who, self.now)) {
            Some(answered) => self.answered[to].push(answered),
            None => self.peers[to].handle_datagram(local, remote, &bytes, self.now),
        }
    }

    fn run(&mut self, most: Duration, mut done: impl FnMut(&mut Self) -> bool) -> Option<Duration> {
        let (started, until) = (self.now, self.now + most);
        loop {
            self.exchange();
            if done(self) {
                return Some(self.now - started);
            }
            if !self.step(until) {
                return None;
            }
        }
    }

    fn open(&mut self) -> Option<Duration> {
        self.run(Duration::from_secs(10), |net| net.events.iter().all(|e| e.contains(&Event::Open)))
    }

    /// The pair that a side has selected last, and which of the two networks it is in.
    fn selected(&self, side: usize) -> (CandidatePair, usize) {
        let pair = self.events[side].iter().rev().find_map(|event| match event {
            Event::Selected(pair) => Some(*pair),
            _ => None,
        });
        let pair = pair.expect("selected");
        let network = [NEAR, FAR][side].iter().position(|a| address(a) == pair.local.address).expect("known");
        (pair, network)
    }

    /// Sends a message each way; how long both took.
    fn ping(&mut self, most: Duration) -> Option<Duration> {
        for peer in &mut self.peers {
            peer.write(&Bytes::from_static(b"ping")).expect("open");
        }
        let mut got = [false; 2];
        self.run(most, move |net| {
            for (peer, got) in net.peers.iter_mut().zip(&mut got) {
                *got |= peer.read().is_some();
            }
            got.iter().all(|g| *g)
        })
    }
}
