//! Threads whose order the test decides, in place of the system's.

use std::future::Future;
use std::time::Duration;

pub use shuttle::sync::{Condvar, Mutex, MutexGuard};
pub use shuttle::thread;

/// Nothing takes long on a clock that only tests move.
pub async fn timeout<F: Future>(_: Duration, what: F) -> Result<F::Output, ()> {
    Ok(what.await)
}

/// The order of these threads is the test's.
pub fn raise_thread() {}

/// Less than any time: whoever waits looks again when it is its turn.
pub fn wait_for<T>(_: &Condvar, guard: MutexGuard<'_, T>, _: Duration) {
    drop(guard);
    thread::yield_now();
}
