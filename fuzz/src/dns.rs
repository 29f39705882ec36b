//! Packets of multicast DNS, as anybody on the network may send them.

use discovery::MachineName;
use discovery::answer::{Advertisement, answer, wants_unicast};
use discovery::question::told;

/// A packet that is a question to a machine, or an answer to a client.
pub fn packet(bytes: &[u8]) {
    let name: MachineName = "m-main.loc1.viam.cloud".parse().expect("a name");
    if let Some(told) = told(&name, bytes) {
        assert!(told.port > 0 && !told.addresses.is_empty() && told.addresses.len() <= 16, "{told:?}");
    }
    let of = Advertisement { names: vec![name.clone()], port: 8080, webrtc: true };
    let addresses = ["192.168.1.7".parse().expect("an address")];
    for legacy in [false, true] {
        let answers = answer(&of, bytes, &addresses, legacy);
        assert!(answers.len() <= name.instances().len(), "one question has one answer for each instance");
    }
    let _ = wants_unicast(bytes);
}
