//! What a dial or swap did: every candidate, how far it got and when, and how it ended.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::agent::{Attempt, Failure, LinkId, Origin, Route, Stage, Verdict};

/// Attempts kept per record; a hunt that lasts for hours keeps its newest.
const TRIES: usize = 64;
/// Sources' complaints kept per record.
const SOURCE_ERRORS: usize = 16;

/// One dial, or one hunt after a loss, from its first question to its end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FlightRecord {
    /// What was dialled, as the user wrote it.
    pub target: String,
    /// When it began: milliseconds since 1970, UTC.
    pub began_unix_ms: u64,
    /// Milliseconds from the beginning to the outcome (or until now).
    pub took_ms: f64,
    /// Routes that were told, and the attempts over them.
    pub tries: Vec<Try>,
    /// Attempts that were dropped from this record because there were too many.
    pub forgotten: u64,
    /// What the sources of addresses complained of.
    pub source_errors: Vec<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it began.
    pub reason: &'static str,
}

/// One attempt, or a candidate that was not tried.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Try {
    /// The address or path.
    pub route: String,
    /// Who told of it.
    pub origin: &'static str,
    /// Milliseconds after the beginning at which it was told.
    pub found_ms: f64,
    /// Milliseconds after the beginning at which the attempt began; `None`: never.
    pub began_ms: Option<f64>,
    /// The stages that were completed, with milliseconds after the beginning.
    pub stages: Vec<(Stage, f64)>,
    /// Milliseconds after the beginning at which it ended; `None`: under way.
    pub ended_ms: Option<f64>,
    /// How it ended.
    pub result: TryResult,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum TryResult {
    /// Told, not tried.
    Waiting,
    /// Under way.
    UnderWay,
    /// A link came of it.
    Connected {
        /// Which.
        link: u64,
    },
    /// It failed.
    Failed {
        /// While waiting for this.
        stage: Stage,
        /// Whether the machine itself refused.
        verdict: bool,
        /// What happened.
        message: String,
    },
    /// It was dropped: another won, or it took too long.
    Dropped {
        /// While waiting for this.
        stage: Stage,
    },
}

/// How a dial ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Outcome {
    /// It goes on.
    UnderWay,
    /// Calls go over this link.
    Using {
        /// Which.
        link: u64,
    },
    /// No source knows the machine.
    Unknown,
    /// The machine refused the credentials.
    Refused,
    /// The limit of attempts is reached.
    Unreachable,
    /// It was closed.
    Closed,
}

/// Why there is no link. Its text names every route, how far it got, whose fault that is and what to do.
#[derive(Clone, Debug, thiserror::Error)]
pub struct DialError {
    /// A verdict (unknown machine, refused credentials): trying again gives the same answer.
    pub verdict: bool,
    /// The whole story.
    pub record: FlightRecord,
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = &self.record;
        let target = &record.target;
        match record.outcome {
            Outcome::Unknown => write!(f, "no machine answers to {target}")?,
            Outcome::Refused => write!(f, "{target} refused the credentials")?,
            Outcome::Closed => write!(f, "the connection to {target} was closed while dialling")?,
            _ => write!(f, "cannot reach {target} after {:.1} s", record.took_ms / 1000.0)?,
        }
        let mut told = BTreeMap::new();
        for attempt in &record.tries {
            told.insert((&attempt.route, attempt.origin), attempt);
        }
        for ((route, origin), attempt) in told {
            match &attempt.result {
                TryResult::Failed { stage: Stage::Ready, message, .. } => write!(f, "; {route} ({origin}): {message}")?,
                TryResult::Failed { stage, message, .. } => {
                    write!(f, "; {route} ({origin}) failed at {}: {message}", stage.name())?;
                }
                TryResult::Dropped { stage } => {
                    write!(f, "; {route} ({origin}) did not answer while waiting for {}", stage.name())?;
                }
                TryResult::Waiting => write!(f, "; {route} ({origin}) was not tried")?,
                TryResult::UnderWay => write!(f, "; {route} ({origin}) was under way")?,
                TryResult::Connected { .. } => write!(f, "; {route} ({origin}) connected and was lost")?,
            }
        }
        for complaint in &record.source_errors {
            write!(f, "; {complaint}")?;
        }
        f.write_str(self.advice())
    }
}

impl DialError {
    /// The dialer was closed before the first link.
    pub(crate) fn closed(address: &str) -> Self {
        let record = Recorder::new(address.to_owned(), "dial", Instant::now()).end(Outcome::Closed, Instant::now());
        Self { verdict: false, record }
    }

    fn advice(&self) -> &'static str {
        let failed_at = |wanted: Stage| {
            self.record.tries.iter().any(|attempt| match &attempt.result {
                TryResult::Failed { stage, .. } | TryResult::Dropped { stage } => *stage == wanted,
                _ => false,
            })
        };
        match self.record.outcome {
            Outcome::Refused => {
                ". The machine decided this: check the API key and its id, and that they belong to this machine"
            }
            Outcome::Unknown => {
                ". Check the name's spelling; if it is right, the machine is switched off or on another network than this computer"
            }
            Outcome::Closed => "",
            _ if failed_at(Stage::Tls) => {
                ". Something answers there but could not prove to be this machine: check the name, or trust its authority (--ca-file, LIFELINE_CA_FILE)"
            }
            _ if failed_at(Stage::Http2) => ". Something answers there that does not speak gRPC: check the port",
            _ if self.record.tries.is_empty() => ". No address was found: check this computer's network",
            _ => {
                ". The network or the machine is at fault: check that the machine runs and that nothing blocks its port"
            }
        }
    }
}

/// Writes the record of the dial under way.
#[derive(Debug)]
pub(crate) struct Recorder {
    began: Instant,
    record: FlightRecord,
    attempts: BTreeMap<Attempt, usize>,
}

impl Recorder {
    pub fn new(target: String, reason: &'static str, now: Instant) -> Self {
        let began_unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let record = FlightRecord {
            target,
            began_unix_ms,
            took_ms: 0.0,
            tries: Vec::new(),
            forgotten: 0,
            source_errors: Vec::new(),
            outcome: Outcome::UnderWay,
            reason,
        };
        Self { began: now, record, attempts: BTreeMap::new() }
    }

    /// A new hunt begins; what is under way stays on record.
    pub fn again(&mut self, reason: &'static str, now: Instant) {
        *self = Self::new(std::mem::take(&mut self.record.target), reason, now);
    }

    fn at(&self, now: Instant) -> f64 {
        millis(now.saturating_duration_since(self.began))
    }

    pub fn found(&mut self, route: &Route, origin: Origin, now: Instant) {
        let route = route.to_string();
        if self.record.tries.iter().any(|attempt| attempt.route == route && attempt.origin == origin.name()) {
            return;
        }
        let found_ms = self.at(now);
        self.push(Try {
            route,
            origin: origin.name(),
            found_ms,
            began_ms: None,
            stages: Vec::new(),
            ended_ms: None,
            result: TryResult::Waiting,
        });
    }

    fn push(&mut self, attempt: Try) -> usize {
        if self.record.tries.len() >= TRIES {
            self.record.tries.remove(0);
            self.record.forgotten += 1;
            self.attempts.retain(|_, at| *at > 0);
            self.attempts.values_mut().for_each(|at| *at -= 1);
        }
        self.record.tries.push(attempt);
        self.record.tries.len() - 1
    }

    pub fn began(&mut self, attempt: Attempt, route: &Route, origin: Origin, now: Instant) {
        let (at, name) = (self.at(now), route.to_string());
        let waiting =
            self.record.tries.iter().position(|told| told.route == name && matches!(told.result, TryResult::Waiting));
        let index = match waiting {
            Some(index) => index,
            None => self.push(Try {
                route: name,
                origin: origin.name(),
                found_ms: at,
                began_ms: None,
                stages: Vec::new(),
                ended_ms: None,
                result: TryResult::Waiting,
            }),
        };
        if let Some(told) = self.record.tries.get_mut(index) {
            told.began_ms = Some(at);
            told.result = TryResult::UnderWay;
            self.attempts.insert(attempt, index);
        }
    }

    fn attempt(&mut self, attempt: Attempt) -> Option<&mut Try> {
        self.attempts.get(&attempt).and_then(|index| self.record.tries.get_mut(*index))
    }

    pub fn stage(&mut self, attempt: Attempt, stage: Stage, now: Instant) {
        let at = self.at(now);
        if let Some(told) = self.attempt(attempt) {
            told.stages.push((stage, at));
        }
    }

    fn ended(&mut self, attempt: Attempt, result: TryResult, now: Instant) {
        let at = self.at(now);
        if let Some(told) = self.attempt(attempt) {
            told.ended_ms = Some(at);
            told.result = result;
        }
        self.attempts.remove(&attempt);
    }

    pub fn connected(&mut self, attempt: Attempt, link: LinkId, now: Instant) {
        self.ended(attempt, TryResult::Connected { link: link.0 }, now);
    }

    pub fn failed(&mut self, attempt: Attempt, why: &Failure, now: Instant) {
        let result = TryResult::Failed { stage: why.stage, verdict: why.verdict, message: why.message.clone() };
        self.ended(attempt, result, now);
    }

    pub fn dropped(&mut self, attempt: Attempt, now: Instant) {
        let stage = self.attempt(attempt).map_or(Stage::Tcp, |told| match told.stages.last() {
            None => Stage::Tcp,
            Some((Stage::Tcp, _)) => Stage::Tls,
            Some((Stage::Tls, _)) => Stage::Http2,
            Some((Stage::Auth, _)) => Stage::Signaling,
            Some((Stage::Signaling, _)) => Stage::Ice,
            Some((Stage::Ice, _)) => Stage::Dtls,
            Some((Stage::Dtls | Stage::Channel, _)) => Stage::Channel,
            Some(_) => Stage::Auth,
        });
        self.ended(attempt, TryResult::Dropped { stage }, now);
    }

    pub fn source_error(&mut self, complaint: String) {
        if self.record.source_errors.len() < SOURCE_ERRORS && !self.record.source_errors.contains(&complaint) {
            self.record.source_errors.push(complaint);
        }
    }

    pub fn end(&mut self, outcome: Outcome, now: Instant) -> FlightRecord {
        self.record.took_ms = self.at(now);
        self.record.outcome = outcome;
        self.record.clone()
    }

    pub fn verdict(&mut self, verdict: &Verdict, now: Instant) -> DialError {
        let outcome = match verdict {
            Verdict::Unknown => Outcome::Unknown,
            Verdict::Refused { .. } => Outcome::Refused,
            Verdict::Unreachable { .. } => Outcome::Unreachable,
        };
        DialError { verdict: !matches!(verdict, Verdict::Unreachable { .. }), record: self.end(outcome, now) }
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
