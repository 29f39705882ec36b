//! gRPC over the data channels of real peer connections on loopback.
#![cfg(feature = "webrtc")]

mod conformance;
mod signaling;

use conformance::suite;
use signaling::Signaling;
use tokio::sync::{Mutex, mpsc};
use transport::webrtc::{AnswerOptions, PeerOptions, answer, call};

const NAME: &str = "m-main.loc1.viam.cloud";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_connections_conform() {
    let (_signaling, channel) = Signaling::start(NAME).await;
    let (to, peers) = mpsc::channel(64);
    let answering = channel.clone();
    tokio::spawn(async move {
        let options = AnswerOptions::default();
        let names = [NAME.to_owned()];
        let run = answer::run(answering, &names, &options, move |peer| {
            let _ = to.try_send(peer);
        });
        run.await.expect("names that can be served");
    });
    let peers = Mutex::new(peers);
    suite(|| async {
        let called = call(channel.clone(), NAME, &PeerOptions::default(), &mut |_, _| {}).await.expect("answered");
        let peer = peers.lock().await.recv().await.expect("answering");
        (called.channel, peer.channel)
    })
    .await;
}
