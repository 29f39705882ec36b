//! Durations as existing configurations write them: `2s`, `500ms`, `1m30s`.

use std::time::Duration;

/// The shortest and the longest window that a machine may have, as existing machines have it (s3).
const WINDOWS: std::ops::RangeInclusive<Duration> = Duration::from_millis(30)..=Duration::from_secs(60);

/// Reads a session's window.
pub fn window(text: &str) -> Result<Duration, String> {
    let window = parse(text)?;
    if WINDOWS.contains(&window) { Ok(window) } else { Err("heartbeat_window must be between [30ms, 1m]".to_owned()) }
}

/// Reads one. A negative one is longer than any bound, and zero is zero with or without a unit.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration; write for example \"2s\" or \"500ms\"");
    if let Some(rest) = text.strip_prefix('-') {
        return parse(rest).map(|_| Duration::MAX);
    }
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let value: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = rest[digits..]
            .find(|c: char| c.is_ascii_digit())
            .map_or(&rest[digits..], |end| &rest[digits..digits + end]);
        seconds += value
            * match unit {
                "ns" => 1e-9,
                "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(wrong()),
            };
        rest = &rest[digits + unit.len()..];
    }
    if text.is_empty() { Err(wrong()) } else { Duration::try_from_secs_f64(seconds).map_err(|_| wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_add_up_and_nonsense_is_refused() {
        for (text, ms) in [("2s", 2000), ("500ms", 500), ("1m30s", 90_000), ("1.5h", 5_400_000), ("0", 0), ("10us", 0)]
        {
            assert_eq!(parse(text).map(|d| d.as_millis()), Ok(ms), "{text}");
        }
        for text in ["", "2", "s", "2 s", "2x", "..s", "1e9h", "9999999999999999999999h", "2s!"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
