//! The lab's own address translation does what its four kinds are named after. Every lab that relies on one stands on this.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::super::Stage;
use crate::Outcome;
use crate::lab::{Host, Nat};

/// What one kind of translation lets happen.
#[derive(Debug, PartialEq, Eq)]
struct Behaviour {
    /// Two destinations see the same outside port.
    one_port: bool,
    /// Another port of an address that was sent to gets in.
    known_address: bool,
    /// An address that was never sent to gets in.
    stranger: bool,
}

fn socket(host: &Host, address: [u8; 4]) -> Result<UdpSocket, Box<dyn std::error::Error>> {
    let socket = host.inside(|| UdpSocket::bind((Ipv4Addr::from(address), 0)))??;
    socket.set_read_timeout(Some(Duration::from_millis(300)))?;
    Ok(socket)
}

fn heard(socket: &UdpSocket) -> Option<SocketAddr> {
    socket.recv_from(&mut [0; 16]).ok().map(|(_, from)| from)
}

fn behaviour(inside: &Host, outside: &Host) -> Result<Behaviour, Box<dyn std::error::Error>> {
    let inner = socket(inside, [10, 1, 0, 2])?;
    let (a, a_other) = (socket(outside, [203, 0, 113, 2])?, socket(outside, [203, 0, 113, 2])?);
    let (b, stranger) = (socket(outside, [203, 0, 113, 3])?, socket(outside, [203, 0, 113, 4])?);
    inner.send_to(b"a", a.local_addr()?)?;
    let seen_by_a = heard(&a).ok_or("nothing gets out")?;
    inner.send_to(b"b", b.local_addr()?)?;
    let seen_by_b = heard(&b).ok_or("nothing gets out")?;
    a.send_to(b"answer", seen_by_a)?;
    heard(&inner).ok_or("the answer of who was asked does not get in")?;
    a_other.send_to(b"known", seen_by_a)?;
    let known_address = heard(&inner).is_some();
    stranger.send_to(b"stranger", seen_by_a)?;
    Ok(Behaviour { one_port: seen_by_a == seen_by_b, known_address, stranger: heard(&inner).is_some() })
}

pub fn run(stage: &Stage) -> Outcome {
    let lab = stage.lab()?;
    let (inside, router, outside) = (lab.host("inside")?, lab.host("router")?, lab.host("outside")?);
    lab.cable("lan", (&inside, "eth0"), (&router, "lan"))?;
    lab.cable("wan", (&router, "wan"), (&outside, "eth0"))?;
    inside.address("eth0", "10.1.0.2/24")?;
    router.address("lan", "10.1.0.1/24")?;
    router.address("wan", "203.0.113.1/24")?;
    outside.address("eth0", "203.0.113.2/24")?;
    outside.ip("addr add 203.0.113.3/32 dev eth0")?;
    outside.ip("addr add 203.0.113.4/32 dev eth0")?;
    inside.route("default", "10.1.0.1")?;
    router.forward()?;
    for (nat, one_port, known_address, stranger) in [
        (Nat::FullCone, true, true, true),
        (Nat::Restricted, true, true, false),
        (Nat::PortRestricted, true, false, false),
        (Nat::Symmetric, false, false, false),
    ] {
        router.translate("wan", "10.1.0.2", nat)?;
        let (is, wanted) = (behaviour(&inside, &outside)?, Behaviour { one_port, known_address, stranger });
        if is != wanted {
            return Err(format!("{nat:?}: {is:?}, wanted {wanted:?}").into());
        }
    }
    Ok(())
}
