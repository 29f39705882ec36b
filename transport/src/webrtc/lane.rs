//! A bounded queue into one task.
//!
//! It does what tokio's does, of which a connection needs five. Each of those keeps 32 places and the distance of cache lines, whatever its bound:
//! with what is sent here 1 to 2 KiB, which an idle connection of 30 KiB would hold five times. This one holds what waits, and room for four.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::mpsc::error::{SendError, TryRecvError, TrySendError};
use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};
use tokio::task::coop::cooperative;

/// Items whose room a queue keeps while it is empty.
const KEPT: usize = 4;

struct State<T> {
    waiting: VecDeque<T>,
    reader: Option<Waker>,
    senders: usize,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// Closed once the reader is gone.
    places: Semaphore,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an item into a place that was taken for it.
    fn push(&self, item: T, place: SemaphorePermit<'_>) {
        place.forget();
        let reader = {
            let mut state = self.lock();
            // The reader may have gone since the place was taken.
            if self.places.is_closed() {
                drop(state);
                return;
            }
            state.waiting.push_back(item);
            state.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl<T> State<T> {
    fn pop(&mut self) -> Option<T> {
        let item = self.waiting.pop_front()?;
        if self.waiting.is_empty() && self.waiting.capacity() > KEPT {
            self.waiting = VecDeque::new();
        }
        Some(item)
    }
}

/// A queue with so many places, at least one.
pub fn lane<T>(places: usize) -> (Sender<T>, Receiver<T>) {
    let state = State { waiting: VecDeque::new(), reader: None, senders: 1 };
    let shared = Arc::new(Shared { state: Mutex::new(state), places: Semaphore::new(places.max(1)) });
    (Sender(shared.clone()), Receiver(shared))
}

/// The end that fills a queue. Clones fill the same; once all are dropped the reader finds its end.
pub struct Sender<T>(Arc<Shared<T>>);

/// A [`Sender`] that does not keep the queue from its end.
pub struct WeakSender<T>(Arc<Shared<T>>);

/// The end that reads a queue; when it is dropped what waits is dropped too.
pub struct Receiver<T>(Arc<Shared<T>>);

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("places", &self.0.places.available_permits()).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for WeakSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakSender").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("places", &self.0.places.available_permits()).finish_non_exhaustive()
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.lock().senders += 1;
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let reader = {
            let mut state = self.0.lock();
            state.senders -= 1;
            if state.senders == 0 { state.reader.take() } else { None }
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.places.close();
        let left = {
            let mut state = self.0.lock();
            (state.reader.take(), std::mem::take(&mut state.waiting))
        };
        drop(left);
    }
}

impl<T> WeakSender<T> {
    /// A sender, where there is one still.
    pub fn upgrade(&self) -> Option<Sender<T>> {
        let mut state = self.0.lock();
        if state.senders == 0 {
            return None;
        }
        state.senders += 1;
        Some(Sender(self.0.clone()))
    }
}

impl<T> Sender<T> {
    /// Waits for a place and puts the item in. Whoever waits is served in turn. Dropping the future before its end sends nothing.
    ///
    /// # Errors
    ///
    /// The item, where nobody reads any more.
    pub async fn send(&self, item: T) -> Result<(), SendError<T>> {
        match self.0.places.acquire().await {
            Ok(place) => {
                self.0.push(item, place);
                Ok(())
            }
            Err(_) => Err(SendError(item)),
        }
    }

    /// Puts the item in, if there is a place.
    ///
    /// # Errors
    ///
    /// The item, where there is no place or nobody reads any more.
    pub fn try_send(&self, item: T) -> Result<(), TrySendError<T>> {
        match self.0.places.try_acquire() {
            Ok(place) => {
                self.0.push(item, place);
                Ok(())
            }
            Err(TryAcquireError::NoPermits) => Err(TrySendError::Full(item)),
            Err(TryAcquireError::Closed) => Err(TrySendError::Closed(item)),
        }
    }

    /// Waits for so many places, no more than there are. Whoever waits is served in turn.
    ///
    /// # Errors
    ///
    /// Nobody reads any more.
    pub async fn reserve(&self, places: usize) -> Result<Places<'_, T>, SendError<()>> {
        let taken = self.0.places.acquire_many(u32::try_from(places).unwrap_or(u32::MAX)).await;
        Ok(Places { lane: &self.0, taken: taken.map_err(|_| SendError(()))? })
    }

    /// So many places, if they are free.
    ///
    /// # Errors
    ///
    /// They are not, or nobody reads any more.
    pub fn try_reserve(&self, places: usize) -> Result<Places<'_, T>, TrySendError<()>> {
        match self.0.places.try_acquire_many(u32::try_from(places).unwrap_or(u32::MAX)) {
            Ok(taken) => Ok(Places { lane: &self.0, taken }),
            Err(TryAcquireError::NoPermits) => Err(TrySendError::Full(())),
            Err(TryAcquireError::Closed) => Err(TrySendError::Closed(())),
        }
    }

    /// One that does not keep the queue from its end.
    pub fn downgrade(&self) -> WeakSender<T> {
        WeakSender(self.0.clone())
    }
}

/// Places that are taken; those that are not used are given back.
pub struct Places<'a, T> {
    lane: &'a Shared<T>,
    taken: SemaphorePermit<'a>,
}

impl<T> fmt::Debug for Places<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Places").field("taken", &self.taken.num_permits()).finish_non_exhaustive()
    }
}

impl<T> Places<'_, T> {
    /// How many are left.
    pub fn left(&self) -> usize {
        self.taken.num_permits()
    }

    /// Puts an item into the next of them.
    ///
    /// # Errors
    ///
    /// The item, where none is left.
    pub fn send(&mut self, item: T) -> Result<(), SendError<T>> {
        match self.taken.split(1) {
            Some(place) => {
                self.lane.push(item, place);
                Ok(())
            }
            None => Err(SendError(item)),
        }
    }
}

impl<T> Receiver<T> {
    /// The next item; `None` once all senders are gone and nothing waits. Dropping the future before its end loses nothing.
    pub async fn recv(&mut self) -> Option<T> {
        // As with any of tokio's, a task that always finds something lets others have their turn.
        cooperative(poll_fn(|cx| self.poll_recv(cx))).await
    }

    fn poll_recv(&mut self, cx: &Context<'_>) -> Poll<Option<T>> {
        let item = {
            let mut state = self.0.lock();
            match state.pop() {
                Some(item) => item,
                None if state.senders == 0 => return Poll::Ready(None),
                None => {
                    if state.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
                        return Poll::Pending;
                    }
                    let before = state.reader.replace(cx.waker().clone());
                    // What is dropped may be the last of a task, and that may hold an end of this queue.
                    drop(state);
                    drop(before);
                    return Poll::Pending;
                }
            }
        };
        self.0.places.add_permits(1);
        Poll::Ready(Some(item))
    }

    /// The next item, if one is there.
    ///
    /// # Errors
    ///
    /// None is; or none will be any more, since all senders are gone.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        let item = {
            let mut state = self.0.lock();
            let none = if state.senders == 0 { TryRecvError::Disconnected } else { TryRecvError::Empty };
            state.pop().ok_or(none)?
        };
        self.0.places.add_permits(1);
        Ok(item)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn poll<F: Future>(future: &mut std::pin::Pin<Box<F>>, woken: &Arc<Count>) -> Poll<F::Output> {
        future.as_mut().poll(&mut Context::from_waker(&woken.clone().into()))
    }

    #[test]
    fn items_come_in_order_and_the_bound_holds() {
        let (to, mut from) = lane(2);
        assert!(matches!(from.try_recv(), Err(TryRecvError::Empty)));
        to.try_send(1).expect("a place");
        to.clone().try_send(2).expect("a place");
        assert!(matches!(to.try_send(3), Err(TrySendError::Full(3))));
        let woken = Arc::<Count>::default();
        let mut sending = Box::pin(to.send(3));
        assert!(poll(&mut sending, &woken).is_pending());
        assert_eq!(from.try_recv(), Ok(1));
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(poll(&mut sending, &woken).is_ready());
        assert_eq!((from.try_recv(), from.try_recv()), (Ok(2), Ok(3)));
    }

    #[test]
    fn a_reader_is_woken_for_an_item_and_for_the_end_and_what_was_sent_before_it_is_read() {
        let (to, mut from) = lane(8);
        let woken = Arc::<Count>::default();
        let woke = |times| assert_eq!(woken.0.load(Ordering::Relaxed), times);
        {
            let mut reading = Box::pin(from.recv());
            assert!(poll(&mut reading, &woken).is_pending());
            to.try_send(1).expect("a place");
            woke(1);
            assert_eq!(poll(&mut reading, &woken), Poll::Ready(Some(1)));
        }
        to.try_send(2).expect("a place");
        {
            let mut abandoned = Box::pin(from.recv());
            assert_eq!(poll(&mut abandoned, &woken), Poll::Ready(Some(2)));
        }
        let weak = to.downgrade();
        let second = weak.upgrade().expect("there is one");
        let mut reading = Box::pin(from.recv());
        assert!(poll(&mut reading, &woken).is_pending());
        drop(to);
        woke(1);
        second.try_send(3).expect("a place");
        drop(second);
        woke(2);
        assert!(weak.upgrade().is_none());
        assert_eq!(poll(&mut reading, &woken), Poll::Ready(Some(3)));
        drop(reading);
        assert!(matches!(from.try_recv(), Err(TryRecvError::Disconnected)));
        assert_eq!(poll(&mut Box::pin(from.recv()), &woken), Poll::Ready(None));
    }

    #[test]
    fn without_a_reader_nothing_is_kept_and_who_waits_is_told() {
        let (to, from) = lane(1);
        let (item, woken) = (Arc::new(()), Arc::<Count>::default());
        to.try_send(item.clone()).expect("a place");
        let mut sending = Box::pin(to.send(item.clone()));
        let mut reserving = Box::pin(to.reserve(1));
        assert!(poll(&mut sending, &woken).is_pending() && poll(&mut reserving, &woken).is_pending());
        drop(from);
        assert!(matches!(poll(&mut sending, &woken), Poll::Ready(Err(_))));
        assert!(matches!(poll(&mut reserving, &woken), Poll::Ready(Err(_))));
        assert!(matches!(to.try_send(item.clone()), Err(TrySendError::Closed(_))));
        assert!(matches!(to.try_reserve(1), Err(TrySendError::Closed(()))));
        drop((sending, reserving));
        assert_eq!(Arc::strong_count(&item), 1);
    }

    #[test]
    fn places_that_are_not_used_are_given_back() {
        let (to, mut from) = lane(4);
        let mut places = to.try_reserve(4).expect("all are free");
        assert!(matches!(to.try_send(9), Err(TrySendError::Full(9))));
        places.send(1).expect("reserved");
        assert_eq!(places.left(), 3);
        drop(places);
        assert!(matches!(to.try_reserve(4), Err(TrySendError::Full(()))));
        let mut rest = to.try_reserve(3).expect("given back");
        for item in 2..=4 {
            rest.send(item).expect("reserved");
        }
        assert!(rest.send(5).is_err());
        drop(rest);
        let woken = Arc::<Count>::default();
        let mut reserving = Box::pin(to.reserve(4));
        for item in 1..=4 {
            assert!(poll(&mut reserving, &woken).is_pending());
            assert_eq!(from.try_recv(), Ok(item));
        }
        assert!(poll(&mut reserving, &woken).is_ready());
    }

    #[test]
    fn an_empty_queue_keeps_no_more_than_a_little_room() {
        let (to, mut from) = lane(1000);
        for item in 0..1000 {
            to.try_send(item).expect("a place");
        }
        assert_eq!((0..1000).map(|_| from.try_recv()).collect::<Result<Vec<_>, _>>(), Ok((0..1000).collect()));
        assert!(from.0.lock().waiting.capacity() <= KEPT);
    }

    #[tokio::test]
    async fn a_reader_that_always_finds_something_lets_others_have_their_turn() {
        let (to, mut from) = lane(10_000);
        (0..10_000).for_each(|item| to.try_send(item).expect("a place"));
        let others = Arc::new(AtomicUsize::new(0));
        let turns = others.clone();
        tokio::spawn(async move {
            loop {
                turns.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        for item in 0..10_000 {
            assert_eq!(from.recv().await, Some(item));
        }
        assert!(others.load(Ordering::Relaxed) > 10);
    }
}
