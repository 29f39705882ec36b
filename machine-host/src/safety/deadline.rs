//! The thread that wakes when a lease ends.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use crate::runtime::{raise_thread, thread, wait_for};

/// The longest sleep while something is pending. A condition's wait stands still in suspend; this bounds how late a stop can be after
/// waking up.
const LONGEST: Duration = Duration::from_millis(50);
/// How often a thread without anything pending looks whether its machine is still there.
const IDLE: Duration = Duration::from_secs(1);
/// The shortest time between two kicks: a watchdog that wants more would have this thread do nothing else.
const SHORTEST: Duration = Duration::from_millis(10);

pub(super) fn spawn(shared: &Arc<Shared>) -> io::Result<()> {
    let weak = Arc::downgrade(shared);
    thread::Builder::new().name("deadlines".into()).spawn(move || {
        raise_thread();
        let mut kicked = None;
        while let Some(shared) = weak.upgrade() {
            // Whatever goes wrong in here, leases go on ending.
            if catch_unwind(AssertUnwindSafe(|| round(&shared, &mut kicked))).is_err() {
                thread::sleep(LONGEST);
            }
        }
    })?;
    Ok(())
}

/// Sees to what is due, kicks, and sleeps until the next thing is.
fn round(shared: &Shared, kicked: &mut Option<Instant>) {
    // The clock is asked, not the wait: what is due is due, whoever woke this thread.
    shared.with(|state, now| {
        state.registry.handle_timeout(now);
        state.armed = state.registry.poll_timeout().map(|(at, _)| at);
    });
    let watchdog = shared.lock().watchdog.clone();
    let kick = watchdog.map(|watchdog| {
        let period = watchdog.period().max(SHORTEST);
        // The kick's own clock stands still in suspend, as the watchdog's does.
        let left = kicked.map_or(Duration::ZERO, |last| period.saturating_sub(last.elapsed()));
        if left.is_zero() {
            *kicked = Some(Instant::now());
            watchdog.kick();
            return period;
        }
        left
    });
    let state = shared.lock();
    let next = state.registry.poll_timeout().map(|(at, _)| at);
    let wait = next.map_or(IDLE, |at| at.saturating_duration_since(shared.now()).min(LONGEST));
    let wait = kick.map_or(wait, |kick| kick.min(wait));
    if !wait.is_zero() {
        wait_for(&shared.earlier, state, wait);
    }
}
