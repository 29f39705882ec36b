//! What comes in, told to the agent.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use discovery::Surroundings;
use transport::{CloseReason, LinkId};

use super::attempt::{self, Made};
use super::network::Network;
use super::{ASK_AGAIN, REST, Served, Task};
use crate::agent::{
    Attempt, Candidate, Failure, Held, LinkFacts, NetChange, Origin, Route, Sign, Signaler, Stage, Tier,
};
use crate::carrier::{Carrier, Meter};
use crate::pass::Pass;
use crate::switch::{RouteEvent, Told};

/// What the dialer's own tasks report. Every message answers an output of the agent, whose number is bounded.
pub(crate) enum Input {
    Stage {
        attempt: Attempt,
        stage: Stage,
    },
    Connected {
        attempt: Attempt,
        route: Route,
        made: Made,
    },
    Failed {
        attempt: Attempt,
        why: Failure,
    },
    Closed {
        link: LinkId,
        why: CloseReason,
    },
    /// The machine takes no new calls on the link.
    Refused {
        link: LinkId,
    },
    /// Data on a peer connection is not acknowledged although its path answers.
    Stalled {
        link: LinkId,
    },
    Heard(SocketAddr),
    Probed {
        attempt: Attempt,
        link: LinkId,
        rtt: Duration,
        boot: Option<u128>,
    },
}

/// What a search reports.
pub(crate) enum Found {
    Candidate(Route, Origin),
    Complaint(String),
    Done { search: Attempt, conclusive: bool },
}

impl Task {
    pub(super) fn handle_told(&mut self, told: Told) {
        let now = Instant::now();
        match told {
            Told::Held(held, peer) => {
                let window = match held {
                    Held::Session { window, .. } => Some(window),
                    Held::Nothing => None,
                };
                if window != self.window {
                    self.window = window;
                    self.carriers.values().for_each(|served| served.carrier.link.hold(window));
                }
                self.agent.handle_held(held, peer, now);
            }
            Told::Beat(link, answered) => self.agent.handle_beat(link, answered, now),
            Told::Validated(link, what) => self.agent.handle_validated(link, what, now),
            Told::Standby(policy) => self.agent.set_standby(policy, now),
            Told::NetworkChanged => {
                self.maker.warm.forget();
                self.agent.handle_network_changed(NetChange::Changed, now);
            }
            Told::Close(_) => {}
        }
    }

    pub(super) fn handle_input(&mut self, input: Input) {
        let now = Instant::now();
        match input {
            Input::Stage { attempt, stage } => self.flight.stage(attempt, stage, now),
            Input::Failed { attempt, why } => {
                if let Some((_, route)) = self.attempts.remove(&attempt) {
                    tracing::debug!(%route, stage = why.stage.name(), why = %why.message, "attempt failed");
                    self.flight.failed(attempt, &why, now);
                    if let (Some(remembering), Route::Direct(address)) = (&self.remembering, &route) {
                        remembering.failed(*address);
                    }
                    self.agent.handle_failed(attempt, why, now);
                }
            }
            Input::Connected { attempt, route, made } => {
                self.attempts.remove(&attempt);
                self.connected(attempt, route, made, now);
            }
            Input::Refused { link } => self.refused(link, now),
            Input::Stalled { link } => self.agent.handle_stalled(link, true, now),
            Input::Heard(address) => self.handle_found(Found::Candidate(Route::Direct(address), Origin::Mdns)),
            Input::Closed { link, why } => {
                tracing::debug!(%link, %why, "link closed");
                self.carriers.remove(&link);
                if self.using == Some(link) {
                    self.ended = Some(why.to_string());
                }
                self.agent.handle_closed(link, now);
                self.tell(RouteEvent::Closed { link, why });
            }
            Input::Probed { attempt, link, rtt, boot } => {
                self.look_at_pairs(now);
                self.agent.handle_probe(attempt, rtt, now);
                self.measured(link);
                if self.agent.primary() == Some(link) {
                    let rtt = self.agent.rtt(link);
                    self.shared.status.send_if_modified(|status| std::mem::replace(&mut status.rtt, rtt) != rtt);
                }
                if let Some(boot) = boot {
                    self.agent.handle_process(link, boot, now);
                }
            }
        }
    }

    /// What is out on the link may finish; for everything else it is gone.
    fn refused(&mut self, link: LinkId, now: Instant) {
        if let Some(served) = self.carriers.remove(&link) {
            tracing::debug!(%link, "the machine takes no new calls here");
            served.carrier.link.close();
            if self.using == Some(link) {
                self.ended = Some(CloseReason::ByPeer.to_string());
            }
            self.agent.handle_closed(link, now);
            self.tell(RouteEvent::Closed { link, why: CloseReason::ByPeer });
        }
    }

    fn connected(&mut self, attempt: Attempt, route: Route, made: Made, now: Instant) {
        let Made { link, admitted, control } = made;
        let info = link.info();
        let tier = link.pair().map_or_else(|| self.tier(&route), |pair| self.network.tier_of(&pair));
        let facts = LinkFacts { tier, path: info.local.map(|local| local.ip()), rtt: info.rtt };
        let id = info.id;
        if self.window.is_some() {
            link.hold(self.window);
        }
        self.flight.connected(attempt, id, now);
        if let (Some(remembering), Route::Direct(address), true) = (&self.remembering, &route, info.encrypted) {
            remembering.learned(*address, self.here.clone());
        }
        tokio::spawn(attempt::watch(link.clone(), self.inputs.clone()));
        if let Some(control) = &control {
            tokio::spawn(attempt::stalls(id, control.stalled(), self.inputs.clone()));
        }
        let carrier = Carrier::new(
            link,
            route,
            tier,
            Pass::new(admitted, self.maker.admit.clone()),
            Meter::new(self.wake.clone()),
            control,
        );
        let control = carrier.control.clone();
        self.carriers.insert(id, Served { carrier, life: None, checked: now, acknowledged: None, asked: now });
        self.agent.handle_connected(attempt, id, facts, now);
        control.iter().for_each(|control| self.learn_homes(control));
    }

    pub(super) fn handle_found(&mut self, found: Found) {
        let now = Instant::now();
        match found {
            Found::Candidate(route, origin) => {
                if self.origins.len() < crate::agent::MAX_CANDIDATES {
                    self.origins.entry(route.clone()).or_insert(origin);
                }
                self.flight.found(&route, origin, now);
                let tier = self.tier(&route);
                self.agent.handle_candidate(Candidate { route, origin, tier }, now);
            }
            Found::Complaint(complaint) => self.flight.source_error(complaint),
            Found::Done { search, conclusive } => {
                self.searching = None;
                self.agent.handle_sources_done(search, conclusive, now);
            }
        }
    }

    fn tier(&self, route: &Route) -> Tier {
        match route {
            Route::Direct(address) => self.network.tier(address.ip()),
            Route::Unix(_) => Tier::LanDirect,
            // Before there is a pair: what it will be at best.
            Route::WebRtc(Signaler::Machine(address)) => match self.network.tier(address.ip()) {
                Tier::LanDirect => Tier::LanWebRtc,
                _ => Tier::WebRtcDirect,
            },
            Route::WebRtc(Signaler::Cloud { .. }) => Tier::WebRtcDirect,
        }
    }

    pub(super) fn watch_network(&mut self) {
        let now = Instant::now();
        self.here = Surroundings::current();
        let network = Network::of(&self.here);
        let mut changes = network.since(&self.network);
        self.network = network;
        if self.sleep.slept() {
            changes.push(NetChange::Resumed);
        }
        if !changes.is_empty() && self.listening.is_some() {
            self.listen(true);
        }
        if !changes.is_empty() {
            self.maker.warm.forget();
        }
        for change in changes {
            tracing::debug!(?change, "the network changed");
            self.agent.handle_network_changed(change, now);
        }
    }

    /// Tells the agent what left and what was answered since the last tick.
    pub(super) fn read_meters(&mut self) {
        let now = Instant::now();
        let mut busy = false;
        self.look_at_pairs(now);
        let refused = self.carriers.iter().find(|(_, served)| served.carrier.link.is_refused());
        if let Some(link) = refused.map(|(link, _)| *link) {
            self.refused(link, now);
        }
        for (id, served) in &mut self.carriers {
            let reading = served.carrier.meter.read();
            if reading.life > served.life {
                served.life = reading.life;
                busy = true;
                self.agent.handle_life(*id, Sign::Reply, now);
            }
            if let Some(control) = &served.carrier.control {
                let (last, acknowledged) = (control.last_life(), control.last_acknowledged());
                // A check's answer proves the path; acknowledged data ends a stall as well.
                let sign = if acknowledged > served.acknowledged { Sign::Sack } else { Sign::Stun };
                if last > served.checked || sign == Sign::Sack {
                    (served.checked, served.acknowledged) = (last, acknowledged);
                    busy = true;
                    self.agent.handle_life(*id, sign, now);
                }
            }
            if reading.unheld_motion {
                self.agent.handle_unheld_motion(*id, now);
            }
            let quiet = now.duration_since(served.asked) >= ASK_AGAIN;
            if reading.waiting || (reading.out > 0 && quiet) {
                served.asked = now;
                self.agent.handle_sent(*id, now);
            }
            busy |= reading.waiting || reading.out > 0;
        }
        if busy {
            self.traffic = Some(now);
        } else if self.traffic.is_some_and(|last| now.duration_since(last) > REST) {
            self.traffic = None;
            self.wake.rest();
            // A call that left between the reading and the rest rang no bell.
            if self.carriers.values().any(|served| served.carrier.meter.is_out()) {
                self.traffic = Some(now);
            }
        }
    }
}
