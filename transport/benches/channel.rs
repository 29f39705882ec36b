//! gRPC over a data channel beside its bare channel and beside our direct link over TLS, in one run.
//! `cargo bench -p transport --bench channel`.

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/conformance/mod.rs"]
mod conformance;
mod cost;
mod library;
#[cfg(feature = "webrtc")]
#[path = "../tests/signaling/mod.rs"]
mod signaling;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{NAME, identity};
use conformance::service::{Client, Seen, blob, service};
use cost::cpu;
use library::Library;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use transport::serve::{Listener, ServeOptions, serve};
use transport::tls::{Trust, server_config};
use transport::webrtc::mux::ALONE;
use transport::webrtc::{DataChannel, PairLimits};
use transport::{Address, ConnectOptions, Lane, Security, Target, direct};

/// The part that shows what gRPC itself costs.
const MEMORY: &str = "in memory";

/// Times of one thing.
#[derive(Default)]
struct Samples(Vec<Duration>);

impl Samples {
    fn at(&mut self, percent: usize) -> Duration {
        self.0.sort_unstable();
        self.0[(self.0.len() - 1) * percent / 100]
    }

    fn print(&mut self, what: &str) -> Duration {
        let (median, p99) = (self.at(50), self.at(99));
        println!("{what:<52} median {median:>9.1?}   p99 {p99:>9.1?}   n {}", self.0.len());
        median
    }
}

/// A figure that is only told. A queue in memory does none of a peer connection's work, so nothing is held to its times.
fn told(what: &str, ratio: f64) {
    println!("{what:<52} {ratio:>9.2}");
}

fn bar(what: &str, ratio: f64, bound: f64, at_most: bool) {
    let kept = if at_most { ratio <= bound } else { ratio >= bound };
    let sign = if at_most { "<=" } else { ">=" };
    println!("{what:<52} {ratio:>9.2}   bar {sign} {bound}: {}", if kept { "kept" } else { "MISSED" });
}

/// As in the field: a machine is another process, and a client's links have a thread of their own, apart from what the user runs.
#[derive(Clone)]
struct Sides {
    machine: Handle,
    stack: Handle,
}

fn main() {
    let workers = |threads| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(threads).enable_all().build().expect("a runtime")
    };
    let (machine, library, user) = (workers(2), workers(1), workers(1));
    let sides = Sides { machine: machine.handle().clone(), stack: library.handle().clone() };
    user.block_on(user.spawn(async move {
        measure(&sides, MEMORY, || async { DataChannel::pair(PairLimits::default()) }).await;
        #[cfg(feature = "webrtc")]
        over_peers(&sides).await;
    }))
    .expect("no panic");
}

/// Over peer connections on loopback.
#[cfg(feature = "webrtc")]
async fn over_peers(sides: &Sides) {
    use transport::webrtc::{AnswerOptions, PeerOptions, answer, call};
    let (_signaling, channel) = signaling::Signaling::start(NAME).await;
    let (to, peers) = tokio::sync::mpsc::channel(64);
    let answering = channel.clone();
    sides.machine.spawn(async move {
        let (names, options) = ([NAME.to_owned()], AnswerOptions::default());
        let run = answer::run(answering, &names, &options, move |peer| {
            let _ = to.try_send(peer);
        });
        run.await.expect("names that can be served");
    });
    let peers = std::sync::Arc::new(tokio::sync::Mutex::new(peers));
    measure(sides, "peer connections on loopback", move || {
        let (channel, peers) = (channel.clone(), peers.clone());
        async move {
            let called = call(channel, NAME, &PeerOptions::default(), &mut |_, _| {}).await.expect("answered");
            let peer = peers.lock().await.recv().await.expect("answering");
            (called.channel, peer.channel)
        }
    })
    .await;
}

/// A link over TLS to the same service on loopback.
async fn over_tls(sides: &Sides) -> Client {
    let identity = identity(NAME);
    let tls = server_config(identity.chain.as_bytes(), identity.key.as_bytes()).expect("a configuration");
    let listener = sides.machine.spawn(TcpListener::bind("127.0.0.1:0")).await.expect("no panic").expect("a port");
    let address = listener.local_addr().expect("an address");
    let options = ServeOptions { tls: Some(tls), ..ServeOptions::default() };
    let service = service(Seen::default());
    sides.machine.spawn(serve(Listener::Tcp(listener), service, options, |_| {}, CancellationToken::new()));
    let trust = Trust::system().trust_pem(identity.ca.as_bytes()).expect("an authority");
    let config = trust.client_config().expect("a configuration");
    let security = Security::Tls { config, name: NAME.try_into().expect("a name") };
    let target = Target { address: Address::Tcp(address), security };
    let connecting = async move { direct::connect(&target, &ConnectOptions::default(), &mut |_, _| {}).await };
    Client(sides.stack.spawn(connecting).await.expect("no panic").expect("a link"))
}

async fn measure<F>(sides: &Sides, what: &str, pair: impl Fn() -> F)
where
    F: Future<Output = (DataChannel, DataChannel)> + Send + 'static,
{
    // As `cargo bench -- NAME` has it.
    if std::env::args().skip(1).filter(|word| !word.starts_with('-')).any(|word| !what.contains(&word)) {
        return;
    }
    println!("\n{what}");
    let pair = || {
        let made = sides.stack.spawn(pair());
        async { made.await.expect("no panic") }
    };
    let (near, far) = pair().await;
    let (_seen, _events, _shutdown, _served) =
        sides.machine.spawn(async { conformance::machine(far) }).await.expect("no panic");
    let link = sides.stack.spawn(async { transport::webrtc::service::link(near) }).await.expect("no panic");
    let channel = Client(link);
    let direct = over_tls(sides).await;
    let connected = what != MEMORY;
    unary(&channel, &direct, pair().await, connected).await;
    throughput(&channel, &direct, pair().await, connected).await;
    let client = channel.clone();
    let bulk = tokio::spawn(async move {
        loop {
            let one = futures_util::stream::iter([blob(machine_api::MAX_MESSAGE - 5, 0)]);
            let mut sum = client.stream("/test.Echo/Collect", one).await.expect("begun");
            sum.message().await.expect("a sum");
        }
    });
    sides.stack.spawn(beats(channel)).await.expect("no panic");
    bulk.abort();
}

async fn unary(channel: &Client, direct: &Client, bare: (DataChannel, DataChannel), connected: bool) {
    let (mut near, mut far) = bare;
    let echo = tokio::spawn(async move {
        while let Some(message) = far.incoming.recv().await {
            far.outgoing.send(message).await.expect("open");
        }
    });
    let mut samples: [Samples; 3] = Default::default();
    for round in 0..12_000 {
        for place in 0..3 {
            let which = (round + place) % 3;
            let started = Instant::now();
            match which {
                0 => {
                    near.outgoing.send(Bytes::from_static(&[7; 100])).await.expect("open");
                    near.incoming.recv().await.expect("echoed");
                }
                1 => drop(direct.unary(blob(100, 0)).await.expect("an answer")),
                _ => drop(channel.unary(blob(100, 0)).await.expect("an answer")),
            }
            if round >= 2_000 {
                samples[which].0.push(started.elapsed());
            }
        }
    }
    drop(near);
    echo.await.expect("no panic");
    let [bare, direct, channel] = &mut samples;
    let bare = bare.print("ping-pong of 100 bytes, bare channel");
    let direct = direct.print("unary call, direct over TLS");
    let channel = channel.print("unary call, over the channel");
    bar("unary over the channel / direct over TLS", channel.as_secs_f64() / direct.as_secs_f64(), 1.3, true);
    let (what, ratio) = ("unary over the channel / bare ping-pong", channel.as_secs_f64() / bare.as_secs_f64());
    if connected { bar(what, ratio, 2.5, true) } else { told(what, ratio) }
}

/// MB/s, and the processor time of both ends per MB.
#[derive(Clone, Copy)]
struct Bulk {
    rate: f64,
    cost: Duration,
}

impl Bulk {
    const NONE: Self = Self { rate: 0.0, cost: Duration::MAX };

    /// So much in this time and for this, or what was better before.
    fn or(self, megabytes: f64, took: Duration, used: Duration) -> Self {
        let (rate, cost) = (megabytes / took.as_secs_f64(), used.div_f64(megabytes));
        Self { rate: self.rate.max(rate), cost: self.cost.min(cost) }
    }

    fn print(self, what: &str) {
        println!("{what:<52} {:>9.0} MB/s   {:>7.1?} CPU a MB", self.rate, self.cost);
    }
}

/// 256 MiB in messages of so many bytes to a machine that counts them: one call that streams them. What they carry is made before the clock runs.
async fn collected(client: &Client, size: usize, messages: usize) -> Duration {
    let all: Vec<_> = vec![blob(size, 0); messages];
    let began = Instant::now();
    let mut sum = client.stream("/test.Echo/Collect", futures_util::stream::iter(all)).await.expect("begun");
    let sum = sum.message().await.expect("a sum").expect("one").number as usize;
    assert_eq!(sum, size * messages);
    began.elapsed()
}

/// 256 MiB in packets, and in messages: as large as images are, and as large as messages may be.
async fn throughput(channel: &Client, direct: &Client, bare: (DataChannel, DataChannel), connected: bool) {
    const MESSAGES: [(&str, usize, usize); 2] =
        [("messages of 4 MiB", 4 << 20, 64), ("messages of 32 MiB", machine_api::MAX_MESSAGE - 5, 8)];
    const PACKETS: usize = (256 << 20) / ALONE;
    let of_packets = (PACKETS * ALONE) as f64 / 1e6;
    let (near, mut far) = bare;
    let mut library = connected.then(Library::connect);
    let (mut alone, mut best) = ([Bulk::NONE; 2], [[Bulk::NONE; 2]; 2]);
    for _ in 0..3 {
        if let Some(library) = &mut library {
            let used = cpu();
            let took = tokio::task::block_in_place(|| library.carry(PACKETS, ALONE));
            alone[0] = alone[0].or(of_packets, took, cpu() - used);
        }
        let (began, used) = (Instant::now(), cpu());
        let reader = async {
            for _ in 0..PACKETS {
                far.incoming.recv().await.expect("open");
            }
        };
        let writer = async {
            for _ in 0..PACKETS {
                near.outgoing.send(vec![7; ALONE].into()).await.expect("open");
            }
        };
        tokio::join!(reader, writer);
        alone[1] = alone[1].or(of_packets, began.elapsed(), cpu() - used);
        for (best, (_, size, messages)) in best.iter_mut().zip(MESSAGES) {
            for (best, client) in best.iter_mut().zip([direct, channel]) {
                let used = cpu();
                let took = collected(client, size, messages).await;
                *best = best.or((size * messages) as f64 / 1e6, took, cpu() - used);
            }
        }
    }
    let [library, bare] = alone;
    if connected {
        library.print("packets of 65,000 bytes, str0m by itself");
    }
    bare.print("packets of 65,000 bytes, bare channel");
    for ([direct, channel], (what, ..)) in best.into_iter().zip(MESSAGES) {
        direct.print(&format!("{what}, direct over TLS"));
        channel.print(&format!("{what}, over the channel"));
        let rate = channel.rate / bare.rate.max(library.rate);
        if connected {
            bar("throughput over the channel / the faster bare one", rate, 0.85, false);
            bar("CPU a MB over the channel / str0m by itself", channel.cost.div_duration_f64(library.cost), 1.0, true);
            told("CPU a MB over the channel / bare channel", channel.cost.div_duration_f64(bare.cost));
        } else {
            told("throughput over the channel / bare channel", rate);
        }
    }
}

/// Reserved calls every 10 ms while messages of 32 MiB go the same way.
async fn beats(channel: Client) {
    let mut samples = Samples::default();
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    for _ in 0..500 {
        // From the time at which it was due.
        let due = tick.tick().await;
        channel.call(Lane::Reserved, "/test.Echo/Unary", Request::new(blob(20, 0))).await.expect("a beat");
        samples.0.push(due.elapsed());
    }
    samples.print("a beat while a message of 32 MiB is in flight");
    bar("its p99, in ms", samples.at(99).as_secs_f64() * 1e3, 20.0, true);
}
