//! The link emulator: cables between hosts of a lab. Each end of a cable is a TAP device in its host's network namespace; this process carries
//! the frames from one to the other as the policy of each direction says. It takes orders as JSON lines on standard input, answers each
//! with one line, and ends with its input.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};
use tappers::{Interface, Tap};

use super::policy::{Fate, Policy, Way};
use crate::Outcome;

/// With nothing to carry it still wakes this often, so that its lateness is known.
const PULSE: Duration = Duration::from_millis(10);
/// Frames that may be on the way at once: beyond it they are dropped, and counted.
const ON_THE_WAY: usize = 65_536;
/// Frames read from one device before the others and the clock are looked at again.
const AT_ONCE: usize = 64;

/// What the emulator is told to do.
#[derive(Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Order {
    /// Lays a cable. Its ends appear as devices that are down.
    Cable {
        /// What it is called from now on.
        name: String,
        /// Both ends.
        ends: [End; 2],
        /// Where its losses come from.
        seed: u64,
    },
    /// Changes one direction.
    Set {
        /// Which cable.
        cable: String,
        /// 0: from the first end to the second; 1: back.
        way: usize,
        /// From now on.
        #[serde(with = "PolicyDef")]
        policy: Policy,
    },
    /// Tells what happened since the last report.
    Report,
}

/// Where a cable ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct End {
    /// The namespace's file.
    pub namespace: PathBuf,
    /// The device that appears there.
    pub device: String,
}

/// What was carried.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The longest time by which the emulator was late, in milliseconds.
    pub worst_late_ms: f64,
    /// Frames delivered.
    pub carried: u64,
    /// Frames lost as the policies say.
    pub lost: u64,
    /// Frames dropped because a queue was full.
    pub dropped: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Policy")]
struct PolicyDef {
    delay: Duration,
    jitter: Duration,
    loss: f64,
    burst: f64,
    reorder: f64,
    rate: u64,
    queue: Duration,
    black_hole: bool,
}

struct Cable {
    ends: [Tap; 2],
    ways: [Way; 2],
}

/// A frame on its way. The order of its fields is the order of delivery.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Travelling {
    due: Instant,
    sequence: u64,
    cable: usize,
    to: usize,
    frame: Vec<u8>,
}

#[derive(Default)]
struct Emulator {
    cables: Vec<Cable>,
    names: BTreeMap<String, usize>,
    travelling: BinaryHeap<Reverse<Travelling>>,
    sequence: u64,
    report: Report,
}

/// Runs until the input ends.
pub fn run() -> Outcome {
    let input = std::io::stdin();
    let mut emulator = Emulator::default();
    let mut waiting = Vec::new();
    loop {
        let wake = emulator.next_wake(Instant::now());
        let ready = emulator.wait(&input, wake)?;
        emulator.note_lateness(wake, Instant::now());
        emulator.deliver()?;
        if ready[0] && !read_orders(&input, &mut waiting, |order| emulator.obey(order))? {
            return Ok(());
        }
        for (device, _) in ready.iter().skip(1).enumerate().filter(|(_, ready)| **ready) {
            emulator.take_up(device / 2, device % 2)?;
        }
        emulator.deliver()?;
    }
}

/// Reads what there is on the input and hands whole lines over; `false` at its end.
fn read_orders(
    input: impl AsFd,
    waiting: &mut Vec<u8>,
    mut obey: impl FnMut(Order) -> Result<serde_json::Value, Box<dyn std::error::Error>>,
) -> Result<bool, Box<dyn std::error::Error>> {
    let mut buffer = [0; 4096];
    let read = rustix::io::read(&input, &mut buffer)?;
    waiting.extend_from_slice(&buffer[..read]);
    while let Some(end) = waiting.iter().position(|byte| *byte == b'\n') {
        let line: Vec<u8> = waiting.drain(..=end).collect();
        let answer = match serde_json::from_slice(&line).map_err(Into::into).and_then(&mut obey) {
            Ok(answer) => serde_json::json!({ "ok": answer }),
            Err(error) => serde_json::json!({ "error": error.to_string() }),
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(read > 0)
}

impl Emulator {
    fn next_wake(&self, now: Instant) -> Instant {
        let pulse = now + PULSE;
        self.travelling.peek().map_or(pulse, |Reverse(next)| next.due.min(pulse))
    }

    /// Waits for `until`, an order or a frame: what is ready, the input first, then every end of every cable.
    fn wait(&self, input: impl AsFd, until: Instant) -> Result<Vec<bool>, Box<dyn std::error::Error>> {
        let mut fds = vec![PollFd::from_borrowed_fd(input.as_fd(), PollFlags::IN)];
        for cable in &self.cables {
            fds.extend(cable.ends.iter().map(|end| PollFd::from_borrowed_fd(end.as_fd(), PollFlags::IN)));
        }
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut fds, Some(&left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        // An end whose device is down reports an error as long as it is down: only what can be read counts.
        let ready = |fd: &PollFd<'_>| fd.revents().intersects(PollFlags::IN);
        let mut all: Vec<bool> = fds.iter().map(ready).collect();
        all[0] |= fds[0].revents().intersects(PollFlags::HUP);
        Ok(all)
    }

    fn note_lateness(&mut self, due: Instant, now: Instant) {
        let late = now.saturating_duration_since(due).as_secs_f64() * 1e3;
        self.report.worst_late_ms = self.report.worst_late_ms.max(late);
    }

    fn deliver(&mut self) -> Outcome {
        while self.travelling.peek().is_some_and(|Reverse(next)| next.due <= Instant::now()) {
            let Some(Reverse(arrived)) = self.travelling.pop() else { break };
            self.note_lateness(arrived.due, Instant::now());
            match self.cables[arrived.cable].ends[arrived.to].send(&arrived.frame) {
                Ok(_) => self.report.carried += 1,
                // A device that is down takes nothing: the cable is out.
                Err(_) => self.report.dropped += 1,
            }
        }
        Ok(())
    }

    /// Reads what a host sent into a cable.
    fn take_up(&mut self, cable: usize, from: usize) -> Outcome {
        let mut buffer = [0; 65_536];
        for _ in 0..AT_ONCE {
            let bytes = match self.cables[cable].ends[from].recv(&mut buffer) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The device went down meanwhile.
                Err(_) => break,
            };
            let now = Instant::now();
            match self.cables[cable].ways[from].handle_packet(bytes, now) {
                Fate::Arrives(due) if self.travelling.len() < ON_THE_WAY => {
                    self.sequence += 1;
                    self.travelling.push(Reverse(Travelling {
                        due,
                        sequence: self.sequence,
                        cable,
                        to: 1 - from,
                        frame: buffer[..bytes].to_vec(),
                    }));
                }
                Fate::Lost => self.report.lost += 1,
                Fate::Arrives(_) | Fate::Dropped => self.report.dropped += 1,
            }
        }
        Ok(())
    }

    fn obey(&mut self, order: Order) -> Result<serde_json::Value, Box<dyn std::error::Error>> {
        match order {
            Order::Cable { name, ends, seed } => {
                let [a, b] = ends.map(|end| device(&end.namespace, &end.device));
                let ways = [Way::new(Policy::default(), seed), Way::new(Policy::default(), !seed)];
                self.names.insert(name, self.cables.len());
                self.cables.push(Cable { ends: [a?, b?], ways });
                Ok(serde_json::json!(crate::observer::now()))
            }
            Order::Set { cable, way, policy } => {
                let index = *self.names.get(&cable).ok_or_else(|| format!("there is no cable {cable}"))?;
                let way = self.cables[index].ways.get_mut(way).ok_or("a cable has the directions 0 and 1")?;
                way.set_policy(policy);
                Ok(serde_json::json!(crate::observer::now()))
            }
            Order::Report => Ok(serde_json::to_value(std::mem::take(&mut self.report))?),
        }
    }
}

/// Makes a TAP device in a namespace. A thread goes there for it, and ends: the device stays where it was made.
fn device(namespace: &Path, name: &str) -> Result<Tap, Box<dyn std::error::Error>> {
    let made = thread::scope(|scope| {
        let there = scope.spawn(|| -> std::io::Result<Tap> {
            enter(namespace)?;
            let mut tap = Tap::new_named(Interface::new(name)?)?;
            tap.set_nonblocking(true)?;
            Ok(tap)
        });
        there.join()
    });
    let made = made.map_err(|_| "the thread that makes a device died")?;
    Ok(made.map_err(|e| format!("cannot make the device {name} in {}: {e}", namespace.display()))?)
}

/// Moves the calling thread, and what it starts from now on, into a network namespace.
pub fn enter(namespace: &Path) -> std::io::Result<()> {
    let file = File::open(namespace)?;
    Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
}
