//! The machine's observer file: what really moved, as JSON lines.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

/// One line of the observer.
#[derive(Clone, Debug, Deserialize)]
pub struct Seen {
    /// Unix time in seconds.
    pub t: f64,
    /// `component/name`, such as `base/base`.
    pub actuator: String,
    /// `write`, `moving` or `stopped`.
    pub event: String,
    /// Where things stood.
    #[serde(default)]
    pub state: Value,
    /// What its driver was told.
    #[serde(default)]
    pub value: Value,
    /// What caused it: a method or `stop`.
    #[serde(default)]
    pub cause: Option<String>,
}

/// A reader of one machine's observer file.
pub struct Observer {
    path: PathBuf,
}

impl Observer {
    /// Reads `path`, which may not exist yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf() }
    }

    /// Everything seen so far. A line that is being written is left for the next time.
    pub fn all(&self) -> Result<Vec<Seen>, Box<dyn std::error::Error>> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        whole
            .lines()
            .map(|line| serde_json::from_str(line).map_err(|e| format!("observer line {line:?}: {e}").into()))
            .collect()
    }

    /// Waits for the first line after `since` that `wanted` accepts, for at most `bound`.
    pub fn wait(
        &self,
        what: &str,
        since: f64,
        bound: Duration,
        wanted: impl Fn(&Seen) -> bool,
    ) -> Result<Seen, Box<dyn std::error::Error>> {
        let until = Instant::now() + bound;
        loop {
            if let Some(seen) = self.all()?.into_iter().find(|s| s.t >= since && wanted(s)) {
                return Ok(seen);
            }
            if Instant::now() > until {
                let tail: Vec<_> = self.all()?.into_iter().rev().take(5).collect();
                return Err(
                    format!("the observer did not see {what} within {bound:?}; its last lines: {tail:#?}").into()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until `actuator` is seen moving after `since`.
    pub fn moving(&self, actuator: &str, since: f64, bound: Duration) -> Result<Seen, Box<dyn std::error::Error>> {
        self.wait(&format!("{actuator} moving"), since, bound, |s| s.actuator == actuator && s.event == "moving")
    }

    /// Waits until `actuator` is seen at rest after `since`.
    pub fn stopped(&self, actuator: &str, since: f64, bound: Duration) -> Result<Seen, Box<dyn std::error::Error>> {
        self.wait(&format!("{actuator} stopped"), since, bound, |s| s.actuator == actuator && s.event == "stopped")
    }
}

/// Unix time in seconds, the observer's clock.
pub fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}
