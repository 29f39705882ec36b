//! What the program, its process and its routes do.

use super::*;

impl World {
    pub(super) fn apply(&mut self, step: &Step) {
        let harmless =
            matches!(step, Step::Motion(_) | Step::Stop(_) | Step::StopAll | Step::GiveUp(_) | Step::Pass(_));
        if !harmless || self.paths.iter().any(|path| path.swallows) {
            self.trouble = self.now;
        }
        match *step {
            Step::Motion(component) if self.alive => self.issue(COMPONENTS[component], Kind::Motion),
            Step::Stop(component) if self.alive => self.issue(COMPONENTS[component], Kind::Stop),
            Step::StopAll if self.alive => self.issue("", Kind::StopAll),
            Step::GiveUp(which) if self.alive => {
                if let Some(call) = self.open.keys().nth(which).copied() {
                    self.open.remove(&call);
                    self.client.give_up(call, self.there());
                }
            }
            Step::Swallow(path) => self.paths[path].swallows = true,
            Step::GiveBack(path) => self.give_back(path),
            Step::Cut(path) => self.cut(path),
            Step::Use(path) if self.alive => self.use_path(path),
            // As the dialer does, it says first that nothing is hedged any more.
            Step::Hedge(path) if self.alive && path == self.primary => {
                self.hedging = None;
                self.client.handle_hedge(None, self.there());
            }
            Step::Hedge(path) if self.alive && self.open_connections.contains(&Connection(self.paths[path].link.0)) => {
                self.client.handle_timeout(self.there());
                self.notice_lapse();
                self.hedging = Some(path);
                let link = self.paths[path].link;
                self.doubted.get_or_insert(self.there());
                self.client.handle_hedge(Some(link), self.there());
                self.send_open_again(link);
            }
            Step::Lose(path, up) if self.ordered => self.paths[path].loses[usize::from(up)] = true,
            Step::Repeat(path) => self.paths[path].repeats = self.ordered,
            // A machine that does not take order is promised nothing about messages that overtake each other.
            Step::Jitter(most) if self.ordered => self.jitter = most,
            Step::Pass(millis) => self.pass(Duration::from_millis(millis), [false; 2]),
            Step::ClientStalls(millis) => self.pass(Duration::from_millis(millis), [true, false]),
            Step::MachineStalls(millis) => self.pass(Duration::from_millis(millis), [false, true]),
            Step::Die => self.die(),
            _ => {}
        }
        self.settle();
    }

    pub(super) fn issue(&mut self, component: &'static str, kind: Kind) {
        let motion = kind == Kind::Motion;
        let call = self.client.issue(component, kind, self.there());
        let named = (kind != Kind::StopAll).then_some(component);
        self.issued.insert(call, Issued { component: named, motion });
        if motion {
            self.open.insert(call, None);
            let moved = covers(self.ordered, component);
            self.still.retain(|still| !moved.contains(still));
        }
    }

    pub(super) fn die(&mut self) {
        if self.alive {
            self.alive = false;
            self.died = Some(self.now);
            // The kernel closes its sockets and throws away what it could not deliver (SO_LINGER 0): what is on its way arrives, and so does
            // the end, where the path lets it.
            for at in 0..2 {
                self.paths[at].swallowed.clear();
                if !self.paths[at].swallows {
                    self.closed(self.paths[at].link);
                }
            }
        }
    }

    pub(super) fn use_path(&mut self, path: usize) {
        let (old, link) = (self.primary, self.paths[path].link);
        self.primary = path;
        if old != path {
            self.undoubted();
        }
        self.client.handle_link(link, LinkState::Primary, self.there());
        if old != path {
            self.settle();
            self.send_open_again(link);
        }
    }

    /// What the channel does with numbered calls on a new route, or a second one.
    pub(super) fn send_open_again(&mut self, link: Link) {
        let open: Vec<_> = self.open.iter().filter_map(|(c, l)| Some((*c, l.clone()?))).collect();
        for (call, letter) in open.into_iter().filter(|(_, letter)| letter.order.is_some()) {
            self.send(link, true, Message::Motion(call, Some(letter)));
        }
    }

    pub(super) fn give_back(&mut self, path: usize) {
        self.paths[path].swallows = false;
        let link = self.paths[path].link;
        for (to_machine, message) in std::mem::take(&mut self.paths[path].swallowed) {
            self.send(link, to_machine, message);
        }
        if !self.alive {
            self.closed(link);
        }
    }

    pub(super) fn cut(&mut self, path: usize) {
        let link = self.paths[path].link;
        self.paths[path].swallowed.clear();
        self.paths[path].swallows = false;
        self.hedging = self.hedging.filter(|hedging| *hedging != path);
        if path == self.primary {
            self.undoubted();
        }
        self.travelling.retain(|_, (on, _, _)| *on != link);
        self.closed(link);
        if !self.alive {
            return;
        }
        self.client.handle_link(link, LinkState::Gone, self.there());
        self.settle();
        if !self.ordered && path == self.primary {
            // Calls on it fail, and their outcome is not known.
            for call in self.open.iter().filter(|(_, l)| l.is_some()).map(|(c, _)| *c).collect::<Vec<_>>() {
                self.open.remove(&call);
                self.client.handle_answer(call, Answer::Lost, self.there());
            }
        }
        // The dialer makes a new one at once, and uses it or the other.
        self.paths[path].link = Link(self.next_link);
        self.next_link += 1;
        let fresh = self.paths[path].link;
        self.opened(fresh);
        if path == self.primary {
            self.client.handle_link(fresh, LinkState::Primary, self.there());
            self.settle();
            self.send_open_again(fresh);
        } else {
            self.client.handle_link(fresh, LinkState::Standby, self.there());
        }
    }
}
