use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use machine_api::google::rpc;
use proptest::prelude::*;
use tonic::Code;

use super::*;
use crate::webrtc::frame::{Piece, Request, Response, read_request, read_response, request, response};

const UNARY: &str = "/viam.component.base.v1.BaseService/IsMoving";
const STOP: &str = "/viam.component.base.v1.BaseService/Stop";
const UNKNOWN: &str = "/a.B/C";

fn one(data: impl Into<Bytes>) -> VecDeque<Piece> {
    VecDeque::from([Piece { data: data.into(), last: true }])
}

fn open(caller: &mut Caller, method: &str, reserved: bool, now: Instant) -> u64 {
    caller.open(method, &HeaderMap::new(), None, reserved, now).expect("sendable")
}

fn unary(caller: &mut Caller, method: &str, data: impl Into<Bytes>, now: Instant) -> u64 {
    let id = open(caller, method, is_reserved(method), now);
    caller.send(id, one(data));
    caller.end(id);
    id
}

fn ok() -> Trailers {
    Trailers::default()
}

fn callee() -> Callee {
    Callee::new(Limits::default(), single_request)
}

/// A client's head as a stock client sends it.
fn stock_head(id: u64, method: &str) -> Bytes {
    request::head(id, method, &HeaderMap::new(), None, None).expect("short")
}

fn opened(callee: &mut Callee) -> Vec<Opened> {
    let mut all = vec![];
    while let Some(event) = callee.poll_event() {
        if let Event::Opened(opened) = event {
            all.push(opened);
        }
    }
    all
}

/// The statuses of all trailers that wait, by stream.
fn ends(callee: &mut Callee) -> BTreeMap<u64, rpc::Status> {
    let mut ends = BTreeMap::new();
    while let Some(packet) = callee.poll_packet() {
        let frame = read_response(&packet).expect("well-formed");
        if let Some(Response::Trailers(trailers)) = frame.what {
            ends.insert(frame.stream, trailers.status);
        }
    }
    ends
}

fn parts(packet: &Bytes) -> (u64, &'static str, usize) {
    let frame = read_request(packet).expect("well-formed");
    match frame.what {
        Some(Request::Head { .. }) => (frame.stream, "head", 0),
        Some(Request::Message { packet, .. }) => (frame.stream, "message", packet.map_or(0, |p| p.data.len())),
        Some(Request::Reset) => (frame.stream, "reset", 0),
        None => (frame.stream, "window", 0),
    }
}

#[test]
fn packets_are_large_alone_and_small_as_soon_as_another_call_waits() {
    let (mut caller, now) = (Caller::new(), Instant::now());
    let first = unary(&mut caller, UNARY, vec![0; 300_000], now);
    let sent = |caller: &mut Caller| parts(&caller.poll_packet().expect("something waits"));
    assert_eq!(sent(&mut caller), (first, "head", 0));
    assert_eq!(sent(&mut caller), (first, "message", ALONE));
    let second = unary(&mut caller, UNARY, vec![0; 100_000], now);
    assert_eq!(sent(&mut caller), (first, "message", SHARED));
    assert_eq!(sent(&mut caller), (second, "head", 0), "a head and what follows it are one turn");
    assert_eq!(sent(&mut caller), (second, "message", SHARED));
    assert_eq!(sent(&mut caller), (first, "message", SHARED));
    let stop = unary(&mut caller, STOP, vec![1], now);
    assert_eq!(sent(&mut caller), (stop, "head", 0), "right of way");
    assert_eq!(sent(&mut caller), (stop, "message", 1));
    assert_eq!(sent(&mut caller), (second, "message", SHARED));
    caller.forget(first);
    assert_eq!(sent(&mut caller), (first, "reset", 0), "a reset waits for nothing");
    assert_eq!(sent(&mut caller), (second, "message", ALONE));
    assert_eq!(sent(&mut caller), (second, "message", 100_000 - 2 * SHARED - ALONE));
    assert!(!caller.has_packet() && caller.poll_packet().is_none());
}

#[test]
fn a_unary_call_ends_with_its_message_and_its_answer_with_its_trailers() {
    let (mut caller, mut callee, now) = (Caller::new(), callee(), Instant::now());
    let id = unary(&mut caller, UNARY, "ask", now);
    assert!(!caller.is_written(id));
    let (head, message) = (caller.poll_packet().expect("head"), caller.poll_packet().expect("message"));
    assert_eq!(message, request::message(id, b"ask", true, true));
    assert!(caller.is_written(id) && caller.poll_packet().is_none());
    callee.handle_packet(&head, now);
    assert!(matches!(callee.read(id), Read::Pending));
    callee.handle_packet(&message, now);
    assert_eq!(opened(&mut callee)[0].method, UNARY);
    assert!(matches!(callee.read(id), Read::Message(m) if m.to_bytes() == "ask"));
    assert!(matches!(callee.read(id), Read::End(_)));
    callee.respond(id, &HeaderMap::new());
    callee.send(id, one("answer"));
    callee.finish(id, &ok(), now);
    while let Some(packet) = callee.poll_packet() {
        caller.handle_packet(&packet, now);
    }
    assert!(matches!(caller.read(id), Read::Head(_)));
    assert!(matches!(caller.read(id), Read::Message(m) if m.to_bytes() == "answer"));
    assert!(matches!(caller.read(id), Read::End(t) if t == ok()));
    caller.forget(id);
    assert!(!caller.has_packet(), "no reset after the end");
    assert!(matches!(callee.read(id), Read::Failed(_)), "the stream is forgotten");
}

#[test]
fn every_clients_way_of_ending_a_request_is_understood() {
    let now = Instant::now();
    let (part, rest) = (request::message(0, b"a", false, true), request::message(0, b"b", true, true));
    let go_unary = vec![part, rest];
    let rust = vec![request::message(0, b"ab", true, false), Bytes::from_static(&[0x0a, 0, 0x1a, 2, 0x18, 1])];
    let empty = request::message(0, b"", false, false);
    let typescript =
        vec![empty.clone(), request::message(0, b"a", false, false), empty, request::message(0, b"b", true, false)];
    let closed =
        vec![request::message(0, b"ab", true, false), request::end(0), request::message(0, b"late", true, true)];
    for (frames, method) in [
        (go_unary.clone(), UNARY),
        (go_unary, UNKNOWN),
        (rust.clone(), UNARY),
        (rust, UNKNOWN),
        // Never says that its message was the last.
        (typescript, UNARY),
        (closed, UNKNOWN),
    ] {
        let mut callee = callee();
        callee.handle_packet(&stock_head(0, method), now);
        for frame in &frames {
            callee.handle_packet(frame, now);
        }
        assert_eq!(opened(&mut callee)[0].id, 0);
        assert!(matches!(callee.read(0), Read::Message(m) if m.to_bytes() == "ab"), "{frames:x?}");
        assert!(matches!(callee.read(0), Read::End(_)), "{frames:x?}");
    }
}

#[test]
fn out_of_order_frames_are_dropped_or_refused() {
    let (mut callee, now) = (callee(), Instant::now());
    for frame in [request::message(1, b"a", true, true), request::reset(1), request::end(1), request::window(1, 9)] {
        callee.handle_packet(&frame, now);
    }
    assert!(!callee.has_packet() && callee.poll_event().is_none(), "no stream, no answer");
    callee.handle_packet(&stock_head(1, UNARY), now);
    callee.handle_packet(&stock_head(1, UNARY), now);
    assert_eq!(opened(&mut callee).len(), 1);
    let status = ends(&mut callee).remove(&1).expect("ended");
    assert_eq!((status.code, &*status.message), (Code::InvalidArgument as i32, "headers already received"));
    callee.handle_packet(&stock_head(1, UNARY), now);
    assert_eq!(opened(&mut callee).len(), 1, "the id is free again");
    callee.handle_packet(&request::reset(1), now);
    assert!(matches!(callee.poll_event(), Some(Event::Aborted(1))));
    let status = ends(&mut callee).remove(&1).expect("ended");
    assert_eq!((status.code, &*status.message), (Code::Cancelled as i32, "request cancelled"));
    // A head whose metadata is no text is answered, whoever it belongs to.
    let mut spoilt = stock_head(2, UNARY).to_vec();
    let at = spoilt.len() - 1;
    spoilt[at] = 0xff;
    callee.handle_packet(&spoilt.into(), now);
    assert_eq!(ends(&mut callee)[&2].code, Code::InvalidArgument as i32);
}

#[test]
fn a_client_refuses_answers_out_of_order_and_tells_the_machine() {
    let now = Instant::now();
    let head = response::head(1, &HeaderMap::new(), None).expect("short");
    let message = response::message(1, b"a", true);
    let cut_off = [head.clone(), response::message(1, b"a", false), response::trailers(1, &ok())];
    let mut malformed = response::message(1, b"aaaa", true).to_vec();
    malformed.truncate(12);
    for (frames, reset) in [
        (vec![message], true),
        (vec![head.clone(), head], true),
        (cut_off.to_vec(), false),
        (vec![malformed.into()], true),
    ] {
        let mut caller = Caller::new();
        let id = unary(&mut caller, UNARY, "ask", now);
        while caller.poll_packet().is_some() {}
        frames.iter().for_each(|frame| caller.handle_packet(frame, now));
        if let Read::Head(_) = caller.read(id) {}
        assert!(matches!(caller.read(id), Read::Failed(s) if s.code() == Code::Internal), "{frames:x?}");
        assert_eq!(caller.poll_packet(), reset.then(|| request::reset(id)), "{frames:x?}");
    }
    let mut caller = Caller::new();
    let id = unary(&mut caller, UNARY, "ask", now);
    caller.handle_packet(&response::trailers(id, &ok()), now);
    assert!(matches!(caller.read(id), Read::End(_)), "trailers without a head are an end");
    caller.handle_packet(&response::message(77, b"a", true), now);
    caller.handle_packet(&response::trailers(id, &ok()), now);
}

#[test]
fn deadlines_end_calls_on_both_sides() {
    let (mut caller, mut callee, now) = (Caller::new(), callee(), Instant::now());
    let second = Duration::from_secs(1);
    let id = caller.open(UNARY, &HeaderMap::new(), Some(second), false, now).expect("sendable");
    caller.send(id, one("ask"));
    caller.end(id);
    while let Some(packet) = caller.poll_packet() {
        callee.handle_packet(&packet, now);
    }
    assert_eq!(opened(&mut callee)[0].timeout, Some(second));
    assert_eq!(caller.poll_timeout(), Some(now + second));
    caller.handle_timeout(now + second / 2);
    assert!(matches!(caller.read(id), Read::Pending), "early is harmless");
    caller.handle_timeout(now + second);
    assert!(matches!(caller.read(id), Read::Failed(s) if s.code() == Code::DeadlineExceeded));
    assert_eq!(caller.poll_packet(), Some(request::reset(id)));
    assert_eq!(caller.poll_timeout(), None);
    let late = callee.poll_timeout().expect("it has one too");
    assert!(late >= now + second && late <= now + 2 * second);
    callee.handle_timeout(late);
    assert!(matches!(callee.poll_event(), Some(Event::Aborted(_))));
    assert_eq!(ends(&mut callee)[&id].code, Code::DeadlineExceeded as i32);
    // A handler that returns well, but too late.
    callee.handle_packet(&request::head(9, UNARY, &HeaderMap::new(), Some(second), None).expect("short"), now);
    callee.respond(9, &HeaderMap::new());
    callee.finish(9, &ok(), now + second);
    assert_eq!(ends(&mut callee)[&9].code, Code::DeadlineExceeded as i32);
    assert_eq!(callee.poll_timeout(), None);
}

#[test]
fn a_closed_channel_fails_every_call_and_knows_which_were_never_written() {
    let (mut caller, now) = (Caller::new(), Instant::now());
    let [written, begun, fresh] = [0; 3].map(|_| unary(&mut caller, UNARY, "ask", now));
    for _ in 0..3 {
        caller.poll_packet();
    }
    caller.handle_closed(&Status::unavailable("the machine at x is gone"));
    let after = unary(&mut caller, UNARY, "ask", now);
    for (id, was_written) in [(written, true), (begun, false), (fresh, false), (after, false)] {
        assert!(matches!(caller.read(id), Read::Failed(s) if s.code() == Code::Unavailable));
        assert_eq!(caller.is_written(id), was_written, "{id}");
        caller.forget(id);
    }
    assert!(!caller.has_packet());
}

#[test]
fn a_hundred_thousand_streams_are_bounded() {
    let (mut callee, now) = (callee(), Instant::now());
    let mut read = 0;
    for id in 0..100_000 {
        if !callee.wants_packets() {
            break;
        }
        callee.handle_packet(&stock_head(id, UNKNOWN), now);
        read += 1;
    }
    assert_eq!(opened(&mut callee).len(), ORDINARY);
    assert!(read < 1_000, "a client that reads no refusals is not read either: {read}");
    let refused = ends(&mut callee);
    assert!(refused.values().all(|s| s.code == Code::ResourceExhausted as i32));
    assert_eq!(refused.len(), read - ORDINARY);
    callee.handle_packet(&stock_head(500_000, STOP), now);
    assert_eq!(opened(&mut callee).len(), 1, "a Stop finds a place");
    // One after the other they leave nothing behind.
    let mut callee = self::callee();
    for id in 0..100_000 {
        callee.handle_packet(&stock_head(id, UNKNOWN), now);
        callee.handle_packet(&request::message(id, b"a", true, true), now);
        assert!(matches!(callee.poll_event(), Some(Event::Opened(o)) if o.id == id));
        callee.finish(id, &ok(), now);
        while callee.poll_packet().is_some() {}
        while callee.poll_event().is_some() {}
    }
    assert!(callee.is_idle() && callee.held() == 0);
}

/// Streams `messages` of 64 KiB to a callee; gives the number that it sent before it stopped.
fn flood(caller: &mut Caller, callee: &mut Callee, id: u64, messages: usize, now: Instant) -> usize {
    for sent in 0..messages {
        if !caller.has_room(id) || !caller.is_live(id) {
            return sent;
        }
        caller.send(id, one(vec![0; 64 << 10]));
        exchange(caller, callee, now);
    }
    messages
}

fn exchange(caller: &mut Caller, callee: &mut Callee, now: Instant) {
    loop {
        let (out, back) = (caller.poll_packet(), callee.poll_packet());
        if let Some(packet) = &out {
            callee.handle_packet(packet, now);
        }
        if let Some(packet) = &back {
            caller.handle_packet(packet, now);
        }
        if out.is_none() && back.is_none() {
            return;
        }
    }
}

#[test]
fn between_our_ends_a_slow_reader_holds_its_sender_and_nobody_else() {
    let (mut caller, mut callee, now) = (Caller::new(), callee(), Instant::now());
    let slow = open(&mut caller, UNKNOWN, false, now);
    let sent = flood(&mut caller, &mut callee, slow, 10_000, now);
    let ahead = sent as u64 * (64 << 10);
    assert!((WINDOW..WINDOW + (1 << 20)).contains(&ahead), "{ahead}");
    assert!(callee.held() <= WINDOW + (64 << 10), "{}", callee.held());
    let quick = unary(&mut caller, UNARY, "ask", now);
    exchange(&mut caller, &mut callee, now);
    assert!(matches!(callee.read(quick), Read::Message(_)), "nobody else waits");
    while let Read::Message(_) = callee.read(slow) {}
    exchange(&mut caller, &mut callee, now);
    assert!(flood(&mut caller, &mut callee, slow, 10_000, now) > 32, "and it goes on when it reads");
}

#[test]
fn a_stock_sender_that_is_faster_than_its_reader_loses_that_call_only() {
    let (mut callee, now) = (callee(), Instant::now());
    callee.handle_packet(&stock_head(1, UNKNOWN), now);
    callee.handle_packet(&stock_head(2, UNKNOWN), now);
    let mut sent = 0u64;
    while callee.is_live(1) {
        callee.handle_packet(&request::message(1, &[0; 60_000], true, false), now);
        sent += 60_000;
        assert!(sent < 2 * UNREAD, "unbounded");
    }
    assert!(callee.held() < 1 << 20, "what it kept is given back");
    assert_eq!(ends(&mut callee)[&1].code, Code::ResourceExhausted as i32);
    callee.handle_packet(&request::message(2, b"a", true, true), now);
    assert!(matches!(callee.read(2), Read::Message(_)), "others are unharmed");
}

#[test]
fn messages_over_the_limit_end_their_call_and_all_calls_share_a_bound() {
    let (mut callee, now) = (callee(), Instant::now());
    for id in 1..=6 {
        callee.handle_packet(&stock_head(id, UNKNOWN), now);
    }
    let part = request::message(1, &[0; 65_000], false, false);
    for _ in 0..=machine_api::MAX_MESSAGE / 65_000 {
        callee.handle_packet(&part, now);
    }
    assert_eq!(ends(&mut callee)[&1].code, Code::ResourceExhausted as i32);
    // Five calls with 31 MiB each under way are more than 128 MiB.
    for _ in 0..(31 << 20) / 65_000 {
        for id in 2..=6 {
            callee.handle_packet(&request::message(id, &[0; 65_000], false, false), now);
            assert!(callee.held() <= UNREAD_IN_ALL);
        }
    }
    let lost = ends(&mut callee);
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert!(lost.values().all(|s| s.code == Code::ResourceExhausted as i32));
}

#[test]
fn a_message_of_32_mib_crosses_both_ways() {
    let (mut caller, mut callee, now) = (Caller::new(), callee(), Instant::now());
    let whole = Bytes::from(vec![7; machine_api::MAX_MESSAGE]);
    let id = unary(&mut caller, UNARY, whole.clone(), now);
    exchange(&mut caller, &mut callee, now);
    assert!(matches!(callee.read(id), Read::Message(m) if m.to_bytes() == whole));
    callee.respond(id, &HeaderMap::new());
    callee.send(id, one(whole.clone()));
    callee.finish(id, &ok(), now);
    exchange(&mut caller, &mut callee, now);
    assert!(matches!(caller.read(id), Read::Head(_)));
    assert!(matches!(caller.read(id), Read::Message(m) if m.to_bytes() == whole));
    assert!(matches!(caller.read(id), Read::End(_)));
}

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
