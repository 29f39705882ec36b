//! One parked thread for each actuator's Stop.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, Weak};

use prost_types::Struct;
use session_core::registry::{StopFailed, StopId};

use super::record::{Record, Records};
use super::{Actuator, Shared};
use crate::ResourceName;
use crate::runtime::{Condvar, Mutex, MutexGuard, raise_thread, thread};

/// Hands stops to the actuator's thread. The thread ends when this is dropped and the last Stop has returned.
pub(super) struct Stopper {
    desk: Arc<Desk>,
    driver: Arc<dyn Actuator>,
}

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
        let (theirs, resource, called) = (desk.clone(), resource.clone(), driver.clone());
        thread::Builder::new().name(format!("stop {}", resource.name)).spawn(move || {
            raise_thread();
            while let Some((ids, extra)) = theirs.next() {
                let failed = stop(&*called, extra.as_ref());
                let Some(machine) = machine.upgrade() else { return };
                let result = if failed.is_none() { Ok(()) } else { Err(StopFailed) };
                if let Some(error) = &failed {
                    machine.records.write(Record::StopFailed { resource: resource.clone(), error: error.clone() });
                }
                machine.with(|state, now| {
                    match failed {
                        Some(error) => state.stop_errors.insert(resource.clone(), error),
                        None => state.stop_errors.remove(&resource),
                    };
                    ids.iter().for_each(|id| state.registry.handle_stopped(*id, result, now));
                });
            }
        })?;
        Ok(Self { desk, driver })
    }

    /// Orders a Stop; never waits.
    pub(super) fn stop(&self, id: StopId) {
        let mut orders = self.desk.lock();
        orders.waiting.push(id);
        drop(orders);
        self.desk.ordered.notify_one();
    }

    /// Whose Stop it calls.
    pub(super) fn driver(&self) -> &Arc<dyn Actuator> {
        &self.driver
    }

    /// What the caller of the next Stop gives its driver.
    pub(super) fn with_extra(&self, extra: Struct) {
        self.desk.lock().extra = Some(extra);
    }
}

impl Drop for Stopper {
    fn drop(&mut self) {
        self.desk.lock().closed = true;
        self.desk.ordered.notify_one();
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Orders> {
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

/// Stops a driver that is not the machine's any more, on a thread of its own: a write that was inside it when it was replaced has returned, and
/// nobody else will ever stop what that moved.
pub(super) fn stop_replaced(driver: Arc<dyn Actuator>, resource: &ResourceName, records: Arc<Records>) {
    let named = resource.clone();
    let stops = move || {
        raise_thread();
        if let Some(error) = stop(&*driver, None) {
            records.write(Record::StopFailed { resource: named, error });
        }
    };
    if let Err(error) = thread::Builder::new().name(format!("stop {}", resource.name)).spawn(stops) {
        tracing::error!(target: "liveness", %resource, %error, "no thread for a Stop of the driver that was replaced");
    }
}

/// Why the driver did not stop, if it did not. One that panics has failed, and takes nobody with it (s23).
fn stop(driver: &dyn Actuator, extra: Option<&Struct>) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(|| driver.stop(extra))) {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("its driver panicked".to_owned()),
    }
}
