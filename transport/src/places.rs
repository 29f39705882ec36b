//! Places for calls: how many may be out on a link at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// Stops, beats and probes that are counted, so that an orderly close waits for them; more than can be out at once.
const RESERVED: u32 = 1024;
/// The most ordinary calls on one link, whatever the peer allows.
const MOST: u32 = 1024;
/// How long an orderly close waits for what is out in the reserved lane. A Stop or a beat is answered at once or never.
const RESERVED_WAIT: Duration = Duration::from_secs(1);

/// The places of one link. Clones are the same places.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    ordinary: Arc<Semaphore>,
    reserved: Arc<Semaphore>,
    total: Arc<AtomicU32>,
    closing: Arc<AtomicBool>,
}

impl From<u32> for Places {
    fn from(places: u32) -> Self {
        Self {
            ordinary: Arc::new(Semaphore::new(places as usize)),
            reserved: Arc::new(Semaphore::new(RESERVED as usize)),
            total: Arc::new(AtomicU32::new(places)),
            closing: Arc::default(),
        }
    }
}

impl Places {
    /// So many ordinary calls may be out from now on; what is out already goes on.
    pub(crate) fn set(&self, places: u32) {
        let (places, total) = (places.clamp(1, MOST), self.total.load(Ordering::Relaxed));
        if self.closing.load(Ordering::Relaxed) || places == total {
            return;
        }
        let total = if places > total {
            self.ordinary.add_permits((places - total) as usize);
            places
        } else {
            // Places that are taken are given up later: whoever knows the limit says it again.
            total - self.ordinary.forget_permits((total - places) as usize) as u32
        };
        self.total.store(total, Ordering::Relaxed);
    }

    /// The next free place; waits for one.
    pub(crate) async fn ordinary(&self) -> Result<OwnedSemaphorePermit, AcquireError> {
        self.ordinary.clone().acquire_owned().await
    }

    /// A free place, if there is one.
    pub(crate) fn try_ordinary(&self) -> Option<OwnedSemaphorePermit> {
        self.ordinary.clone().try_acquire_owned().ok()
    }

    /// A place in the lane that never waits; `None`: not counted.
    pub(crate) fn reserved(&self) -> Option<OwnedSemaphorePermit> {
        self.reserved.clone().try_acquire_owned().ok()
    }

    /// Resolves when nothing is out any more. The number of places stays what it is.
    pub(crate) async fn vacated(&self) {
        self.closing.store(true, Ordering::Relaxed);
        let all = self.ordinary.acquire_many(self.total.load(Ordering::Relaxed)).await;
        // Who does not answer a beat or a probe is not waited for.
        let _ = tokio::time::timeout(RESERVED_WAIT, self.reserved.acquire_many(RESERVED)).await;
        drop(all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn more_and_fewer_places() {
        let places = Places::from(2);
        let held = [places.try_ordinary(), places.try_ordinary()];
        assert!(held.iter().all(Option::is_some) && places.try_ordinary().is_none());
        places.set(3);
        let third = places.try_ordinary();
        assert!(third.is_some() && places.try_ordinary().is_none());
        // All are taken: one is given up when it is free.
        places.set(2);
        drop(third);
        places.set(2);
        assert!(places.try_ordinary().is_none());
        drop(held);
        assert_eq!(places.ordinary.available_permits(), 2);
        places.set(0);
        assert_eq!(places.ordinary.available_permits(), 1, "a peer that allows nothing is asked one at a time");
    }

    #[tokio::test]
    async fn a_close_waits_for_both_lanes() {
        let places = Places::from(2);
        let (ordinary, reserved) = (places.try_ordinary(), places.reserved());
        let mut vacated = std::pin::pin!(places.vacated());
        let soon = Duration::from_millis(20);
        assert!(tokio::time::timeout(soon, &mut vacated).await.is_err());
        drop(ordinary);
        assert!(tokio::time::timeout(soon, &mut vacated).await.is_err(), "a Stop is out");
        drop(reserved);
        tokio::time::timeout(soon, vacated).await.expect("nothing is out");
    }
}
