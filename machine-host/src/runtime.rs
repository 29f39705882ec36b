//! What the safety half needs of the system's threads. By these names alone, so that a test can put others in their place, whose order it decides.

use std::time::Duration;

pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
pub(crate) use std::thread;
pub(crate) use tokio::time::timeout;
pub(crate) use transport::raise_thread;

/// Waits for a notification, or for `time`, or less.
pub(crate) fn wait_for<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>, time: Duration) {
    drop(condvar.wait_timeout(guard, time).unwrap_or_else(std::sync::PoisonError::into_inner));
}
