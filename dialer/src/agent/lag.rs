//! Links that answer too late: what one owes and another does not is a reason to go over, or to have a second one.

use std::time::Instant;

use super::*;

impl RouteAgent {
    /// Since when the primary owes an answer although the standby has answered what it was asked much later. What was lost holds up all that is sent
    /// behind it, and the answers that trickle in belong to the past.
    fn outrun(&self, link: LinkId, line: &Line) -> Option<(Instant, &Line)> {
        let standby = self.standby().filter(|_| self.primary == Some(link))?;
        let (owing, standby) = (line.owing()?, self.lines.get(&standby)?);
        standby.is_ahead(owing, line.outrun(standby) / 2).then_some((owing, standby))
    }

    /// When the primary counts as stalled: calls and beats go over the standby too.
    pub(super) fn stalled_at(&self, link: LinkId, line: &Line) -> Option<Instant> {
        if line.stalled {
            return None;
        }
        if line.facts.tier.is_webrtc() {
            let standby = self.standby().filter(|_| self.primary == Some(link))?;
            return Some(line.stuck? + line.stalls(self.lines.get(&standby)?));
        }
        self.outrun(link, line).map(|(owing, standby)| owing + line.stalls(standby))
    }

    /// When a stalled primary hands over to the standby: twice as late where that came off second best itself not long ago, so that two lossy ways do not
    /// make routes flap, and on WebRTC, which recovers by itself sooner.
    pub(super) fn outrun_at(&self, link: LinkId, line: &Line) -> Option<Instant> {
        let (owing, standby) = self.outrun(link, line).filter(|_| line.stalled)?;
        // Answered checks prove a path, and nothing about the data on it: there a beat must have come through.
        let by = line.outrun(standby) / 2;
        if standby.facts.tier.is_webrtc() && standby.last_beat.is_none_or(|answered| answered < owing + by) {
            return None;
        }
        let patient = standby.trial.is_some() || line.facts.tier.is_webrtc();
        Some(owing + line.outrun(standby) * if patient { 2 } else { 1 })
    }

    /// When a direct link that is alone has answered so late that another one over the same route is worth having.
    pub(super) fn lagging_at(&self, link: LinkId, line: &Line) -> Option<Instant> {
        let alone = self.primary == Some(link) && self.standby.is_none() && self.standby_wanted();
        let owing = line.owing().filter(|_| alone && !line.lagged && !line.facts.tier.is_webrtc())?;
        Some(owing + line.deadly() / 2)
    }

    pub(super) fn lag_due(&mut self, link: LinkId, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let Some(line) = self.lines.get(&link) else { return };
        let (lagging, stalled) = (due(self.lagging_at(link, line)), due(self.stalled_at(link, line)));
        if due(self.outrun_at(link, line)) {
            return self.hand_over(link, now);
        }
        let Some(line) = self.lines.get_mut(&link) else { return };
        line.lagged |= lagging;
        if stalled {
            line.stalled = true;
            self.tell(Event::Stalled { link });
        }
    }

    /// The standby carries calls instead of a primary that answers too late. That one stays warm, and is not preferred again before its penance
    /// is over.
    fn hand_over(&mut self, link: LinkId, now: Instant) {
        let Some(next) = self.standby() else { return };
        if self.owes_a_stock_machine() {
            self.outputs.push_back(Output::Abort { link });
            self.remove(link);
            return self.use_link(next);
        }
        let Some(line) = self.lines.get_mut(&link) else { return };
        let owing = line.owing().map(|since| since.min(now));
        (line.stalled, line.health, line.contrast) = (false, Health::Silent, None);
        line.waiting = line.waiting.or(owing);
        if let Some(prospect) = self.prospects.get_mut(&line.route) {
            prospect.died();
            line.trial = Some(now + prospect.penance());
        }
        self.use_link(next);
        self.outputs.push_back(Output::Decide { link });
    }
}
