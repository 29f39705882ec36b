//! The connection to the signaling service that arranged the last peer connection, kept for the next: over a way of 40 ms it spares a dial five
//! round trips.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use transport::Link;

use crate::agent::Signaler;
use crate::options::Admitted;

/// What is kept may have died without a word, behind a translator that forgot it: a service that sends nothing for so long, or for three round trips,
/// is connected to anew.
const PATIENCE: Duration = Duration::from_millis(250);

/// One idle connection at most. Dropping it closes that.
#[derive(Default)]
pub(super) struct Warm(Mutex<Option<Kept>>);

struct Kept {
    signaler: Signaler,
    link: Link,
    admitted: Admitted,
}

impl Warm {
    /// Keeps a connection over which the service has just answered, instead of the one before. What lets calls in may be refused by then, and is made
    /// anew where it is.
    pub fn keep(&self, signaler: &Signaler, link: Link, admitted: Admitted) {
        let kept = Kept { signaler: signaler.clone(), link, admitted: Admitted { remembered: true, ..admitted } };
        self.replace(Some(kept));
    }

    /// The connection to this service, which is kept no longer.
    pub fn take(&self, signaler: &Signaler) -> Option<(Link, Admitted)> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = kept.as_ref().is_some_and(|kept| kept.signaler == *signaler && kept.link.takes_calls());
        fits.then(|| kept.take()).flatten().map(|kept| (kept.link, kept.admitted))
    }

    /// The network is another one: what is kept may lead nowhere.
    pub fn forget(&self) {
        self.replace(None);
    }

    fn replace(&self, kept: Option<Kept>) {
        let before = std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), kept);
        if let Some(before) = before {
            before.link.close();
        }
    }
}

impl Drop for Warm {
    fn drop(&mut self) {
        if let Some(kept) = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            kept.link.sever("the dialer ended");
        }
    }
}

/// What comes of something that is asked over a link; `None` where its other end sends nothing at all meanwhile, or the link ends.
pub(super) async fn answered<T, E>(link: &Link, asked: impl Future<Output = Result<T, E>>) -> Option<Result<T, E>> {
    let since = Instant::now();
    let silent = async {
        tokio::time::sleep(PATIENCE.max(link.info().rtt * 3)).await;
        if link.last_read() >= since {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        done = asked => match done {
            Err(_) if link.last_read() < since => None,
            done => Some(done),
        },
        () = silent => None,
    }
}
