//! Ordinary calls stay out of a socket that takes nothing: what is in its queue stands before every beat and Stop to come.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, Notify};

/// A call that was handed to the connection and of which nothing was written for this long does not hold up the next one: it may have been dropped.
const UNSEEN: Duration = Duration::from_millis(2);

/// Whether the socket takes what is written, and who waits for that.
#[derive(Debug, Default)]
pub(crate) struct Clearance {
    blocked: AtomicBool,
    /// Writes, successful or not.
    writes: AtomicU64,
    waiting: AtomicU32,
    line: Mutex<()>,
    written: Notify,
}

impl Clearance {
    /// Something was written, or the socket was full.
    pub(crate) fn note(&self, taken: bool) {
        self.blocked.store(!taken, Ordering::Release);
        self.writes.fetch_add(1, Ordering::AcqRel);
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.written.notify_waiters();
        }
    }

    /// Waits until the socket takes what is written. Where it does and nobody waits, at once and for nothing; otherwise one call at a time, in the order
    /// in which they came: the next one when it is known what became of the last.
    pub(crate) async fn wait(&self) -> Option<Turn<'_>> {
        if !self.blocked.load(Ordering::Acquire) && self.waiting.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let waiting = Waiting(self);
        let line = self.line.lock().await;
        loop {
            let mut written = std::pin::pin!(self.written.notified());
            written.as_mut().enable();
            if !self.blocked.load(Ordering::Acquire) {
                break;
            }
            written.await;
        }
        Some(Turn { writes: self.writes.load(Ordering::Acquire), waiting, _line: line })
    }
}

#[derive(Debug)]
struct Waiting<'a>(&'a Clearance);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A call's turn to be handed to the connection; dropped, it is the next one's.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    /// Writes before it.
    writes: u64,
    waiting: Waiting<'a>,
    _line: MutexGuard<'a, ()>,
}

impl Turn<'_> {
    /// Resolves when something was written after the call was handed over.
    pub(crate) async fn used(self) {
        let clearance = self.waiting.0;
        let written = async {
            loop {
                let mut written = std::pin::pin!(clearance.written.notified());
                written.as_mut().enable();
                if clearance.writes.load(Ordering::Acquire) != self.writes {
                    return;
                }
                written.await;
            }
        };
        // Nothing written is an answer too.
        let _ = tokio::time::timeout(UNSEEN, written).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_full_socket_lets_calls_through_one_by_one_and_in_order() {
        let clearance = Arc::new(Clearance::default());
        assert!(clearance.wait().await.is_none(), "nobody waits where nothing is full");
        clearance.note(false);
        let (left, mut gone) = tokio::sync::mpsc::unbounded_channel();
        for call in 0..4 {
            let (clearance, left) = (clearance.clone(), left.clone());
            tokio::spawn(async move {
                let turn = clearance.wait().await.expect("it waits");
                let _ = left.send(call);
                turn.used().await;
            });
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(gone.try_recv().is_err(), "the socket is full");
        clearance.note(true);
        assert_eq!(gone.recv().await, Some(0));
        // The first one fills it again.
        clearance.note(false);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(gone.try_recv().is_err(), "it is full again");
        clearance.note(true);
        for call in 1..4 {
            assert_eq!(gone.recv().await, Some(call));
        }
        // Nothing was written of the last one: nobody waits for it for ever.
        tokio::time::sleep(UNSEEN * 2).await;
        assert!(clearance.wait().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_the_line_holds_up_nobody() {
        let clearance = Clearance::default();
        clearance.note(false);
        let mut first = Box::pin(clearance.wait());
        assert!(futures_util::poll!(&mut first).is_pending());
        let mut second = Box::pin(clearance.wait());
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        clearance.note(true);
        assert!(second.await.is_some());
        assert!(clearance.wait().await.is_none());
    }
}
