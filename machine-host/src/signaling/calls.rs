//! Offers, who waits for them and who has taken them: one sans-IO value.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use machine_api::google::rpc;
use tonic::{Code, Status};
use uuid::Uuid;

use super::{FromAnswerer, FromCaller, OFFER_LIFE, Offer};
use crate::Principal;

/// An offer with less time left than this is given to nobody: its answer would come too late.
const TOO_LATE: Duration = Duration::from_secs(2);
/// How long a machine counts as present after it has ended an exchange in order: existing ones ask for the next offer within a second.
const GRACE: Duration = Duration::from_secs(2);
/// What one side may say during a call, in candidates: a host with eight interfaces and four servers has below 100.
const MAX_CANDIDATES: u32 = 128;
/// Calls that ended and are remembered for as long as their offer would have lived, so that what comes late is no error.
const MAX_ENDED: usize = 4096;

/// How much a queue holds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Offers that wait for one host. Default 50.
    pub waiting_per_host: usize,
    /// Calls at once, over all hosts. Default 1,024: 64 MiB of offers at their largest.
    pub calls: usize,
    /// Answerers that wait for one host: for a further one the oldest is sent away. Default 16; existing machines have 2 or 4.
    pub answerers_per_host: usize,
    /// Answerers that wait, over all hosts. Default 8,192.
    pub answerers: usize,
    /// How long an offer waits for a machine that is not there. Default none at all.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { waiting_per_host: 50, calls: 1024, answerers_per_host: 16, answerers: 8192, patience: Duration::ZERO }
    }
}

/// Why the queue does not do what it is asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Too many callers wait for this machine.
    #[error("too many connection attempts; please wait a bit and try again")]
    Crowded,
    /// The service itself is full.
    #[error("the signaling service holds as many calls as it can; please wait a bit and try again")]
    Full,
    /// Nobody answers for the host.
    #[error("host appears to be offline; ensure machine is online and try again")]
    Offline,
    /// The machine had the offer and did not answer, or nobody took it.
    #[error("no answer from the machine within {} s; is it busy, or did its connection break?", OFFER_LIFE.as_secs())]
    TooLate,
    /// There is no such call, or it is somebody else's.
    #[error("no active offer for {:?}", .0.to_string())]
    NoOffer(Uuid),
    /// More candidates than any host has.
    #[error("more than {MAX_CANDIDATES} candidates")]
    TooMany,
    /// Said before the answer, or a second answer.
    #[error("{0}")]
    OutOfOrder(&'static str),
    /// Others of the same machine came later.
    #[error("more answerers wait for this host than are needed; the later ones are kept")]
    Replaced,
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let code = match refused {
            Refused::Crowded | Refused::Full => Code::Unavailable,
            Refused::Offline | Refused::NoOffer(_) => Code::NotFound,
            Refused::TooLate => Code::DeadlineExceeded,
            Refused::TooMany => Code::ResourceExhausted,
            Refused::OutOfOrder(_) => Code::InvalidArgument,
            Refused::Replaced => Code::Aborted,
        };
        Self::new(code, refused.to_string())
    }
}

/// What the queue wants done.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Output {
    /// An answerer has an offer.
    Taken { answerer: u64, call: Uuid, offer: Offer, until: Instant },
    /// An answerer waits no longer.
    SentAway { answerer: u64 },
    /// To the answerer of a call.
    ToAnswerer(Uuid, FromCaller),
    /// To the caller of a call.
    ToCaller(Uuid, Result<FromAnswerer, Refused>),
}

struct Call {
    offer: Offer,
    since: Instant,
    until: Instant,
    /// The hosts of the answerer that has taken it.
    taken: Option<Vec<String>>,
    answered: bool,
    caller_done: bool,
    answerer_done: bool,
    /// Candidates, of the caller and of the answerer.
    candidates: (u32, u32),
}

struct Answerer {
    hosts: Vec<String>,
    connection: u64,
}

/// What there is for one host.
#[derive(Default)]
struct Line {
    /// Offers that wait, the oldest first.
    offers: VecDeque<Uuid>,
    /// Answerers that wait, by connection and number: the last connection is served first, within it the one that waits longest.
    answerers: BTreeSet<(std::cmp::Reverse<u64>, u64)>,
    /// Calls that its machine has taken.
    busy: usize,
    /// Until when its machine counts as present although it does not wait.
    grace: Option<Instant>,
}

impl Line {
    fn is_present(&self, now: Instant) -> bool {
        !self.answerers.is_empty() || self.busy > 0 || self.grace.is_some_and(|until| now < until)
    }

    fn is_empty(&self) -> bool {
        self.offers.is_empty() && self.answerers.is_empty() && self.busy == 0 && self.grace.is_none()
    }
}

/// The queue.
pub(super) struct Calls {
    limits: Limits,
    calls: BTreeMap<Uuid, Call>,
    answerers: BTreeMap<u64, Answerer>,
    lines: BTreeMap<String, Line>,
    /// Calls that ended, with whom they were between, until they are forgotten.
    ended: BTreeMap<Uuid, (Principal, String)>,
    ends: VecDeque<(Instant, Uuid)>,
    outputs: VecDeque<Output>,
}

impl Calls {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            calls: BTreeMap::new(),
            answerers: BTreeMap::new(),
            lines: BTreeMap::new(),
            ended: BTreeMap::new(),
            ends: VecDeque::new(),
            outputs: VecDeque::new(),
        }
    }

    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Calls::handle_timeout`] is due next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let calls = self.calls.values().map(|call| self.due(call));
        let graces = self.lines.values().filter_map(|line| line.grace);
        calls.chain(graces).chain(self.ends.front().map(|(at, _)| *at)).min()
    }

    /// When a call ends by itself.
    fn due(&self, call: &Call) -> Instant {
        let Some(line) = self.lines.get(&call.offer.host) else { return call.until };
        if call.taken.is_some() || !line.answerers.is_empty() || line.busy > 0 {
            return call.until;
        }
        let patience = call.since + self.limits.patience;
        line.grace.map_or(patience, |grace| grace.max(patience)).min(call.until)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, id)) = self.ends.front().copied() {
            if now < at && self.ended.len() <= MAX_ENDED {
                break;
            }
            self.ends.pop_front();
            self.ended.remove(&id);
        }
        let due: Vec<Uuid> = self.calls.iter().filter(|(_, c)| self.due(c) <= now).map(|(id, _)| *id).collect();
        for id in due {
            self.time_out(id, now);
        }
        self.lines.retain(|_, line| {
            line.grace = line.grace.filter(|until| now < *until);
            !line.is_empty()
        });
    }

    fn time_out(&mut self, id: Uuid, now: Instant) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let why = if now < call.until { Refused::Offline } else { Refused::TooLate };
        if !call.answerer_done {
            call.answerer_done = true;
            self.outputs.push_back(Output::ToCaller(id, Err(why.clone())));
        }
        let was_answering = call.taken.is_some();
        if !call.caller_done {
            call.caller_done = true;
            if was_answering {
                let status =
                    rpc::Status { code: Code::DeadlineExceeded as i32, message: why.to_string(), details: vec![] };
                self.outputs.push_back(Output::ToAnswerer(id, FromCaller::Error(status)));
                self.outputs.push_back(Output::ToAnswerer(id, FromCaller::Done));
            }
        }
        self.end(id, now);
    }

    /// A caller leaves an offer. `id` must be new.
    pub(super) fn handle_call(&mut self, id: Uuid, offer: Offer, now: Instant) -> Result<(), Refused> {
        self.handle_timeout(now);
        if self.calls.len() >= self.limits.calls {
            return Err(Refused::Full);
        }
        let line = self.lines.get(&offer.host);
        if line.is_some_and(|line| line.offers.len() >= self.limits.waiting_per_host) {
            return Err(Refused::Crowded);
        }
        if self.limits.patience.is_zero() && !line.is_some_and(|line| line.is_present(now)) {
            return Err(Refused::Offline);
        }
        let host = offer.host.clone();
        self.lines.entry(host.clone()).or_default().offers.push_back(id);
        let call = Call {
            offer,
            since: now,
            until: now + OFFER_LIFE,
            taken: None,
            answered: false,
            caller_done: false,
            answerer_done: false,
            candidates: (0, 0),
        };
        self.calls.insert(id, call);
        self.hand_out(&host, now);
        Ok(())
    }

    /// The caller says something further. Late updates of a call that has ended are taken and dropped.
    pub(super) fn handle_update(
        &mut self,
        id: Uuid,
        caller: &Principal,
        host: &str,
        said: FromCaller,
        now: Instant,
    ) -> Result<(), Refused> {
        self.handle_timeout(now);
        let Some(call) = self.calls.get_mut(&id) else {
            return match self.ended.get(&id) {
                Some((by, to)) if by == caller && to == host => Ok(()),
                _ => Err(Refused::NoOffer(id)),
            };
        };
        if call.offer.caller != *caller || call.offer.host != host {
            return Err(Refused::NoOffer(id));
        }
        if call.caller_done {
            return Ok(());
        }
        if matches!(said, FromCaller::Candidate(_)) {
            if call.candidates.0 == MAX_CANDIDATES {
                return Err(Refused::TooMany);
            }
            call.candidates.0 += 1;
            // Nobody is there to hear it yet; no caller knows its id before the answer.
            if call.taken.is_some() {
                self.outputs.push_back(Output::ToAnswerer(id, said));
            }
            return Ok(());
        }
        self.caller_ends(id, said, now);
        Ok(())
    }

    /// The caller's stream is gone. One that was answered may well be connected: its machine goes on.
    pub(super) fn handle_caller_left(&mut self, id: Uuid, now: Instant) {
        let Some(call) = self.calls.get(&id) else { return };
        if call.caller_done {
            return;
        }
        let gave_up =
            rpc::Status { code: Code::Cancelled as i32, message: "the caller left".to_owned(), details: vec![] };
        let said = if call.answered { FromCaller::Done } else { FromCaller::Error(gave_up) };
        if !call.answered || call.answerer_done {
            self.caller_ends(id, said, now);
        }
        // Else its updates may still come: a caller that is connected stops reading first and says `done` then.
    }

    fn caller_ends(&mut self, id: Uuid, said: FromCaller, now: Instant) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.caller_done = true;
        if call.taken.is_none() {
            // Nobody has it: nobody is to get it.
            call.answerer_done = true;
            self.outputs.push_back(Output::ToCaller(id, Ok(FromAnswerer::Done)));
            return self.end(id, now);
        }
        if matches!(said, FromCaller::Error(_)) {
            self.outputs.push_back(Output::ToAnswerer(id, said));
        }
        self.outputs.push_back(Output::ToAnswerer(id, FromCaller::Done));
        if call.answerer_done {
            self.end(id, now);
        }
    }

    /// A machine waits for an offer to any of `hosts`. `answerer` must be new.
    pub(super) fn handle_answerer(
        &mut self,
        answerer: u64,
        hosts: &[String],
        connection: u64,
        now: Instant,
    ) -> Result<(), Refused> {
        self.handle_timeout(now);
        if self.answerers.len() >= self.limits.answerers {
            return Err(Refused::Full);
        }
        self.answerers.insert(answerer, Answerer { hosts: hosts.to_vec(), connection });
        for host in hosts {
            self.lines.entry(host.clone()).or_default().answerers.insert((std::cmp::Reverse(connection), answerer));
        }
        for host in hosts {
            let line = self.lines.entry(host.clone()).or_default();
            if line.answerers.len() > self.limits.answerers_per_host
                && let Some((_, oldest)) = line.answerers.last().copied()
            {
                self.remove_answerer(oldest);
                self.outputs.push_back(Output::SentAway { answerer: oldest });
            }
        }
        for host in hosts {
            self.hand_out(host, now);
        }
        Ok(())
    }

    /// A machine waits no longer: its connection broke.
    pub(super) fn handle_answerer_gone(&mut self, answerer: u64, now: Instant) {
        if let Some(gone) = self.remove_answerer(answerer) {
            self.end_graces(&gone.hosts);
        }
        self.handle_timeout(now);
    }

    /// A stream that breaks tells that the machine will not come back within moments.
    fn end_graces(&mut self, hosts: &[String]) {
        for host in hosts {
            if let Some(line) = self.lines.get_mut(host) {
                line.grace = None;
            }
        }
    }

    fn remove_answerer(&mut self, answerer: u64) -> Option<Answerer> {
        let gone = self.answerers.remove(&answerer)?;
        for host in &gone.hosts {
            if let Some(line) = self.lines.get_mut(host) {
                line.answerers.remove(&(std::cmp::Reverse(gone.connection), answerer));
            }
        }
        Some(gone)
    }

    /// The machine that took a call says something.
    pub(super) fn handle_answer(&mut self, id: Uuid, said: FromAnswerer, now: Instant) -> Result<(), Refused> {
        self.handle_timeout(now);
        let Some(call) = self.calls.get_mut(&id) else {
            return if self.ended.contains_key(&id) { Ok(()) } else { Err(Refused::NoOffer(id)) };
        };
        if call.answerer_done {
            return Ok(());
        }
        match (&said, call.answered) {
            (FromAnswerer::Answer(_), true) => return Err(Refused::OutOfOrder("a second answer to one offer")),
            (FromAnswerer::Candidate(_) | FromAnswerer::Done, false) => {
                return Err(Refused::OutOfOrder("expected the answer before anything else"));
            }
            (FromAnswerer::Answer(_), false) => call.answered = true,
            (FromAnswerer::Candidate(_), true) => {
                if call.candidates.1 == MAX_CANDIDATES {
                    return Err(Refused::TooMany);
                }
                call.candidates.1 += 1;
            }
            (FromAnswerer::Done | FromAnswerer::Error(_), _) => call.answerer_done = true,
        }
        let ended = matches!(said, FromAnswerer::Error(_)) || (call.answerer_done && call.caller_done);
        self.outputs.push_back(Output::ToCaller(id, Ok(said)));
        if ended {
            self.end(id, now);
        }
        Ok(())
    }

    /// The stream of the machine that took a call is gone. An offer that it did not answer goes to whoever asks next.
    pub(super) fn handle_exchange_left(&mut self, id: Uuid, now: Instant) {
        self.handle_timeout(now);
        let Some(call) = self.calls.get_mut(&id) else { return };
        if call.answered || call.caller_done {
            let hosts = call.taken.clone().unwrap_or_default();
            if !call.answerer_done {
                call.answerer_done = true;
                self.outputs.push_back(Output::ToCaller(id, Ok(FromAnswerer::Done)));
            }
            self.end(id, now);
            self.end_graces(&hosts);
            return self.handle_timeout(now);
        }
        let host = call.offer.host.clone();
        let hosts = call.taken.take().unwrap_or_default();
        self.set_free(&hosts, None);
        self.end_graces(&hosts);
        self.lines.entry(host.clone()).or_default().offers.push_front(id);
        self.hand_out(&host, now);
        self.handle_timeout(now);
    }

    /// Its machine has one call less.
    fn set_free(&mut self, hosts: &[String], grace: Option<Instant>) {
        for host in hosts {
            if let Some(line) = self.lines.get_mut(host) {
                line.busy = line.busy.saturating_sub(1);
                line.grace = line.grace.max(grace);
            }
        }
    }

    fn end(&mut self, id: Uuid, now: Instant) {
        let Some(call) = self.calls.remove(&id) else { return };
        match &call.taken {
            Some(hosts) => self.set_free(hosts, Some(now + GRACE)),
            None => {
                if let Some(line) = self.lines.get_mut(&call.offer.host) {
                    line.offers.retain(|waiting| *waiting != id);
                }
            }
        }
        self.ended.insert(id, (call.offer.caller, call.offer.host));
        self.ends.push_back((now + OFFER_LIFE, id));
    }

    /// Gives what waits to who waits.
    fn hand_out(&mut self, host: &str, now: Instant) {
        loop {
            let Some(line) = self.lines.get_mut(host) else { return };
            let Some((_, answerer)) = line.answerers.first().copied() else { return };
            let calls = &self.calls;
            line.offers.retain(|id| calls.contains_key(id));
            let in_time = |id: &Uuid| calls.get(id).is_some_and(|call| call.until >= now + TOO_LATE);
            let Some(at) = line.offers.iter().position(in_time) else { return };
            let Some(id) = line.offers.remove(at) else { return };
            let Some(taker) = self.remove_answerer(answerer) else { return };
            for host in &taker.hosts {
                self.lines.entry(host.clone()).or_default().busy += 1;
            }
            let Some(call) = self.calls.get_mut(&id) else { return };
            call.taken = Some(taker.hosts);
            let (offer, until) = (call.offer.clone(), call.until);
            self.outputs.push_back(Output::Taken { answerer, call: id, offer, until });
        }
    }
}

#[cfg(test)]
#[path = "calls_tests.rs"]
mod tests;
