//! What must hold at any time.

use super::*;

impl World {
    /// Nothing moves but for a session that lives, by the machine's word and by this world's own count, or for a connection that is there.
    pub(super) fn check_holders(&self) {
        for (component, Motion { holder, call }) in &self.moving {
            let lives = match holder {
                Holder::Session(id) => {
                    self.machine.sessions().any(|(live, _)| live == *id)
                        && self.leases.get(id).is_some_and(|until| *until > self.now)
                }
                Holder::Connection(connection) => self.open_connections.contains(connection),
                _ => false,
            };
            assert!(lives, "{component} moves by {call:?} for {holder:?}, who is gone");
        }
    }

    /// What must hold at any time.
    pub(super) fn check(&self) {
        self.check_holders();
        for (call, writes) in &self.writes {
            assert!(*writes <= 1, "{call:?} was written {writes} times");
        }
        if let Some(died) = self.died {
            // A beat that was on its way when it died, and the lease that it extended.
            if self.now > died.max(self.woke) + W + Duration::from_millis(SLOWEST + JITTER)
                && self.paths.iter().all(|p| p.swallowed.is_empty())
            {
                assert!(self.moving.is_empty(), "{:?} moves for a client that is gone", self.moving);
            }
        }
        for component in &self.still {
            assert!(!self.moving.contains_key(component), "{component} moves after an answered Stop");
        }
        if !self.ordered {
            for (call, sends) in &self.sends {
                assert!(*sends <= 2, "{call:?} was sent {sends} times to a machine that does not take order");
            }
        }
    }

    /// After a lapse nothing is doubted any more: a new session is a new beginning.
    pub(super) fn notice_lapse(&mut self) {
        let session = self.client.session().map(|(id, _)| id);
        if self.session.is_some() && session != self.session {
            self.undoubted();
            self.asked.clear();
        }
        self.session = session;
    }

    /// A new primary, or a new session: nothing is owed, and nothing doubted.
    pub(super) fn undoubted(&mut self) {
        (self.hedging, self.doubted) = (None, None);
        (self.owed, self.answered) = (None, None);
    }

    /// The primary has answered a beat.
    pub(super) fn proven(&mut self, attempt: Attempt) {
        self.answered = Some(self.there());
        // One that left before the link became primary proves it as well.
        let Some((link, left)) = self.asked.remove(&attempt) else { return };
        let later = self.asked.values().filter(|(on, at)| *on == link && *at > left).map(|(_, at)| *at).min();
        self.owed = later.or(self.owed.filter(|since| *since > left));
        if self.hedging.is_none() {
            self.doubted = None;
        }
    }

    /// Nothing that this Stop covers moves from now on, unless a later command moves it.
    pub(super) fn stop_answered(&mut self, call: Call) {
        let Some(stop) = self.issued.get(&call) else { return };
        for component in stop.component.map_or(COMPONENTS.to_vec(), |c| covers(self.ordered, c)) {
            let later = |(c, issued): (&Call, &Issued)| {
                *c > call
                    && issued.motion
                    && issued.component.is_some_and(|c| covers(self.ordered, c).contains(&component))
            };
            if !self.issued.iter().any(later) {
                assert!(!self.moving.contains_key(component), "{component} moves although its Stop was answered");
                self.still.insert(component);
            }
        }
    }
}
