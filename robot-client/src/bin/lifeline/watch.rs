//! `lifeline watch`: where calls to a machine go, live.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use machine_api::viam::robot::v1::GetSessionsRequest;
use machine_api::viam::robot::v1::robot_service_client::RobotServiceClient;
use robot_client::{LinkView, Robot, RouteState, RouteStatus, StandbyPolicy};
use serde_json::{Value, json};

use crate::arguments::ConnectionArguments;
use crate::connection;
use crate::failure::Failure;

/// How often the machine is asked for its sessions, and a round trip alone is news.
const EVERY: Duration = Duration::from_secs(1);

pub async fn run(common: &ConnectionArguments, address: &str, json: bool) -> Result<(), Failure> {
    // What is watched is what a program that drives would have: with a second link kept warm.
    let builder = connection::builder(common, address)?.standby(StandbyPolicy::Always);
    let robot = builder.connect().await.map_err(connection::failure)?;
    let mut routes = robot.watch_route();
    let terminal = std::io::stdout().is_terminal() && !json;
    let mut tick = tokio::time::interval(EVERY);
    let (mut sessions, mut told) = (None, None);
    loop {
        let status = routes.borrow_and_update().clone();
        let line = if json { value(&status, sessions).to_string() } else { text(&status, sessions) };
        // The round trip changes with every probe: on a terminal it is written over, elsewhere it alone is no line.
        let news = told.as_ref() != Some(&key(&status, sessions));
        if terminal {
            print!("\r\x1b[K{line}");
            if news {
                println!();
            }
            let _ = std::io::stdout().flush();
        } else if news {
            println!("{line}");
        }
        told = Some(key(&status, sessions));
        tokio::select! {
            changed = routes.changed() => if changed.is_err() {
                return Err(Failure::failed("the connection was closed"));
            },
            _ = tick.tick() => sessions = count(&robot).await.or(sessions),
            _ = tokio::signal::ctrl_c() => {
                robot.close().await;
                return Ok(());
            }
        }
    }
}

/// Sessions that the machine holds, whoever's they are; `None`: it does not say, or does not answer now.
async fn count(robot: &Robot) -> Option<usize> {
    robot.link()?;
    let mut request = tonic::Request::new(GetSessionsRequest {});
    request.set_timeout(EVERY / 2);
    let began = Instant::now();
    let answer = RobotServiceClient::new(robot.channel()).get_sessions(request).await;
    answer
        .inspect_err(|error| tracing::debug!(%error, after = ?began.elapsed(), "no sessions"))
        .ok()
        .map(|answer| answer.into_inner().sessions.len())
}

/// What makes a line worth writing.
fn key(status: &RouteStatus, sessions: Option<usize>) -> impl PartialEq + use<> {
    let id = |link: &Option<LinkView>| link.as_ref().map(|link| link.id);
    (status.state, id(&status.link), id(&status.standby), status.swaps, status.too_slow.is_some(), sessions)
}

fn state(state: RouteState) -> &'static str {
    match state {
        RouteState::Hunting => "hunting",
        RouteState::Good => "good",
        RouteState::Silent => "silent",
        RouteState::Suspect => "suspect",
        RouteState::Swapping => "swapping",
        RouteState::Over => "over",
    }
}

fn milliseconds(status: &RouteStatus) -> Option<f64> {
    status.rtt.map(|rtt| (rtt.as_secs_f64() * 1e6).round() / 1e3)
}

fn value(status: &RouteStatus, sessions: Option<usize>) -> Value {
    let link = |link: &Option<LinkView>| {
        link.as_ref().map(|link| json!({ "id": link.id.0, "route": link.route, "tier": format!("{:?}", link.tier) }))
    };
    json!({
        "state": status.state,
        "link": link(&status.link),
        "rtt_ms": milliseconds(status),
        "too_slow": status.too_slow.map(|slow| json!({ "took_ms": slow.took.as_millis(), "window_ms": slow.window.as_millis() })),
        "standby": link(&status.standby),
        "sessions": sessions,
        "swaps": status.swaps,
        "last_swap": status.last_swap,
    })
}

fn text(status: &RouteStatus, sessions: Option<usize>) -> String {
    let mut line = format!("{:<9}", state(status.state));
    if let Some(link) = &status.link {
        line += &format!(" {} ({:?})", link.route, link.tier);
    }
    if let Some(rtt) = milliseconds(status) {
        line += &format!(", {rtt:.1} ms");
    }
    if let Some(slow) = status.too_slow {
        line += &format!(" (TOO SLOW for a session of {:.1} s)", slow.window.as_secs_f64());
    }
    match &status.standby {
        Some(standby) => line += &format!(", standby ready over {}", standby.route),
        None => line += ", no standby",
    }
    if let Some(sessions) = sessions {
        line += &format!(", {sessions} session{} at the machine", if sessions == 1 { "" } else { "s" });
    }
    if let Some(swap) = &status.last_swap {
        line += &format!(", swap {}: {}", status.swaps, swap.why);
        if swap.gap_ms > 0.0 {
            line += &format!(", after {:.0} ms without a link", swap.gap_ms);
        }
    }
    line
}
