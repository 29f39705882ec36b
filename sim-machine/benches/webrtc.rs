//! From nothing to the first answer over WebRTC, on loopback: our client by a name that only a cloud on the same host knows, and the same
//! steps through the machine's own signaling, by hand. TLS and an api key are part of all of them. `cargo bench -p sim-machine --bench webrtc`.

mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use discovery::FinderOptions;
use machine_api::viam::robot::v1::GetVersionRequest;
use machine_api::viam::robot::v1::robot_service_client::RobotServiceClient;
use machine_host::{CloudAccount, CloudIdentity};
use robot_client::{NoTokens, Robot, RobotBuilder};
use sim_machine::cloud::{Cloud, CloudOptions, User};
use support::{Samples, Served, authenticate, bar};
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::service::interceptor::InterceptedService;
use transport::webrtc::PeerOptions;
use transport::{Lane, Link};

/// Dials of each kind.
const ROUNDS: usize = 500;

/// A cloud on threads of its own, and a machine that is registered there.
struct Clouded {
    machine: Served,
    address: String,
    ca: PathBuf,
    user: User,
    ended: CancellationToken,
    _runtime: tokio::runtime::Runtime,
    _folder: tempfile::TempDir,
}

impl Clouded {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut options = CloudOptions::new(folder.path().to_path_buf());
        options.bind = "127.0.0.1:0".to_owned();
        options.machines = vec![format!("bench-{}.loc1.viam.cloud", std::process::id())];
        options.relay = None;
        options.rate.calls = 100_000;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let cloud = runtime.block_on(Cloud::open(options)).expect("a port");
        let address = format!("localhost:{}", cloud.address.port());
        let (user, part) = (cloud.state.users[0].clone(), cloud.state.machines[0].clone());
        let (ended, ca) = (CancellationToken::new(), folder.path().join("ca.pem"));
        runtime.spawn(cloud.serve(ended.clone()));
        let account = CloudAccount {
            identity: CloudIdentity::Part,
            url: address.clone(),
            id: part.id,
            secret: part.secret,
            ca_file: Some(ca.clone()),
        };
        let machine = Served::with(Duration::from_secs(2), |options| {
            options.api_keys.insert(user.id.clone(), user.key.clone());
            options.cloud = Some(account);
        });
        Self { machine, address, ca, user, ended, _runtime: runtime, _folder: folder }
    }

    /// Our client, which finds the machine through the cloud alone.
    fn client(&self) -> RobotBuilder {
        let nowhere = FinderOptions { mdns: false, dns: false, memory: None, ..FinderOptions::default() };
        let builder = Robot::builder(&self.machine.name).api_key(&self.user.id, &self.user.key).tokens(NoTokens);
        builder.trust_ca(&self.ca).cloud(&self.address).finder(nowhere)
    }
}

impl Drop for Clouded {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

fn main() {
    let clouded = Clouded::start();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let (mut ours, mut own) = (Samples::default(), Samples::default());
    runtime.block_on(async {
        registered(&clouded).await;
        for _ in 0..ROUNDS {
            dial(&clouded, &mut ours).await;
            through_its_own(&clouded.machine, &mut own).await;
        }
    });
    ours.print("ours, by name through a cloud, connect() and a call");
    own.print("through the machine's own signaling, by hand");
    bar("WebRTC dial, median", ours.median(), Duration::from_millis(12));
    bar("WebRTC dial, p99", ours.at(0.99), Duration::from_millis(40));
    bar("through the machine's own signaling, median", own.median(), Duration::from_millis(12));
    bar("through the machine's own signaling, p99", own.at(0.99), Duration::from_millis(40));
}

/// Waits until the machine waits for callers.
async fn registered(clouded: &Clouded) {
    let started = Instant::now();
    loop {
        match clouded.client().initial_attempts(1).connect().await {
            Ok(robot) => return robot.close().await,
            Err(error) => assert!(started.elapsed() < Duration::from_secs(10), "{error}"),
        }
    }
}

async fn dial(clouded: &Clouded, samples: &mut Samples) {
    let builder = clouded.client();
    let started = Instant::now();
    let robot = builder.connect().await.expect("connected");
    RobotServiceClient::new(robot.channel()).get_version(GetVersionRequest {}).await.expect("answered");
    samples.add(started);
    let route = robot.route().expect("connected");
    assert!(route.contains("WebRTC"), "{route}");
    robot.close().await;
}

/// TCP, TLS 1.3, Authenticate, the exchange, one call on the channel.
async fn through_its_own(machine: &Served, samples: &mut Samples) {
    let tls = support::connector(&machine.folder.path().join("ca.pem"));
    let started = Instant::now();
    let channel = machine.plain(&tls).await;
    let bearer: tonic::metadata::MetadataValue<_> = authenticate(channel.clone()).await.parse().expect("a header");
    let signaling = InterceptedService::new(channel, move |mut request: Request<()>| {
        request.metadata_mut().insert("authorization", bearer.clone());
        Ok(request)
    });
    let called = transport::webrtc::call(signaling, &machine.name, &PeerOptions::default(), &mut |_, _| {}).await;
    let (link, _control) = called.expect("called").link();
    version(&link).await;
    samples.add(started);
    link.sever("measured");
}

async fn version(link: &Link) {
    let link = link.clone();
    let on_link = tower::service_fn(move |request| {
        let reply = link.call(request, Lane::Ordinary);
        async move { reply.await.map_err(|error| error.status) }
    });
    RobotServiceClient::new(on_link).get_version(GetVersionRequest {}).await.expect("answered");
}
