//! What runs on the machine: listed, waited for, cancelled.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use session_core::SessionId;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A call that runs.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Its id: the `opid` of its response.
    pub id: Uuid,
    /// The gRPC path.
    pub method: String,
    /// When it began.
    pub started: SystemTime,
    /// The session it belongs to.
    pub session: Option<SessionId>,
    cancel: CancellationToken,
    ended: CancellationToken,
}

impl Operation {
    /// Resolves when the operation is to end.
    pub(crate) async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// Resolves when the operation has ended.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

/// Every call that runs. Clones are the same list.
#[derive(Clone, Debug, Default)]
pub struct Operations(Arc<Mutex<BTreeMap<Uuid, Operation>>>);

/// A running operation; it has ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) operation: Operation,
    list: Operations,
}

impl Operations {
    /// Adds a call. An id that runs already, or none, gives a fresh one (s48).
    pub(crate) fn begin(&self, id: Option<Uuid>, method: &str, session: Option<SessionId>) -> Entry {
        let mut list = self.lock();
        let id = id.filter(|id| !list.contains_key(id)).unwrap_or_else(Uuid::new_v4);
        let operation = Operation {
            id,
            method: method.to_owned(),
            started: SystemTime::now(),
            session,
            cancel: CancellationToken::new(),
            ended: CancellationToken::new(),
        };
        list.insert(id, operation.clone());
        Entry { operation, list: self.clone() }
    }

    /// What runs, oldest first.
    pub fn list(&self) -> Vec<Operation> {
        let mut all: Vec<_> = self.lock().values().cloned().collect();
        all.sort_by_key(|operation| operation.started);
        all
    }

    /// Ends an operation; unknown ids are ended already.
    pub fn cancel(&self, id: Uuid) {
        if let Some(operation) = self.lock().get(&id) {
            operation.cancel.cancel();
        }
    }

    /// Waits for an operation's end; unknown ids have ended already.
    pub async fn ended(&self, id: Uuid) {
        let ended = self.lock().get(&id).map(|operation| operation.ended.clone());
        if let Some(ended) = ended {
            ended.cancelled().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Uuid, Operation>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.list.lock().remove(&self.operation.id);
        self.operation.ended.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn s43_waiting_ends_with_the_operation() {
        let operations = Operations::default();
        let entry = operations.begin(None, "/a.B/C", None);
        let id = entry.operation.id;
        let (waiting, all) = (operations.clone(), operations.list());
        assert_eq!(all.iter().map(|o| o.id).collect::<Vec<_>>(), [id]);
        let waited = tokio::spawn(async move { waiting.ended(id).await });
        drop(entry);
        waited.await.expect("it returned");
        operations.ended(id).await;
        assert!(operations.list().is_empty());
    }

    #[tokio::test]
    async fn s42_cancelling_reaches_the_operation_and_unknown_ids_are_fine() {
        let operations = Operations::default();
        let entry = operations.begin(None, "/a.B/C", None);
        operations.cancel(Uuid::new_v4());
        operations.cancel(entry.operation.id);
        entry.operation.cancelled().await;
    }

    #[test]
    fn s48_an_id_that_runs_already_is_replaced() {
        let operations = Operations::default();
        let wanted = Uuid::new_v4();
        let first = operations.begin(Some(wanted), "/a.B/C", None);
        let second = operations.begin(Some(wanted), "/a.B/C", None);
        assert_eq!(first.operation.id, wanted);
        assert_ne!(second.operation.id, wanted);
    }
}
