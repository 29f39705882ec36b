//! `lifeline discover`: who answers on this network.

use std::time::Duration;

use discovery::{Browse, Sighting};
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use crate::failure::Failure;
use crate::report;

pub async fn run(duration: Duration, json: bool) -> Result<(), Failure> {
    let mut browse = Browse::start().map_err(Failure::failed)?;
    let until = Instant::now() + duration;
    if !json {
        eprintln!("listening for {:.1} s ..", duration.as_secs_f64());
    }
    while let Ok(Some(_)) = timeout_at(until, browse.next()).await {}
    let seen: Vec<_> = browse.seen().cloned().collect();
    let list: Vec<_> = seen
        .iter()
        .map(|machine| {
            json!({
                "name": machine.name,
                "addresses": addresses(machine),
                "grpc": machine.grpc,
                "webrtc": machine.webrtc,
            })
        })
        .collect();
    report::print(json, &json!({ "machines": list }), || {
        let rows: Vec<_> = seen.iter().map(|m| vec![m.name.clone(), addresses(m).join(", ")]).collect();
        report::table(&["MACHINE", "ADDRESSES"], &rows);
    });
    Ok(())
}

fn addresses(machine: &Sighting) -> Vec<String> {
    machine.addresses.iter().map(ToString::to_string).collect()
}
