//! `lifeline drive`: keyboard teleoperation of a base.
//!
//! Every way out stops the base: no key for 300 ms, space, Ctrl-C, a closed terminal, a panic, a lost connection.

use std::io::IsTerminal;
use std::time::Duration;

use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, poll, read};
use crossterm::terminal::{disable_raw_mode, enable_raw_mode};
use machine_api::viam::common::v1::Vector3;
use robot_client::{Base, Robot, Sessions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::arguments::ConnectionArguments;
use crate::connection;
use crate::failure::{Failure, Kind};

/// A terminal repeats a held key after about 250 ms and then every 30 ms: longer silence means that no key is held.
const RELEASED_AFTER: Duration = Duration::from_millis(300);
/// How long a hung driver loop keeps its session: below every window that is not set by hand.
const MAX_SILENCE: Duration = Duration::from_millis(500);

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wish {
    /// Forward and left-turning parts, each -1, 0 or 1.
    Move(f64, f64),
    Stop,
    Quit,
}

/// Leaves the terminal as it was, whatever ends the program.
struct RawMode;

impl RawMode {
    fn enter() -> Result<Self, Failure> {
        enable_raw_mode().map_err(|e| Failure::failed(format!("cannot read single keys from this terminal: {e}")))?;
        Ok(Self)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing more can be done about a terminal that is gone.
        let _ = disable_raw_mode();
    }
}

pub async fn run(
    common: &ConnectionArguments,
    address: &str,
    base: &str,
    speed: f64,
    turn: f64,
) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("drive reads keys: start it in a terminal"));
    }
    let builder = connection::builder(common, address)?.sessions(Sessions::Watched(MAX_SILENCE));
    let robot = builder.connect().await.map_err(connection::failure)?;
    println!("driving {base}: arrows or W A S D move, space stops, Q quits\r");
    let raw = RawMode::enter()?;
    let handle = robot.base(base);
    let done = keys(&robot, &handle, speed, turn).await;
    let stopped = handle.stop().await;
    drop(raw);
    robot.close().await;
    done?;
    stopped.map_err(|e| {
        Failure::new(
            Kind::Stopped,
            format!("the last Stop was not confirmed ({e}); the machine stops by itself when the session lapses"),
        )
    })
}

/// Turns keys into velocities until the driver quits.
async fn keys(robot: &Robot, base: &Base, speed: f64, turn: f64) -> Result<(), Failure> {
    let mut wishes = read_keys();
    let mut hang_up = signal(SignalKind::hangup()).map_err(Failure::failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::failed)?;
    let mut moving_until: Option<Instant> = None;
    loop {
        robot.alive();
        let released = async {
            match moving_until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            wish = wishes.recv() => match wish {
                Some(Wish::Move(forward, left)) => {
                    moving_until = Some(Instant::now() + RELEASED_AFTER);
                    let linear = Vector3 { y: forward * speed, ..Default::default() };
                    let angular = Vector3 { z: left * turn, ..Default::default() };
                    base.set_velocity(linear, angular).await?;
                }
                Some(Wish::Stop) => {
                    moving_until = None;
                    base.stop().await?;
                }
                Some(Wish::Quit) | None => return Ok(()),
            },
            () = released => {
                moving_until = None;
                base.stop().await?;
            }
            _ = hang_up.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        }
    }
}

/// Reads keys on a thread of its own: reading a terminal blocks. It ends when nobody listens any more.
fn read_keys() -> mpsc::Receiver<Wish> {
    // A driver who presses faster than the machine answers is answered with the newest wishes: 4 keys are 120 ms.
    let (wishes, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        while !wishes.is_closed() {
            match poll(Duration::from_millis(100)).and_then(|ready| if ready { read().map(Some) } else { Ok(None) }) {
                Ok(Some(Event::Key(key))) => {
                    let Some(wish) = wish(key) else { continue };
                    let sent = match wish {
                        Wish::Move(..) => !matches!(wishes.try_send(wish), Err(mpsc::error::TrySendError::Closed(_))),
                        Wish::Stop | Wish::Quit => wishes.blocking_send(wish).is_ok(),
                    };
                    if !sent {
                        return;
                    }
                }
                Ok(_) => {}
                // The terminal is gone; dropping the sender ends the drive.
                Err(_) => return,
            }
        }
    });
    receiver
}

fn wish(key: KeyEvent) -> Option<Wish> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    Some(match key.code {
        KeyCode::Char('c' | 'd') if control => Wish::Quit,
        KeyCode::Char('q' | 'Q') | KeyCode::Esc => Wish::Quit,
        KeyCode::Up | KeyCode::Char('w' | 'W') => Wish::Move(1.0, 0.0),
        KeyCode::Down | KeyCode::Char('s' | 'S') => Wish::Move(-1.0, 0.0),
        KeyCode::Left | KeyCode::Char('a' | 'A') => Wish::Move(0.0, 1.0),
        KeyCode::Right | KeyCode::Char('d' | 'D') => Wish::Move(0.0, -1.0),
        KeyCode::Char(' ') => Wish::Stop,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mean_what_the_help_says() {
        let key = |code| wish(KeyEvent::new(code, KeyModifiers::NONE));
        assert_eq!(key(KeyCode::Up), Some(Wish::Move(1.0, 0.0)));
        assert_eq!(key(KeyCode::Char('d')), Some(Wish::Move(0.0, -1.0)));
        assert_eq!(key(KeyCode::Char(' ')), Some(Wish::Stop));
        assert_eq!(key(KeyCode::Char('q')), Some(Wish::Quit));
        assert_eq!(key(KeyCode::Char('x')), None);
        assert_eq!(wish(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Some(Wish::Quit));
    }
}
