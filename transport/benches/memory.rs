//! What an idle peer connection holds: both ends of two hundred, with all that gRPC needs, beside as many of the library's alone, which face each
//! other without sockets or tasks. Each kind in a process of its own, from what the system says it holds.
//! `cargo bench -p transport --features webrtc --bench memory`.

#[path = "../tests/conformance/mod.rs"]
mod conformance;
#[path = "../tests/signaling/mod.rs"]
mod signaling;

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use conformance::service::{Client, blob};
use tokio::sync::mpsc;
use transport::webrtc::peer::str0m::Str0m;
use transport::webrtc::peer::{Event, LocalCandidate, Peer, Role};
use transport::webrtc::{AnswerOptions, Mux, PeerOptions, SocketChoice, answer, call};

const NAME: &str = "m-main.loc1.viam.cloud";
/// Pairs of peers.
const PAIRS: usize = 200;
/// Pairs before them: what is there once, for every thread, is not theirs.
const WARM: usize = 16;
/// Set in the processes that hold them.
const KIND: &str = "LIFELINE_BENCH_PEERS";

fn main() {
    match std::env::var(KIND).as_deref() {
        Ok("bare") => bare(),
        Ok(_) => ours(),
        Err(_) => compare(),
    }
}

fn compare() {
    let held = |kind: &str| {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        let output = command.env(KIND, kind).output().expect("started");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.trim().parse::<f64>().unwrap_or_else(|_| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)))
    };
    let mut medians = [0.0; 2];
    for (median, kind) in medians.iter_mut().zip(["bare", "ours"]) {
        let mut each: Vec<f64> = (0..5).map(|_| held(kind)).collect();
        each.sort_by(f64::total_cmp);
        *median = each[2];
        println!("{kind:<52} {:>9.1} KiB a peer   {:.1} to {:.1}, n 5", each[2], each[0], each[4]);
    }
    let ratio = medians[1] / medians[0];
    let verdict = if ratio <= 1.5 { "kept" } else { "MISSED" };
    println!("{:<52} {ratio:>9.2}   bar <= 1.5: {verdict}", "a peer with its calls / a bare one");
}

/// Memory that this process holds, in KiB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Says what each peer holds, of which there are two in a pair.
fn tell(before: f64) {
    println!("{:.3}", (resident() - before) / (2 * PAIRS) as f64);
}

/// The addresses of this computer, as ours offers them: each pair of them is memory.
fn hosts() -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> =
        if_addrs::get_if_addrs().expect("interfaces").iter().map(if_addrs::Interface::ip).collect();
    ips.retain(|ip| !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()));
    ips
}

/// Two of the library's connections, their channels open.
fn opened() -> [Str0m; 2] {
    let now = Instant::now();
    let mut peers = [Role::Caller, Role::Answerer].map(|role| Str0m::new(role, now).expect("made"));
    for (peer, port) in peers.iter_mut().zip([1, 2]) {
        for ip in hosts() {
            peer.add_local(LocalCandidate::Host(SocketAddr::new(ip, port)), now);
        }
    }
    let offer = peers[0].offer();
    let answer = peers[1].answer(&offer, now).expect("answered");
    peers[0].accept(&answer, now).expect("accepted");
    for (peer, port) in peers.iter_mut().zip([2, 1]) {
        for ip in hosts() {
            let of = is::Candidate::host(SocketAddr::new(ip, port), "udp").expect("a candidate");
            peer.add_remote(&of, now);
        }
    }
    let mut open = [false; 2];
    let started = Instant::now();
    while open != [true; 2] {
        assert!(started.elapsed() < Duration::from_secs(5), "they do not open");
        for (from, is_open) in open.iter_mut().enumerate() {
            let now = Instant::now();
            let mut sent = Vec::new();
            peers[from].handle_timeout(now);
            peers[from].drain(now, &mut |local, remote, bytes| sent.push((local, remote, bytes.to_vec())));
            while let Some(event) = peers[from].poll_event() {
                *is_open |= event == Event::Open;
            }
            for (local, remote, bytes) in sent {
                peers[1 - from].handle_datagram(remote, local, &bytes, now);
            }
        }
    }
    peers
}

fn bare() {
    let first: Vec<_> = (0..WARM).map(|_| opened()).collect();
    let before = resident();
    let pairs: Vec<[Str0m; 2]> = (0..PAIRS).map(|_| opened()).collect();
    tell(before);
    drop((first, pairs));
}

/// Each has made a call, and waits for the next one.
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn ours() {
    let (_signaling, channel) = signaling::Signaling::start(NAME).await;
    let (to, mut peers) = mpsc::channel(64);
    let answering = channel.clone();
    tokio::spawn(async move {
        let socket = SocketChoice::Shared(Mux::bind(0).expect("a port"));
        let options =
            AnswerOptions { peer: PeerOptions { socket, ..PeerOptions::default() }, ..AnswerOptions::default() };
        let names = [NAME.to_owned()];
        let run = answer::run(answering, &names, &options, move |peer| {
            let _ = to.try_send(peer);
        });
        run.await.expect("names that can be served");
    });
    let mut pairs = Vec::new();
    let mut before = 0.0;
    for number in 0..WARM + PAIRS {
        if number == WARM {
            before = resident();
        }
        let called = call(channel.clone(), NAME, &PeerOptions::default(), &mut |_, _| {}).await.expect("answered");
        let peer = peers.recv().await.expect("answering");
        let served = conformance::machine(peer.channel);
        let client = Client(transport::webrtc::service::link(called.channel));
        client.unary(blob(100, 0)).await.expect("an answer");
        pairs.push((client, called.control, peer.control, served));
    }
    // What arranged the last of them is over.
    tokio::time::sleep(Duration::from_secs(6)).await;
    tell(before);
    drop(pairs);
}
