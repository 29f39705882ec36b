//! The machine's half.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use machine_api::methods::{self, Class};
use tonic::Status;

use super::inbox::{Inbox, Overflow};
use super::outbox::{Outbox, Side};
use super::{Event, ORDINARY, Read, UNREAD_IN_ALL, remove};
use crate::webrtc::frame::{self, Frame, Piece, Request, Trailers, response};

/// How long after a call's deadline its handler is dropped: its own answer says more, and comes first.
const GRACE: Duration = Duration::from_millis(100);
/// Refusals and the like that may wait to be sent: a client that makes more and reads none is not read any more.
const FIRSTS: usize = 1024;

/// How many calls one client may have at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Ordinary calls; default 248.
    pub ordinary: usize,
    /// Stops, beats and probes besides; default 256, so that a Stop is never refused to a client that behaves.
    pub reserved: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { ordinary: ORDINARY, reserved: 256 }
    }
}

/// A call that a client began.
#[derive(Debug)]
pub struct Opened {
    /// Its stream.
    pub id: u64,
    /// Its path.
    pub method: String,
    /// Its metadata.
    pub metadata: HeaderMap,
    /// How long it may take.
    pub timeout: Option<Duration>,
}

/// Whether a call goes before all others: Stop, what keeps a session, and the probe.
pub fn is_reserved(method: &str) -> bool {
    const SESSION: [&str; 3] = [
        "/viam.robot.v1.RobotService/StartSession",
        "/viam.robot.v1.RobotService/SendSessionHeartbeat",
        "/viam.robot.v1.RobotService/GetVersion",
    ];
    SESSION.contains(&method) || methods::find(method).is_some_and(|m| m.class == Class::Stop)
}

/// Whether a call has exactly one request message, so that the first one is the last: some clients never say that it was.
/// A method that the protocol does not have may have several.
pub fn single_request(method: &str) -> bool {
    methods::find(method).is_some_and(|m| !m.request_stream)
}

#[derive(Debug, Default)]
struct Call {
    reserved: bool,
    single: bool,
    inbox: Inbox,
    /// The client sends no more.
    ended: bool,
    /// The answer has a head; the trailers wait to be sent.
    headed: bool,
    finished: bool,
    deadline: Option<Instant>,
}

/// A client's calls on one channel.
#[derive(Debug)]
pub struct Callee {
    limits: Limits,
    single: fn(&str) -> bool,
    /// Boxed: a map keeps room for eleven values, and most of the time there is no call.
    calls: BTreeMap<u64, Box<Call>>,
    reserved: usize,
    out: Outbox,
    deadlines: BTreeSet<(Instant, u64)>,
    events: VecDeque<Event>,
    held: u64,
    closing: bool,
}

impl Callee {
    /// No calls. `single` tells which methods have exactly one request message: see [`single_request`].
    pub fn new(limits: Limits, single: fn(&str) -> bool) -> Self {
        Self {
            limits,
            single,
            calls: BTreeMap::new(),
            reserved: 0,
            out: Outbox::new(Side::Callee),
            deadlines: BTreeSet::new(),
            events: VecDeque::new(),
            held: 0,
            closing: false,
        }
    }

    /// No new calls from now on.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// Whether packets should be read: not while too many refusals wait for a client that does not read them.
    pub fn wants_packets(&self) -> bool {
        self.out.firsts() < FIRSTS
    }

    /// Bytes that came and were not read yet.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// Whether no call is under way.
    pub fn is_idle(&self) -> bool {
        self.calls.is_empty() && self.deadlines.is_empty()
    }

    /// A packet came.
    pub fn handle_packet(&mut self, packet: &Bytes, now: Instant) {
        let frame = match frame::read_request(packet) {
            Ok(frame) => frame,
            Err(malformed) => {
                let Some(id) = malformed.stream else { return };
                let status = Status::invalid_argument(format!("malformed frame: {}", malformed.why.0));
                if self.calls.contains_key(&id) {
                    self.abort(id, &status);
                } else if malformed.head {
                    self.refuse(id, &status);
                }
                return;
            }
        };
        self.handle_frame(frame, packet.len(), now);
    }

    fn handle_frame(&mut self, frame: Frame<Request>, length: usize, now: Instant) {
        let id = frame.stream;
        let Some(call) = self.calls.get_mut(&id) else {
            // Whatever else comes for a stream that is not there belongs to one that has ended.
            if let Some(Request::Head { method, metadata, timeout }) = frame.what {
                self.open(Opened { id, method, metadata, timeout }, frame.window, now);
            }
            return;
        };
        if let Some(window) = frame.window {
            self.out.window(id, window);
        }
        match frame.what {
            None => {}
            Some(Request::Reset) if call.finished => {
                // Nobody reads what is left of the answer.
                let cancelled = Trailers::of(&Status::cancelled("request cancelled"));
                self.out.finish(id, response::trailers(id, &cancelled), true);
            }
            Some(_) if call.finished => {}
            Some(Request::Head { .. }) => self.abort(id, &Status::invalid_argument("headers already received")),
            Some(Request::Reset) => self.abort(id, &Status::cancelled("request cancelled")),
            Some(Request::Message { .. }) if call.ended => {}
            Some(Request::Message { packet, end }) => {
                let before = call.inbox.held();
                // A client may say on every packet that its only message is the last one: it is once it is complete.
                let (complete, last) = match packet {
                    None => (Ok(false), true),
                    Some(packet) => {
                        let last = packet.last;
                        (call.inbox.push(packet, length), last)
                    }
                };
                call.ended = last && (end || call.single && complete == Ok(true));
                self.held = self.held + call.inbox.held() - before;
                if complete == Ok(true) || call.ended {
                    self.events.push_back(Event::Readable(id));
                }
                let cut_off = call.ended && call.inbox.is_within();
                match complete {
                    Ok(_) if cut_off => self.abort(id, &Status::invalid_argument("the last message was cut off")),
                    Ok(_) => self.grant(id),
                    Err(overflow) => self.abort(id, &overflow.status()),
                }
                self.shed();
            }
        }
    }

    fn open(&mut self, opened: Opened, window: Option<u64>, now: Instant) {
        let (id, reserved) = (opened.id, is_reserved(&opened.method));
        if self.closing {
            return self.refuse(id, &Status::unavailable("the machine is shutting down"));
        }
        let full = if reserved {
            self.reserved >= self.limits.reserved
        } else {
            self.calls.len() - self.reserved >= self.limits.ordinary
        };
        if full {
            return self.refuse(id, &Status::resource_exhausted("too many calls at once on this connection"));
        }
        self.reserved += usize::from(reserved);
        let deadline = opened.timeout.and_then(|t| now.checked_add(t)).and_then(|at| at.checked_add(GRACE));
        self.deadlines.extend(deadline.map(|at| (at, id)));
        let mut call = Call { reserved, single: (self.single)(&opened.method), deadline, ..Call::default() };
        if window.is_some() {
            call.inbox.keeps_windows(0);
        }
        self.calls.insert(id, Box::new(call));
        self.out.open(id, reserved);
        if let Some(window) = window {
            self.out.window(id, window);
        }
        self.events.push_back(Event::Opened(Box::new(opened)));
    }

    /// The next message of a call; [`Read::End`] once the client has sent its last.
    pub fn read(&mut self, id: u64) -> Read {
        let Some(call) = self.calls.get_mut(&id) else { return Read::Failed(Status::cancelled("the call is over")) };
        let before = call.inbox.held();
        if let Some(message) = call.inbox.read() {
            self.held -= before - call.inbox.held();
            self.grant(id);
            return Read::Message(message);
        }
        if call.ended { Read::End(Trailers::default()) } else { Read::Pending }
    }

    /// The answer's head. Where it cannot be sent the call ends.
    pub fn respond(&mut self, id: u64, metadata: &HeaderMap) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if call.headed || call.finished {
            return;
        }
        match response::head(id, metadata, call.inbox.window()) {
            Ok(head) => {
                call.headed = true;
                self.out.head(id, head);
            }
            Err(why) => self.abort(id, &Status::internal(format!("the answer cannot be sent: {}", why.0))),
        }
    }

    /// Parts of messages.
    pub fn send(&mut self, id: u64, pieces: VecDeque<Piece>) {
        if self.is_live(id) {
            self.out.push(id, pieces);
        }
    }

    /// Whether the call takes more; if not, [`Event::Writable`] tells when it does.
    pub fn has_room(&mut self, id: u64) -> bool {
        self.out.has_room(id)
    }

    /// Whether the call still waits for its end.
    pub fn is_live(&self, id: u64) -> bool {
        self.calls.get(&id).is_some_and(|call| !call.finished)
    }

    /// The answer is complete.
    pub fn finish(&mut self, id: u64, trailers: &Trailers, now: Instant) {
        let late = self.calls.get(&id).and_then(|call| call.deadline).is_some_and(|at| at <= now + GRACE);
        if late && trailers.status.code == 0 {
            return self.end(
                id,
                &Trailers::of(&Status::deadline_exceeded("the answer came after the deadline")),
                false,
            );
        }
        self.end(id, trailers, false);
    }

    /// The channel has ended: every handler is to be dropped.
    pub fn handle_closed(&mut self) {
        let live = self.calls.iter().filter(|(_, call)| !call.finished).map(|(id, _)| *id);
        self.events.extend(live.map(Event::Aborted));
        (self.calls, self.deadlines, self.held, self.reserved) = (BTreeMap::new(), BTreeSet::new(), 0, 0);
        self.out = Outbox::new(Side::Callee);
    }

    /// Handlers that outstay their deadline are dropped.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.deadlines.first()
            && at <= now
        {
            self.deadlines.pop_first();
            self.abort(id, &Status::deadline_exceeded("the call took longer than it was given"));
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
        if let Some(id) = done.finished
            && let Some(call) = remove(&mut self.calls, id)
        {
            self.out.remove(id);
            self.reserved -= usize::from(call.reserved);
        }
        Some(packet)
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn grant(&mut self, id: u64) {
        if let Some(call) = self.calls.get_mut(&id)
            && !call.finished
            && !call.ended
            && let Some(window) = call.inbox.grant()
        {
            self.out.first(response::window(id, window));
        }
    }

    fn shed(&mut self) {
        while self.held > UNREAD_IN_ALL
            && let Some((&id, _)) = self.calls.iter().max_by_key(|(_, call)| call.inbox.held())
        {
            self.abort(id, &Overflow::Unread.status());
        }
    }

    /// Answers a call that never was.
    fn refuse(&mut self, id: u64, status: &Status) {
        if let Ok(head) = response::head(id, &HeaderMap::new(), None) {
            self.out.first(head);
        }
        self.out.first(response::trailers(id, &Trailers::of(status)));
    }

    /// Ends a call against its handler; what waits of its answer is not sent.
    fn abort(&mut self, id: u64, status: &Status) {
        if self.is_live(id) {
            self.end(id, &Trailers::of(status), true);
            self.events.push_back(Event::Aborted(id));
        }
    }

    fn end(&mut self, id: u64, trailers: &Trailers, at_once: bool) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if call.finished {
            return;
        }
        call.finished = true;
        self.held -= call.inbox.held();
        call.inbox = Inbox::default();
        if let Some(at) = call.deadline {
            self.deadlines.remove(&(at, id));
        }
        if !call.headed
            && let Ok(head) = response::head(id, &HeaderMap::new(), None)
        {
            call.headed = true;
            self.out.head(id, head);
        }
        self.out.finish(id, response::trailers(id, trailers), at_once);
    }
}
