//! From nothing to the first answer: our client by name, over mDNS, TLS and an api key, beside plain tonic that is told the address and does
//! the same steps by hand. Cold dials make a full TLS handshake; who remembers address and token, and plain tonic beside it, resume the TLS
//! session of the dial before. `cargo bench -p sim-machine --bench dial`.

mod support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use discovery::{FinderOptions, Memory};
use machine_api::viam::robot::v1::GetVersionRequest;
use machine_api::viam::robot::v1::robot_service_client::RobotServiceClient;
use robot_client::NoTokens;
use support::{Samples, Served, authenticate, bar, connector};

/// Set in the process that dials once and ends.
const ONCE: &str = "LIFELINE_BENCH_DIAL";

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    if let Ok(once) = std::env::var(ONCE) {
        return runtime.block_on(dial_once(&once));
    }
    let served = Served::start(Duration::from_secs(2), true);
    // The responder is there when it has answered once.
    runtime.block_on(async { served.by_name().connect().await.expect("found").close().await });
    let (mut ours, mut at_address, mut remembered, mut plain, mut with_token, mut process) = Default::default();
    let cache = tempfile::tempdir().expect("a folder");
    let rounds = 200;
    runtime.block_on(async {
        let address = format!("localhost:{}", served.address.port());
        let bearer = authenticate(served.plain(&served.tls()).await).await;
        for round in 0..rounds {
            let stranger = served.stranger(round);
            // Whoever comes first after a pause finds everything cold: the order goes round.
            for place in 0..5 {
                match (round + place) % 5 {
                    0 => by_hand(&served, &served.stranger(round + 5), &mut plain).await,
                    1 => {
                        let cold = served.by_name().trust_ca(&stranger).tokens(NoTokens);
                        dial(cold.remember_addresses(false), &mut ours).await;
                    }
                    2 => {
                        let memory = Some(Memory::at(cache.path()));
                        let finder = FinderOptions { memory, ..FinderOptions::default() };
                        dial(served.by_name().finder(finder), &mut remembered).await;
                    }
                    3 => by_hand_with_token(&served, &bearer, &mut with_token).await,
                    _ => {
                        let cold = served.client(&address).trust_ca(served.stranger(round + 10)).tokens(NoTokens);
                        dial(cold, &mut at_address).await;
                    }
                }
                // A machine answers fifty dials a second on each interface, not more.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    });
    for _ in 0..20 {
        from_exec(&served, &mut process);
    }
    plain.print("plain tonic, address known");
    with_token.print("plain tonic, address and token known");
    at_address.print("ours, host:port");
    ours.print("ours, by name over mDNS");
    remembered.print("ours, by name, address and token remembered");
    process.print("ours, by name, from exec to exit of a process");
    let above = |ours: &Samples, plain: &Samples| ours.median().saturating_sub(plain.median());
    bar("cold dial by name, above plain tonic", above(&ours, &plain), Duration::from_millis(4));
    bar("address and token remembered, above plain tonic", above(&remembered, &with_token), Duration::from_micros(500));
}

async fn dial(builder: robot_client::RobotBuilder, samples: &mut Samples) {
    let started = Instant::now();
    let robot = builder.connect().await.expect("connected");
    RobotServiceClient::new(robot.channel()).get_version(GetVersionRequest {}).await.expect("answered");
    samples.add(started);
    robot.close().await;
}

/// TCP, TLS 1.3, Authenticate, one call.
async fn by_hand(served: &Served, ca: &Path, samples: &mut Samples) {
    let started = Instant::now();
    let channel = served.plain(&connector(ca)).await;
    let bearer = authenticate(channel.clone()).await;
    let mut request = tonic::Request::new(GetVersionRequest {});
    request.metadata_mut().insert("authorization", bearer.parse().expect("a header"));
    RobotServiceClient::new(channel).get_version(request).await.expect("answered");
    samples.add(started);
}

/// TCP, TLS 1.3, one call.
async fn by_hand_with_token(served: &Served, bearer: &str, samples: &mut Samples) {
    let started = Instant::now();
    let channel = served.plain(&served.tls()).await;
    let mut request = tonic::Request::new(GetVersionRequest {});
    request.metadata_mut().insert("authorization", bearer.parse().expect("a header"));
    RobotServiceClient::new(channel).get_version(request).await.expect("answered");
    samples.add(started);
}

fn from_exec(served: &Served, samples: &mut Samples) {
    let name = served.name.replace(".viam.cloud", ".local.viam.cloud");
    let ca = served.folder.path().join("ca.pem");
    let started = Instant::now();
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    let status = command.env(ONCE, format!("{name} {}", ca.display())).status().expect("started");
    assert!(status.success());
    samples.add(started);
}

async fn dial_once(what: &str) {
    let (name, ca) = what.split_once(' ').expect("a name and a file");
    let builder = robot_client::Robot::builder(name).api_key(support::KEY.0, support::KEY.1).trust_ca(ca);
    let builder = builder.remember_addresses(false);
    let robot = builder.connect().await.expect("connected");
    RobotServiceClient::new(robot.channel()).get_version(GetVersionRequest {}).await.expect("answered");
}
