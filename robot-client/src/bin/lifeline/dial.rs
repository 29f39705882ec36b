//! `lifeline dial`: how a machine is reached, candidate by candidate.

use robot_client::{FlightRecord, RouteEvent};
use serde_json::json;
use tokio::time::{Duration, timeout};

use crate::arguments::ConnectionArguments;
use crate::connection;
use crate::failure::Failure;
use crate::report;

/// How wide the waterfall is, in characters.
const WIDTH: usize = 40;

pub async fn run(common: &ConnectionArguments, address: &str, explain: bool, json: bool) -> Result<(), Failure> {
    let robot = match connection::builder(common, address)?.connect().await {
        Ok(robot) => robot,
        Err(error) => {
            if explain && let Some(record) = error.record() {
                let value = json!({ "route": null, "record": record, "then": null });
                report::print(json, &value, || waterfall(record));
            }
            return Err(connection::failure(error));
        }
    };
    let record = robot.first_dial().ok_or_else(|| Failure::failed("the dial left no record"))?;
    let mut routes = robot.route_events();
    // Better routes promote within a second; what became of them belongs to the story.
    let mut better = None;
    if explain {
        while let Ok(Ok(event)) = timeout(Duration::from_millis(300), routes.recv()).await {
            if let RouteEvent::Use(view, _) = event {
                better = Some(view.route);
            }
        }
    }
    let route = robot.route();
    robot.close().await;
    let value = json!({ "route": route, "record": &*record, "then": better });
    report::print(json, &value, || {
        println!("connected in {:.1} ms over {}", record.took_ms, route.clone().unwrap_or_default());
        if explain {
            waterfall(&record);
        }
    });
    Ok(())
}

/// One line for each candidate: when it was found, each stage, how it ended.
fn waterfall(record: &FlightRecord) {
    let whole = record.took_ms.max(0.1);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "columns of a terminal"
    )]
    let column = |ms: f64| ((ms / whole * WIDTH as f64).round().max(0.0) as usize).min(WIDTH);
    println!();
    println!("{:<28} {:<9} 0 {:>width$}", "CANDIDATE", "FROM", format!("{whole:.1} ms"), width = WIDTH);
    for attempt in &record.tries {
        let began = attempt.began_ms.unwrap_or(attempt.found_ms);
        let ended = attempt.ended_ms.unwrap_or(record.took_ms);
        let mut bar: Vec<char> = vec![' '; WIDTH + 1];
        bar[column(began)..=column(ended)].fill('-');
        for (_, at) in &attempt.stages {
            bar[column(*at)] = '|';
        }
        println!("{:<28} {:<9} {}", attempt.route, attempt.origin, bar.into_iter().collect::<String>());
        let stages: Vec<_> = attempt.stages.iter().map(|(stage, at)| format!("{} {at:.1}", stage.name())).collect();
        println!("{:<28} {:<9}   {} {:?}", "", "", stages.join(", "), attempt.result);
    }
    for complaint in &record.source_errors {
        println!("{complaint}");
    }
}
