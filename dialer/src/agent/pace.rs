//! Links that answer, and too late for what is held: the session's beats cannot be counted on to arrive within its window, and nobody is dead.

use std::time::{Duration, Instant};

use super::*;

/// Beats in a window: what answers within all of it but the pause between two beats keeps a session.
const BEATS: u32 = 5;

/// How late a link answers.
struct Pace {
    /// Smoothed, what was lost and sent again included.
    usual: Duration,
    /// The newest answered probe, or what is owed for longer although other answers came meanwhile.
    newest: Duration,
}

impl Pace {
    fn of(line: &Line, window: Duration, now: Instant) -> Self {
        // Without any later answer it may be dead, and is judged as such.
        let owed = line.owing().filter(|since| line.last_life >= *since + window / 2);
        let owed = owed.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        Self { usual: line.rtt, newest: line.newest().max(owed) }
    }

    fn too_slow(&self, window: Duration) -> bool {
        self.usual + window / BEATS > window || self.newest >= window
    }

    fn took(&self) -> Duration {
        self.usual.max(self.newest)
    }
}

impl RouteAgent {
    /// Says when the link that carries calls is too slow for the session that is held, or was held last: a single answer took a whole window, or the
    /// smoothed round trip and the pause between two beats do. It is in time again once everything takes less than half a window; in between
    /// the last word stands.
    pub(super) fn judge_pace(&mut self, now: Instant) {
        let link = self.primary.or(self.muted);
        if let Some(slow) = self.slow.filter(|slow| link.is_some_and(|link| link != *slow)) {
            self.slow = None;
            self.tell(Event::InTime { link: slow });
        }
        let Some((link, line)) = link.and_then(|link| Some((link, self.lines.get(&link)?))) else { return };
        let Some(window) = self.window else { return };
        let pace = Pace::of(line, window, now);
        if self.slow.is_none() && pace.too_slow(window) {
            self.slow = Some(link);
            self.tell(Event::TooSlow { link, took: pace.took(), window });
        } else if self.slow.is_some() && pace.took() < window / 2 {
            self.slow = None;
            self.tell(Event::InTime { link });
        }
    }
}
