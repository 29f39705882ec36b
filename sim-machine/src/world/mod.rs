//! Bodies that move in real time.
//!
//! A driver writes to its [`Part`]; one thread steps every body that moves, and sleeps while none does.

mod axes;
mod ground;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::Notify;

use crate::observer::{Happened, Observer};
pub use axes::{Axes, Axis, Goal};
pub use ground::{Ground, Motion};

/// How long a step of the world is.
const STEP: Duration = Duration::from_millis(2);

/// Something that has a state and moves.
pub trait Body: Send + 'static {
    /// Lets `seconds` pass.
    fn step(&mut self, seconds: f64);
    /// Whether it moves, or is about to.
    fn is_moving(&self) -> bool;
    /// For the observer.
    fn state(&self) -> Value;
}

/// Where bodies move.
#[derive(Clone)]
pub struct World(Arc<Shared>);

struct Shared {
    moving: Mutex<Vec<Weak<dyn Steps>>>,
    woken: Condvar,
    observer: Observer,
}

/// A part of any kind, as the world's thread sees it.
trait Steps: Send + Sync {
    /// Lets time pass; whether it still moves.
    fn step(&self, seconds: f64) -> bool;
}

impl World {
    /// A world without bodies.
    pub fn new(observer: Observer) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { moving: Mutex::default(), woken: Condvar::new(), observer });
        let world = Arc::downgrade(&shared);
        thread::Builder::new().name("world".into()).spawn(move || run(&world))?;
        Ok(Self(shared))
    }

    /// Puts a body into it, under the name that the observer calls it by, such as `base/base`.
    pub fn part<B: Body>(&self, name: impl Into<String>, body: B) -> Part<B> {
        Part(Arc::new(Inside { name: name.into(), body: Mutex::new(body), rests: Notify::new(), world: self.clone() }))
    }
}

/// A body in the world. Clones are the same one.
pub struct Part<B>(Arc<Inside<B>>);

impl<B> Clone for Part<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inside<B> {
    name: String,
    body: Mutex<B>,
    rests: Notify,
    world: World,
}

impl<B: Body> Part<B> {
    /// What a driver writes to the hardware: told to the observer with its cause, the method or `stop`.
    pub fn write(&self, cause: &str, value: Value, act: impl FnOnce(&mut B)) {
        let mut body = self.0.lock();
        let before = body.is_moving();
        act(&mut body);
        let (after, state) = (body.is_moving(), body.state());
        let observer = &self.0.world.0.observer;
        observer.tell(&self.0.name, Happened::Write, state.clone(), value, Some(cause));
        match (before, after) {
            (false, true) => observer.tell(&self.0.name, Happened::Moving, state, Value::Null, Some(cause)),
            (true, false) => observer.tell(&self.0.name, Happened::Stopped, state, Value::Null, Some(cause)),
            _ => {}
        }
        drop(body);
        if after {
            let steps: Arc<dyn Steps> = self.0.clone();
            self.0.world.0.wake(&steps);
        } else {
            self.0.rests.notify_waiters();
        }
    }

    /// Looks at the body.
    pub fn read<T>(&self, look: impl FnOnce(&B) -> T) -> T {
        look(&self.0.lock())
    }

    /// Waits until it rests.
    pub async fn rest(&self) {
        loop {
            let rests = self.0.rests.notified();
            let mut rests = std::pin::pin!(rests);
            // Registered before the body is looked at: a rest in between is not missed.
            rests.as_mut().enable();
            if !self.read(B::is_moving) {
                return;
            }
            rests.await;
        }
    }
}

impl<B> Inside<B> {
    fn lock(&self) -> MutexGuard<'_, B> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Body> Steps for Inside<B> {
    fn step(&self, seconds: f64) -> bool {
        let mut body = self.lock();
        if !body.is_moving() {
            return false;
        }
        body.step(seconds);
        let moving = body.is_moving();
        if !moving {
            self.world.0.observer.tell(&self.name, Happened::Stopped, body.state(), Value::Null, None);
            self.rests.notify_waiters();
        }
        moving
    }
}

impl Shared {
    fn wake(&self, part: &Arc<dyn Steps>) {
        let part = Arc::downgrade(part);
        let mut moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        if !moving.iter().any(|known| known.ptr_eq(&part)) {
            moving.push(part);
            self.woken.notify_one();
        }
    }
}

/// The world's thread, until the last of its owners is gone.
fn run(world: &Weak<Shared>) {
    let mut last = Instant::now();
    loop {
        let Some(shared) = world.upgrade() else { return };
        let mut moving = shared.moving.lock().unwrap_or_else(PoisonError::into_inner);
        if moving.is_empty() {
            // Looks up now and then, so that a world that nobody owns any more ends.
            moving =
                shared.woken.wait_timeout(moving, Duration::from_secs(1)).unwrap_or_else(PoisonError::into_inner).0;
            last = Instant::now();
        }
        let now = Instant::now();
        let seconds = now.duration_since(last).as_secs_f64();
        last = now;
        // A body is stepped outside the list's lock: a driver that writes meanwhile never waits for the whole world.
        let stepped: Vec<_> = moving.drain(..).collect();
        drop(moving);
        let still: Vec<_> = stepped.into_iter().filter(|p| p.upgrade().is_some_and(|p| p.step(seconds))).collect();
        let mut moving = shared.moving.lock().unwrap_or_else(PoisonError::into_inner);
        for part in still {
            if !moving.iter().any(|known| known.ptr_eq(&part)) {
                moving.push(part);
            }
        }
        let idle = moving.is_empty();
        drop(moving);
        drop(shared);
        if !idle {
            thread::sleep(STEP);
        }
    }
}
