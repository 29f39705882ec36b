//! Numbered commands leave a link in the order of their numbers, also when many of them leave at once: the machine drops one that comes after a later
//! one (`safety.md` 5), and tasks that wait for the same news wake in any order.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// Whoever does not come for its turn, because its caller does not look at it, is passed over after this.
const PATIENCE: Duration = Duration::from_millis(5);

/// The calls on one link that may have to leave it, by the order in which they came. Bounded by the calls that are out.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    waiting: Mutex<Waiting>,
    moved: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    calls: BTreeSet<u64>,
}

impl Turns {
    /// The next place. It is given up when dropped.
    pub(crate) fn take(self: &Arc<Self>) -> Turn {
        let mut waiting = self.lock();
        waiting.last += 1;
        let place = waiting.last;
        waiting.calls.insert(place);
        Turn { turns: self.clone(), place }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call's place.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Arc<Turns>,
    place: u64,
}

impl Turn {
    /// Waits until every call that came before has left or is over.
    pub(crate) async fn comes(&self) {
        let comes = async {
            loop {
                let moved = self.turns.moved.notified();
                if self.turns.lock().calls.first().is_none_or(|first| *first >= self.place) {
                    return;
                }
                moved.await;
            }
        };
        // Out of time: it goes all the same.
        let _ = tokio::time::timeout(PATIENCE, comes).await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.lock().calls.remove(&self.place);
        self.turns.moved.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_came_first_leaves_first_and_who_does_not_come_is_passed_over() {
        let turns = Arc::new(Turns::default());
        let (first, second, third) = (turns.take(), turns.take(), turns.take());
        let left = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        // They wake in the wrong order.
        for (name, turn) in [(3, third), (2, second), (1, first)] {
            let left = left.clone();
            tasks.push(tokio::spawn(async move {
                turn.comes().await;
                left.lock().unwrap().push(name);
                drop(turn);
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*left.lock().unwrap(), [1, 2, 3]);

        let (absent, late) = (turns.take(), turns.take());
        let began = tokio::time::Instant::now();
        late.comes().await;
        assert!(began.elapsed() >= PATIENCE);
        drop((absent, late));
        assert!(turns.lock().calls.is_empty());
    }
}
