//! Ordinary calls stay out of a socket that takes nothing: what is in its queue stands before every beat and Stop to come.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, Notify};

/// A call that was handed to the connection and of which nothing was written for this long does not hold up the next one: it may have been dropped.
const UNSEEN: Duration = Duration::from_millis(2);

/// A call follows each write of so many bytes of a large message: it does not double what stands before a beat.
const SHORT: usize = 512;
/// So many at most. On a thin way there are some ten to forty such writes a second.
const TOGETHER: u32 = 8;

/// Whether the socket takes what is written, and who waits for that.
#[derive(Debug, Default)]
pub(crate) struct Clearance {
    blocked: AtomicBool,
    /// Writes, successful or not.
    writes: AtomicU64,
    /// Calls that may still follow the last write of which something was taken.
    granted: AtomicU32,
    waiting: AtomicU32,
    line: Mutex<()>,
    written: Notify,
}

impl Clearance {
    /// So many bytes were written; `None`: the socket was full.
    pub(crate) fn note(&self, taken: Option<usize>) {
        self.blocked.store(taken.is_none(), Ordering::Release);
        self.writes.fetch_add(1, Ordering::AcqRel);
        if let Some(bytes) = taken {
            self.granted
                .store(u32::try_from(bytes / SHORT).map_or(TOGETHER, |calls| calls.min(TOGETHER)), Ordering::Release);
        }
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.written.notify_waiters();
        }
    }

    /// Waits until the socket takes what is written. Where it does and nobody waits, at once and for nothing; otherwise one call at a time, in the order
    /// in which they came: the next one when it is known what became of the last. A large message fills the socket again before anybody who waits has
    /// looked, so each time that the socket has taken something a few of them follow.
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
            if !self.blocked.load(Ordering::Acquire) || self.is_granted() {
                break;
            }
            written.await;
        }
        Some(Turn { writes: self.writes.load(Ordering::Acquire), waiting, _line: line })
    }
}

impl Clearance {
    /// Takes a place behind the last write, if there is one. Whoever asks stands first in the line.
    fn is_granted(&self) -> bool {
        let left = self.granted.load(Ordering::Acquire);
        // A write in between grants more than this takes away.
        left > 0 && self.granted.compare_exchange(left, left - 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
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
        clearance.note(None);
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
        clearance.note(Some(100));
        assert_eq!(gone.recv().await, Some(0));
        // The first one fills it again.
        clearance.note(None);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(gone.try_recv().is_err(), "it is full again");
        clearance.note(Some(100));
        for call in 1..4 {
            assert_eq!(gone.recv().await, Some(call));
        }
        // Nothing was written of the last one: nobody waits for it for ever.
        tokio::time::sleep(UNSEEN * 2).await;
        assert!(clearance.wait().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_message_does_not_keep_calls_out_until_its_end() {
        let clearance = Arc::new(Clearance::default());
        clearance.note(None);
        let waiting = clearance.clone();
        let call = tokio::spawn(async move { waiting.wait().await.expect("it waits").used().await });
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(!call.is_finished(), "the socket is full");
        // The message's next piece, and the one that finds the socket full again.
        clearance.note(Some(4_000));
        clearance.note(None);
        tokio::time::timeout(Duration::from_millis(10), call).await.expect("its turn came").expect("it ended");
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_the_line_holds_up_nobody() {
        let clearance = Clearance::default();
        clearance.note(None);
        let mut first = Box::pin(clearance.wait());
        assert!(futures_util::poll!(&mut first).is_pending());
        let mut second = Box::pin(clearance.wait());
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        clearance.note(Some(100));
        assert!(second.await.is_some());
        assert!(clearance.wait().await.is_none());
    }
}
