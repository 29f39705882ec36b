//! gRPC over the data channels of real peer connections on loopback.
#![cfg(feature = "webrtc")]

mod conformance;
mod signaling;

use conformance::suite;
use signaling::Signaling;
use tokio::sync::{Mutex, mpsc};
use transport::webrtc::{AnswerOptions, Backend, PeerOptions, answer, call};

const NAME: &str = "m-main.loc1.viam.cloud";

/// Runs the suite over peer connections, the caller's and the machine's made by these.
async fn conform(caller: Backend, machine: Backend) {
    let (_signaling, channel) = Signaling::start(NAME).await;
    let (to, peers) = mpsc::channel(64);
    let answering = channel.clone();
    tokio::spawn(async move {
        let peer = PeerOptions { backend: machine, ..PeerOptions::default() };
        let options = AnswerOptions { peer, ..AnswerOptions::default() };
        let names = [NAME.to_owned()];
        let run = answer::run(answering, &names, &options, move |peer| {
            let _ = to.try_send(peer);
        });
        run.await.expect("names that can be served");
    });
    let peers = Mutex::new(peers);
    let options = PeerOptions { backend: caller, ..PeerOptions::default() };
    suite(|| async {
        let called = call(channel.clone(), NAME, &options, &mut |_, _| {}).await.expect("answered");
        let peer = peers.lock().await.recv().await.expect("answering");
        (called.channel, peer.channel)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_connections_conform() {
    conform(Backend::Str0m, Backend::Str0m).await;
}

#[cfg(feature = "webrtc-rs")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_of_webrtc_rs_conform() {
    conform(Backend::WebrtcRs, Backend::WebrtcRs).await;
}

#[cfg(feature = "webrtc-rs")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_of_webrtc_rs_conforms() {
    conform(Backend::WebrtcRs, Backend::Str0m).await;
}

#[cfg(feature = "webrtc-rs")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_of_webrtc_rs_conforms() {
    conform(Backend::Str0m, Backend::WebrtcRs).await;
}
