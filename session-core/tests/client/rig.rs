//! A client of arithmetic: the session, a clock that only the test moves, and everything that came out.

pub use std::collections::BTreeSet;
pub use std::time::{Duration, Instant};

pub use session_core::SessionId;
pub use session_core::client::{
    Answer, Attempt, BeatError, Call, ClientOptions, ClientOutput as Out, ClientSession, Event, Failure, Kind, Letter,
    Link, LinkState, MAX_OPEN, StartError, Started,
};

pub const W: Duration = Duration::from_secs(2);
pub const A: Link = Link(1);
pub const B: Link = Link(2);
pub const ID: SessionId = SessionId(7);

pub struct Rig {
    pub client: ClientSession<&'static str>,
    pub now: Instant,
    pub seen: Vec<Out<&'static str>>,
}

impl Rig {
    pub fn new(options: ClientOptions) -> Self {
        Self { client: ClientSession::new(options, 0xaa), now: Instant::now(), seen: Vec::new() }
    }

    /// Connected over A.
    pub fn connected() -> Self {
        let mut rig = Self::new(ClientOptions::default());
        rig.client.handle_link(A, LinkState::Primary, rig.now);
        rig
    }

    /// With a session; `ordered`: with a machine of ours. One call on m1 was answered.
    pub fn live(ordered: bool) -> Self {
        let mut rig = Self::connected();
        let call = rig.motion("m1");
        rig.start(ordered);
        rig.client.handle_answer(call, Answer::Done, rig.now);
        rig.take();
        rig
    }

    pub fn start(&mut self, ordered: bool) {
        let attempt = self.starts().pop().expect("StartSession was sent").0;
        let started = Started { id: ID, window: W, ordered };
        self.client.handle_started(attempt, Ok(started), self.now);
    }

    pub fn motion(&mut self, component: &'static str) -> Call {
        self.client.issue(component, Kind::Motion, self.now)
    }

    pub fn take(&mut self) -> Vec<Out<&'static str>> {
        self.drain();
        std::mem::take(&mut self.seen)
    }

    pub fn drain(&mut self) {
        while let Some(output) = self.client.poll_output() {
            self.seen.push(output);
        }
    }

    pub fn starts(&mut self) -> Vec<(Attempt, Option<SessionId>)> {
        self.drain();
        let start = |o: &Out<_>| if let Out::Start { attempt, resume } = o { Some((*attempt, *resume)) } else { None };
        self.seen.iter().filter_map(start).collect()
    }

    pub fn sent(&mut self) -> Vec<(Call, Option<Letter>)> {
        self.drain();
        let sent = |o: &Out<_>| if let Out::Send { call, letter } = o { Some((*call, letter.clone())) } else { None };
        self.seen.iter().filter_map(sent).collect()
    }

    pub fn beats(&mut self) -> Vec<(Attempt, Link, Letter)> {
        self.drain();
        let beat = |o: &Out<_>| match o {
            Out::Beat { attempt, link, letter } => Some((*attempt, *link, letter.clone())),
            _ => None,
        };
        self.seen.iter().filter_map(beat).collect()
    }

    pub fn failed(&mut self) -> Vec<(Call, Failure<&'static str>)> {
        self.drain();
        let failed = |o: &Out<_>| if let Out::Fail { call, why } = o { Some((*call, why.clone())) } else { None };
        self.seen.iter().filter_map(failed).collect()
    }

    /// Lets time pass, answering every beat.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((at, _)) = self.client.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.client.handle_timeout(self.now);
            let beats = self.beats();
            for (attempt, _, _) in beats {
                self.client.handle_beat(attempt, Ok(()), self.now);
            }
        }
        self.now = end;
    }

    /// Lets time pass without any answer.
    pub fn pass_silently(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((at, _)) = self.client.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.client.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }
}

pub fn open(letter: &Option<Letter>) -> Vec<u64> {
    letter.as_ref().and_then(|l| l.order.as_ref()).map(|o| o.open.iter().copied().collect()).unwrap_or_default()
}

pub fn number(letter: &Option<Letter>) -> Option<u64> {
    letter.as_ref().and_then(|l| l.order.as_ref()).map(|o| o.number)
}
