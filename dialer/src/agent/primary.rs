//! Which link carries calls (routes.md 3).

use std::time::Instant;

use super::*;

impl RouteAgent {
    pub(super) fn choose_primary(&mut self, now: Instant) {
        let Some(primary) = self.primary else {
            return self.choose_from_nothing();
        };
        let Some(current) = self.lines.get(&primary) else {
            self.primary = None;
            return self.choose_from_nothing();
        };
        let (facts, rtt) = (current.facts, current.rtt);
        let best = self
            .lines
            .iter()
            .filter(|(link, line)| **link != primary && line.health == Health::Good && self.usable(line))
            .map(|(link, line)| rank::as_primary(*link, &line.facts, line.rtt, false))
            .min();
        let Some(best) = best else {
            self.overtaking = None;
            return;
        };
        let promoted = if best.tier < facts.tier {
            true
        } else if best.tier == facts.tier && current.health == Health::Good && rank::overtakes(best.rtt, rtt) {
            match self.overtaking {
                Some((link, since)) if link == best.link => now >= since + rank::OVERTAKING,
                _ => {
                    self.overtaking = Some((best.link, now));
                    false
                }
            }
        } else {
            self.overtaking = None;
            false
        };
        if promoted && !self.promotion_waits(primary) {
            self.overtaking = None;
            self.promote(best.link, now);
        } else if promoted {
            self.overtaking = None;
        }
    }

    /// With no primary any link that may be used is better than none.
    pub(super) fn choose_from_nothing(&mut self) {
        self.overtaking = None;
        let best = self
            .lines
            .iter()
            .filter(|(_, line)| line.role == Role::Open && line.health != Health::Dead && self.valid(line))
            .map(|(link, line)| rank::as_primary(*link, &line.facts, line.rtt, line.health != Health::Good))
            .min();
        if let Some(best) = best {
            let muted = self.muted.take().filter(|old| *old != best.link);
            // Nothing that is still queued on the silent link may act after the first call on the new one.
            if let Some(old) = muted {
                self.outputs.push_back(Output::Abort { link: old });
                self.remove(old);
            }
            self.use_link(best.link);
        } else if self.told != Told::Nothing {
            let swapping = self.lines.values().any(|line| {
                line.role == Role::Open && line.health != Health::Dead && line.validation != Validation::Foreign
            });
            if self.told != (Told::NoRoute { swapping }) {
                self.told = Told::NoRoute { swapping };
                self.outputs.push_back(Output::NoRoute { swapping });
            }
        }
    }

    /// Whether the link may replace a primary that lives.
    pub(super) fn usable(&self, line: &Line) -> bool {
        line.role == Role::Open && self.valid(line) && line.trial.is_none()
    }

    /// While something is held, only a link that the session's beat has proven is used.
    pub(super) fn valid(&self, line: &Line) -> bool {
        self.held == Held::Nothing || line.validation == Validation::Same
    }

    pub(super) fn promotion_waits(&self, primary: LinkId) -> bool {
        let unanswered = matches!(self.held, Held::Session { monitored_out, .. } if monitored_out > 0);
        let tied = self.lines.get(&primary).is_some_and(|line| line.carried_unheld_motion);
        tied || (unanswered && self.peer == Peer::Stock)
    }

    pub(super) fn promote(&mut self, link: LinkId, now: Instant) {
        let old = self.primary;
        self.use_link(link);
        let Some(old) = old else { return };
        // The old primary is the natural standby; it is drained only where none is wanted.
        if !self.standby_wanted() {
            self.drain(old, now + DRAIN, Demotion::Better);
        }
    }

    pub(super) fn use_link(&mut self, link: LinkId) {
        self.end_hedge();
        self.primary = Some(link);
        if self.phase == Phase::Dialing {
            self.phase = Phase::Connected;
            self.free_prospects();
        }
        if self.standby == Some(link) {
            self.standby = None;
        }
        self.told = Told::Use(link);
        self.outputs.push_back(Output::Use { link });
        self.hunt.over();
    }
}
