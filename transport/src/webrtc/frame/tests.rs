use std::collections::VecDeque;

use bytes::BytesMut;
use http::HeaderValue;
use machine_api::proto::rpc::webrtc::v1 as wire;
use proptest::prelude::*;
use prost::Message as _;

use super::*;

fn hex(text: &str) -> Bytes {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hex");
    (0..text.len()).step_by(2).map(digit).collect::<Vec<_>>().into()
}

fn metadata(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &str)| {
        (http::HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
    };
    pairs.iter().map(pair).collect()
}

fn head_of(frame: &Bytes) -> (u64, String, HeaderMap, Option<Duration>) {
    match read_request(frame) {
        Ok(Frame { stream, what: Some(Request::Head { method, metadata, timeout }), .. }) => {
            (stream, method, metadata, timeout)
        }
        other => panic!("no head: {other:?}"),
    }
}

/// The bytes of wire-protocol section 12, made with another implementation.
#[test]
fn golden_requests_are_read_and_written() {
    let go = hex("0a02080112160a062f612e422f43120a0a080a016b12030a01761a00");
    assert_eq!(head_of(&go), (1, "/a.B/C".into(), metadata(&[("k", "v")]), None));
    let ours = request::head(1, "/a.B/C", &metadata(&[("k", "v")]), None, None).expect("short");
    assert_eq!(ours, hex("0a02080112140a062f612e422f43120a0a080a016b12030a0176"));
    let rust = hex("0a0012080a062f612e422f43");
    assert_eq!(head_of(&rust), (0, "/a.B/C".into(), HeaderMap::new(), None));
    assert_eq!(request::head(0, "/a.B/C", &HeaderMap::new(), None, None).expect("short"), rust);

    for (golden, packet, end, written) in [
        ("0a0208011a0c080112060a02686910011801", Some("hi"), true, request::message(1, b"hi", true, true)),
        ("0a0208011a06120210011801", None, true, request::end(1)),
        ("0a0208011a021801", None, true, Bytes::new()),
    ] {
        match read_request(&hex(golden)) {
            Ok(Frame { stream: 1, what: Some(Request::Message { packet: p, end: e }), window: None }) => {
                let p = p.map(|p| (p.data, p.last));
                assert_eq!((p, e), (packet.map(|text| (Bytes::from(text), true)), end), "{golden}");
            }
            other => panic!("{golden}: {other:?}"),
        }
        assert!(written.is_empty() || written == hex(golden), "{golden}: {written:x?}");
    }
    let reset = hex("0a0208012001");
    assert!(matches!(read_request(&reset), Ok(Frame { stream: 1, what: Some(Request::Reset), .. })));
    assert_eq!(request::reset(1), reset);
}

#[test]
fn golden_responses_are_read_and_written() {
    let head = hex("0a0208011200");
    match read_response(&head) {
        Ok(Frame { stream: 1, what: Some(Response::Head(metadata)), .. }) => assert!(metadata.is_empty()),
        other => panic!("{other:?}"),
    }
    assert_eq!(response::head(1, &HeaderMap::new(), None).expect("short"), head);
    let message = hex("0a0208011a080a060a0268691001");
    match read_response(&message) {
        Ok(Frame { stream: 1, what: Some(Response::Message(p)), .. }) => {
            assert_eq!((&p.data[..], p.last), (&b"hi"[..], true));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(response::message(1, b"hi", true), message);
    for (golden, code, text) in
        [("0a0208012200", 0, ""), ("0a02080122130a11080c120d556e696d706c656d656e746564", 12, "Unimplemented")]
    {
        let status = rpc::Status { code, message: text.into(), details: vec![] };
        let trailers = Trailers { status, metadata: HeaderMap::new() };
        match read_response(&hex(golden)) {
            Ok(Frame { stream: 1, what: Some(Response::Trailers(read)), .. }) => assert_eq!(read, trailers),
            other => panic!("{other:?}"),
        }
        assert_eq!(response::trailers(1, &trailers), hex(golden));
    }
}

#[test]
fn wrappers_have_the_sizes_that_others_reckon_with() {
    assert_eq!(request::message(u64::MAX, b"x", true, true).len(), 26);
    assert_eq!(response::message(u64::MAX, b"x", true).len(), 22);
    let full = [0; 65_000];
    assert!(request::message(u64::MAX, &full, true, true).len() <= crate::webrtc::channel::MAX_PACKET);
    assert!(response::message(u64::MAX, &full, true).len() <= crate::webrtc::channel::MAX_PACKET);
}

#[test]
fn unknown_fields_and_empty_types_are_tolerated() {
    // Fields 15 (varint), 16 (bytes), 17 (fixed64) and 18 (fixed32) after a reset.
    let mut frame = BytesMut::from(&request::reset(7)[..]);
    frame.extend_from_slice(&hex("7801"));
    frame.extend_from_slice(&hex("820103616263"));
    frame.extend_from_slice(&hex("89010000000000000000"));
    frame.extend_from_slice(&hex("950100000000"));
    assert!(matches!(read_request(&frame.freeze()), Ok(Frame { stream: 7, what: Some(Request::Reset), .. })));
    assert!(matches!(read_request(&hex("0a020807")), Ok(Frame { stream: 7, what: None, window: None })));
    assert!(matches!(read_request(&hex("0a0208072000")), Ok(Frame { stream: 7, what: None, .. })));
    match read_request(&request::window(3, 1 << 20)) {
        Ok(Frame { stream: 3, what: None, window: Some(bytes) }) => assert_eq!(bytes, 1 << 20),
        other => panic!("{other:?}"),
    }
    // What others make of a window: a frame that says nothing.
    let others = wire::Request::decode(request::window(3, 1 << 20)).expect("decodes");
    assert_eq!(others, wire::Request { stream: Some(wire::Stream { id: 3 }), r#type: None });
}

#[test]
fn malformed_frames_say_whose_they_are() {
    let stream_9 = "0a020809";
    for (rest, head, why) in [
        ("12050a0361", false, "it is cut off"),
        ("12030a01ff", true, "a text is not UTF-8"),
        ("12070a0012030a01ff", true, "a number is cut off"),
        ("12070a0012030a0161", true, "it is cut off"),
        ("120e0a00120a0a080a016b12030a01ff", true, "a text is not UTF-8"),
        ("120e0a00120a0a080a012012030a0161", true, "a metadata key is malformed"),
        ("120e0a00120a0a080a016b12030a010a", true, "a metadata value is malformed"),
        ("1001", true, "a field is of the wrong type"),
        ("1a0308", false, "it is cut off"),
        ("1b", false, "a field has no wire type"),
        ("00", false, "a number is cut off"),
        ("0000", false, "a field has no number"),
        ("20ffffffffffffffffffff", false, "a number is cut off"),
    ] {
        let malformed = read_request(&hex(&format!("{stream_9}{rest}"))).expect_err(rest);
        assert_eq!(malformed, Malformed { stream: Some(9), head, why: Wrong(why) }, "{rest}");
    }
    assert_eq!(read_request(&Bytes::new()).expect_err("empty").why, Wrong("it names no stream"));
}

/// Of a peer's answer as of its call; and what a program of ours sets is told to the program, not to the peer.
#[test]
fn metadata_that_is_not_text_crosses_in_neither_direction() {
    for (rest, head) in [("120c0a0a0a080a016b12030a01ff", true), ("220c120a0a080a016b12030a01ff", false)] {
        let malformed = read_response(&hex(&format!("0a020809{rest}"))).expect_err(rest);
        assert_eq!(malformed, Malformed { stream: Some(9), head, why: Wrong("a text is not UTF-8") }, "{rest}");
    }
    let mut headers = HeaderMap::new();
    headers.insert("k", HeaderValue::from_bytes(&[0xff]).expect("bytes that HTTP allows"));
    let refused = request::head(9, "/a.B/C", &headers, None, None).expect_err("no text");
    assert_eq!(refused, Wrong("a metadata value is not UTF-8"));
}

#[test]
fn metadata_crosses_with_every_value_and_without_what_a_hop_means() {
    let sent = metadata(&[
        ("viam-sid", "a"),
        ("opid", "x"),
        ("viam-sid", "b"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("authorization", "Bearer secret"),
        ("grpc-accept-encoding", "gzip"),
        ("key-bin", "AAEC/w"),
    ]);
    let frame = request::head(5, "/a.B/C", &sent, Some(Duration::from_millis(1500)), Some(77)).expect("short");
    assert!(!frame.windows(6).any(|w| w == b"secret"));
    let (stream, method, read, timeout) = head_of(&frame);
    assert_eq!((stream, &*method, timeout), (5, "/a.B/C", Some(Duration::from_millis(1500))));
    let expected = metadata(&[("viam-sid", "a"), ("viam-sid", "b"), ("opid", "x"), ("key-bin", "AAEC/w")]);
    assert_eq!(read, expected);
    assert_eq!(read_request(&frame).expect("reads").window, Some(77));
    let too_much = metadata(&[("k", &"v".repeat(MAX_HEAD))]);
    assert_eq!(
        request::head(5, "/a.B/C", &too_much, None, None).expect_err("refused"),
        Wrong("there is too much metadata")
    );
}

fn wire_head(md: &[(&str, &str)], timeout: Option<prost_types::Duration>) -> Bytes {
    let md = md.iter().map(|(k, v)| ((*k).to_owned(), wire::Strings { values: vec![(*v).to_owned()] })).collect();
    let head = wire::RequestHeaders { method: "/a.B/C".into(), metadata: Some(wire::Metadata { md }), timeout };
    let stream = Some(wire::Stream { id: 1 });
    wire::Request { stream, r#type: Some(wire::request::Type::Headers(head)) }.encode_to_vec().into()
}

#[test]
fn binary_metadata_is_read_raw_and_as_base64() {
    // Raw as Go sends it, base64 as Rust does, padded and not.
    for (sent, expected) in [("raw value\u{1}", "cmF3IHZhbHVlAQ"), ("AAEC/w==", "AAEC/w=="), ("AAEC/w", "AAEC/w")] {
        let (.., read, _) = head_of(&wire_head(&[("Key-Bin", sent)], None));
        assert_eq!(read, metadata(&[("key-bin", expected)]), "{sent}");
    }
}

#[test]
fn timeouts_are_read_from_their_field_and_from_metadata() {
    let duration = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
    for (field, header, expected) in [
        (duration(0, 0), None, None),
        (duration(2, 500_000_000), None, Some(Duration::from_millis(2500))),
        (duration(-1, -5), None, Some(Duration::ZERO)),
        (duration(0, -5), None, Some(Duration::ZERO)),
        (duration(i64::MAX, 0), None, Some(Duration::from_secs(i64::MAX as u64))),
        (None, Some("250m"), Some(Duration::from_millis(250))),
        (duration(1, 0), Some("250m"), Some(Duration::from_secs(1))),
        (None, Some("nonsense"), None),
    ] {
        let md: Vec<_> = header.map(|h| ("grpc-timeout", h)).into_iter().collect();
        let (.., read, timeout) = head_of(&wire_head(&md, field));
        assert_eq!((read.len(), timeout), (0, expected), "{field:?} {header:?}");
    }
}

#[test]
fn a_status_keeps_its_details_and_metadata_across_the_channel() {
    let details = rpc::Status {
        code: 9,
        message: "not now".into(),
        details: vec![prost_types::Any { type_url: "a/b".into(), value: vec![1, 2] }],
    };
    let mut status =
        Status::with_details(Code::FailedPrecondition, "not now, 50 % \u{e9}", details.encode_to_vec().into());
    status.metadata_mut().insert("lifeline-order", "1".parse().expect("a value"));
    let frame = response::trailers(4, &Trailers::of(&status));
    let Ok(Frame { what: Some(Response::Trailers(read)), .. }) = read_response(&frame) else { panic!("no trailers") };
    let read = Status::from_header_map(&read.to_headers()).expect("a status");
    assert_eq!((read.code(), read.message()), (status.code(), status.message()));
    assert_eq!(rpc::Status::decode(read.details()).expect("decodes").details, details.details);
    assert_eq!(read.metadata().get("lifeline-order").expect("kept"), "1");
    let huge = Status::with_details(Code::Internal, "x".repeat(70_000), details.encode_to_vec().into());
    let frame = response::trailers(4, &Trailers::of(&huge));
    assert!(!frame.is_empty() && frame.len() <= MAX_HEAD);
}

#[test]
fn a_message_over_the_limit_is_refused_and_one_at_it_is_not() {
    let whole = Bytes::from(vec![7; 65_000]);
    let mut assembly = Assembly::default();
    let mut missing = machine_api::MAX_MESSAGE;
    let message = loop {
        let data = whole.slice(..missing.min(whole.len()));
        missing -= data.len();
        let frame = data.len() + 20;
        if let Some(message) = assembly.push(Packet { data, last: missing == 0 }, frame).expect("within the limit") {
            break message;
        }
    };
    assert_eq!(message.len(), machine_api::MAX_MESSAGE);
    let body: usize = message.into_body().iter().map(Bytes::len).sum();
    assert_eq!(body, machine_api::MAX_MESSAGE + 5);
    for _ in 0..machine_api::MAX_MESSAGE / 65_000 {
        assert_eq!(assembly.push(Packet { data: whole.clone(), last: false }, 65_020).map(|m| m.is_some()), Ok(false));
    }
    assert!(assembly.push(Packet { data: whole, last: false }, 65_020).is_err());
}

fn framed(messages: &[Vec<u8>]) -> Bytes {
    let mut body = BytesMut::new();
    for message in messages {
        body.extend_from_slice(&[0]);
        body.extend_from_slice(&u32::try_from(message.len()).expect("short").to_be_bytes());
        body.extend_from_slice(message);
    }
    body.freeze()
}

#[test]
fn compressed_and_oversized_bodies_are_not_sent() {
    let mut pieces = VecDeque::new();
    let compressed = Cutter::default().push(Bytes::from_static(&[1, 0, 0, 0, 0]), &mut pieces);
    assert_eq!(compressed, Err(Unsendable::Compressed));
    let large = Cutter::default().push(Bytes::from_static(&[0, 0x7f, 0, 0, 0]), &mut pieces);
    assert_eq!(large, Err(Unsendable::TooLarge(0x7f00_0000)));
    assert!(pieces.is_empty());
}

fn any_request() -> impl Strategy<Value = wire::Request> {
    use wire::request::Type;
    let strings = prop::collection::vec("[ -~]{0,8}", 1..3).prop_map(|values| wire::Strings { values });
    let md = prop::collection::hash_map("[a-z][a-z0-9-]{0,6}[a-z]", strings, 0..3);
    let timeout = prop::option::of((0..1i64 << 40, 1..1_000_000_000i32))
        .prop_map(|t| t.map(|(seconds, nanos)| prost_types::Duration { seconds, nanos }));
    let head = ("/[a-z.]{1,9}/[A-Z]{1,3}", md, timeout).prop_map(|(method, md, timeout)| {
        Type::Headers(wire::RequestHeaders { method, metadata: Some(wire::Metadata { md }), timeout })
    });
    let packet = (prop::collection::vec(any::<u8>(), 0..300), any::<bool>())
        .prop_map(|(data, eom)| wire::PacketMessage { data, eom });
    let message = (any::<bool>(), prop::option::of(packet), any::<bool>()).prop_map(|(has_message, packet, eos)| {
        Type::Message(wire::RequestMessage { has_message, packet_message: packet, eos })
    });
    let what = prop::option::of(prop_oneof![head, message, any::<bool>().prop_map(Type::RstStream)]);
    (any::<u64>(), what).prop_map(|(id, r#type)| wire::Request { stream: Some(wire::Stream { id }), r#type })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// What the generated code writes is read here, and says the same.
    #[test]
    fn the_generated_code_and_this_one_agree(sent in any_request()) {
        use wire::request::Type;
        let read = read_request(&sent.encode_to_vec().into()).expect("well-formed");
        prop_assert_eq!(read.stream, sent.stream.expect("set").id);
        match (sent.r#type, read.what) {
            (None | Some(Type::RstStream(false)), None) | (Some(Type::RstStream(true)), Some(Request::Reset)) => {}
            (Some(Type::Headers(sent)), Some(Request::Head { method, metadata, timeout })) => {
                prop_assert_eq!(method, sent.method);
                let expected = sent.timeout.map(|t| Duration::new(t.seconds as u64, t.nanos as u32));
                prop_assert_eq!(timeout, expected);
                for (key, strings) in sent.metadata.expect("set").md {
                    if ["te", "host", "upgrade", "trailer"].contains(&&*key) || key.ends_with("-bin") {
                        continue;
                    }
                    let read: Vec<_> = metadata.get_all(&key).iter().map(|v| v.to_str().expect("text").to_owned()).collect();
                    prop_assert_eq!(read, strings.values, "{}", key);
                }
            }
            (Some(Type::Message(sent)), Some(Request::Message { packet, end })) => {
                prop_assert_eq!(end, sent.eos);
                let expected = sent.has_message.then(|| sent.packet_message.unwrap_or_default());
                prop_assert_eq!(packet.map(|p| (p.data.to_vec(), p.last)), expected.map(|p| (p.data, p.eom)));
            }
            other => prop_assert!(false, "{other:?}"),
        }
    }

    /// And the other way round.
    #[test]
    fn what_is_written_here_is_read_by_the_generated_code(
        id in any::<u64>(), data in prop::collection::vec(any::<u8>(), 0..300), last in any::<bool>(), end in any::<bool>()
    ) {
        use wire::{request, response};
        let stream = Some(wire::Stream { id });
        let packet = wire::PacketMessage { data: data.clone(), eom: last };
        let message = wire::RequestMessage { has_message: true, packet_message: Some(packet.clone()), eos: end };
        let sent = wire::Request { stream, r#type: Some(request::Type::Message(message)) };
        prop_assert_eq!(wire::Request::decode(super::request::message(id, &data, last, end)), Ok(sent));
        let message = wire::ResponseMessage { packet_message: Some(packet) };
        let sent = wire::Response { stream, r#type: Some(response::Type::Message(message)) };
        prop_assert_eq!(wire::Response::decode(super::response::message(id, &data, last)), Ok(sent));
        let end = wire::Request::decode(super::request::end(id)).expect("decodes");
        let packet = wire::PacketMessage { data: vec![], eom: true };
        let message = wire::RequestMessage { has_message: false, packet_message: Some(packet), eos: true };
        prop_assert_eq!(end, wire::Request { stream, r#type: Some(request::Type::Message(message)) });
    }

    /// Bodies are taken apart and put together again, however both were cut.
    #[test]
    fn messages_survive_every_cut(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5_000), 0..5),
        chunk in 1..6_000usize, packet in 1..3_000usize, empty in any::<bool>(),
    ) {
        let body = framed(&messages);
        let (mut cutter, mut pieces) = (Cutter::default(), VecDeque::new());
        for at in (0..body.len()).step_by(chunk) {
            cutter.push(body.slice(at..body.len().min(at + chunk)), &mut pieces).expect("sendable");
        }
        prop_assert!(!cutter.is_within());
        let (mut assembly, mut read) = (Assembly::default(), vec![]);
        for mut piece in pieces {
            loop {
                let data = piece.data.split_to(piece.data.len().min(packet));
                let last = piece.last && piece.data.is_empty();
                let frame = data.len() + 20;
                if empty {
                    let nothing = Packet { data: Bytes::new(), last: false };
                    prop_assert_eq!(assembly.push(nothing, 20).map(|m| m.is_some()), Ok(false));
                }
                if let Some(message) = assembly.push(Packet { data, last }, frame).expect("within the limit") {
                    prop_assert_eq!(message.to_bytes().len(), message.len());
                    read.extend(message.into_body());
                }
                if piece.data.is_empty() {
                    break;
                }
            }
        }
        prop_assert_eq!(read.concat(), body);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn random_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        let (_, _) = (read_request(&bytes), read_response(&bytes));
    }

    /// One bit or one end wrong in a frame that was right.
    #[test]
    fn spoilt_frames_are_read_without_panic(sent in any_request(), at in any::<prop::sample::Index>(), bit in 0..8u32, cut in any::<bool>()) {
        let mut bytes = sent.encode_to_vec();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
        let bytes = Bytes::from(bytes);
        let (_, _) = (read_request(&bytes), read_response(&bytes));
    }
}
