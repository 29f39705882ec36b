//! The ground truth: what really moved, as JSON lines.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// Lines that may wait for a slow reader. Beyond it lines are lost, and how many is told: nothing that moves ever waits for who watches.
const WAITING: usize = 16_384;

/// Where what happens is written.
#[derive(Clone, Default)]
pub struct Observer(Option<Arc<Desk>>);

struct Desk {
    lines: SyncSender<String>,
    lost: AtomicU64,
}

/// What happened to an actuator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// Its driver was written to.
    Write,
    /// It began to move.
    Moving,
    /// It came to rest.
    Stopped,
}

impl Observer {
    /// Nobody watches.
    pub fn none() -> Self {
        Self(None)
    }

    /// Writes each line to `to`, on a thread of its own.
    pub fn start(to: impl Write + Send + 'static) -> std::io::Result<Self> {
        let (lines, written) = sync_channel(WAITING);
        thread::Builder::new().name("observer".into()).spawn(move || write_all(written, to))?;
        Ok(Self(Some(Arc::new(Desk { lines, lost: AtomicU64::new(0) }))))
    }

    /// Tells that something happened, now. Never waits.
    pub fn tell(&self, actuator: &str, happened: Happened, state: Value, value: Value, cause: Option<&str>) {
        let Some(desk) = &self.0 else { return };
        let event = match happened {
            Happened::Write => "write",
            Happened::Moving => "moving",
            Happened::Stopped => "stopped",
        };
        let mut line = json!({ "t": unix_time(), "actuator": actuator, "event": event, "state": state });
        if !value.is_null() {
            line["value"] = value;
        }
        if let Some(cause) = cause {
            line["cause"] = cause.into();
        }
        let lost = desk.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            line["lost_before"] = lost.into();
        }
        if let Err(TrySendError::Full(_)) = desk.lines.try_send(line.to_string()) {
            desk.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }
}

fn write_all(lines: Receiver<String>, mut to: impl Write) {
    for line in lines {
        if let Err(error) = writeln!(to, "{line}").and_then(|()| to.flush()) {
            tracing::error!(%error, "the observer's file cannot be written any more");
            return;
        }
    }
}

fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}
