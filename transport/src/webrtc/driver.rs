//! Gives a peer connection its sockets and its clock: one task per connection.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use is::stun::TransId;
use tokio::sync::{mpsc, oneshot};

use super::burst::Burst;
use super::candidate::{Admitted, admit};
use super::channel::{CandidatePair, ChannelInfo, DataChannel, DriverEnd};
use super::checks::{Answered, Checks, Ends};
use super::gate::Gate;
use super::gather::{Question, hosts};
use super::options::{IcePolicy, PeerOptions, Server, SocketChoice};
use super::peer::str0m::Str0m;
use super::peer::{Ended, Event, LocalCandidate, Peer, Role};
use super::relay::{self, Relay};
use super::sdp::{Description, Kind};
use super::socket::{Batch, Place, Socket};
use crate::CloseReason;

/// Without orders a path is checked so often.
const IDLE_CHECK: Duration = Duration::from_secs(1);
/// Without an answer for so long the peer no longer consents to our packets (RFC 7675 section 5.1).
const CONSENT: Duration = Duration::from_secs(30);
/// How long an orderly end waits for what was written to be acknowledged.
const LINGER: Duration = Duration::from_secs(1);
/// Candidates of the peer that one connection takes over its life.
const MAX_REMOTE: usize = 64;
/// How long a better pair has to answer when the selected one is to be left, and how long the selected one may answer late.
const MOVE_WAIT: Duration = Duration::from_secs(1);
const MOVE_GRACE: Duration = Duration::from_millis(20);
/// How long the peer may take to answer an ICE restart.
const RESTART_WAIT: Duration = Duration::from_secs(5);
/// Messages of one wake-up before others get their turn.
const TURN: usize = 64;

/// What the shells order.
#[derive(Debug)]
pub(crate) enum Command {
    /// These servers may be asked. Once: without it gathering does not end.
    Servers(Vec<Server>),
    /// The peer's candidates.
    Remote(Vec<String>),
    /// The peer's answer.
    Accept(Box<Description>),
    /// A check of the selected pair; answers its round trip.
    Probe(oneshot::Sender<Duration>),
    /// Leave the selected pair for one that answers; answers the pair then selected.
    Move(oneshot::Sender<CandidatePair>),
    /// Restart ICE over the negotiation channel; answered once the peer has.
    Restart(oneshot::Sender<()>),
}

/// What a driver reports until the channel is open.
#[derive(Debug)]
pub(crate) enum Report {
    /// A candidate of ours for the peer.
    Candidate(String),
    /// No more follow.
    Gathered,
    /// There is a path.
    Connected,
    /// The DTLS handshake is done.
    Secured,
    /// Both channels are open.
    Open(DataChannel, Control),
    /// It has come to an end before it was open.
    Ended(Ended),
}

/// Where the shells hold a connection until it is open. Dropping it before ends the connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub commands: mpsc::Sender<Command>,
    pub reports: mpsc::Receiver<Report>,
}

/// Orders for a connection that is open, and its signs of life. Clones are the same; holding one keeps nothing alive.
#[derive(Clone, Debug)]
pub struct Control {
    commands: mpsc::Sender<Command>,
    life: Arc<Life>,
}

#[derive(Debug)]
struct Life {
    base: Instant,
    /// Nanoseconds from `base`.
    last: AtomicU64,
}

impl Life {
    fn tell(&self, now: Instant) {
        let at = u64::try_from(now.saturating_duration_since(self.base).as_nanos()).unwrap_or(u64::MAX);
        self.last.store(at, Ordering::Relaxed);
    }
}

impl Control {
    /// Checks the selected pair and returns the round trip; `None` where nothing answers within 5 s or the connection ends.
    pub async fn probe(&self) -> Option<Duration> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Probe(answer)).await.ok()?;
        tokio::time::timeout(Duration::from_secs(5), answered).await.ok()?.ok()
    }

    /// When the peer last answered something: a check, or data that it acknowledged.
    pub fn last_life(&self) -> Instant {
        self.life.base + Duration::from_nanos(self.life.last.load(Ordering::Relaxed))
    }

    /// Leaves the selected pair for another one that answers within a second, without signaling; returns it. `None` where no
    /// other answers, or the selected one does.
    pub async fn move_pair(&self) -> Option<CandidatePair> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Move(answer)).await.ok()?;
        answered.await.ok()
    }

    /// Restarts ICE over the connection's own negotiation channel, with the addresses that this computer has now. Whether the
    /// peer answered, within 5 s.
    pub async fn restart_ice(&self) -> bool {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Restart(answer)).await.is_ok() && answered.await.is_ok()
    }
}

/// The caller's half: makes an offer with the candidates that are known at once, and drives the connection.
pub(crate) fn offer(options: &PeerOptions) -> Result<(Connection, Description), OpenError> {
    start(Role::Caller, options, None)
}

/// The answerer's half.
pub(crate) fn answer(options: &PeerOptions, offer: &Description) -> Result<(Connection, Description), OpenError> {
    start(Role::Answerer, options, Some(offer))
}

/// Why no connection could be begun.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No UDP socket.
    #[error("no UDP socket: {0}")]
    Socket(#[from] io::Error),
    /// The library refused.
    #[error("{0}")]
    Library(#[from] Ended),
    /// The peer's description does not fit.
    #[error("{0}")]
    Peer(#[from] super::peer::PeerError),
}

fn start(
    role: Role,
    options: &PeerOptions,
    offer: Option<&Description>,
) -> Result<(Connection, Description), OpenError> {
    let now = Instant::now();
    let mut peer = Str0m::new(role, now)?;
    let (wire, shared) = match &options.socket {
        SocketChoice::Ephemeral => (Wire::Own(Socket::bind(0)?), None),
        SocketChoice::Shared(mux) => {
            let (place, from) = mux.join(&peer.local_ufrag());
            (Wire::Shared(place), Some(from))
        }
    };
    if options.policy != IcePolicy::RelayOnly {
        let socket = wire.socket();
        for ip in hosts(options.loopback, |ip| socket.reaches(ip)) {
            peer.add_local(LocalCandidate::Host(SocketAddr::new(ip, socket.port())), now);
        }
    }
    let description = match offer {
        None => peer.offer(),
        Some(offer) => peer.answer(offer, now)?,
    };
    let (to_driver, commands) = mpsc::channel(64);
    let (reports, from_driver) = mpsc::channel(64);
    let (relayed_in, relayed) = mpsc::channel(256);
    let mut driver = Driver {
        peer: Box::new(peer),
        wire,
        policy: options.policy,
        loopback: options.loopback,
        tls: options.turn_tls.clone(),
        control: to_driver.downgrade(),
        reports: Some(reports),
        gathering: Gathering::default(),
        relayed_in,
        relays: BTreeMap::new(),
        checks: Checks::default(),
        probes: Vec::new(),
        moving: None,
        restarting: None,
        selected: None,
        remotes: 0,
        life: Arc::new(Life { base: now, last: AtomicU64::new(0) }),
        next_check: now + IDLE_CHECK,
        gate: Gate::new(now),
        open: None,
        pending: None,
        closing: None,
        ended: None,
        burst: Burst::default(),
    };
    if let Some(offer) = offer {
        driver.add_remote(&offer.candidates, now);
    }
    tokio::spawn(driver.run(commands, shared, relayed));
    Ok((Connection { commands: to_driver, reports: from_driver }, description))
}

/// The connection's way out.
enum Wire {
    Own(Socket),
    Shared(Place),
}

impl Wire {
    fn socket(&self) -> &Socket {
        match self {
            Self::Own(socket) => socket,
            Self::Shared(place) => place.socket(),
        }
    }
}

#[derive(Default)]
struct Gathering {
    /// Whether signaling has said which servers there are.
    servers: bool,
    /// Names being looked up and allocations being made.
    under_way: usize,
    questions: Vec<Question>,
    told: bool,
}

struct Moving {
    answer: oneshot::Sender<CandidatePair>,
    since: Instant,
    /// The first other pair that answered, and when it is taken.
    other: Option<(Ends, Instant)>,
}

struct Driver {
    peer: Box<dyn Peer>,
    wire: Wire,
    policy: IcePolicy,
    loopback: bool,
    tls: Option<Arc<rustls::ClientConfig>>,
    control: mpsc::WeakSender<Command>,
    reports: Option<mpsc::Sender<Report>>,
    gathering: Gathering,
    relayed_in: mpsc::Sender<relay::News>,
    relays: BTreeMap<SocketAddr, Relay>,
    checks: Checks,
    probes: Vec<(TransId, oneshot::Sender<Duration>)>,
    moving: Option<Moving>,
    restarting: Option<(oneshot::Sender<()>, Instant)>,
    selected: Option<CandidatePair>,
    remotes: usize,
    life: Arc<Life>,
    next_check: Instant,
    gate: Gate,
    open: Option<DriverEnd>,
    /// A received message that has no place yet.
    pending: Option<Bytes>,
    /// An orderly end that waits for acknowledgements, until then.
    closing: Option<Instant>,
    ended: Option<CloseReason>,
    burst: Burst,
}

/// Never resolves where there is nothing to wait for.
async fn next<T>(from: Option<&mut mpsc::Receiver<T>>) -> Option<T> {
    match from {
        Some(from) => from.recv().await,
        None => std::future::pending().await,
    }
}

impl Driver {
    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut shared: Option<mpsc::Receiver<Batch>>,
        mut relayed: mpsc::Receiver<relay::News>,
    ) {
        let mut sleep = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
        let mut severed: Pin<Box<dyn Future<Output = &'static str> + Send>> = Box::pin(std::future::pending());
        let mut ordered = true;
        loop {
            let now = Instant::now();
            let was_open = self.open.is_some();
            self.act(now);
            if self.ended.is_some() {
                break;
            }
            if let (false, Some(end)) = (was_open, &self.open) {
                let sever = end.sever.clone();
                severed = Box::pin(async move { sever.wait().await });
            }
            let wake = self.next_wake(now);
            if sleep.deadline().into_std() != wake {
                sleep.as_mut().reset(wake.into());
            }
            let takes = self.open.is_some() && self.closing.is_none() && self.gate.is_open();
            let Self { wire, open, pending, .. } = &mut self;
            let own = async {
                match wire {
                    Wire::Own(socket) => socket.readable().await,
                    Wire::Shared(_) => std::future::pending().await,
                }
            };
            let (outgoing, incoming) = match open {
                Some(end) => (Some(&mut end.outgoing), Some(&end.incoming)),
                None => (None, None),
            };
            let place = async {
                match incoming {
                    Some(incoming) if pending.is_some() => incoming.reserve().await.is_ok(),
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                why = &mut severed => self.ended = Some(CloseReason::Severed(why)),
                readable = own => {
                    if let Err(error) = readable {
                        self.ended = Some(CloseReason::Broken(format!("UDP: {error}")));
                    }
                    self.read_socket();
                }
                Some(batch) = next(shared.as_mut()) => self.take_batch(&batch),
                Some(news) = relayed.recv() => self.handle_relay(news),
                command = commands.recv(), if ordered => match command {
                    Some(command) => self.handle_command(command, Instant::now()),
                    // Nobody can open it any more.
                    None if self.open.is_none() => self.ended = Some(CloseReason::Closed),
                    None => ordered = false,
                },
                reader = place => {
                    if !reader {
                        self.begin_close(now);
                        self.pending = None;
                    }
                }
                message = next(outgoing), if takes => self.write(message),
                () = &mut sleep => {}
            }
        }
        self.finish(Instant::now());
    }

    /// Everything that can be done now without waiting.
    fn act(&mut self, now: Instant) {
        self.peer.handle_timeout(now);
        self.drain(now);
        while let Some(event) = self.peer.poll_event() {
            self.handle_event(event, now);
        }
        self.deliver();
        self.gather(now);
        self.check(now);
        self.settle(now);
        let unacknowledged = self.peer.unacknowledged();
        if self.gate.handle_unacknowledged(unacknowledged, now) > 0 {
            self.life.tell(now);
        }
        self.drain(now);
        if self.closing.is_some_and(|until| unacknowledged == 0 || now >= until) {
            self.ended = Some(CloseReason::Closed);
        }
    }

    fn next_wake(&mut self, now: Instant) -> Instant {
        let moving = self.moving.as_ref().map(|m| m.other.map_or(m.since + MOVE_WAIT, |(_, at)| at));
        let questions = self.gathering.questions.iter().filter_map(Question::poll_timeout).min();
        let restart = self.restarting.as_ref().map(|(_, since)| *since + RESTART_WAIT);
        let next = [self.peer.poll_timeout(), moving, questions, restart, self.closing, Some(self.next_check)];
        next.into_iter().flatten().min().unwrap_or(now + IDLE_CHECK)
    }

    /// Sends what is ready.
    fn drain(&mut self, now: Instant) {
        let Self { peer, wire, relays, burst, .. } = self;
        let socket = wire.socket();
        let most = socket.segments();
        let mut send = |local, remote, segment, bytes: &[u8]| socket.send(local, remote, segment, bytes);
        peer.drain(now, &mut |local, remote, datagram| match relays.get(&local) {
            Some(relay) => relay.send(remote, datagram),
            None => burst.push((local, remote), datagram, most, &mut send),
        });
        burst.flush(&mut send);
    }

    fn send(&mut self, (local, remote): Ends, datagram: &[u8]) {
        match self.relays.get(&local) {
            Some(relay) => relay.send(remote, datagram),
            None => self.wire.socket().send(local, remote, datagram.len(), datagram),
        }
    }

    fn read_socket(&mut self) {
        let now = Instant::now();
        let Self { wire: Wire::Own(socket), .. } = self else { return };
        // The closure below needs the rest of the driver; the socket is only read.
        let mut batches = Vec::new();
        let read = socket.try_receive(&mut |local, remote, stride, bytes| {
            batches.push(Batch { local, remote, stride, bytes: Bytes::copy_from_slice(bytes) });
        });
        if let Err(error) = read
            && error.kind() != io::ErrorKind::WouldBlock
        {
            tracing::debug!(%error, "UDP read");
        }
        for batch in &batches {
            self.take_batch_at(batch, now);
        }
    }

    fn take_batch(&mut self, batch: &Batch) {
        self.take_batch_at(batch, Instant::now());
    }

    fn take_batch_at(&mut self, batch: &Batch, now: Instant) {
        for datagram in batch.bytes.chunks(batch.stride) {
            self.take_datagram(batch.local, batch.remote, datagram, now);
        }
    }

    fn take_datagram(&mut self, local: SocketAddr, remote: SocketAddr, datagram: &[u8], now: Instant) {
        if datagram.first().is_some_and(|b| *b < 4) {
            let of = self.gathering.questions.iter_mut().find_map(|q| q.handle(remote, datagram));
            if let Some(mapped) = of {
                return self.add_mapped(local, mapped, now);
            }
            if let Some(who) = self.peer.credentials()
                && let Some(answered) = self.checks.handle(datagram, &who, now)
            {
                return self.handle_answered(answered, now);
            }
        }
        self.peer.handle_datagram(local, remote, datagram, now);
    }

    fn add_mapped(&mut self, local: SocketAddr, mapped: Option<SocketAddr>, now: Instant) {
        if let Some(mapped) = mapped
            && mapped.ip() != local.ip()
        {
            let candidate = LocalCandidate::ServerReflexive { mapped, base: local };
            self.add_local(candidate, now);
        }
    }

    fn add_local(&mut self, candidate: LocalCandidate, now: Instant) {
        if let Some(text) = self.peer.add_local(candidate, now) {
            self.report(Report::Candidate(text));
        }
    }

    /// Tells the shell, which reads until the channel is open. A shell that has stopped reading has given up.
    fn report(&mut self, report: Report) {
        if let Some(reports) = &self.reports
            && reports.try_send(report).is_err()
            && self.open.is_none()
        {
            self.ended = Some(CloseReason::Closed);
        }
    }

    fn add_remote(&mut self, candidates: &[String], now: Instant) {
        for text in candidates {
            if self.remotes == MAX_REMOTE {
                return;
            }
            match admit(text, self.policy) {
                Admitted::Use(candidate) => {
                    self.remotes += 1;
                    if let Wire::Shared(place) = &self.wire {
                        place.expect(candidate.addr());
                    }
                    self.peer.add_remote(&candidate, now);
                }
                Admitted::Hidden => {
                    tracing::debug!("a hidden (.local) candidate is left for the peer's own checks to tell")
                }
                Admitted::Skip(why) => tracing::debug!(why, "candidate skipped"),
            }
        }
    }

    fn handle_command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Servers(servers) => self.ask(servers),
            Command::Remote(candidates) => self.add_remote(&candidates, now),
            Command::Accept(answer) => match self.peer.accept(&answer, now) {
                Ok(()) => self.add_remote(&answer.candidates, now),
                Err(error) => tracing::debug!(%error, "answer refused"),
            },
            Command::Probe(answer) => {
                if let Some(pair) = self.selected
                    && let Some(id) = self.check_pair((pair.local.address, pair.remote.address), now)
                {
                    self.probes.retain(|(_, waits)| !waits.is_closed());
                    self.probes.push((id, answer));
                }
            }
            Command::Move(answer) => {
                self.moving = Some(Moving { answer, since: now, other: None });
                for pair in self.peer.pairs() {
                    self.check_pair((pair.local.address, pair.remote.address), now);
                }
            }
            Command::Restart(answer) => self.restart(answer, now),
        }
    }

    /// Sends a check of our own.
    fn check_pair(&mut self, ends: Ends, now: Instant) -> Option<TransId> {
        let who = self.peer.credentials()?;
        let id = TransId::new();
        let datagram = self.checks.request(ends, &who, id, now)?;
        self.send(ends, &datagram);
        self.next_check = now + IDLE_CHECK;
        Some(id)
    }

    fn handle_answered(&mut self, answered: Answered, now: Instant) {
        self.life.tell(now);
        if let Some(at) = self.probes.iter().position(|(id, _)| *id == answered.check) {
            let _ = self.probes.swap_remove(at).1.send(answered.rtt);
        }
        let selected = self.selected.map(|p| (p.local.address, p.remote.address));
        if selected == Some(answered.ends) {
            self.gate.handle_rtt(answered.rtt, now);
            if let (Some(end), Some(rtt)) = (&self.open, self.checks.health(answered.ends).rtt) {
                end.info.send_if_modified(|info| std::mem::replace(&mut info.rtt, rtt) != rtt);
            }
        } else if let Some(moving) = &mut self.moving {
            moving.other.get_or_insert((answered.ends, now + MOVE_GRACE));
        }
    }

    /// Decides a move and gives up what takes too long.
    fn settle(&mut self, now: Instant) {
        if self.restarting.as_ref().is_some_and(|(_, since)| now >= *since + RESTART_WAIT) {
            self.restarting = None;
        }
        let due = self.moving.as_ref().is_some_and(|m| now >= m.other.map_or(m.since + MOVE_WAIT, |(_, at)| at));
        if !due {
            return;
        }
        let (Some(moving), Some(selected)) = (self.moving.take(), self.selected) else { return };
        let ends = (selected.local.address, selected.remote.address);
        // One that answers is not left.
        if self.checks.health(ends).answered.is_some_and(|at| at >= moving.since) {
            return;
        }
        let other = moving
            .other
            .and_then(|(ends, _)| self.peer.pairs().into_iter().find(|p| (p.local.address, p.remote.address) == ends));
        if let Some(other) = other {
            self.peer.leave_pair(selected, other, now);
            while let Some(event) = self.peer.poll_event() {
                self.handle_event(event, now);
            }
            if let Some(selected) = self.selected {
                let _ = moving.answer.send(selected);
            }
        }
    }

    fn restart(&mut self, answer: oneshot::Sender<()>, now: Instant) {
        if self.policy != IcePolicy::RelayOnly {
            let port = self.wire.socket().port();
            for ip in hosts(self.loopback, |ip| self.wire.socket().reaches(ip)) {
                self.peer.add_local(LocalCandidate::Host(SocketAddr::new(ip, port)), now);
            }
        }
        let Ok(offer) = self.peer.restart() else { return };
        self.renamed();
        if self.peer.negotiate(&offer.encode()).is_ok() {
            self.restarting = Some((answer, now));
        }
    }

    /// The credentials are new.
    fn renamed(&mut self) {
        self.checks.clear();
        self.remotes = 0;
        if let Wire::Shared(place) = &self.wire {
            place.rename(&self.peer.local_ufrag());
        }
    }

    fn handle_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Selected(pair) => {
                self.selected = Some(pair);
                self.report(Report::Connected);
                let ends = (pair.local.address, pair.remote.address);
                self.check_pair(ends, now);
                if let Some(end) = &self.open {
                    tracing::debug!(%pair, "selected pair moved");
                    let rtt = self.checks.health(ends).rtt;
                    end.info.send_modify(|info| *info = ChannelInfo { pair, rtt: rtt.unwrap_or(info.rtt) });
                }
            }
            Event::Secured => self.report(Report::Secured),
            Event::Open => self.opened(now),
            Event::Negotiation(text) => self.negotiate(&text, now),
            Event::Closed(why) => {
                self.ended = Some(match &why {
                    Ended::ByPeer => CloseReason::ByPeer,
                    other => CloseReason::Broken(other.to_string()),
                });
                self.report(Report::Ended(why));
            }
        }
    }

    fn opened(&mut self, now: Instant) {
        let (Some(pair), Some(commands)) = (self.selected, self.control.upgrade()) else { return };
        self.life.tell(now);
        let rtt = self.checks.health((pair.local.address, pair.remote.address)).rtt.unwrap_or_default();
        let (channel, end) = DataChannel::new(ChannelInfo { pair, rtt });
        self.open = Some(end);
        let control = Control { commands, life: self.life.clone() };
        self.report(Report::Open(channel, control));
        if self.gathering.told {
            self.reports = None;
        }
    }

    /// A description of the peer's on the negotiation channel.
    fn negotiate(&mut self, text: &str, now: Instant) {
        let theirs = match Description::decode(text) {
            Ok(theirs) => theirs,
            Err(error) => return tracing::debug!(%error, "renegotiation refused"),
        };
        let done = match theirs.kind {
            Kind::Offer => self.peer.answer(&theirs, now).map(Some),
            Kind::Answer => self.peer.accept(&theirs, now).map(|()| None),
        };
        match done {
            Ok(reply) => {
                self.renamed();
                self.add_remote(&theirs.candidates, now);
                if let Some(reply) = reply {
                    let _ = self.peer.negotiate(&reply.encode());
                } else if let Some((answer, _)) = self.restarting.take() {
                    let _ = answer.send(());
                }
            }
            Err(error) => tracing::debug!(%error, "renegotiation refused"),
        }
    }

    fn write(&mut self, message: Option<Bytes>) {
        let now = Instant::now();
        let Some(message) = message else { return self.begin_close(now) };
        self.write_one(&message, now);
        for _ in 0..TURN {
            if !self.gate.is_open() {
                return;
            }
            let Some(end) = &mut self.open else { return };
            match end.outgoing.try_recv() {
                Ok(message) => self.write_one(&message, now),
                Err(_) => return,
            }
        }
    }

    fn write_one(&mut self, message: &Bytes, now: Instant) {
        match self.peer.write(message) {
            Ok(()) => self.gate.handle_written(message.len(), now),
            Err(error) => {
                tracing::debug!(%error, bytes = message.len(), "message not written");
                self.ended.get_or_insert(CloseReason::Broken(error.to_string()));
            }
        }
    }

    /// Hands received messages over, as long as there is a place for them.
    fn deliver(&mut self) {
        let Some(end) = &self.open else { return };
        loop {
            let Some(message) = self.pending.take().or_else(|| self.peer.read()) else { return };
            match end.incoming.try_send(message) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(message)) => {
                    self.pending = Some(message);
                    return;
                }
                // Nobody reads any more; the end of the writing half ends the connection.
                Err(mpsc::error::TrySendError::Closed(_)) => {}
            }
        }
    }

    fn begin_close(&mut self, now: Instant) {
        self.closing.get_or_insert(now + LINGER);
    }

    /// Without orders the path is checked once a second; a peer that answers nothing for 30 s is gone.
    fn check(&mut self, now: Instant) {
        if now < self.next_check {
            return;
        }
        self.next_check = now + IDLE_CHECK;
        if let Some(pair) = self.selected {
            self.check_pair((pair.local.address, pair.remote.address), now);
        }
        let last = self.life.base + Duration::from_nanos(self.life.last.load(Ordering::Relaxed));
        if self.open.is_some() && now.saturating_duration_since(last) >= CONSENT {
            self.ended = Some(CloseReason::Broken(format!("no answer for {CONSENT:?}")));
        }
    }

    /// Asks the servers; names are looked up and allocations made beside the connection.
    fn ask(&mut self, servers: Vec<Server>) {
        self.gathering.servers = true;
        for server in servers {
            self.gathering.under_way += 1;
            relay::start(server, self.tls.clone(), self.relayed_in.clone());
        }
    }

    fn handle_relay(&mut self, news: relay::News) {
        let now = Instant::now();
        match news {
            relay::News::Stun(servers) => {
                self.gathering.under_way -= 1;
                for server in servers {
                    if self.wire.socket().reaches(server.ip()) {
                        if let Wire::Shared(place) = &self.wire {
                            place.expect(server);
                        }
                        self.gathering.questions.push(Question::new(server));
                    }
                }
            }
            relay::News::Allocated(relay) => {
                self.gathering.under_way -= 1;
                let candidate = LocalCandidate::Relayed { relay: relay.address, base: relay.base };
                self.relays.insert(relay.address, relay);
                self.add_local(candidate, now);
            }
            relay::News::Failed(why) => {
                self.gathering.under_way -= 1;
                tracing::debug!(why, "no candidate from an ICE server");
            }
            relay::News::Datagram { relay, peer, bytes } => self.take_datagram(relay, peer, &bytes, now),
        }
    }

    fn gather(&mut self, now: Instant) {
        let mut due = Vec::new();
        for question in &mut self.gathering.questions {
            if let Some(datagram) = question.poll(now) {
                due.push((question.server, datagram));
            }
        }
        let unspecified = |server: SocketAddr| match server {
            SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
            SocketAddr::V6(_) => SocketAddr::from(([0; 16], 0)),
        };
        for (server, datagram) in due {
            self.send((unspecified(server), server), &datagram);
        }
        let gathering = &mut self.gathering;
        gathering.questions.retain(|q| !q.is_done());
        if gathering.servers && gathering.under_way == 0 && gathering.questions.is_empty() && !gathering.told {
            gathering.told = true;
            self.report(Report::Gathered);
            if self.open.is_some() {
                self.reports = None;
            }
        }
    }

    fn finish(mut self, now: Instant) {
        self.peer.close(now);
        self.drain(now);
        if let Some(end) = &self.open {
            end.closed.send_replace(self.ended.take());
        }
    }
}
