//! Candidates that the ends tell each other when the channel is open already.

use super::suite::{open, pairs};
use super::*;
use crate::webrtc::trickle::Told;

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
