//! Any order of what can happen, and anything as packets.

use proptest::prelude::*;

use super::bounds::exchange;
use super::*;

/// One step of the model test below.
#[derive(Clone, Debug)]
enum Step {
    Open { reserved: bool },
    Send { call: prop::sample::Index, length: usize },
    End { call: prop::sample::Index },
    Forget { call: prop::sample::Index },
    Carry { packets: usize },
    Answer { call: prop::sample::Index, length: usize },
    Finish { call: prop::sample::Index },
}

fn any_step() -> impl Strategy<Value = Step> {
    let call = any::<prop::sample::Index>;
    prop_oneof![
        any::<bool>().prop_map(|reserved| Step::Open { reserved }),
        (call(), 0..200_000usize).prop_map(|(call, length)| Step::Send { call, length }),
        call().prop_map(|call| Step::End { call }),
        call().prop_map(|call| Step::Forget { call }),
        (1..20usize).prop_map(|packets| Step::Carry { packets }),
        (call(), 0..200_000usize).prop_map(|(call, length)| Step::Answer { call, length }),
        call().prop_map(|call| Step::Finish { call }),
    ]
}

/// What a stream was given and what came out at its other end.
#[derive(Default)]
struct Ledger {
    sent: BTreeMap<u64, Vec<usize>>,
    got: BTreeMap<u64, Vec<usize>>,
}

impl Ledger {
    fn drain(&mut self, id: u64, mut read: impl FnMut(u64) -> Read) -> Option<Read> {
        loop {
            match read(id) {
                Read::Message(message) => self.got.entry(id).or_default().push(message.len()),
                Read::Head(_) => {}
                Read::Pending => return None,
                end => return Some(end),
            }
        }
    }

    fn holds(&self) -> bool {
        self.got.iter().all(|(id, got)| self.sent.get(id).is_some_and(|sent| sent.starts_with(got)))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever the order of things: every call's messages arrive whole and in order, and what was neither reset nor refused ends
    /// as its handler said.
    #[test]
    fn calls_are_carried_whole_and_in_order(steps in prop::collection::vec(any_step(), 1..80)) {
        let (mut caller, mut callee, now) = (Caller::new(), callee(), Instant::now());
        let (mut live, mut ended, mut finished) = (vec![], BTreeSet::new(), BTreeSet::new());
        let (mut up, mut down) = (Ledger::default(), Ledger::default());
        for step in steps {
            let pick = |call: prop::sample::Index, live: &[u64]| if live.is_empty() { None } else { Some(*call.get(live)) };
            match step {
                Step::Open { reserved } => live.push(caller.open(UNKNOWN, &HeaderMap::new(), None, reserved, now).expect("short")),
                Step::Send { call, length } => if let Some(id) = pick(call, &live) && !ended.contains(&id) {
                    up.sent.entry(id).or_default().push(length);
                    caller.send(id, one(vec![0; length]));
                },
                Step::End { call } => if let Some(id) = pick(call, &live) {
                    ended.insert(id);
                    caller.end(id);
                },
                Step::Forget { call } => if let Some(id) = pick(call, &live) {
                    live.retain(|l| *l != id);
                    caller.forget(id);
                },
                Step::Carry { packets } => for _ in 0..packets {
                    if let Some(packet) = caller.poll_packet() {
                        prop_assert!(packet.len() <= crate::webrtc::channel::MAX_PACKET);
                        callee.handle_packet(&packet, now);
                    }
                    if let Some(packet) = callee.poll_packet() {
                        caller.handle_packet(&packet, now);
                    }
                },
                Step::Answer { call, length } => if let Some(id) = pick(call, &live) && callee.is_live(id) {
                    down.sent.entry(id).or_default().push(length);
                    callee.respond(id, &HeaderMap::new());
                    callee.send(id, one(vec![0; length]));
                },
                Step::Finish { call } => if let Some(id) = pick(call, &live) && callee.is_live(id) {
                    finished.insert(id);
                    callee.finish(id, &ok(), now);
                },
            }
            for id in live.clone() {
                up.drain(id, |id| callee.read(id));
                down.drain(id, |id| caller.read(id));
            }
            prop_assert!(up.holds() && down.holds());
        }
        exchange(&mut caller, &mut callee, now);
        for id in live {
            let end = down.drain(id, |id| caller.read(id));
            if finished.contains(&id) {
                prop_assert!(matches!(end, Some(Read::End(_))));
                prop_assert_eq!(down.got.get(&id), down.sent.get(&id));
            } else {
                prop_assert!(end.is_none());
                up.drain(id, |id| callee.read(id));
                prop_assert_eq!(up.got.get(&id), up.sent.get(&id));
            }
        }
    }
}

/// Frames that are right in form, and bytes that are not.
fn any_packet() -> impl Strategy<Value = Vec<u8>> {
    let id = 0..4u64;
    let data = || prop::collection::vec(any::<u8>(), 0..20);
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        (id.clone(), any::<bool>())
            .prop_map(|(id, unary)| stock_head(id, if unary { UNARY } else { UNKNOWN }).to_vec()),
        (id.clone(), data(), any::<bool>(), any::<bool>())
            .prop_map(|(id, d, l, e)| request::message(id, &d, l, e).to_vec()),
        id.clone().prop_map(|id| request::end(id).to_vec()),
        id.clone().prop_map(|id| request::reset(id).to_vec()),
        (id.clone(), any::<u64>()).prop_map(|(id, bytes)| request::window(id, bytes).to_vec()),
        id.clone().prop_map(|id| response::head(id, &HeaderMap::new(), None).expect("short").to_vec()),
        (id.clone(), data(), any::<bool>()).prop_map(|(id, d, l)| response::message(id, &d, l).to_vec()),
        id.prop_map(|id| response::trailers(id, &Trailers::default()).to_vec()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn hostile_packets_do_no_harm(packets in prop::collection::vec(any_packet(), 1..30)) {
        let (mut caller, mut callee, now) = (Caller::new(), callee(), Instant::now());
        (0..3).for_each(|_| { unary(&mut caller, UNARY, "ask", now); });
        for packet in packets {
            let packet = Bytes::from(packet);
            callee.handle_packet(&packet, now);
            caller.handle_packet(&packet, now);
            while let Some(event) = callee.poll_event() {
                if let Event::Readable(id) = event { callee.read(id); }
            }
            while let Some(event) = caller.poll_event() {
                if let Event::Readable(id) = event { caller.read(id); }
            }
        }
        // A call that nobody touched works as ever.
        callee.handle_packet(&stock_head(u64::MAX, UNARY), now);
        callee.handle_packet(&request::message(u64::MAX, b"a", true, true), now);
        prop_assert!(matches!(callee.read(u64::MAX), Read::Message(_)));
        while callee.poll_packet().is_some() {}
    }
}
