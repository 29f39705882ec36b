//! UDP sockets for peer connections: dual-stack, in batches, one per connection or one for all of a machine's.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::lane::{self, lane};

/// Buffers of one read: each takes a whole batch of the kernel's (UDP GRO).
const BUFFERS: usize = 4;
/// A batch of the kernel's is at most as long as a datagram can be.
const BUFFER: usize = 64 << 10;
/// Kernel buffers, in bytes: two windows of a fast connection. The kernel may grant less.
const KERNEL_BUFFER: usize = 2 << 20;
/// Batches that may wait for one connection of a shared socket; what is too much is lost, as on the wire.
const WAITING: usize = 256;
/// Addresses of peers that a shared socket remembers, in all.
const MAX_REMOTES: usize = 16_384;

thread_local! {
    /// One per thread and not per connection: an idle connection costs no buffers.
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFERS * BUFFER]);
}

/// Datagrams that came together: from `remote` to `local`, each `stride` bytes long save for the last.
#[derive(Debug)]
pub(crate) struct Batch {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub stride: usize,
    pub bytes: Bytes,
}

/// A bound UDP socket.
pub(crate) struct Socket {
    io: UdpSocket,
    state: UdpSocketState,
    port: u16,
    v6: bool,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("port", &self.port).field("v6", &self.v6).finish_non_exhaustive()
    }
}

impl Socket {
    /// Binds all addresses of both families; only IPv4 where the system has no IPv6. Port 0: one that is free.
    pub fn bind(port: u16) -> io::Result<Self> {
        let v6 = |port| -> io::Result<socket2::Socket> {
            let socket = socket2::Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_only_v6(false)?;
            socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
            Ok(socket)
        };
        let v4 = |port| -> io::Result<socket2::Socket> {
            let socket = socket2::Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
            socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
            Ok(socket)
        };
        let (socket, v6) = match v6(port) {
            Ok(socket) => (socket, true),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => return Err(e),
            Err(_) => (v4(port)?, false),
        };
        let _ = socket.set_recv_buffer_size(KERNEL_BUFFER);
        let _ = socket.set_send_buffer_size(KERNEL_BUFFER);
        socket.set_nonblocking(true)?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let io = UdpSocket::from_std(socket.into())?;
        let port = io.local_addr()?.port();
        Ok(Self { io, state, port, v6 })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it reaches addresses of this family.
    pub fn reaches(&self, address: IpAddr) -> bool {
        self.v6 || address.is_ipv4()
    }

    /// Datagrams that one call may send.
    pub fn segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Sends datagrams of `segment` bytes each. What the kernel does not take is lost, as on the wire.
    pub fn send(&self, local: SocketAddr, remote: SocketAddr, segment: usize, contents: &[u8]) {
        let destination = if self.v6 { mapped(remote) } else { remote };
        let several = contents.len() > segment;
        let transmit = Transmit {
            destination,
            ecn: None,
            contents,
            segment_size: several.then_some(segment),
            src_ip: (!local.ip().is_unspecified()).then_some(local.ip()),
        };
        let sent = self.io.try_io(Interest::WRITABLE, || self.state.try_send(UdpSockRef::from(&self.io), &transmit));
        if let Err(error) = sent {
            tracing::trace!(%error, %remote, bytes = contents.len(), "datagram not sent");
        }
    }

    /// Resolves when there is something to read.
    pub async fn readable(&self) -> io::Result<()> {
        self.io.readable().await
    }

    /// Hands over what is there.
    pub fn try_receive(&self, take: &mut impl FnMut(SocketAddr, SocketAddr, usize, &[u8])) -> io::Result<()> {
        READ.with_borrow_mut(|buffer| {
            let mut metas = [RecvMeta::default(); BUFFERS];
            let mut slices: Vec<IoSliceMut<'_>> = buffer.chunks_mut(BUFFER).map(IoSliceMut::new).collect();
            let read = self
                .io
                .try_io(Interest::READABLE, || self.state.recv(UdpSockRef::from(&self.io), &mut slices, &mut metas))?;
            for (meta, slice) in metas.iter().zip(&slices).take(read) {
                let ip = meta.dst_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).to_canonical();
                let local = SocketAddr::new(ip, self.port);
                let remote = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
                take(local, remote, meta.stride.max(1), &slice[..meta.len]);
            }
            Ok(())
        })
    }
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        v6 @ SocketAddr::V6(_) => v6,
    }
}

/// One UDP socket for many connections, at one port: what a firewall has to let through, and one descriptor however many peers.
///
/// A peer's first datagram is a check that bears the name of the connection it is for; from then on its address tells.
#[derive(Debug)]
pub struct Mux {
    socket: Arc<Socket>,
    routes: Mutex<Routes>,
}

#[derive(Debug, Default)]
struct Routes {
    /// By our ICE user name.
    names: BTreeMap<String, (u64, lane::Sender<Box<Batch>>)>,
    /// By the peer's address.
    remotes: BTreeMap<SocketAddr, (u64, lane::Sender<Box<Batch>>)>,
    /// By the number of a question to a STUN server, which all connections ask from this one socket.
    asked: BTreeMap<[u8; 12], (u64, lane::Sender<Box<Batch>>)>,
    next: u64,
}

/// One connection's place at a shared socket; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place {
    mux: Arc<Mux>,
    number: u64,
    /// Its name and the one before: checks of that one may still be on their way.
    names: Mutex<(String, Option<String>)>,
}

impl Mux {
    /// Binds `port` (0: one that is free) on all addresses, and reads until the last clone is gone. Within a runtime.
    ///
    /// # Errors
    ///
    /// The port is taken, or the system has no UDP.
    pub fn bind(port: u16) -> io::Result<Arc<Self>> {
        let mux = Arc::new(Self { socket: Arc::new(Socket::bind(port)?), routes: Mutex::default() });
        tokio::spawn(read(mux.socket.clone(), Arc::downgrade(&mux)));
        Ok(mux)
    }

    /// The port it is bound to.
    pub fn port(&self) -> u16 {
        self.socket.port()
    }

    /// A place for the connection of this ICE user name.
    pub(crate) fn join(self: &Arc<Self>, ufrag: &str) -> (Place, lane::Receiver<Box<Batch>>) {
        let (to, from) = lane(WAITING);
        let mut routes = self.lock();
        routes.next += 1;
        let number = routes.next;
        routes.names.insert(ufrag.to_owned(), (number, to));
        (Place { mux: self.clone(), number, names: Mutex::new((ufrag.to_owned(), None)) }, from)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dispatch(&self, local: SocketAddr, remote: SocketAddr, stride: usize, bytes: &[u8]) {
        let mut routes = self.lock();
        if let Some((_, to)) = answered(bytes).and_then(|question| routes.asked.remove(&question)) {
            let _ = to.try_send(Box::new(Batch { local, remote, stride, bytes: Bytes::copy_from_slice(bytes) }));
            return;
        }
        let named = requested(bytes).and_then(|name| routes.names.get(name).cloned());
        if let Some(route) = &named
            && routes.remotes.get(&remote).is_none_or(|(number, _)| *number != route.0)
        {
            if routes.remotes.len() >= MAX_REMOTES {
                routes.remotes.pop_first();
            }
            routes.remotes.insert(remote, route.clone());
        }
        let Some((_, to)) = named.as_ref().or_else(|| routes.remotes.get(&remote)) else { return };
        let _ = to.try_send(Box::new(Batch { local, remote, stride, bytes: Bytes::copy_from_slice(bytes) }));
    }
}

impl Place {
    pub fn socket(&self) -> &Arc<Socket> {
        &self.mux.socket
    }

    /// The connection has another ICE user name from now on; the one before is known still, and no older one: the peer decides how many there are.
    pub fn rename(&self, ufrag: &str) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let mut routes = self.mux.lock();
        let Some(route) = routes.names.get(&names.0).cloned().filter(|_| names.0 != ufrag) else { return };
        let before = std::mem::replace(&mut names.0, ufrag.to_owned());
        if let Some(older) = names.1.replace(before) {
            routes.names.remove(&older);
        }
        routes.names.insert(ufrag.to_owned(), route);
    }

    /// This question to a STUN server leaves now: its answer is for this connection, whoever else asks there.
    pub fn asks(&self, question: &[u8]) {
        let mut routes = self.mux.lock();
        let number = question.get(8..20).and_then(|number| number.try_into().ok());
        let route = routes.names.values().find(|(n, _)| *n == self.number).cloned();
        if let (Some(number), Some(route)) = (number, route) {
            routes.asked.insert(number, route);
        }
    }

    /// This address is asked and will answer: a peer that we check first.
    pub fn expect(&self, remote: SocketAddr) {
        let mut routes = self.mux.lock();
        if routes.remotes.contains_key(&remote) || routes.remotes.len() >= MAX_REMOTES {
            return;
        }
        let Some(route) = routes.names.values().find(|(n, _)| *n == self.number).cloned() else { return };
        routes.remotes.insert(remote, route);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut routes = self.mux.lock();
        routes.names.retain(|_, (n, _)| *n != self.number);
        routes.remotes.retain(|_, (n, _)| *n != self.number);
        routes.asked.retain(|_, (n, _)| *n != self.number);
    }
}

/// The number of the question that a STUN answer is for.
fn answered(datagram: &[u8]) -> Option<[u8; 12]> {
    let answer = matches!(datagram.first_chunk(), Some([1, 1] | [1, 0x11]));
    datagram.get(8..20).filter(|_| answer)?.try_into().ok()
}

/// Our user name in a binding request: the part of USERNAME before the colon.
fn requested(datagram: &[u8]) -> Option<&str> {
    if datagram.first_chunk() != Some(&[0, 1]) {
        return None;
    }
    let mut rest = datagram.get(20..)?;
    while let [k0, k1, l0, l1, value @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        if (*k0, *k1) == (0, 6) {
            return std::str::from_utf8(value.get(..length)?).ok()?.split(':').next();
        }
        rest = value.get(length.next_multiple_of(4)..)?;
    }
    None
}

async fn read(socket: Arc<Socket>, mux: Weak<Mux>) {
    loop {
        let readable = tokio::time::timeout(std::time::Duration::from_secs(5), socket.readable()).await;
        let Some(mux) = mux.upgrade() else { return };
        match readable {
            // Nothing for a while: only looked whether anybody still holds the socket.
            Err(_) => continue,
            Ok(Err(error)) => {
                tracing::warn!(%error, port = socket.port(), "the shared UDP socket is broken");
                return;
            }
            Ok(Ok(())) => {}
        }
        let received =
            socket.try_receive(&mut |local, remote, stride, bytes| mux.dispatch(local, remote, stride, bytes));
        if let Err(error) = received
            && error.kind() != io::ErrorKind::WouldBlock
        {
            tracing::debug!(%error, "UDP read");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_connection_gets_its_own_answer_of_a_server_that_several_ask() {
        let mux = Mux::bind(0).expect("bound");
        let (local, server) = ("10.0.0.1:1".parse().expect("address"), "192.0.2.1:3478".parse().expect("address"));
        let question = |number: u8| [&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42], &[number; 12][..]].concat();
        let answer = |number: u8| [&[1, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42], &[number; 12][..]].concat();
        let mut places: Vec<_> = ["a", "b", "c"].map(|name| mux.join(name)).into();
        for (number, (place, _)) in (1..).zip(&places) {
            place.asks(&question(number));
        }
        drop(places.pop());
        for number in [3, 2, 1, 1] {
            mux.dispatch(local, server, 20, &answer(number));
        }
        for (number, (_, from)) in (1..).zip(&mut places) {
            assert_eq!(from.try_recv().expect("answered").bytes, answer(number));
            assert!(from.try_recv().is_err(), "once");
        }
        assert!(mux.lock().asked.is_empty());
    }

    #[tokio::test]
    async fn a_connection_has_two_names_however_often_its_peer_wants_another() {
        let mux = Mux::bind(0).expect("bound");
        let (place, _from) = mux.join("first");
        let (other, _its) = mux.join("other");
        for name in ["second", "second", "third", "fourth"] {
            place.rename(name);
        }
        let names = || mux.lock().names.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(), ["fourth", "other", "third"]);
        drop(place);
        assert_eq!(names(), ["other"]);
        drop(other);
        assert!(names().is_empty());
    }
}
