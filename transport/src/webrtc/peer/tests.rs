//! Two connections on virtual time over a network of our own: delay and loss.

use std::collections::VecDeque;
use std::time::Duration;

use super::str0m::Str0m;
use super::*;
use crate::webrtc::candidate::{Admitted, admit};
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
    peers: [Str0m; 2],
    now: Instant,
    delay: Duration,
    /// Of 256 packets.
    loss: u8,
    seed: u64,
    /// Nothing passes in this one of the two networks.
    cut: Option<usize>,
    flying: VecDeque<Packet>,
    events: [Vec<Event>; 2],
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
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
        let now = Instant::now();
        let mut near = Str0m::new(Role::Caller, now).expect("made");
        let mut far = Str0m::new(Role::Answerer, now).expect("made");
        for text in NEAR {
            near.add_local(LocalCandidate::Host(address(text)), now);
        }
        for text in FAR {
            far.add_local(LocalCandidate::Host(address(text)), now);
        }
        let mut offer = near.offer();
        on_the_way(0, &mut offer);
        let mut answer = far.answer(&offer, now).expect("answered");
        on_the_way(1, &mut answer);
        near.accept(&answer, now).expect("accepted");
        for (to, from) in [(&mut near, &answer), (&mut far, &offer)] {
            for text in &from.candidates {
                if let Admitted::Use(candidate) = admit(text, IcePolicy::All) {
                    to.add_remote(&candidate, now);
                }
            }
        }
        let events = [const { Vec::new() }; 2];
        Self { peers: [near, far], now, delay, loss, seed, cut: None, flying: VecDeque::new(), events }
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
        let passes = network(local) == network(remote) && network(local) != self.cut;
        if passes && !self.lost() {
            let at = self.now + self.delay;
            self.flying.push_back(Packet { at, to: 1 - from, local: remote, remote: local, bytes });
        }
    }

    /// Advances to the next thing that happens; false where nothing will before `until`.
    fn step(&mut self, until: Instant) -> bool {
        self.exchange();
        let timers = self.peers.iter_mut().filter_map(Peer::poll_timeout).min();
        let next = [timers, self.flying.front().map(|p| p.at)].into_iter().flatten().min();
        let Some(next) = next.filter(|at| *at <= until) else {
            self.now = until;
            return false;
        };
        self.now = self.now.max(next);
        while self.flying.front().is_some_and(|p| p.at <= self.now) {
            let Some(packet) = self.flying.pop_front() else { break };
            self.peers[packet.to].handle_datagram(packet.local, packet.remote, &packet.bytes, self.now);
        }
        for peer in &mut self.peers {
            peer.handle_timeout(self.now);
        }
        true
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

#[test]
fn without_loss_the_channel_opens_within_a_handful_of_round_trips() {
    let mut net = Net::new(Duration::from_millis(50), 0, 1);
    let took = net.open().expect("open");
    // Checks 1, its nomination's 1, DTLS 2, of 100 ms each.
    assert!(took <= Duration::from_millis(500), "{took:?}");
    assert!(net.ping(Duration::from_secs(1)).is_some());
}

#[test]
fn a_peer_that_tells_nothing_of_its_association_makes_a_handshake() {
    // It neither reads of ours nor tells its own; or it copies what it does not know.
    for copies in [false, true] {
        let mut stock = Str0m::new(Role::Caller, Instant::now()).expect("made");
        stock.make_handshakes();
        assert_eq!(stock.offer().sctp_init, None);
        let seen = std::cell::RefCell::default();
        let mut net = Net::after(Duration::from_millis(50), 0, 1, |which, description| match which {
            0 => *seen.borrow_mut() = description.sctp_init.take(),
            _ => description.sctp_init = seen.take().filter(|_| copies),
        });
        let took = net.open().expect("open");
        // SCTP 2 more.
        assert!((Duration::from_millis(500)..=Duration::from_millis(700)).contains(&took), "{took:?}");
        assert!(net.ping(Duration::from_secs(1)).is_some());
    }
}

#[test]
fn an_association_that_makes_no_sense_ends_the_connection() {
    for init in [vec![], vec![1], vec![0xFF; 700]] {
        let mut net = Net::after(Duration::from_millis(5), 0, 1, |which, description| {
            if which == 1 {
                description.sctp_init = Some(init.clone());
            }
        });
        let ended = |events: &Vec<Event>| events.iter().any(|e| matches!(e, Event::Closed(Ended::Sctp(_))));
        assert!(net.run(Duration::from_secs(2), |net| ended(&net.events[0])).is_some(), "{init:?}");
        assert!(!net.events[0].contains(&Event::Open));
    }
}

#[test]
fn loss_costs_a_dial_fractions_of_a_second() {
    let mut took: Vec<Duration> =
        (0..60).map(|seed| Net::new(Duration::from_millis(10), 26, seed).open().expect("open")).collect();
    took.sort();
    println!("open at 10 % loss, 20 ms: median {:?}, worst {:?}", took[30], took[59]);
    assert!(took[30] < Duration::from_millis(500), "median {:?}", took[30]);
    assert!(took[59] < Duration::from_secs(3), "worst {:?}", took[59]);
}

#[test]
fn a_lost_message_is_repeated_within_half_a_second() {
    let mut net = Net::new(Duration::from_millis(5), 0, 1);
    net.open().expect("open");
    net.ping(Duration::from_secs(1)).expect("there");
    net.loss = 255;
    for peer in &mut net.peers {
        peer.write(&Bytes::from_static(b"lost")).expect("open");
    }
    net.exchange();
    net.loss = 0;
    let mut got = [false; 2];
    let took = net.run(Duration::from_secs(5), |net| {
        for (peer, got) in net.peers.iter_mut().zip(&mut got) {
            *got |= peer.read().is_some();
        }
        got.iter().all(|g| *g)
    });
    assert!(took.is_some_and(|t| t <= Duration::from_millis(500)), "{took:?}");
}

impl Net {
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

    /// Moves the caller to the other network.
    fn move_caller(&mut self) {
        let (pair, network) = self.selected(0);
        let other = self.peers[0]
            .pairs()
            .into_iter()
            .find(|p| (p.local.address, p.remote.address) == (address(NEAR[1 - network]), address(FAR[1 - network])));
        let now = self.now;
        self.peers[0].leave_pair(pair, other.expect("a pair there"), now);
    }
}

#[test]
fn both_directions_follow_a_caller_that_leaves_a_dead_pair() {
    let mut net = Net::new(Duration::from_millis(5), 0, 1);
    net.open().expect("open");
    net.ping(Duration::from_secs(1)).expect("there");
    let (_, dead) = net.selected(0);
    assert_eq!(net.selected(1).1, dead, "both on the same");
    net.cut = Some(dead);
    net.move_caller();
    let took = net.ping(Duration::from_secs(5)).expect("over the other network");
    // The caller's message takes 5 ms. The answerer's first went the old way and is repeated after its timeout.
    assert!(took <= Duration::from_millis(400), "{took:?}");
    assert_eq!([net.selected(0).1, net.selected(1).1], [1 - dead; 2]);
    let took = net.ping(Duration::from_secs(1)).expect("there");
    assert!(took <= Duration::from_millis(10), "{took:?}");
}

#[test]
fn what_is_late_on_the_old_pair_does_not_lead_back_there() {
    let mut net = Net::new(Duration::from_millis(5), 0, 1);
    net.open().expect("open");
    net.ping(Duration::from_secs(1)).expect("there");
    net.run(Duration::from_millis(100), |_| false);
    let (_, old) = net.selected(0);
    net.peers[0].write(&Bytes::from_static(b"late")).expect("open");
    net.exchange();
    let mut late = std::mem::take(&mut net.flying);
    assert!(!late.is_empty());
    net.move_caller();
    net.peers[0].write(&Bytes::from_static(b"newer")).expect("open");
    net.run(Duration::from_millis(50), |net| net.selected(1).1 != old).expect("follows");
    late.iter_mut().for_each(|packet| packet.at = net.now);
    net.flying.extend(late);
    let mut got = Vec::new();
    net.run(Duration::from_millis(100), |net| {
        got.extend(net.peers[1].read());
        got.len() == 2
    });
    assert_eq!(got, [Bytes::from_static(b"late"), Bytes::from_static(b"newer")]);
    assert_eq!(net.selected(1).1, 1 - old);
}

#[test]
fn somebody_else_at_the_peers_address_is_found_out() {
    let mut net = Net::new(Duration::from_millis(5), 0, 1);
    let now = net.now;
    // The description was changed on its way.
    let mut near = Str0m::new(Role::Caller, now).expect("made");
    near.add_local(LocalCandidate::Host(address(NEAR[0])), now);
    let offer = near.offer();
    let mut far = Str0m::new(Role::Answerer, now).expect("made");
    far.add_local(LocalCandidate::Host(address(FAR[0])), now);
    let mut answer = far.answer(&offer, now).expect("answered");
    answer.fingerprint[0] ^= 1;
    near.accept(&answer, now).expect("accepted");
    for (to, from) in [(&mut near, &answer), (&mut far, &offer)] {
        for text in &from.candidates {
            if let Admitted::Use(candidate) = admit(text, IcePolicy::All) {
                to.add_remote(&candidate, now);
            }
        }
    }
    net.peers = [near, far];
    let told = net.run(Duration::from_secs(5), |net| net.events[0].contains(&Event::Closed(Ended::Impostor)));
    assert!(told.is_some(), "{:?}", net.events);
    assert!(!net.events[0].contains(&Event::Secured) && !net.events[0].contains(&Event::Open));
}

#[test]
fn hostile_datagrams_neither_panic_nor_end_a_connection() {
    let mut net = Net::new(Duration::from_millis(1), 0, 1);
    net.open().expect("open");
    let (local, remote) = (address(NEAR[0]), address(FAR[0]));
    let mut seed = 7u64;
    for i in 0..20_000usize {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut bytes = vec![0; i % 1500];
        for (j, byte) in bytes.iter_mut().enumerate() {
            *byte = (seed >> (8 * (j % 7))) as u8;
        }
        if let Some(first) = bytes.first_mut() {
            *first = [0, 1, 20, 22, 23, 24, 63, 128][i % 8];
        }
        let from = if i % 2 == 0 { remote } else { address("192.0.2.66:66") };
        let now = net.now;
        net.peers[0].handle_datagram(local, from, &bytes, now);
    }
    assert!(net.ping(Duration::from_secs(2)).is_some());
}
