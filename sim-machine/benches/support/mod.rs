//! A machine in this process, on threads of its own, and a plain tonic client beside ours.

#![allow(dead_code, reason = "each bench uses a part of it")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use machine_api::proto::rpc::v1::auth_service_client::AuthServiceClient;
use machine_api::proto::rpc::v1::{AuthenticateRequest, Credentials};
use machine_host::component::Component;
use machine_host::{Machine, MachineOptions, SafetyOptions, Tls};
use robot_client::{Robot, RobotBuilder};
use rustls::pki_types::ServerName;
use sim_machine::drivers::SimMotor;
use sim_machine::observer::Observer;
use sim_machine::world::{Axes, World};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;
use transport::tls::Trust;

/// The key that every bench uses.
pub const KEY: (&str, &str) = ("7b0a6a0e-3c3f-4f5e-9d51-0d6a1c9f2b11", "lifeline-bench-key");

/// A served machine with a motor `m1`. It ends with this value.
pub struct Served {
    pub machine: Machine,
    pub name: String,
    pub address: SocketAddr,
    pub folder: TempDir,
    shutdown: CancellationToken,
    _runtime: Runtime,
}

impl Served {
    pub fn start(window: Duration, mdns: bool) -> Self {
        Self::with(window, |options| options.mdns = mdns)
    }

    /// One whose options are changed before it starts. Without multicast DNS otherwise.
    pub fn with(window: Duration, change: impl FnOnce(&mut MachineOptions)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let name = format!("bench-{}.loc1.viam.cloud", std::process::id());
        let mut options = MachineOptions::new(name.clone());
        options.bind = "0.0.0.0:0".to_owned();
        options.tls = Tls::Local(folder.path().to_path_buf());
        options.api_keys = [(KEY.0.to_owned(), KEY.1.to_owned())].into();
        options.safety = SafetyOptions { window, ..SafetyOptions::default() };
        options.mdns = false;
        change(&mut options);
        let machine = Machine::new(options).expect("a machine");
        let world = World::new(Observer::none()).expect("a thread");
        let shaft = world.part("motor/m1", Axes::at(&[0.0], 20.0));
        let motor = Component::Motor(Arc::new(SimMotor { shaft, max_rpm: 200.0 }));
        machine.configure("m1", motor).expect("a stop thread");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let shutdown = CancellationToken::new();
        let listening = runtime.block_on(machine.listen()).expect("a port");
        let port = listening.address.expect("tcp").port();
        let ended = shutdown.clone();
        runtime.spawn(async move { listening.serve(ended).await.expect("served") });
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Self { machine, name, address, folder, shutdown, _runtime: runtime }
    }

    /// Our client, by the machine's name.
    pub fn by_name(&self) -> RobotBuilder {
        self.client(&self.name.replace(".viam.cloud", ".local.viam.cloud"))
    }

    /// Our client, at an address.
    pub fn client(&self, address: &str) -> RobotBuilder {
        Robot::builder(address).api_key(KEY.0, KEY.1).trust_ca(self.folder.path().join("ca.pem"))
    }

    /// A plain tonic channel over TLS, its configuration made before.
    pub async fn plain(&self, tls: &TlsConnector) -> Channel {
        connect(tls, &self.name, self.address).await
    }

    /// TLS that trusts this machine alone, with HTTP/2. Both sides of a bench resume sessions that either has had.
    pub fn tls(&self) -> TlsConnector {
        connector(&self.folder.path().join("ca.pem"))
    }

    /// A file with the machine's certificate authority for somebody who was never here: with an authority of its own beside it, so that no TLS
    /// session can be resumed.
    pub fn stranger(&self, which: usize) -> PathBuf {
        // A process keeps eight sets of trusted certificates.
        let path = self.folder.path().join(format!("stranger-{}.pem", which % 16));
        if !path.exists() {
            let ours = std::fs::read_to_string(self.folder.path().join("ca.pem")).expect("a certificate");
            let other = rcgen::generate_simple_self_signed(vec!["nobody".to_owned()]).expect("a certificate");
            std::fs::write(&path, ours + &other.cert.pem()).expect("written");
        }
        path
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A plain tonic channel over a TLS connection of its own to the machine of that name.
pub async fn connect(tls: &TlsConnector, name: &str, address: SocketAddr) -> Channel {
    let (tls, name) = (tls.clone(), ServerName::try_from(name.to_owned()).expect("a name"));
    let connect = service_fn(move |_| {
        let (tls, name) = (tls.clone(), name.clone());
        async move {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, tcp).await?))
        }
    });
    Endpoint::from_static("https://machine").connect_with_connector(connect).await.expect("a channel")
}

/// TLS with HTTP/2 that trusts what is in a file.
pub fn connector(ca: &Path) -> TlsConnector {
    let trust = Trust::default().trust_ca(ca).expect("a certificate");
    TlsConnector::from(trust.client_config().expect("a configuration"))
}

/// The header of somebody who knows the key.
pub async fn authenticate(channel: Channel) -> String {
    let credentials = Credentials { r#type: "api-key".into(), payload: KEY.1.into() };
    let request = AuthenticateRequest { entity: KEY.0.into(), credentials: Some(credentials) };
    let token = AuthServiceClient::new(channel).authenticate(request).await.expect("a token").into_inner();
    format!("Bearer {}", token.access_token)
}

/// Samples of one thing.
#[derive(Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    pub fn add(&mut self, started: Instant) {
        self.0.push(started.elapsed());
    }

    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// The sample below which a share of them lies.
    pub fn at(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index"
        )]
        let at = (share * (sorted.len() - 1) as f64).round() as usize;
        sorted[at]
    }

    pub fn median(&self) -> Duration {
        self.at(0.5)
    }

    pub fn print(&self, what: &str) {
        println!(
            "{what:<48} median {:>10.1?}   p90 {:>10.1?}   p99 {:>10.1?}   n {}",
            self.median(),
            self.at(0.9),
            self.at(0.99),
            self.0.len()
        );
    }
}

/// Prints a bar and whether it is passed.
pub fn bar(what: &str, measured: Duration, bound: Duration) {
    let passed = if measured <= bound { "passed" } else { "MISSED" };
    println!("bar: {what:<60} {measured:>10.1?} of {bound:>8.1?}  {passed}");
}
