//! The `lifeline-order` header: a call's number in its session and the lower numbers whose callers still wait.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// The order of one message of a session (`lifeline-order: <key>-<number>; open=<lower numbers still wanted>[; end]`).
///
/// Every monitored call, Stop and beat of a session carries one; its text is the same on every copy and every route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// 64 random bits per client process: two processes that share a session are ordered each by itself.
    pub key: u64,
    /// The message's number, counted up from 1 in the order in which first copies leave.
    pub number: u64,
    /// The lower numbers whose callers still wait for an outcome. At most [`Order::MAX_OPEN`].
    pub open: BTreeSet<u64>,
    /// The client is leaving: an immediate lapse.
    pub end: bool,
}

impl Order {
    /// The most numbers that may stand in [`Order::open`] on the wire: 64 calls plus as many Stops again. It bounds what a
    /// peer can make the machine keep for one session.
    pub const MAX_OPEN: usize = 128;
}

/// Why a `lifeline-order` value is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderError {
    /// Not of the form `<16 hex digits>-<number>; open=<numbers>[; end]`.
    Malformed,
    /// More numbers than [`Order::MAX_OPEN`].
    TooManyOpen,
    /// An open number that is not lower than the message's own.
    OpenNotLower,
}

impl fmt::Display for OrderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => {
                "malformed lifeline-order header: expected `<key in hex>-<number>; open=<numbers>[; end]`"
            }
            Self::TooManyOpen => "lifeline-order header lists more than 128 open numbers",
            Self::OpenNotLower => "lifeline-order header lists an open number that is not lower than its own",
        })
    }
}

impl std::error::Error for OrderError {}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}; open=", self.key, self.number)?;
        for (at, number) in self.open.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            write!(f, "{number}")?;
        }
        if self.end { f.write_str("; end") } else { Ok(()) }
    }
}

impl FromStr for Order {
    type Err = OrderError;

    fn from_str(text: &str) -> Result<Self, OrderError> {
        let mut parts = text.split("; ");
        let head = parts.next().ok_or(OrderError::Malformed)?;
        let (key, number) = head.split_once('-').ok_or(OrderError::Malformed)?;
        if key.len() != 16 || !key.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(OrderError::Malformed);
        }
        let key = u64::from_str_radix(key, 16).map_err(|_| OrderError::Malformed)?;
        let number = decimal(number)?;
        let list = parts.next().and_then(|p| p.strip_prefix("open=")).ok_or(OrderError::Malformed)?;
        let end = match parts.next() {
            None => false,
            Some("end") => true,
            Some(_) => return Err(OrderError::Malformed),
        };
        if parts.next().is_some() {
            return Err(OrderError::Malformed);
        }
        let mut open = BTreeSet::new();
        for one in list.split(',').filter(|_| !list.is_empty()) {
            let one = decimal(one)?;
            if one >= number {
                return Err(OrderError::OpenNotLower);
            }
            // Ascending, so that one order has one text.
            if open.last().is_some_and(|last| *last >= one) {
                return Err(OrderError::Malformed);
            }
            open.insert(one);
            if open.len() > Self::MAX_OPEN {
                return Err(OrderError::TooManyOpen);
            }
        }
        Ok(Self { key, number, open, end })
    }
}

/// A number from 1 without sign or leading zero.
fn decimal(text: &str) -> Result<u64, OrderError> {
    if text.starts_with('0') || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(OrderError::Malformed);
    }
    text.parse().map_err(|_| OrderError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_value_agree() {
        for (text, open, end) in [
            ("00000000000000ff-1; open=", vec![], false),
            ("0123456789abcdef-9; open=3,7", vec![3, 7], false),
            ("ffffffffffffffff-18446744073709551615; open=1; end", vec![1], true),
        ] {
            let order: Order = text.parse().expect(text);
            assert_eq!(order.open.iter().copied().collect::<Vec<_>>(), open);
            assert_eq!(order.end, end);
            assert_eq!(order.to_string(), text);
        }
    }

    #[test]
    fn malformed_headers_are_refused() {
        for text in [
            "",
            "ff-1; open=",
            "00000000000000ff-0; open=",
            "00000000000000ff-01; open=",
            "00000000000000ff-+1; open=",
            "00000000000000ff-1",
            "00000000000000ff-1; open=,",
            "00000000000000ff-1; open=; fin",
            "00000000000000ff-1; open=; end; end",
            "+0000000000000ff-1; open=",
            "00000000000000ff-99999999999999999999; open=",
            "00000000000000FF-1; open=",
            "00000000000000ff-9; open=7,3",
            "00000000000000ff-9; open=3,3",
        ] {
            assert_eq!(text.parse::<Order>(), Err(OrderError::Malformed), "{text:?}");
        }
        assert_eq!("00000000000000ff-3; open=3".parse::<Order>(), Err(OrderError::OpenNotLower));
        let many = (1..=129).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        assert_eq!(format!("00000000000000ff-200; open={many}").parse::<Order>(), Err(OrderError::TooManyOpen));
    }

    #[test]
    fn a_session_id_is_a_uuid_in_text() {
        let text = "67e55044-10b1-426f-9247-bb680e5fe0c8";
        let id: crate::SessionId = text.parse().expect("a UUID");
        assert_eq!(id.to_string(), text);
        for wrong in [
            "",
            "67e55044-10b1-426f-9247-bb680e5fe0c",
            "67e5504410b1426f9247bb680e5fe0c8",
            "67e55044-10b1-426f-9247-bb680e5fe0cg",
        ] {
            assert!(wrong.parse::<crate::SessionId>().is_err(), "{wrong:?}");
        }
    }
}
