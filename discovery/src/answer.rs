//! What a machine answers to a question. Pure: a packet in, packets out.

use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, OpCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::MachineName;
use crate::question::service_name;

/// How long others may keep what they heard, in seconds: the recommendation of RFC 6762 section 10 for records with addresses.
const TTL: u32 = 120;
/// Questions read from one packet: those for one machine in every form, with room for as many again.
const MAX_QUESTIONS: usize = 32;

/// What a machine tells of itself.
#[derive(Clone, Debug)]
pub struct Advertisement {
    /// Its names; each is published in its cloud and its local form, dotted and dashed.
    pub names: Vec<MachineName>,
    /// The port of its gRPC service.
    pub port: u16,
    /// Whether it answers WebRTC offers.
    pub webrtc: bool,
}

/// The packets that answer `packet`, none where it asks for somebody else: one packet per instance, since existing Rust clients read
/// only the first PTR of a packet, and each with SRV, TXT and every address, since existing Go clients need them at once.
///
/// `legacy`: the question came from another port than 5353, so that the answer repeats its id and questions (RFC 6762 section 6.7).
pub fn answer(of: &Advertisement, packet: &[u8], addresses: &[IpAddr], legacy: bool) -> Vec<Vec<u8>> {
    let Ok(asked) = Message::from_vec(packet) else { return Vec::new() };
    if asked.metadata.message_type != MessageType::Query || asked.metadata.op_code != OpCode::Query {
        return Vec::new();
    }
    let Ok(service) = Name::from_ascii("_rpc._tcp.local.") else { return Vec::new() };
    let mut packets = Vec::new();
    for instance in of.names.iter().flat_map(MachineName::instances) {
        let Some(name) = service_name(&instance) else { continue };
        let host = host_name(&instance);
        let fits = |asked: &hickory_proto::op::Query| {
            let (wanted, kind) = (asked.name.to_lowercase(), asked.query_type);
            let any = kind == RecordType::ANY;
            wanted == name.to_lowercase()
                || wanted == service && (kind == RecordType::PTR || any)
                || host.as_ref().is_some_and(|h| h.to_lowercase() == wanted)
                    && matches!(kind, RecordType::A | RecordType::AAAA)
        };
        if !asked.queries.iter().take(MAX_QUESTIONS).any(fits) {
            continue;
        }
        let mut message = Message::response(if legacy { asked.metadata.id } else { 0 }, OpCode::Query);
        message.metadata.authoritative = true;
        if legacy {
            message.add_queries(asked.queries.iter().filter(|q| fits(q)).cloned());
        }
        message.add_answers(records(of, &service, name, host, addresses, !legacy));
        packets.extend(message.to_vec());
    }
    packets
}

/// What is told unasked: at the start, so that others forget older answers, and with `leaving` at the end, so that they forget these
/// (RFC 6762 sections 8.3 and 10.1). One packet per instance.
pub fn announcements(of: &Advertisement, addresses: &[IpAddr], leaving: bool) -> Vec<Vec<u8>> {
    let Ok(service) = Name::from_ascii("_rpc._tcp.local.") else { return Vec::new() };
    let mut packets = Vec::new();
    for instance in of.names.iter().flat_map(MachineName::instances) {
        let Some(name) = service_name(&instance) else { continue };
        let mut message = Message::response(0, OpCode::Query);
        message.metadata.authoritative = true;
        message.add_answers(records(of, &service, name, host_name(&instance), addresses, true));
        if leaving {
            message.answers.iter_mut().for_each(|record| record.ttl = 0);
        }
        packets.extend(message.to_vec());
    }
    packets
}

/// Whether one of a packet's questions asks for an answer to itself alone (the QU bit of RFC 6762 section 5.4).
pub fn wants_unicast(packet: &[u8]) -> bool {
    Message::from_vec(packet).is_ok_and(|m| m.queries.iter().any(|q| q.mdns_unicast_response))
}

/// The host whose addresses an instance's SRV record names: `<instance>.local.`
fn host_name(instance: &[String]) -> Option<Name> {
    Name::from_labels(instance.iter().map(String::as_bytes).chain([b"local".as_slice()])).ok()
}

fn records(
    of: &Advertisement,
    service: &Name,
    name: Name,
    host: Option<Name>,
    addresses: &[IpAddr],
    flush: bool,
) -> Vec<Record> {
    let Some(host) = host else { return Vec::new() };
    let words = if of.webrtc { vec!["grpc".to_owned(), "webrtc".to_owned()] } else { vec!["grpc".to_owned()] };
    let mut own = vec![
        Record::from_rdata(name.clone(), TTL, RData::SRV(SRV::new(0, 0, of.port, host.clone()))),
        Record::from_rdata(name.clone(), TTL, RData::TXT(TXT::new(words))),
    ];
    own.extend(addresses.iter().map(|address| {
        let data = match address {
            IpAddr::V4(v4) => RData::A(A(*v4)),
            IpAddr::V6(v6) => RData::AAAA(AAAA(*v6)),
        };
        Record::from_rdata(host.clone(), TTL, data)
    }));
    // Ours alone: whoever keeps older ones may forget them. The PTR is shared with every other machine and never flushes.
    own.iter_mut().for_each(|record| record.mdns_cache_flush = flush);
    own.insert(0, Record::from_rdata(service.clone(), TTL, RData::PTR(PTR(name))));
    own
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query;

    use super::*;

    fn advertisement() -> Advertisement {
        Advertisement { names: vec!["m-main.loc1.viam.cloud".parse().expect("a name")], port: 8080, webrtc: true }
    }

    fn ask(name: &str, kind: RecordType) -> Vec<Message> {
        let mut message = Message::new(0, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
        let packet = message.to_vec().expect("a packet");
        let addresses = ["192.168.1.7".parse().expect("an address")];
        let answers = answer(&advertisement(), &packet, &addresses, false);
        answers.iter().map(|a| Message::from_vec(a).expect("well formed")).collect()
    }

    #[test]
    fn a_go_client_asks_for_the_dotted_instance_and_needs_all_in_one_packet() {
        let answers = ask("M-Main.loc1.viam.cloud._rpc._tcp.local.", RecordType::SRV);
        assert_eq!(answers.len(), 1);
        let kinds: Vec<_> = answers[0].answers.iter().map(|r| r.record_type()).collect();
        assert_eq!(kinds, [RecordType::PTR, RecordType::SRV, RecordType::TXT, RecordType::A]);
    }

    #[test]
    fn a_rust_client_browses_and_gets_one_packet_for_each_instance() {
        let answers = ask("_rpc._tcp.local.", RecordType::PTR);
        assert_eq!(answers.len(), 4);
        assert!(answers.iter().all(|a| a.answers.iter().filter(|r| r.record_type() == RecordType::PTR).count() == 1));
    }

    #[test]
    fn the_host_name_is_answered_and_others_are_not() {
        assert_eq!(ask("m-main-loc1-viam-cloud.local.", RecordType::A).len(), 1);
        assert_eq!(ask("other.local.", RecordType::A).len(), 0);
        assert_eq!(ask("other-main.loc1.viam.cloud._rpc._tcp.local.", RecordType::SRV).len(), 0);
    }
}
