//! Puts datagrams that go the same way into one system call (UDP GSO).

use std::cell::Cell;
use std::net::SocketAddr;

thread_local! {
    /// The memory of the thread's last burst: a connection that is idle holds none.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What one call may carry: the kernel's own bound of a datagram's length.
const MAX_BYTES: usize = 60_000;

/// Datagrams of one length for one way, the last one may be shorter.
#[derive(Debug, Default)]
pub(crate) struct Burst {
    way: Option<(SocketAddr, SocketAddr)>,
    segment: usize,
    count: usize,
    bytes: Vec<u8>,
    short: bool,
}

impl Burst {
    /// Adds a datagram; what it does not fit to goes to `send` first.
    pub fn push(
        &mut self,
        way: (SocketAddr, SocketAddr),
        datagram: &[u8],
        most: usize,
        send: &mut impl FnMut(SocketAddr, SocketAddr, usize, &[u8]),
    ) {
        let fits = self.way == Some(way)
            && !self.short
            && self.count < most
            && datagram.len() <= self.segment
            && self.bytes.len() + datagram.len() <= MAX_BYTES;
        if !fits {
            self.flush(send);
            self.bytes = SPARE.take();
            self.way = Some(way);
            self.segment = datagram.len();
        }
        self.short = datagram.len() < self.segment;
        self.count += 1;
        self.bytes.extend_from_slice(datagram);
    }

    /// Sends what is left.
    pub fn flush(&mut self, send: &mut impl FnMut(SocketAddr, SocketAddr, usize, &[u8])) {
        if let Some((local, remote)) = self.way.take() {
            send(local, remote, self.segment, &self.bytes);
            self.bytes.clear();
            SPARE.set(std::mem::take(&mut self.bytes));
        }
        self.count = 0;
        self.short = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_datagrams_of_one_way_leave_together_and_in_order() {
        let way = |port| (([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], port).into());
        let (mut burst, mut sent) = (Burst::default(), Vec::new());
        let mut send =
            |_: SocketAddr, remote: SocketAddr, segment, bytes: &[u8]| sent.push((remote.port(), segment, bytes.len()));
        for (port, length) in [(1, 10), (1, 10), (1, 4), (1, 4), (2, 10), (2, 12), (2, 12), (2, 12), (2, 12)] {
            burst.push(way(port), &vec![0; length], 3, &mut send);
        }
        burst.flush(&mut send);
        burst.flush(&mut send);
        assert_eq!(sent, [(1, 10, 24), (1, 4, 4), (2, 10, 10), (2, 12, 36), (2, 12, 12)]);
    }
}
