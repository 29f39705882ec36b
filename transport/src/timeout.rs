//! The header `grpc-timeout` (gRPC over HTTP/2, "Requests").

use std::time::Duration;

use http::HeaderMap;

use crate::header::GRPC_TIMEOUT;

/// A call's timeout: at most eight digits and a unit. `None` where there is none, or nonsense.
pub fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(&GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// A timeout as the header has it: at most eight digits, rounded down to the finest unit that holds it.
#[cfg(feature = "server")]
pub(crate) fn text(timeout: Duration) -> String {
    const MOST: u128 = 99_999_999;
    let seconds = u128::from(timeout.as_secs());
    for (number, unit) in [
        (timeout.as_nanos(), 'n'),
        (timeout.as_micros(), 'u'),
        (timeout.as_millis(), 'm'),
        (seconds, 'S'),
        (seconds / 60, 'M'),
    ] {
        if number <= MOST {
            return format!("{number}{unit}");
        }
    }
    format!("{}H", (seconds / 3600).min(MOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        let parse = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().expect("a header"));
            grpc_timeout(&headers)
        };
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("5S", Some(Duration::from_secs(5))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("7u", Some(Duration::from_micros(7))),
            ("1000000n", Some(Duration::from_millis(1))),
            ("123456789m", None),
            ("m", None),
            ("+5S", None),
            ("5s", None),
            ("-1S", None),
            ("", None),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }

    #[cfg(feature = "server")]
    #[test]
    fn timeouts_are_written_as_they_are_read() {
        for (timeout, expected) in [
            (Duration::from_nanos(1), "1n"),
            (Duration::from_millis(1500), "1500000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(200_000), "200000S"),
            (Duration::from_secs(5_000_000_000), "83333333M"),
            (Duration::from_secs(u64::MAX), "99999999H"),
        ] {
            let written = text(timeout);
            assert_eq!(written, expected);
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", written.parse().expect("a header"));
            let read = grpc_timeout(&headers).expect("as it was written");
            assert!(read <= timeout, "{timeout:?} {written}");
        }
    }
}
