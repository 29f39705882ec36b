//! What waits to be sent, and which of it goes next.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::{AHEAD, ALONE, MESSAGE, SHARED, remove};
use crate::webrtc::frame::{Piece, request, response};

/// Whose frames these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Caller,
    Callee,
}

/// How a stream ends on this side.
#[derive(Debug)]
enum End {
    /// More may come.
    Open,
    /// Nothing more comes; the client's last packet or a frame of its own says so.
    Ended,
    /// The trailers, after all that waits.
    Trailers(Bytes),
    /// It was said.
    Said,
}

#[derive(Debug)]
struct Queue {
    reserved: bool,
    head: Option<Bytes>,
    pieces: VecDeque<Piece>,
    bytes: usize,
    end: End,
    /// What was sent, as windows count it, and how far it may go.
    sent: u64,
    window: Option<u64>,
    /// It stands in a line.
    listed: bool,
    /// Somebody waits for room.
    wanted: bool,
    /// Something of it was given out; a part of a message was.
    touched: bool,
    written: bool,
}

impl Queue {
    fn may_send(&self) -> u64 {
        self.window.map_or(u64::MAX, |window| window.saturating_sub(self.sent))
    }

    fn is_ready(&self) -> bool {
        if self.head.is_some() {
            return true;
        }
        if self.pieces.is_empty() { matches!(self.end, End::Ended | End::Trailers(_)) } else { self.may_send() > 0 }
    }
}

/// What giving out a packet brought about.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    /// The stream that has room again, for which somebody waits.
    pub room: Option<u64>,
    /// The stream whose trailers went out.
    pub finished: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Outbox {
    side: Side,
    /// What one packet carries while no other call waits.
    alone: usize,
    streams: BTreeMap<u64, Box<Queue>>,
    /// Resets, refusals, windows.
    first: VecDeque<Bytes>,
    reserved: VecDeque<u64>,
    ordinary: VecDeque<u64>,
}

impl Outbox {
    pub(super) fn new(side: Side) -> Self {
        Self {
            side,
            alone: ALONE,
            streams: BTreeMap::new(),
            first: VecDeque::new(),
            reserved: VecDeque::new(),
            ordinary: VecDeque::new(),
        }
    }

    /// A stream that may send.
    pub(super) fn open(&mut self, id: u64, reserved: bool) {
        let queue = Queue {
            reserved,
            head: None,
            pieces: VecDeque::new(),
            bytes: 0,
            end: End::Open,
            sent: 0,
            window: None,
            listed: false,
            wanted: false,
            touched: false,
            written: false,
        };
        self.streams.insert(id, Box::new(queue));
    }

    pub(super) fn head(&mut self, id: u64, head: Bytes) {
        self.change(id, |queue| queue.head = Some(head));
    }

    pub(super) fn push(&mut self, id: u64, pieces: VecDeque<Piece>) {
        self.change(id, |queue| {
            queue.bytes += pieces.iter().map(|p| p.data.len()).sum::<usize>();
            queue.pieces.extend(pieces);
        });
    }

    /// The client's messages are complete.
    pub(super) fn end(&mut self, id: u64) {
        self.change(id, |queue| {
            if matches!(queue.end, End::Open) {
                queue.end = End::Ended;
            }
        });
    }

    /// The machine's answer is complete; with `now` what still waits of it is thrown away.
    pub(super) fn finish(&mut self, id: u64, trailers: Bytes, now: bool) {
        self.change(id, |queue| {
            if now {
                (queue.pieces, queue.bytes) = (VecDeque::new(), 0);
            }
            queue.end = End::Trailers(trailers);
        });
    }

    /// The peer takes this much.
    pub(super) fn window(&mut self, id: u64, bytes: u64) {
        self.change(id, |queue| queue.window = Some(queue.window.unwrap_or(0).max(bytes)));
    }

    /// A frame that stands before all others.
    pub(super) fn first(&mut self, frame: Bytes) {
        self.first.push_back(frame);
    }

    /// How many of those wait.
    pub(super) fn firsts(&self) -> usize {
        self.first.len()
    }

    /// Forgets a stream; tells whether anything of it was given out.
    pub(super) fn remove(&mut self, id: u64) -> bool {
        let Some(queue) = remove(&mut self.streams, id) else { return false };
        if queue.listed {
            let line = if queue.reserved { &mut self.reserved } else { &mut self.ordinary };
            line.retain(|listed| *listed != id);
        }
        queue.touched
    }

    /// Whether a part of a message was given out.
    pub(super) fn is_written(&self, id: u64) -> bool {
        self.streams.get(&id).is_some_and(|queue| queue.written)
    }

    /// Whether a stream takes more; if not, [`Done::room`] tells when it does.
    pub(super) fn has_room(&mut self, id: u64) -> bool {
        let Some(queue) = self.streams.get_mut(&id) else { return true };
        queue.wanted = queue.bytes >= AHEAD;
        !queue.wanted
    }

    pub(super) fn is_ready(&self) -> bool {
        !(self.first.is_empty() && self.reserved.is_empty() && self.ordinary.is_empty())
    }

    /// About how long the next packet is.
    pub(super) fn next_len(&self) -> Option<usize> {
        if let Some(frame) = self.first.front() {
            return Some(frame.len());
        }
        let queue = self.streams.get(self.reserved.front().or(self.ordinary.front())?)?;
        let piece = queue.pieces.front().map_or(0, |piece| piece.data.len().min(self.alone));
        Some(queue.head.as_ref().map_or(piece + 32, Bytes::len))
    }

    /// See [`Caller::set_longest`](super::Caller::set_longest).
    pub(super) fn set_longest(&mut self, bytes: usize) {
        self.alone = bytes.clamp(SHARED, ALONE);
    }

    /// The next packet.
    pub(super) fn poll(&mut self) -> Option<(Bytes, Done)> {
        if let Some(frame) = self.first.pop_front() {
            return Some((frame, Done::default()));
        }
        let (id, limit) = match self.reserved.pop_front() {
            Some(id) => (id, SHARED),
            None => {
                let id = self.ordinary.pop_front()?;
                (id, if self.ordinary.is_empty() { self.alone } else { SHARED })
            }
        };
        let side = self.side;
        let queue = self.streams.get_mut(&id)?;
        let (frame, same_turn) = match queue.head.take() {
            // A head and what follows it are one turn: they leave together.
            Some(head) => (head, true),
            None => (next_of(queue, side, id, limit), false),
        };
        queue.touched = true;
        queue.listed = queue.is_ready();
        let mut done = Done::default();
        if queue.wanted && queue.bytes < AHEAD {
            queue.wanted = false;
            done.room = Some(id);
        }
        if side == Side::Callee && matches!(queue.end, End::Said) {
            done.finished = Some(id);
        }
        if queue.listed {
            let line = if queue.reserved { &mut self.reserved } else { &mut self.ordinary };
            if same_turn { line.push_front(id) } else { line.push_back(id) }
        }
        Some((frame, done))
    }

    fn change(&mut self, id: u64, change: impl FnOnce(&mut Queue)) {
        let Some(queue) = self.streams.get_mut(&id) else { return };
        change(queue);
        if !queue.listed && queue.is_ready() {
            queue.listed = true;
            if queue.reserved { self.reserved.push_back(id) } else { self.ordinary.push_back(id) }
        }
    }
}

/// The next packet of a stream that has no head to send any more.
fn next_of(queue: &mut Queue, side: Side, id: u64, limit: usize) -> Bytes {
    let allowed = usize::try_from(queue.may_send()).unwrap_or(usize::MAX);
    if let Some(piece) = queue.pieces.front_mut() {
        let data = piece.data.split_to(piece.data.len().min(limit).min(allowed));
        let last = piece.last && piece.data.is_empty();
        if piece.data.is_empty() {
            queue.pieces.pop_front();
        }
        queue.bytes -= data.len();
        queue.sent += data.len() as u64 + if last { MESSAGE } else { 0 };
        queue.written = true;
        return match side {
            Side::Callee => response::message(id, &data, last),
            Side::Caller => {
                // On the last packet, not alone: some machines take an end of its own for something else.
                let end = last && queue.pieces.is_empty() && matches!(queue.end, End::Ended);
                if end {
                    queue.end = End::Said;
                }
                request::message(id, &data, last, end)
            }
        };
    }
    queue.written = true;
    match std::mem::replace(&mut queue.end, End::Said) {
        End::Trailers(trailers) => trailers,
        _ => request::end(id),
    }
}
