//! One function of bytes for each of the fuzzers' targets. None may panic, whatever the bytes.

use session_core::{Order, OrderError};

use super::{client, pair, registry};

/// A client with a machine and a network that answer whatever they like.
pub fn client_session(bytes: &[u8]) {
    client::run(&client::Life::of(bytes));
}

/// A machine with callers who do whatever they like.
pub fn session_registry(bytes: &[u8]) {
    registry::run(&registry::Event::all(bytes));
}

/// A client and a machine; the first byte says whether the machine takes order.
pub fn pair(bytes: &[u8]) {
    if let Some((ordered, life)) = bytes.split_first() {
        pair::run(ordered & 1 == 1, &pair::Life::of(life));
    }
}

/// A header: whatever is taken is said again in the same words.
pub fn order_header(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match text.parse::<Order>() {
        Ok(order) => {
            assert_eq!(order.to_string(), text, "one order has one text");
            assert!(order.number > 0 && order.open.len() <= Order::MAX_OPEN);
            assert!(order.open.iter().all(|open| *open > 0 && *open < order.number));
        }
        Err(OrderError::Malformed | OrderError::TooManyOpen | OrderError::OpenNotLower) => {}
    }
}
