//! The client of a lab: the example program `openloop` on one of its hosts, and everything it says.

use std::fs::File;
use std::io::Write;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::super::Stage;
use crate::Outcome;
use crate::lab::Host;
use crate::processes::{Machine, Running};

/// A running client.
pub struct Driver {
    process: Running,
    input: ChildStdin,
    said: Arc<Mutex<Vec<Value>>>,
}

/// What became of one call.
#[derive(Clone, Debug)]
pub struct Call {
    /// `motion`, `read`, `stop`, `move`, `image`.
    pub kind: String,
    /// When it was due, in Unix time.
    pub due: f64,
    /// When it ended.
    pub done: f64,
    /// Whether it was answered with success.
    pub ok: bool,
    /// Why it failed.
    pub error: Option<String>,
}

impl Call {
    /// A later one of the same client came first, or ended it.
    pub fn superseded(&self) -> bool {
        let by_a_later_one = ["not run: a later command", "ended by a later command"];
        self.error.as_deref().is_some_and(|error| by_a_later_one.iter().any(|why| error.starts_with(why)))
    }

    /// From due to done, in milliseconds.
    pub fn took_ms(&self) -> f64 {
        (self.done - self.due) * 1e3
    }
}

impl Driver {
    /// Starts a client on `host` that dials `address`, and waits for its link.
    pub fn start(
        stage: &Stage,
        host: &Host,
        machine: &Machine,
        address: &str,
        options: &[&str],
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let driver = Self::launch(stage, host, machine, address, options)?;
        driver.wait("its link", 0.0, Duration::from_secs(10), |line| line["connected"].is_string())?;
        Ok(driver)
    }

    /// Starts a client and does not wait for anything.
    pub fn launch(
        stage: &Stage,
        host: &Host,
        machine: &Machine,
        address: &str,
        options: &[&str],
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let mut command = stage.built.command("examples/openloop");
        machine.credentials(&mut command);
        Self::run(stage, host, command.arg(address).args(options))
    }

    /// Starts a client that is told everything already.
    pub fn run(stage: &Stage, host: &Host, command: &mut Command) -> Result<Self, Box<dyn std::error::Error>> {
        let log = stage.folder.join(format!("client-{}.log", host.name()));
        let log = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log.try_clone()?);
        let mut process = host.start("openloop", command)?;
        let input = process.input()?;
        let (lines, said) = (process.lines()?, Arc::new(Mutex::new(Vec::new())));
        let heard = said.clone();
        thread::spawn(move || {
            let mut log = log;
            for line in lines.map_while(Result::ok) {
                // The log is for people who look into a failure; what it cannot take is still heard here.
                let _ = writeln!(log, "{line}");
                if let Ok(line) = serde_json::from_str(&line) {
                    heard.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                }
            }
        });
        Ok(Self { process, input, said })
    }

    /// Gives it an order: `stop`, `hush`, `speak`, `close`.
    pub fn order(&mut self, order: &str) -> Outcome {
        writeln!(self.input, "{order}")?;
        Ok(())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Outcome {
        self.process.signal(signal)
    }

    /// Ends it without goodbye.
    pub fn kill(&mut self) -> Outcome {
        self.process.kill()
    }

    /// Waits for its end.
    pub fn end(&mut self, bound: Duration) -> Result<Option<i32>, Box<dyn std::error::Error>> {
        self.process.wait(bound)
    }

    /// Everything it said so far.
    pub fn said(&self) -> Vec<Value> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every call that has ended.
    pub fn calls(&self) -> Vec<Call> {
        self.said().iter().filter_map(call).collect()
    }

    /// Waits for the first line since `since` that `wanted` accepts.
    pub fn wait(
        &self,
        what: &str,
        since: f64,
        bound: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value, Box<dyn std::error::Error>> {
        let until = Instant::now() + bound;
        loop {
            let found =
                self.said().into_iter().find(|line| line["t"].as_f64().is_some_and(|t| t >= since) && wanted(line));
            if let Some(line) = found {
                return Ok(line);
            }
            if Instant::now() > until {
                let tail: Vec<String> = self.said().iter().rev().take(4).map(Value::to_string).collect();
                return Err(format!("the client did not tell of {what} within {bound:?}; last: {tail:#?}").into());
            }
            thread::sleep(Duration::from_millis(3));
        }
    }

    /// Waits until a second link is warm.
    pub fn wait_for_standby(&self, bound: Duration) -> Outcome {
        self.wait("a standby", 0.0, bound, |line| line["route"] == "standby" && line["of"]["link"].is_string())
            .map(|_| ())
    }

    /// Route events of this name since `since`.
    pub fn routes(&self, name: &str, since: f64) -> Vec<Value> {
        let said = self.said();
        said.into_iter()
            .filter(|line| line["route"] == name && line["t"].as_f64().is_some_and(|t| t >= since))
            .collect()
    }

    /// The route that calls go over.
    pub fn route(&self) -> Result<String, Box<dyn std::error::Error>> {
        let used = self.said().into_iter().rev().find_map(|line| match line["route"].as_str() {
            Some("use") => line["of"]["route"].as_str().map(str::to_owned),
            _ => line["connected"].as_str().map(str::to_owned),
        });
        used.ok_or_else(|| "the client uses no route".into())
    }

    /// Calls of a kind that were due in this span. An error names the first that failed; one that the machine never ran because a later one of
    /// the same client was there first did not fail for who drives, and is not returned.
    pub fn all_well(&self, kind: &str, from: f64, to: f64) -> Result<Vec<Call>, Box<dyn std::error::Error>> {
        let calls = self.calls().into_iter().filter(|c| c.kind == kind && (from..to).contains(&c.due));
        let calls: Vec<Call> = calls.filter(|c| !c.superseded()).collect();
        let failed: Vec<&Call> = calls.iter().filter(|c| !c.ok).collect();
        match failed.first() {
            None if calls.is_empty() => Err(format!("no {kind} call was due").into()),
            None => Ok(calls),
            Some(first) => {
                Err(format!("{} of {} {kind} calls failed, the first: {first:?}", failed.len(), calls.len()).into())
            }
        }
    }

    /// The longest time in this span without an answer to a call of a kind: when it began and ended.
    pub fn silence(&self, kind: &str, from: f64, to: f64) -> Result<(f64, f64), Box<dyn std::error::Error>> {
        let answered = self.calls().into_iter().filter(|c| c.kind == kind && c.ok && (from..to).contains(&c.done));
        let mut answered: Vec<f64> = answered.map(|c| c.done).collect();
        answered.sort_by(f64::total_cmp);
        answered.push(to);
        let pairs = answered.windows(2).map(|pair| (pair[0], pair[1]));
        let longest = pairs.max_by(|a, b| (a.1 - a.0).total_cmp(&(b.1 - b.0)));
        longest.ok_or_else(|| format!("no {kind} call was answered").into())
    }

    /// Calls of a kind that were due in this span went well but for those that were refused, as there was no route, in a part of it: at once, or when a link on
    /// trial came to nothing. Returns how many those were.
    pub fn well_but_for(
        &self,
        kind: &str,
        (from, to): (f64, f64),
        (lost, found): (f64, f64),
    ) -> Result<usize, Box<dyn std::error::Error>> {
        let calls: Vec<Call> =
            self.calls().into_iter().filter(|c| c.kind == kind && (from..to).contains(&c.due)).collect();
        if calls.is_empty() {
            return Err(format!("no {kind} call was due").into());
        }
        let failed: Vec<&Call> = calls.iter().filter(|c| !c.ok && !c.superseded()).collect();
        let refused = |c: &Call| c.error.as_deref().is_some_and(|error| error.starts_with("not connected to"));
        let excused = |c: &Call| (lost..found).contains(&c.due) && refused(c);
        match failed.iter().find(|c| !excused(c)) {
            None => Ok(failed.len()),
            Some(call) => Err(format!("a {kind} call failed otherwise than for want of a route: {call:?}").into()),
        }
    }

    /// Fails where calls moved to another link since `since`.
    pub fn no_swap(&self, since: f64) -> Outcome {
        match [self.routes("use", since), self.routes("connected", since)].concat().first() {
            None => Ok(()),
            Some(event) => Err(format!("the route changed: {event}").into()),
        }
    }

    /// Fails where its session lapsed.
    pub fn no_lapse(&self) -> Outcome {
        match self
            .said()
            .into_iter()
            .find(|line| line["session"].as_str().is_some_and(|s| s.contains("Lapsed") || s.contains("Stopped")))
        {
            None => Ok(()),
            Some(line) => Err(format!("the session lapsed: {line}").into()),
        }
    }
}

fn call(line: &Value) -> Option<Call> {
    let done = line["t"].as_f64()?;
    Some(Call {
        kind: line["call"].as_str()?.to_owned(),
        due: done - line["took_ms"].as_f64()? / 1e3,
        done,
        ok: line["ok"].as_bool()?,
        error: line["error"].as_str().map(str::to_owned),
    })
}
