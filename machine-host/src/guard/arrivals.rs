//! Which calls arrive: for those who have to know what a client really sends.

use std::time::SystemTime;

use http::Request;
use machine_api::{ORDER_HEADER, SESSION_HEADER};
use tokio::sync::broadcast;
use transport::header::BEARER;
use transport::serve::PeerConnection;
use transport::webrtc::CandidatePair;

/// Arrivals kept for a slow receiver.
const KEPT: usize = 4096;

/// A call as it arrived, before anything was decided about it. Credentials are not part of it.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// When.
    pub at: SystemTime,
    /// `/package.Service/Method`.
    pub path: String,
    /// Its session's id, as the caller wrote it.
    pub session: Option<String>,
    /// Its order, as the caller wrote it.
    pub order: Option<String>,
    /// Whether it said who calls.
    pub authorized: bool,
    /// The connection it came by.
    pub connection: u64,
    /// The pair that its packets went between, over WebRTC.
    pub pair: Option<CandidatePair>,
}

/// Where arrivals are told. Costs nothing while nobody listens.
pub(crate) struct Arrivals(broadcast::Sender<Arrival>);

impl Default for Arrivals {
    fn default() -> Self {
        Self(broadcast::Sender::new(KEPT))
    }
}

impl Arrivals {
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arrival> {
        self.0.subscribe()
    }

    pub(super) fn tell<B>(&self, request: &Request<B>, peer: Option<&PeerConnection>) {
        if self.0.receiver_count() == 0 {
            return;
        }
        let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let arrival = Arrival {
            at: SystemTime::now(),
            path: request.uri().path().to_owned(),
            session: text(SESSION_HEADER),
            order: text(ORDER_HEADER),
            authorized: [&http::header::AUTHORIZATION, &BEARER]
                .into_iter()
                .any(|name| request.headers().contains_key(name)),
            connection: peer.map_or(0, |peer| peer.id),
            pair: peer.and_then(PeerConnection::pair),
        };
        // The last receiver may just have gone.
        let _ = self.0.send(arrival);
    }
}
