//! What loss and dead pairs cost: the default implementation's timers.

use super::super::str0m::Str0m;
use super::*;

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
    assert!(took[59] < Duration::from_secs(2), "worst {:?}", took[59]);
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

#[test]
fn a_fifth_of_the_packets_lost_holds_up_no_message_for_a_second() {
    let mut slowest = Duration::ZERO;
    let mut late = 0;
    for seed in 0..20 {
        let mut net = Net::new(Duration::from_millis(20), 0, seed);
        net.open().expect("open");
        net.loss = 51;
        // Each side sends a hundred messages a second; how old each is when it is read.
        let mut sent = [VecDeque::new(), VecDeque::new()];
        for _ in 0..1_000 {
            for (side, peer) in net.peers.iter_mut().enumerate() {
                peer.write(&Bytes::from_static(&[7; 150])).expect("open");
                sent[side].push_back(net.now);
            }
            net.run(Duration::from_millis(10), |net| {
                for (side, peer) in net.peers.iter_mut().enumerate() {
                    while peer.read().is_some() {
                        let age = net.now - sent[1 - side].pop_front().expect("no more than was sent");
                        slowest = slowest.max(age);
                        late += usize::from(age > Duration::from_millis(600));
                    }
                }
                false
            });
        }
    }
    println!("20 % loss at 40 ms, 40,000 messages: {late} later than 600 ms, the slowest {slowest:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}, {late} late");
}

impl Net {
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
    // The caller's message takes 5 ms. The answerer's first went the old way, and is sent again as soon as it follows.
    assert!(took <= Duration::from_millis(20), "{took:?}");
    assert_eq!([net.selected(0).1, net.selected(1).1], [1 - dead; 2]);
    let took = net.ping(Duration::from_secs(1)).expect("there");
    assert!(took <= Duration::from_millis(10), "{took:?}");
}

#[test]
fn what_was_lost_on_the_old_pair_is_sent_again_at_once() {
    let mut net = Net::new(Duration::from_millis(5), 0, 1);
    net.open().expect("open");
    net.ping(Duration::from_secs(1)).expect("there");
    net.cut = Some(net.selected(0).1);
    net.peers[0].write(&Bytes::from_static(b"lost")).expect("open");
    // By now the timer of retransmissions fires once in 2 s.
    net.run(Duration::from_secs(4), |_| false);
    net.move_caller();
    let took = net.run(Duration::from_secs(5), |net| net.peers[1].read().is_some());
    assert!(took.is_some_and(|took| took <= Duration::from_millis(10)), "{took:?}");
}

/// The answerer learns of the move from the first of several packets: an acknowledgement of it waits for the next ones, and is due before what was lost.
#[test]
fn an_acknowledgement_that_waits_does_not_hold_up_what_was_lost() {
    let mut net = Net::new(Duration::from_millis(5), 0, 1);
    net.open().expect("open");
    // The first packets of an association are acknowledged at once.
    for _ in 0..20 {
        net.ping(Duration::from_secs(1)).expect("there");
    }
    net.cut = Some(net.selected(0).1);
    net.peers[1].write(&Bytes::from_static(b"lost")).expect("open");
    net.run(Duration::from_secs(4), |_| false);
    net.move_caller();
    net.peers[0].write(&Bytes::from(vec![7; 5_000])).expect("open");
    let took = net.run(Duration::from_secs(5), |net| net.peers[0].read().is_some());
    assert!(took.is_some_and(|took| took <= Duration::from_millis(20)), "{took:?}");
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
