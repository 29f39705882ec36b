//! What the machine is told, and what it says.

use super::*;

impl World {
    pub(super) fn incoming<'a>(
        &self,
        link: Link,
        call: Call,
        letter: Option<&'a Letter>,
        monitored: bool,
    ) -> Incoming<'a, &'static str> {
        Incoming {
            sid: letter.map(|letter| letter.session),
            owner: &OWNER,
            otherwise: Holder::Connection(Connection(link.0)),
            monitored,
            resource: self.issued[&call].component.unwrap_or_default(),
            order: letter.and_then(|letter| letter.order.as_ref()),
            digest: 0,
        }
    }

    pub(super) fn motion_arrives(&mut self, link: Link, call: Call, letter: Option<&Letter>) {
        match self.machine.admit(self.incoming(link, call, letter, true), self.now) {
            Ok(Admitted::Run(ticket)) => {
                let session = letter.map(|letter| letter.session);
                if let Some(id) = session {
                    assert!(self.leases.get(&id).is_some_and(|until| *until > self.now), "a late command was admitted");
                    self.leases.insert(id, self.now + W);
                }
                let holder = session.map_or(Holder::Connection(Connection(link.0)), Holder::Session);
                self.holders.insert(ticket, holder);
                self.tickets.insert(ticket, call);
                self.copies.entry(ticket).or_default().push(link);
                self.busy.insert(ticket);
            }
            Ok(Admitted::Copy(ticket)) => {
                if self.over.contains(&ticket) {
                    self.send(link, false, Message::Answered(call, Answer::Done));
                } else {
                    self.copies.entry(ticket).or_default().push(link);
                }
            }
            Ok(Admitted::Over(_)) | Err(Refused::MayHaveRun | Refused::Differs | Refused::Policy | Refused::Closed) => {
                self.send(link, false, Message::Answered(call, Answer::Done));
            }
            Err(Refused::NoSession(tombstone)) => {
                self.send(link, false, Message::Answered(call, Answer::Expired(tombstone.map(|t| t.stopped))));
            }
            Err(Refused::GivenUp | Refused::Superseded | Refused::CallerLeft) => {
                self.send(link, false, Message::Answered(call, Answer::NotRun));
            }
        }
    }

    pub(super) fn stop_arrives(&mut self, link: Link, call: Call, letter: Option<&Letter>, copy: u64) {
        let all = self.issued[&call].component.is_none();
        match self.machine.stop(self.incoming(link, call, letter, false), all, self.now) {
            Admitted::Run(ticket) | Admitted::Copy(ticket) => {
                self.stops.entry(ticket).or_default().push((link, call, copy))
            }
            Admitted::Over(past) => self.send(link, false, Message::Stopped(call, past == Past::Succeeded, copy)),
        }
    }

    /// Handlers that wait for their gate try it; whether any got through or was shut out.
    pub(super) fn enter_waiting(&mut self) -> bool {
        let mut changed = false;
        for ticket in self.busy.clone() {
            let call = self.tickets[&ticket];
            let component = self.issued[&call].component.unwrap_or_default();
            match self.machine.enter(ticket, &component, self.now) {
                Ok(slot) => {
                    *self.writes.entry(call).or_insert(0) += 1;
                    // A whole moves by its parts.
                    if let Some(moved) = covers(self.ordered, component).pop() {
                        self.moving.insert(moved, Motion { call, holder: self.holders[&ticket] });
                    }
                    self.machine.leave(slot, self.now);
                }
                Err(Shut::Busy) => continue,
                Err(Shut::Revoked(_)) => {}
            }
            self.finish(ticket);
            changed = true;
        }
        changed
    }

    pub(super) fn finish(&mut self, ticket: Ticket) {
        self.busy.remove(&ticket);
        if !self.over.insert(ticket) {
            return;
        }
        let call = self.tickets[&ticket];
        self.machine.handle_done(ticket, Some(Outcome::Kept), self.now);
        for link in self.copies.remove(&ticket).unwrap_or_default() {
            self.send(link, false, Message::Answered(call, Answer::Done));
        }
    }

    pub(super) fn machine_says(&mut self, output: MachineOutput<&'static str>) {
        match output {
            MachineOutput::Stop { id, resource, .. } => {
                for stopped in covers(self.ordered, resource) {
                    self.moving.remove(stopped);
                }
                self.machine.handle_stopped(id, Ok(()), self.now);
            }
            MachineOutput::StopDone { of, failed } => {
                for (link, call, copy) in self.stops.remove(&of).unwrap_or_default() {
                    self.send(link, false, Message::Stopped(call, failed.is_empty(), copy));
                }
            }
            MachineOutput::Lapsed { holder: Holder::Session(_), cause: Cause::Lapse, .. } if self.alive => {
                let calm = self.now - self.trouble;
                assert!(calm < W * 3, "a session lapsed although all was well for {calm:?}");
            }
            MachineOutput::Cancel { ticket, .. } if self.tickets.contains_key(&ticket) => self.finish(ticket),
            _ => {}
        }
    }
}
