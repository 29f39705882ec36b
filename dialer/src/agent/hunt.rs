//! Which candidates are tried, when, and when a dial is over (routes.md 4).

mod rounds;

use std::time::{Duration, Instant};

use super::prospect::{BETTER_CAP, FIRST_PAUSE, LUXURY_CAP, Prospect, backoff};
use super::*;

/// DNS addresses are tried this far apart, in the order they are told (RFC 8305 asks for 250 ms between whole machines;
/// these are addresses of one machine that is expected nearby).
const DNS_STAGGER: Duration = Duration::from_millis(50);
/// Near addresses are tried this far apart: a handshake on a local network takes less, and several at once slow each other down, most of all
/// at a small machine's end. The next one does not wait where one fails.
pub(super) const NEAR_STAGGER: Duration = Duration::from_millis(4);
/// The machine's own signaling is reached at the address that direct links use: where those work it is not needed, and a handshake beside theirs
/// doubles what a dial costs.
const OWN_SIGNALING: Duration = Duration::from_millis(100);
/// The sources are asked again this often while hunting, and while only a better or a second link is looked for.
const SEARCH_HUNTING: Duration = Duration::from_secs(2);
const SEARCH_BETTER: Duration = Duration::from_secs(5);
const SEARCH_SECOND: Duration = Duration::from_secs(15);

/// The dial or hunt under way.
#[derive(Debug)]
pub(super) struct Hunt {
    searching: Option<Attempt>,
    /// The sources were asked, and whether their answers were conclusive.
    answered: Option<bool>,
    asked_once: bool,
    next_search: Option<Instant>,
    /// When the next DNS address may start.
    dns_next: Instant,
    /// When the next near address may start.
    near_next: Instant,
    /// Rounds of a limited dial begun, when this one ends at the latest, when the next begins.
    round: u32,
    round_ends: Option<Instant>,
    round_next: Option<Instant>,
    started: Instant,
}

impl Hunt {
    pub fn new(now: Instant) -> Self {
        Self {
            searching: None,
            answered: None,
            asked_once: false,
            next_search: None,
            dns_next: now,
            near_next: now,
            round: 1,
            round_ends: None,
            round_next: None,
            started: now,
        }
    }

    /// When a route may start.
    fn turn(&mut self, candidate: &Candidate, now: Instant) -> Instant {
        if matches!(candidate.route, Route::WebRtc(Signaler::Machine(_))) {
            return now + OWN_SIGNALING;
        }
        let (next, apart) = match candidate.origin {
            Origin::Dns => (&mut self.dns_next, DNS_STAGGER),
            Origin::Remembered | Origin::Given | Origin::Mdns | Origin::Cloud => (&mut self.near_next, NEAR_STAGGER),
        };
        let start = now.max(*next);
        *next = start + apart;
        start
    }

    pub fn over(&mut self) {
        self.round_ends = None;
        self.round_next = None;
    }
}

impl RouteAgent {
    /// A source told of a route. Known routes are not tried twice; a better origin or tier is noted.
    pub fn handle_candidate(&mut self, candidate: Candidate, now: Instant) {
        self.advance(now);
        if self.phase != Phase::Over {
            self.meet(candidate, now);
        }
        self.settle(now);
    }

    /// The sources have told all they know. `conclusive`: every one of them could be asked, so that silence means that
    /// nobody knows the machine.
    pub fn handle_sources_done(&mut self, of: Attempt, conclusive: bool, now: Instant) {
        self.advance(now);
        if self.hunt.searching == Some(of) {
            self.hunt.searching = None;
            self.hunt.answered = Some(conclusive);
            self.hunt.asked_once = true;
            let pause = match self.primary.and_then(|primary| self.lines.get(&primary)).map(|line| line.facts.tier) {
                None => SEARCH_HUNTING,
                Some(Tier::LanDirect) => SEARCH_SECOND,
                Some(_) => SEARCH_BETTER,
            };
            self.hunt.next_search = Some(now + self.jittered(pause));
            if self.limited() && conclusive && self.prospects.is_empty() {
                self.end(Verdict::Unknown);
            }
        }
        self.settle(now);
    }

    fn meet(&mut self, candidate: Candidate, now: Instant) {
        let limited = self.limited();
        if let Some(known) = self.prospects.get_mut(&candidate.route) {
            known.candidate.tier = candidate.tier;
            // What was heard just now is worth an attempt just now, unless one is out.
            let fresh = candidate.origin == Origin::Mdns && !limited;
            if candidate.origin < known.candidate.origin {
                known.candidate.origin = candidate.origin;
            }
            let soon = now + FIRST_PAUSE;
            if fresh && !known.refused && known.next.is_none_or(|next| next > soon) {
                known.next = Some(soon);
            }
            return;
        }
        if self.prospects.len() >= MAX_CANDIDATES && !self.forget_worst_prospect() {
            return;
        }
        let start = self.hunt.turn(&candidate, now);
        let prospect = Prospect {
            candidate: candidate.clone(),
            banned: None,
            refused: false,
            unknown: false,
            failures: 0,
            next: Some(start),
            patient: None,
            eager: None,
            deaths: 0,
            tried: false,
            proven: false,
        };
        self.prospects.insert(candidate.route, prospect);
    }

    fn forget_worst_prospect(&mut self) -> bool {
        let in_use = |route: &Route| self.lines.values().any(|line| line.route == *route);
        let worst = self
            .prospects
            .iter()
            .filter(|(route, prospect)| {
                prospect.failures > 0 && !prospect.refused && prospect.patient.is_none() && !in_use(route)
            })
            .max_by_key(|(_, prospect)| (prospect.candidate.origin, prospect.failures))
            .map(|(route, _)| route.clone());
        worst.is_some_and(|route| self.prospects.remove(&route).is_some())
    }

    /// Whether this is a first dial with a limited number of rounds.
    fn limited(&self) -> bool {
        self.phase == Phase::Dialing && self.policy.initial_attempts > 0
    }

    /// Asks the sources, unless they are being asked.
    pub(super) fn search(&mut self) {
        if self.hunt.searching.is_none() {
            let attempt = self.attempt();
            self.hunt.searching = Some(attempt);
            self.hunt.next_search = None;
            self.outputs.push_back(Output::Search { attempt });
        }
    }

    /// The primary is gone with nothing to replace it: everything is tried at once.
    pub(super) fn lost_primary(&mut self, now: Instant) {
        let other = self.lines.values().any(|line| line.role == Role::Open && line.health != Health::Dead);
        if other || self.phase == Phase::Over {
            return;
        }
        if !self.policy.reconnect {
            if self.muted.is_none() {
                self.phase = Phase::Over;
                self.cancel_all();
            }
            return;
        }
        self.tell(Event::Hunting);
        (self.hunt.dns_next, self.hunt.near_next) = (now, now);
        self.stagger(now);
        self.search();
    }

    /// A link event: what failed before may work now, at once. A verdict of the machine may have been another machine's.
    pub(super) fn renew_prospects(&mut self, now: Instant) {
        if self.phase == Phase::Over {
            return;
        }
        if self.phase == Phase::Connected {
            self.prospects.values_mut().for_each(|prospect| prospect.refused = false);
        }
        self.stagger(now);
        let best = self.primary.and_then(|primary| self.lines.get(&primary)).map(|line| line.facts.tier);
        if best != Some(Tier::LanDirect) || (self.standby_wanted() && self.standby.is_none()) {
            self.search();
        }
    }

    fn stagger(&mut self, now: Instant) {
        let limited = self.limited();
        let mut ranked: Vec<&mut Prospect> = self.prospects.values_mut().collect();
        ranked.sort_by_key(|prospect| (prospect.candidate.tier, prospect.candidate.origin));
        for prospect in ranked {
            prospect.failures = 0;
            if limited && prospect.tried {
                continue;
            }
            prospect.next = Some(self.hunt.turn(&prospect.candidate, now));
        }
    }

    /// Whether a link over this route would be of use now.
    fn desired(&self, route: &Route, prospect: &Prospect) -> bool {
        let given_up = self.phase == Phase::Connected && !self.policy.reconnect;
        if self.phase == Phase::Over || given_up || prospect.refused || prospect.banned.is_some() {
            return false;
        }
        // A machine that is being lost may be made known again; for a dial the service's word is enough.
        if prospect.unknown && self.limited() {
            return false;
        }
        // One link per route, save for one that is on its way out or does not answer, and beside a lone one that answers late.
        let spare = self.spare_wanted(route);
        let busy = |line: &Line| line.route == *route && line.role == Role::Open && line.health == Health::Good;
        if self.lines.iter().any(|(link, line)| busy(line) && !(spare && self.primary == Some(*link))) {
            return false;
        }
        let Some(primary) = self.primary.and_then(|primary| self.lines.get(&primary)) else { return true };
        let both_silent = primary.health != Health::Good
            && self.standby.and_then(|standby| self.lines.get(&standby)).is_none_or(|line| line.health != Health::Good);
        if primary.route == *route {
            return spare;
        }
        let leaving = self.lines.values().any(|line| line.route == *route && line.role != Role::Open);
        let better = prospect.candidate.tier < primary.facts.tier && !leaving;
        // One over the primary's own route stands by for want of a better one.
        let standby = self.standby.and_then(|standby| self.lines.get(&standby));
        let makeshift = standby.is_none_or(|standby| standby.route == primary.route);
        better || both_silent || (self.standby_wanted() && makeshift && !leaving)
    }

    /// Whether a second link over the primary's own route is wanted: it is alone, and has answered late. What one TCP connection has lost holds up
    /// that one only.
    fn spare_wanted(&self, route: &Route) -> bool {
        let primary = self.primary.and_then(|primary| self.lines.get(&primary));
        let late = primary.is_some_and(|primary| primary.lagged && primary.route == *route);
        late && self.standby_wanted() && self.standby.is_none()
    }

    /// The first dial is over: what had to wait for its next round waits no more.
    pub(super) fn free_prospects(&mut self) {
        let since = self.hunt.started;
        for prospect in self.prospects.values_mut().filter(|prospect| !prospect.refused) {
            prospect.next.get_or_insert(since);
        }
    }

    /// Starts and cancels attempts.
    pub(super) fn pursue(&mut self, now: Instant) {
        let routes: Vec<Route> = self.prospects.keys().cloned().collect();
        for route in routes {
            let Some(prospect) = self.prospects.get(&route) else { continue };
            if !self.desired(&route, prospect) {
                self.cancel(&route);
            } else if prospect.next.is_some_and(|next| next <= now) && self.hunt.round_next.is_none() {
                self.launch(&route, now);
            }
        }
        if self.limited() && self.hunt.round_ends.is_none() && self.hunt.round_next.is_none() {
            self.hunt.round_ends = Some(self.hunt.started + self.policy.dial_timeout);
        }
        self.end_round_early(now);
    }

    /// The longest wait between two attempts. A better route that was told is taken within a second of working.
    fn retry_cap(&self, prospect: &Prospect) -> Duration {
        match self.primary.and_then(|primary| self.lines.get(&primary)) {
            Some(primary) if prospect.candidate.tier < primary.facts.tier => BETTER_CAP,
            Some(_) => LUXURY_CAP,
            None if self.policy.reconnect_pause.is_some() && self.phase == Phase::Connected => {
                self.policy.reconnect_pause.unwrap_or_default().max(LEAST_PAUSE)
            }
            None if prospect.proven => BETTER_CAP,
            None => prospect.candidate.origin.retry_cap(),
        }
    }

    fn launch(&mut self, route: &Route, now: Instant) {
        let limited = self.limited();
        let attempt = self.attempt();
        let Some(cap) = self.prospects.get(route).map(|prospect| self.retry_cap(prospect)) else { return };
        let pause = self.jittered(cap);
        let Some(prospect) = self.prospects.get_mut(route) else { return };
        prospect.next = (!limited).then(|| now + pause);
        if prospect.patient.is_none() {
            prospect.patient = Some((attempt, now));
        } else if let Some((old, _)) = prospect.eager.replace((attempt, now)) {
            self.outputs.push_back(Output::Cancel { attempt: old });
        }
        self.outputs.push_back(Output::Connect { attempt, route: route.clone() });
    }

    fn cancel(&mut self, route: &Route) {
        let Some(prospect) = self.prospects.get_mut(route) else { return };
        for (attempt, started) in [prospect.patient.take(), prospect.eager.take()].into_iter().flatten() {
            // It was not wanted any more: that is no failure, and it may be wanted again at once.
            prospect.next = Some(prospect.next.map_or(started, |next| next.min(started)));
            self.outputs.push_back(Output::Cancel { attempt });
        }
    }

    fn cancel_all(&mut self) {
        let routes: Vec<Route> = self.prospects.keys().cloned().collect();
        routes.iter().for_each(|route| self.cancel(route));
        self.hunt.over();
        self.hunt.next_search = None;
    }

    /// The route of a pending attempt, which is pending no more; its twin is cancelled when it won.
    pub(super) fn take_attempt(&mut self, of: Attempt) -> Option<Route> {
        self.prospects.iter_mut().find_map(|(route, prospect)| {
            for place in [&mut prospect.patient, &mut prospect.eager] {
                if place.is_some_and(|(attempt, _)| attempt == of) {
                    *place = None;
                    return Some(route.clone());
                }
            }
            None
        })
    }

    pub(super) fn attempt_failed(&mut self, route: &Route, why: Failure, now: Instant) {
        let limited = self.limited();
        let Some(cap) = self.prospects.get(route).map(|prospect| self.retry_cap(prospect)) else { return };
        let Some(prospect) = self.prospects.get_mut(route) else { return };
        // A service speaks for itself, and the other routes do not go by it.
        let (refused, unknown) =
            (why.verdict && why.stage != Stage::Signaling, why.verdict && why.stage == Stage::Signaling);
        prospect.failures = prospect.failures.saturating_add(1);
        prospect.tried = true;
        prospect.refused |= refused;
        prospect.unknown = unknown;
        let pause = backoff(prospect.failures - 1, cap);
        let pause = self.jittered(pause);
        if let Some(prospect) = self.prospects.get_mut(route) {
            let next = now + pause;
            prospect.next = (!limited && !refused).then(|| prospect.next.map_or(next, |planned| planned.min(next)));
        }
        self.hurry(route, now);
        if refused {
            let verdict = Verdict::Refused { route: route.clone(), message: why.message };
            // The machine itself has spoken (TLS proved its name): the first dial ends. Later, other routes and a link
            // event may still lead to a machine that accepts.
            if self.phase == Phase::Dialing { self.end(verdict) } else { self.tell(Event::Verdict(verdict)) }
        }
    }

    /// An address failed: the next one of its kind does not wait for its turn (RFC 8305 section 5).
    fn hurry(&mut self, failed: &Route, now: Instant) {
        let Some(dns) = self.prospects.get(failed).map(|failed| failed.candidate.origin == Origin::Dns) else { return };
        let untried = |prospect: &&mut Prospect| {
            (prospect.candidate.origin == Origin::Dns) == dns && prospect.failures == 0 && prospect.next > Some(now)
        };
        let waiting: Vec<&mut Prospect> = self.prospects.values_mut().filter(untried).collect();
        let early = waiting.iter().filter_map(|prospect| prospect.next).min().map(|first| first - now);
        for prospect in waiting {
            prospect.next = prospect.next.zip(early).map(|(next, early)| next - early);
        }
        let next = if dns { &mut self.hunt.dns_next } else { &mut self.hunt.near_next };
        *next = early.map_or(now, |early| (*next).max(now + early) - early);
    }

    fn wants_search(&self) -> bool {
        let Some(primary) = self.primary.and_then(|primary| self.lines.get(&primary)) else { return !self.limited() };
        self.policy.reconnect
            && (primary.facts.tier != Tier::LanDirect || (self.standby_wanted() && self.standby.is_none()))
    }

    /// A machine that appears on the local network says so: whoever is on a worse route, or on none, hears of it at once.
    /// Not before the sources were asked once: most dials are over by then.
    pub(super) fn choose_listening(&mut self) {
        let best = self.primary.and_then(|primary| self.lines.get(&primary)).map(|line| line.facts.tier);
        let given_up = self.phase == Phase::Over || (self.phase == Phase::Connected && !self.policy.reconnect);
        let wanted = !given_up && self.hunt.asked_once && best != Some(Tier::LanDirect);
        if wanted != self.listening {
            self.listening = wanted;
            self.outputs.push_back(Output::Listen { on: wanted });
        }
    }

    pub(super) fn hunt_deadlines(&self, each: &mut dyn FnMut(Instant, Timer)) {
        if self.phase == Phase::Over {
            return;
        }
        for (route, prospect) in &self.prospects {
            if let Some(until) = prospect.banned {
                each(until, Timer::Retry);
            }
            for (_, started) in [prospect.patient, prospect.eager].into_iter().flatten() {
                each(started + self.policy.dial_timeout, Timer::Retry);
            }
            if let Some(next) = prospect.next
                && self.hunt.round_next.is_none()
                && self.desired(route, prospect)
            {
                each(next, if prospect.failures == 0 { Timer::Start } else { Timer::Retry });
            }
        }
        if self.limited() {
            self.hunt.round_ends.iter().chain(&self.hunt.round_next).for_each(|at| each(*at, Timer::Retry));
        }
        if let Some(next) = self.hunt.next_search
            && self.wants_search()
        {
            each(next, Timer::Start);
        }
    }

    pub(super) fn hunt_due(&mut self, now: Instant) {
        if self.phase == Phase::Over {
            return;
        }
        let timeout = self.policy.dial_timeout;
        let mut late = Vec::new();
        for (route, prospect) in &mut self.prospects {
            prospect.banned = prospect.banned.filter(|until| *until > now);
            for place in [&mut prospect.patient, &mut prospect.eager] {
                if let Some((attempt, started)) = *place
                    && started + timeout <= now
                {
                    *place = None;
                    late.push((route.clone(), attempt));
                }
            }
        }
        for (route, attempt) in late {
            self.outputs.push_back(Output::Cancel { attempt });
            let message = format!("no answer within {timeout:?}");
            self.attempt_failed(&route, Failure { stage: Stage::Tcp, verdict: false, message }, now);
        }
        if self.limited() {
            if self.hunt.round_ends.is_some_and(|at| at <= now) {
                // A link that waits for its validation is no failure.
                if self.lines.is_empty() { self.end_round(now) } else { self.hunt.round_ends = Some(now + timeout) }
            }
            if self.hunt.round_next.is_some_and(|at| at <= now) {
                self.next_round(now);
            }
        }
        if self.hunt.next_search.is_some_and(|at| at <= now) && self.wants_search() {
            self.search();
        }
    }

    /// The attempt has won: its twin is dropped.
    pub(super) fn won(&mut self, link: LinkId, now: Instant) {
        if let Some(route) = self.lines.get(&link).map(|line| line.route.clone()) {
            self.cancel(&route);
        }
        // The handshake is a sign of life: while the primary is silent, of the kind that tells.
        self.life(link, Sign::Reply, now);
    }
}
