//! The two channels' SCTP association.
//!
//! Driven directly instead of through str0m, because its retransmission timeouts (3 s at first, at least 1 s) turn every lost
//! packet into seconds, and str0m does not pass on the settings for them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use crc::{CRC_32_ISCSI, Crc, Table};
use sctp_proto::{
    Association, AssociationHandle, ClientConfig, DatagramEvent, Endpoint, EndpointConfig, Event, Payload,
    PayloadProtocolIdentifier as Ppi, ServerConfig, Stream, TransportConfig, generate_snap_token,
};

use super::super::channel::MAX_PACKET;
use super::{MAX_DATAGRAM, PeerError, negotiable};

/// `data`: binary messages.
pub(super) const DATA: u16 = 0;
/// `negotiation`: text.
pub(super) const NEGOTIATION: u16 = 1;

/// DTLS record (37) and SCTP headers (28), and some room for the peer's extensions.
const OVERHEAD: usize = 80;
/// What a lost INIT or first packet costs, in ms. A round trip around the earth is 300 ms.
const RTO_INITIAL_MS: u64 = 300;
/// The shortest retransmission timeout, in ms. Receivers that do not know [`acknowledge_now`]'s wish hold an acknowledgement back
/// for 200 ms (RFC 9260 section 6.2): less than that would repeat the last packet of every burst, and shrink the window for nothing.
const RTO_MIN_MS: u64 = 250;
/// The longest, in ms: whether the path is gone is for ICE to say, and once it is back nobody wants to wait a minute.
const RTO_MAX_MS: u64 = 2_000;
/// Received packets that are shorter than this are acknowledged at once, and so are the first ones of whatever length. Existing peers do
/// not ask for it ([`acknowledge_now`]), and some wait: where both ends have opened the association at once, those of webrtc-rs take our
/// window for zero until the first acknowledgement, and send one packet; that cost every dial 200 ms. Bulk has full packets. (A packet gets a new checksum with the mark; DTLS has proven that it is whole.)
const EAGER: usize = 1000;
const EAGER_FIRST: u32 = 16;
/// The library's timers of one association.
const TIMERS: usize = 6;
/// Received and unread bytes; this is the window that holds a sender back.
const RECEIVE_BUFFER: u32 = 1 << 20;

/// What an association tells.
pub(super) enum Told {
    Open,
    Lost(String),
}

pub(super) struct Sctp {
    endpoint: Endpoint,
    association: Option<(AssociationHandle, Association)>,
    /// What both sides' descriptions tell of the association, instead of a handshake.
    inits: [Option<Bytes>; 2],
    tells: bool,
    open: bool,
    max_message: u32,
    received: u32,
    /// The highest number of a DATA chunk that was sent.
    highest: Option<u32>,
    /// Something has happened since the association had nothing to send. Asking it looks at all that is unacknowledged four times over.
    stirred: bool,
}

/// The chunks of a packet: their types and where each begins.
fn chunks(packet: &[u8]) -> impl Iterator<Item = (u8, usize)> + '_ {
    let mut next = HEADER;
    std::iter::from_fn(move || {
        let at = next;
        let [kind, _, high, low, ..] = *packet.get(at..)? else { return None };
        next += usize::from(u16::from_be_bytes([high, low])).max(4).next_multiple_of(4);
        Some((kind, at))
    })
}

/// A packet's common header, in bytes.
const HEADER: usize = 12;
/// The type of a chunk that carries data.
const DATA_CHUNK: u8 = 0;

/// The same packet, with the wish for an acknowledgement at once (RFC 7053) on its last DATA chunk; `None` where it has none, or the
/// wish already.
///
/// Receivers hold the acknowledgement of a burst's last packet back for up to 200 ms. The timeout for a repetition is computed from
/// such times, and one lost message costs 0.84 s instead of 0.25 s (measured with a round trip of 10 ms).
fn acknowledge_now(packet: &[u8]) -> Option<Bytes> {
    const IMMEDIATE: u8 = 8;
    static CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);
    let last = chunks(packet).filter(|(kind, _)| *kind == DATA_CHUNK).last().map(|(_, at)| at + 1);
    let last = last.filter(|at| packet.get(*at).is_some_and(|flags| flags & IMMEDIATE == 0))?;
    let mut marked = packet.to_vec();
    *marked.get_mut(last)? |= IMMEDIATE;
    marked.get_mut(8..HEADER)?.fill(0);
    let sum = CRC.checksum(&marked);
    marked.get_mut(8..HEADER)?.copy_from_slice(&sum.to_le_bytes());
    Some(marked.into())
}

/// The association knows no addresses; the endpoint wants one.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 5000);

fn transport() -> Arc<TransportConfig> {
    Arc::new(
        TransportConfig::default()
            .with_max_init_retransmits(None)
            .with_max_data_retransmits(None)
            .with_max_receive_buffer_size(RECEIVE_BUFFER)
            // Longer ones than the protocol has are read and left to the layer above to refuse.
            .with_max_receive_message_size(4 * MAX_PACKET as u32)
            .with_max_num_inbound_streams(16)
            .with_rto_initial_ms(RTO_INITIAL_MS)
            .with_rto_min_ms(RTO_MIN_MS)
            .with_rto_max_ms(RTO_MAX_MS),
    )
}

impl Sctp {
    pub(super) fn new() -> Self {
        let mut config = EndpointConfig::default();
        config.max_payload_size((MAX_DATAGRAM - OVERHEAD) as u32);
        let mut server = ServerConfig::default();
        server.transport = transport();
        let endpoint = Endpoint::new(Arc::new(config), Some(Arc::new(server)));
        Self {
            endpoint,
            association: None,
            inits: [None, None],
            tells: true,
            open: false,
            max_message: MAX_PACKET as u32,
            received: 0,
            highest: None,
            stirred: false,
        }
    }

    /// What the peer's description says it reads; 0 means any.
    pub(super) fn set_max_message(&mut self, bytes: u32) {
        self.max_message = if bytes == 0 { MAX_PACKET as u32 } else { bytes.min(MAX_PACKET as u32) };
    }

    pub(super) fn max_message(&self) -> usize {
        self.max_message as usize
    }

    /// It is not told of, and opened by a handshake.
    pub(super) fn make_handshakes(&mut self) {
        self.tells = false;
    }

    /// Our side of an association without a handshake, for our description. `None` where there is to be one, or the library makes none.
    pub(super) fn init(&mut self) -> Option<Vec<u8>> {
        if self.inits[0].is_none() && self.tells {
            self.inits[0] = generate_snap_token(&transport()).ok();
        }
        self.inits[0].as_ref().map(|init| init.to_vec())
    }

    /// The peer's, from its description. One that only repeats ours says nothing.
    pub(super) fn set_peers_init(&mut self, init: &[u8]) {
        if self.association.is_none() && self.inits[0].as_deref() != Some(init) {
            self.inits[1] = Some(Bytes::copy_from_slice(init));
        }
    }

    /// Whether both sides have told: then both open.
    pub(super) fn is_agreed(&self) -> bool {
        self.inits.iter().all(Option::is_some)
    }

    /// Opens the association, where that is our part.
    pub(super) fn connect(&mut self) -> Result<(), String> {
        self.stirred = true;
        let mut config = ClientConfig::new();
        if let [Some(ours), Some(theirs)] = &self.inits {
            config = config.with_snap(ours.clone(), theirs.clone());
        }
        config.transport = transport();
        self.association = Some(self.endpoint.connect(config, NOWHERE).map_err(|e| e.to_string())?);
        Ok(())
    }

    pub(super) fn handle_packet(&mut self, packet: &[u8], now: Instant) {
        self.stirred = true;
        self.received = self.received.saturating_add(1);
        let eager = packet.len() < EAGER || self.received <= EAGER_FIRST;
        let marked = if eager { acknowledge_now(packet) } else { None };
        let packet = marked.unwrap_or_else(|| Bytes::copy_from_slice(packet));
        match (self.endpoint.handle(now, NOWHERE, None, None, packet), &mut self.association) {
            (Some((handle, DatagramEvent::NewAssociation(new))), none @ None) => *none = Some((handle, new)),
            (Some((handle, DatagramEvent::AssociationEvent(event))), Some((ours, association))) if handle == *ours => {
                association.handle_event(event);
            }
            // Both sides may open at once; the peer answers ours, and one association is enough.
            _ => {}
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.stirred = true;
        if let Some((handle, association)) = &mut self.association {
            association.handle_timeout(now);
            while let Some(event) = association.poll_endpoint_event() {
                if let Some(event) = self.endpoint.handle_event(*handle, event) {
                    association.handle_event(event);
                }
            }
        }
    }

    /// Packets take another path from now on. What was lost on the old one is sent again at once, not when the timer of retransmissions fires, which
    /// has doubled with every loss there. An acknowledgement that waits is due before that: what tells of the path are mostly packets.
    pub(super) fn handle_path(&mut self) {
        let fired = self.repetitions();
        for _ in 0..TIMERS {
            if self.unacknowledged() == 0 || self.repetitions() > fired {
                return;
            }
            let Some(due) = self.poll_timeout() else { return };
            self.handle_timeout(due);
        }
    }

    /// How often the timer of retransmissions has fired.
    fn repetitions(&self) -> u64 {
        self.association.as_ref().map_or(0, |(_, association)| association.stats().get_num_t3timeouts())
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.association.as_ref().and_then(|(_, a)| a.poll_timeout())
    }

    /// Packets to send, oldest first.
    pub(super) fn poll_packets(&mut self, now: Instant) -> Option<Vec<Bytes>> {
        while self.stirred {
            let association = &mut self.association;
            let next = self.endpoint.poll_transmit().or_else(|| association.as_mut()?.1.poll_transmit(now));
            let Some(transmit) = next else {
                self.stirred = false;
                break;
            };
            if let Payload::RawEncode(mut packets) = transmit.payload {
                if let Some(last) = packets.iter_mut().rev().find_map(|p| Some((acknowledge_now(p)?, p))) {
                    *last.1 = last.0;
                }
                return Some(packets);
            }
        }
        None
    }

    /// Whether a packet that leaves carries data that has left before.
    pub(super) fn repeats(&mut self, packet: &[u8]) -> bool {
        let mut repeats = false;
        for (_, at) in chunks(packet).filter(|(kind, _)| *kind == DATA_CHUNK) {
            let Some(number) = packet.get(at + 4..at + 8).and_then(|n| n.try_into().ok()).map(u32::from_be_bytes)
            else {
                break;
            };
            // Numbers wrap (RFC 9260 section 1.6).
            let is_new = self.highest.is_none_or(|highest| number.wrapping_sub(highest).cast_signed() > 0);
            if is_new {
                self.highest = Some(number);
            }
            repeats |= !is_new;
        }
        repeats
    }

    pub(super) fn poll_event(&mut self) -> Option<Told> {
        loop {
            let (_, association) = self.association.as_mut()?;
            match association.poll()? {
                Event::Connected => {
                    self.stirred = true;
                    association.set_max_send_message_size(self.max_message);
                    // What the peer sent first has opened a stream already: the channels are negotiated, there is no more to say.
                    for (id, kind) in [(DATA, Ppi::Binary), (NEGOTIATION, Ppi::String)] {
                        let _ = association.open_stream(id, kind);
                    }
                    self.open = true;
                    return Some(Told::Open);
                }
                Event::AssociationLost { reason } | Event::HandshakeFailed { reason } => {
                    self.open = false;
                    return Some(Told::Lost(reason.to_string()));
                }
                _ => {}
            }
        }
    }

    /// The next message of a stream. `None` until the association stands: what came with the end of its handshake waits.
    pub(super) fn read(&mut self, stream: u16) -> Option<(bool, Bytes)> {
        if !self.open {
            return None;
        }
        let chunks = self.stream(stream)?.read_sctp().ok()??;
        self.stirred = true;
        let binary = matches!(chunks.ppi, Ppi::Binary | Ppi::BinaryEmpty);
        if matches!(chunks.ppi, Ppi::BinaryEmpty | Ppi::StringEmpty) {
            return Some((binary, Bytes::new()));
        }
        let mut message = vec![0; chunks.len()];
        chunks.read(&mut message).ok()?;
        Some((binary, message.into()))
    }

    pub(super) fn write(&mut self, stream: u16, binary: bool, message: &[u8]) -> Result<(), PeerError> {
        if !self.open {
            return Err(PeerError::Closed);
        }
        if message.len() > self.max_message as usize {
            return Err(PeerError::TooLong(message.len()));
        }
        // SCTP has no empty messages; one byte stands for nothing (RFC 8831 section 6.6).
        let (kind, message) = match (binary, message.is_empty()) {
            (true, false) => (Ppi::Binary, message),
            (true, true) => (Ppi::BinaryEmpty, &[0][..]),
            (false, false) => (Ppi::String, message),
            (false, true) => (Ppi::StringEmpty, &[0][..]),
        };
        self.stirred = true;
        let mut to = self.stream(stream).ok_or(PeerError::Closed)?;
        if stream == NEGOTIATION {
            negotiable(to.buffered_amount().map_err(|_| PeerError::Closed)?)?;
        }
        to.write_with_ppi(message, kind).map(|_| ()).map_err(|_| PeerError::Closed)
    }

    pub(super) fn unacknowledged(&mut self) -> usize {
        [DATA, NEGOTIATION].into_iter().filter_map(|id| self.stream(id)?.buffered_amount().ok()).sum()
    }

    fn stream(&mut self, id: u16) -> Option<Stream<'_>> {
        self.association.as_mut()?.1.stream(id).ok()
    }
}
