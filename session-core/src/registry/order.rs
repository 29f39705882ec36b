//! The order of a client's numbered messages: nothing runs twice, nothing runs after it was given up, nothing runs late.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::{MachineOutput, Refused, SessionRegistry, Ticket, Why};
use crate::{Order, SessionId};

/// Client processes that are kept apart in one session. A session is shared by a program and its restarted self, rarely more; the bound
/// keeps a hostile owner from growing memory.
const MAX_KEYS: usize = 16;

/// Numbers that are remembered as admitted when nothing else of them is: as many as a list may name. Of those before them it is not said any
/// more that they did not run.
const MAX_PAST: usize = Order::MAX_OPEN;

/// What is kept of one client process in one session.
pub(super) struct Ordered<R> {
    newest: u64,
    open: BTreeSet<u64>,
    highest: BTreeMap<R, u64>,
    /// The number of the newest StopAll.
    highest_of_all: u64,
    numbered: BTreeMap<u64, Numbered>,
    /// What was admitted and left the list since: a late copy of it may not be told that it did not run.
    past: BTreeSet<u64>,
    /// Everything up to here may have been.
    past_below: u64,
}

#[derive(Clone, Copy)]
struct Numbered {
    ticket: Ticket,
    digest: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Kept,
    Lost,
}

/// Where a numbered call stands.
pub(super) enum Standing {
    /// Never seen.
    New,
    /// Runs, or ran and its outcome is kept.
    Known { ticket: Ticket, running: bool },
}

impl<R> Default for Ordered<R> {
    fn default() -> Self {
        Self {
            newest: 0,
            open: BTreeSet::new(),
            highest: BTreeMap::new(),
            highest_of_all: 0,
            numbered: BTreeMap::new(),
            past: BTreeSet::new(),
            past_below: 0,
        }
    }
}

impl<R> Ordered<R> {
    fn note_admitted(&mut self, number: u64) {
        self.past.insert(number);
        if self.past.len() > MAX_PAST {
            self.past_below = self.past.pop_first().unwrap_or(0).max(self.past_below);
        }
    }

    fn was_admitted(&self, number: u64) -> bool {
        number <= self.past_below || self.past.contains(&number)
    }
}

impl<R: Ord + Clone> SessionRegistry<R> {
    /// Takes over the list of a message if it is its client's newest, and says whether it is. What a newer list does not name any more is
    /// cancelled where it runs, and forgotten.
    pub(super) fn take_list(&mut self, id: SessionId, order: &Order, now: Instant) -> bool {
        let Some(session) = self.sessions.get_mut(id) else { return false };
        if session.keys.len() >= MAX_KEYS && !session.keys.contains_key(&order.key) {
            return false;
        }
        let kept = session.keys.entry(order.key).or_default();
        if order.number <= kept.newest {
            return false;
        }
        // What was given up once is over, whatever a later list says: its record is gone, and it could run a second time.
        let (newest, before) = (kept.newest, std::mem::take(&mut kept.open));
        kept.open = order.open.iter().copied().filter(|n| *n >= newest || before.contains(n)).collect();
        kept.newest = order.number;
        let left: Vec<_> = kept.numbered.keys().filter(|n| !kept.open.contains(*n)).copied().collect();
        let left: Vec<_> = left.into_iter().filter_map(|n| kept.numbered.remove(&n)).collect();
        for numbered in left {
            match numbered.state {
                State::Running => self.cancel(numbered.ticket, Why::GivenUp, now),
                State::Kept => self.forget(numbered.ticket),
                State::Lost => {}
            }
        }
        true
    }

    fn forget(&mut self, ticket: Ticket) {
        self.calls.remove(&ticket);
        self.output(MachineOutput::Forget(ticket));
    }

    /// Rules 1 and 2: where a number stands. The list of its message has been taken over before.
    pub(super) fn standing(&self, id: SessionId, order: &Order, digest: u64) -> Result<Standing, Refused<R>> {
        let Some(kept) = self.sessions.get(id).and_then(|s| s.keys.get(&order.key)) else {
            return Err(Refused::Differs);
        };
        if let Some(known) = kept.numbered.get(&order.number) {
            if known.digest != digest {
                return Err(Refused::Differs);
            }
            return match known.state {
                State::Lost => Err(Refused::MayHaveRun),
                state => Ok(Standing::Known { ticket: known.ticket, running: state == State::Running }),
            };
        }
        if order.number < kept.newest && !kept.open.contains(&order.number) {
            return Err(if kept.was_admitted(order.number) { Refused::MayHaveRun } else { Refused::GivenUp });
        }
        Ok(Standing::New)
    }

    /// Rule 3: whether a later number was admitted or stopped for one of `resources`.
    pub(super) fn is_superseded(&self, id: SessionId, order: &Order, resources: &[R]) -> bool {
        let Some(kept) = self.sessions.get(id).and_then(|s| s.keys.get(&order.key)) else { return false };
        let highest = resources.iter().filter_map(|r| kept.highest.get(r)).copied().max().unwrap_or(0);
        order.number < highest.max(kept.highest_of_all)
    }

    /// Remembers that `order` runs with `ticket`, and for `resources` (or all) that nothing lower may any more.
    pub(super) fn remember(
        &mut self,
        id: SessionId,
        order: &Order,
        ticket: Ticket,
        digest: u64,
        resources: Option<&[R]>,
    ) {
        let Some(kept) = self.sessions.get_mut(id).and_then(|s| s.keys.get_mut(&order.key)) else { return };
        kept.note_admitted(order.number);
        kept.numbered.insert(order.number, Numbered { ticket, digest, state: State::Running });
        match resources {
            None => kept.highest_of_all = kept.highest_of_all.max(order.number),
            Some(resources) => {
                for resource in resources {
                    let highest = kept.highest.entry(resource.clone()).or_insert(0);
                    *highest = (*highest).max(order.number);
                }
            }
        }
    }

    /// The call of `order` has ended. Returns whether its outcome is worth keeping: its caller may still ask.
    pub(super) fn settle(&mut self, id: SessionId, key: u64, number: u64, keep: bool) -> bool {
        let Some(kept) = self.sessions.get_mut(id).and_then(|s| s.keys.get_mut(&key)) else { return false };
        let Some(numbered) = kept.numbered.get_mut(&number) else { return false };
        numbered.state = if keep { State::Kept } else { State::Lost };
        keep
    }

    /// A Stop that failed may be repeated under its number.
    pub(super) fn unsettle(&mut self, id: SessionId, key: u64, number: u64) {
        if let Some(kept) = self.sessions.get_mut(id).and_then(|s| s.keys.get_mut(&key)) {
            kept.numbered.remove(&number);
        }
    }
}
