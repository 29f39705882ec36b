//! What the session layer holds: which links there are, what happens to them, and a way to use each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tonic::body::Body;
use transport::{CallError, CloseReason, Lane, LinkId};

use crate::agent::{Demotion, Held, Peer, StandbyPolicy, Tier, Validated};
use crate::carrier::{Carrier, Shared};
use crate::flight::{DialError, FlightRecord};
use crate::status::{RouteStatus, TooSlow};

/// A link as others see it.
#[derive(Clone, Debug)]
pub struct LinkView {
    /// Its number.
    pub id: LinkId,
    /// The route it was made over, for people.
    pub route: String,
    /// Its tier.
    pub tier: Tier,
    /// Whether the machine proved its name and the link is encrypted.
    pub encrypted: bool,
    /// Our end.
    pub local: Option<SocketAddr>,
    /// The machine's end.
    pub remote: Option<SocketAddr>,
    /// Since when it stands.
    pub since: Instant,
    /// Round trip of its handshake.
    pub rtt: Duration,
}

impl LinkView {
    pub(crate) fn of(carrier: &Carrier) -> Self {
        let (info, pair) = (carrier.link.info(), carrier.link.pair());
        Self {
            id: info.id,
            route: carrier.route.to_string(),
            tier: carrier.tier(),
            encrypted: info.encrypted,
            local: pair.map(|pair| pair.local.address).or(info.local),
            remote: pair.map(|pair| pair.remote.address).or(info.remote),
            since: info.since,
            rtt: info.rtt,
        }
    }
}

/// What happens to routes, in order.
#[derive(Clone, Debug)]
pub enum RouteEvent {
    /// A dial or hunt began.
    Hunting,
    /// A link was made and admitted. It carries nothing yet.
    Connected(LinkView),
    /// Calls go here from now on; the record tells how it came to be.
    Use(LinkView, Arc<FlightRecord>),
    /// Calls go nowhere.
    NoRoute {
        /// A link is being validated: the wait may be short.
        swapping: bool,
    },
    /// Nothing new goes over this link.
    Drain {
        /// Which.
        link: LinkId,
        /// Why.
        why: Demotion,
    },
    /// The session layer is to send its beat on this link and answer with [`LinkSwitch::handle_validated`].
    Validate {
        /// Which.
        link: LinkId,
    },
    /// Something was asked on the link and not answered in time.
    Silent {
        /// Which.
        link: LinkId,
    },
    /// The standby answers where the primary does not: copies of calls and beats may go over it.
    Hedge {
        /// The primary.
        from: LinkId,
        /// The standby.
        on: LinkId,
    },
    /// No more copies.
    HedgeOff,
    /// A sign of life ended silence, suspicion or a stall.
    Alive {
        /// Which.
        link: LinkId,
    },
    /// The link that carries calls answers so late that no session can be counted on to last over it.
    TooSlow {
        /// Which.
        link: LinkId,
        /// How late, and for which window.
        by: TooSlow,
    },
    /// What was too slow is in time again, or carries calls no more.
    InTime {
        /// Which.
        link: LinkId,
    },
    /// A standby is warm and proven, or (`None`) there is none.
    Standby {
        /// Which.
        link: Option<LinkId>,
    },
    /// The link belongs to another process or owner.
    Foreign {
        /// Which.
        link: LinkId,
    },
    /// The link is gone.
    Closed {
        /// Which.
        link: LinkId,
        /// Why.
        why: CloseReason,
    },
    /// The machine's verdict, or the end of the first dial.
    GaveUp(Arc<DialError>),
}

/// What others may tell the agent's task.
#[derive(Debug)]
pub(crate) enum Told {
    Held(Held, Peer),
    Beat(LinkId, bool),
    Validated(LinkId, Validated),
    Standby(StandbyPolicy),
    NetworkChanged,
    Close(oneshot::Sender<()>),
}

/// How the first dial ended.
pub(crate) type First = Result<(LinkView, Arc<FlightRecord>), Arc<DialError>>;

/// The session layer's end of a dialer. Cheap to clone; dropping all of them and all channels ends the dialer.
#[derive(Clone)]
pub struct LinkSwitch {
    pub(crate) shared: Arc<Shared>,
    pub(crate) events: broadcast::WeakSender<RouteEvent>,
    pub(crate) first: watch::Receiver<Option<First>>,
    /// Unbounded: what travels here is a handful of messages per beat of our own session layer, nothing a peer sends.
    pub(crate) told: mpsc::UnboundedSender<Told>,
}

impl std::fmt::Debug for LinkSwitch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkSwitch").field("address", &self.shared.address).finish_non_exhaustive()
    }
}

impl LinkSwitch {
    /// Waits for the first link, or for the end of the first dial. Answers at once ever after.
    ///
    /// # Errors
    /// The first dial's, naming every route.
    pub async fn first_link(&self) -> Result<LinkView, DialError> {
        let mut first = self.first.clone();
        let outcome = match first.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => None,
        };
        match outcome {
            Some(Ok((link, _))) => Ok(link),
            Some(Err(error)) => Err((*error).clone()),
            None => Err(DialError::closed(&self.shared.address)),
        }
    }

    /// How the first link came to be; `None` before there was one.
    pub fn first_record(&self) -> Option<Arc<FlightRecord>> {
        match &*self.first.borrow() {
            Some(Ok((_, record))) => Some(record.clone()),
            _ => None,
        }
    }

    /// What happens from now on. A receiver that falls 256 events behind misses the oldest and is told so.
    pub fn events(&self) -> broadcast::Receiver<RouteEvent> {
        match self.events.upgrade() {
            Some(events) => events.subscribe(),
            // The task is gone: a closed stream.
            None => broadcast::channel(1).1,
        }
    }

    /// Where calls go, live: the link and its round trip, the standby, the last swap and why.
    pub fn watch_route(&self) -> watch::Receiver<RouteStatus> {
        self.shared.status.subscribe()
    }

    /// The link that carries calls.
    pub fn current(&self) -> Option<LinkView> {
        self.shared.primary.load().as_deref().filter(|carrier| !carrier.gone()).map(LinkView::of)
    }

    /// The link that is warm and proven, and takes over at once when the primary dies.
    pub fn standby(&self) -> Option<LinkView> {
        self.shared.standby.load().as_deref().filter(|carrier| !carrier.gone()).map(LinkView::of)
    }

    /// Every link that may still carry something, oldest first.
    pub fn live_links(&self) -> Vec<LinkView> {
        self.shared
            .links
            .load()
            .values()
            .filter(|carrier| carrier.link.is_closed().is_none())
            .map(|c| LinkView::of(c))
            .collect()
    }

    /// Sends a call on one link, whatever its place; for Stop and beats. Neither retried nor waited for.
    pub fn call_on(
        &self,
        link: LinkId,
        request: Request<Body>,
        lane: Lane,
    ) -> impl Future<Output = Result<Response<Body>, CallError>> + Send + use<> {
        let carrier = self.shared.links.load().get(&link).cloned();
        let address = self.shared.address.clone();
        async move {
            let Some(carrier) = carrier else {
                return Err(CallError { status: crate::channel::not_connected(&address), never_written: true });
            };
            crate::channel::call_on(&carrier, request, lane).await
        }
    }

    /// Severs a link at once, for the session layer's rule that no late call may act (`safety.md` 6).
    pub fn abort(&self, link: LinkId) {
        if let Some(carrier) = self.shared.links.load().get(&link) {
            carrier.link.sever("aborted by the session layer");
        }
    }

    /// What the session layer holds, and at whom.
    pub fn handle_held(&self, held: Held, peer: Peer) {
        // An error means that the dialer is closed.
        let _ = self.told.send(Told::Held(held, peer));
    }

    /// The outcome of a beat on a link.
    pub fn handle_beat(&self, link: LinkId, answered: bool) {
        let _ = self.told.send(Told::Beat(link, answered));
    }

    /// The answer to [`RouteEvent::Validate`].
    pub fn handle_validated(&self, link: LinkId, what: Validated) {
        let _ = self.told.send(Told::Validated(link, what));
    }

    /// Changes when a second link is kept warm.
    pub fn set_standby(&self, policy: StandbyPolicy) {
        let _ = self.told.send(Told::Standby(policy));
    }

    /// Something about the network changed that the operating system may not tell: try everything now.
    pub fn network_changed(&self) {
        let _ = self.told.send(Told::NetworkChanged);
    }

    /// Ends the dialer: links finish what is out on them, then close. Calls fail from now on.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.told.send(Told::Close(done)).is_ok() {
            let _ = closed.await;
        }
    }
}
