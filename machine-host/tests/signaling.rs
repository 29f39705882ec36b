//! The signaling service over real sockets, with raw tonic clients that play callers and machines, well and badly.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use machine_api::google::rpc;
use machine_api::proto::rpc::webrtc::v1::signaling_service_client::SignalingServiceClient;
use machine_api::proto::rpc::webrtc::v1::{
    AnswerRequest, AnswerResponse, AnswerResponseDoneStage, AnswerResponseErrorStage, AnswerResponseInitStage,
    AnswerResponseUpdateStage, CallRequest, CallResponse, CallUpdateRequest, IceCandidate, IceServer,
    OptionalWebRtcConfigRequest, answer_request, answer_response, call_response, call_update_request,
};
use machine_host::Principal;
use machine_host::signaling::{Access, Limits, MemoryQueue, Party, RateLimit, Signaling, SignalingOptions};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tower::Service;
use transport::Body;
use transport::serve::{Listener, PeerConnection, ServeOptions, serve};

const HOST: &str = "m1.loc.viam.cloud";
/// Long enough for anything on loopback, also on a busy computer.
const SOON: Duration = Duration::from_secs(5);

/// Two machines; `user` may call the first, `m1` and `m2` answer for theirs.
struct Rules;

impl Access for Rules {
    fn host(&self, host: &str) -> Option<String> {
        (host == HOST || host == "m2.loc.viam.cloud").then(|| host.to_owned())
    }

    fn may_call(&self, principal: &Principal, host: &str) -> Result<(), Status> {
        if principal.id == "user" && host == HOST { Ok(()) } else { Err(Status::permission_denied("not this machine")) }
    }

    fn may_answer(&self, principal: &Principal, host: &str) -> Result<(), Status> {
        if host.starts_with(&principal.id) { Ok(()) } else { Err(Status::permission_denied("not this machine's name")) }
    }

    fn ice_servers(&self, _: &Principal, _: &str) -> Vec<IceServer> {
        vec![IceServer { urls: vec!["stun:127.0.0.1:3478".into()], ..IceServer::default() }]
    }
}

/// Stands where authentication stands: whoever says who it is, is.
#[derive(Clone)]
struct Believe(Routes);

impl Service<http::Request<Body>> for Believe {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let connection = request.extensions().get::<Arc<PeerConnection>>().expect("a connection").id;
        if let Some(id) = request.headers().get("who").and_then(|v| v.to_str().ok()).map(str::to_owned) {
            let principal = Principal { kind: "api-key".into(), id };
            request.extensions_mut().insert(Party { principal, connection });
        }
        let mut routes = self.0.clone();
        Box::pin(async move { routes.call(request).await })
    }
}

struct Rig {
    address: String,
    shutdown: CancellationToken,
}

impl Rig {
    async fn start() -> Self {
        Self::with(Limits::default(), SignalingOptions::default()).await
    }

    async fn with(limits: Limits, options: SignalingOptions) -> Self {
        let signaling = Signaling::new(Arc::new(MemoryQueue::new(limits)), Arc::new(Rules), &options);
        let routes = Routes::new(signaling.into_server()).prepare();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        let shutdown = CancellationToken::new();
        let ended = shutdown.clone();
        tokio::spawn(serve(Listener::Tcp(listener), Believe(routes), ServeOptions::default(), |_| {}, ended));
        Self { address, shutdown }
    }

    /// A connection of its own.
    fn client(&self) -> SignalingServiceClient<Channel> {
        SignalingServiceClient::new(Endpoint::from_shared(self.address.clone()).expect("an address").connect_lazy())
    }

    async fn call(&self) -> Result<Streaming<CallResponse>, Status> {
        let offer = CallRequest { sdp: "offer".into(), disable_trickle: true };
        timeout(SOON, self.client().call(by("user", &[HOST], offer))).await.expect("in time").map(|r| r.into_inner())
    }

    async fn update(&self, uuid: &str, update: call_update_request::Update) -> Result<(), Status> {
        let update = CallUpdateRequest { uuid: uuid.into(), update: Some(update) };
        self.client().call_update(by("user", &[HOST], update)).await.map(|_| ())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn by<T>(who: &str, hosts: &[&str], message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("who", who.parse().expect("ascii"));
    for host in hosts {
        request.metadata_mut().append("rpc-host", host.parse().expect("ascii"));
    }
    request
}

/// A machine's end of one Answer stream.
struct Machine {
    says: mpsc::UnboundedSender<AnswerResponse>,
    hears: Streaming<AnswerRequest>,
    /// Its connection ends with it.
    _client: SignalingServiceClient<Channel>,
}

impl Machine {
    async fn waiting(rig: &Rig) -> Self {
        Self::open(rig, "m1", &[HOST], false).await.expect("admitted")
    }

    async fn open(rig: &Rig, who: &str, hosts: &[&str], heartbeats: bool) -> Result<Self, Status> {
        let (says, receiver) = mpsc::unbounded_channel();
        let said = tokio_stream(receiver);
        let mut request = by(who, hosts, said);
        if heartbeats {
            request.metadata_mut().insert("heartbeats-allowed", "true".parse().expect("ascii"));
        }
        let mut client = rig.client();
        let hears = client.answer(request).await?.into_inner();
        Ok(Self { says, hears, _client: client })
    }

    async fn hear(&mut self) -> Option<AnswerRequest> {
        timeout(SOON, self.hears.message()).await.expect("in time").expect("no error")
    }

    async fn stage(&mut self) -> answer_request::Stage {
        self.hear().await.expect("not ended").stage.expect("a stage")
    }

    /// The offer, and the call's id.
    async fn offered(&mut self) -> (String, answer_request::Stage) {
        let AnswerRequest { uuid, stage } = self.hear().await.expect("an offer");
        (uuid, stage.expect("a stage"))
    }

    fn say(&self, uuid: &str, stage: answer_response::Stage) {
        self.says.send(AnswerResponse { uuid: uuid.into(), stage: Some(stage) }).expect("the stream is there");
    }

    fn answer(&self, uuid: &str) {
        self.say(uuid, answer_response::Stage::Init(AnswerResponseInitStage { sdp: "answer".into() }));
    }

    fn done(&self, uuid: &str) {
        self.say(uuid, answer_response::Stage::Done(AnswerResponseDoneStage {}));
    }

    fn candidate(&self, uuid: &str) {
        let update = AnswerResponseUpdateStage { candidate: Some(candidate("theirs")) };
        self.say(uuid, answer_response::Stage::Update(update));
    }
}

fn tokio_stream<T: Send + 'static>(receiver: mpsc::UnboundedReceiver<T>) -> impl futures_util::Stream<Item = T> + Send {
    futures_util::stream::unfold(receiver, |mut r| async move { r.recv().await.map(|item| (item, r)) })
}

fn candidate(text: &str) -> IceCandidate {
    IceCandidate {
        candidate: text.into(),
        sdp_mid: Some("0".into()),
        sdpm_line_index: Some(0),
        username_fragment: None,
    }
}

async fn next(call: &mut Streaming<CallResponse>) -> Result<Option<CallResponse>, Status> {
    timeout(SOON, call.message()).await.expect("in time")
}

#[tokio::test]
async fn a_call_passes_through_in_order_and_ends_as_soon_as_the_machine_is_done() {
    let rig = Rig::start().await;
    let mut machine = Machine::waiting(&rig).await;
    let mut call = rig.call().await.expect("taken");
    let (uuid, stage) = machine.offered().await;
    let answer_request::Stage::Init(init) = stage else { panic!("first the offer: {stage:?}") };
    let config = init.optional_config.expect("a configuration");
    assert_eq!((init.sdp.as_str(), config.disable_trickle), ("offer", true));
    assert_eq!(config.additional_ice_servers[0].urls, ["stun:127.0.0.1:3478"]);
    assert_eq!(init.caller_auth_entity, "user");
    assert_eq!(init.caller_auth_metadata.get("rpc_creds_type").map(String::as_str), Some("api-key"));
    let left = std::time::SystemTime::try_from(init.deadline.expect("a deadline")).expect("a time");
    let left = left.duration_since(std::time::SystemTime::now()).expect("in the future");
    assert!(left > Duration::from_secs(8) && left <= Duration::from_secs(10), "{left:?}");

    machine.answer(&uuid);
    machine.candidate(&uuid);
    let first = next(&mut call).await.expect("no error").expect("an answer");
    assert_eq!(first.uuid, uuid);
    assert!(matches!(first.stage, Some(call_response::Stage::Init(init)) if init.sdp == "answer"));
    let second = next(&mut call).await.expect("no error").expect("a candidate");
    assert!(matches!(second.stage, Some(call_response::Stage::Update(u)) if u.candidate == Some(candidate("theirs"))));
    rig.update(&uuid, call_update_request::Update::Candidate(candidate("ours"))).await.expect("known");
    let stage = machine.stage().await;
    assert!(matches!(stage, answer_request::Stage::Update(u) if u.candidate == Some(candidate("ours"))));

    machine.done(&uuid);
    assert_eq!(next(&mut call).await.expect("no error"), None, "the caller waits for this end");
    rig.update(&uuid, call_update_request::Update::Done(true)).await.expect("known");
    assert!(matches!(machine.stage().await, answer_request::Stage::Done(_)));
    assert_eq!(machine.hear().await, None, "both have said everything");
    rig.update(&uuid, call_update_request::Update::Candidate(candidate("late"))).await.expect("late, and no error");
}

#[tokio::test]
async fn metadata_is_refused_in_the_words_of_existing_services() {
    let rig = Rig::start().await;
    let offer = || CallRequest { sdp: "offer".into(), disable_trickle: false };
    let mut client = rig.client();
    for (hosts, code, text) in [
        (&[][..], Code::Unknown, "expected 1 rpc-host"),
        (&[HOST, HOST], Code::Unknown, "expected 1 rpc-host"),
        (&[""], Code::Unknown, "expected non-empty rpc-host"),
        (&["elsewhere"], Code::InvalidArgument, "host not preconfigured"),
        (&["m2.loc.viam.cloud"], Code::PermissionDenied, "not this machine"),
    ] {
        let status = client.call(by("user", hosts, offer())).await.expect_err(text);
        assert_eq!((status.code(), status.message()), (code, text), "Call {hosts:?}");
        let update = CallUpdateRequest { uuid: uuid(), update: Some(call_update_request::Update::Done(true)) };
        let status = client.call_update(by("user", hosts, update)).await.expect_err(text);
        assert_eq!((status.code(), status.message()), (code, text), "CallUpdate {hosts:?}");
    }
    for (hosts, code, text) in [
        (&[][..], Code::Unknown, "expected rpc-host to be set in metadata"),
        (&[HOST; 6], Code::Unknown, "too many rpc-host"),
        (&[HOST, ""], Code::Unknown, "expected non-empty rpc-host"),
        (&[HOST, "elsewhere"], Code::InvalidArgument, "host not preconfigured"),
        (&["m2.loc.viam.cloud"], Code::PermissionDenied, "not this machine's name"),
    ] {
        let status = Machine::open(&rig, "m1", hosts, false).await.err().expect(text);
        assert_eq!((status.code(), status.message()), (code, text), "Answer {hosts:?}");
    }
    let status = client.call(Request::new(offer())).await.expect_err("nobody");
    assert_eq!(status.code(), Code::Unauthenticated);
    let status = rig.update(&uuid(), call_update_request::Update::Done(true)).await.expect_err("unknown");
    assert_eq!(
        (status.code(), status.message()),
        (Code::NotFound, format!("no active offer for {:?}", uuid()).as_str())
    );
    rig.update("", call_update_request::Update::Error(rpc::Status::default())).await.expect("it never heard its id");

    let config = client.optional_web_rtc_config(by("user", &[HOST], OptionalWebRtcConfigRequest {})).await;
    let servers = config.expect("allowed").into_inner().config.expect("a configuration").additional_ice_servers;
    assert_eq!(servers.len(), 1);
}

fn uuid() -> String {
    "6f1c2c6e-5a77-4c7b-9b0e-0e6c3e4f8a11".into()
}

#[tokio::test]
async fn an_offline_machine_is_answered_in_milliseconds() {
    let rig = Rig::start().await;
    rig.call().await.expect_err("connect first");
    let started = Instant::now();
    let status = rig.call().await.expect_err("nobody answers");
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(status.message(), "host appears to be offline; ensure machine is online and try again");
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
    // One whose connection breaks is offline as well.
    let machine = Machine::waiting(&rig).await;
    drop(machine);
    for _ in 0..500 {
        match rig.call().await {
            Err(status) => return assert_eq!(status.code(), Code::NotFound),
            Ok(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    panic!("a machine that is gone still takes calls");
}

#[tokio::test]
async fn a_machine_that_waits_hears_heartbeats_if_it_wants_them() {
    let options = SignalingOptions { heartbeat: Duration::from_millis(20), ..SignalingOptions::default() };
    let rig = Rig::with(Limits::default(), options).await;
    let mut machine = Machine::open(&rig, "m1", &[HOST], true).await.expect("admitted");
    for _ in 0..3 {
        let AnswerRequest { uuid, stage } = machine.hear().await.expect("a heartbeat");
        assert!(uuid.is_empty() && matches!(stage, Some(answer_request::Stage::Heartbeat(_))));
    }
    let mut quiet = Machine::open(&rig, "m2", &["m2.loc.viam.cloud"], false).await.expect("admitted");
    assert!(timeout(Duration::from_millis(100), quiet.hears.message()).await.is_err(), "it did not ask for them");
}

#[tokio::test]
async fn what_the_machine_reports_reaches_the_caller_with_its_code() {
    let rig = Rig::start().await;
    let mut machine = Machine::waiting(&rig).await;
    let mut call = rig.call().await.expect("taken");
    let (uuid, _) = machine.offered().await;
    let full = rpc::Status {
        code: Code::ResourceExhausted as i32,
        message: "too many active connections".into(),
        details: vec![],
    };
    machine.say(&uuid, answer_response::Stage::Error(AnswerResponseErrorStage { status: Some(full) }));
    let status = next(&mut call).await.expect_err("refused");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.message(), "error from answerer: too many active connections");
    assert_eq!(machine.hear().await, None, "after its own error there is nothing more to hear");
}

#[tokio::test]
async fn a_caller_that_fails_or_leaves_is_told_to_the_machine_and_done_follows() {
    let rig = Rig::start().await;
    let mut machine = Machine::waiting(&rig).await;
    let mut call = rig.call().await.expect("taken");
    let (uuid, _) = machine.offered().await;
    machine.answer(&uuid);
    next(&mut call).await.expect("no error").expect("an answer");
    let why = rpc::Status { code: 2, message: "no pair works".into(), details: vec![] };
    rig.update(&uuid, call_update_request::Update::Error(why.clone())).await.expect("known");
    let stage = machine.stage().await;
    assert!(matches!(stage, answer_request::Stage::Error(e) if e.status == Some(why)));
    assert!(matches!(machine.stage().await, answer_request::Stage::Done(_)));

    let mut machine = Machine::waiting(&rig).await;
    let call = rig.call().await.expect("taken");
    machine.offered().await;
    drop(call);
    let stage = machine.stage().await;
    assert!(matches!(stage, answer_request::Stage::Error(e) if e.status.as_ref().is_some_and(|s| s.code == 1)));
    assert!(matches!(machine.stage().await, answer_request::Stage::Done(_)));
}

#[tokio::test]
async fn signaling_that_dies_at_each_step() {
    let rig = Rig::start().await;
    // Before the answer: the next one that asks has it.
    let mut first = Machine::waiting(&rig).await;
    let mut call = rig.call().await.expect("taken");
    first.offered().await;
    let mut second = Machine::waiting(&rig).await;
    drop(first);
    let (uuid, stage) = second.offered().await;
    assert!(matches!(stage, answer_request::Stage::Init(init) if init.sdp == "offer"));
    // After the answer: the call ends in order, for its caller may be connected already.
    second.answer(&uuid);
    next(&mut call).await.expect("no error").expect("an answer");
    drop(second);
    assert_eq!(next(&mut call).await.expect("in order"), None);
    // With nobody else: the caller hears that its machine is gone.
    let mut last = Machine::waiting(&rig).await;
    let mut call = rig.call().await.expect("taken");
    last.offered().await;
    drop(last);
    assert_eq!(next(&mut call).await.expect_err("gone").code(), Code::NotFound);
}

#[tokio::test]
async fn a_machine_that_breaks_the_protocol_hurts_its_own_call_only() {
    let rig = Rig::start().await;
    let mut good = Machine::waiting(&rig).await;
    let mut calls = vec![rig.call().await.expect("taken")];
    let (uuid, _) = good.offered().await;
    type Bad = fn(&Machine, &str);
    let bad: [(Bad, &str); 6] = [
        (|m, id| m.done(id), "done before its answer"),
        (|m, id| m.candidate(id), "a candidate before its answer"),
        (|m, _| m.answer(&self::uuid()), "another call"),
        (|m, _| m.answer("no uuid"), "no id"),
        (
            |m, id| m.say(id, answer_response::Stage::Init(AnswerResponseInitStage { sdp: "x".repeat(70 << 10) })),
            "too long",
        ),
        (
            |m, id| {
                m.answer(id);
                m.answer(id);
            },
            "a second answer",
        ),
    ];
    for (break_it, what) in bad {
        let mut machine = Machine::waiting(&rig).await;
        calls.push(rig.call().await.expect("taken"));
        let (id, _) = machine.offered().await;
        break_it(&machine, &id);
        let call = calls.last_mut().expect("pushed");
        let status = loop {
            match next(call).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{what}: the call ended in order"),
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), Code::InvalidArgument, "{what}");
        let status = timeout(SOON, machine.hears.message()).await.expect("in time").expect_err(what);
        assert_eq!(status.code(), Code::InvalidArgument, "{what}");
    }
    good.answer(&uuid);
    good.done(&uuid);
    assert!(next(&mut calls[0]).await.expect("no error").is_some());
    assert_eq!(next(&mut calls[0]).await.expect("no error"), None);
}

#[tokio::test]
async fn too_much_of_anything_is_refused() {
    let limits = Limits { waiting_per_host: 2, patience: Duration::from_secs(10), ..Limits::default() };
    let rate = RateLimit { calls: 7, window: Duration::from_secs(60) };
    let options = SignalingOptions { rate: Some(rate), ..SignalingOptions::default() };
    let rig = Rig::with(limits, options).await;
    for length in [0, (64 << 10) + 1] {
        let offer = CallRequest { sdp: "x".repeat(length), disable_trickle: false };
        let status = rig.client().call(by("user", &[HOST], offer)).await.expect_err("no SDP");
        assert_eq!(status.code(), Code::InvalidArgument, "{length}");
    }
    let offer = CallRequest { sdp: "x".repeat(1 << 20), disable_trickle: false };
    assert!(rig.client().call(by("user", &[HOST], offer)).await.is_err(), "1 MiB is not even read");
    let (_first, _second) = (rig.call().await.expect("a place"), rig.call().await.expect("a place"));
    let status = rig.call().await.expect_err("two wait");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "too many connection attempts; please wait a bit and try again");
    let statuses =
        [rig.call().await.expect_err("full"), rig.call().await.expect_err("full"), rig.call().await.expect_err("full")];
    assert_eq!(statuses[2].code(), Code::ResourceExhausted);
    assert!(
        statuses[2].message().starts_with("request exceeds rate limit (limit: 7 in 60s)"),
        "{}",
        statuses[2].message()
    );
    let long = call_update_request::Update::Candidate(candidate(&"x".repeat(3000)));
    assert_eq!(rig.update(&uuid(), long).await.expect_err("too long").code(), Code::InvalidArgument);
}

#[tokio::test]
async fn of_two_processes_with_one_name_the_later_takes_over() {
    let rig = Rig::start().await;
    let _old = Machine::waiting(&rig).await;
    let mut new = Machine::waiting(&rig).await;
    // Whether the new one waits already shows when it has an offer; the old one would keep it.
    let _call = rig.call().await.expect("taken");
    new.offered().await;
}
