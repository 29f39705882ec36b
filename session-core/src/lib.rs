//! Sans-IO sessions: the client's session, the machine's session registry, the order of numbered calls, the actuators' gates.
//!
//! A machine never moves for a client that is gone. That promise lives here, in two plain values without clocks, tasks, sockets, logs or
//! randomness: [`client::ClientSession`] for the one end and [`registry::SessionRegistry`] for the other. Std only, no dependencies.
//!
//! # The contract
//!
//! **Inputs** say what happened and when: `handle_*`, the program's `issue`, `give_up`, `alive` and `close`, the machine's questions `start`, `beat`,
//! `admit`, `stop`, `claim`, `enter`, `leave`. `now` is the last argument of each. It never goes back, comes from one clock of the shell, and that clock
//! runs on while the computer sleeps.
//!
//! **Outputs** say what is to be done: after *every* input the shell takes them from `poll_output` until there are none, and does them in that order.
//! What it does elsewhere (send, write, wait) comes back later as another input; nothing is reported from within.
//!
//! **Deadlines**: `poll_timeout` says when `handle_timeout` is due at the latest; `None` means that nothing is pending. It has to be asked again after
//! every input. Early calls of `handle_timeout` are harmless, late ones too: each input compares deadlines with its own `now` before it looks at anything
//! else. So a beat that sat in a queue while the process stood still finds its session gone, however late anybody notices.
//!
//! **Nothing is in between**: an input and its outputs belong under one lock of the shell, the doing outside it, except what only queues.
//!
//! # The states of a session
//!
//! ```text
//!      the client's end                                     the machine's end
//!
//!      Idle ── first call that moves ──► Starting ─ StartSession ──► lives until now + W
//!       ▲                                   │                          │        ▲
//!       │                                   ▼                          │        │ each newest beat or command
//!       │            a beat failed: ┌──── Live ── beats every W/5 ─────┼────────┘
//!       │            the next call  │       │      numbered commands   │
//!       │            resumes first  └──►────┤                          │ W without any, or a beat that says `end`
//!       │                                   │                          ▼
//!       │        W since the last answered beat left                 over: floors up, Stop of what it holds,
//!       │                                   │                          its calls end, a tombstone stays
//!       └── Ending: a beat with `end`, ─────┘
//!           until it is answered
//! ```
//!
//! The client counts from when an answered beat *left*, the machine from when a message *arrived*: so the client gives up first, and what it then
//! tells its program (it may move for one more window at most) is true. Nothing resumes by itself after that. To a machine that takes order the old
//! session is ended before there is another, because commands that are still on their way in it would extend it and run.
//!
//! # A client by hand
//!
//! A client, a machine and a network without delay, on a clock that only this loop moves: the program drives a base for three seconds and dies. A real
//! shell puts sockets where `carry` is and a timer where the loop sets `now`, and has nothing else to decide.
//!
//! ```
//! use std::collections::BTreeSet;
//! use std::time::{Duration, Instant};
//! use session_core::client::{Answer, BeatError, ClientOptions, ClientOutput, ClientSession, Kind, Link, LinkState, Started};
//! use session_core::registry::{Admitted, Holder, Incoming, MachineOutput, NoSession, Outcome, Policy, SessionRegistry};
//! use session_core::{Connection, Owner, SessionId};
//!
//! const W: Duration = Duration::from_secs(2);
//! const OWNER: Owner = Owner([7; 32]);
//!
//! /// Does what the client says; the answers are its next inputs.
//! fn carry(client: &mut ClientSession<&'static str>, machine: &mut SessionRegistry<&'static str>, now: Instant) {
//!     while let Some(output) = client.poll_output() {
//!         match output {
//!             ClientOutput::Start { attempt, resume } => {
//!                 let started = machine.start(SessionId(1), resume, OWNER, now).unwrap();
//!                 let started = Started { id: started.id, window: started.window, ordered: true };
//!                 client.handle_started(attempt, Ok(started), now);
//!             }
//!             ClientOutput::Beat { attempt, letter, .. } => {
//!                 let answer = machine.beat(letter.session, &OWNER, letter.order.as_ref(), now);
//!                 let told = |NoSession(tombstone)| BeatError::Expired(tombstone.map(|t: session_core::registry::Tombstone<_>| t.stopped));
//!                 client.handle_beat(attempt, answer.map_err(told), now);
//!             }
//!             ClientOutput::Send { call, letter } => {
//!                 let letter = letter.unwrap();
//!                 let incoming = Incoming {
//!                     sid: Some(letter.session), owner: &OWNER, otherwise: Holder::Connection(Connection(1)), monitored: true,
//!                     resource: "base", order: letter.order.as_ref(), digest: 0,
//!                 };
//!                 let Ok(Admitted::Run(ticket)) = machine.admit(incoming, now) else { panic!("the first copy runs") };
//!                 let slot = machine.enter(ticket, &"base", now).unwrap();
//!                 // .. the driver writes ..
//!                 machine.leave(slot, now);
//!                 machine.handle_done(ticket, Some(Outcome::Kept), now);
//!                 client.handle_answer(call, Answer::Done, now);
//!             }
//!             ClientOutput::Event(event) => println!("{event:?}"),
//!             other => panic!("nothing else happens here: {other:?}"),
//!         }
//!     }
//! }
//!
//! let begin = Instant::now();
//! let mut now = begin;
//! let mut machine = SessionRegistry::new(W, 1024, Policy::Guard);
//! machine.configure("base", true, BTreeSet::new(), now);
//! let mut client = ClientSession::new(ClientOptions::default(), 0x5eed);
//! client.handle_link(Link(1), LinkState::Primary, now);
//! client.issue("base", Kind::Motion, now);
//! carry(&mut client, &mut machine, now);
//! assert!(client.session().is_some() && client.held().eq(["base"].iter()));
//!
//! let dies = begin + Duration::from_secs(3);
//! let mut stopped = None;
//! while stopped.is_none() {
//!     // Whoever is due next; the dead are not.
//!     let beat = client.poll_timeout().map(|(at, _)| at).filter(|at| *at < dies);
//!     let lease = machine.poll_timeout().map(|(at, _)| at);
//!     now = beat.into_iter().chain(lease).min().expect("a lease is pending while anybody lives").max(now);
//!     if beat.is_some_and(|at| at <= now) {
//!         client.handle_timeout(now);
//!         carry(&mut client, &mut machine, now);
//!     }
//!     machine.handle_timeout(now);
//!     while let Some(output) = machine.poll_output() {
//!         if let MachineOutput::Stop { id, resource, .. } = output {
//!             assert_eq!(resource, "base");
//!             stopped = Some(now); // .. the driver's Stop ..
//!             machine.handle_stopped(id, Ok(()), now);
//!         }
//!     }
//! }
//! // The last beat left 2.8 s after the beginning, and the base rests one window later.
//! assert_eq!(stopped, Some(begin + Duration::from_millis(2800) + W));
//! ```

pub mod client;
mod id;
mod order;
pub mod registry;

pub use id::{Connection, Owner, SessionId};
pub use order::{Order, OrderError};
