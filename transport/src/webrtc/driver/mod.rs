//! Gives a peer connection its sockets and its clock: one task per connection.

mod candidates;
mod data;
mod orders;
mod path;
mod start;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use is::stun::TransId;
use tokio::sync::mpsc::error::{TryRecvError, TrySendError};
use tokio::sync::oneshot;

use super::burst::Burst;
use super::channel::{CandidatePair, ChannelInfo, DriverEnd};
use super::checks::{Checks, Ends};
use super::gate::Gate;
use super::gather::Question;
use super::lane;
use super::moves::Moves;
use super::options::IcePolicy;
use super::peer::{Ended, Event, Peer};
use super::relay::{self, Relay};
use super::socket::{Batch, Place, Socket};
use super::stall::Stall;
use super::trickle::Untold;
use crate::CloseReason;
use candidates::Gathering;
pub use orders::Control;
use orders::Life;
pub(crate) use orders::{Command, Connection, Report};
use path::RESTART_WAIT;
pub use start::OpenError;
pub(crate) use start::{answer, offer};

/// Without orders a path is checked so often.
const IDLE_CHECK: Duration = Duration::from_secs(1);
/// How a check begins (RFC 8489 section 5).
const BINDING_REQUEST: [u8; 2] = [0, 1];
/// After so long others on the same thread get their turn.
const TURN: Duration = Duration::from_micros(250);

/// The connection's way out.
enum Wire {
    Own(Arc<Socket>),
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

struct Driver {
    peer: Box<dyn Peer>,
    wire: Wire,
    policy: IcePolicy,
    loopback: bool,
    tls: Option<Arc<rustls::ClientConfig>>,
    control: lane::WeakSender<Command>,
    reports: Option<lane::Sender<Report>>,
    gathering: Gathering,
    relayed_in: lane::Sender<Box<relay::News>>,
    relays: BTreeMap<SocketAddr, Relay>,
    checks: Checks,
    probes: Vec<(TransId, oneshot::Sender<Duration>)>,
    moves: Moves,
    /// Who ordered a move and waits for it.
    moving: Option<oneshot::Sender<CandidatePair>>,
    /// Whether the other side decides which pair is used.
    helps: bool,
    restarting: Option<(oneshot::Sender<()>, Instant)>,
    /// The peer has checked a candidate of ours.
    checked: bool,
    selected: Option<CandidatePair>,
    /// Addresses of the peer's candidates.
    remotes: Vec<SocketAddr>,
    /// Whether the peer is an end of ours, which reads candidates on the negotiation channel.
    ours: bool,
    untold: Untold,
    life: Arc<Life>,
    next_check: Instant,
    gate: Gate,
    stall: Stall,
    open: Option<DriverEnd>,
    /// A received message that has no place yet.
    pending: Option<Bytes>,
    /// An orderly end that waits for acknowledgements, until then.
    closing: Option<Instant>,
    ended: Option<CloseReason>,
    burst: Burst,
}

/// Never resolves where there is nothing to wait for.
async fn next<T>(from: Option<&mut lane::Receiver<T>>) -> Option<T> {
    match from {
        Some(from) => from.recv().await,
        None => std::future::pending().await,
    }
}

impl Driver {
    /// Boxed: a task keeps what its future was given beside what that has made of it.
    async fn run(
        mut self: Box<Self>,
        mut commands: lane::Receiver<Command>,
        mut shared: Option<lane::Receiver<Box<Batch>>>,
        mut relayed: lane::Receiver<Box<relay::News>>,
    ) {
        let mut sleep = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
        let mut severed: Pin<Box<dyn Future<Output = &'static str> + Send>> = Box::pin(std::future::pending());
        let mut ordered = true;
        let mut turn = Instant::now();
        loop {
            // While data flows there is always something to do, and the runtime's own measure of fairness counts events: a hundred of them
            // are 100 ms, in which nobody else on this thread gets a beat out.
            if turn.elapsed() >= TURN {
                tokio::task::yield_now().await;
                turn = Instant::now();
            }
            let now = Instant::now();
            let was_open = self.open.is_some();
            // What the socket has is read first below, and while data flows it always has something.
            while let Ok(command) = commands.try_recv() {
                self.handle_command(command, now);
            }
            self.write_waiting(now);
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
            let takes = self.takes();
            let Self { wire, open, pending, .. } = &mut *self;
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
                    Some(incoming) if pending.is_some() => incoming.reserve(1).await.is_ok(),
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
                Some(news) = relayed.recv() => self.handle_relay(*news),
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
        self.sweep(now);
        let unacknowledged = self.peer.unacknowledged();
        let news = self.gate.handle_unacknowledged(unacknowledged, now);
        if news > 0 {
            self.life.acknowledge(now);
        }
        if let Some(end) = &self.open {
            end.longest.set(self.gate.longest());
        }
        self.watch_data(unacknowledged, news, now);
        self.drain(now);
        if self.closing.is_some_and(|until| unacknowledged == 0 || now >= until) {
            self.ended = Some(CloseReason::Closed);
        }
    }

    fn next_wake(&mut self, now: Instant) -> Instant {
        let moving = self.moves.poll_timeout(self.silent(), now);
        let questions = self.gathering.questions.iter().filter_map(Question::poll_timeout).min();
        let restart = self.restarting.as_ref().map(|(_, since)| *since + RESTART_WAIT);
        let stall = self.stall.poll_timeout(self.rtt());
        let next = [self.peer.poll_timeout(), moving, questions, restart, stall, self.closing, Some(self.next_check)];
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
        let Wire::Own(socket) = &self.wire else { return };
        let socket = socket.clone();
        let read = socket.try_receive(&mut |local, remote, stride, bytes| {
            for datagram in bytes.chunks(stride) {
                self.take_datagram(local, remote, datagram, now);
            }
        });
        if let Err(error) = read
            && error.kind() != std::io::ErrorKind::WouldBlock
        {
            tracing::debug!(%error, "UDP read");
        }
    }

    fn take_batch(&mut self, batch: &Batch) {
        let now = Instant::now();
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
        if !self.checked && datagram.starts_with(&BINDING_REQUEST) {
            self.checked = true;
            self.report(Report::Checked);
        }
        self.peer.handle_datagram(local, remote, datagram, now);
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

    fn handle_command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Servers(servers) => self.ask(servers),
            Command::Remote(candidates) => self.add_remote(&candidates, now),
            Command::Accept(answer) => match self.peer.accept(&answer, now) {
                Ok(()) => {
                    self.ours = self.peer.is_ours();
                    self.add_remote(&answer.candidates, now);
                }
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
            // Without a pair there is none to leave.
            Command::Move(answer) if self.selected.is_some() => {
                self.moving = Some(answer);
                self.moves.order(now);
            }
            Command::Move(_) => {}
            Command::Restart(answer) => self.restart(answer, now),
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

    fn finish(&mut self, now: Instant) {
        self.peer.close(now);
        self.drain(now);
        if let Some(end) = &self.open {
            end.closed.send_replace(self.ended.take());
        }
    }
}
