//! Wakes the dialer when the operating system has something to tell: links, addresses and routes that changed, or a clock
//! that jumped because the computer slept.
//!
//! What changed is read from the interfaces afterwards, so nothing has to be understood of the kernel's messages: a socket
//! and a timer suffice, and no library that parses them.

use std::time::Duration;

use tokio::time::Instant;

/// Messages come in bursts, an interface that goes up sends a dozen; the interfaces are read at most this often.
const QUIET: Duration = Duration::from_millis(50);
/// Whoever begins to dial has better things to do than to open what tells of changes: some 50 microseconds, a tenth of a dial to a
/// remembered address. What changes before then is found by looking once.
const BEGIN: Duration = Duration::from_millis(5);
/// Where the system tells nothing, the interfaces are read this often. Reading them takes some 50 microseconds.
const POLL: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Changes {
    /// Not before this.
    quiet: Instant,
    /// When the interfaces are read without being told to.
    poll: Instant,
    /// Once it listens.
    #[cfg(target_os = "linux")]
    told: Option<Vec<told::Told>>,
}

impl Changes {
    /// Listens from soon on.
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            quiet: now + BEGIN,
            poll: now + POLL,
            #[cfg(target_os = "linux")]
            told: None,
        }
    }

    /// Resolves when it is time to look: once it listens, and after every change. Needs a Tokio runtime. Nothing is lost when it is dropped before.
    pub async fn look(&mut self) {
        tokio::time::sleep_until(self.quiet).await;
        #[cfg(target_os = "linux")]
        match self.told.as_deref() {
            None => {
                self.told = Some(told::all());
                self.quiet = Instant::now() + QUIET;
                return;
            }
            Some([links, clock]) => {
                tokio::select! {
                    () = links.told() => {}
                    () = clock.told() => {}
                }
                self.quiet = Instant::now() + QUIET;
                return;
            }
            Some(_) => {}
        }
        tokio::time::sleep_until(self.poll).await;
        self.poll = Instant::now() + POLL;
    }
}

#[cfg(target_os = "linux")]
mod told {
    use std::fs::File;
    use std::io::ErrorKind::WouldBlock;
    use std::os::fd::OwnedFd;

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
    };
    use tokio::net::unix::pipe;

    /// A timer on the wall clock set to never: reading it fails when that clock jumps, as it does when the computer wakes.
    const NEVER: i64 = i64::MAX / 2;

    /// A descriptor that becomes readable: a pipe's end as far as the runtime is concerned.
    pub(super) struct Told(pipe::Receiver);

    /// The kernel's links and its clock; fewer where it refuses one.
    pub(super) fn all() -> Vec<Told> {
        let both = [discovery::kernel_changes(), clock().map_err(std::io::Error::from)];
        both.into_iter()
            .filter_map(|fd| {
                let told = fd.and_then(|fd| pipe::Receiver::from_file_unchecked(File::from(fd)));
                told.inspect_err(|error| tracing::debug!(%error, "the system does not tell of its networks: polling"))
                    .ok()
                    .map(Told)
            })
            .collect()
    }

    fn clock() -> rustix::io::Result<OwnedFd> {
        let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        let never = Timespec { tv_sec: NEVER, tv_nsec: 0 };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: never };
        timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET, &once)?;
        Ok(timer)
    }

    /// Messages taken at once; a kernel that floods is read again after the pause.
    const MOST: usize = 64;

    impl Told {
        /// Resolves when there was something, and throws it away.
        pub async fn told(&self) {
            loop {
                if self.0.readable().await.is_err() {
                    return std::future::pending().await;
                }
                let mut message = [0; 4096];
                // ECANCELED of the timer and ENOBUFS of a socket that overran are news too; only emptiness is none.
                let read = || self.0.try_read(&mut message);
                let taken = std::iter::repeat_with(read).take(MOST);
                let taken = taken.take_while(|read| !read.as_ref().is_err_and(|e| e.kind() == WouldBlock)).count();
                if taken > 0 {
                    return;
                }
            }
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_system_tells_of_links_and_clocks_and_is_quiet_otherwise() {
        let mut changes = Changes::new();
        changes.look().await;
        assert_eq!(changes.told.as_ref().map(Vec::len), Some(2));
        let look = tokio::time::timeout(QUIET + Duration::from_millis(20), changes.look());
        assert!(look.await.is_err(), "nothing changed");
    }
}
