//! What lets calls in on a link. One that was remembered from an earlier link is used at once, and shown to be good, or made anew, by the
//! first call that is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use tokio::sync::Mutex;
use transport::header::{BEARER, GRPC_STATUS};
use transport::{Lane, Link};

use crate::options::{Admit, Admitted, Whom};
use crate::probe::question;

/// A link's authorization.
pub(crate) struct Pass {
    header: ArcSwapOption<HeaderValue>,
    proven: AtomicBool,
    /// The machine takes it under a name that HTTP/2 compresses.
    brief: AtomicBool,
    /// Whoever finds it doubtful asks once for all.
    asking: Mutex<()>,
    admit: Arc<dyn Admit>,
}

impl Pass {
    pub fn new(admitted: Admitted, admit: Arc<dyn Admit>) -> Self {
        Self {
            header: ArcSwapOption::from(admitted.authorization.map(Arc::new)),
            proven: AtomicBool::new(!admitted.remembered),
            brief: AtomicBool::new(false),
            asking: Mutex::new(()),
            admit,
        }
    }

    /// What calls carry.
    pub fn header(&self) -> Option<HeaderValue> {
        self.header.load().as_deref().cloned()
    }

    /// Writes it into the headers of a call.
    pub fn write(&self, headers: &mut HeaderMap) {
        let Some(mut authorization) = self.header() else { return };
        if self.brief.load(Ordering::Acquire) {
            // In the compression's table only the whole value can be guessed at, and it is a signature.
            authorization.set_sensitive(false);
            headers.insert(&BEARER, authorization);
        } else {
            headers.insert(AUTHORIZATION, authorization);
        }
    }

    /// What the headers of a reply say of the machine.
    pub fn learn(&self, reply: &HeaderMap) {
        if reply.contains_key(&BEARER) {
            self.brief.store(true, Ordering::Release);
        }
    }

    /// Whether the machine has accepted it.
    pub fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Acquire)
    }

    /// Takes from a reply whether the pass is good. `true`: the call was refused for what it carried, which was only remembered, or has been
    /// made anew since the call left; it did not run.
    pub fn is_refused(&self, reply: &HeaderMap, carried: Option<&HeaderValue>) -> bool {
        if is_unauthenticated(reply) {
            return !self.is_proven() || self.header().as_ref() != carried;
        }
        self.learn(reply);
        if !self.is_proven() {
            self.proven.store(true, Ordering::Release);
        }
        false
    }

    /// Makes sure of it: asks the cheapest question, and authenticates anew where the machine does not know the pass any more. Where that
    /// fails the link is severed, and the next attempt tells why.
    pub async fn prove(&self, link: &Link) {
        let _alone = self.asking.lock().await;
        if self.is_proven() {
            return;
        }
        match link.call(question(self), Lane::Reserved).await {
            Ok(reply) if is_unauthenticated(reply.headers()) => match self.admit.renew(link, Whom::Machine).await {
                Ok(admitted) => self.header.store(admitted.authorization.map(Arc::new)),
                Err(_) => return link.sever("the machine accepts neither the remembered token nor the credentials"),
            },
            // Whatever was answered came from behind the machine's door; what was not answered has its own error.
            Ok(_) | Err(_) => {}
        }
        self.proven.store(true, Ordering::Release);
    }
}

/// A refusal comes as headers alone (UNAUTHENTICATED is 16).
fn is_unauthenticated(reply: &HeaderMap) -> bool {
    reply.get(&GRPC_STATUS).is_some_and(|status| status == "16")
}
