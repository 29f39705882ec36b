//! The published echo server as a machine for our client. It moves nothing; what it has is every kind of call but one, and a log that tells how each
//! call ended for it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::one_cable::OneCable;
use super::stock::certificate;
use super::{Row, go};
use crate::Outcome;
use crate::e2e::Stage;
use crate::e2e::labs::driver::Driver;
use crate::observer::now;
use crate::processes::{Built, KEY, Running};

/// What it is called. It also is the only user that it knows.
const NAME: &str = "echo-main.loc1.viam.cloud";

/// How long everything may take: the longest call of these takes as long as its deadline, 0.3 s, or as a megabyte takes.
const CALLS: Duration = Duration::from_secs(20);

/// How a call of this method may end for the server, and within how many milliseconds of its beginning.
type End = (&'static str, &'static [&'static str], f64);

/// How the calls of one round have to end for the server, those of each method in their order. One that does not just end is an exchange whose other
/// end is silent, but there, for a second, or one with a million answers.
///
/// The server tells its own end of a cancelled call differently: its HTTP server calls a write to it `Unavailable`; over WebRTC a read finds the end,
/// which is `OK`, and a write a closed pipe, which is `Unknown`, unless it looks at the call before. A deadline passes at both ends at once, and ends
/// the call either way.
const fn ends(over_webrtc: bool) -> [End; 8] {
    let (cancelled, late, written): (&[&str], &[&str], &[&str]) = if over_webrtc {
        (&["OK", "Canceled"], &["DeadlineExceeded", "OK", "Canceled"], &["Unknown", "Canceled"])
    } else {
        (&["Canceled"], &["DeadlineExceeded", "Canceled"], &["Unavailable", "Canceled"])
    };
    [
        ("Echo", &["OK"], 1_000.0),
        ("Echo", &["OK"], 1_000.0),
        ("Echo", &["OK"], 1_000.0),
        ("EchoMultiple", &["OK"], 2_000.0),
        ("EchoMultiple", written, 2_000.0),
        ("EchoBiDi", &["OK"], 2_000.0),
        ("EchoBiDi", cancelled, 700.0),
        ("EchoBiDi with a deadline", late, 500.0),
    ]
}

/// A client, the server, and the cable between them.
struct Place<'a> {
    stage: &'a Stage,
    cable: OneCable,
    folder: PathBuf,
    _server: Running,
}

/// Found by its name, with every kind of call over both kinds of links.
pub fn inside(root: &Path, built: &Built, folder: &Path) -> Result<Vec<Row>, Box<dyn std::error::Error>> {
    let stage = Stage::new(built.clone(), folder.to_path_buf(), false, 1);
    let place = Place::start(&stage, &go::echo_program(root)?)?;
    let mut client = place.client(KEY)?;
    let connected = client.wait("its link", 0.0, Duration::from_secs(10), |line| line["connected"].is_string())?;
    let took = connected["took_ms"].as_f64().unwrap_or_default();
    let direct = place.calls(&mut client, false)?;
    client.wait_for_standby(Duration::from_secs(10))?;
    let cut = now();
    place.cable.cut_tcp(true)?;
    client.wait("calls over WebRTC", cut, Duration::from_secs(15), |line| {
        line["route"] == "use" && webrtc(&line["of"])
    })?;
    let over_webrtc = place.calls(&mut client, true)?;
    place.cable.cut_tcp(false)?;
    client.order("close")?;
    client.end(Duration::from_secs(10))?;
    Ok(vec![
        Row::of("echo server: found by name, calls, direct", format!("ok, connected in {took:.0} ms, {direct}")),
        Row::of("echo server: TCP cut, calls over WebRTC", format!("ok, {over_webrtc}")),
        Row::of("echo server: a wrong key is refused", place.refused()?),
    ])
}

/// Whether that is a route over WebRTC.
fn webrtc(of: &Value) -> bool {
    of["route"].as_str().is_some_and(|route| route.contains("WebRTC"))
}

impl<'a> Place<'a> {
    /// Lays the cable and starts the server on its end of it.
    fn start(stage: &'a Stage, program: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let (cable, folder) = (OneCable::new(stage)?, stage.folder.join("echo"));
        fs::create_dir_all(&folder)?;
        let (chain, key, ca) = certificate(&[NAME])?;
        for (file, text) in [("chain.pem", chain), ("key.pem", key), ("ca.pem", ca)] {
            fs::write(folder.join(file), text)?;
        }
        let log = File::create(folder.join("server.log"))?;
        let mut command = Command::new(program);
        command.args(["-bind-address", "10.1.0.1:8080", "-instance-name", NAME, "-api-key", KEY]);
        command.arg("-tls-cert").arg(folder.join("chain.pem")).arg("-tls-key").arg(folder.join("key.pem"));
        command.current_dir(&folder).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let server = cable.server.start("the published echo server", &mut command)?;
        let place = Self { stage, cable, folder, _server: server };
        let until = Instant::now() + Duration::from_secs(10);
        while !place.log()?.contains("\tserving\t") {
            if Instant::now() > until {
                return Err(format!("it does not serve:\n{}", place.log()?).into());
            }
            sleep(Duration::from_millis(20));
        }
        Ok(place)
    }

    fn log(&self) -> std::io::Result<String> {
        fs::read_to_string(self.folder.join("server.log"))
    }

    /// Our client, with this key.
    fn client(&self, key: &str) -> Result<Driver, Box<dyn std::error::Error>> {
        let mut command = self.stage.built.command("examples/echo");
        command
            .arg(NAME)
            .env("VIAM_API_KEY_ID", NAME)
            .env("VIAM_API_KEY", key)
            .env("LIFELINE_CA_FILE", self.folder.join("ca.pem"))
            .env("XDG_CACHE_HOME", self.folder.join("cache"))
            .env("XDG_STATE_HOME", self.folder.join("client-state"));
        Driver::run(self.stage, &self.cable.client, &mut command)
    }

    /// Every kind of call, over WebRTC or not, and how each ended at both ends.
    fn calls(&self, client: &mut Driver, over_webrtc: bool) -> Result<String, Box<dyn std::error::Error>> {
        let (since, logged) = (now(), self.log()?.len());
        client.order("calls")?;
        client.wait("its calls", since, CALLS, |line| line["calls"] == "done")?;
        let (mut count, mut over) = (0, String::new());
        for call in client.said().into_iter().filter(|l| l["call"].is_string() && l["t"].as_f64() >= Some(since)) {
            over = call["over"].as_str().ok_or_else(|| format!("the link changed: {call}"))?.to_owned();
            if call["ok"] != true || over.contains("WebRTC") != over_webrtc {
                return Err(format!("over {}: {call}", if over_webrtc { "WebRTC" } else { "a direct link" }).into());
            }
            count += 1;
        }
        self.ended(logged, &ends(over_webrtc))?;
        Ok(format!("{count} calls, cancels and deadlines seen by it, over {over}"))
    }

    /// What the server has logged since then is how the calls of one round end, and nothing else.
    fn ended(&self, since: usize, ends: &[End]) -> Outcome {
        let until = Instant::now() + Duration::from_secs(3);
        loop {
            let log = self.log()?;
            let mut ended: Vec<Ended> = log[since..].lines().filter_map(Ended::read).collect();
            // Calls of different methods overlap: the next begins before one that was cancelled has ended.
            ended.sort_by_key(|call| ends.iter().position(|(method, ..)| *method == call.method));
            let as_wanted = |(call, (method, codes, within)): (&Ended, &End)| {
                call.method == *method && codes.contains(&&*call.code) && call.took_ms < *within
            };
            if ended.len() == ends.len() && ended.iter().zip(ends).all(as_wanted) {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!("the server saw the calls end otherwise than {ends:#?}: {ended:#?}").into());
            }
            sleep(Duration::from_millis(20));
        }
    }

    fn refused(&self) -> Result<String, Box<dyn std::error::Error>> {
        let client = self.client("another key")?;
        let failed = client.wait("its failure", 0.0, Duration::from_secs(10), |line| line["failed"].is_string())?;
        if failed["kind"] == "Refused" { Ok("ok".to_owned()) } else { Err(format!("not refused: {failed}").into()) }
    }
}

/// How a call ended for the server.
#[derive(Debug)]
struct Ended {
    method: String,
    code: String,
    took_ms: f64,
}

impl Ended {
    /// Reads a line of the server's log, whose last column is JSON.
    fn read(line: &str) -> Option<Self> {
        let facts: Value = serde_json::from_str(line.split('\t').find(|column| column.starts_with('{'))?).ok()?;
        let text = |name: &str| facts[name].as_str().map(str::to_owned);
        let ours = facts["grpc.service"] == "proto.rpc.examples.echo.v1.EchoService";
        let (mut method, code) = (text("grpc.method").filter(|_| ours)?, text("grpc.code")?);
        if facts["grpc.request.deadline"].is_string() {
            method.push_str(" with a deadline");
        }
        Some(Self { method, code, took_ms: facts["grpc.time_ms"].as_f64()? })
    }
}
