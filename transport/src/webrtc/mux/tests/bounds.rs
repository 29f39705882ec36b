//! What is kept, and for whom.

use super::*;

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

pub(super) fn exchange(caller: &mut Caller, callee: &mut Callee, now: Instant) {
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
