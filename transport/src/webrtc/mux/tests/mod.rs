mod bounds;
mod model;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use machine_api::google::rpc;
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
            all.push(*opened);
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
fn on_a_slow_path_packets_are_never_large() {
    let now = Instant::now();
    let mut caller = Caller::new();
    let id = unary(&mut caller, UNARY, vec![7; 200_000], now);
    let sent = |caller: &mut Caller| parts(&caller.poll_packet().expect("something"));
    assert_eq!(sent(&mut caller).1, "head");
    for (longest, expected) in [(0, SHARED), (SHARED + 1, SHARED + 1), (usize::MAX, ALONE)] {
        caller.set_longest(longest);
        assert_eq!(sent(&mut caller), (id, "message", expected));
    }
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
