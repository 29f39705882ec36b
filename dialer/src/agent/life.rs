//! Signs of life, probes, and the ladder silent, suspect, dead (routes.md 2).

use std::time::{Duration, Instant};

use super::line::PROBES_TO_DEATH;
use super::*;

/// The pace of probes on a silent link, and on the primary while controlling with a standby.
const BRISK: Duration = Duration::from_millis(100);
/// The pace of probes on a dead link that may answer again.
const REDEEMING: Duration = Duration::from_millis(500);
/// Probes remembered per link; older ones are beyond judging.
const PROBES_KEPT: usize = 8;
/// A validation that was not answered is asked again.
const VALIDATION: Duration = Duration::from_secs(1);

/// Calls on a link that answers nothing and that nothing replaced are decided this long after it was given up: twice the
/// flap of a second that must cost nothing (s68).
const UNDECIDED: Duration = Duration::from_secs(2);

impl RouteAgent {
    /// A call or beat left on the link. Need not be told again before the next sign of life.
    pub fn handle_sent(&mut self, link: LinkId, now: Instant) {
        self.advance(now);
        if let Some(line) = self.lines.get_mut(&link)
            && line.health != Health::Dead
            && !line.leaving()
        {
            line.asked(now);
        }
        self.settle(now);
    }

    /// An answer came.
    pub fn handle_life(&mut self, link: LinkId, sign: Sign, now: Instant) {
        self.advance(now);
        self.life(link, sign, now);
        self.settle(now);
    }

    /// WebRTC: whether data stays unacknowledged, for the longer of 150 ms and three round trips by now, while the path answers.
    pub fn handle_stalled(&mut self, link: LinkId, stalled: bool, now: Instant) {
        self.advance(now);
        if let Some(line) = self.lines.get_mut(&link)
            && line.facts.tier.is_webrtc()
        {
            let since = now.checked_sub(line.stalls(line)).unwrap_or(now);
            line.stuck = stalled.then(|| line.stuck.unwrap_or(since));
            self.unstall(link, now);
        }
        self.settle(now);
    }

    /// What was stuck moves again.
    fn unstall(&mut self, link: LinkId, now: Instant) {
        let Some(line) = self.lines.get_mut(&link) else { return };
        let late = line.owing().is_some_and(|since| since + line.stalls(line) / 2 <= now);
        if !late && std::mem::take(&mut line.stalled) {
            self.tell(Event::Alive { link });
        }
    }

    /// A probe was answered, after `rtt`.
    pub fn handle_probe(&mut self, of: Attempt, rtt: Duration, now: Instant) {
        self.advance(now);
        let asked = self.lines.iter().find_map(|(link, line)| {
            line.probes.iter().position(|(attempt, _)| *attempt == of).map(|position| (*link, position))
        });
        if let Some((link, position)) = asked {
            if let Some(line) = self.lines.get_mut(&link) {
                line.proved(position, rtt);
            }
            // Where checks are probes they prove the path, and nothing about data on it.
            let webrtc = self.lines.get(&link).is_some_and(|line| line.facts.tier.is_webrtc());
            self.life(link, if webrtc { Sign::Stun } else { Sign::Reply }, now);
        }
        self.settle(now);
    }

    /// The outcome of a session's beat on this link. An unanswered one makes silent, three make dead if the standby
    /// answered one meanwhile.
    pub fn handle_beat(&mut self, link: LinkId, answered: bool, now: Instant) {
        self.advance(now);
        if answered {
            if let Some(line) = self.lines.get_mut(&link) {
                line.beats = (0, None);
                line.last_beat = Some(now);
            }
            self.life(link, Sign::Reply, now);
        } else if let Some(line) = self.lines.get_mut(&link) {
            line.beats = (line.beats.0.saturating_add(1), Some(line.beats.1.unwrap_or(now)));
            if line.health == Health::Good && !line.leaving() {
                line.asked(now.checked_sub(line.patience()).unwrap_or(now));
                self.turn_silent(link, now);
            }
        }
        self.judge_beats(now);
        self.settle(now);
    }

    fn judge_beats(&mut self, now: Instant) {
        let (Some(primary), Some(standby)) = (self.primary, self.standby()) else { return };
        let Some((missed, Some(first))) = self.lines.get(&primary).map(|line| line.beats) else { return };
        let answered = self.lines.get(&standby).and_then(|line| line.last_beat).is_some_and(|at| at >= first);
        if missed >= PROBES_TO_DEATH && answered {
            self.bury(primary, now);
        }
    }

    pub(super) fn life(&mut self, link: LinkId, sign: Sign, now: Instant) {
        let Some(line) = self.lines.get_mut(&link) else { return };
        let ladder = matches!(line.health, Health::Silent | Health::Suspect);
        line.alive(now);
        if sign != Sign::Stun {
            line.stuck = None;
        }
        self.unstall(link, now);
        let Some(line) = self.lines.get_mut(&link) else { return };
        if sign == Sign::Reply || sign == Sign::Refused {
            line.beats = (0, None);
        }
        match line.health {
            Health::Good => {}
            Health::Silent | Health::Suspect => line.health = Health::Good,
            Health::Dead if self.muted == Some(link) => {
                line.health = Health::Good;
                self.muted = None;
                self.undecided = None;
                self.tell(Event::Alive { link });
            }
            Health::Dead => {
                line.answering.get_or_insert(now);
            }
        }
        if ladder {
            self.tell(Event::Alive { link });
        }
        // The standby answering while the primary does not is what tells a dead path from a slow machine.
        if self.standby == Some(link)
            && let Some(primary) = self.primary
            && let Some(line) = self.lines.get_mut(&primary)
            && line.health == Health::Silent
        {
            line.contrast.get_or_insert(now);
        }
    }

    /// Sends a probe.
    pub(super) fn probe(&mut self, link: LinkId, now: Instant) {
        if !self.policy.probe {
            return;
        }
        let attempt = self.attempt();
        let Some(line) = self.lines.get_mut(&link) else { return };
        line.probed = now;
        line.asked(now);
        if line.probes.len() == PROBES_KEPT {
            // Keeps the three that decide and the newest.
            line.probes.remove(PROBES_TO_DEATH);
        }
        line.probes.push_back((attempt, now));
        self.outputs.push_back(Output::Probe { attempt, link });
    }

    /// The process stood still, or the computer slept: what is unanswered proves nothing.
    pub(super) fn restart_probes(&mut self) {
        for line in self.lines.values_mut() {
            line.waiting = None;
            line.contrast = None;
            line.probes.clear();
            line.answering = None;
            if matches!(line.health, Health::Silent | Health::Suspect) {
                line.health = Health::Good;
            }
            // Due at once.
            line.probed = line.since;
            line.last_life = line.since;
        }
    }

    fn turn_silent(&mut self, link: LinkId, now: Instant) {
        let Some(line) = self.lines.get_mut(&link) else { return };
        line.health = Health::Silent;
        line.contrast = None;
        self.tell(Event::Silent { link });
        self.probe(link, now);
        if self.primary == Some(link)
            && let Some(standby) = self.standby
        {
            self.probe(standby, now);
        }
    }

    pub(super) fn pace(&self, link: LinkId, line: &Line) -> Duration {
        let idle = if line.facts.tier.is_webrtc() { self.policy.idle_probe / 3 } else { self.policy.idle_probe };
        let idle = idle.max(LEAST_PAUSE);
        match line.health {
            Health::Silent | Health::Suspect => BRISK.max(line.patience()),
            Health::Dead if self.muted == Some(link) => BRISK.max(line.patience()),
            Health::Dead => REDEEMING.max(line.patience()),
            Health::Good => {
                let controlling = matches!(self.held, Held::Session { .. });
                let brisk = controlling && self.primary == Some(link) && self.standby.is_some();
                // While the primary is silent the standby's answers are what decides.
                let witness = self.standby == Some(link)
                    && self
                        .primary
                        .and_then(|primary| self.lines.get(&primary))
                        .is_some_and(|primary| primary.health != Health::Good);
                if brisk || witness { BRISK } else { idle }
            }
        }
    }

    fn probe_at(&self, link: LinkId, line: &Line) -> Option<Instant> {
        if !self.policy.probe || line.leaving() {
            return None;
        }
        let pace = self.pace(link, line);
        // Answers to calls say nothing about what else waits behind them in a TCP connection, so they replace no probe there.
        let counted = line.health == Health::Good && (pace != BRISK || line.facts.tier.is_webrtc());
        let quiet = if counted { line.probed.max(line.last_life) } else { line.probed };
        // What the primary owes is asked of the standby too.
        let owing = self.primary.filter(|_| self.standby == Some(link)).and_then(|primary| self.lines.get(&primary));
        let compared = owing.and_then(|primary| Some(primary.owing()? + primary.patience()));
        let at = quiet + pace;
        Some(compared.map_or(at, |compared| at.min(compared.max(line.probed + BRISK))))
    }

    fn answers(&self, link: LinkId) -> bool {
        self.lines.get(&link).is_some_and(|line| line.health == Health::Good)
    }

    /// When the link is given up: of primary and standby one only while the other answers. Both silent demote nobody.
    fn given_up_at(&self, link: LinkId, line: &Line) -> Option<Instant> {
        if self.primary == Some(link)
            && let Some(standby) = self.standby
            && (line.contrast.is_none() || !self.answers(standby))
        {
            return None;
        }
        let late = |primary: LinkId| self.lines.get(&primary).is_some_and(|primary| primary.stalled);
        if self.standby == Some(link) && self.primary.is_some_and(|primary| !self.answers(primary) || late(primary)) {
            return None;
        }
        // The newest round trip tells before the smoothed one does; where there are two links, that of the quicker one. And an answer that took the
        // standby long says nothing against a primary that has been silent for less.
        let standby = self.standby.filter(|_| self.primary == Some(link)).and_then(|standby| self.lines.get(&standby));
        let long = match standby {
            _ if self.primary != Some(link) => Duration::ZERO,
            None => line.newest(),
            Some(standby) => line.newest().min(standby.newest()),
        };
        let dead = line.dead_at(long)?.max(line.waiting? + standby.map_or(Duration::ZERO, Line::fair));
        // Nothing waits for a link that carries nothing: it gets more time.
        Some(if self.primary == Some(link) { dead } else { dead + line.deadly() * 2 })
    }

    pub(super) fn redeem_at(&self, link: LinkId, line: &Line) -> Option<Instant> {
        let since = line.answering.filter(|_| line.health == Health::Dead && self.muted != Some(link))?;
        Some(since + self.prospects.get(&line.route).map_or(Duration::ZERO, |prospect| prospect.penance()))
    }

    pub(super) fn life_deadlines(&self, each: &mut dyn FnMut(Instant, Timer)) {
        if let (Some(_), Some(at)) = (self.muted, self.undecided) {
            each(at, Timer::Dead);
        }
        for (link, line) in &self.lines {
            if let Role::Leaving { until, .. } = line.role {
                each(until, Timer::Drain);
            }
            if line.leaving() {
                continue;
            }
            let mut perhaps = |at: Option<Instant>, timer| {
                if let Some(at) = at {
                    each(at, timer);
                }
            };
            perhaps(self.probe_at(*link, line), Timer::Probe);
            if self.policy.probe {
                perhaps(line.silent_at(), Timer::Silent);
                perhaps(line.suspect_at().filter(|_| self.primary == Some(*link)), Timer::Suspect);
                perhaps(self.given_up_at(*link, line), Timer::Dead);
                perhaps(self.lagging_at(*link, line), Timer::Silent);
                perhaps(self.stalled_at(*link, line), Timer::Suspect);
                perhaps(self.outrun_at(*link, line), Timer::Dead);
                perhaps(self.redeem_at(*link, line), Timer::Redeem);
                perhaps(self.faltered_at(line), Timer::Redeem);
            }
            perhaps(line.trial, Timer::Redeem);
            if let Validation::Asked(at) = line.validation {
                each(at + VALIDATION, Timer::Validate);
            }
        }
    }

    /// A dead link that had begun to answer and stops again starts its penance anew.
    fn faltered_at(&self, line: &Line) -> Option<Instant> {
        line.waiting
            .filter(|_| line.health == Health::Dead && line.answering.is_some())
            .map(|sent| sent + line.patience())
    }

    pub(super) fn life_due(&mut self, now: Instant) {
        if let Some(link) = self.muted
            && self.undecided.is_some_and(|at| at <= now)
        {
            self.undecided = None;
            self.outputs.push_back(Output::Decide { link });
        }
        let links: Vec<LinkId> = self.lines.keys().copied().collect();
        for link in links {
            self.line_due(link, now);
        }
    }

    fn line_due(&mut self, link: LinkId, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let Some(line) = self.lines.get(&link) else { return };
        if let Role::Leaving { until, .. } = line.role
            && until <= now
        {
            self.outputs.push_back(Output::Abort { link });
            return self.remove(link);
        }
        if line.leaving() {
            return;
        }
        if self.policy.probe {
            if due(line.silent_at()) {
                self.turn_silent(link, now);
            }
            let Some(line) = self.lines.get(&link) else { return };
            if self.primary == Some(link) && due(line.suspect_at()) {
                self.turn_suspect(link);
            }
            let Some(line) = self.lines.get(&link) else { return };
            if due(self.given_up_at(link, line)) {
                self.bury(link, now);
            }
            self.lag_due(link, now);
            let Some(line) = self.lines.get(&link) else { return };
            let (faltered, redeemed) = (due(self.faltered_at(line)), due(self.redeem_at(link, line)));
            let probe = due(self.probe_at(link, line));
            if let Some(line) = self.lines.get_mut(&link) {
                if faltered {
                    line.answering = None;
                } else if redeemed {
                    line.health = Health::Good;
                    line.answering = None;
                    line.role = Role::Open;
                    self.tell(Event::Alive { link });
                }
            }
            if probe {
                self.probe(link, now);
            }
        }
        if let Some(line) = self.lines.get_mut(&link) {
            line.trial = line.trial.filter(|until| *until > now);
        }
        if let Some(line) = self.lines.get_mut(&link)
            && let Validation::Asked(at) = line.validation
            && at + VALIDATION <= now
        {
            line.validation = Validation::Unasked;
        }
    }

    /// Safety.md 6: an unanswered monitored call must not act after the first one on a new link.
    pub(super) fn owes_a_stock_machine(&self) -> bool {
        let unanswered = matches!(self.held, Held::Session { monitored_out, .. } if monitored_out > 0);
        self.peer == Peer::Stock && unanswered
    }

    fn turn_suspect(&mut self, link: LinkId) {
        let Some(line) = self.lines.get_mut(&link) else { return };
        line.health = Health::Suspect;
        let webrtc = line.facts.tier.is_webrtc();
        self.tell(Event::Suspect { link });
        if webrtc {
            self.outputs.push_back(Output::MovePair { link });
        }
    }

    /// Gives a link up as a path. It is kept: if it answers again for long enough it may serve again.
    pub(super) fn bury(&mut self, link: LinkId, now: Instant) {
        let standby = self.standby().filter(|standby| *standby != link && self.answers(*standby));
        let was_primary = self.primary == Some(link);
        let Some(line) = self.lines.get_mut(&link) else { return };
        line.health = Health::Dead;
        line.answering = None;
        line.stalled = false;
        line.beats = (0, None);
        let webrtc = line.facts.tier.is_webrtc();
        let lone = was_primary && standby.is_none();
        if !lone && let Some(prospect) = self.prospects.get_mut(&line.route) {
            prospect.died();
        }
        self.tell(Event::Dead { link });
        if webrtc {
            // One that is alone was never suspect, so nobody has moved it yet. Restarting ICE beside that would change the words by which the checks of
            // the move are known.
            let order = if lone { Output::MovePair { link } } else { Output::RestartIce { link } };
            self.outputs.push_back(order);
        }
        match standby {
            Some(next) if was_primary => {
                if self.owes_a_stock_machine() {
                    self.outputs.push_back(Output::Abort { link });
                    self.remove(link);
                    self.use_link(next);
                } else {
                    self.use_link(next);
                    self.drain(link, now + REDEMPTION_LIMIT, Demotion::Dead);
                }
            }
            None if was_primary => {
                // Nothing alive is thrown away: the link stays, but nothing new is sent on it.
                self.end_hedge();
                self.primary = None;
                self.muted = Some(link);
                self.undecided = Some(now + UNDECIDED);
                self.lost_primary(now);
            }
            _ => self.drain(link, now + REDEMPTION_LIMIT, Demotion::Dead),
        }
    }

    /// The local address under a link is gone. With another link the swap is at once; otherwise it is asked.
    pub(super) fn address_lost(&mut self, link: LinkId, now: Instant) {
        let other = self.lines.iter().any(|(other, line)| {
            *other != link && line.role == Role::Open && line.health == Health::Good && self.valid(line)
        });
        let dead = self.lines.get(&link).is_none_or(|line| line.health == Health::Dead || line.leaving());
        if dead || !other {
            return;
        }
        if self.primary == Some(link) && self.standby().is_none() {
            self.standby = None;
            self.choose_standby(now);
        }
        self.bury(link, now);
    }
}
