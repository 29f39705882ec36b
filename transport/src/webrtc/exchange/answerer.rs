//! The answerer's half.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use machine_api::proto::rpc::webrtc::v1::{
    AnswerRequest, AnswerResponse, AnswerResponseDoneStage, AnswerResponseErrorStage, AnswerResponseInitStage,
    AnswerResponseUpdateStage, answer_request, answer_response,
};
use tonic::Code;

use super::{ALONE, Failure, MAX_CANDIDATES, candidate};
use crate::webrtc::candidate::is_loopback;
use crate::webrtc::options::IceServer;
use crate::webrtc::sdp::{Description, Kind};

/// An offer's life where it names none, as existing services have it.
pub(super) const OFFER_LIFE: Duration = Duration::from_secs(10);
/// A deadline is never taken to be sooner: clocks differ.
pub(super) const EARLIEST: Duration = Duration::from_secs(5);
/// Nor later: what an answerer does for one offer is bounded.
pub(super) const LATEST: Duration = Duration::from_secs(30);
/// How long candidates wait behind an answer that does not hold them. webrtc-rs (below the published Python SDK) begins its checks
/// with the answer and tells the rest of itself of that by another task: where a check succeeds before that task has had its turn, within
/// some 1.5 ms on one host, it gives up DTLS with "ICE connection not started", and its user waits for the 20 s of a dial.
pub(super) const HEAD_START: Duration = Duration::from_millis(3);
/// How much longer an existing caller's candidates are left alone, unless it checks ours before. Its first sight of us has to be a candidate that
/// it was told, and checks overtake the signaling service: an address that it knows from our check alone is accepted only after a whole second
/// (Go's pion, older webrtc-rs). Where our check has to open a way for its own, it is later by this; its own are repeated every 200 ms.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);
/// Our addresses on loopback, where there are others, are told to an existing caller so long after its first check, one by one. Those that are built with pion
/// or webrtc-rs choose a pair that has answered them only at their next round of checks, 200 ms later, unless our own check comes over the pair that they
/// take for the best, answered or not. That is often one which never answers: our loopback's with theirs, or theirs, from which they check us too. A candidate
/// that is new to them begins a round: by then they have our answer, which left before it; and if the first one overtook that, the second does not.
pub(super) const NUDGES: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(10)];

/// Who calls, as the signaling service authenticated them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CallerIdentity {
    /// The authenticated entity; empty where the service tells none.
    pub entity: String,
    /// What the service tells besides.
    pub metadata: std::collections::BTreeMap<String, String>,
}

/// An offer that is to be answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// The peer's description.
    pub description: Description,
    /// Servers that the service adds for this exchange.
    pub ice_servers: Vec<IceServer>,
    /// Whether the answer must hold every candidate.
    pub trickle: bool,
    /// Who calls.
    pub caller: CallerIdentity,
}

/// What the answerer's half wants done.
#[derive(Clone, PartialEq, Debug)]
pub enum AnswererOutput {
    /// Answer this; then [`Answerer::handle_answer`].
    Offer(Box<Offer>),
    /// A candidate of the peer's.
    Remote(String),
    /// To be sent.
    Send(AnswerResponse),
    /// Nothing more will come of it.
    Failed(Failure),
}

/// The answerer's half of one exchange: one stream of the service.
#[derive(Debug, Default)]
pub struct Answerer {
    uuid: Option<String>,
    /// Candidates of ours that are not to be sent yet.
    held: Vec<String>,
    /// Those that are told last, and when the next of them is due once the caller has checked us.
    last: VecDeque<String>,
    nudge: Option<Instant>,
    /// Candidates of the peer's that are not to be used yet.
    held_remote: Vec<String>,
    answered: bool,
    /// While our candidates wait although the answer was sent.
    released: Option<Instant>,
    /// The caller is to see us first.
    patient: bool,
    /// While the caller's candidates wait although the answer was sent.
    checked_from: Option<Instant>,
    candidates: usize,
    remote: usize,
    gathered: bool,
    caller_done: bool,
    over: bool,
    deadline: Option<Instant>,
    outputs: VecDeque<AnswererOutput>,
}

impl Answerer {
    /// Waits for an offer.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the service sent. `wall` is the time by the calendar, in which it names its deadline.
    pub fn handle_request(&mut self, request: AnswerRequest, wall: SystemTime, now: Instant) {
        use answer_request::Stage;
        if self.expired(now) {
            return;
        }
        let stage = match request.stage {
            None | Some(Stage::Heartbeat(_)) => return,
            Some(stage) => stage,
        };
        let known = self.uuid.is_some();
        if known && self.uuid.as_ref() != Some(&request.uuid) {
            return self.fail(Failure::new(Code::InvalidArgument, "the signaling service mixed up two exchanges"));
        }
        match stage {
            Stage::Init(_) if known => self.fail(Failure::new(Code::InvalidArgument, "a second offer in one exchange")),
            Stage::Init(init) => {
                self.uuid = Some(request.uuid);
                let told = init.deadline.as_ref().map(|d| {
                    let at = Duration::new(u64::try_from(d.seconds).unwrap_or(0), u32::try_from(d.nanos).unwrap_or(0));
                    let wall = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                    at.saturating_sub(wall).clamp(EARLIEST, LATEST)
                });
                self.deadline = Some(now + told.unwrap_or(OFFER_LIFE));
                match Description::decode(&init.sdp) {
                    Ok(mut description) if description.kind == Kind::Offer => {
                        // Only ends of ours offer this.
                        self.patient = description.sctp_init.is_none();
                        if self.patient {
                            self.held_remote = std::mem::take(&mut description.candidates);
                        }
                        let config = init.optional_config.unwrap_or_default();
                        let servers = config.additional_ice_servers.into_iter();
                        let ice_servers = servers
                            .map(|s| IceServer { urls: s.urls, username: s.username, credential: s.credential })
                            .collect();
                        let caller = CallerIdentity {
                            entity: init.caller_auth_entity,
                            metadata: init.caller_auth_metadata.into_iter().collect(),
                        };
                        let trickle = !config.disable_trickle;
                        let offer = Offer { description, ice_servers, trickle, caller };
                        self.outputs.push_back(AnswererOutput::Offer(Box::new(offer)));
                    }
                    Ok(_) => self.fail(Failure::new(Code::InvalidArgument, "the offer is an answer")),
                    Err(e) => {
                        self.fail(Failure::new(Code::InvalidArgument, format!("the offer cannot be used: {e}")));
                    }
                }
            }
            // A candidate of an exchange that has not begun is nobody's.
            _ if !known => {}
            Stage::Update(update) => {
                if let Some(candidate) = update.candidate
                    && self.remote < MAX_CANDIDATES
                {
                    self.remote += 1;
                    if !self.answered || self.checked_from.is_some() {
                        self.held_remote.push(candidate.candidate);
                    } else {
                        self.outputs.push_back(AnswererOutput::Remote(candidate.candidate));
                    }
                }
            }
            Stage::Done(_) => {
                self.caller_done = true;
                self.finish_if_complete();
            }
            Stage::Error(error) => {
                let status = error.status.unwrap_or_default();
                self.over = true;
                let what = format!("the caller gave up: {}", status.message);
                self.fail(Failure::new(Code::from_i32(status.code), what));
            }
            Stage::Heartbeat(_) => {}
        }
    }

    /// Our answer; it leaves before everything else, to an existing caller its candidates [`HEAD_START`] later unless it is `complete`, and the
    /// caller's are used after that.
    pub fn handle_answer(&mut self, mut answer: Description, now: Instant) {
        self.answered = true;
        let mut seen = now;
        // Ends of ours begin with all that is known.
        if self.patient && !answer.complete {
            self.held.splice(0..0, std::mem::take(&mut answer.candidates));
            seen += HEAD_START;
            self.released = Some(seen);
        }
        self.checked_from = Some(if self.patient { seen + PATIENCE } else { seen });
        self.send(answer_response::Stage::Init(AnswerResponseInitStage { sdp: answer.encode() }));
        self.release(now);
    }

    /// The caller has checked a candidate of ours: it knows us.
    pub fn handle_checked(&mut self, now: Instant) {
        self.nudge = Some(now + NUDGES[0]).filter(|_| !self.last.is_empty());
        if self.checked_from.take().is_some() {
            self.use_remote();
        }
    }

    /// Whether our candidates wait.
    fn holds(&self) -> bool {
        !self.answered || self.released.is_some()
    }

    /// What is told last is kept back, if it may be.
    fn keep_last(&mut self) {
        if self.patient && self.checked_from.is_some() && !self.held.iter().all(|text| is_loopback(text)) {
            self.last.extend(self.held.extract_if(.., |text| is_loopback(text)));
        }
    }

    /// What is due of either side's candidates.
    fn release(&mut self, now: Instant) {
        if self.over {
            return;
        }
        self.released.take_if(|at| now >= *at);
        if !self.holds() {
            self.keep_last();
            for text in std::mem::take(&mut self.held) {
                self.send_candidate(&text);
            }
        }
        if self.nudge.take_if(|at| now >= *at).is_some() {
            let next = self.last.pop_front();
            next.into_iter().for_each(|text| self.send_candidate(&text));
            self.nudge = Some(now + NUDGES[1]).filter(|_| !self.last.is_empty());
        }
        if self.checked_from.take_if(|at| now >= *at).is_some() {
            // It has not found us by the others.
            std::mem::take(&mut self.last).iter().for_each(|text| self.send_candidate(text));
            self.use_remote();
        }
        self.finish_if_complete();
    }

    fn use_remote(&mut self) {
        let remote = std::mem::take(&mut self.held_remote);
        self.outputs.extend(remote.into_iter().map(AnswererOutput::Remote));
        self.finish_if_complete();
    }

    /// A candidate of ours. Those in the answer are not to be repeated here.
    pub fn handle_candidate(&mut self, text: &str) {
        if self.over || self.candidates == MAX_CANDIDATES {
            return;
        }
        self.candidates += 1;
        if self.holds() { self.held.push(text.to_owned()) } else { self.send_candidate(text) }
    }

    /// No more of ours follow.
    pub fn handle_gathered(&mut self) {
        self.gathered = true;
        self.finish_if_complete();
    }

    /// The channel is open. Callers of one kind wait for this before they use it.
    pub fn handle_open(&mut self) {
        self.finish();
    }

    /// The connection has failed on our side.
    pub fn handle_failed(&mut self, failure: Failure) {
        self.fail(failure);
    }

    /// The service ended the stream.
    pub fn handle_end(&mut self, error: Option<Failure>) {
        if let Some(failure) = error
            && !self.over
        {
            self.fail(failure);
        }
    }

    /// The service is gone. Once the answer has left, the caller may have it, and the two may meet without the service.
    pub fn handle_lost(&mut self, failure: Failure, now: Instant) {
        if !self.answered {
            return self.handle_end(Some(failure));
        }
        self.deadline = self.deadline.map(|at| at.min(now + ALONE));
    }

    /// What to do.
    pub fn poll_output(&mut self) -> Option<AnswererOutput> {
        self.outputs.pop_front()
    }

    /// When [`Answerer::handle_timeout`] is due; `None` while no offer has come.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline.into_iter().chain(self.released).chain(self.nudge).chain(self.checked_from).min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if !self.expired(now) {
            self.release(now);
        }
    }

    fn expired(&mut self, now: Instant) -> bool {
        let due = self.deadline.is_some_and(|at| now >= at);
        if due {
            self.fail(Failure::new(Code::DeadlineExceeded, "the offer's exchange was not finished in time"));
        }
        due
    }

    /// Both sides have told everything: what is left happens between the peers.
    fn finish_if_complete(&mut self) {
        let waits = self.holds() || !self.last.is_empty();
        if self.gathered && self.caller_done && !waits && self.checked_from.is_none() {
            self.finish();
        }
    }

    fn finish(&mut self) {
        if !std::mem::replace(&mut self.over, true) {
            self.send(answer_response::Stage::Done(AnswerResponseDoneStage {}));
        }
    }

    fn fail(&mut self, failure: Failure) {
        if !std::mem::replace(&mut self.over, true) && self.uuid.is_some() {
            let status = Some(failure.status());
            self.send(answer_response::Stage::Error(AnswerResponseErrorStage { status }));
        }
        if !self.outputs.iter().any(|o| matches!(o, AnswererOutput::Failed(_))) {
            self.outputs.push_back(AnswererOutput::Failed(failure));
        }
    }

    fn send_candidate(&mut self, text: &str) {
        let candidate = Some(candidate(text));
        self.send(answer_response::Stage::Update(AnswerResponseUpdateStage { candidate }));
    }

    fn send(&mut self, stage: answer_response::Stage) {
        let uuid = self.uuid.clone().unwrap_or_default();
        self.outputs.push_back(AnswererOutput::Send(AnswerResponse { uuid, stage: Some(stage) }));
    }
}
