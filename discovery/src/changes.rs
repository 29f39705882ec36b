//! The kernel's word that links, addresses or routes changed.
//!
//! What changed is read from the interfaces afterwards, so nothing has to be understood of its messages, and no library that parses them is
//! needed.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use crate::Surroundings;

/// RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE of rtnetlink(7).
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// A socket, non-blocking, that has something to read after every change from now on.
///
/// # Errors
/// The kernel's, where it gives none.
pub fn kernel_changes() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // Protocol 0 is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
    Ok(socket)
}

/// What was seen last; it holds for as long as the kernel says nothing.
struct Seen {
    changes: OwnedFd,
    /// The network namespace that it was seen in: a thread may move to another.
    namespace: u64,
    here: Arc<Surroundings>,
}

impl Seen {
    fn still_holds(&self) -> bool {
        // Whatever else a read says, an overrun for one, is news.
        let nothing = recv(&self.changes, &mut [0_u8; 1], RecvFlags::DONTWAIT).err() == Some(Errno::AGAIN);
        nothing && namespace().is_some_and(|now| now == self.namespace)
    }
}

/// The surroundings of now, listed again only if something changed since the last caller's in this process.
pub(crate) fn surroundings() -> Arc<Surroundings> {
    static LAST: Mutex<Option<Seen>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(seen) = last.as_ref().filter(|seen| seen.still_holds()) {
        return seen.here.clone();
    }
    // The kernel is asked to tell before the list is made: nothing falls between.
    let told = kernel_changes().ok().zip(namespace());
    let here = Arc::new(Surroundings::look());
    *last = told.filter(|_| here.unlisted().is_none()).map(|(changes, namespace)| Seen {
        changes,
        namespace,
        here: here.clone(),
    });
    here
}

fn namespace() -> Option<u64> {
    std::fs::metadata("/proc/thread-self/ns/net").ok().map(|namespace| namespace.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_listed_again_while_nothing_changes() {
        // Another program may change something just then.
        let same = || Arc::ptr_eq(&surroundings(), &surroundings());
        assert!((0..10).any(|_| same()));
        let addresses = |here: &Surroundings| here.addresses().collect::<Vec<_>>();
        assert_eq!(addresses(&surroundings()), addresses(&Surroundings::look()));
    }
}
