//! What must hold at any time, and in the end.

use super::*;

impl World {
    pub(super) fn check(&mut self) {
        self.registry.handle_timeout(self.now);
        self.drain();
        for (id, lease) in &self.leases {
            assert!(lease.until > self.now, "S1: {id} is over and was not ended");
        }
        assert_eq!(self.registry.sessions().count(), self.leases.len());
        for (name, motion) in &self.moving {
            let failing = self.failing.get(name).is_some_and(|until| *until >= self.now);
            assert!(
                self.wanted(name, *motion)
                    || self.is_stopping(name)
                    || self.is_inside(name)
                    || failing
                    || self.lost.contains(name),
                "S1: {name} turns, {:?} does not want it, and nothing stops it",
                motion.holder
            );
        }
        for stop in &self.stops {
            assert!(
                stop.reported || stop.since + OVERDUE > self.now,
                "S4: a Stop of {} is lost in silence",
                stop.resource
            );
        }
        if let Some((at, timer)) = self.registry.poll_timeout() {
            assert!(at > self.now, "{timer:?} was due and is still pending");
        }
    }

    /// Everybody leaves, every driver obeys: everything rests, every Stop was answered, nothing is pending.
    pub(super) fn end(&mut self) {
        self.apply(&Event::Close);
        while !self.executions.is_empty() {
            self.apply(&Event::Ended(0));
        }
        for _ in 0..4 {
            self.pass(W);
            while !self.inside.is_empty() {
                self.apply(&Event::Leave(0));
            }
            while !self.stops.is_empty() {
                self.apply(&Event::Returned { stop: 0, fails: false });
            }
            self.check();
        }
        let turning = self.moving.keys().filter(|name| !self.lost.contains(*name)).count();
        assert_eq!(turning, 0, "{:?} turns although nobody is there", self.moving);
        assert!(self.waiting.is_empty(), "a Stop was never answered");
        assert_eq!(self.registry.poll_timeout(), None);
    }
}
