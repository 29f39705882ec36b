//! The cloud in a box over real sockets, with raw clients: who may do what there, and what it lends.

use std::net::SocketAddr;
use std::time::Duration;

use machine_api::proto::rpc::v1::auth_service_client::AuthServiceClient;
use machine_api::proto::rpc::v1::external_auth_service_client::ExternalAuthServiceClient;
use machine_api::proto::rpc::v1::{AuthenticateRequest, AuthenticateToRequest, Credentials};
use machine_api::proto::rpc::webrtc::v1::signaling_service_client::SignalingServiceClient;
use machine_api::proto::rpc::webrtc::v1::{
    AnswerResponse, CallRequest, IceServer, OptionalWebRtcConfigRequest, answer_request,
};
use sim_machine::cloud::{Cloud, CloudOptions, RelayOptions, State};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use turn_server_proto::types::attribute::{RequestedTransport, XorRelayedAddress};
use turn_server_proto::types::message::ALLOCATE;
use turn_server_proto::types::stun::attribute::{ErrorCode, Nonce, Realm, Username, XorMappedAddress};
use turn_server_proto::types::stun::message::{
    BINDING, IntegrityAlgorithm, LongTermKeyCredentials, Message, MessageIntegrityCredentials, MessageWriteVec,
};
use turn_server_proto::types::stun::prelude::{MessageWrite, MessageWriteExt};

const M1: &str = "m1.loc.viam.cloud";
const SOON: Duration = Duration::from_secs(5);

struct Rig {
    address: SocketAddr,
    state: State,
    shutdown: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Rig {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut options = CloudOptions::new(folder.path().to_path_buf());
        options.bind = "127.0.0.1:0".to_owned();
        options.no_tls = true;
        options.machines = vec![M1.to_owned(), "m2.loc.viam.cloud".to_owned()];
        options.relay = Some(RelayOptions { port: 0, public: None });
        let cloud = Cloud::open(options).await.expect("ports");
        let (address, state, shutdown) = (cloud.address, cloud.state.clone(), CancellationToken::new());
        tokio::spawn(cloud.serve(shutdown.clone()));
        Self { address, state, shutdown, _folder: folder }
    }

    fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).expect("an address").connect_lazy()
    }

    async fn token(&self, kind: &str, id: &str, secret: &str) -> Result<String, Status> {
        let credentials = Credentials { r#type: kind.into(), payload: secret.into() };
        let request = AuthenticateRequest { entity: id.into(), credentials: Some(credentials) };
        Ok(AuthServiceClient::new(self.channel()).authenticate(request).await?.into_inner().access_token)
    }

    async fn user(&self) -> String {
        let user = &self.state.users[0];
        self.token("api-key", &user.id, &user.key).await.expect("the user's own key")
    }

    async fn machine(&self, number: usize) -> String {
        let part = &self.state.machines[number];
        self.token("robot-secret", &part.id, &part.secret).await.expect("the part's own secret")
    }

    async fn servers(&self, token: &str) -> Vec<IceServer> {
        let mut client = SignalingServiceClient::new(self.channel());
        let config = client.optional_web_rtc_config(by(token, M1, OptionalWebRtcConfigRequest {})).await;
        config.expect("allowed").into_inner().config.expect("a configuration").additional_ice_servers
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn by<T>(token: &str, host: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ascii"));
    request.metadata_mut().insert("rpc-host", host.parse().expect("ascii"));
    request
}

fn offer() -> CallRequest {
    CallRequest { sdp: "offer".into(), disable_trickle: false }
}

#[tokio::test]
async fn each_caller_is_held_to_its_own_machines() {
    let rig = Rig::start().await;
    let (user, machine) = (rig.user().await, rig.machine(0).await);
    for (kind, secret) in [("api-key", "wrong"), ("robot-secret", rig.state.users[0].key.as_str())] {
        let refused = rig.token(kind, &rig.state.users[0].id, secret).await.expect_err("wrong");
        assert_eq!((refused.code(), refused.message()), (Code::Unauthenticated, "invalid credentials"));
    }
    let mut client = SignalingServiceClient::new(rig.channel());
    let nobody = client.call(Request::new(offer())).await.expect_err("no token");
    assert_eq!(nobody.code(), Code::Unauthenticated);
    let offline = client.call(by(&user, M1, offer())).await.expect_err("nobody answers");
    assert_eq!(offline.code(), Code::NotFound);
    for (token, host) in [(&user, "m3.loc.viam.cloud"), (&machine, M1)] {
        let refused = client.call(by(token, host, offer())).await.expect_err("not its machine");
        assert_eq!(refused.code(), Code::PermissionDenied, "{host}");
    }
    let silent = || futures_util::stream::pending::<AnswerResponse>();
    for (token, host) in [(&user, M1), (&machine, "m2.loc.viam.cloud")] {
        let refused = client.answer(by(token, host, silent())).await.expect_err("not its name");
        assert_eq!(refused.code(), Code::PermissionDenied, "{host}");
    }
    // And what is allowed works, with the caller's name told to the machine.
    let mut offers = client.answer(by(&machine, M1, silent())).await.expect("its own name").into_inner();
    let _call = rig_call(&rig, &user).await;
    let stage = timeout(SOON, offers.message()).await.expect("in time").expect("no error").expect("an offer").stage;
    let Some(answer_request::Stage::Init(init)) = stage else { panic!("no offer: {stage:?}") };
    assert_eq!(init.caller_auth_entity, rig.state.users[0].id);
    assert_eq!(init.optional_config.expect("a configuration").additional_ice_servers.len(), 2);
}

async fn rig_call(rig: &Rig, user: &str) -> tonic::Streaming<machine_api::proto::rpc::webrtc::v1::CallResponse> {
    SignalingServiceClient::new(rig.channel()).call(by(user, M1, offer())).await.expect("taken").into_inner()
}

#[tokio::test]
async fn a_token_for_somebody_else_is_minted_for_who_is_known() {
    let rig = Rig::start().await;
    let user = rig.user().await;
    let mut client = ExternalAuthServiceClient::new(rig.channel());
    let to = |entity: &str| AuthenticateToRequest { entity: entity.into() };
    assert_eq!(client.authenticate_to(to("localhost")).await.expect_err("no token").code(), Code::Unauthenticated);
    let minted = client.authenticate_to(by(&user, M1, to("localhost"))).await.expect("known").into_inner().access_token;
    assert_eq!(rig.servers(&minted).await.len(), 2, "good at the one that it is for");
    let other = client.authenticate_to(by(&user, M1, to("m9"))).await.expect("known").into_inner().access_token;
    let refused = SignalingServiceClient::new(rig.channel()).call(by(&other, M1, offer())).await;
    assert_eq!(refused.expect_err("for another").code(), Code::Unauthenticated);
}

/// A client of the relay, over either transport.
enum Relayed {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Relayed {
    async fn ask(&mut self, request: Vec<u8>) -> Vec<u8> {
        let mut buffer = vec![0; 2048];
        let asked = async {
            match self {
                Self::Udp(socket) => {
                    socket.send(&request).await.expect("sent");
                    let length = socket.recv(&mut buffer).await.expect("an answer");
                    buffer.truncate(length);
                }
                Self::Tcp(stream) => {
                    stream.write_all(&request).await.expect("sent");
                    stream.read_exact(&mut buffer[..20]).await.expect("an answer");
                    let length = 20 + usize::from(u16::from_be_bytes([buffer[2], buffer[3]]));
                    stream.read_exact(&mut buffer[20..length]).await.expect("all of it");
                    buffer.truncate(length);
                }
            }
        };
        timeout(SOON, asked).await.expect("an answer in time");
        buffer
    }

    /// Asks for an address: first as nobody, then with the realm and nonce that it is told. The address, or the last error's code.
    async fn allocate(&mut self, username: &str, password: &str) -> Result<SocketAddr, u16> {
        let mut request = Message::builder_request(ALLOCATE, MessageWriteVec::new());
        request.add_attribute(&RequestedTransport::new(RequestedTransport::UDP)).expect("it fits");
        let challenge = self.ask(request.finish()).await;
        let challenge = Message::from_bytes(&challenge).expect("STUN");
        let nonce = challenge.attribute::<Nonce>().expect("a nonce").nonce().to_owned();
        let realm = challenge.attribute::<Realm>().expect("a realm").realm().to_owned();
        let mut request = Message::builder_request(ALLOCATE, MessageWriteVec::new());
        request.add_attribute(&RequestedTransport::new(RequestedTransport::UDP)).expect("it fits");
        request.add_attribute(&Username::new(username).expect("short")).expect("it fits");
        request.add_attribute(&Realm::new(&realm).expect("short")).expect("it fits");
        request.add_attribute(&Nonce::new(&nonce).expect("short")).expect("it fits");
        let credentials = LongTermKeyCredentials::new(username.to_owned(), password.to_owned(), realm);
        let credentials = MessageIntegrityCredentials::LongTerm(credentials);
        request.add_message_integrity(&credentials, IntegrityAlgorithm::Sha1).expect("it fits");
        let answer = self.ask(request.finish()).await;
        let answer = Message::from_bytes(&answer).expect("STUN");
        match answer.attribute::<XorRelayedAddress>() {
            Ok(relayed) => Ok(relayed.addr(answer.transaction_id())),
            Err(_) => Err(answer.attribute::<ErrorCode>().expect("an error").code()),
        }
    }
}

#[tokio::test]
async fn it_tells_addresses_and_lends_them_to_whom_it_knows_over_udp_and_tcp() {
    let rig = Rig::start().await;
    let servers = rig.servers(&rig.user().await).await;
    let [stun, turn] = &servers[..] else { panic!("{servers:?}") };
    let at: SocketAddr = stun.urls[0].strip_prefix("stun:").expect("stun").parse().expect("an address");
    assert_eq!(turn.urls, [format!("turn:{at}?transport=udp"), format!("turn:{at}?transport=tcp")]);
    let udp = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    udp.connect(at).await.expect("connected");
    let own = udp.local_addr().expect("bound");
    let mut udp = Relayed::Udp(udp);
    let answer = udp.ask(Message::builder_request(BINDING, MessageWriteVec::new()).finish()).await;
    let answer = Message::from_bytes(&answer).expect("STUN");
    let seen = answer.attribute::<XorMappedAddress>().expect("an address").addr(answer.transaction_id());
    assert_eq!(seen, own);
    assert_eq!(udp.allocate(&turn.username, "guessed").await, Err(401));
    assert_eq!(udp.allocate("9999999999:made-up", "guessed").await, Err(401));
    assert_eq!(udp.allocate("1:long ago", "guessed").await, Err(401));
    let lent = udp.allocate(&turn.username, &turn.credential).await.expect("lent");
    assert_eq!(lent.ip(), at.ip());
    let mut tcp = Relayed::Tcp(TcpStream::connect(at).await.expect("connected"));
    assert_eq!(tcp.allocate(&turn.username, "guessed").await, Err(401));
    let other = tcp.allocate(&turn.username, &turn.credential).await.expect("lent");
    assert_ne!(lent, other);
}

#[tokio::test]
async fn a_port_in_use_is_said_with_what_to_do() {
    let rig = Rig::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut options = CloudOptions::new(folder.path().to_path_buf());
    options.bind = rig.address.to_string();
    let error = Cloud::open(options).await.err().expect("taken").to_string();
    assert!(error.contains(&rig.address.to_string()) && error.contains("choose another port"), "{error}");
}
