//! The second link: whether one is wanted, which, whether it is proven, and when calls are copied to it (routes.md 3, 5).

use std::time::{Duration, Instant};

use super::*;

/// How long a route that led to a foreign owner or another process is left alone while another link lives.
const FOREIGN_BAN: Duration = Duration::from_secs(60);

/// What a client that holds nothing goes by: processes that name themselves are told apart, others are not.
fn same_process(a: Option<u128>, b: Option<u128>) -> bool {
    a.zip(b).is_none_or(|(a, b)| a == b)
}

impl RouteAgent {
    pub(super) fn standby_wanted(&self) -> bool {
        match self.policy.standby {
            StandbyPolicy::Always => true,
            StandbyPolicy::WhileControlling => matches!(self.held, Held::Session { .. }),
            StandbyPolicy::Never => false,
        }
    }

    /// Whether the standby would carry calls this instant.
    pub(super) fn ready(&self, link: LinkId) -> bool {
        self.lines
            .get(&link)
            .is_some_and(|line| line.role == Role::Open && line.health != Health::Dead && self.valid(line))
    }

    pub(super) fn choose_standby(&mut self, now: Instant) {
        let wanted = self.standby_wanted();
        let chosen = self.primary.filter(|_| wanted).and_then(|primary| self.best_standby(primary, now));
        self.standby = chosen;
        let told = self.standby();
        if told != self.told_standby {
            self.told_standby = told;
            self.tell(Event::Standby { link: told });
        }
    }

    fn best_standby(&self, primary: LinkId, now: Instant) -> Option<LinkId> {
        let (facts, boot) = self.lines.get(&primary).map(|line| (line.facts, line.boot))?;
        let relayed = self.policy.relayed_standby || self.is_last_way(primary, now);
        let rank = |link: LinkId, line: &Line| {
            // Round trips wander, and every way is silent at times: between equals the one that is standby already stays.
            let (silent, rtt) = match self.standby == Some(link) {
                true => (line.waiting.is_some_and(|since| since + line.deadly() <= now), Duration::ZERO),
                false => (line.health != Health::Good, line.rtt),
            };
            rank::as_standby(&facts, link, &line.facts, rtt, !self.valid(line), silent)
        };
        self.lines
            .iter()
            .filter(|(link, line)| {
                **link != primary
                    && line.role == Role::Open
                    && line.health != Health::Dead
                    && line.validation != Validation::Foreign
                    && same_process(line.boot, boot)
                    && (relayed || line.facts.tier != Tier::WebRtcRelayed)
            })
            .min_by_key(|(link, line)| rank(**link, line))
            .map(|(link, _)| *link)
    }

    /// Whether the primary and every link that is not relayed have been silent for as long as a dead one is: then a relayed link is no luxury, but the only
    /// one that can tell which of them is dead, and take over.
    fn is_last_way(&self, primary: LinkId, now: Instant) -> bool {
        self.lines
            .iter()
            .filter(|(link, line)| **link == primary || line.facts.tier != Tier::WebRtcRelayed)
            .filter(|(_, line)| line.role == Role::Open && line.health != Health::Dead)
            .all(|(_, line)| line.waiting.is_some_and(|since| since + line.deadly() <= now))
    }

    /// While something is held, every link is asked by the session's beat before it may be used; a foreign one is let go
    /// while another lives.
    pub(super) fn validate_links(&mut self, now: Instant) {
        if self.held == Held::Nothing {
            return;
        }
        let asking: Vec<LinkId> = self
            .lines
            .iter()
            .filter(|(_, line)| {
                line.role == Role::Open && line.health != Health::Dead && line.validation == Validation::Unasked
            })
            .map(|(link, _)| *link)
            .collect();
        for link in asking {
            if let Some(line) = self.lines.get_mut(&link) {
                line.validation = Validation::Asked(now);
                self.outputs.push_back(Output::Validate { link });
            }
        }
        let foreign: Vec<LinkId> = self
            .lines
            .iter()
            .filter(|(_, line)| line.validation == Validation::Foreign && line.role == Role::Open)
            .map(|(link, _)| *link)
            .collect();
        for link in foreign {
            let another = self.lines.iter().any(|(other, line)| {
                *other != link && line.role == Role::Open && line.health == Health::Good && self.valid(line)
            });
            if another {
                if let Some(prospect) = self.lines.get(&link).and_then(|line| self.prospects.get_mut(&line.route)) {
                    prospect.banned = Some(now + FOREIGN_BAN);
                }
                self.outputs.push_back(Output::Abort { link });
                self.remove(link);
            }
        }
    }

    /// Copies of calls go to the standby only while the primary is suspect or stalled and the standby answers.
    pub(super) fn choose_hedge(&mut self) {
        let wanted = self.primary.zip(self.standby()).filter(|(primary, standby)| {
            let health = |link: &LinkId| self.lines.get(link).map(|line| (line.health, line.stalled));
            // A standby that has answered is not left at its first lost packet.
            let goes_on = self.hedge == Some((*primary, *standby));
            health(primary).is_some_and(|(health, stalled)| health == Health::Suspect || stalled)
                && health(standby).is_some_and(|(health, stalled)| goes_on || (health == Health::Good && !stalled))
        });
        if wanted == self.hedge {
            return;
        }
        self.end_hedge();
        if let Some((from, on)) = wanted {
            self.hedge = wanted;
            self.outputs.push_back(Output::Hedge { from, on });
        }
    }

    pub(super) fn end_hedge(&mut self) {
        if self.hedge.take().is_some() {
            self.outputs.push_back(Output::HedgeOff);
        }
    }

    /// Links that are neither used, nor warm, nor on their way to either, are closed.
    pub(super) fn dismiss_links(&mut self, now: Instant) {
        let Some(primary) = self.primary else { return };
        let Some(tier) = self.lines.get(&primary).map(|line| line.facts.tier) else { return };
        let tier_of = |link: LinkId| self.lines.get(&link).map(|line| line.facts.tier);
        // A relayed one that stands by because the others are silent does not replace them: one of them may answer again.
        let stopgap = !self.policy.relayed_standby && self.standby.and_then(tier_of) == Some(Tier::WebRtcRelayed);
        let idle: Vec<LinkId> = self
            .lines
            .iter()
            .filter(|(link, line)| {
                let needed = **link == primary || self.standby == Some(**link);
                let hoped_for = stopgap && line.facts.tier != Tier::WebRtcRelayed;
                let better = (line.facts.tier < tier || hoped_for) && line.validation != Validation::Foreign;
                line.role == Role::Open && line.health != Health::Dead && !needed && !better
            })
            .map(|(link, _)| *link)
            .collect();
        for link in idle {
            let candidate = self.standby_wanted()
                && self.lines.get(&link).is_some_and(|line| matches!(line.validation, Validation::Asked(_)));
            if !candidate {
                self.drain(link, now + DRAIN, Demotion::Better);
            }
        }
    }
}
