//! Sessions, principals and connections: who is there, until when, and what their end means.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::gates::Call;
use super::order::Ordered;
use super::{
    Cause, Holder, MachineOutput, NoSession, SessionRegistry, Started, Timed, Tombstone, TooManySessions, Why,
};
use crate::{Connection, Order, Owner, SessionId};

/// Tombstones kept, so that a client that comes back learns what was stopped.
const MAX_TOMBSTONES: usize = 1024;
/// How long a tombstone is kept.
const TOMBSTONE_LIFE: Duration = Duration::from_secs(600);

pub(super) struct Session<R> {
    pub(super) owner: Owner,
    pub(super) deadline: Instant,
    /// One per client process that numbers its calls in this session.
    pub(super) keys: BTreeMap<u64, Ordered<R>>,
}

/// A caller without a session whose client uses several connections.
#[derive(Default)]
pub(super) struct Principal {
    connections: BTreeSet<Connection>,
    until: Option<Instant>,
}

impl<R: Ord + Clone> SessionRegistry<R> {
    /// Starts a session of id `fresh`, or resumes `resume` where it lives and is `owner`'s (s1, s9).
    pub fn start(
        &mut self,
        fresh: SessionId,
        resume: Option<SessionId>,
        owner: Owner,
        now: Instant,
    ) -> Result<Started, TooManySessions> {
        self.handle_timeout(now);
        let window = self.window;
        if let Some(id) = resume
            && let Some(session) = self.sessions.get_mut(id)
            && session.owner == owner
        {
            session.deadline = now + window;
            return Ok(Started { id, window, resumed: true });
        }
        if self.sessions.len() >= self.max_sessions {
            return Err(TooManySessions);
        }
        let deadline = now + window;
        self.sessions.insert(fresh, Session { owner, deadline, keys: BTreeMap::new() });
        self.leases.insert((deadline, fresh));
        Ok(Started { id: fresh, window, resumed: false })
    }

    /// A heartbeat. One that is not the newest message of its client is answered and extends nothing; `end` is an immediate lapse.
    pub fn beat(
        &mut self,
        id: SessionId,
        owner: &Owner,
        order: Option<&Order>,
        now: Instant,
    ) -> Result<(), NoSession<R>> {
        self.handle_timeout(now);
        let Some(order) = order else {
            // The usual beat costs one look for its session.
            return match self.sessions.get_mut(id) {
                Some(session) if session.owner == *owner => {
                    session.deadline = now + self.window;
                    Ok(())
                }
                _ => self.owned(id, owner),
            };
        };
        self.owned(id, owner)?;
        if self.take_list(id, order, now) {
            self.extend(id, now);
            if order.end {
                self.lapse(Holder::Session(id), Cause::End, now);
            }
        }
        Ok(())
    }

    /// Whether a session lives.
    pub fn is_live(&self, id: SessionId) -> bool {
        self.sessions.contains(id)
    }

    /// Every live session with its owner.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, Owner)> + '_ {
        self.sessions.in_order().into_iter().map(|(id, session)| (id, session.owner))
    }

    /// Whether `holder` holds anything, or has a call under way that may yet: its connections are watched more closely while it does.
    pub fn holds(&self, holder: Holder) -> bool {
        let may_yet = |call: &Call<R>| call.holder == Some(holder) && !call.done && call.revoked.is_none();
        self.gates.values().any(|gate| gate.holder == Some(holder)) || self.calls.values().any(may_yet)
    }

    /// The connections that there are of a principal over HTTP/1.1: the loss of any of them may be the loss of its client.
    pub fn connections(&self, owner: Owner) -> impl Iterator<Item = Connection> + '_ {
        self.principals.get(&owner).into_iter().flat_map(|principal| principal.connections.iter().copied())
    }

    /// A connection was made. `principal` where it is known already to be HTTP/1.1, where one client may use several.
    pub fn handle_opened(&mut self, connection: Connection, principal: Option<Owner>, now: Instant) {
        self.handle_timeout(now);
        self.connections.insert(connection);
        if let Some(owner) = principal {
            self.handle_identified(connection, owner, now);
        }
    }

    /// A request on an HTTP/1.1 connection told whose it is; a proxy's connection may be several principals'. Ignored for a connection
    /// that has ended: what arrives after that keeps nobody alive.
    pub fn handle_identified(&mut self, connection: Connection, owner: Owner, now: Instant) {
        self.handle_timeout(now);
        if !self.connections.contains(&connection) {
            return;
        }
        let known = self.principals.entry(owner).or_default();
        known.connections.insert(connection);
        if let Some(until) = known.until.take() {
            self.timers.remove(&(until, Timed::Principal(owner)));
        }
    }

    /// A connection ended. What its callers without a session held last is stopped: at once, or a window after a principal's last
    /// connection.
    pub fn handle_closed(&mut self, connection: Connection, now: Instant) {
        self.handle_timeout(now);
        if !self.connections.remove(&connection) {
            return;
        }
        self.lapse(Holder::Connection(connection), Cause::Disconnect, now);
        let until = now + self.window;
        for (owner, known) in &mut self.principals {
            if known.connections.remove(&connection) && known.connections.is_empty() {
                known.until = Some(until);
                self.timers.insert((until, Timed::Principal(*owner)));
            }
        }
    }

    /// An execution or a module ended by itself: whatever it still holds is stopped.
    pub fn handle_ended(&mut self, holder: Holder, now: Instant) {
        self.handle_timeout(now);
        self.lapse(holder, Cause::Execution, now);
    }

    pub(super) fn owned(&self, id: SessionId, owner: &Owner) -> Result<(), NoSession<R>> {
        match self.sessions.get(id) {
            Some(session) if session.owner == *owner => Ok(()),
            // Another owner's session looks like none at all.
            Some(_) => Err(NoSession(None)),
            None => {
                let known = self.tombstones.get(&id).filter(|(of, _)| of == owner);
                Err(NoSession(known.map(|(_, tombstone)| tombstone.clone())))
            }
        }
    }

    pub(super) fn extend(&mut self, id: SessionId, now: Instant) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.deadline = now + self.window;
        }
    }

    pub(super) fn is_alive(&self, holder: Holder) -> bool {
        match holder {
            Holder::Session(id) => self.sessions.contains(id),
            Holder::Connection(connection) => self.connections.contains(&connection),
            Holder::Principal(owner) => self.principals.contains_key(&owner),
            Holder::Execution(_) | Holder::Module(_) => true,
        }
    }

    pub(super) fn lease_due(&mut self, id: SessionId, now: Instant) {
        let Some(session) = self.sessions.get(id) else { return };
        // A session is alive while its deadline lies after now, strictly.
        if session.deadline > now {
            self.leases.insert((session.deadline, id));
        } else {
            self.lapse(Holder::Session(id), Cause::Lapse, now);
        }
    }

    pub(super) fn principal_due(&mut self, owner: Owner, now: Instant) {
        if self.principals.get(&owner).is_some_and(|p| p.connections.is_empty()) {
            self.principals.remove(&owner);
            self.lapse(Holder::Principal(owner), Cause::Disconnect, now);
        }
    }

    /// The end of a holder: floors first, then stops, then the cancellation of its calls.
    pub(super) fn lapse(&mut self, holder: Holder, cause: Cause, now: Instant) {
        let session = match holder {
            Holder::Session(id) => self.sessions.remove(id),
            _ => None,
        };
        let stopped = self.held_wholes(holder);
        let theirs: Vec<_> =
            self.calls.iter().filter(|(_, call)| call.holder == Some(holder)).map(|(t, _)| *t).collect();
        let mut running = Vec::new();
        for ticket in theirs {
            match self.calls.get_mut(&ticket) {
                Some(call) if call.done => {
                    self.calls.remove(&ticket);
                    self.output(MachineOutput::Forget(ticket));
                }
                Some(call) if call.revoked.is_none() => {
                    call.revoked = Some(Why::Lapsed);
                    running.push(ticket);
                }
                _ => {}
            }
        }
        for resource in &stopped {
            self.begin_stop(resource, cause, None, now);
        }
        for ticket in running {
            self.output(MachineOutput::Cancel { ticket, why: Why::Lapsed });
        }
        if let (Holder::Session(id), Some(session)) = (holder, session) {
            self.bury(id, session.owner, Tombstone { at: now, cause, stopped: stopped.clone() });
            self.output(MachineOutput::Lapsed { holder, stopped, cause });
        } else if !stopped.is_empty() {
            self.output(MachineOutput::Lapsed { holder, stopped, cause });
        }
    }

    fn bury(&mut self, id: SessionId, owner: Owner, tombstone: Tombstone<R>) {
        let now = tombstone.at;
        self.tombstones.insert(id, (owner, tombstone));
        self.buried.push_back(id);
        while let Some(oldest) = self.buried.front() {
            let old =
                self.tombstones.get(oldest).is_none_or(|(_, t)| now.saturating_duration_since(t.at) > TOMBSTONE_LIFE);
            if !old && self.buried.len() <= MAX_TOMBSTONES {
                break;
            }
            self.tombstones.remove(oldest);
            self.buried.pop_front();
        }
    }
}
