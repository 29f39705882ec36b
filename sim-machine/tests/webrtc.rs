//! A machine that is called over WebRTC: through its own signaling, and through its cloud's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use discovery::FinderOptions;
use machine_api::proto::rpc::v1::auth_service_client::AuthServiceClient;
use machine_api::proto::rpc::v1::{AuthenticateRequest, Credentials};
use machine_api::proto::rpc::webrtc::v1::OptionalWebRtcConfigRequest;
use machine_api::proto::rpc::webrtc::v1::signaling_service_client::SignalingServiceClient;
use machine_api::viam::component::motor::v1::SetPowerRequest;
use machine_api::viam::component::motor::v1::motor_service_client::MotorServiceClient;
use machine_api::viam::robot::v1::robot_service_client::RobotServiceClient;
use machine_api::viam::robot::v1::{
    GetSessionsRequest, ResourceNamesRequest, SendSessionHeartbeatRequest, StartSessionRequest,
};
use machine_host::component::Component;
use machine_host::{CloudAccount, CloudIdentity, Machine, MachineOptions, SafetyOptions};
use robot_client::{ConnectErrorKind, Robot, Tier};
use sim_machine::cloud::{Cloud, CloudOptions, RelayOptions, State, User};
use sim_machine::drivers::SimMotor;
use sim_machine::observer::Observer;
use sim_machine::world::{Axes, Body, Part, World};
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tower::service_fn;
use transport::tls::Trust;
use transport::webrtc::{CandidateKind, Control, IcePolicy, IceServer, PeerOptions, TurnFilter};
use transport::{Address, ConnectOptions, Lane, Link, Security, Target, direct};

const NAME: &str = "rtc-main.loc1.viam.cloud";
const W: Duration = Duration::from_millis(400);

struct Served {
    address: String,
    shaft: Part<Axes>,
    shutdown: CancellationToken,
}

impl Served {
    async fn start(change: impl FnOnce(&mut MachineOptions)) -> Self {
        let mut options = MachineOptions::new(NAME);
        options.bind = "127.0.0.1:0".to_owned();
        options.mdns = false;
        options.safety = SafetyOptions { window: W, ..SafetyOptions::default() };
        change(&mut options);
        let machine = Machine::new(options).expect("a machine");
        let world = World::new(Observer::none()).expect("a thread");
        let shaft = world.part("motor/m1".to_owned(), Axes::at(&[0.0], f64::INFINITY));
        let motor = SimMotor { shaft: shaft.clone(), max_rpm: 200.0 };
        machine.configure("m1", Component::Motor(Arc::new(motor))).expect("a stop thread");
        let listening = machine.listen().await.expect("a port");
        let address = format!("http://{}", listening.address.expect("tcp"));
        let shutdown = CancellationToken::new();
        tokio::spawn(listening.serve(shutdown.clone()));
        Self { address, shaft, shutdown }
    }

    fn moves(&self) -> bool {
        self.shaft.read(Body::is_moving)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn channel(address: &str) -> Channel {
    Endpoint::from_shared(address.to_owned()).expect("an address").connect_lazy()
}

async fn token(address: &str, id: &str, key: &str) -> String {
    let credentials = Credentials { r#type: "api-key".into(), payload: key.into() };
    let request = AuthenticateRequest { entity: id.into(), credentials: Some(credentials) };
    let reply = AuthServiceClient::new(channel(address)).authenticate(request).await;
    reply.expect("known").into_inner().access_token
}

/// Signaling at `address`, with a token in every call.
fn signaling(
    address: &str,
    token: String,
) -> InterceptedService<Channel, impl FnMut(Request<()>) -> Result<Request<()>, Status> + Clone + use<>> {
    InterceptedService::new(channel(address), move |mut request: Request<()>| {
        let bearer = format!("Bearer {token}").parse().map_err(|_| Status::internal("no header"))?;
        request.metadata_mut().insert("authorization", bearer);
        Ok(request)
    })
}

/// gRPC clients on a link.
macro_rules! on {
    ($client:ident, $link:expr) => {{
        let link: Link = $link.clone();
        $client::new(service_fn(move |request| {
            let reply = link.call(request, Lane::Ordinary);
            async move { reply.await.map_err(|error| error.status) }
        }))
    }};
}

async fn until(what: &str, happened: impl Fn() -> bool) {
    let started = Instant::now();
    while !happened() {
        assert!(started.elapsed() < Duration::from_secs(5), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn through_its_own_signaling_it_is_driven_and_stops_when_the_connection_ends() {
    let served = Served::start(|_| {}).await;
    for host in [NAME, "rtc-main.loc1.local.viam.cloud", "rtc-main.loc1.local.viam.cloud:8080", "127.0.0.1:1"] {
        let options = PeerOptions::default();
        let called = transport::webrtc::call(channel(&served.address), host, &options, &mut |_, _| {}).await;
        let (link, _control) = called.unwrap_or_else(|e| panic!("{host}: {e}")).link();
        let resources = on!(RobotServiceClient, link).resource_names(ResourceNamesRequest {}).await;
        assert_eq!(resources.expect("answered").into_inner().resources.len(), 1, "{host}");
    }
    let options = PeerOptions::default();
    let called = transport::webrtc::call(channel(&served.address), "other.viam.cloud", &options, &mut |_, _| {}).await;
    let refused = called.expect_err("another machine's name").to_string();
    assert!(refused.contains("host not preconfigured"), "{refused}");

    let called = transport::webrtc::call(channel(&served.address), NAME, &PeerOptions::default(), &mut |_, _| {}).await;
    let (link, control) = called.expect("called").link();
    // Without a session: what it moved stops when its connection ends.
    let power = SetPowerRequest { name: "m1".into(), power_pct: 0.5, extra: None };
    on!(MotorServiceClient, link).set_power(power.clone()).await.expect("driven");
    until("the motor turns", || served.moves()).await;
    link.sever("the test");
    drop((link, control));
    until("the motor stops with the connection", || !served.moves()).await;

    // With a session that nobody beats: within its window, while the connection stays.
    let called = transport::webrtc::call(channel(&served.address), NAME, &PeerOptions::default(), &mut |_, _| {}).await;
    let (link, _control) = called.expect("called").link();
    let session = on!(RobotServiceClient, link).start_session(StartSessionRequest::default()).await.expect("started");
    let mut request = Request::new(power);
    request.metadata_mut().insert("viam-sid", session.into_inner().id.parse().expect("ascii"));
    on!(MotorServiceClient, link).set_power(request).await.expect("driven");
    until("the motor turns", || served.moves()).await;
    until("the motor stops with the session", || !served.moves()).await;
}

/// What a firewall has to let through is one port, which whoever sets it up knows before.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_reached_at_the_udp_port_that_it_was_given_and_says_when_that_is_taken() {
    let free = std::net::UdpSocket::bind("[::]:0").expect("a port");
    let port = free.local_addr().expect("bound").port();
    let mut options = MachineOptions::new(NAME);
    (options.bind, options.mdns, options.webrtc_port) = ("127.0.0.1:0".to_owned(), false, port);
    let listening = Machine::new(options).expect("a machine").listen().await;
    let taken = match listening {
        Ok(listening) => listening.serve(CancellationToken::new()).await.expect_err("the port is taken").to_string(),
        Err(error) => error.to_string(),
    };
    assert!(taken.contains(&format!("UDP port {port} (WebRTC)")), "{taken}");
    drop(free);
    let served = Served::start(|options| options.webrtc_port = port).await;
    let options = PeerOptions::default();
    let called = transport::webrtc::call(channel(&served.address), NAME, &options, &mut |_, _| {}).await;
    let (link, _control) = called.expect("called").link();
    assert_eq!(link.pair().expect("WebRTC").remote.address.port(), port);
}

/// A cloud in a box, with STUN and TURN, and a machine that is registered there.
struct Clouded {
    cloud: String,
    user: User,
    token: String,
    machine: Served,
    ended: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Clouded {
    async fn start(change: impl FnOnce(&mut CloudOptions)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut options = CloudOptions::new(folder.path().to_path_buf());
        options.bind = "127.0.0.1:0".to_owned();
        options.no_tls = true;
        options.machines = vec![NAME.to_owned()];
        options.relay = Some(RelayOptions { port: 0, public: None });
        change(&mut options);
        let cloud = Cloud::open(options).await.expect("ports");
        let (address, state) = (format!("http://{}", cloud.address), cloud.state.clone());
        let ended = CancellationToken::new();
        tokio::spawn(cloud.serve(ended.clone()));
        let State { users, machines } = state;
        let (user, part) = (users[0].clone(), &machines[0]);
        let machine = Served::start(|options| {
            options.api_keys = [(user.id.clone(), user.key.clone())].into();
            options.cloud = Some(CloudAccount {
                identity: CloudIdentity::Part,
                url: address.clone(),
                id: part.id.clone(),
                secret: part.secret.clone(),
                ca_file: None,
            });
        })
        .await;
        let token = token(&address, &user.id, &user.key).await;
        Self { cloud: address, user, token, machine, ended, _folder: folder }
    }

    /// Calls the machine as its user, again until it is registered.
    async fn call(&self, options: &PeerOptions) -> (Link, Control) {
        let started = Instant::now();
        loop {
            let by_cloud = signaling(&self.cloud, self.token.clone());
            match transport::webrtc::call(by_cloud, NAME, options, &mut |_, _| {}).await {
                Ok(called) => return called.link(),
                Err(error) => assert!(started.elapsed() < Duration::from_secs(5), "{options:?}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Clouded {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

/// What the Flutter SDK does at each connection.
#[tokio::test(flavor = "multi_thread")]
async fn s86_of_two_sessions_the_unused_one_lapses_without_effect() {
    let served = Served::start(|_| {}).await;
    let called = transport::webrtc::call(channel(&served.address), NAME, &PeerOptions::default(), &mut |_, _| {}).await;
    let (link, _control) = called.expect("called").link();
    let mut robot = on!(RobotServiceClient, link);
    let unused = robot.start_session(StartSessionRequest::default()).await.expect("accepted").into_inner().id;
    let used = robot.start_session(StartSessionRequest::default()).await.expect("accepted").into_inner().id;
    assert_ne!(unused, used);
    let mut request = Request::new(SetPowerRequest { name: "m1".into(), power_pct: 0.5, extra: None });
    request.metadata_mut().insert("viam-sid", used.parse().expect("ascii"));
    on!(MotorServiceClient, link).set_power(request).await.expect("driven");
    let started = Instant::now();
    let beat = |id: &str| SendSessionHeartbeatRequest { id: id.to_owned() };
    while started.elapsed() < 3 * W {
        robot.send_session_heartbeat(beat(&used)).await.expect("held");
        tokio::time::sleep(W / 8).await;
        assert!(started.elapsed() < W / 4 || served.moves(), "{:?}", started.elapsed());
    }
    let lapsed = robot.send_session_heartbeat(beat(&unused)).await.expect_err("lapsed");
    assert_eq!(lapsed.message(), "SESSION_EXPIRED");
    drop(robot);
    until("the motor stops with the session that was used", || !served.moves()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn through_the_cloud_a_user_is_the_same_on_every_route() {
    let clouded = Clouded::start(|_| {}).await;
    let (link, _control) = clouded.call(&PeerOptions::default()).await;
    let session = on!(RobotServiceClient, link).start_session(StartSessionRequest::default()).await.expect("started");
    let id = session.into_inner().id;
    // The same key on a direct connection owns the session that began over WebRTC; beating it there proves it.
    let (user, machine) = (&clouded.user, &clouded.machine.address);
    let mut direct = RobotServiceClient::new(signaling(machine, token(machine, &user.id, &user.key).await));
    let beat = SendSessionHeartbeatRequest { id: id.clone() };
    direct.send_session_heartbeat(beat).await.expect("its own session");
    let sessions = direct.get_sessions(GetSessionsRequest {}).await.expect("answered").into_inner().sessions;
    assert!(sessions.iter().any(|session| session.id == id), "{sessions:?}");

    let options = PeerOptions::default();
    let stranger = transport::webrtc::call(channel(&clouded.cloud), NAME, &options, &mut |_, _| {}).await;
    let refused = stranger.expect_err("no token");
    assert!(refused.to_string().contains("authentication required"), "{refused}");
}

impl Clouded {
    /// Calls with these options, which may only use relays, and drives; `how` is for messages.
    async fn is_driven_by_relay(&self, how: &str, options: PeerOptions) {
        let options = PeerOptions { policy: IcePolicy::RelayOnly, ..options };
        let (link, _control) = self.call(&options).await;
        let pair = link.pair().expect("WebRTC");
        assert_eq!(pair.local.kind, CandidateKind::Relayed, "{how}: {pair}");
        let power = SetPowerRequest { name: "m1".into(), power_pct: 0.5, extra: None };
        on!(MotorServiceClient, link).set_power(power).await.expect("driven");
        until("the motor turns", || self.machine.moves()).await;
        link.sever("the test");
        until("the motor stops with the connection", || !self.machine.moves()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn through_relays_alone_it_is_driven() {
    let clouded = Clouded::start(|_| {}).await;
    for tcp in [false, true] {
        let turn = TurnFilter { tcp, ..TurnFilter::default() };
        clouded
            .is_driven_by_relay(if tcp { "TCP" } else { "UDP" }, PeerOptions { turn, ..PeerOptions::default() })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn through_a_relay_over_tls_it_is_driven() {
    let clouded = Clouded::start(|options| options.relay = None).await;
    // The relay of another cloud, which has a certificate.
    let folder = tempfile::tempdir().expect("a folder");
    let mut options = CloudOptions::new(folder.path().to_path_buf());
    options.bind = "127.0.0.1:0".to_owned();
    options.machines = vec![NAME.to_owned()];
    options.relay = Some(RelayOptions { port: 0, public: None });
    let other = Cloud::open(options).await.expect("ports");
    let (address, user) = (other.address, other.state.users[0].clone());
    let url = other.ice_urls.iter().find(|url| url.starts_with("turns:")).expect("over TLS").clone();
    let ended = CancellationToken::new();
    let _guard = ended.clone().drop_guard();
    tokio::spawn(other.serve(ended));
    let trust = Trust::system().trust_ca(&folder.path().join("ca.pem")).expect("an authority");
    let config = trust.client_config().expect("a configuration");
    let security = Security::Tls { config: config.clone(), name: "localhost".try_into().expect("a name") };
    let target = Target { address: Address::Tcp(address), security };
    let link = direct::connect(&target, &ConnectOptions::default(), &mut |_, _| {}).await.expect("a link");
    let credentials = Credentials { r#type: "api-key".into(), payload: user.key };
    let request = AuthenticateRequest { entity: user.id, credentials: Some(credentials) };
    let token = on!(AuthServiceClient, link).authenticate(request).await.expect("known").into_inner().access_token;
    let mut request = Request::new(OptionalWebRtcConfigRequest {});
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ascii"));
    request.metadata_mut().insert("rpc-host", NAME.parse().expect("ascii"));
    let config_of = on!(SignalingServiceClient, link).optional_web_rtc_config(request).await.expect("allowed");
    let servers = config_of.into_inner().config.expect("a configuration").additional_ice_servers;
    let turn = servers.into_iter().find(|server| server.urls.contains(&url)).expect("TURN");
    let server = IceServer { urls: vec![url], username: turn.username, credential: turn.credential };
    let options = PeerOptions { ice_servers: vec![server], turn_tls: Some(config), ..PeerOptions::default() };
    clouded.is_driven_by_relay("TLS", options).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_says_which_candidates_and_relays_its_robot_uses() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut options = CloudOptions::new(folder.path().to_path_buf());
    options.bind = "127.0.0.1:0".to_owned();
    options.machines = vec![NAME.to_owned()];
    options.relay = Some(RelayOptions { port: 0, public: None });
    let cloud = Cloud::open(options).await.expect("ports");
    let (at, ca) = (format!("localhost:{}", cloud.address.port()), folder.path().join("ca.pem"));
    let State { users, machines } = cloud.state.clone();
    let ended = CancellationToken::new();
    let _guard = ended.clone().drop_guard();
    tokio::spawn(cloud.serve(ended));
    let (url, part) = (format!("https://{at}"), &machines[0]);
    // The other tests' machines prove themselves by their part's secret.
    let key = part.api_key.clone().expect("made with the part");
    let identity = CloudIdentity::ApiKey;
    let account = CloudAccount { url, identity, id: key.id, secret: key.key, ca_file: Some(ca.clone()) };
    let _machine = Served::start(|options| {
        options.api_keys = [(users[0].id.clone(), users[0].key.clone())].into();
        options.cloud = Some(account);
    })
    .await;
    let nowhere = FinderOptions { mdns: false, dns: false, memory: None, ..FinderOptions::default() };
    let client = || {
        let builder = Robot::builder(NAME).api_key(&users[0].id, &users[0].key).trust_ca(&ca).cloud(&at);
        builder.finder(nowhere.clone()).initial_attempts(20)
    };
    for (policy, kind) in [
        (IcePolicy::All, CandidateKind::Host),
        (IcePolicy::NoRelay, CandidateKind::Host),
        (IcePolicy::RelayOnly, CandidateKind::Relayed),
    ] {
        let robot = client().ice_policy(policy).connect().await.expect("connected");
        let link = robot.link().expect("connected");
        assert_eq!(link.tier == Tier::WebRtcRelayed, kind == CandidateKind::Relayed, "{policy:?}: {link:?}");
        robot.close().await;
    }
    let another = TurnFilter { uri: Some("turn:another.example:3478".to_owned()), ..TurnFilter::default() };
    let relayed = client().ice_policy(IcePolicy::RelayOnly).turn_filter(another).initial_attempts(1);
    let error = relayed.dial_timeout(Duration::from_secs(2)).connect().await.expect_err("no relay is left");
    assert_eq!(error.kind(), ConnectErrorKind::Unreachable);
}
