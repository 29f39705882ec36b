//! What the agent decided, done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use transport::LinkId;

use super::{Task, attempt};
use crate::agent::{Attempt, Demotion, Event, Origin, Output, Route, Verdict};
use crate::carrier::{Carrier, Standing};
use crate::flight::Outcome;
use crate::status::{RouteState, Swap, SwapReason, TooSlow};
use crate::switch::{LinkView, RouteEvent};

impl Task {
    /// Does everything the agent asks for.
    pub(super) fn perform(&mut self) {
        let mut links_changed = false;
        while let Some(output) = self.agent.poll_output() {
            links_changed |= matches!(
                output,
                Output::Use { .. }
                    | Output::Drain { .. }
                    | Output::Abort { .. }
                    | Output::Event(Event::Connected { .. } | Event::Closed { .. })
            );
            if links_changed {
                self.publish_links();
            }
            self.perform_one(output);
        }
        if links_changed {
            self.publish_links();
        }
    }

    fn perform_one(&mut self, output: Output) {
        let now = Instant::now();
        match output {
            Output::Search { attempt } => {
                let search = self.sources.search(attempt, &self.here, self.found_by.clone());
                if let Some(old) = self.searching.replace(tokio::spawn(search).abort_handle()) {
                    old.abort();
                }
            }
            Output::Listen { on } => self.listen(on),
            Output::Connect { attempt, route } => self.connect(attempt, route, now),
            Output::Cancel { attempt } => {
                if let Some((task, route)) = self.attempts.remove(&attempt) {
                    task.abort();
                    tracing::trace!(%route, "attempt dropped");
                    self.flight.dropped(attempt, now);
                }
            }
            Output::Probe { attempt, link } => {
                if let Some(carrier) = self.carrier(link) {
                    let inputs = self.inputs.clone();
                    match carrier.control.clone() {
                        Some(control) => tokio::spawn(attempt::check(attempt, link, control, inputs)),
                        None => tokio::spawn(attempt::probe(attempt, carrier, inputs)),
                    };
                }
            }
            Output::Validate { link } => self.tell(RouteEvent::Validate { link }),
            // Direct links have one path and no ICE.
            Output::MovePair { link } => {
                if let Some(control) = self.carrier(link).and_then(|carrier| carrier.control.clone()) {
                    tokio::spawn(async move {
                        let pair = control.move_pair().await;
                        tracing::info!(%link, ?pair, "moved");
                    });
                }
            }
            Output::RestartIce { link } => {
                if let Some(control) = self.carrier(link).and_then(|carrier| carrier.control.clone()) {
                    tokio::spawn(async move {
                        let answered = control.restart_ice().await;
                        tracing::info!(%link, answered, "restarted ICE");
                    });
                }
            }
            Output::Hedge { from, on } => self.hedge(from, on),
            Output::HedgeOff => {
                for served in self.carriers.values() {
                    served.carrier.standing.send_if_modified(|standing| {
                        let hedged = matches!(standing, Standing::Hedged(_));
                        if hedged {
                            *standing = Standing::Good;
                        }
                        hedged
                    });
                }
                self.turned(self.using, RouteState::Silent);
                self.tell(RouteEvent::HedgeOff);
            }
            Output::Use { link } => self.use_link(link, now),
            Output::NoRoute { swapping } => {
                self.shared.primary.store(None);
                if self.shared.status.borrow().link.is_some() {
                    self.nowhere = now;
                }
                self.shared.status.send_modify(|status| {
                    status.state = if swapping { RouteState::Swapping } else { RouteState::Hunting };
                    (status.link, status.rtt) = (None, None);
                });
                self.shared.changed.send_modify(|sign| {
                    sign.swapping = swapping;
                    sign.swaps += 1;
                });
                self.tell(RouteEvent::NoRoute { swapping });
            }
            Output::Drain { link, why, .. } => self.drain(link, why),
            Output::Decide { link } => {
                if let Some(carrier) = self.carrier(link) {
                    carrier.decide();
                }
                self.no_better_than(link, SwapReason::Stalled);
            }
            Output::Abort { link } => {
                if let Some(served) = self.carriers.remove(&link) {
                    served.carrier.decide();
                    served.carrier.link.sever("given up by the dialer");
                }
            }
            Output::Event(event) => self.event(event, now),
        }
    }

    /// Listens to the machine's announcements on the interfaces of now, or no longer.
    pub(super) fn listen(&mut self, on: bool) {
        if let Some(before) = self.listening.take() {
            before.abort();
        }
        if on && let Some(listen) = self.sources.listen(&self.here, self.inputs.clone()) {
            self.listening = Some(tokio::spawn(listen).abort_handle());
        }
    }

    /// The way is this long by now.
    pub(super) fn measured(&self, link: LinkId) {
        if let (Some(carrier), Some(way)) = (self.carrier(link), self.agent.way(link)) {
            carrier.link.set_round_trip(way);
        }
    }

    fn carrier(&self, link: LinkId) -> Option<Arc<Carrier>> {
        self.carriers.get(&link).map(|served| served.carrier.clone())
    }

    fn connect(&mut self, attempt: Attempt, route: Route, now: Instant) {
        let origin = self.origins.get(&route).copied().unwrap_or(Origin::Mdns);
        self.flight.began(attempt, &route, origin, now);
        let task = tokio::spawn(self.maker.clone().make(attempt, route.clone(), self.inputs.clone()));
        self.attempts.insert(attempt, (task.abort_handle(), route));
    }

    fn hedge(&mut self, from: LinkId, on: LinkId) {
        if let (Some(from), Some(on)) = (self.carrier(from), self.carrier(on)) {
            from.standing.send_replace(Standing::Hedged(on));
        }
        self.turned(Some(from), RouteState::Suspect);
        self.tell(RouteEvent::Hedge { from, on });
    }

    fn use_link(&mut self, link: LinkId, now: Instant) {
        let Some(carrier) = self.carrier(link) else { return };
        carrier.standing.send_replace(Standing::Good);
        let view = LinkView::of(&carrier);
        self.shared.primary.store(Some(carrier));
        self.swapped(&view, now);
        self.shared.changed.send_modify(|sign| {
            sign.swapping = false;
            sign.swaps += 1;
        });
        let record = self.flight.end(Outcome::Using { link: link.0 }, now);
        tracing::info!(%link, route = %view.route, tier = ?view.tier, took_ms = record.took_ms, "using");
        let record = Arc::new(record);
        if self.first.borrow().is_none() {
            self.first.send_replace(Some(Ok((view.clone(), record.clone()))));
        }
        self.tell(RouteEvent::Use(view, record));
    }

    fn swapped(&mut self, to: &LinkView, now: Instant) {
        let nowhere = self.shared.status.borrow().link.is_none();
        let gap = if nowhere { now.duration_since(self.nowhere) } else { Duration::ZERO };
        self.before = self.using.replace(to.id);
        let why = match (self.before, self.ended.take()) {
            (None, _) => SwapReason::FirstDial,
            (Some(_), Some(how)) => SwapReason::Closed(how),
            // The same link again, or one that came after silence.
            (Some(_), None) if nowhere => SwapReason::Dead,
            (Some(_), None) => SwapReason::Better,
        };
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let rtt = self.agent.rtt(to.id);
        self.shared.status.send_modify(|status| {
            let from = status.last_swap.take().map(|swap| swap.to);
            let gap_ms = gap.as_secs_f64() * 1000.0;
            status.last_swap =
                Some(Swap { from, to: to.route.clone(), why, at_unix_ms: at.as_millis() as u64, gap_ms });
            status.swaps += 1;
            status.state = RouteState::Good;
            status.link = Some(to.clone());
            status.rtt = rtt;
        });
    }

    /// A peer connection that uses another pair now is worth more or less than before, and leaves from another interface.
    pub(super) fn look_at_pairs(&mut self, now: Instant) {
        for (link, served) in &self.carriers {
            let Some(pair) = served.carrier.moved(|pair| self.network.tier_of(pair)) else { continue };
            let tier = served.carrier.tier();
            tracing::info!(%link, %pair, ?tier, "uses another pair");
            self.agent.handle_moved(*link, tier, Some(pair.local.address.ip()), now);
            if self.using == Some(*link) {
                self.shared.status.send_if_modified(|status| {
                    let told = status.link.as_mut().map(|link| *link = LinkView::of(&served.carrier));
                    told.is_some()
                });
            }
        }
    }

    /// The link that carries calls is like this now.
    fn turned(&self, link: Option<LinkId>, state: RouteState) {
        if link.is_none() || link != self.using {
            return;
        }
        self.shared.status.send_if_modified(|status| {
            // Where there is no link there is nothing to say of it.
            status.link.is_some() && std::mem::replace(&mut status.state, state) != state
        });
    }

    fn drain(&mut self, link: LinkId, why: Demotion) {
        if let Some(carrier) = self.carrier(link) {
            match why {
                // What is out may finish; the agent aborts what then is still out.
                Demotion::Better => carrier.link.close(),
                // What is out is decided now; the link itself may answer again.
                Demotion::Dead => carrier.decide(),
            }
        }
        if why == Demotion::Dead {
            self.no_better_than(link, SwapReason::Dead);
        }
        self.tell(RouteEvent::Drain { link, why });
    }

    /// The last swap was taken for one to a better link when it was told; it was because of the old one.
    fn no_better_than(&self, old: LinkId, why: SwapReason) {
        self.shared.status.send_if_modified(|status| match &mut status.last_swap {
            Some(swap) if swap.why == SwapReason::Better && self.before == Some(old) => {
                swap.why = why;
                true
            }
            _ => false,
        });
    }

    fn event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Hunting => {
                if self.first.borrow().is_some() {
                    self.flight.again("the route was lost", now);
                }
                self.tell(RouteEvent::Hunting);
            }
            Event::Connected { link, .. } => {
                if let Some(carrier) = self.carrier(link) {
                    self.tell(RouteEvent::Connected(LinkView::of(&carrier)));
                }
            }
            Event::Silent { link } => {
                self.turned(Some(link), RouteState::Silent);
                self.tell(RouteEvent::Silent { link });
            }
            Event::Alive { link } => {
                if let Some(carrier) = self.carrier(link)
                    && matches!(*carrier.standing.borrow(), Standing::Lost)
                {
                    carrier.standing.send_replace(Standing::Good);
                }
                self.turned(Some(link), RouteState::Good);
                self.tell(RouteEvent::Alive { link });
            }
            // What is out on it is decided when it is drained; with nothing to replace it, it may still be answered.
            Event::Dead { link } => tracing::info!(%link, "no answer: nothing new goes over the link"),
            Event::Standby { link } => {
                let standby = link.and_then(|link| self.carrier(link));
                let view = standby.as_deref().map(LinkView::of);
                self.shared.standby.store(standby);
                self.shared.status.send_modify(|status| status.standby = view);
                self.tell(RouteEvent::Standby { link });
            }
            Event::TooSlow { link, took, window } => {
                let by = TooSlow { took, window };
                tracing::warn!(%link, ?took, ?window, "the route answers too late for the session");
                self.shared.status.send_modify(|status| status.too_slow = Some(by));
                self.tell(RouteEvent::TooSlow { link, by });
            }
            Event::InTime { link } => {
                self.shared.status.send_modify(|status| status.too_slow = None);
                self.tell(RouteEvent::InTime { link });
            }
            Event::Foreign { link } => self.tell(RouteEvent::Foreign { link }),
            Event::Verdict(verdict) => self.gave_up(&verdict, now),
            // Hedges and closes are told where they are done.
            Event::Suspect { .. } | Event::Stalled { .. } | Event::Closed { .. } => {}
        }
    }

    fn gave_up(&mut self, verdict: &Verdict, now: Instant) {
        let error = Arc::new(self.flight.verdict(verdict, now));
        tracing::warn!(%error, "dial ended");
        if self.first.borrow().is_none() {
            self.first.send_replace(Some(Err(error.clone())));
            self.shared.changed.send_modify(|sign| {
                sign.over = true;
                sign.swaps += 1;
            });
        }
        self.tell(RouteEvent::GaveUp(error));
    }

    fn publish_links(&self) {
        let live: BTreeMap<LinkId, Arc<Carrier>> = self
            .agent
            .live_links()
            .into_iter()
            .filter_map(|link| self.carriers.get(&link).map(|served| (link, served.carrier.clone())))
            .collect();
        self.shared.links.store(Arc::new(live));
    }

    pub(super) fn tell(&self, event: RouteEvent) {
        // An error means that nobody listens.
        let _ = self.events.send(event);
    }
}
