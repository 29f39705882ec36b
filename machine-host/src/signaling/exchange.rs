//! One Answer stream: it waits for one offer and carries what both sides say until both have said everything.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt;
use machine_api::proto::rpc::webrtc::v1::{
    AnswerRequest, AnswerRequestDoneStage, AnswerRequestErrorStage, AnswerRequestHeartbeatStage,
    AnswerRequestInitStage, AnswerRequestUpdateStage, AnswerResponse, WebRtcConfig, answer_request, answer_response,
};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior};
use tonic::codegen::BoxStream;
use tonic::{Status, Streaming};

use super::service::{caller_metadata, refusal};
use super::{Access, CallQueue, Exchange, FromAnswerer, FromCaller, Party, Refused, check_candidate, check_sdp, plain};

/// What an answerer may leave unread: a call's candidates twice over. One that reads less is no answerer.
const UNREAD: usize = 320;

/// How long the stream stays open for an answerer that has heard of the end of its call and not said anything to it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// An answerer, and what it asks for.
pub(super) struct Answering {
    pub queue: Arc<dyn CallQueue>,
    pub access: Arc<dyn Access>,
    /// How often it wants to hear that the service is there.
    pub heartbeat: Option<Duration>,
    pub party: Party,
    pub hosts: Vec<String>,
}

type Sender = mpsc::Sender<Result<AnswerRequest, Status>>;

/// Serves one Answer stream in a task of its own, which ends with the stream.
pub(super) fn run(answering: Answering, said: Streaming<AnswerResponse>) -> BoxStream<AnswerRequest> {
    let (sender, receiver) = mpsc::channel(UNREAD);
    tokio::spawn(async move {
        let closed = sender.clone();
        tokio::select! {
            // Whatever happens: nobody reads any more.
            () = closed.closed() => {}
            ended = answering.serve(said, &sender) => {
                if let Err(status) = ended {
                    let _ = sender.try_send(Err(status));
                }
            }
        }
    });
    futures_util::stream::unfold(receiver, |mut r| async move { r.recv().await.map(|item| (item, r)) }).boxed()
}

impl Answering {
    async fn serve(self, mut said: Streaming<AnswerResponse>, to: &Sender) -> Result<(), Status> {
        let mut heartbeats = self.heartbeat.map(|every| {
            let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        let exchange = {
            let taken = self.queue.take(&self.hosts, self.party.connection);
            tokio::pin!(taken);
            loop {
                tokio::select! {
                    exchange = &mut taken => break exchange?,
                    () = tick(&mut heartbeats) => send(to, String::new(), heartbeat())?,
                    // It has nothing to say yet: this is its end, or a mistake.
                    early = said.message() => match early? {
                        None => return Ok(()),
                        Some(_) => return Err(Status::invalid_argument("expected nothing before an offer")),
                    },
                }
            }
        };
        self.carry(exchange, said, heartbeats, to).await
    }

    async fn carry(
        self,
        mut exchange: Exchange,
        mut said: Streaming<AnswerResponse>,
        mut heartbeats: Option<Interval>,
        to: &Sender,
    ) -> Result<(), Status> {
        let id = exchange.id.to_string();
        send(to, id.clone(), self.init(&exchange))?;
        let (mut caller_done, mut answerer_done) = (false, false);
        let too_long = tokio::time::sleep_until((exchange.until + LAST_WORDS).into());
        tokio::pin!(too_long);
        while !(caller_done && answerer_done) {
            tokio::select! {
                // What the caller said first is told first.
                biased;
                update = exchange.updates.recv(), if !caller_done => {
                    caller_done = matches!(update, None | Some(FromCaller::Done));
                    send(to, id.clone(), told(update.unwrap_or(FromCaller::Done)))?;
                }
                message = said.message(), if !answerer_done => {
                    // A stream that ends or breaks without a word: the exchange is dropped, and with it told.
                    let Some(message) = message? else { return Ok(()) };
                    let reported = self.answered(&exchange, message).await;
                    match reported {
                        Ok(Said::More) => {}
                        Ok(Said::Done) => answerer_done = true,
                        Ok(Said::Error) => return Ok(()),
                        Err(status) => {
                            let error = refusal(&Refused::OutOfOrder("the machine did not keep to the protocol"));
                            let _ = self.queue.answer(exchange.id, FromAnswerer::Error(error)).await;
                            return Err(status);
                        }
                    }
                }
                () = tick(&mut heartbeats) => send(to, String::new(), heartbeat())?,
                () = &mut too_long => return Ok(()),
            }
        }
        Ok(())
    }

    /// Passes on what the answerer said.
    async fn answered(&self, exchange: &Exchange, message: AnswerResponse) -> Result<Said, Status> {
        if message.uuid != exchange.id.to_string() {
            return Err(Status::invalid_argument("an answer to another call"));
        }
        let (said, then) = match message.stage {
            Some(answer_response::Stage::Init(init)) => {
                check_sdp(&init.sdp)?;
                (FromAnswerer::Answer(init.sdp), Said::More)
            }
            Some(answer_response::Stage::Update(update)) => {
                // Nothing in it: nothing to pass on.
                let Some(candidate) = update.candidate else { return Ok(Said::More) };
                check_candidate(&candidate)?;
                (FromAnswerer::Candidate(candidate), Said::More)
            }
            Some(answer_response::Stage::Done(_)) => (FromAnswerer::Done, Said::Done),
            Some(answer_response::Stage::Error(error)) => {
                (FromAnswerer::Error(plain(error.status.unwrap_or_default())), Said::Error)
            }
            None => return Ok(Said::More),
        };
        self.queue.answer(exchange.id, said).await?;
        Ok(then)
    }

    fn init(&self, exchange: &Exchange) -> answer_request::Stage {
        let offer = &exchange.offer;
        let servers = self.access.ice_servers(&self.party.principal, &offer.host);
        let left = exchange.until.saturating_duration_since(Instant::now());
        answer_request::Stage::Init(AnswerRequestInitStage {
            sdp: offer.sdp.clone(),
            optional_config: Some(WebRtcConfig {
                additional_ice_servers: servers,
                disable_trickle: offer.disable_trickle,
            }),
            deadline: Some((SystemTime::now() + left).into()),
            caller_auth_entity: offer.caller.id.clone(),
            caller_auth_metadata: caller_metadata(&offer.caller),
        })
    }
}

/// Whether an answerer says more.
enum Said {
    More,
    Done,
    Error,
}

fn told(update: FromCaller) -> answer_request::Stage {
    match update {
        FromCaller::Candidate(candidate) => {
            answer_request::Stage::Update(AnswerRequestUpdateStage { candidate: Some(candidate) })
        }
        FromCaller::Error(status) => answer_request::Stage::Error(AnswerRequestErrorStage { status: Some(status) }),
        FromCaller::Done => answer_request::Stage::Done(AnswerRequestDoneStage {}),
    }
}

fn heartbeat() -> answer_request::Stage {
    answer_request::Stage::Heartbeat(AnswerRequestHeartbeatStage {})
}

fn send(to: &Sender, uuid: String, stage: answer_request::Stage) -> Result<(), Status> {
    to.try_send(Ok(AnswerRequest { uuid, stage: Some(stage) }))
        .map_err(|_| Status::resource_exhausted("the answerer does not read what it is told"))
}

/// The next heartbeat; never, for those who want none.
async fn tick(heartbeats: &mut Option<Interval>) {
    match heartbeats {
        Some(heartbeats) => {
            heartbeats.tick().await;
        }
        None => std::future::pending().await,
    }
}
