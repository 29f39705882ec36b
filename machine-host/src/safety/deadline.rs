//! The thread that wakes when a lease ends.

use std::io;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use super::Shared;

/// The longest sleep while something is pending. A condition's wait stands still in suspend; this bounds how late a stop can be after
/// waking up.
const LONGEST: Duration = Duration::from_millis(50);
/// How often a thread without anything pending looks whether its machine is still there.
const IDLE: Duration = Duration::from_secs(1);

pub(super) fn spawn(shared: &Arc<Shared>) -> io::Result<()> {
    let weak = Arc::downgrade(shared);
    thread::Builder::new().name("deadlines".into()).spawn(move || {
        while let Some(shared) = weak.upgrade() {
            // The clock is asked, not the wait: what is due is due, whoever woke this thread.
            shared.with(|state, now| {
                state.registry.handle_timeout(now);
                state.armed = state.registry.poll_timeout().map(|(at, _)| at);
            });
            let state = shared.lock();
            let now = shared.clock.now();
            let next = state.registry.poll_timeout().map(|(at, _)| at);
            let wait = next.map_or(IDLE, |at| at.saturating_duration_since(now).min(LONGEST));
            if !wait.is_zero() {
                let woken = shared.earlier.wait_timeout(state, wait);
                drop(woken.unwrap_or_else(PoisonError::into_inner));
            }
        }
    })?;
    Ok(())
}
