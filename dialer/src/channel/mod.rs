//! What callers hold: a service that never changes while the route beneath it does.

mod body;
mod on_link;
mod send;
mod turns;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tower::Service;
use transport::timeout::grpc_timeout;

use crate::carrier::{Carrier, Shared};
use crate::plan::{CallPlan, DialClass};
use body::Payload;
pub(crate) use on_link::call_on;
pub(crate) use send::MOST_HEDGES;
use send::{Broken, Envelope};
use turns::Turn;
pub(crate) use turns::Turns;

/// How often one call may be sent: the first time and once on each of the next links. A network that kills three links
/// within one call is reported rather than chased.
const MOST_SENDS: u32 = 4;

/// A gRPC channel to one machine over whatever link is best. Cheap to clone; ready at once, always.
///
/// Every generated tonic client runs on it. What a call does when its link dies follows from its class ([`CallPlan`]).
#[derive(Clone)]
pub struct MachineChannel {
    pub(crate) shared: Arc<Shared>,
    /// Keeps the dialer's task alive.
    pub(crate) alive: tokio::sync::mpsc::UnboundedSender<crate::switch::Told>,
}

impl std::fmt::Debug for MachineChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MachineChannel")
            .field("address", &self.shared.address)
            .field("closed", &self.alive.is_closed())
            .finish_non_exhaustive()
    }
}

impl Service<Request<Body>> for MachineChannel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shared = self.shared.clone();
        let plan = request.extensions().get::<CallPlan>().copied();
        let plan = plan.unwrap_or_else(|| CallPlan::of_path(request.uri().path()));
        let timeout = grpc_timeout(request.headers());
        Box::pin(async move {
            match timeout {
                None => run(&shared, request, plan, None).await,
                Some(timeout) => {
                    let deadline = Instant::now() + timeout;
                    let call = run(&shared, request, plan, Some(deadline));
                    tokio::time::timeout_at(deadline, call).await.unwrap_or_else(|_| {
                        let address = &shared.address;
                        Err(Status::deadline_exceeded(format!(
                            "{address} did not answer within the call's {timeout:?}"
                        )))
                    })
                }
            }
        })
    }
}

async fn run(
    shared: &Arc<Shared>,
    request: Request<Body>,
    plan: CallPlan,
    deadline: Option<Instant>,
) -> Result<Response<Body>, Status> {
    let (parts, body) = request.into_parts();
    let mut body = Some(body);
    let payload =
        std::future::poll_fn(|cx| Poll::Ready(Payload::peek(body.take().unwrap_or_default(), plan.keep(), cx))).await;
    let mut envelope = Envelope { parts, payload, plan, deadline };
    let mut again = 0;
    let mut leaving: Option<Turn> = None;
    loop {
        let carrier = match shared.primary.load_full() {
            Some(carrier) if !carrier.gone() => carrier,
            _ => wait_for_link(shared, &plan, again > 0, deadline).await?,
        };
        // What can be sent once is not what a remembered token is tried on.
        if !carrier.pass.is_proven() && !envelope.payload.repeatable() {
            carrier.pass.prove(&carrier.link).await;
        }
        if let Some(turn) = &leaving {
            turn.comes().await;
        }
        let mut place = plan.numbered.then(|| carrier.turns.take());
        let broken = match send::send(shared, &carrier, &mut envelope, leaving.take(), &mut place).await {
            Ok(reply) => return Ok(reply),
            Err(broken) => broken,
        };
        again += 1;
        if again >= MOST_SENDS || !may_send_again(&envelope, &broken, again) {
            return broken.outcome(shared, &carrier);
        }
        leaving = place;
        tracing::debug!(path = envelope.parts.uri.path(), again, "sending a call again on the next link");
    }
}

/// The last column of the table in design 9.
fn may_send_again(envelope: &Envelope, broken: &Broken, again: u32) -> bool {
    let plan = &envelope.plan;
    if !broken.route_died && !broken.not_run {
        return false;
    }
    let possible = envelope.payload.repeatable() || broken.body_untouched(envelope);
    let allowed = match plan.class {
        DialClass::Read { .. } => plan.copyable || broken.never_ran(),
        DialClass::Motion if plan.numbered => broken.route_died,
        // Not sent yet: it waits for the end of a swap, if one is under way.
        DialClass::Motion | DialClass::Stop => broken.never_written && again == 1,
        DialClass::Other => (plan.numbered || broken.never_ran()) && again == 1,
    };
    possible && allowed
}

/// Waits for the next link as long as the class allows.
async fn wait_for_link(
    shared: &Arc<Shared>,
    plan: &CallPlan,
    sent_before: bool,
    deadline: Option<Instant>,
) -> Result<Arc<Carrier>, Status> {
    let began = Instant::now();
    let mut changed = shared.changed.subscribe();
    let default = deadline.map_or(shared.call_timeout, |deadline| deadline.saturating_duration_since(began));
    // A numbered call that may have run needs the new route to learn its outcome.
    let only_for_swaps = matches!(plan.class, DialClass::Motion | DialClass::Stop) && !(sent_before && plan.numbered);
    let longest = plan.wait.unwrap_or(default).min(default);
    loop {
        let sign = *changed.borrow_and_update();
        if let Some(carrier) = shared.primary.load_full() {
            if !carrier.gone() {
                return Ok(carrier);
            }
        } else if sign.over || plan.fail_fast || shared.fail_fast || (only_for_swaps && !sign.swapping) {
            return Err(not_connected(&shared.address));
        }
        // A primary that is gone is a swap whose outcome the agent has not told yet: that takes microseconds.
        let waited = tokio::time::timeout_at(began + longest, changed.changed()).await;
        if !matches!(waited, Ok(Ok(()))) {
            return Err(not_connected(&shared.address));
        }
    }
}

/// s51.
pub(crate) fn not_connected(address: &str) -> Status {
    Status::unavailable(format!("not connected to machine at {address}"))
}

/// The outcome of a call is unknown.
pub(crate) fn may_have_run(address: &str, what: &str) -> Status {
    Status::unavailable(format!(
        "{what}: the call to {address} may have run; read the machine's state before sending it again"
    ))
}
