//! One sending of a call: on one link, or on two while the first is suspect (routes.md 5).

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use transport::Lane;
use transport::header::{GRPC_STATUS, GRPC_TIMEOUT};

use super::body::{Collected, Guarded, Payload, collect};
use super::turns::Turn;
use crate::carrier::{Carrier, Shared, Standing};
use crate::plan::{CallPlan, DialClass};

/// Copies under way at once, per client.
pub(crate) const MOST_HEDGES: usize = 16;
/// Methods remembered for large replies; the protocol has a few hundred.
const LARGE_METHODS: usize = 512;

/// A call: what each copy is made of.
pub(super) struct Envelope {
    pub parts: Parts,
    pub payload: Payload,
    pub plan: CallPlan,
    pub deadline: Option<Instant>,
}

impl Envelope {
    /// The request for one link, its time recomputed to what is left; `None`: it could be sent once and was.
    fn request(&mut self, carrier: &Carrier) -> Option<Request<Body>> {
        let body = self.payload.body()?;
        let mut request = Request::new(body);
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = self.parts.uri.clone();
        *request.version_mut() = self.parts.version;
        *request.headers_mut() = if self.payload.repeatable() {
            self.parts.headers.clone()
        } else {
            std::mem::take(&mut self.parts.headers)
        };
        let headers = request.headers_mut();
        carrier.pass.write(headers);
        if let Some(deadline) = self.deadline {
            headers.insert(GRPC_TIMEOUT.clone(), timeout_header(deadline.saturating_duration_since(Instant::now())));
        }
        Some(request)
    }

    fn lane(&self) -> Lane {
        if self.plan.class == DialClass::Stop { Lane::Reserved } else { Lane::Ordinary }
    }
}

/// `grpc-timeout` of at most 8 digits, rounded up so that the machine never gives up before us.
fn timeout_header(left: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let (number, unit) = if left.as_micros() < MOST {
        (left.as_nanos().div_ceil(1000).max(1), 'u')
    } else if left.as_millis() < MOST {
        (left.as_micros().div_ceil(1000), 'm')
    } else {
        (left.as_millis().div_ceil(1000).min(MOST), 'S')
    };
    HeaderValue::from_str(&format!("{number}{unit}")).unwrap_or(HeaderValue::from_static("1S"))
}

/// A call came back without an answer.
pub(super) struct Broken {
    /// What was said.
    status: Status,
    /// Nothing of it left this computer.
    pub never_written: bool,
    /// The machine says that it did not run it.
    pub not_run: bool,
    /// The link is dead; otherwise the call alone failed.
    pub route_died: bool,
    /// The machine, or something before it, answered all the same: what it said stands if nothing better comes.
    answer: Option<Response<Body>>,
}

impl Broken {
    pub fn never_ran(&self) -> bool {
        self.never_written || self.not_run
    }

    /// A body that can be sent once is gone with its link, whether or not it was read.
    pub fn body_untouched(&self, envelope: &Envelope) -> bool {
        matches!(&envelope.payload, Payload::Once(Some(_)))
    }

    /// What the caller is told: the answer as it came, or why there is none.
    pub fn outcome(self, shared: &Shared, carrier: &Carrier) -> Result<Response<Body>, Status> {
        match self.answer {
            Some(answer) => Ok(answer),
            None => Err(self.status(shared, carrier)),
        }
    }

    fn status(self, shared: &Shared, carrier: &Carrier) -> Status {
        if !self.route_died {
            return self.status;
        }
        let address = &shared.address;
        if self.never_written {
            return Status::unavailable(format!(
                "not connected to machine at {address}: the link closed before the call left"
            ));
        }
        let why = self.status.message();
        super::may_have_run(address, &format!("the link over {} died ({why})", carrier.route))
    }
}

/// Sends the call on the primary and, while that is suspect, a copy on the standby.
pub(super) async fn send(
    shared: &Arc<Shared>,
    carrier: &Arc<Carrier>,
    envelope: &mut Envelope,
    leaving: Option<Turn>,
    place: &mut Option<Turn>,
) -> Result<Response<Body>, Broken> {
    let first = departing(exchange(shared, carrier, envelope), leaving);
    tokio::pin!(first);
    let (mut standing, decided) = (carrier.standing.subscribe(), carrier.decided());
    loop {
        if carrier.decided() != decided {
            return Err(lost());
        }
        let on = match &*standing.borrow_and_update() {
            Standing::Good => None,
            Standing::Lost => return Err(lost()),
            Standing::Hedged(on) => Some(on.clone()),
        };
        let hedge = on.filter(|on| {
            envelope.plan.hedged() && envelope.payload.repeatable() && !is_large(shared, envelope) && !on.gone()
        });
        if let Some(on) = hedge {
            let permit = tokio::select! {
                biased;
                reply = &mut first => return reply,
                changed = standing.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return Err(lost()),
                },
                permit = permit(shared, place.as_ref()) => permit,
            };
            let second = departing(exchange(shared, &on, envelope), place.take());
            let reply = race(first, second, &mut standing).await;
            drop(permit);
            return reply;
        }
        tokio::select! {
            biased;
            reply = &mut first => return reply,
            changed = standing.changed() => if changed.is_err() { return Err(lost()) },
        }
    }
}

/// The call leaves when it is polled for the first time; then it is the next one's turn.
fn departing<T>(call: impl Future<Output = T>, mut turn: Option<Turn>) -> impl Future<Output = T> {
    let mut call = Box::pin(call);
    std::future::poll_fn(move |cx| {
        let reply = call.as_mut().poll(cx);
        drop(turn.take());
        reply
    })
}

/// Waits for the call's turn, and until there are fewer copies than a client may have out; an error would mean that the client is gone.
async fn permit<'a>(shared: &'a Shared, place: Option<&Turn>) -> Option<SemaphorePermit<'a>> {
    if let Some(turn) = place {
        turn.comes().await;
    }
    shared.hedges.acquire().await.ok()
}

/// Two copies are out: the first answer wins, an error waits for the other copy.
async fn race(
    first: std::pin::Pin<&mut impl Future<Output = Result<Response<Body>, Broken>>>,
    second: impl Future<Output = Result<Response<Body>, Broken>>,
    standing: &mut tokio::sync::watch::Receiver<Standing>,
) -> Result<Response<Body>, Broken> {
    tokio::pin!(second);
    let mut first = Some(first);
    let mut failed = None;
    let mut second_failed = false;
    loop {
        if first.is_none() && second_failed {
            return Err(failed.unwrap_or_else(lost));
        }
        let outcome = tokio::select! {
            biased;
            reply = async { match &mut first { Some(first) => first.as_mut().await, None => std::future::pending().await } } => {
                first = None;
                reply
            }
            reply = &mut second, if !second_failed => {
                second_failed = reply.is_err();
                reply
            }
            // The primary was given up: its copy is dropped, the standby's goes on.
            _ = standing.wait_for(|standing| matches!(standing, Standing::Lost)), if first.is_some() => {
                first = None;
                Err(lost())
            }
        };
        match outcome {
            Ok(reply) => return Ok(reply),
            // Between two failures, the one that may have run decides.
            Err(broken) => match &failed {
                Some(Broken { never_written: false, not_run: false, .. }) => {}
                _ => failed = Some(broken),
            },
        }
    }
}

fn lost() -> Broken {
    Broken {
        status: Status::unavailable("the route was given up"),
        never_written: false,
        not_run: false,
        route_died: true,
        answer: None,
    }
}

/// One copy on one link, up to its complete reply.
fn exchange(
    shared: &Arc<Shared>,
    carrier: &Arc<Carrier>,
    envelope: &mut Envelope,
) -> impl Future<Output = Result<Response<Body>, Broken>> + use<> {
    let carried = carrier.pass.header();
    let request = envelope.request(carrier);
    let (plan, lane, deadline) = (envelope.plan, envelope.lane(), envelope.deadline);
    let path = envelope.parts.uri.clone();
    let (shared, carrier) = (shared.clone(), carrier.clone());
    async move {
        let Some(request) = request else { return Err(lost()) };
        let unheld = plan.class == DialClass::Motion && !plan.held;
        let out = carrier.meter.sent(unheld);
        let reply = match carrier.link.call(request, lane).await {
            Ok(reply) => reply,
            Err(error) => {
                return Err(Broken {
                    route_died: error.never_written || carrier.gone() || error.status.code() == Code::Unavailable,
                    never_written: error.never_written,
                    not_run: false,
                    status: error.status,
                    answer: None,
                });
            }
        };
        out.answered();
        drop(out);
        if carrier.pass.is_refused(reply.headers(), carried.as_ref()) {
            carrier.pass.prove(&carrier.link).await;
            return Err(Broken {
                status: Status::unauthenticated("the machine does not accept the token of an earlier link"),
                never_written: true,
                not_run: true,
                route_died: false,
                answer: Some(reply),
            });
        }
        if !plan.unary_reply {
            return Ok(reply.map(|body| Guarded::body(body, carrier, shared.address.clone(), deadline)));
        }
        let (head, body) = reply.into_parts();
        match collect(body).await {
            Ok(Collected::Complete(body, trailers)) => {
                let not_run = trailers.iter().chain([&head.headers]).any(not_run);
                let no_answer = head.status != StatusCode::OK;
                let reply = Response::from_parts(head, body);
                if not_run || no_answer {
                    return Err(Broken {
                        status: Status::aborted("the machine did not run the call"),
                        never_written: false,
                        not_run,
                        route_died: false,
                        answer: Some(reply),
                    });
                }
                forget_large(&shared, path.path());
                Ok(reply)
            }
            Ok(Collected::Large(body)) => {
                remember_large(&shared, path.path());
                let body = Guarded::body(body, carrier, shared.address.clone(), deadline);
                Ok(Response::from_parts(head, body))
            }
            Err(status) => Err(Broken { route_died: true, never_written: false, not_run: false, status, answer: None }),
        }
    }
}

/// `ABORTED` with ErrorInfo {domain `lifeline`, reason `NOT_RUN`} (safety.md 5); a bare code proves nothing. Refusals
/// come as headers alone.
fn not_run(headers: &HeaderMap) -> bool {
    if headers.get(&GRPC_STATUS).is_none_or(|status| status != "10") {
        return false;
    }
    let contains = |details: &[u8], word: &[u8]| details.windows(word.len()).any(|at| at == word);
    // Field 1 of ErrorInfo, its length, the reason; field 2, its length, the domain.
    Status::from_header_map(headers)
        .is_some_and(|status| contains(status.details(), b"\x0a\x07NOT_RUN\x12\x08lifeline"))
}

fn is_large(shared: &Shared, envelope: &Envelope) -> bool {
    let path = envelope.parts.uri.path();
    shared.large.lock().is_ok_and(|large| large.contains(path))
}

/// The last reply decides.
fn forget_large(shared: &Shared, path: &str) {
    if let Ok(mut large) = shared.large.lock()
        && !large.is_empty()
    {
        large.remove(path);
    }
}

fn remember_large(shared: &Shared, path: &str) {
    if let Ok(mut large) = shared.large.lock()
        && large.len() < LARGE_METHODS
        && !large.contains(path)
    {
        large.insert(path.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_written_in_eight_digits_and_never_short() {
        for (left, expected) in [
            (Duration::ZERO, "1u"),
            (Duration::from_nanos(1), "1u"),
            (Duration::from_millis(20), "20000u"),
            (Duration::from_secs(99), "99000000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(200_000), "200000S"),
            (Duration::MAX, "99999999S"),
        ] {
            assert_eq!(timeout_header(left), expected);
        }
    }
}
