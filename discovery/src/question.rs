//! The question for one machine, and what an answer to it says. Pure: packets in, packets out.

use std::net::{IpAddr, Ipv6Addr};

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};

use crate::MachineName;

/// Addresses taken from one answer: more than any machine has, fewer than a hostile answer could make a client dial.
const MAX_ADDRESSES: usize = 16;

/// What an answer told of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The port of its gRPC service.
    pub port: u16,
    /// Its addresses, in the answer's order.
    pub addresses: Vec<IpAddr>,
    /// Whether its TXT record says `grpc`.
    pub grpc: bool,
    /// Whether its TXT record says `webrtc`.
    pub webrtc: bool,
}

/// The service instance of which machines are instances: `<instance>._rpc._tcp.local.`
pub(crate) fn service_name(instance: &[String]) -> Option<Name> {
    let labels = instance.iter().map(String::as_str).chain(["_rpc", "_tcp", "local"]);
    Name::from_labels(labels.map(str::as_bytes)).ok()
}

/// One packet with every question: SRV and TXT of each instance name. Answers carry addresses beside them.
///
/// Sent from an ephemeral port it is a one-shot question (RFC 6762 section 5.1): responders answer to that port, with this id.
pub fn question(name: &MachineName, id: u16) -> Option<Vec<u8>> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    for instance in name.instances().iter().filter_map(|i| service_name(i)) {
        message.add_query(Query::query(instance.clone(), RecordType::SRV));
        message.add_query(Query::query(instance, RecordType::TXT));
    }
    (!message.queries.is_empty()).then(|| message.to_vec().ok())?
}

/// What `packet` tells of the machine: `None` for anything but a complete answer, which has a port and an address.
pub fn told(name: &MachineName, packet: &[u8]) -> Option<Told> {
    let message = Message::from_vec(packet).ok()?;
    if message.metadata.message_type != MessageType::Response {
        return None;
    }
    let wanted: Vec<_> = name.instances().iter().filter_map(|i| service_name(i)).collect();
    let is_wanted = |name: &Name| wanted.iter().any(|w| w.to_lowercase() == name.to_lowercase());
    let records: Vec<_> = message.answers.iter().chain(&message.additionals).collect();
    let (port, target) = records.iter().find_map(|record| match &record.data {
        RData::SRV(srv) if is_wanted(&record.name) && srv.port > 0 => Some((srv.port, srv.target.to_lowercase())),
        _ => None,
    })?;
    let mut told = Told { port, addresses: Vec::new(), grpc: false, webrtc: false };
    for record in &records {
        match &record.data {
            RData::TXT(txt) if is_wanted(&record.name) => {
                let says = |word: &[u8]| {
                    txt.txt_data
                        .iter()
                        .any(|s| s.as_ref() == word || s.starts_with(word) && s.get(word.len()) == Some(&b'='))
                };
                told.grpc |= says(b"grpc");
                told.webrtc |= says(b"webrtc");
            }
            RData::A(a) if record.name.to_lowercase() == target => add(&mut told.addresses, IpAddr::V4(a.0)),
            // A link-local address needs an interface that the answer does not name.
            RData::AAAA(a) if record.name.to_lowercase() == target && !is_link_local(&a.0) => {
                add(&mut told.addresses, IpAddr::V6(a.0))
            }
            _ => {}
        }
    }
    (!told.addresses.is_empty()).then_some(told)
}

fn add(addresses: &mut Vec<IpAddr>, address: IpAddr) {
    if addresses.len() < MAX_ADDRESSES
        && !addresses.contains(&address)
        && !address.is_unspecified()
        && !address.is_multicast()
    {
        addresses.push(address);
    }
}

fn is_link_local(address: &Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::answer::{Advertisement, answer};

    fn name() -> MachineName {
        "m-main.loc1.viam.cloud".parse().expect("a name")
    }

    fn advertisement() -> Advertisement {
        Advertisement { names: vec![name()], port: 8080, webrtc: false }
    }

    #[test]
    fn one_packet_asks_every_form() {
        let packet = question(&name(), 7).expect("a packet");
        let message = Message::from_vec(&packet).expect("well formed");
        assert_eq!(message.metadata.id, 7);
        let asked: Vec<_> = message.queries.iter().map(|q| format!("{} {}", q.name, q.query_type)).collect();
        assert_eq!(asked.len(), 8);
        assert!(asked.contains(&"m-main.loc1.viam.cloud._rpc._tcp.local. SRV".to_owned()), "{asked:?}");
        assert!(asked.contains(&"m-main-loc1-local-viam-cloud._rpc._tcp.local. TXT".to_owned()), "{asked:?}");
        assert!(packet.len() < 512, "fits any path");
    }

    #[test]
    fn an_answer_to_the_question_is_understood() {
        let addresses = ["192.168.1.7".parse().expect("v4"), "fd00::7".parse().expect("v6")];
        let packet = question(&name(), 7).expect("a packet");
        let answers = answer(&advertisement(), &packet, &addresses, true);
        let told = answers.iter().find_map(|a| told(&name(), a)).expect("a complete answer");
        assert_eq!(told, Told { port: 8080, addresses: addresses.to_vec(), grpc: true, webrtc: false });
        let other: MachineName = "other-main.loc1.viam.cloud".parse().expect("a name");
        assert!(answers.iter().all(|a| super::told(&other, a).is_none()), "another machine's answer says nothing");
    }

    #[test]
    fn a_question_and_an_answer_without_an_address_tell_nothing() {
        let packet = question(&name(), 7).expect("a packet");
        assert_eq!(told(&name(), &packet), None);
        let answers = answer(&advertisement(), &packet, &[], true);
        assert!(answers.iter().all(|a| told(&name(), a).is_none()));
    }

    proptest! {
        #[test]
        fn arbitrary_packets_are_survived(packet in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = told(&name(), &packet);
            let _ = answer(&advertisement(), &packet, &[], true);
        }

        #[test]
        fn damaged_answers_are_survived(at in 0..400usize, byte: u8) {
            let packet = question(&name(), 7).expect("a packet");
            let addresses = ["192.168.1.7".parse().expect("v4")];
            for mut answer in answer(&advertisement(), &packet, &addresses, true) {
                if let Some(place) = answer.get_mut(at) {
                    *place = byte;
                }
                let _ = told(&name(), &answer);
            }
        }
    }
}
