//! What every implementation must do, alone and facing another one. `ARCHITECTURE.md` lists what one of them does not.

use super::*;
use crate::webrtc::sdp::Setup;

/// Every implementation with itself and with every other one: caller, answerer.
pub(super) fn pairs() -> Vec<[Backend; 2]> {
    let all = [
        Backend::Str0m,
        #[cfg(feature = "webrtc-rs")]
        Backend::WebrtcRs,
    ];
    all.into_iter().flat_map(|caller| all.map(|answerer| [caller, answerer])).collect()
}

const RTT: Duration = Duration::from_millis(10);

pub(super) fn open(backends: [Backend; 2]) -> Net {
    let mut net = Net::of(backends, |_, _| {}).with(RTT / 2, 0, 1);
    let took = net.open();
    println!("{backends:?}: open after {took:?}");
    assert!(took.is_some(), "{backends:?}: not open: {:?}", net.events);
    net
}

/// Everything that comes to a side until it is `count` messages.
fn receive(net: &mut Net, side: usize, count: usize, most: Duration) -> Vec<Bytes> {
    let mut got = Vec::new();
    net.run(most, |net| {
        got.extend(std::iter::from_fn(|| net.peers[side].read()));
        got.len() >= count
    });
    got
}

/// A negotiated channel has no handshake of its own: what is sent the moment it opens here may be there before it opens there.
#[test]
fn the_first_messages_arrive() {
    for backends in pairs() {
        for side in [0, 1] {
            let mut net = Net::of(backends, |_, _| {}).with(RTT / 2, 0, 1);
            let opened = net.run(Duration::from_secs(10), |net| net.events[side].contains(&Event::Open));
            assert!(opened.is_some(), "{backends:?}: {:?}", net.events);
            let sent: Vec<Bytes> = (0..3u8).map(|i| Bytes::copy_from_slice(&[i; 9])).collect();
            sent.iter().for_each(|message| net.peers[side].write(message).expect("open"));
            let got = receive(&mut net, 1 - side, sent.len(), Duration::from_secs(5));
            assert_eq!(got, sent, "{backends:?}, from {side}");
        }
    }
}

#[test]
fn messages_of_every_size_arrive_in_order_both_ways() {
    let sizes = [1, 2, 1000, 1200, 5000, 16 << 10, 32 << 10, 64 << 10];
    for backends in pairs() {
        let mut net = open(backends);
        for side in [0, 1] {
            let sent: Vec<Bytes> = sizes.iter().map(|size| Bytes::from(vec![*size as u8 ^ 5; *size])).collect();
            let sent = &sent[..sizes.iter().filter(|s| **s <= net.peers[side].max_message()).count()];
            sent.iter().for_each(|message| net.peers[side].write(message).expect("open"));
            let got = receive(&mut net, 1 - side, sent.len(), Duration::from_secs(20));
            assert!(got == sent, "{backends:?}, from {side}: {:?}", got.iter().map(Bytes::len).collect::<Vec<_>>());
            let acknowledged = net.run(Duration::from_secs(1), |net| net.peers[side].unacknowledged() == 0);
            assert!(acknowledged.is_some(), "{backends:?}");
        }
    }
}

#[test]
fn a_longer_message_than_the_peer_reads_is_refused_here() {
    for backends in pairs() {
        let mut net = open(backends);
        let long = Bytes::from(vec![0; net.peers[0].max_message() + 1]);
        assert_eq!(net.peers[0].write(&long), Err(PeerError::TooLong(long.len())), "{backends:?}");
        assert!(net.ping(Duration::from_secs(1)).is_some(), "{backends:?}");
    }
}

#[test]
fn texts_cross_on_the_negotiation_channel() {
    for backends in pairs() {
        let mut net = open(backends);
        for side in [0, 1] {
            net.peers[side].negotiate("a description").expect("open");
            let told = Event::Negotiation("a description".into());
            let came = net.run(Duration::from_secs(1), |net| net.events[1 - side].contains(&told));
            assert!(came.is_some(), "{backends:?}, from {side}");
        }
    }
}

#[test]
fn ends_that_have_nothing_but_ipv6_meet() {
    for backends in pairs() {
        let mut net = Net::between(backends, [&["[fd00::1]:1000"], &["[fd00::2]:2000"]], |_, _| {});
        assert!(net.open().is_some(), "{backends:?}");
        assert!(net.ping(Duration::from_secs(1)).is_some(), "{backends:?}");
        assert!(net.peers[0].pairs().iter().all(|pair| pair.remote.address.is_ipv6()), "{backends:?}");
    }
}

/// Small peers answer nothing but passive, and an offer may settle it for both.
#[test]
fn either_side_opens_where_the_offer_says_so() {
    for backends in pairs() {
        for (offered, answered) in [(Setup::Active, Setup::Passive), (Setup::Passive, Setup::Active)] {
            if offered == Setup::Active && backends[1] != Backend::Str0m {
                continue;
            }
            let mut net = Net::of(backends, |which, description| match which {
                0 => description.setup = offered,
                _ => assert_eq!(description.setup, answered, "{backends:?}"),
            });
            assert!(net.open().is_some(), "{backends:?}, {offered:?}");
            assert!(net.ping(Duration::from_secs(1)).is_some(), "{backends:?}, {offered:?}");
        }
    }
}

/// A peer may offer as often as it likes, and acknowledge none of the answers.
#[test]
fn what_nobody_acknowledges_on_the_negotiation_channel_is_bounded() {
    for backends in pairs() {
        let mut net = open(backends);
        net.cut = Some(0);
        let text = "d".repeat(1 << 10);
        let said = (0..1_000).take_while(|_| net.peers[1].negotiate(&text).is_ok()).count();
        assert!((16..=MAX_NEGOTIATION / text.len()).contains(&said), "{backends:?}: {said}");
        assert!(net.peers[1].unacknowledged() <= MAX_NEGOTIATION, "{backends:?}");
        net.cut = None;
        let room = net.run(Duration::from_secs(10), |net| net.peers[1].negotiate("d").is_ok());
        assert!(room.is_some(), "{backends:?}: what is acknowledged makes room");
    }
}

#[test]
fn a_reader_that_does_not_read_holds_the_writer_back() {
    for backends in pairs() {
        let mut net = open(backends);
        let message = Bytes::from(vec![7; 8 << 10]);
        let count = 1024;
        for _ in 0..count {
            net.peers[0].write(&message).expect("open");
        }
        net.run(Duration::from_secs(20), |_| false);
        let held = net.peers[0].unacknowledged();
        assert!(held > 4 << 20, "{backends:?}: {held} bytes are still here, of 8 MiB");
        let got = receive(&mut net, 1, count, Duration::from_secs(120));
        assert_eq!(got.len(), count, "{backends:?}");
    }
}

/// By either side; the connection goes on meanwhile and after.
#[test]
fn ice_restarts_in_mid_session() {
    for backends in pairs() {
        for side in [0, 1] {
            let mut net = open(backends);
            net.ping(Duration::from_secs(1)).expect("there");
            let offer = net.peers[side].restart().expect("restarted");
            let now = net.now;
            let answer = net.peers[1 - side].answer(&offer, now).expect("answered");
            net.peers[side].accept(&answer, now).expect("accepted");
            net.candidates(1 - side, &offer);
            net.candidates(side, &answer);
            let took = net.ping(Duration::from_secs(5));
            println!("{backends:?}, restarted by {side}: {took:?}");
            assert!(took.is_some(), "{backends:?}, restarted by {side}: {:?}", net.events);
        }
    }
}

#[test]
fn an_end_in_order_is_told() {
    for backends in pairs() {
        for side in [0, 1] {
            let mut net = open(backends);
            let now = net.now;
            net.peers[side].close(now);
            let told = net.run(Duration::from_secs(2), |net| {
                net.events[1 - side].iter().any(|event| matches!(event, Event::Closed(_)))
            });
            assert!(told.is_some(), "{backends:?}, closed by {side}: {:?}", net.events);
        }
    }
}

#[test]
fn somebody_else_at_the_peers_address_is_found_out() {
    for backends in pairs() {
        // The description was changed on its way: each side in turn meets somebody whose certificate is another.
        for fooled in [0, 1] {
            let mut net = Net::of(backends, |which, description| {
                if which != fooled {
                    description.fingerprint[0] ^= 1;
                }
            });
            let told =
                net.run(Duration::from_secs(5), |net| net.events[fooled].contains(&Event::Closed(Ended::Impostor)));
            assert!(told.is_some(), "{backends:?}, {fooled}: {:?}", net.events);
            assert!(!net.events[fooled].contains(&Event::Secured) && !net.events[fooled].contains(&Event::Open));
            assert_eq!(net.peers[fooled].write(&Bytes::from_static(b"a secret")), Err(PeerError::Closed));
        }
    }
}

#[test]
fn hostile_datagrams_neither_panic_nor_end_a_connection() {
    for backends in pairs() {
        let mut net = open(backends);
        let ends = [(address(NEAR[0]), address(FAR[0])), (address(FAR[0]), address(NEAR[0]))];
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
            let (side, now) = (i / 2 % 2, net.now);
            let (local, remote) = ends[side];
            let from = if i % 2 == 0 { remote } else { address("192.0.2.66:66") };
            net.peers[side].handle_datagram(local, from, &bytes, now);
        }
        assert!(net.ping(Duration::from_secs(2)).is_some(), "{backends:?}: {:?}", net.events);
    }
}

#[test]
fn what_does_not_fit_where_the_connection_stands_is_refused() {
    for backends in pairs() {
        let mut net = open(backends);
        let now = net.now;
        let other = Backend::Str0m.make(Role::Caller, true, now).expect("made").offer();
        assert!(net.peers[1].answer(&other, now).is_err(), "{backends:?}: another certificate");
        assert!(net.peers[0].accept(&other, now).is_err(), "{backends:?}: an offer is no answer");
        assert!(net.ping(Duration::from_secs(1)).is_some(), "{backends:?}");
    }
}

/// The reproducers of what the other one does not do; `ARCHITECTURE.md` lists them. Should one fail, the list is shorter.
#[cfg(feature = "webrtc-rs")]
mod webrtc_rs {
    use super::*;

    #[test]
    fn an_offer_that_opens_by_itself_is_answered_as_if_it_did_not() {
        for caller in [Backend::Str0m, Backend::WebrtcRs] {
            Net::of([caller, Backend::WebrtcRs], |which, description| match which {
                0 => description.setup = Setup::Active,
                _ => assert_eq!(std::mem::replace(&mut description.setup, Setup::Passive), Setup::Active),
            });
        }
    }

    /// Of this many dials over a round trip of 20 ms where a tenth of all packets is lost, how many opened.
    fn dials_under_loss(backends: [Backend; 2], dials: u64) -> usize {
        let dial = |seed| Net::of(backends, |_, _| {}).with(RTT, 26, seed).open();
        let mut took: Vec<Duration> = (0..dials).filter_map(dial).collect();
        took.sort();
        let (median, worst) = (took.get(took.len() / 2), took.last());
        println!("{backends:?}: {} of {dials} open, median {median:?}, worst {worst:?}", took.len());
        took.len()
    }

    /// Its DTLS client repeats a flight one second after the last datagram, whatever that was. A server that repeats oftener holds it
    /// back for ever, and its own server repeats once a second, which is a draw. (That loss ends no dial of the other one's, `timing` shows.)
    #[test]
    fn a_lost_flight_may_end_a_dial() {
        let others = pairs().into_iter().filter(|backends| backends.contains(&Backend::WebrtcRs));
        for backends in others {
            let opened = dials_under_loss(backends, 120);
            assert!((60..120).contains(&opened), "{backends:?}: {opened}");
        }
    }

    /// Its ICE agent keeps what it chose.
    #[test]
    fn a_dead_pair_cannot_be_left() {
        let mut net = open([Backend::WebrtcRs; 2]);
        net.ping(Duration::from_secs(1)).expect("there");
        let (pair, network) = net.selected(0);
        net.cut = Some(network);
        let other = net.peers[0].pairs().into_iter().find(|p| p.local.address == address(NEAR[1 - network]));
        let now = net.now;
        net.peers[0].leave_pair(pair, other.expect("a pair there"), now);
        assert_eq!(net.ping(Duration::from_secs(5)), None);
        assert_eq!(net.selected(0).0, pair);
    }

    /// Its SCTP repeats after a second at the least.
    #[test]
    fn a_lost_message_costs_a_second() {
        let mut net = open([Backend::WebrtcRs; 2]);
        net.ping(Duration::from_secs(1)).expect("there");
        net.loss = 255;
        net.peers[0].write(&Bytes::from_static(b"lost")).expect("open");
        net.exchange();
        net.loss = 0;
        let from = net.now;
        assert_eq!(receive(&mut net, 1, 1, Duration::from_secs(10)).len(), 1);
        assert!(net.now - from >= Duration::from_millis(990), "{:?}", net.now - from);
    }
}
