//! `--calls`: which calls arrive, as JSON lines.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::time::UNIX_EPOCH;

use machine_host::{Arrival, Machine};
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

/// Writes the calls of `machine` to a file or (`-`) to standard output, until that cannot be written any more.
pub fn record(machine: &Machine, to: &str) -> io::Result<()> {
    let mut out: Box<dyn Write + Send> = match to {
        "-" => Box::new(io::stdout()),
        path => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
    };
    let mut arrivals = machine.arrivals();
    tokio::task::spawn_blocking(move || {
        loop {
            let line = match arrivals.blocking_recv() {
                Ok(arrival) => line(&arrival),
                Err(RecvError::Lagged(lost)) => json!({ "lost": lost }),
                Err(RecvError::Closed) => return,
            };
            if let Err(error) = writeln!(out, "{line}").and_then(|()| out.flush()) {
                tracing::error!(%error, "calls cannot be recorded any more");
                return;
            }
        }
    });
    Ok(())
}

fn line(arrival: &Arrival) -> serde_json::Value {
    json!({
        "t": arrival.at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
        "call": arrival.path,
        "session": arrival.session,
        "order": arrival.order,
        "authorized": arrival.authorized,
        "connection": arrival.connection,
        "pair": arrival.pair.map(|pair| pair.to_string()),
    })
}
