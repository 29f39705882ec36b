//! Candidates that the ends tell each other when the channel is open already, and what they are good for: a way out.

use is::stun::TransId;

use super::suite::{open, pairs};
use super::*;
use crate::webrtc::checks::Ends;
use crate::webrtc::moves::{Decision, Moves};
use crate::webrtc::trickle::Told;

const MS: Duration = Duration::from_millis(1);
/// How often a driver checks the pair in use while a session is held.
const EVERY: Duration = Duration::from_millis(250);
/// When a dialer gives a link up that falls silent, and orders a move.
const GIVEN_UP: Duration = Duration::from_millis(300);

/// What a driver does for one end.
struct Path {
    moves: Moves,
    next: Instant,
    /// Whether it helps a peer that moves.
    helps: bool,
}

/// Two ends with what drives them.
struct Driven {
    net: Net,
    paths: [Path; 2],
}

impl Driven {
    /// Open in network 0; in network 1 there are translators.
    fn new() -> Self {
        let mut net = Net::new(20 * MS, 0, 1);
        net.translators = Some(Translators::default());
        net.open().expect("open");
        net.ping(Duration::from_secs(1)).expect("there");
        let path = |helps| Path { moves: Moves::default(), next: net.now, helps };
        let paths = [path(false), path(true)];
        Self { net, paths }
    }

    /// Both ends learn what their translators show of them, and tell each other.
    fn tell(&mut self) {
        for side in [0, 1] {
            tell(&mut self.net, side);
        }
        hear(&mut self.net);
    }

    fn ends(&self, side: usize) -> Ends {
        let (pair, _) = self.net.selected(side);
        (pair.local.address, pair.remote.address)
    }

    fn check(&mut self, side: usize, (local, remote): Ends) {
        let (now, who) = (self.net.now, self.net.peers[side].credentials().expect("known"));
        let check = self.net.checks[side].request((local, remote), &who, TransId::new(), now).expect("built");
        self.net.send(side, local, remote, check);
    }

    /// What a driver does when it wakes.
    fn drive(&mut self, side: usize) {
        let (now, selected) = (self.net.now, self.ends(side));
        let pairs = self.net.peers[side].pairs();
        for answered in std::mem::take(&mut self.net.answered[side]) {
            let pair = pairs.iter().find(|p| (p.local.address, p.remote.address) == answered.ends);
            if let Some(pair) = pair.filter(|_| answered.ends != selected) {
                self.paths[side].moves.handle_answered(answered.ends, pair.is_relayed(), now);
            }
        }
        if self.paths[side].next <= now {
            self.paths[side].next = now + EVERY;
            self.check(side, selected);
        }
        let answered = self.net.checks[side].health(selected).answered;
        if let Some(Decision::Leave(ends)) = self.paths[side].moves.decide(answered, now) {
            let other = pairs.iter().find(|p| (p.local.address, p.remote.address) == ends).expect("a pair");
            let pair = self.net.selected(side).0;
            self.net.peers[side].leave_pair(pair, *other, now);
        }
        let silent = self.net.checks[side].silent_since(selected).filter(|_| self.paths[side].helps);
        if self.paths[side].moves.sweeps(silent, now) {
            pairs.iter().for_each(|p| self.check(side, (p.local.address, p.remote.address)));
        }
    }

    /// Lets so much time pass.
    fn pass(&mut self, most: Duration, mut done: impl FnMut(&mut Net) -> bool) -> Option<Duration> {
        let started = self.net.now;
        while self.net.now < started + most {
            [0, 1].into_iter().for_each(|side| self.drive(side));
            if self.net.run(5 * MS, &mut done).is_some() {
                return Some(self.net.now - started);
            }
        }
        None
    }

    /// The cable dies with messages on it, and the caller's dialer notices.
    fn cut(&mut self) {
        self.net.cut = Some(0);
        for peer in &mut self.net.peers {
            peer.write(&Bytes::from_static(b"in between")).expect("open");
        }
        self.pass(GIVEN_UP, |_| false);
        self.paths[0].moves.order(self.net.now);
    }

    /// The same; how long until messages pass each way again.
    fn cut_and_move(&mut self) -> Option<Duration> {
        let cut = self.net.now;
        self.cut();
        let mut got = [false; 2];
        self.pass(Duration::from_secs(5), move |net| {
            for (peer, got) in net.peers.iter_mut().zip(&mut got) {
                *got |= peer.read().is_some();
            }
            got.iter().all(|g| *g)
        })?;
        Some(self.net.now - cut)
    }
}

/// An end learns what its translator shows of it.
fn tell(net: &mut Net, side: usize) {
    let candidate =
        LocalCandidate::ServerReflexive { mapped: address(OUTSIDE[side]), base: address([NEAR, FAR][side][1]) };
    let now = net.now;
    let text = net.peers[side].add_local(candidate, now).expect("new");
    let told = Told::new(text, net.peers[side].local_ufrag());
    net.peers[side].negotiate(&told.encode()).expect("open");
}

/// Both ends take what they were told.
fn hear(net: &mut Net) {
    let candidate = |events: &[Event]| {
        events.iter().find_map(|event| match event {
            Event::Negotiation(text) => Told::decode(text),
            _ => None,
        })
    };
    let told = net.run(Duration::from_secs(1), |net| net.events.iter().all(|events| candidate(events).is_some()));
    assert!(told.is_some(), "{:?}", net.events);
    for side in [0, 1] {
        let told = candidate(&net.events[side]).expect("told");
        assert_eq!(Some(told.ufrag), net.peers[side].credentials().map(|who| who.remote_ufrag));
        let Admitted::Use(candidate) = admit(&told.candidate, IcePolicy::All) else { panic!("{}", told.candidate) };
        let now = net.now;
        net.peers[side].add_remote(&candidate, now);
    }
}

#[test]
fn a_candidate_told_late_crosses_and_harms_nobody() {
    for backends in pairs() {
        let mut net = open(backends);
        [0, 1].into_iter().for_each(|side| tell(&mut net, side));
        hear(&mut net);
        let known = |net: &Net, side: usize| {
            let pairs = net.peers[side].pairs();
            pairs.iter().any(|p| p.remote.address == address(OUTSIDE[1 - side]))
        };
        assert!(known(&net, 0) && known(&net, 1), "{backends:?}");
        // Nothing answers there; the pair in use stays.
        let selected = [0, 1].map(|side| net.selected(side).0);
        net.run(Duration::from_secs(30), |_| false);
        assert!(net.ping(Duration::from_secs(1)).is_some(), "{backends:?}: {:?}", net.events);
        assert_eq!([0, 1].map(|side| net.selected(side).0), selected, "{backends:?}");
    }
}

#[test]
fn an_end_of_ours_is_known_by_its_description() {
    let known = |net: &Net| [0, 1].map(|side| net.peers[side].is_ours());
    assert_eq!(known(&Net::of([Backend::Str0m; 2], |_, _| {})), [true; 2]);
    for silent in [0, 1] {
        let net = Net::of([Backend::Str0m; 2], |which, description| {
            if which == silent {
                description.sctp_init = None;
            }
        });
        assert!(!net.peers[1 - silent].is_ours(), "{silent} tells nothing of itself");
    }
    let echoed = std::cell::RefCell::default();
    let net = Net::of([Backend::Str0m; 2], |which, description| match which {
        0 => *echoed.borrow_mut() = description.sctp_init.clone(),
        _ => description.sctp_init = echoed.take(),
    });
    assert!(!net.peers[0].is_ours(), "it repeats what it does not know");
}

#[test]
fn a_link_moves_through_translators_to_what_it_was_told_late() {
    let mut driven = Driven::new();
    driven.tell();
    driven.pass(Duration::from_secs(2), |_| false);
    assert_eq!([driven.net.selected(0).1, driven.net.selected(1).1], [0; 2], "the cable is better");
    let took = driven.cut_and_move().expect("moved");
    println!("moved through translators within {took:?}");
    // 300 ms until it is given up, a check's round trip of 40, 20 of grace, and the way there and back.
    assert!(took <= 450 * MS, "{took:?}");
    assert_eq!([driven.net.selected(0).1, driven.net.selected(1).1], [1; 2]);
}

#[test]
fn a_link_that_was_told_nothing_has_nowhere_to_move() {
    let mut driven = Driven::new();
    driven.pass(Duration::from_secs(2), |_| false);
    assert_eq!(driven.cut_and_move(), None);
}

/// The way through the translators worked neither when it was told nor for a minute after: ICE has given it up, and the translators have forgotten.
#[test]
fn both_ends_open_a_way_that_ice_has_given_up() {
    for helps in [true, false] {
        let mut driven = Driven::new();
        driven.paths[1].helps = helps;
        driven.net.cut = Some(1);
        driven.tell();
        driven.pass(Duration::from_secs(60), |_| false);
        let took = driven.cut_and_move();
        println!("the other side helps: {helps}, moved within {took:?}");
        match took {
            Some(took) => assert!(helps && took <= Duration::from_secs(1), "{took:?}, {helps}"),
            None => assert!(!helps, "the caller alone gets no check through"),
        }
    }
}

#[test]
fn checks_that_are_lost_delay_a_move_and_do_not_end_it() {
    let mut slowest = Duration::ZERO;
    for seed in 0..20 {
        let mut driven = Driven::new();
        driven.tell();
        driven.pass(Duration::from_secs(2), |_| false);
        (driven.net.loss, driven.net.seed) = (51, seed);
        driven.cut();
        let moved = |net: &mut Net| [0, 1].into_iter().all(|side| net.selected(side).1 == 1);
        slowest = slowest.max(driven.pass(Duration::from_secs(5), moved).expect("moved"));
    }
    println!("a fifth of all packets lost: the slowest of 20 moves took {slowest:?}");
    assert!(slowest <= Duration::from_secs(1), "{slowest:?}");
}
