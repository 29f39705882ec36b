//! What is asked of runs beyond the numbers of their rows.

use std::thread::sleep;
use std::time::Duration;

use crate::Outcome;
use crate::e2e::Stage;
use crate::e2e::labs::driver::{Call, Driver};
use crate::e2e::labs::truth;
use crate::lab::Lab;
use crate::lab::policy::Dice;
use crate::observer::{Observer, now};

/// A client that drives, and what tells of it.
pub struct Drive<'a> {
    pub stage: &'a Stage,
    pub lab: &'a Lab,
    pub observer: &'a Observer,
    pub client: &'a Driver,
    /// Whether its primary may move to another pair of addresses instead of being replaced.
    pub moves: bool,
}

/// Waits this long, and up to 400 ms more as the seed says: the longest cycle of calls, probes and beats.
pub fn wander(stage: &Stage, at_least_ms: u64) {
    let more = Dice(stage.seed).next() % 400_000;
    sleep(Duration::from_millis(at_least_ms) + Duration::from_micros(more));
}

impl Drive<'_> {
    /// What has to hold after a cut that nobody is to notice, and what it cost.
    pub fn settle(&self, cut: f64) -> Outcome {
        let end = self.cost(cut)?;
        self.kept(cut, end)?;
        self.stage.fact("driven", truth::once_and_in_order(self.observer, "base")?);
        for kind in ["read", "motion"] {
            self.client.all_well(kind, cut - 0.5, end - 0.3)?;
        }
        Ok(())
    }

    /// The same with a machine that takes no copies of commands: those that were out may fail. Reads do not.
    pub fn settle_stock(&self, cut: f64) -> Outcome {
        let end = self.cost(cut)?;
        self.kept(cut, end)?;
        self.stage.fact("driven", truth::once_and_in_order(self.observer, "base")?);
        let failed = self.commands(cut - 0.5, end - 0.3).iter().filter(|call| !call.ok).count();
        self.stage.fact("motion_failed", failed);
        self.client.all_well("read", cut - 0.5, end - 0.3).map(|_| ())
    }

    /// How much of it who calls noticed. Returns when it was over.
    fn cost(&self, cut: f64) -> Result<f64, Box<dyn std::error::Error>> {
        let (stage, client) = (self.stage, self.client);
        let bound = Duration::from_secs(if self.moves { 1 } else { 5 });
        match client.wait("a swap", cut, bound, |line| line["route"] == "use") {
            Ok(used) => stage.fact("swap_ms", (used["t"].as_f64().ok_or("a line without a time")? - cut) * 1e3),
            Err(_) if self.moves => {}
            Err(error) => return Err(error),
        }
        sleep(Duration::from_millis(700));
        stage.fact("emulator_late_ms", self.lab.report()?.worst_late_ms);
        let end = now();
        for kind in ["read", "motion"] {
            stage.fact(&format!("{kind}_gap_ms"), truth::gap_ms(&client.calls(), kind, cut)?.0);
        }
        let superseded = self.commands(cut - 0.5, end).iter().filter(|call| call.superseded()).count();
        stage.fact("superseded", superseded);
        Ok(end)
    }

    fn commands(&self, from: f64, to: f64) -> Vec<Call> {
        let due = |call: &Call| call.kind == "motion" && (from..to).contains(&call.due);
        self.client.calls().into_iter().filter(due).collect()
    }

    /// The session was kept, and what was set in motion went on.
    fn kept(&self, cut: f64, end: f64) -> Outcome {
        self.client.no_lapse()?;
        truth::kept_moving(self.observer, "base", cut - 0.5, end)
    }

    /// Calls since `begun` that may have been sent twice, swaps and stops since then.
    pub fn healthy(&self, begun: f64) -> Outcome {
        let Self { stage, client, .. } = self;
        let end = now();
        stage.fact("emulator_late_ms", self.lab.report()?.worst_late_ms);
        let (calls, hedged) = truth::hedged(client, begun, end);
        stage.fact("calls", calls);
        #[allow(clippy::cast_precision_loss, reason = "counts of calls")]
        stage.fact("hedged_percent", hedged as f64 * 100.0 / calls.max(1) as f64);
        stage.fact("swaps", client.routes("use", begun).len());
        stage.fact("stops", truth::stops(self.observer, "base", begun, end)?);
        let lapsed = |line: &serde_json::Value| line["session"].as_str().is_some_and(|s| s.contains("Lapsed"));
        stage.fact("lapses", client.said().iter().filter(|line| lapsed(line)).count());
        truth::once_and_in_order(self.observer, "base").map(|_| ())
    }
}
