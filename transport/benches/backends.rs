//! Both implementations of a peer connection, each with itself and with the other one, on loopback under the same driver: connecting,
//! round trips, bulk. `cargo bench -p transport --features webrtc-rs --bench backends`.

#[path = "../tests/common/mod.rs"]
mod common;
mod cost;
#[path = "../tests/signaling/mod.rs"]
mod signaling;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::NAME;
use cost::cpu;
use tokio::sync::mpsc;
use transport::webrtc::mux::ALONE;
use transport::webrtc::{
    AnswerOptions, Backend, DataChannel, IncomingPeer, Mux, PeerOptions, SocketChoice, answer, call,
};

const DIALS: usize = 50;
const PINGS: usize = 5_000;
const BULK: usize = 64 << 20;

fn median(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100]
}

/// Two ends that were connected by the caller's and the machine's implementation, and how long the call took.
async fn pair(
    channel: &tonic::transport::Channel,
    caller: Backend,
    peers: &mut mpsc::Receiver<IncomingPeer>,
) -> (DataChannel, DataChannel, Duration) {
    let options = PeerOptions { backend: caller, ..PeerOptions::default() };
    let began = Instant::now();
    let called = call(channel.clone(), NAME, &options, &mut |_, _| {}).await.expect("answered");
    let took = began.elapsed();
    (called.channel, peers.recv().await.expect("answering").channel, took)
}

async fn pings(near: &mut DataChannel, far: &mut DataChannel) -> Duration {
    let message = Bytes::from(vec![1; 100]);
    let mut times = Vec::with_capacity(PINGS);
    for _ in 0..PINGS {
        let began = Instant::now();
        near.outgoing.send(message.clone()).await.expect("open");
        let there = far.incoming.recv().await.expect("open");
        far.outgoing.send(there).await.expect("open");
        near.incoming.recv().await.expect("open");
        times.push(began.elapsed());
    }
    median(&mut times, 50)
}

/// MB/s, and the CPU time of both ends per MB.
async fn bulk(near: &DataChannel, far: &mut DataChannel) -> (f64, Duration) {
    let message = Bytes::from(vec![7; ALONE]);
    let count = BULK / message.len();
    let (began, used) = (Instant::now(), cpu());
    let send = async {
        for _ in 0..count {
            near.outgoing.send(message.clone()).await.expect("open");
        }
    };
    let receive = async {
        let mut left = count * message.len();
        while left > 0 {
            left -= far.incoming.recv().await.expect("open").len();
        }
    };
    tokio::join!(send, receive);
    let megabytes = (count * message.len()) as f64 / 1e6;
    (megabytes / began.elapsed().as_secs_f64(), (cpu() - used).div_f64(megabytes))
}

async fn measure(caller: Backend, machine: Backend) {
    let (_signaling, channel) = signaling::Signaling::start(NAME).await;
    let (to, mut peers) = mpsc::channel(64);
    let answering = channel.clone();
    tokio::spawn(async move {
        // As a machine has it: one socket for all callers.
        let socket = SocketChoice::Shared(Mux::bind(0).expect("a port"));
        let peer = PeerOptions { backend: machine, socket, ..PeerOptions::default() };
        let options = AnswerOptions { peer, ..AnswerOptions::default() };
        let names = [NAME.to_owned()];
        let _ = answer::run(answering, &names, &options, move |peer| {
            let _ = to.try_send(peer);
        })
        .await;
    });
    let mut dials = Vec::new();
    for _ in 0..DIALS {
        dials.push(pair(&channel, caller, &mut peers).await.2);
    }
    let (mut near, mut far, _) = pair(&channel, caller, &mut peers).await;
    let ping = pings(&mut near, &mut far).await;
    let (rate, cost) = bulk(&near, &mut far).await;
    println!(
        "{:<9} to {:<9} connect {:>7.1?} / {:>7.1?} (median / p95, n {DIALS})   100 bytes there and back {ping:>7.1?}   65,000 bytes one way {rate:>4.0} MB/s, {cost:>6.1?} CPU a MB",
        format!("{caller:?}"),
        format!("{machine:?}"),
        median(&mut dials, 50),
        median(&mut dials, 95),
    );
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    for caller in [Backend::Str0m, Backend::WebrtcRs] {
        for machine in [Backend::Str0m, Backend::WebrtcRs] {
            measure(caller, machine).await;
        }
    }
}
