//! What really moved, held against what was asked for.

use std::time::Duration;

use super::driver::{Call, Driver};
use crate::Outcome;
use crate::observer::{Observer, Seen};

/// The driver calls that a client's SetVelocity caused, with the values they carried, in order of time.
pub fn driven(observer: &Observer, base: &str) -> Result<Vec<(f64, f64)>, Box<dyn std::error::Error>> {
    let actuator = format!("base/{base}");
    let caused = |s: &Seen| s.actuator == actuator && s.event == "write" && s.cause.as_deref() == Some("SetVelocity");
    let all = observer.all()?;
    Ok(all.iter().filter(|s| caused(s)).filter_map(|s| Some((s.t, s.value["forward_mm_s"].as_f64()?))).collect())
}

/// Each value, which its number makes unique, was driven at most once, and never after a later one. Returns how many were.
pub fn once_and_in_order(observer: &Observer, base: &str) -> Result<usize, Box<dyn std::error::Error>> {
    let driven = driven(observer, base)?;
    for pair in driven.windows(2) {
        if pair[1].1 <= pair[0].1 {
            return Err(format!("{:.1} was driven after {:.1}: {pair:?}", pair[1].1, pair[0].1).into());
        }
    }
    Ok(driven.len())
}

/// What stopped the base in this span.
fn stopping(observer: &Observer, base: &str, from: f64, to: f64) -> Result<Vec<Seen>, Box<dyn std::error::Error>> {
    let actuator = format!("base/{base}");
    let stops = |s: &Seen| s.event == "stopped" || s.cause.as_deref() == Some("stop");
    Ok(observer
        .all()?
        .into_iter()
        .filter(|s| s.actuator == actuator && (from..to).contains(&s.t) && stops(s))
        .collect())
}

/// How often the base came to rest or was told to in this span.
pub fn stops(observer: &Observer, base: &str, from: f64, to: f64) -> Result<usize, Box<dyn std::error::Error>> {
    Ok(stopping(observer, base, from, to)?.len())
}

/// How often the base's driver was told to stop in this span.
pub fn told_to_stop(observer: &Observer, base: &str, from: f64, to: f64) -> Result<usize, Box<dyn std::error::Error>> {
    let stopping = stopping(observer, base, from, to)?;
    Ok(stopping.iter().filter(|seen| seen.event == "write").count())
}

/// Nothing stopped the base in this span.
pub fn kept_moving(observer: &Observer, base: &str, from: f64, to: f64) -> Outcome {
    match stopping(observer, base, from, to)?.first() {
        None => Ok(()),
        Some(seen) => Err(format!("base/{base} was stopped: {seen:?}").into()),
    }
}

/// Nothing drove the base from `from` on, for `quiet`.
pub fn stays_still(observer: &Observer, base: &str, from: f64, quiet: Duration) -> Outcome {
    let actuator = format!("base/{base}");
    std::thread::sleep(quiet);
    let moved = observer.all()?.into_iter().find(|s| {
        s.actuator == actuator
            && s.t > from
            && (s.event == "moving" || (s.event == "write" && s.cause.as_deref() != Some("stop")))
    });
    match moved {
        None => Ok(()),
        Some(seen) => Err(format!("{actuator} moved although it must not: {seen:?}").into()),
    }
}

/// The longest time without a good answer since `cut`, in milliseconds: what a caller notices, whenever the cut took effect. It begins with the last
/// answer before the cut, or a later one. And the call whose answer ended it.
pub fn gap_ms(calls: &[Call], kind: &str, cut: f64) -> Result<(f64, Call), Box<dyn std::error::Error>> {
    let mut good: Vec<&Call> = calls.iter().filter(|c| c.kind == kind && c.ok).collect();
    good.sort_by(|a, b| a.done.total_cmp(&b.done));
    let holes = good.windows(2).filter(|pair| pair[1].done > cut).map(|pair| (pair[1].done - pair[0].done, pair[1]));
    let (hole, first) = holes
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .ok_or_else(|| format!("no {kind} call was answered before the cut and after it"))?;
    Ok((hole * 1e3, first.clone()))
}

/// How many calls were due in this span, and how many of them were under way while copies were sent: those that may have been sent twice.
pub fn hedged(client: &Driver, from: f64, to: f64) -> (usize, usize) {
    let at = |line: &serde_json::Value| line["t"].as_f64().unwrap_or_default();
    let off: Vec<f64> = client.routes("hedgeoff", from).iter().map(at).collect();
    let begun: Vec<f64> = client.routes("hedge", from).iter().map(at).collect();
    let spans: Vec<(f64, f64)> = begun
        .into_iter()
        .map(|begin| (begin, off.iter().copied().filter(|end| *end >= begin).fold(to, f64::min)))
        .collect();
    let calls: Vec<Call> = client.calls().into_iter().filter(|c| (from..to).contains(&c.due)).collect();
    let twice = calls.iter().filter(|c| spans.iter().any(|(begin, end)| c.done >= *begin && c.due <= *end)).count();
    (calls.len(), twice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_the_longest_silence_whenever_the_cut_took_effect() {
        let call = |due: f64, done: f64, ok| Call { kind: "read".to_owned(), due, done, ok, error: None };
        let calls: Vec<Call> = [
            (0.0, 0.002, true),
            (0.02, 0.022, true),
            // What was on its way already is answered after the cut at 0.03, and one fails.
            (0.04, 0.042, true),
            (0.06, 0.08, false),
            (0.08, 0.122, true),
            (0.1, 0.121, true),
            (0.12, 0.123, true),
        ]
        .map(|(due, done, ok)| call(due, done, ok))
        .into();
        let (gap, first) = gap_ms(&calls, "read", 0.03).expect("answers");
        assert!((gap - 79.0).abs() < 0.001 && (first.due - 0.1).abs() < 0.001, "{gap}: {first:?}");
        assert!(gap_ms(&calls, "read", 0.2).is_err() && gap_ms(&calls, "motion", 0.0).is_err());
    }
}
