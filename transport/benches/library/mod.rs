//! str0m as it is, driven by the loop of its own examples: what the channel's cost is held to.
//!
//! Each end is one thread with one blocking socket, one system call per datagram. After every input all output is drained: the library demands
//! it. What its user would get stays, so at most 128 KiB written and unacknowledged, which is also what costs it least: as many as our gate lets
//! out, 288 KiB, cost half as much again. Datagrams and kernel buffers are as large as ours, since others would compare packets of another size or
//! a path that loses.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use str0m::channel::{Channel, ChannelConfig, ChannelId, Reliability};
use str0m::net::{Protocol, Receive};
use str0m::{Candidate, Event, Input, Output, Rtc};

/// Datagrams as large as ours: of these bytes str0m keeps 88 for headers, and of our 1,200 we keep 80.
const MTU: usize = 1208;
/// Kernel buffers, as our sockets ask for.
const KERNEL_BUFFER: usize = 2 << 20;
/// How long the loop waits at most, as the examples have it.
const LONGEST: Duration = Duration::from_millis(100);

/// One end of a connection.
struct End {
    rtc: Rtc,
    socket: UdpSocket,
    local: SocketAddr,
    channel: ChannelId,
    open: bool,
    /// Messages that came, and when the last one did.
    received: usize,
    last: Instant,
    /// What the socket waits at most, as it knows.
    waits: Duration,
    buffer: Vec<u8>,
}

/// Two ends on loopback, connected.
pub struct Library {
    near: End,
    far: End,
}

impl End {
    fn new(controlling: bool) -> Self {
        let socket = socket2::Socket::from(UdpSocket::bind("127.0.0.1:0").expect("a port"));
        let _ = socket.set_recv_buffer_size(KERNEL_BUFFER);
        let _ = socket.set_send_buffer_size(KERNEL_BUFFER);
        let socket = UdpSocket::from(socket);
        let local = socket.local_addr().expect("an address");
        let mut rtc = Rtc::builder().set_mtu(MTU..=1280).build(Instant::now());
        rtc.add_local_candidate(Candidate::host(local, "udp").expect("a candidate"));
        let mut api = rtc.direct_api();
        api.set_ice_controlling(controlling);
        let channel = api.create_data_channel(ChannelConfig {
            label: "data".into(),
            ordered: true,
            reliability: Reliability::Reliable,
            negotiated: Some(0),
            protocol: String::new(),
        });
        let (open, received, last, waits) = (false, 0, Instant::now(), Duration::ZERO);
        Self { rtc, socket, local, channel, open, received, last, waits, buffer: vec![0; 2000] }
    }

    /// What descriptions tell.
    fn introduce(&mut self, other: &mut Self, client: bool) {
        let theirs = other.rtc.direct_api();
        let (creds, fingerprint) = (theirs.local_ice_credentials(), theirs.local_dtls_fingerprint().clone());
        self.rtc.add_remote_candidate(Candidate::host(other.local, "udp").expect("a candidate"));
        let mut api = self.rtc.direct_api();
        api.set_remote_ice_credentials(creds);
        api.set_remote_fingerprint(fingerprint);
        api.start_dtls(client).expect("begun");
        api.start_sctp(client);
    }

    fn channel(&mut self) -> Channel<'_> {
        self.rtc.channel(self.channel).expect("open")
    }

    /// Everything that can be done without waiting; returns until when nothing has to be.
    fn poll(&mut self) -> Instant {
        loop {
            match self.rtc.poll_output().expect("no error") {
                Output::Timeout(at) => return at,
                Output::Transmit(datagram) => {
                    let _ = self.socket.send_to(&datagram.contents, datagram.destination);
                }
                Output::Event(Event::ChannelOpen(..)) => self.open = true,
                Output::Event(Event::ChannelData(_)) => {
                    (self.received, self.last) = (self.received + 1, Instant::now())
                }
                Output::Event(_) => {}
            }
        }
    }

    /// Takes one datagram, or waits for one until then.
    fn wait(&mut self, until: Instant) {
        // In whole milliseconds, and no system call where it is the same as before.
        let waits = until.saturating_duration_since(Instant::now()).min(LONGEST);
        let waits = Duration::from_millis(u64::try_from(waits.as_millis()).map_or(1, |millis| millis.max(1)));
        if self.waits != waits {
            self.socket.set_read_timeout(Some(waits)).expect("set");
            self.waits = waits;
        }
        let input = match self.socket.recv_from(&mut self.buffer) {
            Ok((length, source)) => {
                let contents = self.buffer[..length].try_into().expect("one of the protocols");
                let datagram = Receive { proto: Protocol::Udp, source, destination: self.local, contents };
                Input::Receive(Instant::now(), datagram)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Input::Timeout(Instant::now())
            }
            Err(error) => panic!("UDP: {error}"),
        };
        self.rtc.handle_input(input).expect("no error");
    }

    /// Runs until `over`, which is asked before each turn and may write.
    fn run(&mut self, mut over: impl FnMut(&mut Self) -> bool) {
        while !over(self) {
            let until = self.poll();
            self.wait(until);
        }
    }
}

impl Library {
    /// Connects two ends.
    pub fn connect() -> Self {
        str0m::crypto::from_feature_flags().install_process_default();
        let (mut near, mut far) = (End::new(true), End::new(false));
        near.introduce(&mut far, true);
        far.introduce(&mut near, false);
        std::thread::scope(|scope| {
            for end in [&mut near, &mut far] {
                scope.spawn(|| end.run(|end| end.open));
            }
        });
        Self { near, far }
    }

    /// Carries so many messages of `length` bytes one way, until all were acknowledged; returns how long it took until all had come.
    pub fn carry(&mut self, messages: usize, length: usize) -> Duration {
        let (acknowledged, began) = (AtomicBool::new(false), Instant::now());
        let Self { near, far } = self;
        let all = far.received + messages;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut left, mut next) = (messages, vec![7; length]);
                near.run(|near| {
                    while left > 0 && near.channel().write(true, &next).expect("open") {
                        // As fresh as the other sides' messages.
                        next = vec![7; length];
                        left -= 1;
                        near.poll();
                    }
                    left == 0 && near.channel().buffered_amount() == 0
                });
                acknowledged.store(true, Ordering::Release);
            });
            scope.spawn(|| far.run(|far| far.received == all && acknowledged.load(Ordering::Acquire)));
        });
        self.far.last - began
    }
}
