//! The responder and the finder, over real multicast on the loopback interface.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use discovery::answer::Advertisement;
use discovery::{Finder, FinderOptions, MachineAddress, Responder, ResponderOptions, SourceError, Surroundings};
use socket2::{Domain, Protocol, Socket, Type};

/// A port that no other responder of this computer uses.
fn free_port() -> u16 {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|s| s.local_addr()).expect("a free port").port()
}

#[tokio::test]
async fn a_machine_is_found_while_its_responder_lives() {
    let port = free_port();
    let interfaces = vec!["lo".to_owned()];
    let names = vec!["m-main.loc1.viam.cloud".parse().expect("a name")];
    let options = ResponderOptions { port, interfaces: interfaces.clone() };
    let responder =
        Responder::start(Advertisement { names, port: 4321, webrtc: false }, options).expect("the loopback interface");
    let finder = Finder::new(FinderOptions { dns: false, mdns_port: port, interfaces, ..Default::default() });
    let address: MachineAddress = "m-main.loc1.local.viam.cloud".parse().expect("an address");

    let found =
        finder.find(&address, &Arc::new(Surroundings::look())).next().await.expect("an answer").expect("an address");
    assert_eq!(
        found.address,
        SocketAddr::from((Ipv4Addr::LOCALHOST, 4321)),
        "the asked interface's own address comes first"
    );

    responder.shutdown().await;
    let verdict = finder
        .find(&address, &Arc::new(Surroundings::look()))
        .next()
        .await
        .expect("a verdict")
        .expect_err("nobody answers any more");
    assert!(matches!(verdict, SourceError::Silence { .. }), "{verdict}");
}

/// The packet budget of a machine that nobody asks: it announces its two names in both spellings, one packet each, and again after a second
/// (RFC 6762 section 8.3); then it is silent, also while it looks at its interfaces (every 3 s).
#[tokio::test]
async fn an_idle_machine_announces_itself_twice_and_sends_nothing_more() {
    let port = free_port();
    let group = Ipv4Addr::new(224, 0, 0, 251);
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).expect("a socket");
    socket.set_reuse_address(true).expect("shared");
    socket.set_nonblocking(true).expect("asynchronous");
    socket.bind(&SocketAddr::from((group, port)).into()).expect("the group's port");
    socket.join_multicast_v4(&group, &Ipv4Addr::LOCALHOST).expect("the group");
    let socket = tokio::net::UdpSocket::from_std(socket.into()).expect("a runtime");
    let names = vec!["m-main.loc1.viam.cloud".parse().expect("a name")];
    let options = ResponderOptions { port, interfaces: vec!["lo".to_owned()] };
    let _responder =
        Responder::start(Advertisement { names, port: 4321, webrtc: false }, options).expect("the loopback interface");
    let (mut at_first, mut idle, mut buffer) = (0, 0, [0; 9000]);
    let started = tokio::time::Instant::now();
    let until = started + Duration::from_secs(6);
    while let Ok(received) = tokio::time::timeout_at(until, socket.recv_from(&mut buffer)).await {
        received.expect("a packet");
        let count = if started.elapsed() < Duration::from_secs(2) { &mut at_first } else { &mut idle };
        *count += 1;
    }
    assert_eq!((at_first, idle), (8, 0), "at most one a second is allowed to an idle machine");
}
