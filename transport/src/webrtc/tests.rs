//! Two connections in one process over loopback UDP, signaling in memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::channel::DataChannel;
use super::driver::{Command, Connection, Control, Report, answer, offer};
use super::options::{IceServer, PeerOptions, SocketChoice};
use super::socket::Mux;

/// Longer than anything here takes on a machine that does nothing else.
const PATIENCE: Duration = Duration::from_secs(20);

struct Side {
    channel: DataChannel,
    control: Control,
}

/// Runs a connection until it is open; its candidates go to the other side.
async fn open(own: Connection, peer: super::lane::Sender<Command>, trickle: bool) -> Side {
    own.commands.send(Command::Servers(Vec::new())).await.expect("driven");
    run(own, peer, trickle).await
}

async fn run(mut own: Connection, peer: super::lane::Sender<Command>, trickle: bool) -> Side {
    while let Some(report) = own.reports.recv().await {
        match report {
            Report::Candidate(text) if trickle => {
                let _ = peer.send(Command::Remote(vec![text])).await;
            }
            Report::Open(channel, control) => return Side { channel, control },
            Report::Ended(why) => panic!("{why}"),
            _ => {}
        }
    }
    panic!("the driver ended without a word");
}

async fn pair(caller: &PeerOptions, answerer: &PeerOptions) -> (Side, Side) {
    let (near, offered) = offer(caller).expect("offered");
    let (far, answered) = answer(answerer, &offered).expect("answered");
    near.commands.send(Command::Accept(Box::new(answered))).await.expect("driven");
    let (to_near, to_far) = (near.commands.clone(), far.commands.clone());
    timeout(PATIENCE, async { tokio::join!(open(near, to_far, true), open(far, to_near, true)) })
        .await
        .expect("in time")
}

async fn echo(mut side: Side) {
    while let Some(message) = side.channel.incoming.recv().await {
        if side.channel.outgoing.send(message).await.is_err() {
            return;
        }
    }
}

async fn ping(side: &mut Side, bytes: usize) {
    let message = Bytes::from(vec![7; bytes]);
    side.channel.outgoing.send(message.clone()).await.expect("open");
    let back = timeout(PATIENCE, side.channel.incoming.recv()).await.expect("in time");
    assert_eq!(back, Some(message));
}

#[tokio::test]
async fn two_peers_find_each_other_and_carry_messages_of_every_length() {
    let (mut near, far) = pair(&PeerOptions::default(), &PeerOptions::default()).await;
    assert!(!near.channel.info.borrow().pair.is_relayed());
    tokio::spawn(echo(far));
    for bytes in [0, 1, 100, 1200, 16_384, 65_000, 65_535] {
        ping(&mut near, bytes).await;
    }
    assert!(near.control.probe().await.is_some());
}

#[tokio::test]
async fn the_first_message_is_kept_where_it_is_sent_at_once() {
    for _ in 0..20 {
        let (near, mut far) = pair(&PeerOptions::default(), &PeerOptions::default()).await;
        near.channel.outgoing.send(Bytes::from_static(b"first")).await.expect("open");
        let got = timeout(PATIENCE, far.channel.incoming.recv()).await.expect("in time");
        assert_eq!(got.as_deref(), Some(&b"first"[..]));
    }
}

#[tokio::test]
async fn a_shared_socket_carries_many_connections_at_one_port() {
    let mux = Mux::bind(0).expect("bound");
    let machine = PeerOptions { socket: SocketChoice::Shared(mux.clone()), ..PeerOptions::default() };
    let mut sides = Vec::new();
    for _ in 0..5 {
        let (near, far) = pair(&PeerOptions::default(), &machine).await;
        assert_eq!(near.channel.info.borrow().pair.remote.address.port(), mux.port());
        tokio::spawn(echo(far));
        sides.push(near);
    }
    for side in &mut sides {
        ping(side, 1000).await;
    }
}

#[tokio::test]
async fn an_end_in_order_reaches_the_peer_at_once() {
    let (near, far) = pair(&PeerOptions::default(), &PeerOptions::default()).await;
    let mut closed = far.channel.closed.clone();
    drop(near);
    let why = timeout(Duration::from_secs(5), closed.wait_for(Option::is_some)).await.expect("in time");
    assert_eq!(why.expect("told").clone(), Some(crate::CloseReason::ByPeer));
}

#[tokio::test]
async fn a_severed_connection_ends_with_its_reason() {
    let (near, _far) = pair(&PeerOptions::default(), &PeerOptions::default()).await;
    near.channel.sever.sever("a test");
    let mut closed = near.channel.closed.clone();
    let why = timeout(PATIENCE, closed.wait_for(Option::is_some)).await.expect("in time");
    assert_eq!(why.expect("told").clone(), Some(crate::CloseReason::Severed("a test")));
}

#[test]
fn a_peer_that_falls_silent_is_given_up_within_the_bound() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("made");
    let (own, other) = (runtime(), runtime());
    let options = PeerOptions::default();
    let (near, offered) = own.block_on(async { offer(&options) }).expect("offered");
    let (far, answered) = other.block_on(async { answer(&options, &offered) }).expect("answered");
    let (near, _far) = own.block_on(async {
        near.commands.send(Command::Accept(Box::new(answered))).await.expect("driven");
        let (to_near, to_far) = (near.commands.clone(), far.commands.clone());
        tokio::join!(open(near, to_far, true), open(far, to_near, true))
    });
    near.channel.silence.bound(Duration::from_secs(2));
    let mut closed = near.channel.closed.clone();
    // It answers checks, whatever else it does.
    let lives =
        own.block_on(async { timeout(Duration::from_secs(2), closed.wait_for(Option::is_some)).await.is_err() });
    assert!(lives);
    // As a process that is killed: nothing is said.
    other.shutdown_background();
    let why = own.block_on(async { timeout(Duration::from_secs(4), closed.wait_for(Option::is_some)).await });
    let why = why.expect("in time").expect("told").clone();
    assert!(matches!(why, Some(crate::CloseReason::Broken(_))), "{why:?}");
}

#[tokio::test]
async fn ice_restarts_over_the_negotiation_channel_while_messages_go_on() {
    let (mut near, far) = pair(&PeerOptions::default(), &PeerOptions::default()).await;
    tokio::spawn(echo(far));
    ping(&mut near, 100).await;
    for _ in 0..3 {
        assert!(near.control.restart_ice().await, "answered");
        ping(&mut near, 100).await;
        assert!(near.control.probe().await.is_some(), "with the new credentials");
    }
}

#[tokio::test]
async fn a_megabyte_goes_each_way_and_arrives_whole() {
    let (mut near, far) = pair(&PeerOptions::default(), &PeerOptions::default()).await;
    tokio::spawn(echo(far));
    let outgoing = near.channel.outgoing.clone();
    let sender = tokio::spawn(async move {
        for i in 0..256u32 {
            let mut message = vec![0; 16 << 10];
            message[..4].copy_from_slice(&i.to_be_bytes());
            outgoing.send(message.into()).await.expect("open");
        }
    });
    for i in 0..256u32 {
        let message = timeout(PATIENCE, near.channel.incoming.recv()).await.expect("in time").expect("open");
        assert_eq!((message.len(), &message[..4]), (16 << 10, &i.to_be_bytes()[..]));
    }
    sender.await.expect("sent");
}

/// Carries datagrams to and from a peer at `far`, only STUN while `swallows`.
async fn carry(socket: tokio::net::UdpSocket, far: SocketAddr, swallows: Arc<AtomicBool>) {
    let (mut buffer, mut near) = (vec![0; 2048], None);
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await.expect("a datagram");
        let to = if from == far { near } else { Some(far) };
        if from != far {
            near = Some(from);
        }
        let swallowed = swallows.load(Ordering::Relaxed) && buffer[0] > 3;
        if let (Some(to), false) = (to, swallowed) {
            let _ = socket.send_to(&buffer[..length], to).await;
        }
    }
}

#[tokio::test]
async fn data_that_is_swallowed_on_a_path_that_answers_is_stalled() {
    let (near, mut offered) = offer(&PeerOptions::default()).expect("offered");
    offered.candidates.clear();
    let (far, mut answered) = answer(&PeerOptions::default(), &offered).expect("answered");
    let between = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let port = between.local_addr().expect("bound").port();
    // The peer's port is the same at each of its addresses.
    let told = answered.candidates.first().and_then(|c| c.split_whitespace().nth(5)?.parse().ok());
    let far_at = SocketAddr::from(([127, 0, 0, 1], told.expect("a candidate")));
    answered.candidates = vec![format!("candidate:1 1 udp 2130706431 127.0.0.1 {port} typ host")];
    let swallows = Arc::new(AtomicBool::new(false));
    tokio::spawn(carry(between, far_at, swallows.clone()));
    near.commands.send(Command::Accept(Box::new(answered))).await.expect("driven");
    let (to_near, to_far) = (near.commands.clone(), far.commands.clone());
    let opened = async { tokio::join!(open(near, to_far, false), open(far, to_near, false)) };
    let (mut near, far) = timeout(PATIENCE, opened).await.expect("in time");
    tokio::spawn(echo(far));
    ping(&mut near, 100).await;
    let mut stalled = near.control.stalled();
    let acknowledged = near.control.last_acknowledged().expect("a message was");
    assert!(!*stalled.borrow());
    swallows.store(true, Ordering::Relaxed);
    near.channel.outgoing.send(Bytes::from_static(b"swallowed")).await.expect("open");
    timeout(Duration::from_secs(2), stalled.wait_for(|s| *s)).await.expect("in time").expect("alive");
    assert!(near.control.probe().await.is_some(), "the path answers");
    assert_eq!(near.control.last_acknowledged(), Some(acknowledged));
    swallows.store(false, Ordering::Relaxed);
    timeout(PATIENCE, stalled.wait_for(|s| !s)).await.expect("in time").expect("alive");
    let back = timeout(PATIENCE, near.channel.incoming.recv()).await.expect("in time");
    assert_eq!(back.as_deref(), Some(&b"swallowed"[..]));
}

/// A STUN server that answers one question, and only `when` it is let.
async fn see(socket: tokio::net::UdpSocket, mapped: SocketAddr, when: tokio::sync::oneshot::Receiver<()>) {
    let mut question = [0; 64];
    let (_, from) = socket.recv_from(&mut question).await.expect("asked");
    let SocketAddr::V4(mapped) = mapped else { panic!("an IPv4 address") };
    let _ = when.await;
    let mut answer = vec![1, 1, 0, 12];
    answer.extend_from_slice(&question[4..20]);
    answer.extend_from_slice(&[0, 1, 0, 8, 0, 1]);
    answer.extend_from_slice(&mapped.port().to_be_bytes());
    answer.extend_from_slice(&mapped.ip().octets());
    // An attribute without a mask, as of servers from before it.
    socket.send_to(&answer, from).await.expect("answered");
}

/// Signaling carries nothing but the descriptions here; it is over when the channel opens. What a server saw before and after that is told all the same.
#[tokio::test]
async fn what_signaling_does_not_carry_the_ends_tell_each_other() {
    for late in [false, true] {
        for by_caller in [false, true] {
            let bind = |ip: &'static str| tokio::net::UdpSocket::bind((ip, 0));
            let (server, outside) = (bind("127.0.0.1").await.expect("bound"), bind("127.0.0.2").await.expect("bound"));
            let url = format!("stun:{}", server.local_addr().expect("bound"));
            let told = IceServer { urls: vec![url], username: String::new(), credential: String::new() };
            let (answers, when) = tokio::sync::oneshot::channel();
            tokio::spawn(see(server, outside.local_addr().expect("bound"), when));
            let options = PeerOptions::default();
            let (near, offered) = offer(&options).expect("offered");
            let (far, answered) = answer(&options, &offered).expect("answered");
            near.commands.send(Command::Accept(Box::new(answered))).await.expect("driven");
            let (asks, other) = if by_caller { (&near, &far) } else { (&far, &near) };
            asks.commands.send(Command::Servers(options.servers(&[told]))).await.expect("driven");
            other.commands.send(Command::Servers(Vec::new())).await.expect("driven");
            let mut answers = Some(answers);
            if !late {
                answers.take().expect("once").send(()).expect("waits");
            }
            let (to_near, to_far) = (near.commands.clone(), far.commands.clone());
            let opened = async { tokio::join!(run(near, to_far, false), run(far, to_near, false)) };
            let (near, _far) = timeout(PATIENCE, opened).await.expect("in time");
            if let Some(answers) = answers {
                answers.send(()).expect("waits");
            }
            // Whoever was told checks what it was told of.
            let mut check = [0; 512];
            let (length, from) =
                timeout(PATIENCE, outside.recv_from(&mut check)).await.expect("in time").expect("read");
            assert_eq!(check[..length].first_chunk(), Some(&[0, 1]), "late {late}, by the caller {by_caller}");
            let pair = near.channel.info.borrow().pair;
            let told = if by_caller { pair.remote } else { pair.local };
            assert_eq!(from.port(), told.address.port(), "late {late}, by the caller {by_caller}");
        }
    }
}
