//! What whoever started an example orders.

use std::io::BufRead;

use tokio::sync::mpsc;

/// The lines of standard input, read on a thread: waiting for them blocks.
pub fn listen() -> mpsc::UnboundedReceiver<String> {
    let (told, orders) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if told.send(line.trim().to_owned()).is_err() {
                return;
            }
        }
    });
    orders
}
