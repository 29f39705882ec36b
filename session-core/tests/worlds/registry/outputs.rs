//! What the machine has done.

use super::*;

impl World {
    /// Takes the outputs in: first who is gone, then what is called.
    pub(super) fn drain(&mut self) {
        let outputs: Vec<_> = std::iter::from_fn(|| self.registry.poll_output()).collect();
        for output in &outputs {
            match output {
                MachineOutput::Cancel { ticket, .. } => {
                    self.ended.insert(*ticket);
                    self.calls.entry(*ticket).and_modify(|known| known.ended = true);
                }
                MachineOutput::Lapsed { holder: Holder::Session(id), .. } => {
                    let lease = self.leases.remove(id).expect("a session that lived");
                    assert!(lease.until <= self.now, "S5: {id} lapsed {:?} early", lease.until - self.now);
                }
                _ => {}
            }
        }
        for output in outputs {
            match output {
                MachineOutput::Stop { id, resource, cause } => {
                    for name in Self::turning(resource) {
                        self.failing.remove(name);
                        if let Some(motion) = self.moving.get(name) {
                            // Where a plan has claimed it since, its end is the end of what an earlier write does.
                            let of_plan = self.passed.get(name).filter(|passed| passed.ticket > motion.ticket);
                            assert!(
                                !self.wanted(name, *motion) || of_plan.is_some_and(|plan| !self.wanted(name, *plan)),
                                "S7: Stop of {resource} ({cause:?}) ends what {:?} does with {name}",
                                motion.holder
                            );
                        }
                    }
                    for inside in &mut self.inside {
                        inside.overtaken.extend(Self::turning(resource));
                    }
                    let passed = self.passed.clone();
                    self.stops.push(Stopping { id, resource, since: self.now, reported: false, passed });
                }
                MachineOutput::StopLost { resource, .. } => {
                    let overdue = |stop: &&mut Stopping| stop.resource == resource && stop.since + OVERDUE <= self.now;
                    self.stops.iter_mut().filter(overdue).for_each(|stop| stop.reported = true);
                    self.lost.extend(Self::turning(resource));
                }
                MachineOutput::StopDone { of, failed } => {
                    let covers = self.waiting.remove(&of).expect("a Stop is answered once");
                    if failed.is_empty() {
                        self.answered(of, &covers);
                    }
                }
                _ => {}
            }
        }
    }

    /// A Stop that was answered with success has stopped everything from before it.
    pub(super) fn answered(&self, of: Ticket, covers: &[&'static str]) {
        for name in covers {
            let before = self.moving.get(name).is_some_and(|motion| motion.ticket < of);
            // A write that was inside meanwhile has a Stop of its own, which may fail and come again.
            let again = self.is_inside(name) || self.is_stopping(name) || self.failing.contains_key(name);
            assert!(!before || again, "{name} turns after an answered Stop");
        }
    }

    /// A session of the schedule's choice, and who uses it.
    pub(super) fn pick(&self, session: Option<usize>, foreign: bool) -> (Option<SessionId>, Owner) {
        let Some((id, owner)) = session.and_then(|s| self.started.iter().rev().nth(s)) else {
            return (None, OWNERS[0]);
        };
        let stranger = if *owner == OWNERS[0] { OWNERS[1] } else { OWNERS[0] };
        (Some(*id), if foreign { stranger } else { *owner })
    }

    /// Whether `owner` may use the session.
    pub(super) fn admits(&self, id: SessionId, owner: &Owner) -> bool {
        self.alive(Holder::Session(id)) && self.leases.get(&id).is_some_and(|lease| lease.owner == *owner)
    }

    /// Notes a numbered message; whether it is its client's newest.
    pub(super) fn newest(&mut self, id: SessionId, order: Option<&Order>) -> bool {
        let Some(order) = order else { return true };
        let Some(lease) = self.leases.get_mut(&id) else { return false };
        let newest = lease.newest.entry(order.key).or_insert(0);
        if order.number <= *newest {
            return false;
        }
        *newest = order.number;
        let numbers = self.numbers.entry((id, order.key)).or_default();
        numbers.given_up.extend((1..order.number).filter(|n| !order.open.contains(n)));
        true
    }

    pub(super) fn extend(&mut self, id: SessionId) {
        let until = self.now + W;
        self.leases.entry(id).and_modify(|lease| lease.until = until);
    }
}
