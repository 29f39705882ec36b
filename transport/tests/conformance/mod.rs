//! What gRPC over a data channel must do, whatever made the channel: tonic clients and services on top, hostile peers below.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod service;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::HeaderMap;
use machine_api::MAX_MESSAGE;
use service::{Client, Seen, blob, failure, service};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request};
use transport::serve::{ConnectionEvent, Introduced};
use transport::webrtc::frame::{Frame, Response, read_response, request, response};
use transport::webrtc::serve::{ChannelOptions, serve};
use transport::webrtc::{DataChannel, service as client};
use transport::{CloseReason, Lane};

/// How long a case may take before it counts as hanging.
const LIMIT: Duration = Duration::from_secs(60);

/// A client and a machine that face each other.
pub struct Rig {
    pub client: Client,
    pub seen: Seen,
    pub events: mpsc::UnboundedReceiver<ConnectionEvent>,
    pub shutdown: CancellationToken,
    pub served: tokio::task::JoinHandle<CloseReason>,
}

/// Serves `far`.
pub fn machine(
    far: DataChannel,
) -> (Seen, mpsc::UnboundedReceiver<ConnectionEvent>, CancellationToken, tokio::task::JoinHandle<CloseReason>) {
    let (seen, shutdown) = (Seen::default(), CancellationToken::new());
    let (events_in, events) = mpsc::unbounded_channel();
    let forward = move |event| {
        let _ = events_in.send(event);
    };
    let introduced = Introduced { credential: None, hosts: vec!["m.x.viam.cloud".into()] };
    let options = ChannelOptions::default();
    let serving = serve(far, service(seen.clone()), introduced, options, forward, shutdown.clone());
    (seen, events, shutdown, tokio::spawn(serving))
}

pub fn rig((near, far): (DataChannel, DataChannel)) -> Rig {
    let (seen, events, shutdown, served) = machine(far);
    Rig { client: Client(client::link(near)), seen, events, shutdown, served }
}

/// Runs every case on a fresh pair of channels: the client's end, the machine's.
pub async fn suite<F: Future<Output = (DataChannel, DataChannel)>>(pair: impl Fn() -> F) {
    macro_rules! cases {
        ($($case:ident($make:expr)),* $(,)?) => {
            $(
                let started = std::time::Instant::now();
                timeout(LIMIT, $case($make(pair().await))).await.expect(concat!(stringify!($case), " hangs"));
                println!("{:<60} {:>8.1?}", stringify!($case), started.elapsed());
            )*
        };
    }
    let pass = |pair| pair;
    cases!(
        the_four_kinds_of_calls(rig),
        metadata_crosses_both_ways(rig),
        a_status_crosses_with_its_details(rig),
        deadlines_are_kept_on_both_sides(rig),
        a_dropped_call_reaches_the_handler(rig),
        a_machine_may_end_a_stream_early(rig),
        messages_of_32_mib_cross_both_ways_and_larger_ones_fail_alone(rig),
        a_slow_reader_stalls_nobody_else(rig),
        a_slow_machine_holds_its_client(rig),
        a_stop_finds_a_place_when_all_are_taken(rig),
        a_beat_overtakes_32_mib(rig),
        many_calls_at_once_and_in_a_row(rig),
        a_severed_link_fails_every_call_and_drops_every_handler(rig),
        a_machine_that_shuts_down_lets_calls_finish(rig),
        a_stock_client_is_understood(pass),
        a_hostile_client_harms_nobody(pass),
        a_hostile_machine_harms_no_other_call(pass),
    );
}

async fn the_four_kinds_of_calls(rig: Rig) {
    let client = rig.client;
    assert_eq!(client.unary(blob(0, 0)).await.expect("an answer"), blob(0, 0));
    assert_eq!(client.unary(blob(100_000, 0)).await.expect("an answer"), blob(100_000, 0));
    let replies: Vec<_> = client.repeat(blob(1000, 50)).await.expect("begun").try_collect().await.expect("all of them");
    assert!(replies.len() == 50 && (0..50).all(|n| replies[n as usize] == blob(1000, n)));
    let sum = client.stream("/test.Echo/Collect", stream::iter((0..20).map(|_| blob(10_000, 0)))).await;
    let sum: Vec<_> = sum.expect("begun").try_collect().await.expect("a sum");
    assert_eq!(sum, [blob(0, 200_000)]);
    // Each message is sent only after the last one came back.
    let (ask, asked) = mpsc::channel(1);
    let asked = stream::unfold(asked, |mut asked| async { asked.recv().await.map(|blob| (blob, asked)) });
    let mut chat = client.stream("/test.Echo/Chat", asked).await.expect("begun");
    for number in 0..50 {
        ask.send(blob(100, number)).await.expect("taken");
        assert_eq!(chat.message().await.expect("echoed"), Some(blob(100, number)));
    }
    drop(ask);
    assert_eq!(chat.message().await.expect("ended well"), None);
    let unknown =
        client.call(Lane::Ordinary, "/test.Echo/Nothing", Request::new(blob(1, 0))).await.expect_err("unknown");
    assert_eq!((unknown.code(), unknown.message()), (Code::Unimplemented, "Unimplemented"));
}

async fn metadata_crosses_both_ways(rig: Rig) {
    let mut request = Request::new(blob(1, 0));
    let metadata = request.metadata_mut();
    metadata.append("viam-sid", "one".parse().expect("a value"));
    metadata.append("viam-sid", "two".parse().expect("a value"));
    metadata.insert("authorization", "Bearer secret".parse().expect("a value"));
    metadata.insert_bin("key-bin", tonic::metadata::MetadataValue::from_bytes(&[0, 1, 0xff]));
    let answer = rig.client.call(Lane::Ordinary, "/test.Echo/Unary", request).await.expect("an answer");
    let got: Vec<_> = answer.metadata().get_all("viam-sid").iter().collect();
    assert_eq!(got, ["one", "two"]);
    let binary = answer.metadata().get_bin("key-bin").expect("there").to_bytes().expect("base64");
    assert_eq!(binary[..], [0, 1, 0xff]);
    assert!(answer.metadata().get("authorization").is_none(), "credentials do not go over a channel");
    let mut large = Request::new(blob(1, 0));
    large.metadata_mut().insert("large", "x".repeat(70_000).parse().expect("a value"));
    let refused = rig.client.call(Lane::Ordinary, "/test.Echo/Unary", large).await.expect_err("too much");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
}

async fn a_status_crosses_with_its_details(rig: Rig) {
    let status = rig.client.call(Lane::Ordinary, "/test.Echo/Fail", Request::new(blob(1, 0))).await.expect_err("fails");
    let sent = failure();
    assert_eq!((status.code(), status.message()), (sent.code(), sent.message()));
    assert_eq!(status.details(), sent.details());
    assert_eq!(status.metadata().get("why").expect("there"), "because");
}

async fn deadlines_are_kept_on_both_sides(rig: Rig) {
    let began = tokio::time::Instant::now();
    let status = rig.client.wait(Some(Duration::from_millis(200))).await.expect_err("never answered");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(195) && took < Duration::from_secs(2), "{took:?}");
    rig.seen.dropped.notified().await;
}

async fn a_dropped_call_reaches_the_handler(rig: Rig) {
    let client = rig.client.clone();
    let call = tokio::spawn(async move { client.wait(None).await });
    rig.seen.began(1).await;
    call.abort();
    rig.seen.dropped.notified().await;
    // And a stream whose reader leaves.
    let mut endless = rig.client.repeat(blob(60_000, u32::MAX)).await.expect("begun");
    assert!(endless.message().await.expect("a message").is_some());
    drop(endless);
    rig.client.unary(blob(1, 0)).await.expect("the link lives on");
}

async fn a_machine_may_end_a_stream_early(rig: Rig) {
    let sent = Arc::new(AtomicU32::new(0));
    let counter = sent.clone();
    let endless = stream::repeat_with(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        blob(60_000, 0)
    });
    let mut answers = rig.client.stream("/test.Echo/Leave", endless).await.expect("begun");
    assert!(answers.message().await.expect("the first").is_some());
    let status = answers.message().await.expect_err("enough");
    assert_eq!((status.code(), status.message()), (Code::Aborted, "enough"));
    drop(answers);
    rig.client.unary(blob(1, 0)).await.expect("the link lives on");
    let so_far = sent.load(Ordering::Relaxed);
    for _ in 0..20 {
        rig.client.unary(blob(1, 0)).await.expect("the link lives on");
    }
    assert!(sent.load(Ordering::Relaxed) <= so_far + 2, "nobody asks for more of it");
}

async fn messages_of_32_mib_cross_both_ways_and_larger_ones_fail_alone(rig: Rig) {
    // Field and length of the bytes take five.
    let most = MAX_MESSAGE - 5;
    let answer = rig.client.unary(blob(most, 0)).await.expect("at the limit");
    assert_eq!(answer.data.len(), most);
    let client = rig.client.clone();
    let other = tokio::spawn(async move { client.unary(blob(1 << 20, 0)).await });
    let refused = rig.client.unary(blob(most + 1, 0)).await.expect_err("over the limit");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let number = u32::try_from(most + 1).expect("fits");
    let refused = rig.client.unary(blob(1, number)).await.expect_err("an answer over the limit");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    other.await.expect("no panic").expect("others are unharmed");
}

async fn a_slow_reader_stalls_nobody_else(rig: Rig) {
    // 64 MiB that nobody reads yet.
    let mut slow = rig.client.repeat(blob(64 << 10, 1024)).await.expect("begun");
    for _ in 0..200 {
        let quick = timeout(Duration::from_secs(5), rig.client.unary(blob(1000, 0))).await;
        quick.expect("not stalled").expect("an answer");
    }
    let mut got = 0;
    while let Some(blob) = slow.message().await.expect("held, not lost") {
        assert_eq!(blob.number, got);
        got += 1;
    }
    assert_eq!(got, 1024);
}

async fn a_slow_machine_holds_its_client(rig: Rig) {
    let asked = Arc::new(AtomicU32::new(0));
    let (counter, over) = (asked.clone(), Arc::new(AtomicBool::new(false)));
    let stop = over.clone();
    let upload = stream::repeat_with(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        blob(60_000, 0)
    });
    let upload = upload.take_while(move |_| std::future::ready(!stop.load(Ordering::Relaxed)));
    // The echo is not read, so the machine reads no more than its windows allow.
    let mut chat = rig.client.stream("/test.Echo/Chat", upload).await.expect("begun");
    let mut before = u32::MAX;
    while asked.load(Ordering::Relaxed) != before {
        before = asked.load(Ordering::Relaxed);
        for _ in 0..20 {
            rig.client.unary(blob(1000, 0)).await.expect("not stalled");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let bytes = u64::from(before) * 60_000;
    assert!(bytes < 24 << 20, "the client was asked for {bytes} bytes that nobody reads");
    over.store(true, Ordering::Relaxed);
    let mut got = 0u32;
    while chat.message().await.expect("nothing is lost").is_some() {
        got += 1;
    }
    assert!(got >= before - 1, "{got} of {before}");
}

async fn a_stop_finds_a_place_when_all_are_taken(rig: Rig) {
    let mut calls = JoinSet::new();
    for _ in 0..300 {
        let client = rig.client.clone();
        calls.spawn(async move { client.wait(None).await });
    }
    rig.seen.began(248).await;
    let stop = rig.client.call(Lane::Reserved, "/viam.robot.v1.RobotService/GetVersion", Request::new(blob(1, 0)));
    let answer = timeout(Duration::from_secs(5), stop).await.expect("right of way");
    // The test's service does not have it, which is an answer.
    assert_eq!(answer.expect_err("an answer").code(), Code::Unimplemented);
}

async fn a_beat_overtakes_32_mib(rig: Rig) {
    let client = rig.client.clone();
    let done = Arc::new(AtomicBool::new(false));
    let told = done.clone();
    let large = tokio::spawn(async move {
        let answer = client.unary(blob(MAX_MESSAGE - 5, 0)).await;
        told.store(true, Ordering::Relaxed);
        answer
    });
    let mut meanwhile = 0;
    while !done.load(Ordering::Relaxed) {
        rig.client.call(Lane::Reserved, "/test.Echo/Unary", Request::new(blob(10, 0))).await.expect("a beat");
        meanwhile += u32::from(!done.load(Ordering::Relaxed));
    }
    assert!(meanwhile > 10, "only {meanwhile} beats went past a large message");
    large.await.expect("no panic").expect("an answer");
}

async fn many_calls_at_once_and_in_a_row(rig: Rig) {
    let mut calls = JoinSet::new();
    for number in 0..400usize {
        let client = rig.client.clone();
        calls.spawn(async move {
            for length in [0, 1, 100, 20_000] {
                let sent = blob(length + number, 0);
                assert_eq!(client.unary(sent.clone()).await.expect("an answer"), sent);
            }
        });
    }
    while let Some(done) = calls.join_next().await {
        done.expect("no panic");
    }
}

async fn a_severed_link_fails_every_call_and_drops_every_handler(mut rig: Rig) {
    let client = rig.client.clone();
    let call = tokio::spawn(async move { client.wait(None).await });
    rig.seen.began(1).await;
    let pair = rig.client.0.pair().expect("over WebRTC");
    assert!(
        matches!(rig.events.recv().await, Some(ConnectionEvent::Opened(p)) if p.introduced.is_some() && p.pair().is_some())
    );
    rig.client.0.sever("a test");
    let status = call.await.expect("no panic").expect_err("severed");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains(&pair.remote.address.to_string()), "{status}");
    assert_eq!(rig.client.0.closed().await, CloseReason::Severed("a test"));
    rig.seen.dropped.notified().await;
    assert!(matches!(rig.events.recv().await, Some(ConnectionEvent::Closed(_))));
    rig.served.await.expect("no panic");
    let never =
        rig.client.0.call(http::Request::new(transport::Body::empty()), Lane::Ordinary).await.expect_err("dead");
    assert!(never.never_written);
}

async fn a_machine_that_shuts_down_lets_calls_finish(rig: Rig) {
    let (ask, asked) = mpsc::channel(1);
    let asked = stream::unfold(asked, |mut asked| async { asked.recv().await.map(|blob| (blob, asked)) });
    let mut chat = rig.client.stream("/test.Echo/Chat", asked).await.expect("begun");
    ask.send(blob(1, 1)).await.expect("taken");
    chat.message().await.expect("echoed");
    rig.shutdown.cancel();
    while rig.client.unary(blob(1, 0)).await.is_ok() {}
    ask.send(blob(1, 2)).await.expect("taken");
    assert_eq!(chat.message().await.expect("still served"), Some(blob(1, 2)));
    drop(ask);
    assert_eq!(chat.message().await.expect("ended well"), None);
    rig.served.await.expect("no panic");
    assert!(matches!(rig.client.0.closed().await, CloseReason::ByPeer | CloseReason::Broken(_)));
}

/// Sends frames as they are and reads until a stream's trailers.
async fn raw(channel: &mut DataChannel, frames: &[Bytes], stream: u64) -> (Bytes, i32, String) {
    for frame in frames {
        channel.outgoing.send(frame.clone()).await.expect("open");
    }
    let mut data = Vec::new();
    loop {
        let packet = channel.incoming.recv().await.expect("an answer");
        match read_response(&packet).expect("well-formed") {
            Frame { stream: s, what: Some(Response::Message(packet)), .. } if s == stream => data.extend(packet.data),
            Frame { stream: s, what: Some(Response::Trailers(end)), .. } if s == stream => {
                return (data.into(), end.status.code, end.status.message);
            }
            _ => {}
        }
    }
}

fn head(stream: u64, path: &str) -> Bytes {
    request::head(stream, path, &HeaderMap::new(), None, None).expect("short")
}

async fn a_stock_client_is_understood((mut near, far): (DataChannel, DataChannel)) {
    let _machine = machine(far);
    // Fields 1 (bytes) of the test's message, in the cuts of three clients, on the ids that they begin with.
    let go = [
        head(1, "/test.Echo/Unary"),
        request::message(1, b"\x0a\x02", false, true),
        request::message(1, b"hi", true, true),
    ];
    let rust = [
        head(0, "/test.Echo/Unary"),
        request::message(0, b"\x0a\x02hi", true, false),
        Bytes::from_static(b"\x0a\x00\x1a\x02\x18\x01"),
    ];
    for (frames, stream) in [(go, 1), (rust, 0)] {
        let (data, code, _) = raw(&mut near, &frames, stream).await;
        assert_eq!((&data[..], code), (&b"\x0a\x02hi"[..], 0));
    }
    let (_, code, message) = raw(&mut near, &[head(2, "/test.Echo/Nothing")], 2).await;
    assert_eq!((code, &*message), (Code::Unimplemented as i32, "Unimplemented"));
    let reset = [head(3, "/test.Echo/Wait"), request::message(3, b"", true, true), request::reset(3)];
    let (_, code, message) = raw(&mut near, &reset, 3).await;
    assert_eq!((code, &*message), (Code::Cancelled as i32, "request cancelled"));
    let timeout = Some(Duration::from_millis(50));
    let short = request::head(4, "/test.Echo/Wait", &HeaderMap::new(), timeout, None).expect("short");
    let (_, code, _) = raw(&mut near, &[short, request::message(4, b"", true, true)], 4).await;
    assert_eq!(code, Code::DeadlineExceeded as i32);
}

async fn a_hostile_client_harms_nobody((mut near, far): (DataChannel, DataChannel)) {
    let (.., served) = machine(far);
    let oversized = vec![request::message(7, &[0; 65_000], false, false); MAX_MESSAGE / 65_000 + 2];
    let mut frames = vec![
        Bytes::from_static(b"\xff\xff\xff\xff"),
        Bytes::from_static(b"\x00"),
        head(5, "/test.Echo/Unary").slice(..8),
        request::message(99, b"no head", true, true),
        request::reset(98),
        head(5, "no path"),
        head(7, "/test.Echo/Collect"),
    ];
    frames.extend(oversized);
    let (_, code, _) = raw(&mut near, &frames, 7).await;
    assert_eq!(code, Code::ResourceExhausted as i32);
    let twice = [head(8, "/test.Echo/Collect"), head(8, "/test.Echo/Collect")];
    let (_, code, message) = raw(&mut near, &twice, 8).await;
    assert_eq!((code, &*message), (Code::InvalidArgument as i32, "headers already received"));
    // Twenty thousand streams at once: 248 wait, the others are refused as fast as they are read.
    let outgoing = near.outgoing.clone();
    let flood = tokio::spawn(async move {
        for stream in 1000..21_000 {
            outgoing.send(head(stream, "/test.Echo/Collect")).await.expect("open");
        }
    });
    let mut refused = 0;
    while refused < 20_000 - 248 {
        let packet = near.incoming.recv().await.expect("an answer");
        if let Some(Response::Trailers(end)) = read_response(&packet).expect("well-formed").what {
            assert_eq!(end.status.code, Code::ResourceExhausted as i32);
            refused += 1;
        }
    }
    flood.await.expect("no panic");
    let calm = [head(50_000, "/viam.robot.v1.RobotService/GetVersion")];
    let (_, code, _) = raw(&mut near, &calm, 50_000).await;
    assert_eq!(code, Code::Unimplemented as i32, "still answers");
    drop(near);
    served.await.expect("no panic");
}

async fn a_hostile_machine_harms_no_other_call((near, mut far): (DataChannel, DataChannel)) {
    let client = Client(client::link(near));
    let calls: Vec<_> =
        (0..4).map(|_| client.clone()).map(|c| tokio::spawn(async move { c.unary(blob(1, 0)).await })).collect();
    let mut heads = Vec::new();
    while heads.len() < 8 {
        heads.push(far.incoming.recv().await.expect("a request"));
    }
    let head = |id| response::head(id, &HeaderMap::new(), None).expect("short");
    let ok = transport::webrtc::frame::Trailers::default();
    for frame in [
        Bytes::from_static(b"\xff\xff"),
        response::message(1, b"no head", true),
        head(2),
        head(2),
        head(3),
        response::message(3, b"cut off", false),
        response::trailers(3, &ok),
        response::trailers(77, &ok),
        head(4),
        response::message(4, b"\x0a\x01\x07", true),
        response::trailers(4, &ok),
    ] {
        far.outgoing.send(frame).await.expect("open");
    }
    let mut outcomes = Vec::new();
    for call in calls {
        outcomes.push(call.await.expect("no panic").map_err(|status| status.code()));
    }
    let broken = outcomes.iter().filter(|o| **o == Err(Code::Internal)).count();
    let whole = outcomes.iter().filter(|o| matches!(o, Ok(b) if *b == blob(1, 0))).count();
    assert_eq!((broken, whole), (3, 1), "{outcomes:?}");
}
