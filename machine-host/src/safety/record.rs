//! What happened, written down: log records and counters, on a thread of their own. A log that blocks (a full pipe, a slow disk) must not
//! keep anybody from stopping anything, so nothing that holds the lock or a deadline ever writes one.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use session_core::registry::{Cause, Holder};
use transport::serve::PeerConnection;

use crate::ResourceName;

/// Records that wait for the log: a machine that loses a thousand clients at once is written down whole. Beyond it they are counted only.
const WAITING: usize = 4096;

/// One thing to write down.
pub(super) enum Record {
    /// A holder's lease ended (s29).
    Lapsed {
        holder: Holder,
        /// Where it was last heard from.
        contact: Option<Arc<PeerConnection>>,
        stopped: BTreeSet<ResourceName>,
        cause: Cause,
    },
    /// A Stop is overdue, or failed with all its repetitions.
    StopLost { resource: ResourceName, cause: Cause },
    /// A driver's Stop failed once.
    StopFailed { resource: ResourceName, error: String },
    /// A write was inside a driver for longer than a controller can wait.
    SlowWrite { resource: ResourceName, took: Duration },
}

/// Takes records; never waits. The thread ends with the last of these.
pub(super) struct Records {
    waiting: SyncSender<Record>,
    lost: Arc<AtomicU64>,
}

impl Records {
    pub(super) fn start() -> io::Result<Self> {
        let (waiting, taken) = sync_channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let theirs = lost.clone();
        thread::Builder::new().name("records".into()).spawn(move || write_all(&taken, &theirs))?;
        Ok(Self { waiting, lost })
    }

    pub(super) fn write(&self, record: Record) {
        if self.waiting.try_send(record).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write_all(taken: &Receiver<Record>, lost: &AtomicU64) {
    for record in taken {
        write(record);
        let lost = lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            metrics::counter!("lifeline_records_lost_total").increment(lost);
            tracing::warn!(lost, "the log is slower than what happens: records were lost");
        }
    }
}

fn write(record: Record) {
    match record {
        Record::Lapsed { holder, contact, stopped, cause } => {
            metrics::counter!("lifeline_lapses_total").increment(1);
            let stopped: Vec<_> = stopped.iter().map(ToString::to_string).collect();
            let (kind, id) = match holder {
                Holder::Session(id) => ("session", Some(id.to_string())),
                Holder::Connection(connection) => ("connection", Some(connection.0.to_string())),
                Holder::Principal(_) => ("principal", None),
                Holder::Execution(number) => ("execution", Some(number.to_string())),
                Holder::Module(number) => ("module", Some(number.to_string())),
            };
            // In the words of GetSessions.
            let (connection_type, remote) = match &contact {
                None => ("unspecified", String::new()),
                Some(peer) => match peer.pair() {
                    Some(pair) => ("webrtc", pair.remote.to_string()),
                    None => ("grpc", peer.remote.map(|remote| remote.to_string()).unwrap_or_default()),
                },
            };
            let id = id.unwrap_or_default();
            tracing::info!(
                target: "liveness",
                event = "expired",
                holder = kind,
                session_id = id,
                connection_type,
                remote_address = remote,
                stopped_resources = ?stopped,
                ?cause,
                "a lease ended, and what it held is stopped"
            );
        }
        Record::StopLost { resource, cause } => {
            metrics::counter!("lifeline_stops_lost_total").increment(1);
            tracing::error!(target: "liveness", %resource, ?cause, "Stop was lost: the actuator may still be moving");
        }
        Record::StopFailed { resource, error } => {
            metrics::counter!("lifeline_stops_failed_total").increment(1);
            tracing::error!(target: "liveness", %resource, error, "failed to stop some resources");
        }
        Record::SlowWrite { resource, took } => {
            metrics::counter!("lifeline_slow_writes_total").increment(1);
            tracing::warn!(%resource, ?took, "a write was inside its driver for more than 50 ms: everybody else waited");
        }
    }
}
