//! Searches over real sockets on the loopback interface.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use discovery::answer::{Advertisement, answer};
use discovery::{Finder, FinderOptions, MachineAddress, Source, SourceError, Surroundings};
use socket2::{Domain, Protocol, Socket, Type};

const NAME: &str = "m-main.loc1.viam.cloud";

/// A responder on the loopback interface, on a port of its own, which counts what it hears.
fn responder(advertisement: Option<Advertisement>) -> (u16, Arc<AtomicUsize>) {
    responder_to(advertisement, false)
}

/// The same; `group`: its answers go to everybody, whoever asked.
fn responder_to(advertisement: Option<Advertisement>, group: bool) -> (u16, Arc<AtomicUsize>) {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).expect("a socket");
    socket.set_reuse_address(true).expect("beside others");
    socket.set_reuse_port(true).expect("beside others");
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into()).expect("a free port");
    socket.join_multicast_v4(&Ipv4Addr::new(224, 0, 0, 251), &Ipv4Addr::LOCALHOST).expect("the group");
    socket.set_multicast_if_v4(&Ipv4Addr::LOCALHOST).expect("the interface");
    let socket: UdpSocket = socket.into();
    let port = socket.local_addr().expect("an address").port();
    let heard = Arc::new(AtomicUsize::new(0));
    let counter = heard.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 9000];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            counter.fetch_add(1, Ordering::SeqCst);
            for packet in
                advertisement.iter().flat_map(|a| answer(a, &buffer[..length], &[Ipv4Addr::LOCALHOST.into()], true))
            {
                let to = if group { SocketAddr::from((Ipv4Addr::new(224, 0, 0, 251), port)) } else { from };
                socket.send_to(&packet, to).expect("an answer");
            }
        }
    });
    (port, heard)
}

fn finder(mdns_port: u16) -> Finder {
    Finder::new(FinderOptions { dns: false, mdns_port, interfaces: vec!["lo".into()], ..Default::default() })
}

#[tokio::test]
async fn a_machine_is_found_by_either_name_with_one_question() {
    let advertisement = Advertisement { names: vec![NAME.parse().expect("a name")], port: 4321, webrtc: false };
    let (port, heard) = responder(Some(advertisement));
    for name in [NAME, "m-main.loc1.local.viam.cloud"] {
        let mut search =
            finder(port).find(&name.parse::<MachineAddress>().expect("an address"), &Arc::new(Surroundings::look()));
        let found = search.next().await.expect("an answer").expect("an address");
        assert_eq!(found.address, SocketAddr::from((Ipv4Addr::LOCALHOST, 4321)));
        assert_eq!(found.source, Source::Mdns { interface: "lo".into() });
        assert!(found.grpc && !found.webrtc);
        assert!(search.next().await.is_none());
    }
    assert_eq!(heard.load(Ordering::SeqCst), 2, "one question for each search: the first answer ended it");
}

#[tokio::test]
async fn a_machine_that_answers_to_everybody_is_found_too() {
    let advertisement = Advertisement { names: vec![NAME.parse().expect("a name")], port: 4321, webrtc: true };
    let (port, _) = responder_to(Some(advertisement), true);
    let mut search =
        finder(port).find(&NAME.parse::<MachineAddress>().expect("an address"), &Arc::new(Surroundings::look()));
    let found = search.next().await.expect("an answer").expect("an address");
    assert_eq!(found.address, SocketAddr::from((Ipv4Addr::LOCALHOST, 4321)));
}

#[tokio::test]
async fn an_unknown_machine_costs_three_packets_and_a_verdict_in_time() {
    let (port, heard) = responder(None);
    let started = Instant::now();
    let mut search = finder(port).find(
        &"nobody.loc1.viam.cloud".parse::<MachineAddress>().expect("an address"),
        &Arc::new(Surroundings::look()),
    );
    let verdict = search.next().await.expect("a complaint").expect_err("nobody is there");
    assert!(matches!(&verdict, SourceError::Silence { .. }), "{verdict}");
    assert!(
        verdict.to_string().contains("nobody.loc1.viam.cloud") && verdict.to_string().contains("lo (127.0.0.1)"),
        "{verdict}"
    );
    assert!(search.next().await.is_none());
    assert!(started.elapsed() < Duration::from_millis(1500));
    assert_eq!(heard.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn another_machines_answer_is_nobodys() {
    let advertisement =
        Advertisement { names: vec!["other.loc1.viam.cloud".parse().expect("a name")], port: 1, webrtc: false };
    let (port, _) = responder(Some(advertisement));
    let mut search =
        finder(port).find(&NAME.parse::<MachineAddress>().expect("an address"), &Arc::new(Surroundings::look()));
    assert!(matches!(search.next().await, Some(Err(SourceError::Silence { .. }))));
}

#[tokio::test]
async fn a_host_of_the_hosts_file_is_looked_up() {
    let mut search = Finder::default()
        .find(&"localhost:4321".parse::<MachineAddress>().expect("an address"), &Arc::new(Surroundings::look()));
    let found = search.next().await.expect("an answer").expect("an address");
    assert!(found.address.ip().is_loopback());
    assert_eq!(found.address.port(), 4321);
}
