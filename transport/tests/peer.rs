//! What a link makes of a peer's limits and goodbyes, against bare HTTP/2 frames.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use transport::{Address, Body, ConnectOptions, Lane, Link, Security, Target, direct};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;

/// The server's end of a connection, frame by frame.
struct Peer(TcpStream);

impl Peer {
    async fn send(&mut self, kind: u8, stream: u32, payload: &[u8]) {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, 0]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.write_all(&frame).await.unwrap();
    }

    /// The kind and stream of the next frame.
    async fn receive(&mut self) -> (u8, u32) {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).await.unwrap();
        (head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]))
    }

    /// The stream of the next call.
    async fn call(&mut self) -> u32 {
        loop {
            if let (HEADERS, stream) = self.receive().await {
                return stream;
            }
        }
    }
}

/// A link to a peer that allows so many streams.
async fn linked(streams: u32) -> (Link, Peer) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target { address: Address::Tcp(listener.local_addr().unwrap()), security: Security::Clear };
    let link = direct::connect(&target, &ConnectOptions::default(), &mut |_, _| {}).await.unwrap();
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut preface = [0; 24];
    socket.read_exact(&mut preface).await.unwrap();
    let mut peer = Peer(socket);
    let mut most = vec![0, 3];
    most.extend(streams.to_be_bytes());
    peer.send(SETTINGS, 0, &most).await;
    (link, peer)
}

fn request() -> http::Request<Body> {
    let mut request = http::Request::new(Body::new(Full::new(Bytes::from_static(&[0; 5]))));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_static("/viam.component.base.v1.BaseService/SetVelocity");
    request
}

async fn failed(call: tokio::task::JoinHandle<Result<http::Response<Body>, transport::CallError>>) -> bool {
    let ended = tokio::time::timeout(Duration::from_secs(5), call).await.expect("never a hang");
    ended.unwrap().expect_err("no answer").never_written
}

#[tokio::test]
async fn a_call_that_a_goodbye_excludes_was_never_written_and_one_that_it_includes_may_have_run() {
    let (link, mut peer) = linked(100).await;
    let calls: Vec<_> = (0..2).map(|_| tokio::spawn(link.call(request(), Lane::Ordinary))).collect();
    let (first, second) = (peer.call().await, peer.call().await);
    assert!(first < second);
    let mut goodbye = first.to_be_bytes().to_vec();
    goodbye.extend(0u32.to_be_bytes());
    peer.send(GOAWAY, 0, &goodbye).await;
    let mut calls = calls.into_iter();
    let (included, excluded) = (calls.next().unwrap(), calls.next().unwrap());
    assert!(failed(excluded).await);
    drop(peer);
    assert!(!failed(included).await);
}

#[tokio::test]
async fn a_refused_stream_was_never_written_and_a_reset_one_may_have_run() {
    let (link, mut peer) = linked(100).await;
    for (code, never_written) in [(7u32, true), (8, false), (2, false)] {
        let call = tokio::spawn(link.call(request(), Lane::Ordinary));
        let stream = peer.call().await;
        peer.send(RST_STREAM, stream, &code.to_be_bytes()).await;
        assert_eq!(failed(call).await, never_written, "code {code}");
    }
}

#[tokio::test]
async fn ordinary_calls_leave_eight_streams_of_those_that_the_peer_allows() {
    let (link, mut peer) = linked(20).await;
    // A call that was answered left after the limit was read.
    tokio::spawn(link.call(request(), Lane::Ordinary));
    let first = peer.call().await;
    peer.send(RST_STREAM, first, &8_u32.to_be_bytes()).await;
    for _ in 0..30 {
        tokio::spawn(link.call(request(), Lane::Ordinary));
    }
    for _ in 0..12 {
        peer.call().await;
    }
    let more = tokio::time::timeout(Duration::from_millis(100), peer.call());
    assert!(more.await.is_err(), "twelve ordinary calls are out");
    tokio::spawn(link.call(request(), Lane::Reserved));
    tokio::time::timeout(Duration::from_secs(5), peer.call()).await.expect("a Stop finds a stream");
}

#[tokio::test]
async fn a_call_and_its_message_come_in_one_packet() {
    let (link, mut peer) = linked(100).await;
    // The acknowledgement of the limits is out of the way.
    while peer.receive().await.0 != SETTINGS {}
    while peer.receive().await.0 != SETTINGS {}
    for _ in 0..3 {
        tokio::spawn(link.call(request(), Lane::Ordinary));
        let mut packet = [0; 4096];
        let read = peer.0.read(&mut packet).await.unwrap();
        let head = u32::from_be_bytes([0, packet[0], packet[1], packet[2]]) as usize;
        assert_eq!((packet[3], packet[4] & END_STREAM), (HEADERS, 0));
        let data = &packet[9 + head..read];
        assert_eq!((data.len(), data[3], data[4]), (9 + 5, DATA, END_STREAM), "the message is there and complete");
    }
}

#[tokio::test]
async fn what_never_left_was_never_written() {
    let (link, _peer) = linked(100).await;
    let mut call = std::pin::pin!(link.call(request(), Lane::Ordinary));
    // The connection's task has no turn in between.
    assert!(futures_util::poll!(&mut call).is_pending());
    link.sever("cut in time");
    assert!(call.await.expect_err("cut").never_written);

    let (link, mut peer) = linked(100).await;
    let call = tokio::spawn(link.call(request(), Lane::Ordinary));
    peer.call().await;
    link.sever("cut too late");
    assert!(!failed(call).await, "it may have run");
}

#[tokio::test]
async fn a_body_that_comes_in_pieces_ends_with_its_call() {
    let (link, mut peer) = linked(100).await;
    let (pieces, body) = tokio::sync::mpsc::channel(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(body);
    let mut streaming = request();
    *streaming.body_mut() = Body::new(http_body_util::StreamBody::new(stream));
    let call = tokio::spawn(link.call(streaming, Lane::Ordinary));
    let stream = peer.call().await;
    for piece in [&b"one"[..], b"two"] {
        let frame = http_body::Frame::data(Bytes::from_static(piece));
        pieces.send(Ok::<_, tonic::Status>(frame)).await.unwrap();
        while peer.receive().await != (DATA, stream) {}
    }
    call.abort();
    while peer.receive().await != (RST_STREAM, stream) {}
    tokio::time::timeout(Duration::from_secs(5), pieces.closed()).await.expect("nobody reads the rest");
}
