//! Calls and answers through a signaling service, over real sockets.
#![cfg(feature = "webrtc")]

mod signaling;

use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::transport::Channel;
use transport::webrtc::sdp::Description;
use transport::webrtc::{
    AnswerOptions, CallStage, IcePolicy, IncomingPeer, Mux, PeerOptions, SocketChoice, answer, call,
};

use signaling::Signaling;

const NAME: &str = "m-main.loc1.viam.cloud";
const PATIENCE: Duration = Duration::from_secs(20);

/// Answers offers until the test ends.
fn answering(channel: Channel, options: AnswerOptions) -> mpsc::Receiver<IncomingPeer> {
    let (to, peers) = mpsc::channel(64);
    tokio::spawn(async move {
        answer::run(channel, &[NAME.to_owned()], &options, move |peer| {
            let _ = to.try_send(peer);
        })
        .await
        .expect("names that can be served");
    });
    peers
}

async fn echo(mut peer: IncomingPeer) {
    while let Some(message) = peer.channel.incoming.recv().await {
        if peer.channel.outgoing.send(message).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_machine_is_called_and_both_say_done() {
    let (signaling, channel) = Signaling::start(NAME).await;
    let mut peers = answering(channel.clone(), AnswerOptions::default());
    let mut stages = Vec::new();
    let (options, mut hear) = (PeerOptions::default(), |stage, _| stages.push(stage));
    let called = timeout(PATIENCE, call(channel, NAME, &options, &mut hear)).await;
    let mut called = called.expect("in time").expect("answered");
    let peer = timeout(PATIENCE, peers.recv()).await.expect("in time").expect("answering");
    assert_eq!(peer.caller.entity, format!("whoever calls {NAME}"));
    assert_eq!(stages, [CallStage::Gather, CallStage::Signaling, CallStage::Ice, CallStage::Dtls, CallStage::Channel]);
    tokio::spawn(echo(peer));
    called.channel.outgoing.send(Bytes::from_static(b"hello")).await.expect("open");
    assert_eq!(
        timeout(PATIENCE, called.channel.incoming.recv()).await.expect("in time").as_deref(),
        Some(&b"hello"[..])
    );
    let said = timeout(PATIENCE, async {
        while signaling.seen.lock().expect("whole").done == 0 {
            tokio::task::yield_now().await;
        }
    });
    said.await.expect("said done");
    assert!(signaling.seen.lock().expect("whole").errors.is_empty());
}

#[tokio::test]
async fn twenty_callers_at_once_find_one_machine_behind_one_port() {
    let (_signaling, channel) = Signaling::start(NAME).await;
    let mux = Mux::bind(0).expect("bound");
    let port = mux.port();
    let peer = PeerOptions { socket: SocketChoice::Shared(mux), ..PeerOptions::default() };
    let mut peers = answering(channel.clone(), AnswerOptions { peer, ..AnswerOptions::default() });
    tokio::spawn(async move {
        while let Some(peer) = peers.recv().await {
            tokio::spawn(echo(peer));
        }
    });
    let mut calls = tokio::task::JoinSet::new();
    for i in 0..20u8 {
        let channel = channel.clone();
        calls.spawn(async move {
            let trickle = i % 2 == 0;
            let options = PeerOptions { trickle, timeout: PATIENCE, ..PeerOptions::default() };
            let mut called = call(channel, NAME, &options, &mut |_, _| {}).await.expect("answered");
            called.channel.outgoing.send(Bytes::copy_from_slice(&[i])).await.expect("open");
            assert_eq!(called.channel.incoming.recv().await.as_deref(), Some(&[i][..]));
            called.channel.info.borrow().pair.remote.address.port()
        });
    }
    while let Some(used) = timeout(PATIENCE, calls.join_next()).await.expect("in time") {
        assert_eq!(used.expect("no panic"), port);
    }
}

#[tokio::test]
async fn an_unknown_host_is_a_verdict_and_says_that_there_is_no_signaler() {
    let (_signaling, channel) = Signaling::start(NAME).await;
    let error =
        call(channel, "other.loc1.viam.cloud", &PeerOptions::default(), &mut |_, _| {}).await.expect_err("refused");
    assert!(error.verdict && error.no_signaler, "{error}");
    assert_eq!(error.stage, CallStage::Signaling);
}

#[tokio::test]
async fn a_machine_that_does_not_answer_is_given_up_in_time() {
    let (_signaling, channel) = Signaling::start(NAME).await;
    let options = PeerOptions { timeout: Duration::from_millis(300), ..PeerOptions::default() };
    let error =
        timeout(PATIENCE, call(channel, NAME, &options, &mut |_, _| {})).await.expect("in time").expect_err("nobody");
    assert!(!error.verdict && error.stage == CallStage::Signaling, "{error}");
}

#[tokio::test]
async fn an_offer_that_cannot_be_read_is_refused_and_the_next_one_answered() {
    let (_signaling, channel) = Signaling::start(NAME).await;
    let mut peers = answering(channel.clone(), AnswerOptions::default());

    let garbage = machine_api::proto::rpc::webrtc::v1::CallRequest { sdp: "A".repeat(1 << 20), disable_trickle: false };
    let mut request = tonic::Request::new(garbage);
    request.metadata_mut().insert("rpc-host", NAME.parse().expect("a value"));
    let mut client =
        machine_api::proto::rpc::webrtc::v1::signaling_service_client::SignalingServiceClient::new(channel.clone());
    let mut refused = client.call(request).await.expect("accepted").into_inner();
    let status = timeout(PATIENCE, refused.message()).await.expect("in time").expect_err("refused");
    assert!(status.message().contains("the offer cannot be used"), "{status}");
    let called =
        timeout(PATIENCE, call(channel, NAME, &PeerOptions::default(), &mut |_, _| {})).await.expect("in time");
    called.expect("answered");
    assert!(timeout(PATIENCE, peers.recv()).await.expect("in time").is_some());
}

/// A way to the service that one of its clients takes, and what cuts it.
async fn way(to: std::net::SocketAddr) -> (Channel, tokio::task::AbortHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("bound");
    let carrying = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((mut near, _)) = listener.accept().await {
            connections.spawn(async move {
                let Ok(mut far) = TcpStream::connect(to).await else { return };
                let _ = near.set_nodelay(true).and(far.set_nodelay(true));
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    let channel = Channel::from_shared(format!("http://{at}")).expect("a URL").connect().await.expect("carried");
    (channel, carrying.abort_handle())
}

/// Whoever has the other's description needs the service no more; before that its end is told at once.
#[tokio::test]
async fn signaling_that_dies_at_each_step_ends_the_call_or_harms_it_no_more() {
    let stages = [CallStage::Gather, CallStage::Signaling, CallStage::Ice, CallStage::Dtls];
    for (dies_after, [callers, machines]) in
        stages.into_iter().flat_map(|stage| [[true, false], [false, true], [true, true]].map(|whose| (stage, whose)))
    {
        let (signaling, _channel) = Signaling::start(NAME).await;
        let (callers_way, callers_cut) = way(signaling.address).await;
        let (machines_way, machines_cut) = way(signaling.address).await;
        let mut peers = answering(machines_way, AnswerOptions::default());
        let mut hear = |stage, _| {
            if stage == dies_after {
                if callers {
                    callers_cut.abort();
                }
                if machines {
                    machines_cut.abort();
                }
            }
        };
        let options = PeerOptions { timeout: Duration::from_secs(3), ..PeerOptions::default() };
        let begun = std::time::Instant::now();
        let called = timeout(PATIENCE, call(callers_way, NAME, &options, &mut hear)).await.expect("in time");
        let case = format!("after {dies_after:?}, the caller's: {callers}, the machine's: {machines}");
        match called {
            Ok(called) => {
                assert!(dies_after > CallStage::Gather, "{case}");
                let mut called = called;
                tokio::spawn(echo(timeout(PATIENCE, peers.recv()).await.expect("in time").expect("answering")));
                called.channel.outgoing.send(Bytes::from_static(b"hello")).await.expect("open");
                let back = timeout(PATIENCE, called.channel.incoming.recv()).await.expect("in time");
                assert_eq!(back.as_deref(), Some(&b"hello"[..]), "{case}");
            }
            Err(error) => {
                assert!(dies_after == CallStage::Gather, "{case}: {error}");
                assert!(!error.verdict && error.stage == CallStage::Signaling, "{case}: {error}");
                // Its own way is missed at once; that the machine has lost its own only the machine knows.
                assert!(!callers || begun.elapsed() < Duration::from_secs(1), "{case}: {:?}", begun.elapsed());
            }
        }
    }
}

#[tokio::test]
async fn an_answerer_asks_the_servers_of_the_offer() {
    let (signaling, channel) = Signaling::start(NAME).await;
    let server = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("stun:{}", server.local_addr().expect("bound"));
    signaling
        .servers
        .lock()
        .expect("whole")
        .push(machine_api::proto::rpc::webrtc::v1::IceServer { urls: vec![url], ..Default::default() });
    let mux = Mux::bind(0).expect("bound");
    let port = mux.port();
    let peer = PeerOptions { socket: SocketChoice::Shared(mux), ..PeerOptions::default() };
    let _peers = answering(channel.clone(), AnswerOptions { peer, ..AnswerOptions::default() });
    let options = PeerOptions::default();
    let called = tokio::spawn(async move { call(channel, NAME, &options, &mut |_, _| {}).await });
    let asked = timeout(PATIENCE, async {
        let mut datagram = [0; 64];
        loop {
            let (length, from) = server.recv_from(&mut datagram).await.expect("read");
            if from.port() == port {
                return datagram[..length].to_vec();
            }
        }
    });
    let asked = asked.await.expect("in time");
    assert_eq!(asked[..2], [0, 1], "a binding request");
    called.await.expect("no panic").expect("answered");
}

/// Where only relays are allowed, nobody is told where we are.
#[tokio::test]
async fn a_call_that_may_only_be_relayed_tells_no_address_of_its_own() {
    for trickle in [true, false] {
        let (signaling, channel) = Signaling::start(NAME).await;
        let _peers = answering(channel.clone(), AnswerOptions::default());
        let options = PeerOptions {
            policy: IcePolicy::RelayOnly,
            trickle,
            timeout: Duration::from_millis(500),
            ..PeerOptions::default()
        };
        let error = timeout(PATIENCE, call(channel, NAME, &options, &mut |_, _| {})).await.expect("in time");
        assert!(error.is_err(), "there is no relay");
        let seen = signaling.seen.lock().expect("whole");
        let offer = Description::decode(&seen.offers[0]).expect("an offer");
        assert!(offer.candidates.is_empty() && seen.candidates == 0, "{:?}", offer.candidates);
    }
}
