//! One parked thread for each actuator's Stop.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread;

use prost_types::Struct;
use session_core::registry::{StopFailed, StopId};

use super::{Actuator, Shared};
use crate::ResourceName;

/// Hands stops to the actuator's thread. The thread ends when this is dropped and the last Stop has returned.
pub(super) struct Stopper(Arc<Desk>);

#[derive(Default)]
struct Desk {
    orders: Mutex<Orders>,
    ordered: Condvar,
}

#[derive(Default)]
struct Orders {
    /// Stops that wait: all of them are carried out by the driver's next call, so a flood of them behind a hanging driver costs one more.
    waiting: Vec<StopId>,
    extra: Option<Struct>,
    closed: bool,
}

impl Stopper {
    pub(super) fn spawn(resource: &ResourceName, driver: Arc<dyn Actuator>, machine: Weak<Shared>) -> io::Result<Self> {
        let desk = Arc::new(Desk::default());
        let (theirs, resource) = (desk.clone(), resource.clone());
        thread::Builder::new().name(format!("stop {}", resource.name)).spawn(move || {
            while let Some((ids, extra)) = theirs.next() {
                let result = stop(&*driver, extra.as_ref(), &resource);
                let Some(machine) = machine.upgrade() else { return };
                for id in ids {
                    machine.with(|state, now| state.registry.handle_stopped(id, result, now));
                }
            }
        })?;
        Ok(Self(desk))
    }

    /// Orders a Stop; never waits.
    pub(super) fn stop(&self, id: StopId) {
        let mut orders = self.0.lock();
        orders.waiting.push(id);
        drop(orders);
        self.0.ordered.notify_one();
    }

    /// What the caller of the next Stop gives its driver.
    pub(super) fn with_extra(&self, extra: Struct) {
        self.0.lock().extra = Some(extra);
    }
}

impl Drop for Stopper {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.ordered.notify_one();
    }
}

impl Desk {
    fn lock(&self) -> std::sync::MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for orders; `None` when there will be no more.
    fn next(&self) -> Option<(Vec<StopId>, Option<Struct>)> {
        let mut orders = self.lock();
        loop {
            if !orders.waiting.is_empty() {
                return Some((std::mem::take(&mut orders.waiting), orders.extra.take()));
            }
            if orders.closed {
                return None;
            }
            orders = self.ordered.wait(orders).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A driver that panics has failed, and takes nobody with it (s23).
fn stop(driver: &dyn Actuator, extra: Option<&Struct>, resource: &ResourceName) -> Result<(), StopFailed> {
    match catch_unwind(AssertUnwindSafe(|| driver.stop(extra))) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            tracing::error!(%resource, %error, "failed to stop some resources");
            Err(StopFailed)
        }
        Err(_) => {
            tracing::error!(%resource, "failed to stop some resources: the driver panicked");
            Err(StopFailed)
        }
    }
}
