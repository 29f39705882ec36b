//! The queue of one process: a lock around [`Calls`], channels to who waits.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::calls::{Calls, Output};
use super::{Call, CallQueue, Exchange, FromAnswerer, FromCaller, Leave, Limits, Offer, Refused};
use crate::Principal;

/// A [`CallQueue`] in memory. Clones are the same queue.
#[derive(Clone)]
pub struct MemoryQueue(Arc<Shared>);

impl fmt::Debug for MemoryQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryQueue")
    }
}

struct Shared {
    state: Mutex<State>,
    /// The first deadline may have changed.
    changed: Notify,
}

struct State {
    calls: Calls,
    /// How many answerers there have been.
    answerers: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Result<Exchange, Refused>>>,
    callers: BTreeMap<Uuid, mpsc::UnboundedSender<Result<FromAnswerer, Refused>>>,
    exchanges: BTreeMap<Uuid, mpsc::UnboundedSender<FromCaller>>,
    /// Waits for deadlines, while there are any.
    clock: Option<JoinHandle<()>>,
}

impl MemoryQueue {
    /// An empty queue.
    pub fn new(limits: Limits) -> Self {
        let state = State {
            calls: Calls::new(limits),
            answerers: 0,
            waiting: BTreeMap::new(),
            callers: BTreeMap::new(),
            exchanges: BTreeMap::new(),
            clock: None,
        };
        Self(Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() }))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the queue, then what the queue wants done.
    fn with<T>(self: &Arc<Self>, act: impl FnOnce(&mut State, Instant) -> T) -> T {
        let mut state = self.lock();
        let done = act(&mut state, Instant::now());
        let unheard = state.deliver(self);
        let ticks = state.clock.as_ref().is_some_and(|clock| !clock.is_finished());
        if !ticks && state.calls.poll_timeout().is_some() {
            state.clock = Some(tokio::spawn(run(Arc::downgrade(self))));
        }
        drop(state);
        // Not under the lock: dropped, they tell the queue that somebody left.
        drop(unheard);
        self.changed.notify_one();
        done
    }
}

/// Feeds deadlines in, as long as there are any.
async fn run(shared: Weak<Shared>) {
    loop {
        let Some(queue) = shared.upgrade() else { return };
        let (next, unheard) = {
            let mut state = queue.lock();
            state.calls.handle_timeout(Instant::now());
            let unheard = state.deliver(&queue);
            let next = state.calls.poll_timeout();
            if next.is_none() {
                // Whoever makes the next deadline starts another one.
                state.clock = None;
            }
            (next, unheard)
        };
        drop(unheard);
        let Some(next) = next else { return };
        tokio::select! {
            () = tokio::time::sleep_until(next.into()) => {}
            () = queue.changed.notified() => {}
        }
    }
}

impl State {
    /// Passes on what the queue says. Returns exchanges that nobody waits for any more.
    fn deliver(&mut self, shared: &Arc<Shared>) -> Vec<Exchange> {
        let mut unheard = Vec::new();
        while let Some(output) = self.calls.poll_output() {
            match output {
                Output::Taken { answerer, call, offer, until } => {
                    let (sender, updates) = mpsc::unbounded_channel();
                    self.exchanges.insert(call, sender);
                    let exchange = Exchange { id: call, offer, until, updates, leave: shared.exchange_leaves(call) };
                    let Some(waiting) = self.waiting.remove(&answerer) else {
                        tracing::error!(%call, "an offer for an answerer that does not wait");
                        continue;
                    };
                    if let Err(Ok(exchange)) = waiting.send(Ok(exchange)) {
                        unheard.push(exchange);
                    }
                }
                Output::SentAway { answerer } => {
                    if let Some(waiting) = self.waiting.remove(&answerer) {
                        let _ = waiting.send(Err(Refused::Replaced));
                    }
                }
                Output::ToAnswerer(call, said) => {
                    let last = said == FromCaller::Done;
                    if let Some(exchange) = self.exchanges.get(&call) {
                        // One that has left tells so itself.
                        let _ = exchange.send(said);
                    }
                    if last {
                        self.exchanges.remove(&call);
                    }
                }
                Output::ToCaller(call, said) => {
                    let last = matches!(said, Err(_) | Ok(FromAnswerer::Done | FromAnswerer::Error(_)));
                    if let Some(caller) = self.callers.get(&call) {
                        let _ = caller.send(said);
                    }
                    if last {
                        self.callers.remove(&call);
                    }
                }
            }
        }
        unheard
    }
}

impl Shared {
    fn exchange_leaves(self: &Arc<Self>, call: Uuid) -> Leave {
        let queue = Arc::downgrade(self);
        Leave::new(move || {
            if let Some(queue) = queue.upgrade() {
                queue.with(|state, now| {
                    state.exchanges.remove(&call);
                    state.calls.handle_exchange_left(call, now);
                });
            }
        })
    }

    fn caller_leaves(self: &Arc<Self>, call: Uuid) -> Leave {
        let queue = Arc::downgrade(self);
        Leave::new(move || {
            if let Some(queue) = queue.upgrade() {
                queue.with(|state, now| {
                    state.callers.remove(&call);
                    state.calls.handle_caller_left(call, now);
                });
            }
        })
    }

    fn answerer_leaves(self: &Arc<Self>, answerer: u64) -> Leave {
        let queue = Arc::downgrade(self);
        Leave::new(move || {
            if let Some(queue) = queue.upgrade() {
                queue.with(|state, now| {
                    state.waiting.remove(&answerer);
                    state.calls.handle_answerer_gone(answerer, now);
                });
            }
        })
    }
}

#[tonic::async_trait]
impl CallQueue for MemoryQueue {
    async fn call(&self, offer: Offer) -> Result<Call, Refused> {
        let id = Uuid::new_v4();
        let (sender, answers) = mpsc::unbounded_channel();
        self.0.with(|state, now| {
            // An answerer that waits has it before this returns.
            state.callers.insert(id, sender);
            state.calls.handle_call(id, offer, now).inspect_err(|_| {
                state.callers.remove(&id);
            })
        })?;
        Ok(Call { id, answers, leave: self.0.caller_leaves(id) })
    }

    async fn update(&self, id: Uuid, caller: &Principal, host: &str, said: FromCaller) -> Result<(), Refused> {
        self.0.with(|state, now| state.calls.handle_update(id, caller, host, said, now))
    }

    async fn take(&self, hosts: &[String], connection: u64) -> Result<Exchange, Refused> {
        let (sender, taken) = oneshot::channel();
        let answerer = self.0.with(|state, now| {
            state.answerers += 1;
            let answerer = state.answerers;
            state.waiting.insert(answerer, sender);
            let refused = state.calls.handle_answerer(answerer, hosts, connection, now);
            refused.map(|()| answerer).inspect_err(|_| {
                state.waiting.remove(&answerer);
            })
        })?;
        let _waits = self.0.answerer_leaves(answerer);
        // The sender goes only with the queue itself.
        taken.await.unwrap_or(Err(Refused::Replaced))
    }

    async fn answer(&self, id: Uuid, said: FromAnswerer) -> Result<(), Refused> {
        self.0.with(|state, now| state.calls.handle_answer(id, said, now))
    }
}
