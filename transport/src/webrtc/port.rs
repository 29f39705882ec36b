//! What both shells share: the calls' value behind a lock, the channel, and who waits for what.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, watch};

use super::channel::{BURST, Longest, OUTGOING};
use super::lane::{self, Places};
use super::mux::{Callee, Caller, Event, Opened, remove};
use crate::CloseReason;

/// Received messages that are taken under one lock.
const TURN: usize = 16;

/// How much of a message its reader gets before others have their turn.
const PORTION: usize = 256 << 10;

/// What a reader was given in its turn.
///
/// Reading is copying into fresh memory: 32 MiB take 40 ms. Meanwhile whatever this thread woke last stands still, and nobody takes it over; the
/// connection's own driver is among that, and with it every beat.
#[derive(Default)]
pub(super) struct Portion(usize);

impl Portion {
    /// Hands out the next slice; pending where it is the others' turn.
    pub(super) fn poll_slice(&mut self, slices: &mut VecDeque<Bytes>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.0 >= PORTION && !slices.is_empty() {
            self.0 = 0;
            ready!(std::pin::pin!(tokio::task::yield_now()).poll(cx));
        }
        let slice = slices.pop_front();
        self.0 += slice.as_ref().map_or(0, Bytes::len);
        Poll::Ready(slice)
    }
}

/// Either side's calls.
pub(super) trait Mux: Send + 'static {
    fn handle_packet(&mut self, packet: &Bytes, now: Instant);
    fn handle_timeout(&mut self, now: Instant);
    fn poll_timeout(&self) -> Option<Instant>;
    fn wants_packets(&self) -> bool;
    fn next_len(&self) -> Option<usize>;
    fn set_longest(&mut self, bytes: usize);
    fn poll_packet(&mut self) -> Option<Bytes>;
    fn poll_event(&mut self) -> Option<Event>;
    fn is_live(&self, id: u64) -> bool;
    fn has_room(&mut self, id: u64) -> bool;
}

macro_rules! mux {
    ($side:ty, $wants:expr) => {
        impl Mux for $side {
            fn handle_packet(&mut self, packet: &Bytes, now: Instant) {
                Self::handle_packet(self, packet, now);
            }
            fn handle_timeout(&mut self, now: Instant) {
                Self::handle_timeout(self, now);
            }
            fn poll_timeout(&self) -> Option<Instant> {
                Self::poll_timeout(self)
            }
            fn wants_packets(&self) -> bool {
                $wants(self)
            }
            fn next_len(&self) -> Option<usize> {
                Self::next_len(self)
            }
            fn set_longest(&mut self, bytes: usize) {
                Self::set_longest(self, bytes);
            }
            fn poll_packet(&mut self) -> Option<Bytes> {
                Self::poll_packet(self)
            }
            fn poll_event(&mut self) -> Option<Event> {
                Self::poll_event(self)
            }
            fn is_live(&self, id: u64) -> bool {
                Self::is_live(self, id)
            }
            fn has_room(&mut self, id: u64) -> bool {
                Self::has_room(self, id)
            }
        }
    };
}

mux!(Caller, |_: &Caller| true);
mux!(Callee, Callee::wants_packets);

/// Who waits for a stream.
#[derive(Default)]
struct Waiting {
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// For the call's end.
    end: Option<Waker>,
}

pub(super) struct State<M> {
    pub(super) mux: M,
    waiting: BTreeMap<u64, Box<Waiting>>,
    opened: Vec<Opened>,
}

/// What a task waits for.
#[derive(Clone, Copy)]
pub(super) enum For {
    Reading,
    Writing,
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "the machine's side alone waits for a call's end"))]
    End,
}

impl<M> State<M> {
    /// Notes who is to be woken.
    pub(super) fn wait(&mut self, id: u64, what: For, cx: &Context<'_>) {
        let waiting = self.waiting.entry(id).or_default();
        let slot = match what {
            For::Reading => &mut waiting.reader,
            For::Writing => &mut waiting.writer,
            For::End => &mut waiting.end,
        };
        match slot {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *slot = Some(cx.waker().clone()),
        }
    }

    /// Nobody waits for this stream any more.
    pub(super) fn unlist(&mut self, id: u64) {
        remove(&mut self.waiting, id);
    }
}

/// One end of a channel with its calls.
pub(super) struct Port<M> {
    state: Mutex<State<M>>,
    outgoing: lane::Sender<Bytes>,
    longest: Longest,
    /// Tells the task that there is something to send, or another deadline.
    changed: Notify,
    started: Instant,
    /// Nanoseconds from `started` to the last message read.
    last_read: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
}

impl<M: Mux> Port<M> {
    pub(super) fn new(mux: M, outgoing: lane::Sender<Bytes>, longest: Longest) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State { mux, waiting: BTreeMap::new(), opened: Vec::new() }),
            outgoing,
            longest,
            changed: Notify::new(),
            started: now(),
            last_read: AtomicU64::new(0),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the calls, sends what the channel has room for, and wakes whom it concerns. Nothing that `act` does may
    /// come back here.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut State<M>) -> T) -> T {
        let (done, woken) = {
            let mut state = self.lock();
            let before = state.mux.poll_timeout();
            let done = act(&mut state);
            // What the channel has no room for now, the task sends when it has.
            let stuck = state.mux.next_len().is_some() && self.try_burst(&mut state);
            if stuck || state.mux.poll_timeout() != before {
                self.changed.notify_one();
            }
            (done, woken(&mut state))
        };
        woken.into_iter().for_each(Waker::wake);
        done
    }

    /// Sends what the channel has room for at once; tells whether something is left.
    fn try_burst(&self, state: &mut State<M>) -> bool {
        match self.outgoing.try_reserve(OUTGOING) {
            Ok(places) => {
                self.burst(state, places);
                state.mux.next_len().is_some()
            }
            Err(TrySendError::Full(())) => true,
            Err(TrySendError::Closed(())) => false,
        }
    }

    /// One packet, or a few that are short.
    fn burst(&self, state: &mut State<M>, mut places: Places<'_, Bytes>) {
        let mut sent = 0;
        state.mux.set_longest(self.longest.get());
        while places.left() > 0 {
            if sent > 0 && state.mux.next_len().is_none_or(|next| sent + next > BURST) {
                return;
            }
            let Some(packet) = state.mux.poll_packet() else { return };
            sent += packet.len();
            self.written.fetch_add(packet.len() as u64, Ordering::Relaxed);
            let _ = places.send(packet);
        }
    }

    /// Sends into places that were waited for.
    fn send(&self, places: Places<'_, Bytes>) -> bool {
        let woken = {
            let mut state = self.lock();
            self.burst(&mut state, places);
            woken(&mut state)
        };
        woken.into_iter().for_each(Waker::wake);
        false
    }

    /// Takes a message and what came with it, at most [`TURN`] in all: whoever has a beat to send waits for the same lock.
    fn receive(&self, first: Bytes, incoming: &mut lane::Receiver<Bytes>) -> bool {
        let now = now();
        let elapsed = u64::try_from((now - self.started).as_nanos()).unwrap_or(u64::MAX);
        self.last_read.store(elapsed, Ordering::Relaxed);
        self.with(|state| {
            let mut next = Some(first);
            for taken in 1..=TURN {
                let Some(packet) = next.take() else { return };
                self.read.fetch_add(packet.len() as u64, Ordering::Relaxed);
                state.mux.handle_packet(&packet, now);
                if taken < TURN && state.mux.wants_packets() {
                    next = incoming.try_recv().ok();
                }
            }
        });
        false
    }

    /// Waits for room for more of a stream's messages; `false` once it has ended.
    pub(super) fn poll_room(&self, id: u64, cx: &Context<'_>) -> Poll<bool> {
        let mut state = self.lock();
        if !state.mux.is_live(id) {
            return Poll::Ready(false);
        }
        if state.mux.has_room(id) {
            return Poll::Ready(true);
        }
        state.wait(id, For::Writing, cx);
        Poll::Pending
    }

    /// Waits for a stream's end.
    pub(super) fn poll_over(&self, id: u64, what: For, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if !state.mux.is_live(id) {
            return Poll::Ready(());
        }
        state.wait(id, what, cx);
        Poll::Pending
    }

    pub(super) fn last_read(&self) -> Instant {
        self.started + std::time::Duration::from_nanos(self.last_read.load(Ordering::Relaxed))
    }

    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.read.load(Ordering::Relaxed), self.written.load(Ordering::Relaxed))
    }
}

/// Carries packets between the channel and the calls until the channel ends; `opened` hears of new calls.
pub(super) async fn run<M: Mux>(
    port: &Port<M>,
    mut incoming: lane::Receiver<Bytes>,
    mut closed: watch::Receiver<Option<CloseReason>>,
    mut opened: impl FnMut(Opened),
) -> CloseReason {
    loop {
        let (waits, wants, until) = {
            let state = port.lock();
            (state.mux.next_len().is_some(), state.mux.wants_packets(), state.mux.poll_timeout())
        };
        // Not biased: neither direction may starve the other.
        let over = tokio::select! {
            _ = closed.wait_for(Option::is_some) => true,
            places = port.outgoing.reserve(OUTGOING), if waits => match places {
                Ok(places) => port.send(places),
                Err(_) => true,
            },
            message = incoming.recv(), if wants => match message {
                Some(message) => port.receive(message, &mut incoming),
                None => true,
            },
            () = sleep_until(until), if until.is_some() => {
                port.with(|state| state.mux.handle_timeout(now()));
                false
            }
            () = port.changed.notified() => false,
        };
        let new = std::mem::take(&mut port.lock().opened);
        new.into_iter().for_each(&mut opened);
        if over {
            let broken = || CloseReason::Broken("the peer connection's driver is gone".into());
            let why = closed.borrow().clone().unwrap_or_else(broken);
            if !matches!(why, CloseReason::Severed(_)) {
                // Answers that came before the end count.
                while let Ok(message) = incoming.try_recv() {
                    port.receive(message, &mut incoming);
                }
            }
            return why;
        }
    }
}

/// Who is to be woken for what has happened.
fn woken<M: Mux>(state: &mut State<M>) -> Vec<Waker> {
    let mut woken = Vec::new();
    while let Some(event) = state.mux.poll_event() {
        match event {
            Event::Opened(opened) => state.opened.push(*opened),
            Event::Readable(id) => {
                woken.extend(state.waiting.get_mut(&id).and_then(|waiting| waiting.reader.take()));
            }
            Event::Writable(id) => {
                woken.extend(state.waiting.get_mut(&id).and_then(|waiting| waiting.writer.take()));
            }
            Event::Aborted(id) => {
                let all = remove(&mut state.waiting, id).unwrap_or_default();
                woken.extend([all.reader, all.writer, all.end].into_iter().flatten());
            }
        }
    }
    woken
}

async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until.into()).await,
        None => std::future::pending().await,
    }
}

/// The clock of the timers, which tests can stop.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_message_is_read_in_portions_and_a_small_one_at_once() {
        let cx = &mut Context::from_waker(Waker::noop());
        let mut read = |slices: usize| {
            let (mut portion, mut turns) = (Portion::default(), 1);
            let mut slices: VecDeque<Bytes> = (0..slices).map(|_| Bytes::from(vec![0; 64 << 10])).collect();
            loop {
                match portion.poll_slice(&mut slices, cx) {
                    Poll::Ready(None) => return turns,
                    Poll::Ready(Some(_)) => {}
                    Poll::Pending => turns += 1,
                }
            }
        };
        assert_eq!([1, 4, 5, 16].map(&mut read), [1, 1, 2, 4]);
    }
}
