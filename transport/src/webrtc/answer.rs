//! Answers offers that come through signaling services.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use machine_api::proto::rpc::webrtc::v1::signaling_service_client::SignalingServiceClient;
use machine_api::proto::rpc::webrtc::v1::{AnswerRequest, AnswerResponse, answer_request};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Body as HttpBody, Bytes as HttpBytes, StdError};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request, Status, Streaming};

use super::call::{HOST, failed, is_lost};
use super::channel::DataChannel;
use super::driver::{Command, Connection, Control, Report, answer};
use super::exchange::{Answerer as Exchange, AnswererOutput, CallerIdentity, Failure, Offer};
use super::options::PeerOptions;

/// Names that one answerer may serve; services refuse more.
const MAX_HOSTS: usize = 5;
/// A service that has sent heartbeats and stops is gone; it sends one every 15 s.
const SILENCE: Duration = Duration::from_secs(50);
/// The first wait after a failure; it doubles, with jitter, up to [`LONGEST`]: with the 2 s that an attempt may wait for a packet to be repeated,
/// a machine is there again within 5 s of its service.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(2);
/// A stream that lived so long did not fail at once: the next one follows without a wait.
const LIVED: Duration = Duration::from_secs(5);
/// Without trickle the answer waits for candidates at most so long.
const GATHER: Duration = Duration::from_secs(3);
/// How long the service may take to end a stream whose exchange is over.
const FAREWELL: Duration = Duration::from_secs(5);

/// A caller whose data channel is open.
#[derive(Debug)]
pub struct IncomingPeer {
    /// The open channel; it carries gRPC, the caller's calls.
    pub channel: DataChannel,
    /// Orders for the connection below it.
    pub control: Control,
    /// Who calls, as the signaling service says.
    pub caller: CallerIdentity,
    /// The names that the answerer serves there.
    pub hosts: Arc<[String]>,
}

/// How offers are answered.
#[derive(Clone, Debug)]
pub struct AnswerOptions {
    /// For each connection.
    pub peer: PeerOptions,
    /// Streams that wait for offers at one service. Default 2; clouds allow 4 for one host.
    pub waiting: usize,
    /// Exchanges at once, of all services that share [`AnswerOptions::places`]. Default 16; offers beyond them wait in the service.
    pub places: Arc<Semaphore>,
}

impl Default for AnswerOptions {
    fn default() -> Self {
        Self { peer: PeerOptions::default(), waiting: 2, places: Arc::new(Semaphore::new(16)) }
    }
}

/// Answers offers for `hosts` (one to five names) that come through `signaling`, until it is dropped. `on_peer` gets each caller
/// whose channel is open; it must not block. Errors of the service are waited out, with jitter, at most 2 s each; for several services
/// run several of these with the same options.
///
/// # Errors
///
/// Where a name cannot be a host, or there are none or too many. Else it never returns.
pub async fn run<S, F>(signaling: S, hosts: &[String], options: &AnswerOptions, on_peer: F) -> Result<(), Status>
where
    S: GrpcService<Body> + Clone + Send + 'static,
    S::ResponseBody: HttpBody<Data = HttpBytes> + Send + 'static,
    <S::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
    S::Future: Send,
    F: Fn(IncomingPeer) + Send + Sync + 'static,
{
    if hosts.is_empty() || hosts.len() > MAX_HOSTS {
        return Err(Status::invalid_argument(format!("one to {MAX_HOSTS} names can be served, not {}", hosts.len())));
    }
    let names: Result<Vec<MetadataValue<Ascii>>, _> = hosts.iter().map(|h| h.parse()).collect();
    let names = names.map_err(|_| Status::invalid_argument("a name that cannot be a host"))?;
    let shared = Arc::new(Shared { names, hosts: hosts.into(), options: options.clone(), on_peer });
    let mut waiting = JoinSet::new();
    for _ in 0..options.waiting.max(1) {
        waiting.spawn(wait(SignalingServiceClient::new(signaling.clone()), shared.clone()));
    }
    while waiting.join_next().await.is_some() {}
    Ok(())
}

struct Shared<F> {
    names: Vec<MetadataValue<Ascii>>,
    hosts: Arc<[String]>,
    options: AnswerOptions,
    on_peer: F,
}

/// One waiting stream after the other. An offer's exchange goes on by itself, so that the next stream waits at once.
async fn wait<S, F>(mut client: SignalingServiceClient<S>, shared: Arc<Shared<F>>)
where
    S: GrpcService<Body> + Clone + Send + 'static,
    S::ResponseBody: HttpBody<Data = HttpBytes> + Send + 'static,
    <S::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
    S::Future: Send,
    F: Fn(IncomingPeer) + Send + Sync + 'static,
{
    let mut exchanges = JoinSet::new();
    let mut pause = FIRST;
    loop {
        let Ok(place) = shared.options.places.clone().acquire_owned().await else { return };
        let started = Instant::now();
        let next = {
            let mut offered = std::pin::pin!(offered(&mut client, &shared.names));
            loop {
                tokio::select! {
                    next = &mut offered => break next,
                    // One that is over is let go at once: the next offer may be hours away.
                    Some(_) = exchanges.join_next() => {}
                }
            }
        };
        match next {
            Ok(stream) => {
                pause = FIRST;
                exchanges.spawn(exchange(stream, shared.clone(), place));
                continue;
            }
            Err(status) => tracing::debug!(%status, "no offers from this signaling service"),
        }
        drop(place);
        if started.elapsed() >= LIVED {
            pause = FIRST;
            continue;
        }
        // Half to the whole of the pause: machines that lost a service together do not come back together.
        let jittered = pause.mul_f64(rand::random_range(0.5..=1.0));
        tokio::time::sleep(jittered).await;
        pause = (2 * pause).min(LONGEST);
    }
}

/// A stream on which an offer has come.
struct Offered {
    first: AnswerRequest,
    requests: Streaming<AnswerRequest>,
    responses: mpsc::Sender<AnswerResponse>,
}

async fn offered<S>(client: &mut SignalingServiceClient<S>, names: &[MetadataValue<Ascii>]) -> Result<Offered, Status>
where
    S: GrpcService<Body>,
    S::ResponseBody: HttpBody<Data = HttpBytes> + Send + 'static,
    <S::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
{
    let (responses, outgoing) = mpsc::channel(16);
    let mut request = Request::new(futures_util::stream::unfold(outgoing, |mut from| async move {
        from.recv().await.map(|response| (response, from))
    }));
    for name in names {
        request.metadata_mut().append(HOST, name.clone());
    }
    request.metadata_mut().insert("heartbeats-allowed", MetadataValue::from_static("true"));
    let mut requests = client.answer(request).await?.into_inner();
    let mut heard = false;
    loop {
        let next = match heard {
            true => tokio::time::timeout(SILENCE, requests.message()).await,
            false => Ok(requests.message().await),
        };
        let next = next.map_err(|_| Status::unavailable("the signaling service fell silent"))??;
        let Some(first) = next else { return Err(Status::unavailable("the signaling service ended the stream")) };
        match first.stage {
            Some(answer_request::Stage::Heartbeat(_)) => heard = true,
            Some(_) => return Ok(Offered { first, requests, responses }),
            None => {}
        }
    }
}

async fn exchange<F>(offered: Offered, shared: Arc<Shared<F>>, place: OwnedSemaphorePermit)
where
    F: Fn(IncomingPeer) + Send + Sync + 'static,
{
    let _place = place;
    let Offered { first, requests, responses } = offered;
    let mut run = Run {
        exchange: Exchange::new(),
        connection: None,
        requests: Some(requests),
        responses: Some(responses),
        answering: None,
        caller: CallerIdentity::default(),
    };
    run.exchange.handle_request(first, SystemTime::now(), Instant::now());
    match run.run(&shared.options.peer).await {
        Ok((channel, control)) => {
            (shared.on_peer)(IncomingPeer {
                channel,
                control,
                caller: run.caller.clone(),
                hosts: shared.hosts.clone(),
            });
        }
        Err(failure) => tracing::debug!(code = ?failure.code, what = failure.what, "an offer led to no connection"),
    }
    run.exchange.handle_end(None);
    let _ = tokio::time::timeout(FAREWELL, run.say_goodbye()).await;
}

/// An answer that waits for its candidates.
struct Answering {
    description: super::sdp::Description,
    until: Instant,
}

struct Run {
    exchange: Exchange,
    connection: Option<Connection>,
    requests: Option<Streaming<AnswerRequest>>,
    responses: Option<mpsc::Sender<AnswerResponse>>,
    answering: Option<Answering>,
    caller: CallerIdentity,
}

impl Run {
    async fn run(&mut self, options: &PeerOptions) -> Result<(DataChannel, Control), Failure> {
        loop {
            self.act(options).await?;
            let deadline = self.exchange.poll_timeout().unwrap_or_else(|| Instant::now() + options.timeout);
            let until = self.answering.as_ref().map_or(deadline, |a| a.until.min(deadline));
            let reports = async {
                match &mut self.connection {
                    Some(connection) => connection.reports.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                report = reports => match report {
                    Some(Report::Open(channel, control)) => {
                        self.exchange.handle_open();
                        return Ok((channel, control));
                    }
                    Some(report) => self.handle_report(report),
                    None => return Err(Failure { code: Code::Internal, what: "the connection ended".into() }),
                },
                got = super::call::next(&mut self.requests) => match got {
                    Ok(Some(request)) => self.exchange.handle_request(request, SystemTime::now(), Instant::now()),
                    Ok(None) => self.requests = None,
                    Err(status) => {
                        self.requests = None;
                        match is_lost(&status) {
                            true => self.exchange.handle_lost(failed(&status), Instant::now()),
                            false => self.exchange.handle_end(Some(failed(&status))),
                        }
                    }
                },
                () = tokio::time::sleep_until(until.into()) => {
                    self.exchange.handle_timeout(Instant::now());
                    self.answer_if_waiting();
                }
            }
        }
    }

    fn handle_report(&mut self, report: Report) {
        match report {
            Report::Candidate(text) => match &mut self.answering {
                Some(answering) => answering.description.candidates.push(text),
                None => self.exchange.handle_candidate(&text),
            },
            Report::Gathered => {
                self.answer_if_waiting();
                self.exchange.handle_gathered();
            }
            Report::Ended(why) => {
                self.exchange.handle_failed(Failure { code: Code::Unavailable, what: why.to_string() });
            }
            Report::Checked => self.exchange.handle_checked(Instant::now()),
            Report::Connected | Report::Secured | Report::Open(..) => {}
        }
    }

    fn answer_if_waiting(&mut self) {
        if let Some(Answering { mut description, .. }) = self.answering.take() {
            description.complete = true;
            self.exchange.handle_answer(description, Instant::now());
        }
    }

    async fn act(&mut self, options: &PeerOptions) -> Result<(), Failure> {
        while let Some(output) = self.exchange.poll_output() {
            match output {
                AnswererOutput::Offer(offer) => self.begin(*offer, options).await,
                AnswererOutput::Remote(text) => {
                    if let Some(connection) = &self.connection {
                        let _ = connection.commands.send(Command::Remote(vec![text])).await;
                    }
                }
                AnswererOutput::Send(response) => self.send(response).await,
                AnswererOutput::Failed(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    async fn begin(&mut self, offer: Offer, options: &PeerOptions) {
        self.caller = offer.caller;
        match answer(options, &offer.description) {
            Ok((connection, description)) => {
                let servers = Command::Servers(options.servers(&offer.ice_servers));
                let _ = connection.commands.send(servers).await;
                self.connection = Some(connection);
                if offer.trickle && options.trickle {
                    self.exchange.handle_answer(description, Instant::now());
                } else {
                    self.answering = Some(Answering { description, until: Instant::now() + GATHER });
                }
            }
            Err(e) => self.exchange.handle_failed(Failure { code: Code::Internal, what: e.to_string() }),
        }
    }

    async fn send(&mut self, response: AnswerResponse) {
        if let Some(responses) = &self.responses
            && responses.send(response).await.is_err()
        {
            self.responses = None;
        }
    }

    /// Sends what is left and lets the service end the stream.
    async fn say_goodbye(&mut self) {
        self.connection = None;
        while let Some(output) = self.exchange.poll_output() {
            if let AnswererOutput::Send(response) = output {
                self.send(response).await;
            }
        }
        self.responses = None;
        if let Some(requests) = &mut self.requests {
            while let Ok(Some(_)) = requests.message().await {}
        }
    }
}
