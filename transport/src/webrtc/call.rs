//! Calls a machine through a signaling service.

use std::fmt;
use std::time::{Duration, Instant};

use machine_api::proto::rpc::webrtc::v1::signaling_service_client::SignalingServiceClient;
use machine_api::proto::rpc::webrtc::v1::{CallRequest, CallUpdateRequest, OptionalWebRtcConfigRequest};
use tokio::task::JoinSet;
use tokio::time::timeout_at;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Body as HttpBody, Bytes as HttpBytes, StdError};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request, Status, Streaming};

use super::channel::DataChannel;
use super::driver::{Command, Connection, Control, OpenError, Report, offer};
use super::exchange::{Caller, CallerOutput, Failure};
use super::options::{IceServer, PeerOptions};
use super::peer::Ended;
use crate::Link;

/// The host that an exchange is for.
pub(crate) const HOST: &str = "rpc-host";
/// Without trickle the offer waits for candidates at most so long.
const GATHER: Duration = Duration::from_secs(3);
/// What is left to say to the service after the channel is open is said within this.
const FAREWELL: Duration = Duration::from_secs(5);

/// The steps of a call, in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum CallStage {
    /// Our socket and candidates.
    Gather,
    /// The offer is out, the answer is not here.
    Signaling,
    /// Answered; no pair of candidates works yet.
    Ice,
    /// There is a path; the peer proves its certificate.
    Dtls,
    /// Secured; the channels are being opened.
    Channel,
}

impl fmt::Display for CallStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gather => "gather",
            Self::Signaling => "signaling",
            Self::Ice => "ice",
            Self::Dtls => "dtls",
            Self::Channel => "channel",
        })
    }
}

/// Why a call led to no channel.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{stage}: {what}")]
pub struct CallError {
    /// How far it got.
    pub stage: CallStage,
    /// What happened and what to do.
    pub what: String,
    /// The signaling service's own code, where it was the one to refuse.
    pub code: Code,
    /// Trying again changes nothing: refused, unknown host, or somebody else answered.
    pub verdict: bool,
    /// There is no signaling service, or it does not know this host: another way may lead there.
    pub no_signaler: bool,
}

impl CallError {
    fn at(stage: CallStage, failure: Failure) -> Self {
        let Failure { code, what } = failure;
        let no_signaler =
            code == Code::Unimplemented || code == Code::InvalidArgument && what.contains("host not preconfigured");
        let verdict = no_signaler || matches!(code, Code::Unauthenticated | Code::PermissionDenied);
        Self { stage, what, code, verdict, no_signaler }
    }
}

/// A machine that answered.
#[derive(Debug)]
pub struct Called {
    /// The open channel.
    pub channel: DataChannel,
    /// Orders for the connection below it.
    pub control: Control,
}

impl Called {
    /// Makes a link of the channel. Within a runtime.
    pub fn link(self) -> (Link, Control) {
        (super::service::link(self.channel), self.control)
    }
}

/// Calls `host` through `signaling`, which is any gRPC service with the caller's credentials in place, a link for instance. Returns once
/// the data channel is open. `stages` hears of each stage when it ends, with the time since the call's start.
///
/// The offer leaves at once with this computer's own addresses; what servers add follows (unless `trickle` is off).
///
/// # Errors
///
/// [`CallError`], within `options.timeout` (default 10 s).
pub async fn call<S>(
    signaling: S,
    host: &str,
    options: &PeerOptions,
    stages: &mut (dyn FnMut(CallStage, Duration) + Send),
) -> Result<Called, CallError>
where
    S: GrpcService<Body> + Clone + Send + 'static,
    S::ResponseBody: HttpBody<Data = HttpBytes> + Send + 'static,
    <S::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
    S::Future: Send,
{
    let started = Instant::now();
    let name: MetadataValue<Ascii> = host.parse().map_err(|_| {
        CallError::at(
            CallStage::Gather,
            Failure { code: Code::InvalidArgument, what: format!("{host:?} is no host name") },
        )
    })?;
    let (connection, description) = offer(options).map_err(|e: OpenError| {
        CallError::at(CallStage::Gather, Failure { code: Code::Internal, what: e.to_string() })
    })?;
    let client = SignalingServiceClient::new(signaling);
    let mut run = Run {
        client,
        name,
        connection,
        exchange: Caller::new(started + options.timeout),
        stage: CallStage::Gather,
        started,
        stages,
        updates: JoinSet::new(),
        options,
        no_servers: None,
    };
    run.run(description).await
}

struct Run<'a, S> {
    client: SignalingServiceClient<S>,
    name: MetadataValue<Ascii>,
    connection: Connection,
    exchange: Caller,
    stage: CallStage,
    started: Instant,
    stages: &'a mut (dyn FnMut(CallStage, Duration) + Send),
    updates: JoinSet<()>,
    options: &'a PeerOptions,
    /// Why there are no servers of the service.
    no_servers: Option<String>,
}

/// The service's answer about its servers.
async fn servers<S>(mut client: SignalingServiceClient<S>, name: MetadataValue<Ascii>) -> Result<Vec<IceServer>, Status>
where
    S: GrpcService<Body>,
    S::ResponseBody: HttpBody<Data = HttpBytes> + Send + 'static,
    <S::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
{
    let mut request = Request::new(OptionalWebRtcConfigRequest {});
    request.metadata_mut().insert(HOST, name);
    let config = client.optional_web_rtc_config(request).await?.into_inner().config.unwrap_or_default();
    let servers = config.additional_ice_servers.into_iter();
    Ok(servers.map(|s| IceServer { urls: s.urls, username: s.username, credential: s.credential }).collect())
}

impl<S> Run<'_, S>
where
    S: GrpcService<Body> + Clone + Send + 'static,
    S::ResponseBody: HttpBody<Data = HttpBytes> + Send + 'static,
    <S::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
    S::Future: Send,
{
    async fn run(&mut self, mut offer: super::sdp::Description) -> Result<Called, CallError> {
        let deadline = self.started + self.options.timeout;
        let mut config = Box::pin(servers(self.client.clone(), self.name.clone()));
        let mut configured = false;
        if !self.options.trickle {
            let got = timeout_at(deadline.into(), &mut config).await;
            self.configure(got.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))).await;
            configured = true;
            let until = deadline.min(Instant::now() + GATHER);
            while let Ok(Some(report)) = timeout_at(until.into(), self.connection.reports.recv()).await {
                match report {
                    Report::Candidate(text) => offer.candidates.push(text),
                    Report::Gathered => break,
                    _ => {}
                }
            }
            offer.complete = true;
            self.exchange.handle_gathered();
        }
        self.reach(CallStage::Signaling);
        let mut request = Request::new(CallRequest { sdp: offer.encode(), disable_trickle: !self.options.trickle });
        request.metadata_mut().insert(HOST, self.name.clone());
        let mut client = self.client.clone();
        let mut calling = Box::pin(async move { client.call(request).await });
        let mut responses: Option<Streaming<_>> = None;
        let mut ended = false;
        loop {
            let deadline = self.exchange.poll_timeout();
            tokio::select! {
                report = self.connection.reports.recv() => match report {
                    Some(report) => {
                        if let Some(called) = self.handle_report(report)? {
                            self.say_goodbye(responses);
                            return Ok(called);
                        }
                    }
                    None => self.exchange.handle_failed(Failure { code: Code::Internal, what: "the connection ended".into() }),
                },
                got = &mut config, if !configured => {
                    configured = true;
                    self.configure(got).await;
                }
                got = &mut calling, if responses.is_none() && !ended => match got {
                    Ok(stream) => responses = Some(stream.into_inner()),
                    Err(status) => {
                        ended = true;
                        self.exchange.handle_end(Some(failed(&status)));
                    }
                },
                got = next(&mut responses), if !ended => match got {
                    Ok(Some(response)) => self.exchange.handle_response(response, Instant::now()),
                    Ok(None) => {
                        ended = true;
                        self.exchange.handle_end(None);
                    }
                    Err(status) => {
                        ended = true;
                        match is_lost(&status) {
                            true => self.exchange.handle_lost(failed(&status), Instant::now()),
                            false => self.exchange.handle_end(Some(failed(&status))),
                        }
                    }
                },
                () = tokio::time::sleep_until(deadline.into()) => self.exchange.handle_timeout(Instant::now()),
            }
            self.act().await?;
        }
    }

    async fn configure(&mut self, got: Result<Vec<IceServer>, Status>) {
        let named = got.unwrap_or_else(|status| {
            self.no_servers = Some(status.message().to_owned());
            Vec::new()
        });
        let servers = self.options.servers(&named);
        let _ = self.connection.commands.send(Command::Servers(servers)).await;
    }

    /// The channel, once it is open.
    fn handle_report(&mut self, report: Report) -> Result<Option<Called>, CallError> {
        match report {
            Report::Candidate(text) => self.exchange.handle_candidate(&text),
            Report::Gathered => self.exchange.handle_gathered(),
            Report::Checked => {}
            Report::Connected => self.reach(CallStage::Dtls),
            Report::Secured => self.reach(CallStage::Channel),
            Report::Open(channel, control) => {
                (self.stages)(CallStage::Channel, self.started.elapsed());
                self.exchange.handle_open();
                return Ok(Some(Called { channel, control }));
            }
            Report::Ended(why) => {
                let impostor = why == Ended::Impostor;
                self.exchange.handle_failed(Failure { code: Code::Unavailable, what: why.to_string() });
                if impostor {
                    let failure = Failure { code: Code::Unavailable, what: why.to_string() };
                    return Err(CallError { verdict: true, ..self.error(failure) });
                }
            }
        }
        Ok(None)
    }

    async fn act(&mut self) -> Result<(), CallError> {
        while let Some(output) = self.exchange.poll_output() {
            match output {
                CallerOutput::Answer(answer) => {
                    self.reach(CallStage::Ice);
                    let _ = self.connection.commands.send(Command::Accept(answer)).await;
                }
                CallerOutput::Remote(text) => {
                    let _ = self.connection.commands.send(Command::Remote(vec![text])).await;
                }
                CallerOutput::Update(update) => self.update(update),
                CallerOutput::Failed(failure) => {
                    self.say_goodbye(None);
                    return Err(self.error(failure));
                }
            }
        }
        Ok(())
    }

    /// Candidates leave side by side; what follows them waits for them.
    fn update(&mut self, update: CallUpdateRequest) {
        use machine_api::proto::rpc::webrtc::v1::call_update_request::Update;
        let mut client = self.client.clone();
        let last = !matches!(update.update, Some(Update::Candidate(_)));
        let mut request = Request::new(update);
        request.metadata_mut().insert(HOST, self.name.clone());
        let mut before = if last { std::mem::take(&mut self.updates) } else { JoinSet::new() };
        self.updates.spawn(async move {
            while before.join_next().await.is_some() {}
            // Late updates are refused by some services; nothing depends on them.
            let _ = client.call_update(request).await;
        });
    }

    /// The rest of the exchange, beside whatever the caller does next.
    fn say_goodbye(&mut self, responses: Option<Streaming<machine_api::proto::rpc::webrtc::v1::CallResponse>>) {
        while let Some(output) = self.exchange.poll_output() {
            if let CallerOutput::Update(update) = output {
                self.update(update);
            }
        }
        let mut updates = std::mem::take(&mut self.updates);
        tokio::spawn(tokio::time::timeout(FAREWELL, async move {
            while updates.join_next().await.is_some() {}
            if let Some(mut responses) = responses {
                while let Ok(Some(_)) = responses.message().await {}
            }
        }));
    }

    fn reach(&mut self, stage: CallStage) {
        if stage > self.stage {
            (self.stages)(self.stage, self.started.elapsed());
            self.stage = stage;
        }
    }

    fn error(&self, mut failure: Failure) -> CallError {
        if let (CallStage::Ice, Some(why)) = (self.stage, &self.no_servers) {
            failure.what.push_str(&format!(" (the signaling service named no relays: {why})"));
        }
        CallError::at(self.stage, failure)
    }
}

pub(crate) fn failed(status: &Status) -> Failure {
    Failure { code: status.code(), what: status.message().to_owned() }
}

/// Whether this is the end of the service or of the way to it, and not its word on the call.
pub(crate) fn is_lost(status: &Status) -> bool {
    status.code() == Code::Unavailable || std::error::Error::source(status).is_some()
}

/// The next message of a stream that may not be there yet.
pub(crate) async fn next<T>(stream: &mut Option<Streaming<T>>) -> Result<Option<T>, Status> {
    match stream {
        Some(stream) => stream.message().await,
        None => std::future::pending().await,
    }
}
