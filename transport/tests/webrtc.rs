//! Calls and answers through a signaling service, over real sockets.
#![cfg(feature = "webrtc")]

mod signaling;

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::transport::Channel;
use transport::webrtc::{AnswerOptions, CallStage, IncomingPeer, Mux, PeerOptions, SocketChoice, answer, call};

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
