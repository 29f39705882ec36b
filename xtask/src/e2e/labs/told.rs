//! What the tool tells a person, or a script, of routes: `lifeline watch` while one is cut, and `lifeline dial --explain` of each way to a machine.

use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::super::Stage;
use super::driver::Driver;
use super::places::{PORT, TwoPaths, within};
use super::town::{CLOUD, Layout, Town};
use crate::Outcome;
use crate::lab::policy::Policy;
use crate::lab::{BOTH, Host};
use crate::processes::{Machine, Running};

/// The stages of a direct link, in their order.
const DIRECT: [&str; 4] = ["tcp", "tls", "http2", "auth"];
/// Those of a connection over WebRTC.
const WEBRTC: [&str; 8] = ["tcp", "tls", "http2", "auth", "signaling", "ice", "dtls", "channel"];

/// The primary is cut while somebody watches and somebody else drives: what is printed names the route, its round trip, the session, the standby, and
/// afterwards the swap and why there was one.
pub fn watch(stage: &Stage) -> Outcome {
    let place = TwoPaths::new(stage)?;
    let mut command = stage.built.command("lifeline");
    place.machine.credentials(&mut command);
    let mut watch = Watch::start(&place.client, command.args(["--json", "watch", &place.machine.name]))?;
    let ready = watch.line("a link and a standby", |line| line["standby"]["route"].is_string())?;
    let first = ready["link"]["route"].as_str().ok_or("no link beside a standby")?.to_owned();
    let (primary, other) = place.cables_of(&first)?;
    let second = ready["standby"]["route"].as_str().unwrap_or_default().to_owned();
    expect("the standby's path", place.cables_of(&second)?.0, other)?;
    expect("the state", ready["state"].clone(), "good")?;
    expect("the link's tier", ready["link"]["tier"].clone(), "LanDirect")?;
    let why = ready["last_swap"]["why"]["kind"].as_str();
    if (why, ready["swaps"].as_u64()) != (Some("first_dial"), Some(1)) || ready["last_swap"]["to"] != first.as_str() {
        return Err(format!("before the cut there was no swap but the first dial: {ready}").into());
    }
    let rtt = ready["rtt_ms"].as_f64().ok_or("no round trip")?;
    stage.fact("rtt_ms", rtt);
    if !(2.0..50.0).contains(&rtt) {
        return Err(format!("a round trip of {rtt} ms over a path of 2 ms").into());
    }

    let driver = Driver::start(stage, &place.client, &place.machine, &place.machine.name, &["for=60"])?;
    watch.line("the session of who drives", |line| line["sessions"] == 1)?;
    let cut = place.lab.set(primary, BOTH, Policy::hole())?;
    let swapped = watch.line("a swap", |line| line["swaps"] == 2)?;
    expect("the route", swapped["link"]["route"].clone(), &second)?;
    expect("the route before", swapped["last_swap"]["from"].clone(), &first)?;
    expect("the route since", swapped["last_swap"]["to"].clone(), &second)?;
    expect("the reason", swapped["last_swap"]["why"]["kind"].clone(), "dead")?;
    if swapped["standby"]["route"] == first.as_str() {
        return Err(format!("the route that died is called a standby that is ready: {swapped}").into());
    }
    let at = swapped["last_swap"]["at_unix_ms"].as_f64().ok_or("no time")? / 1e3;
    stage.fact("swap_ms", (at - cut) * 1e3);
    // Who only watches asks the machine something once a second; an answer missing for 400 ms is a route's death.
    within("the swap", at - cut, Duration::from_secs(2))?;
    if at < cut - 0.001 {
        return Err(format!("the swap is said to have been {:.3} s before the cut", cut - at).into());
    }
    watch.line("the session, over the new route", |line| line["swaps"] == 2 && line["sessions"] == 1)?;
    driver.no_lapse()?;
    watch.process.signal(Signal::INT)?;
    match watch.process.wait(Duration::from_secs(3))? {
        Some(0) => Ok(()),
        code => Err(format!("watch ended with {code:?} when it was interrupted").into()),
    }
}

/// By name: first where multicast DNS finds it, then where it is remembered. Each time the cloud that such names belong to is tried too, and cannot be had.
pub fn by_name(stage: &Stage) -> Outcome {
    let place = TwoPaths::new(stage)?;
    for origin in ["mDNS", "remembered"] {
        let dial = Dial::of(stage, &place.client, &place.machine, &[&place.machine.name])?;
        let route = dial.connected(&DIRECT, origin)?;
        place.cables_of(&route)?;
        let cloud = dial.tried("WebRTC by app.viam.com:443", "cloud")?;
        expect("what the cloud's name failed at", cloud["result"]["stage"].clone(), "tcp")?;
    }
    Ok(())
}

/// Over WebRTC by the machine's own signaling: the first connection to it, which a direct link would use, is refused.
pub fn own_signaling(stage: &Stage) -> Outcome {
    let place = TwoPaths::with(stage, &["one"], Policy::delayed(1))?;
    place.client.nft(&format!(
        "table ip first {{\nchain out {{ type filter hook output priority 0; \
         tcp dport {PORT} ct state new numgen inc mod 64 != 1 reject with tcp reset\n }}\n }}\n"
    ))?;
    let dial = Dial::of(stage, &place.client, &place.machine, &["--cloud", "none", &place.machine.name])?;
    let route = dial.connected(&WEBRTC, "mDNS")?;
    expect("the route", route.as_str(), &format!("WebRTC by 10.1.0.1:{PORT}"))?;
    let direct = dial.tried(&format!("10.1.0.1:{PORT}"), "mDNS")?;
    expect("the direct link", direct["result"]["kind"].clone(), "failed")?;
    expect("what it failed at", direct["result"]["stage"].clone(), "tcp")
}

/// Through a cloud, from elsewhere.
pub fn by_cloud(stage: &Stage) -> Outcome {
    let town = Town::new(stage, &Layout { at_home: false, ..Layout::default() })?;
    let dial = Dial::of(stage, &town.client, &town.machine, &["--cloud", CLOUD, &town.machine.name])?;
    let route = dial.connected(&WEBRTC, "cloud")?;
    expect("the route", route.as_str(), &format!("WebRTC by {CLOUD}:443"))?;
    if dial.said.trim().is_empty() {
        return Ok(());
    }
    Err(format!("a dial that went well complains: {}", dial.said).into())
}

/// Nobody bears the name; nothing listens at the address; who answers is another machine; the key is wrong. Each time the exit code, the routes that were tried,
/// how far they got, and whose fault it is.
pub fn failed(stage: &Stage) -> Outcome {
    let place = TwoPaths::new(stage)?;
    let dial = |arguments: &[&str]| Dial::of(stage, &place.client, &place.machine, arguments);
    let nobody = dial(&["--cloud", "none", "nobody-main.loc1.viam.cloud"])?;
    nobody.failed(3, "unknown", "unreachable", "Check the name's spelling")?;
    let complaints = nobody.value["record"]["source_errors"].to_string();
    if !complaints.contains("mDNS: nobody answered") || !complaints.contains("DNS: nobody-main.loc1.viam.cloud") {
        return Err(format!("who was asked for the name is not told: {complaints}").into());
    }
    let cloudless = dial(&["nobody-main.loc1.viam.cloud"])?;
    cloudless.failed(3, "unreachable", "unreachable", "The network or the machine is at fault")?;
    expect("the cloud", cloudless.tried("WebRTC by app.viam.com:443", "cloud")?["result"]["stage"].clone(), "tcp")?;
    let closed = dial(&["10.1.0.1:8081"])?;
    closed.failed(3, "unreachable", "unreachable", "check that the machine runs")?;
    expect("the closed port", closed.tried("10.1.0.1:8081", "given")?["result"]["stage"].clone(), "tcp")?;
    let address = format!("10.1.0.1:{PORT}");
    let other = dial(&["--tls-name", "other.viam.cloud", &address])?;
    other.failed(3, "unreachable", "unreachable", "could not prove to be this machine")?;
    expect("the other machine", other.tried(&address, "given")?["result"]["stage"].clone(), "tls")?;
    let wrong = dial(&["--api-key", "wrong-key-never-echoed", "--tls-name", &place.machine.name, &address])?;
    wrong.failed(4, "refused", "refused", "The machine decided this")?;
    let refused = &wrong.tried(&address, "given")?["result"];
    expect("the wrong key", refused["stage"].clone(), "auth")?;
    if refused["verdict"] != true || wrong.said.contains("wrong-key") || wrong.value.to_string().contains("wrong-key") {
        return Err(format!("no verdict of the machine's, or the key is echoed: {}", wrong.value).into());
    }
    Ok(())
}

fn expect(what: &str, is: impl Into<Value>, wanted: &str) -> Outcome {
    let is: Value = is.into();
    if is == wanted { Ok(()) } else { Err(format!("{what}: {is}, expected {wanted:?}").into()) }
}

/// What `lifeline dial --explain --json` said.
struct Dial {
    code: Option<i32>,
    value: Value,
    said: String,
}

impl Dial {
    fn of(
        stage: &Stage,
        host: &Host,
        machine: &Machine,
        arguments: &[&str],
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let mut command = stage.built.command("lifeline");
        // As users have it: a name belongs to its cloud.
        machine.credentials(command.env_remove("LIFELINE_CLOUD"));
        let output = host.output(command.args(["--json", "dial", "--explain"]).args(arguments))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let value = serde_json::from_slice(&output.stdout)
            .map_err(|e| format!("dial {arguments:?} printed no JSON ({e}): {said}"))?;
        Ok(Self { code: output.status.code(), value, said })
    }

    fn tries(&self) -> impl Iterator<Item = &Value> {
        self.value["record"]["tries"].as_array().into_iter().flatten()
    }

    /// The try of a route that somebody told of.
    fn tried(&self, route: &str, origin: &str) -> Result<&Value, Box<dyn std::error::Error>> {
        let tried = self.tries().find(|tried| tried["route"] == route && tried["origin"] == origin);
        tried.ok_or_else(|| format!("{route} of {origin} is not told of: {:#}", self.value).into())
    }

    /// It ended well, over a route of this origin that went through these stages, one after the other: which.
    fn connected(&self, stages: &[&str], origin: &str) -> Result<String, Box<dyn std::error::Error>> {
        self.each_is_told()?;
        let record = &self.value["record"];
        let link = &record["outcome"]["link"];
        let used =
            self.tries().find(|tried| tried["result"]["kind"] == "connected" && tried["result"]["link"] == *link);
        let used = used.ok_or_else(|| format!("no try led to the link that is used: {:#}", self.value))?;
        let went = used["stages"].as_array().into_iter().flatten().filter_map(|stage| stage[0].as_str());
        if self.code != Some(0) || used["origin"] != origin || !went.eq(stages.iter().copied()) {
            return Err(format!("not over {stages:?} of {origin}, or exit code {:?}: {used:#}", self.code).into());
        }
        Ok(used["route"].as_str().unwrap_or_default().to_owned())
    }

    /// It failed with this exit code and outcome, as this kind of error, and the error's text says this.
    fn failed(&self, code: i32, outcome: &str, kind: &str, advice: &str) -> Outcome {
        self.each_is_told()?;
        let error: Value = serde_json::from_str(&self.said).map_err(|e| format!("no JSON ({e}): {}", self.said))?;
        expect("the outcome", self.value["record"]["outcome"]["kind"].clone(), outcome)?;
        expect("the error", error["error"]["kind"].clone(), kind)?;
        let text = error["error"]["message"].as_str().unwrap_or_default();
        let untold = self.tries().find(|tried| !text.contains(tried["route"].as_str().unwrap_or("?")));
        if self.code != Some(code) || !self.value["route"].is_null() || !text.contains(advice) || untold.is_some() {
            return Err(format!(
                "exit code {:?} instead of {code}, or not {advice:?}, or not {untold:?}: {text}",
                self.code
            )
            .into());
        }
        Ok(())
    }

    /// Every try has a route, an origin and a result; one that was begun got through its stages in their order, and one that failed says where and how.
    fn each_is_told(&self) -> Outcome {
        for tried in self.tries() {
            let named =
                ["route", "origin"].iter().all(|what| tried[what].as_str().is_some_and(|text| !text.is_empty()));
            let times = [tried["began_ms"].as_f64()].into_iter().flatten();
            let stages = tried["stages"].as_array().into_iter().flatten().filter_map(|stage| stage[1].as_f64());
            let times: Vec<f64> = times.chain(stages).chain(tried["ended_ms"].as_f64()).collect();
            let result = &tried["result"];
            let why = result["stage"].is_string() && result["message"].as_str().is_some_and(|text| !text.is_empty());
            let told = match result["kind"].as_str() {
                Some("failed") => why,
                Some("dropped") => result["stage"].is_string(),
                Some("connected" | "under_way") => tried["began_ms"].is_number(),
                Some("waiting") => tried["began_ms"].is_null(),
                _ => false,
            };
            if !named || !told || !times.is_sorted() {
                return Err(format!("not all is told of {tried:#}").into());
            }
        }
        Ok(())
    }
}

/// `lifeline watch`, running.
struct Watch {
    process: Running,
    lines: mpsc::Receiver<Value>,
}

impl Watch {
    fn start(host: &Host, command: &mut Command) -> Result<Self, Box<dyn std::error::Error>> {
        let mut process = host.start("lifeline", command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let (said, (tell, lines)) = (process.lines()?, mpsc::channel());
        thread::spawn(move || {
            let lines = said.map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok());
            // Who listened may have gone.
            lines.map_while(|line| tell.send(line).ok()).for_each(drop);
        });
        Ok(Self { process, lines })
    }

    /// The next line that is as wanted.
    fn line(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value, Box<dyn std::error::Error>> {
        let mut last = Value::Null;
        loop {
            match self.lines.recv_timeout(Duration::from_secs(4)) {
                Ok(line) if wanted(&line) => return Ok(line),
                Ok(line) => last = line,
                Err(_) => return Err(format!("watch did not tell of {what}; its last line: {last}").into()),
            }
        }
    }
}
