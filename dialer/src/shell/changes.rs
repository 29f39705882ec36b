//! Wakes the dialer when the operating system has something to tell: links, addresses and routes that changed, or a clock
//! that jumped because the computer slept.
//!
//! What changed is read from the interfaces afterwards, so nothing has to be understood of the kernel's messages: a socket
//! and a timer suffice, and no library that parses them.

use std::time::Duration;

use tokio::time::Instant;

/// Messages come in bursts, an interface that goes up sends a dozen; the interfaces are read at most this often.
const QUIET: Duration = Duration::from_millis(50);
/// Where the system tells nothing, the interfaces are read this often. Reading them takes some 50 microseconds.
const POLL: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Changes {
    /// Not before this.
    quiet: Instant,
    /// When the interfaces are read without being told to.
    poll: Instant,
    #[cfg(target_os = "linux")]
    told: Vec<told::Told>,
}

impl Changes {
    /// Listens from now on. Needs a Tokio runtime.
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            quiet: now,
            poll: now + POLL,
            #[cfg(target_os = "linux")]
            told: told::all(),
        }
    }

    /// Resolves when it is time to look. Nothing is lost when it is dropped before.
    pub async fn look(&mut self) {
        tokio::time::sleep_until(self.quiet).await;
        #[cfg(target_os = "linux")]
        if let [links, clock] = self.told.as_slice() {
            tokio::select! {
                () = links.told() => {}
                () = clock.told() => {}
            }
            self.quiet = Instant::now() + QUIET;
            return;
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

    use rustix::net::netlink::SocketAddrNetlink;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
    };
    use tokio::net::unix::pipe;

    /// RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE of rtnetlink(7).
    const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
    /// A timer on the wall clock set to never: reading it fails when that clock jumps, as it does when the computer wakes.
    const NEVER: i64 = i64::MAX / 2;

    /// A descriptor that becomes readable: a pipe's end as far as the runtime is concerned.
    pub(super) struct Told(pipe::Receiver);

    /// The kernel's links and its clock; fewer where it refuses one.
    pub(super) fn all() -> Vec<Told> {
        let both = [links(), clock()];
        both.into_iter()
            .filter_map(|fd| {
                let told = fd.map_err(std::io::Error::from);
                let told = told.and_then(|fd| pipe::Receiver::from_file_unchecked(File::from(fd)));
                told.inspect_err(|error| tracing::debug!(%error, "the system does not tell of its networks: polling"))
                    .ok()
                    .map(Told)
            })
            .collect()
    }

    fn links() -> rustix::io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Protocol 0 is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(socket)
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
        assert_eq!(changes.told.len(), 2);
        let look = tokio::time::timeout(Duration::from_millis(20), changes.look());
        assert!(look.await.is_err(), "nothing changed");
    }
}
