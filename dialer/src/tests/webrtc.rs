//! A machine that is reached over WebRTC alone, through a signaling service.

#[path = "../../../transport/tests/signaling/mod.rs"]
mod signaling;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::HeaderValue;
use machine_api::proto::rpc::webrtc::v1::signaling_service_server::SignalingServiceServer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use transport::Link;
use transport::serve::{Introduced, Listener, ServeOptions};
use transport::webrtc::serve::ChannelOptions;
use transport::webrtc::{AnswerOptions, answer};

use self::signaling::Signaling;
use super::dial::certificate;
use super::machine::*;
use super::proxy::Proxy;
use crate::agent::Tier;
use crate::*;

const NAME: &str = "m-main.loc1.viam.cloud";
const CLOUD: &str = "localhost";

/// Lets every link in with a token, and counts them.
#[derive(Clone, Default)]
struct Token(Arc<AtomicUsize>);

impl Admit for Token {
    fn admit<'a>(&'a self, _: &'a Link, _: Whom<'a>) -> BoxFuture<'a, Result<Admitted, Refusal>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let authorization = Some(HeaderValue::from_static("Bearer token"));
        Box::pin(async move { Ok(Admitted { authorization, ..Admitted::default() }) })
    }
}

struct Lab {
    script: Arc<Script>,
    signaling: Signaling,
    options: DialOptions,
    /// The way to the signaling service.
    way: Proxy,
    down: CancellationToken,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.down.cancel();
    }
}

impl Lab {
    async fn start() -> Self {
        let (signaling, inside) = Signaling::start(NAME).await;
        let script = Arc::new(Script::default());
        let down = CancellationToken::new();
        let (grpc, ended) = (Scripted(script.clone()), down.clone());
        tokio::spawn(async move {
            let on_peer = move |peer: transport::webrtc::IncomingPeer| {
                let (grpc, ended) = (grpc.clone(), ended.clone());
                tokio::spawn(async move {
                    let (introduced, options) = (Introduced::default(), ChannelOptions::default());
                    transport::webrtc::serve::serve(peer.channel, grpc, introduced, options, |_| {}, ended).await
                });
            };
            answer::run(inside, &[NAME.to_owned()], &AnswerOptions::default(), on_peer).await
        });
        // The same service where the world sees it: encrypted, with a name to prove.
        let (chain, private) = certificate(CLOUD);
        let tls = transport::tls::server_config(chain.as_bytes(), private.as_bytes()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let way = Proxy::to(listener.local_addr().unwrap(), "127.0.0.1").await;
        let port = way.address.port();
        let front = tonic::service::Routes::new(SignalingServiceServer::new(signaling.clone()));
        let serve = ServeOptions { tls: Some(tls), ..ServeOptions::default() };
        tokio::spawn(transport::serve::serve(Listener::Tcp(listener), front, serve, |_| {}, down.clone()));
        let trust = transport::tls::Trust::system().trust_pem(chain.as_bytes()).unwrap();
        let finder = discovery::FinderOptions { mdns: false, dns: false, memory: None, ..Default::default() };
        let cloud = Some((CLOUD.to_owned(), port));
        let options = DialOptions { trust, finder, cloud, ..DialOptions::new(NAME.parse().unwrap()) };
        Self { script, signaling, options, way, down }
    }
}

#[tokio::test]
async fn a_machine_is_found_by_name_through_a_cloud_and_its_calls_carry_no_token_of_the_clouds() {
    let mut lab = Lab::start().await;
    let options = std::mem::replace(&mut lab.options, DialOptions::new(NAME.parse().unwrap()));
    let (channel, switch) = Dialer::start(options, Arc::new(Token::default()));
    let link = tokio::time::timeout(LIMIT, switch.first_link()).await.expect("in time").unwrap();
    assert_eq!(link.tier, Tier::LanWebRtc, "both ends are on this host: {link:?}");
    assert!(link.route.starts_with("WebRTC by localhost"), "{}", link.route);
    call(&channel, request(READ)).await.unwrap();
    assert_eq!(*lab.script.authorization.lock().unwrap(), None);
    assert!(lab.signaling.seen.lock().unwrap().errors.is_empty());
    let record = switch.first_record().unwrap();
    let stages: Vec<_> = record.tries[0].stages.iter().map(|(stage, _)| *stage).collect();
    use agent::Stage::*;
    assert_eq!(stages, [Tcp, Tls, Http2, Auth, Signaling, Ice, Dtls, Channel]);
}

#[cfg(feature = "webrtc-rs")]
#[tokio::test]
async fn the_webrtc_crate_makes_the_connection_where_it_is_asked_to() {
    let mut lab = Lab::start().await;
    let options = std::mem::replace(&mut lab.options, DialOptions::new(NAME.parse().unwrap()));
    let options = DialOptions { webrtc: transport::webrtc::Backend::WebrtcRs, ..options };
    let (channel, switch) = Dialer::start(options, Arc::new(Token::default()));
    let link = tokio::time::timeout(LIMIT, switch.first_link()).await.expect("in time").unwrap();
    assert!(link.route.starts_with("WebRTC by localhost"), "{}", link.route);
    call(&channel, request(READ)).await.unwrap();
    assert!(lab.signaling.seen.lock().unwrap().errors.is_empty());
    // Only str0m's offers tell of the SCTP association.
    let offers = lab.signaling.seen.lock().unwrap().offers.clone();
    let tells = |offer: &String| transport::webrtc::sdp::Description::decode(offer).unwrap().sctp_init.is_some();
    assert!(!offers.is_empty() && !offers.iter().any(tells), "{offers:?}");
}

/// The stages of the dial that led to the next link.
async fn stages_of_the_next(events: &mut tokio::sync::broadcast::Receiver<RouteEvent>) -> Vec<agent::Stage> {
    let next = async {
        loop {
            if let RouteEvent::Use(_, record) = events.recv().await.unwrap() {
                return record.tries.last().unwrap().stages.iter().map(|(stage, _)| *stage).collect();
            }
        }
    };
    tokio::time::timeout(LIMIT, next).await.expect("in time")
}

#[tokio::test]
async fn a_lost_peer_connection_is_arranged_anew_over_the_way_to_the_cloud_that_was_kept() {
    let mut lab = Lab::start().await;
    let options = std::mem::replace(&mut lab.options, DialOptions::new(NAME.parse().unwrap()));
    let token = Token::default();
    let (channel, switch) = Dialer::start(options, Arc::new(token.clone()));
    tokio::time::timeout(LIMIT, switch.first_link()).await.expect("in time").unwrap();
    let mut events = switch.events();
    use agent::Stage::*;
    for _ in 0..3 {
        switch.abort(switch.current().expect("connected").id);
        assert_eq!(stages_of_the_next(&mut events).await, [Signaling, Ice, Dtls, Channel]);
        call(&channel, request(READ)).await.unwrap();
    }
    assert_eq!(token.0.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_kept_way_to_the_cloud_that_died_silently_is_made_anew() {
    let mut lab = Lab::start().await;
    let options = std::mem::replace(&mut lab.options, DialOptions::new(NAME.parse().unwrap()));
    let token = Token::default();
    let (channel, switch) = Dialer::start(options, Arc::new(token.clone()));
    tokio::time::timeout(LIMIT, switch.first_link()).await.expect("in time").unwrap();
    let mut events = switch.events();
    lab.way.forget();
    switch.abort(switch.current().expect("connected").id);
    use agent::Stage::*;
    assert_eq!(stages_of_the_next(&mut events).await, [Tcp, Tls, Http2, Auth, Signaling, Ice, Dtls, Channel]);
    call(&channel, request(READ)).await.unwrap();
    assert_eq!(token.0.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn the_path_of_a_peer_connection_is_checked_without_the_machines_help() {
    let mut lab = Lab::start().await;
    let options = std::mem::replace(&mut lab.options, DialOptions::new(NAME.parse().unwrap()));
    let policy = agent::Policy { idle_probe: Duration::from_millis(150), ..agent::Policy::default() };
    let (_channel, switch) = Dialer::start(DialOptions { policy, ..options }, Arc::new(Anonymous));
    let link = tokio::time::timeout(LIMIT, switch.first_link()).await.expect("in time").unwrap();
    let mut status = switch.watch_route();
    let first = status.borrow_and_update().rtt;
    // Every check is a round trip of its own: the smoothed one changes, and no call reaches the machine.
    let changed = tokio::time::timeout(LIMIT, status.wait_for(|status| status.rtt != first));
    assert_eq!(changed.await.expect("checked").unwrap().link.as_ref().map(|link| link.id), Some(link.id));
    assert!(lab.script.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn s69_a_local_name_is_told_to_no_cloud() {
    let mut lab = Lab::start().await;
    let options = std::mem::replace(&mut lab.options, DialOptions::new(NAME.parse().unwrap()));
    let target = "m-main.loc1.local.viam.cloud".parse().unwrap();
    let (_channel, switch) = Dialer::start(DialOptions { target, ..options }, Arc::new(Anonymous));
    let error = switch.first_link().await.unwrap_err();
    assert!(error.record.tries.is_empty(), "{error}");
    assert_eq!(lab.signaling.seen.lock().unwrap().candidates, 0);
}

#[tokio::test]
async fn s60_a_dropped_call_reaches_the_machine_over_webrtc() {
    let mut lab = Lab::start().await;
    let options = std::mem::replace(&mut lab.options, DialOptions::new(NAME.parse().unwrap()));
    let (channel, switch) = Dialer::start(options, Arc::new(Anonymous));
    tokio::time::timeout(LIMIT, switch.first_link()).await.expect("in time").unwrap();
    let video = tower::ServiceExt::oneshot(channel, request(VIDEO)).await.unwrap();
    assert_eq!(lab.script.streams(), 1);
    drop(video);
    let ended = tokio::time::timeout(Duration::from_millis(500), async {
        while lab.script.streams() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    ended.await.expect("the machine is told");
}
