//! What the client says.

use super::*;

impl World {
    pub(super) fn client_says(&mut self, output: ClientOutput<&'static str>) {
        let primary = self.paths[self.primary].link;
        match output {
            ClientOutput::Start { attempt, resume } => self.send(primary, true, Message::Start(attempt, resume)),
            ClientOutput::Beat { attempt, link, letter } => {
                let now = self.there();
                // One that ends a session that lapsed keeps none.
                let ends = letter.order.as_ref().is_some_and(|order| order.end);
                if !ends {
                    self.asked.insert(attempt, (link, now));
                }
                if link == primary && !ends {
                    self.owed.get_or_insert(now);
                } else if link != primary {
                    let (doubted, owed) = (self.doubted, self.owed.max(self.owed.and(self.answered)));
                    let soon = [doubted, owed].into_iter().flatten().any(|since| now - since <= W / 2);
                    assert!(soon, "a beat on a path without commands at {now:?}: {doubted:?}, {owed:?} unanswered");
                }
                self.send(link, true, Message::Beat(attempt, letter));
            }
            ClientOutput::Send { call, letter } => {
                *self.sends.entry(call).or_insert(0) += 1;
                if let Some(open) = self.open.get_mut(&call) {
                    open.clone_from(&letter);
                }
                self.send(primary, true, Message::Motion(call, letter));
            }
            ClientOutput::SendStop { call, link, letter } => {
                self.sent += 1;
                self.copy.insert((call, link), self.sent);
                self.send(link, true, Message::Stop(call, letter, self.sent));
            }
            ClientOutput::StopDone(call) => self.stop_answered(call),
            ClientOutput::Abort(link) => {
                self.travelling.retain(|_, (on, _, _)| *on != link);
                if let Some(path) = self.paths.iter_mut().find(|path| path.link == link) {
                    path.swallowed.clear();
                }
                self.closed(link);
                self.hedging = self.hedging.filter(|hedging| self.paths[*hedging].link != link);
                self.client.handle_link(link, LinkState::Gone, self.there());
            }
            ClientOutput::Fail { call, .. } => {
                self.open.remove(&call);
            }
            ClientOutput::Event(_) => {}
        }
    }
}
