//! Whoever asks for the machine from the group's own port, as existing clients do, is answered where it asked.

use std::net::{Ipv4Addr, UdpSocket};
use std::thread::sleep;
use std::time::Duration;

use super::super::Stage;
use super::places::{PORT, TwoPaths};
use crate::Outcome;
use crate::lab::policy::Policy;
use crate::processes::{Machine, MachineOptions};

/// Machines, one after the other: which of its sockets gets a question depended on how they came to lie in the kernel.
const MACHINES: u8 = 4;
/// The port of mDNS.
const MDNS: u16 = 5353;

pub fn run(stage: &Stage) -> Outcome {
    let mut place = TwoPaths::with(stage, &["one"], Policy::delayed(1))?;
    place.client.ip("link add eth7 type veth peer name eth7 netns machine")?;
    for (host, own) in [(&place.client, "10.7.0.2/24"), (&place.server, "10.7.0.1/24")] {
        host.ip("link set eth7 up")?;
        host.address("eth7", own)?;
    }
    place.client.ip("route add 224.0.0.0/4 dev eth7")?;
    let (name, own) = (place.machine.name.clone(), Ipv4Addr::new(10, 7, 0, 2));
    let mut silent = 0;
    for round in 0..MACHINES {
        let options =
            MachineOptions { host: Some(place.server.clone()), port: Some(PORT), ..MachineOptions::default() };
        place.machine.process.kill()?;
        place.machine = Machine::start(&stage.built, &stage.folder.join(format!("again-{round}")), &name, &options)?;
        // Its announcements are over.
        sleep(Duration::from_millis(1_300));
        silent += u8::from(!place.client.inside(|| is_answered(own, &question(&name)))??);
    }
    stage.fact("silent", silent);
    if silent == 0 { Ok(()) } else { Err(format!("{silent} of {MACHINES} machines did not answer").into()) }
}

/// SRV of the instance whose dotted name is in several labels; the answer goes to the group.
fn question(name: &str) -> Vec<u8> {
    let mut packet = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').chain(["_rpc", "_tcp", "local"]) {
        packet.push(label.len() as u8);
        packet.extend_from_slice(label.as_bytes());
    }
    packet.extend_from_slice(&[0, 0, 33, 0, 1]);
    packet
}

fn is_answered(own: Ipv4Addr, question: &[u8]) -> std::io::Result<bool> {
    let (group, socket) = (Ipv4Addr::new(224, 0, 0, 251), UdpSocket::bind((Ipv4Addr::UNSPECIFIED, MDNS))?);
    socket.join_multicast_v4(&group, &own)?;
    socket.set_multicast_loop_v4(false)?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut packet = [0; 9000];
    // A machine serves a moment before it answers here.
    // Packets are lost now and then.
    for _ in 0..3 {
        socket.send_to(question, (group, MDNS))?;
        // The third byte's first bit: a response.
        if matches!(socket.recv(&mut packet), Ok(length) if length > 12 && packet[2] & 0x80 != 0) {
            return Ok(true);
        }
    }
    Ok(false)
}
