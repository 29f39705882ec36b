//! The client's half.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use tonic::Status;

use super::inbox::{Inbox, Overflow};
use super::outbox::{Outbox, Side};
use super::{Event, Read, UNREAD_IN_ALL, WINDOW, remove};
use crate::webrtc::frame::{self, Frame, Piece, Response, Trailers, Wrong, request};

#[derive(Debug)]
enum End {
    Trailers(Trailers),
    Failed(Status),
}

#[derive(Debug, Default)]
struct Call {
    head: Option<HeaderMap>,
    /// The head came, or is no longer awaited.
    headed: bool,
    inbox: Inbox,
    end: Option<End>,
    deadline: Option<Instant>,
    timeout: Duration,
    /// Whether it was when it ended.
    written: bool,
}

/// The client's calls on one channel.
#[derive(Debug)]
pub struct Caller {
    next: u64,
    /// Boxed: a map keeps room for eleven values, and most of the time there is no call.
    calls: BTreeMap<u64, Box<Call>>,
    out: Outbox,
    deadlines: BTreeSet<(Instant, u64)>,
    events: VecDeque<Event>,
    held: u64,
    closed: Option<Status>,
}

impl Default for Caller {
    fn default() -> Self {
        Self::new()
    }
}

impl Caller {
    /// No calls; the first one has the id 1, as most clients' first.
    pub fn new() -> Self {
        Self {
            next: 1,
            calls: BTreeMap::new(),
            out: Outbox::new(Side::Caller),
            deadlines: BTreeSet::new(),
            events: VecDeque::new(),
            held: 0,
            closed: None,
        }
    }

    /// Begins a call. A reserved one goes before all others. Fails where the metadata cannot be sent.
    pub fn open(
        &mut self,
        method: &str,
        metadata: &HeaderMap,
        timeout: Option<Duration>,
        reserved: bool,
        now: Instant,
    ) -> Result<u64, Wrong> {
        let id = self.next;
        let head = request::head(id, method, metadata, timeout, Some(WINDOW))?;
        self.next += 1;
        let deadline = timeout.and_then(|timeout| now.checked_add(timeout));
        let mut call = Call { deadline, timeout: timeout.unwrap_or_default(), ..Call::default() };
        if let Some(status) = &self.closed {
            call.end = Some(End::Failed(status.clone()));
        } else {
            self.out.open(id, reserved);
            self.out.head(id, head);
            self.deadlines.extend(deadline.map(|at| (at, id)));
        }
        self.calls.insert(id, Box::new(call));
        Ok(id)
    }

    /// Parts of messages.
    pub fn send(&mut self, id: u64, pieces: VecDeque<Piece>) {
        self.out.push(id, pieces);
    }

    /// No more messages.
    pub fn end(&mut self, id: u64) {
        self.out.end(id);
    }

    /// Whether the call takes more; if not, [`Event::Writable`] tells when it does.
    pub fn has_room(&mut self, id: u64) -> bool {
        self.out.has_room(id)
    }

    /// Whether the call is still open for messages.
    pub fn is_live(&self, id: u64) -> bool {
        self.calls.get(&id).is_some_and(|call| call.end.is_none())
    }

    /// Whether a part of a message was given out: the machine may have run the call.
    pub fn is_written(&self, id: u64) -> bool {
        self.out.is_written(id) || self.calls.get(&id).is_some_and(|call| call.written)
    }

    /// The next thing of a call.
    pub fn read(&mut self, id: u64) -> Read {
        let Some(call) = self.calls.get_mut(&id) else {
            return Read::Failed(Status::internal("the call is over"));
        };
        if let Some(head) = call.head.take() {
            return Read::Head(head);
        }
        let before = call.inbox.held();
        if let Some(message) = call.inbox.read() {
            self.held -= before - call.inbox.held();
            self.grant(id);
            return Read::Message(message);
        }
        match &call.end {
            None => Read::Pending,
            Some(End::Trailers(trailers)) => Read::End(trailers.clone()),
            Some(End::Failed(status)) => Read::Failed(status.clone()),
        }
    }

    /// Nobody waits for the call any more: if it has not ended, the machine is told.
    pub fn forget(&mut self, id: u64) {
        let Some(call) = remove(&mut self.calls, id) else { return };
        self.held -= call.inbox.held();
        if call.end.is_none() {
            self.stop(id, call.deadline);
        }
    }

    /// The call's messages broke off: it fails with this, and the machine is told.
    pub fn cancel(&mut self, id: u64, status: Status) {
        if self.is_live(id) {
            self.fail(id, status);
        }
    }

    /// A packet came.
    pub fn handle_packet(&mut self, packet: &Bytes, _now: Instant) {
        let frame = match frame::read_response(packet) {
            Ok(frame) => frame,
            Err(malformed) => {
                let why = format!("the machine sent a malformed frame: {}", malformed.why.0);
                return malformed.stream.into_iter().for_each(|id| self.fail(id, Status::internal(&*why)));
            }
        };
        if !self.is_live(frame.stream) {
            return;
        }
        self.handle_frame(frame, packet.len());
    }

    fn handle_frame(&mut self, frame: Frame<Response>, length: usize) {
        let id = frame.stream;
        let Some(call) = self.calls.get_mut(&id) else { return };
        if let Some(window) = frame.window {
            self.out.window(id, window);
            if matches!(frame.what, Some(Response::Head(_))) {
                call.inbox.keeps_windows(WINDOW);
            }
        }
        match frame.what {
            None => {}
            Some(Response::Head(_)) if call.headed => {
                self.fail(id, Status::internal("the machine sent a second head"));
            }
            Some(Response::Head(head)) => {
                (call.head, call.headed) = (Some(head), true);
                self.events.push_back(Event::Readable(id));
            }
            Some(Response::Message(_)) if !call.headed => {
                self.fail(id, Status::internal("the machine sent a message before the head"));
            }
            Some(Response::Message(packet)) => {
                let before = call.inbox.held();
                let pushed = call.inbox.push(packet, length);
                self.held = self.held + call.inbox.held() - before;
                match pushed {
                    Ok(false) => self.grant(id),
                    Ok(true) => {
                        self.events.push_back(Event::Readable(id));
                        self.grant(id);
                    }
                    Err(overflow) => self.fail(id, overflow.status()),
                }
                self.shed();
            }
            Some(Response::Trailers(trailers)) => self.finish(id, End::Trailers(trailers)),
        }
    }

    /// The channel has ended: every call fails, and every later one.
    pub fn handle_closed(&mut self, status: &Status) {
        self.closed = Some(status.clone());
        let live: Vec<u64> = self.calls.iter().filter(|(_, call)| call.end.is_none()).map(|(id, _)| *id).collect();
        live.into_iter().for_each(|id| self.finish(id, End::Failed(status.clone())));
    }

    /// Calls whose time is over fail.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.deadlines.first()
            && at <= now
        {
            self.deadlines.pop_first();
            let timeout = self.calls.get(&id).map_or(Duration::ZERO, |call| call.timeout);
            self.fail(id, Status::deadline_exceeded(format!("no answer within {timeout:?}")));
        }
    }

    /// The next deadline.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Whether there is a packet to send.
    pub fn has_packet(&self) -> bool {
        self.out.is_ready()
    }

    /// About how long the next packet is.
    pub fn next_len(&self) -> Option<usize> {
        self.out.next_len()
    }

    /// Packets of messages are no longer than this from now on, in bytes; between [`SHARED`](super::SHARED) and [`ALONE`](super::ALONE).
    pub fn set_longest(&mut self, bytes: usize) {
        self.out.set_longest(bytes);
    }

    /// The next packet to send.
    pub fn poll_packet(&mut self) -> Option<Bytes> {
        let (packet, done) = self.out.poll()?;
        self.events.extend(done.room.map(Event::Writable));
        Some(packet)
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn grant(&mut self, id: u64) {
        if let Some(call) = self.calls.get_mut(&id)
            && call.end.is_none()
            && let Some(window) = call.inbox.grant()
        {
            self.out.first(request::window(id, window));
        }
    }

    /// At the bound of all calls the one that keeps most has to go.
    fn shed(&mut self) {
        while self.held > UNREAD_IN_ALL
            && let Some((&id, _)) = self.calls.iter().max_by_key(|(_, call)| call.inbox.held())
        {
            self.fail(id, Overflow::Unread.status());
        }
    }

    /// Ends a call from here.
    fn fail(&mut self, id: u64, status: Status) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        self.held -= call.inbox.held();
        call.inbox = Inbox::default();
        if call.end.is_some() {
            // It had ended well and was not read in time.
            call.end = Some(End::Failed(status));
            return;
        }
        let deadline = call.deadline;
        call.written = self.out.is_written(id);
        call.end = Some(End::Failed(status));
        self.stop(id, deadline);
        self.events.extend([Event::Readable(id), Event::Writable(id)]);
    }

    /// The call has ended at the other side.
    fn finish(&mut self, id: u64, end: End) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.written = self.out.is_written(id);
        let cut_off = matches!(&end, End::Trailers(t) if t.status.code == 0) && call.inbox.is_within();
        call.end =
            Some(if cut_off { End::Failed(Status::internal("the answer's last message was cut off")) } else { end });
        let deadline = call.deadline;
        self.out.remove(id);
        self.deadlines.retain_not(deadline, id);
        self.events.extend([Event::Readable(id), Event::Writable(id)]);
    }

    /// Tells the machine that a call is over, if it has heard of it.
    fn stop(&mut self, id: u64, deadline: Option<Instant>) {
        self.deadlines.retain_not(deadline, id);
        if self.out.remove(id) && self.closed.is_none() {
            self.out.first(request::reset(id));
        }
    }
}

trait Deadlines {
    fn retain_not(&mut self, deadline: Option<Instant>, id: u64);
}

impl Deadlines for BTreeSet<(Instant, u64)> {
    fn retain_not(&mut self, deadline: Option<Instant>, id: u64) {
        if let Some(at) = deadline {
            self.remove(&(at, id));
        }
    }
}
