//! Who calls, and in which session.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use http::{HeaderMap, Request};
use machine_api::SESSION_HEADER;
use session_core::registry::Holder;
use session_core::{Connection, Order, Owner, SessionId};
use tonic::Status;
use transport::serve::PeerConnection;
use transport::{Body, header};

use super::Machine;
use crate::auth::bearer;
use crate::{Authenticator, Principal};

/// Principals that are remembered for one connection: a proxy may carry several; further ones are verified at each call.
const REMEMBERED: usize = 8;

/// Who sent a request, in its extensions.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who it is, whatever route it came by.
    pub principal: Principal,
    /// The owner of its sessions.
    pub owner: Owner,
    /// The connection it came by.
    pub peer: Arc<PeerConnection>,
}

impl Caller {
    /// Who holds what it moves outside a session: over HTTP/1.1, where one client uses several connections, its principal.
    pub(super) fn otherwise(&self) -> Holder {
        if self.peer.http2 { Holder::Connection(Connection(self.peer.id)) } else { Holder::Principal(self.owner) }
    }
}

/// Tokens that were accepted on a connection stay good for it: existing clients never refresh theirs.
#[derive(Default)]
pub(crate) struct Tokens(Mutex<BTreeMap<u64, Vec<Accepted>>>);

struct Accepted {
    token: [u8; 32],
    principal: Principal,
    owner: Owner,
}

impl Tokens {
    /// The connection is gone.
    pub(crate) fn forget(&self, connection: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&connection);
    }

    /// Who bears the token of a request's headers, which came by `connection`.
    pub(crate) fn principal(
        &self,
        authenticator: &Authenticator,
        connection: u64,
        headers: &HeaderMap,
    ) -> Result<(Principal, Owner), Status> {
        let mut token = [0; 32];
        token.copy_from_slice(digest(&SHA256, bearer(headers)?.as_bytes()).as_ref());
        if let Some(known) = self.known(connection, &token) {
            return Ok(known);
        }
        let principal = authenticator.verify(headers)?;
        let owner = principal.owner();
        self.accept(connection, token, &principal, owner);
        Ok((principal, owner))
    }

    fn known(&self, connection: u64, token: &[u8; 32]) -> Option<(Principal, Owner)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&connection)?.iter().find(|a| a.token == *token).map(|a| (a.principal.clone(), a.owner))
    }

    fn accept(&self, connection: u64, token: [u8; 32], principal: &Principal, owner: Owner) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let accepted = all.entry(connection).or_default();
        if accepted.len() < REMEMBERED {
            accepted.push(Accepted { token, principal: principal.clone(), owner });
        }
    }
}

impl Machine {
    /// Finds out who sent a request.
    pub(super) fn identify(&self, request: &Request<Body>) -> Result<Caller, Status> {
        let Some(peer) = request.extensions().get::<Arc<PeerConnection>>().cloned() else {
            return Err(Status::internal("the request came by no connection"));
        };
        let Some(authenticator) = &self.authenticator else {
            let principal = Principal::nobody();
            let owner = principal.owner();
            return Ok(self.called(Caller { principal, owner, peer }));
        };
        if let Some(introduced) = &peer.introduced {
            // Nobody proves anything on the channel itself: it is who the signaling service says it is.
            let principal = Principal::introduced(introduced);
            let owner = principal.owner();
            return Ok(self.called(Caller { principal, owner, peer }));
        }
        let (principal, owner) = self.tokens.principal(authenticator, peer.id, request.headers())?;
        Ok(self.called(Caller { principal, owner, peer }))
    }

    /// Over HTTP/1.1 a principal is there as long as one of its connections is.
    fn called(&self, caller: Caller) -> Caller {
        if !caller.peer.http2 {
            self.safety.identified(Connection(caller.peer.id), caller.owner);
            if self.safety.holds(Holder::Principal(caller.owner)) {
                self.watch_closely(&caller);
            }
        }
        caller
    }

    /// Something may move for this caller: the connections whose end stops it are not to be lost in silence.
    pub(super) fn watch_closely(&self, caller: &Caller) {
        let window = self.safety.window();
        let _one_at_a_time = self.watching.lock().unwrap_or_else(PoisonError::into_inner);
        self.connections_of(caller).iter().for_each(|peer| peer.hold(Some(window)));
    }

    /// Something was stopped: where nothing else moves for this caller, its connections may be silent for longer.
    pub(super) fn watch_less(&self, caller: &Caller, session: Option<SessionId>) {
        // Under the lock, because a command that comes in between would have its connection forgotten.
        let _one_at_a_time = self.watching.lock().unwrap_or_else(PoisonError::into_inner);
        let held = |holder| self.safety.holds(holder);
        if !held(caller.otherwise()) && !session.is_some_and(|id| held(Holder::Session(id))) {
            self.connections_of(caller).iter().for_each(|peer| peer.hold(None));
        }
    }

    /// The connections whose end is this caller's: its own, or over HTTP/1.1 every one of its principal's.
    fn connections_of(&self, caller: &Caller) -> Vec<Arc<PeerConnection>> {
        if caller.peer.http2 {
            return vec![caller.peer.clone()];
        }
        let theirs = self.safety.connections(caller.owner);
        self.peers().into_iter().filter(|peer| theirs.contains(&Connection(peer.id))).collect()
    }
}

/// The session whose id a request carries.
pub(super) fn one_session(headers: &HeaderMap) -> Result<Option<SessionId>, Status> {
    let mut values = headers.get_all(&header::SESSION).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(Status::invalid_argument("found more than one session id in metadata")),
        (Some(value), None) => {
            let text = value.to_str().unwrap_or_default();
            text.parse().map(Some).map_err(|e| Status::invalid_argument(format!("malformed {SESSION_HEADER}: {e}")))
        }
    }
}

/// A request's order in its session.
pub(crate) fn order(headers: &HeaderMap) -> Result<Option<Order>, Status> {
    let mut values = headers.get_all(&header::ORDER).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(Status::invalid_argument("found more than one lifeline-order in metadata")),
        (Some(value), None) => {
            let text = value.to_str().unwrap_or_default();
            text.parse().map(Some).map_err(|e: session_core::OrderError| Status::invalid_argument(e.to_string()))
        }
    }
}
