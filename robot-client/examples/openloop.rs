//! Calls a machine at a fixed pace, whatever becomes of the calls: `openloop ADDRESS [WHAT=VALUE ..]`. It prints JSON lines: what became of each
//! call, counted from the moment it was due, and what happened to routes and session. Credentials and trust come from VIAM_API_KEY_ID,
//! VIAM_API_KEY and LIFELINE_CA_FILE.
//!
//! Options: `rate=50` calls of a kind a second; `for=10` seconds, `start=1` the number of the first call; `motion=base` SetVelocity of a base, each
//! with a value of its own (its number in tenths of a millimetre a second above 100), none where empty; `read=base` IsMoving of a base; `readings=` a sensor
//! whose readings are read instead; `camera=`
//! cameras, separated by commas, whose images are fetched, of each one after the other; `upload=` a component that is told 256 KiB in a command of its own, again and again;
//! `cloud=` the signaling service; `move=` a base that drives `distance=2000` millimetres in one blocking call of 200 mm/s;
//! `tls_name=` the name that the machine has to prove; `standby=always` or `never`, otherwise while something is held.
//!
//! Orders on standard input, one a line: `stop` stops the base, `hush` and `speak` end and begin motion calls, `close` leaves in order.

mod orders;

use std::env::{args, var, var_os};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dialer::agent::StandbyPolicy;
use machine_api::viam::common::v1::{DoCommandRequest, Vector3};
use machine_api::viam::component::base::v1::base_service_client::BaseServiceClient;
use prost_types::value::Kind;
use prost_types::{Struct, Value as Text};
use robot_client::{Robot, RouteEvent, SessionError};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tonic::Status;

/// What to do, from the command line.
#[derive(Clone)]
struct Plan {
    address: String,
    rate: f64,
    seconds: f64,
    start: u32,
    motion: String,
    read: String,
    readings: String,
    camera: String,
    upload: String,
    cloud: String,
    long_move: String,
    distance: i64,
    tls_name: String,
    standby: StandbyPolicy,
}

impl Plan {
    fn read() -> Result<Self, Box<dyn std::error::Error>> {
        let mut plan = Self {
            address: args().nth(1).ok_or("usage: openloop ADDRESS [WHAT=VALUE ..]")?,
            rate: 50.0,
            seconds: 10.0,
            start: 1,
            motion: "base".into(),
            read: "base".into(),
            readings: String::new(),
            camera: String::new(),
            upload: String::new(),
            cloud: String::new(),
            long_move: String::new(),
            distance: 2_000,
            tls_name: String::new(),
            standby: StandbyPolicy::WhileControlling,
        };
        for argument in args().skip(2) {
            let (what, value) = argument.split_once('=').ok_or_else(|| format!("{argument}: expected WHAT=VALUE"))?;
            match what {
                "rate" => plan.rate = value.parse()?,
                "for" => plan.seconds = value.parse()?,
                "start" => plan.start = value.parse()?,
                "motion" => plan.motion = value.to_owned(),
                "read" => plan.read = value.to_owned(),
                "readings" => plan.readings = value.to_owned(),
                "camera" => plan.camera = value.to_owned(),
                "upload" => plan.upload = value.to_owned(),
                "cloud" => plan.cloud = value.to_owned(),
                "distance" => plan.distance = value.parse()?,
                "standby" => {
                    plan.standby = match value {
                        "always" => StandbyPolicy::Always,
                        "never" => StandbyPolicy::Never,
                        other => return Err(format!("standby={other}: expected always or never").into()),
                    }
                }
                "tls_name" => plan.tls_name = value.to_owned(),
                "move" => plan.long_move = value.to_owned(),
                other => return Err(format!("no option is called {other}").into()),
            }
        }
        Ok(plan)
    }
}

fn say(mut line: Value) {
    line["t"] = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64()).into();
    let mut out = std::io::stdout().lock();
    // Whoever listened may have gone: then nobody is interested.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Waits for a call and says what became of it, `due` being when it should have been made.
async fn told<T>(
    kind: &str,
    number: u32,
    value: Option<f64>,
    due: Instant,
    call: impl Future<Output = Result<T, Status>>,
) {
    let result = call.await;
    let took = due.elapsed().as_secs_f64() * 1e3;
    let mut line = json!({ "call": kind, "number": number, "took_ms": took, "ok": result.is_ok() });
    if let Some(value) = value {
        line["value"] = value.into();
    }
    if let Err(status) = result {
        line["code"] = format!("{:?}", status.code()).into();
        line["error"] = status.message().into();
        line["session_error"] = SessionError::of(&status).map(|e| format!("{e:?}")).into();
    }
    say(line);
}

// One thread: calls that are due at once are made in the order of their numbers.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let plan = Plan::read()?;
    let mut builder = Robot::builder(&plan.address);
    if let (Ok(id), Ok(key)) = (var("VIAM_API_KEY_ID"), var("VIAM_API_KEY")) {
        builder = builder.api_key(id, key);
    }
    if let Some(file) = var_os("LIFELINE_CA_FILE") {
        builder = builder.trust_ca(file);
    }
    builder = builder.standby(plan.standby);
    if !plan.cloud.is_empty() {
        builder = builder.cloud(&plan.cloud);
    }
    if !plan.tls_name.is_empty() {
        builder = builder.tls_name(&plan.tls_name);
    }
    let started = Instant::now();
    let robot = match builder.connect().await {
        Ok(robot) => robot,
        Err(error) => {
            say(json!({ "failed": error.to_string(), "took_ms": started.elapsed().as_secs_f64() * 1e3 }));
            return Err(error.into());
        }
    };
    let events = tokio::spawn(watch(robot.clone()));
    let link = robot.link();
    say(json!({
        "connected": robot.route(), "took_ms": started.elapsed().as_secs_f64() * 1e3,
        "tier": link.as_ref().map(|link| format!("{:?}", link.tier)), "remote": link.as_ref().and_then(|link| link.remote),
    }));
    let speaking = Arc::new(AtomicBool::new(true));
    let mut orders = orders::listen();
    let work = tokio::spawn(work(robot.clone(), plan.clone(), speaking.clone()));
    let end = tokio::time::sleep(Duration::from_secs_f64(plan.seconds));
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => break,
            order = orders.recv() => match order.as_deref() {
                Some("stop") => {
                    let base = robot.base(&plan.motion);
                    tokio::spawn(async move { told("stop", 0, None, Instant::now(), base.stop()).await });
                }
                Some("hush") => speaking.store(false, Ordering::Relaxed),
                Some("speak") => speaking.store(true, Ordering::Relaxed),
                Some("close") => break,
                Some(other) => say(json!({ "unknown": other })),
                // Nobody gives orders any more.
                None => orders = mpsc::unbounded_channel().1,
            },
        }
        if orders.is_closed() {
            end.as_mut().await;
            break;
        }
    }
    work.abort();
    robot.close().await;
    events.abort();
    say(json!({ "closed": true }));
    Ok(())
}

/// Makes each call when it is due, whether or not those before it were answered.
async fn work(robot: Robot, plan: Plan, speaking: Arc<AtomicBool>) {
    if !plan.long_move.is_empty() {
        let base = robot.base(&plan.long_move);
        tokio::spawn(
            async move { told("move", 0, None, Instant::now(), base.move_straight(plan.distance, 200.0)).await },
        );
    }
    for camera in plan.camera.split(',').filter(|name| !name.is_empty()) {
        tokio::spawn(pictures(robot.clone(), camera.to_owned()));
    }
    if !plan.upload.is_empty() {
        tokio::spawn(uploads(robot.clone(), plan.upload.clone()));
    }
    let begun = Instant::now();
    for number in 0.. {
        let due = begun + Duration::from_secs_f64(f64::from(number) / plan.rate);
        tokio::time::sleep_until(due.into()).await;
        let number = plan.start + number;
        if !plan.motion.is_empty() && speaking.load(Ordering::Relaxed) {
            let base = robot.base(&plan.motion);
            let value = 100.0 + f64::from(number) / 10.0;
            let forward = Vector3 { x: 0.0, y: value, z: 0.0 };
            tokio::spawn(async move {
                told("motion", number, Some(value), due, base.set_velocity(forward, Vector3::default())).await;
            });
        }
        if !plan.readings.is_empty() {
            let sensor = robot.sensor(&plan.readings);
            tokio::spawn(async move { told("read", number, None, due, sensor.readings()).await });
        } else if !plan.read.is_empty() {
            let base = robot.base(&plan.read);
            tokio::spawn(async move { told("read", number, None, due, base.is_moving()).await });
        }
    }
}

/// Fetches images, each as soon as the one before it is there, so that much comes down all the time.
async fn pictures(robot: Robot, name: String) {
    let camera = robot.camera(&name);
    for number in 0.. {
        let asked = Instant::now();
        let failed = match tokio::time::timeout(Duration::from_secs(5), camera.images()).await {
            Ok(answer) => answer.err().map(|status| status.to_string()),
            Err(_) => Some("no image within 5 s".to_owned()),
        };
        let took = asked.elapsed().as_secs_f64() * 1e3;
        say(json!({ "call": "image", "number": number, "took_ms": took, "ok": failed.is_none(), "error": failed }));
        if failed.is_some() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Sends much, each part as soon as the one before it was answered, so that much goes up all the time. Whether the component can do anything with
/// it does not matter.
async fn uploads(robot: Robot, name: String) {
    let text = Kind::StringValue("x".repeat(256 << 10));
    let command = Struct { fields: [("text".to_owned(), Text { kind: Some(text) })].into() };
    let mut base = BaseServiceClient::new(robot.channel());
    for number in 0.. {
        let request = DoCommandRequest { name: name.clone(), command: Some(command.clone()) };
        let asked = Instant::now();
        let ok = base.do_command(request).await.is_ok();
        let took = asked.elapsed().as_secs_f64() * 1e3;
        say(json!({ "call": "upload", "number": number, "took_ms": took, "ok": ok }));
        if took < 100.0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn watch(robot: Robot) {
    let (mut routes, mut session) = (robot.route_events(), robot.events());
    drop(robot);
    loop {
        tokio::select! {
            event = routes.recv() => match event {
                Ok(event) => say(route(&event)),
                Err(tokio::sync::broadcast::error::RecvError::Lagged(lost)) => say(json!({ "lost": lost })),
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            },
            event = session.recv() => match event {
                Ok(event) => say(json!({ "session": format!("{event:?}") })),
                Err(tokio::sync::broadcast::error::RecvError::Lagged(lost)) => say(json!({ "lost": lost })),
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            },
        }
    }
}

fn route(event: &RouteEvent) -> Value {
    let (what, of) = match event {
        RouteEvent::Use(link, _) => (
            "use",
            json!({
                "link": format!("{:?}", link.id), "route": link.route, "rtt_ms": link.rtt.as_secs_f64() * 1e3,
                "tier": format!("{:?}", link.tier), "remote": link.remote,
            }),
        ),
        RouteEvent::Connected(link) => ("connected", json!({ "link": format!("{:?}", link.id), "route": link.route })),
        RouteEvent::Hedge { from, on } => ("hedge", json!({ "from": format!("{from:?}"), "on": format!("{on:?}") })),
        RouteEvent::Standby { link } => ("standby", json!({ "link": link.map(|l| format!("{l:?}")) })),
        RouteEvent::NoRoute { swapping } => ("no_route", json!({ "swapping": swapping })),
        other => {
            let text = format!("{other:?}");
            let name: String = text.chars().take_while(|c| c.is_ascii_alphanumeric()).collect();
            return json!({ "route": name.to_lowercase(), "of": text.chars().take(300).collect::<String>() });
        }
    };
    json!({ "route": what, "of": of })
}
