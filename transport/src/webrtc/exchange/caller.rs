//! The caller's half.

use std::collections::VecDeque;
use std::time::Instant;

use machine_api::proto::rpc::webrtc::v1::{CallResponse, CallUpdateRequest, call_response, call_update_request};
use tonic::Code;

use super::{ALONE, Failure, MAX_CANDIDATES, candidate};
use crate::webrtc::sdp::{Description, Kind};

/// What the caller's half wants done.
#[derive(Clone, PartialEq, Debug)]
pub enum CallerOutput {
    /// The peer's answer.
    Answer(Box<Description>),
    /// A candidate of the peer's.
    Remote(String),
    /// To be sent; `done` and errors only after all candidates before them.
    Update(CallUpdateRequest),
    /// Nothing more will come of it.
    Failed(Failure),
}

/// The caller's half of an exchange.
#[derive(Debug)]
pub struct Caller {
    uuid: Option<String>,
    held: Vec<String>,
    candidates: usize,
    remote: usize,
    /// `done` or an error was sent, or the exchange has failed.
    over: bool,
    gathered: bool,
    deadline: Instant,
    /// The service is gone, and how.
    lost: Option<Failure>,
    outputs: VecDeque<CallerOutput>,
}

impl Caller {
    /// An exchange whose offer is on its way; it has until `deadline`.
    pub fn new(deadline: Instant) -> Self {
        Self {
            uuid: None,
            held: Vec::new(),
            candidates: 0,
            remote: 0,
            over: false,
            gathered: false,
            deadline,
            lost: None,
            outputs: VecDeque::new(),
        }
    }

    /// A candidate of ours. Those in the offer are not to be repeated here.
    pub fn handle_candidate(&mut self, text: &str) {
        if self.over || self.candidates == MAX_CANDIDATES {
            return;
        }
        self.candidates += 1;
        match &self.uuid {
            Some(_) => self.update(call_update_request::Update::Candidate(candidate(text))),
            None => self.held.push(text.to_owned()),
        }
    }

    /// No more of ours follow.
    pub fn handle_gathered(&mut self) {
        self.gathered = true;
        self.finish_if_gathered();
    }

    /// The channel is open: the exchange has served its purpose.
    pub fn handle_open(&mut self) {
        if !self.over && self.uuid.is_some() {
            self.over = true;
            self.update(call_update_request::Update::Done(true));
        }
    }

    /// The connection has failed on our side.
    pub fn handle_failed(&mut self, failure: Failure) {
        self.fail(failure);
    }

    /// What the service sent.
    pub fn handle_response(&mut self, response: CallResponse, now: Instant) {
        if self.expired(now) {
            return;
        }
        match (response.stage, &self.uuid) {
            (Some(call_response::Stage::Init(init)), None) => match Description::decode(&init.sdp) {
                Ok(answer) if answer.kind == Kind::Answer => {
                    self.uuid = Some(response.uuid);
                    self.outputs.push_back(CallerOutput::Answer(Box::new(answer)));
                    for text in std::mem::take(&mut self.held) {
                        self.update(call_update_request::Update::Candidate(candidate(&text)));
                    }
                    self.finish_if_gathered();
                }
                Ok(_) => self.fail(Failure::new(Code::Internal, "the machine answered the offer with an offer")),
                Err(e) => self.fail(Failure::new(Code::Internal, format!("the machine's answer cannot be used: {e}"))),
            },
            (Some(call_response::Stage::Init(_)), Some(_)) => {
                self.fail(Failure::new(Code::Internal, "the signaling service sent two answers"));
            }
            (Some(call_response::Stage::Update(_)), None) => {
                self.fail(Failure::new(Code::Internal, "the signaling service sent a candidate before the answer"));
            }
            (Some(call_response::Stage::Update(_)), Some(uuid)) if *uuid != response.uuid => {
                self.fail(Failure::new(Code::Internal, "the signaling service mixed up two exchanges"));
            }
            (Some(call_response::Stage::Update(update)), Some(_)) => {
                if let Some(candidate) = update.candidate
                    && self.remote < MAX_CANDIDATES
                {
                    self.remote += 1;
                    self.outputs.push_back(CallerOutput::Remote(candidate.candidate));
                }
            }
            // A stage of later protocols.
            (None, _) => {}
        }
    }

    /// The service ended the call: in order once the answerer is done, else with an error.
    pub fn handle_end(&mut self, error: Option<Failure>) {
        match error {
            Some(failure) => self.fail(failure),
            None if self.uuid.is_none() => {
                self.fail(Failure::new(Code::Unavailable, "the signaling service ended the call without an answer"));
            }
            None => {}
        }
    }

    /// The service is gone, in the middle of the exchange or before it. Who has the peer's answer goes on for a while: the two may meet without it.
    pub fn handle_lost(&mut self, failure: Failure, now: Instant) {
        if self.uuid.is_none() {
            return self.fail(failure);
        }
        self.deadline = self.deadline.min(now + ALONE);
        self.lost.get_or_insert(failure);
    }

    /// What to do.
    pub fn poll_output(&mut self) -> Option<CallerOutput> {
        self.outputs.pop_front()
    }

    /// When [`Caller::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Instant {
        self.deadline
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.expired(now);
    }

    fn expired(&mut self, now: Instant) -> bool {
        if now < self.deadline {
            return false;
        }
        if let Some(Failure { code, what }) = self.lost.take() {
            let what = format!(
                "the signaling service was lost after the machine's answer, and no path was found without it: {what}"
            );
            self.fail(Failure::new(code, what));
            return true;
        }
        let what = if self.uuid.is_some() {
            "the machine answered, but no path to it was found in time; a firewall between may let no UDP through"
        } else {
            "the machine did not answer in time; is it running, and can it reach the signaling service?"
        };
        self.fail(Failure::new(Code::DeadlineExceeded, what));
        true
    }

    fn finish_if_gathered(&mut self) {
        if self.gathered && !self.over && self.uuid.is_some() {
            self.over = true;
            self.update(call_update_request::Update::Done(true));
        }
    }

    fn fail(&mut self, failure: Failure) {
        if !std::mem::replace(&mut self.over, true) && self.uuid.is_some() {
            self.update(call_update_request::Update::Error(failure.status()));
        }
        if !self.outputs.iter().any(|o| matches!(o, CallerOutput::Failed(_))) {
            self.outputs.push_back(CallerOutput::Failed(failure));
        }
    }

    fn update(&mut self, update: call_update_request::Update) {
        let uuid = self.uuid.clone().unwrap_or_default();
        self.outputs.push_back(CallerOutput::Update(CallUpdateRequest { uuid, update: Some(update) }));
    }
}
