//! The responder and the finder, over real multicast on the loopback interface.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use discovery::answer::Advertisement;
use discovery::{Finder, FinderOptions, MachineAddress, Responder, ResponderOptions, SourceError, Surroundings};

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
