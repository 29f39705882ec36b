//! For the case that this process is no more: something outside it that stops what moves.

use std::time::Duration;

/// A watchdog of the hardware, a motor controller's command timeout, the service manager: it stops what moves when it is not kicked in time.
///
/// A process that was killed, that aborted, or whose computer hangs stops nothing any more; nothing inside it can. The machine kicks from
/// the thread that ends leases, after it has seen to everything that was due: while kicks come, sessions are being watched over. They
/// end with that thread, with its last [`crate::Safety`], and for as long as the process is frozen.
///
/// A Stop that a driver lost ([`crate::Event::StopLost`]) does not end the kicks, because it concerns one actuator; a program whose
/// watchdog is to bite then listens to the events and withholds them.
pub trait Watchdog: Send + Sync + 'static {
    /// How often it wants to be kicked: at most half of what it waits for. 10 ms at least.
    fn period(&self) -> Duration;

    /// It lives. Called on the thread that everybody's deadlines hang on: a write to a device that returns at once, nothing that blocks.
    fn kick(&self);
}
