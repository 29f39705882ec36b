//! What a peer or a signaling service sends: frames of the channel, many calls on it, descriptions, and their exchange.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::HeaderMap;
use machine_api::proto::rpc::webrtc::v1::{AnswerRequest, CallResponse};
use prost::Message;
use transport::webrtc::exchange::{Answerer, AnswererOutput, Caller as CallerHalf};
use transport::webrtc::frame::{Request, read_request, read_response, request};
use transport::webrtc::mux::{Callee, Caller, Event, Limits, Read, single_request};
use transport::webrtc::sdp::{Description, Kind};

/// Pieces of the bytes, each as long as its first two bytes say.
fn pieces(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (piece, rest) = rest.split_at(rest.len().min(usize::from(u16::from_be_bytes(*length))));
        bytes = rest;
        Some(piece)
    })
    .take(256)
}

/// One frame: what is read is written and read again.
pub fn frame(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(frame) = read_request(&bytes)
        && let Some(Request::Message { packet: Some(packet), end }) = frame.what
    {
        let again = read_request(&request::message(frame.stream, &packet.data, packet.last, end)).expect("well-formed");
        assert_eq!(again.stream, frame.stream);
        assert!(matches!(again.what, Some(Request::Message { packet: Some(p), end: e }) if p == packet && e == end));
    }
    let _ = read_response(&bytes);
}

/// Packets to both halves of a channel, which then still works for whoever did not send them.
pub fn mux(bytes: &[u8]) {
    const METHOD: &str = "/viam.component.base.v1.BaseService/IsMoving";
    let now = Instant::now();
    let (mut caller, mut callee) = (Caller::new(), Callee::new(Limits::default(), single_request));
    for _ in 0..3 {
        let id = caller.open(METHOD, &HeaderMap::new(), None, false, now).expect("short");
        caller.end(id);
    }
    for piece in pieces(bytes) {
        let packet = Bytes::copy_from_slice(piece);
        callee.handle_packet(&packet, now);
        caller.handle_packet(&packet, now);
        while let Some(event) = callee.poll_event() {
            if let Event::Readable(id) = event {
                callee.read(id);
            }
        }
        while let Some(event) = caller.poll_event() {
            if let Event::Readable(id) = event {
                caller.read(id);
            }
        }
        while callee.poll_packet().is_some() {}
        while caller.poll_packet().is_some() {}
    }
    // A call that no packet named works as ever.
    let fresh = (0..u64::MAX).rev().find(|id| !callee.is_live(*id)).expect("one is free");
    callee.handle_packet(&request::head(fresh, METHOD, &HeaderMap::new(), None, None).expect("short"), now);
    callee.handle_packet(&request::message(fresh, b"a", true, true), now);
    if callee.is_live(fresh) {
        assert!(matches!(callee.read(fresh), Read::Message(_)), "a call that nobody touched is read");
    }
    callee.handle_timeout(now + Duration::from_secs(3600));
    caller.handle_timeout(now + Duration::from_secs(3600));
}

/// A description: what is taken is said again and means the same.
pub fn sdp(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for kind in [Kind::Offer, Kind::Answer] {
        if let Ok(description) = Description::parse(kind, text) {
            let again = Description::decode(&description.encode()).expect("what we say we read");
            assert_eq!(again.ufrag, description.ufrag);
            assert_eq!(again.fingerprint, description.fingerprint);
            assert_eq!(again.setup, description.setup);
        }
    }
    let _ = Description::decode(text);
}

/// Both halves of an exchange, told whatever a service likes to tell them, while their own ends go on as each piece's length says.
pub fn exchange(bytes: &[u8]) {
    let now = Instant::now();
    let (mut caller, mut answerer) = (CallerHalf::new(now + Duration::from_secs(10)), Answerer::new());
    caller.handle_candidate("candidate:1 1 udp 1 192.168.1.7 9 typ host");
    let (mut called, mut answered) = (0, 0);
    for (piece, ms) in pieces(bytes).zip((0..).step_by(7)) {
        let now = now + Duration::from_millis(ms);
        if let Ok(response) = CallResponse::decode(piece) {
            caller.handle_response(response, now);
        }
        if let Ok(request) = AnswerRequest::decode(piece) {
            answerer.handle_request(request, SystemTime::UNIX_EPOCH, now);
        }
        called += std::iter::from_fn(|| caller.poll_output()).count();
        while let Some(output) = answerer.poll_output() {
            answered += 1;
            if let AnswererOutput::Offer(offer) = output {
                answerer.handle_answer(offer.description, now);
            }
        }
        match piece.len() % 16 {
            1 => answerer.handle_checked(now),
            2 => answerer.handle_candidate("candidate:1 1 udp 1 127.0.0.1 9 typ host"),
            3 => answerer.handle_gathered(),
            4 => answerer.handle_open(),
            5 => caller.handle_gathered(),
            6 => caller.handle_open(),
            7 => caller.handle_candidate("candidate:1 1 udp 1 192.168.1.7 9 typ host"),
            8 => answerer.handle_timeout(now),
            _ => {}
        }
    }
    caller.handle_timeout(now + Duration::from_secs(60));
    answerer.handle_timeout(now + Duration::from_secs(60));
    called += std::iter::from_fn(|| caller.poll_output()).count();
    answered += std::iter::from_fn(|| answerer.poll_output()).count();
    // 64 candidates of either side, the offer, the answer, done and an error.
    assert!(called <= 140 && answered <= 140, "{called} and {answered} outputs of one exchange");
}
