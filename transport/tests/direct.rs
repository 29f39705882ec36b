//! Links over real sockets.

mod common;

use std::time::Duration;

use common::{NAME, Port, identity, port};
use http::uri::PathAndQuery;
use machine_api::viam::common::v1::{DoCommandRequest, DoCommandResponse};
use machine_api::viam::component::base::v1 as base;
use prost_types::{Struct, Value, value::Kind};
use rustls::HandshakeKind;
use tonic::Code;
use transport::serve::{ConnectionEvent, ServeOptions};
use transport::tls::{Trust, server_config};
use transport::{Address, Body, CloseReason, ConnectOptions, Lane, Link, Security, Stage, Target, direct};

const STOP: &str = "/viam.component.base.v1.BaseService/Stop";
const MOVE: &str = "/viam.component.base.v1.BaseService/MoveStraight";
const DO: &str = "/viam.component.base.v1.BaseService/DoCommand";

async fn clear(address: std::net::SocketAddr) -> Link {
    let target = Target { address: Address::Tcp(address), security: Security::Clear };
    direct::connect(&target, &ConnectOptions::default(), &mut |_, _| {}).await.expect("a link")
}

/// Calls as generated clients do, on one lane.
#[derive(Clone)]
struct Calls(Link, Lane);

impl tower::Service<http::Request<Body>> for Calls {
    type Response = http::Response<Body>;
    type Error = tonic::Status;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, tonic::Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), tonic::Status>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let call = self.0.call(request, self.1);
        Box::pin(async move { call.await.map_err(|e| e.status) })
    }
}

async fn unary<Q, A>(link: &Link, lane: Lane, path: &'static str, request: Q) -> Result<A, tonic::Status>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let mut grpc = tonic::client::Grpc::new(Calls(link.clone(), lane))
        .max_decoding_message_size(machine_api::MAX_MESSAGE)
        .max_encoding_message_size(machine_api::MAX_MESSAGE);
    let codec = tonic_prost::ProstCodec::<Q, A>::default();
    grpc.unary(tonic::Request::new(request), PathAndQuery::from_static(path), codec)
        .await
        .map(tonic::Response::into_inner)
}

async fn stop(link: &Link, lane: Lane) -> Result<base::StopResponse, tonic::Status> {
    unary(link, lane, STOP, base::StopRequest::default()).await
}

async fn move_straight(link: &Link) -> Result<base::MoveStraightResponse, tonic::Status> {
    unary(link, Lane::Ordinary, MOVE, base::MoveStraightRequest::default()).await
}

#[tokio::test]
async fn a_call_in_clear() {
    let port = port(ServeOptions::default()).await;
    let link = clear(port.address).await;
    assert!(!link.info().encrypted);
    assert_eq!(link.info().remote, Some(port.address));
    stop(&link, Lane::Ordinary).await.expect("an answer");
    assert!(link.is_closed().is_none());
}

#[tokio::test]
async fn the_machine_proves_its_name_whatever_its_address() {
    let id = identity(NAME);
    let tls = server_config(id.chain.as_bytes(), id.key.as_bytes()).expect("a configuration");
    let port = port(ServeOptions { tls: Some(tls), ..Default::default() }).await;
    let config = Trust::system().trust_pem(id.ca.as_bytes()).expect("a CA").client_config().expect("a configuration");
    let to = |name: &str| Target {
        address: Address::Tcp(port.address),
        security: Security::Tls { config: config.clone(), name: name.to_owned().try_into().expect("a name") },
    };
    let mut stages = Vec::new();
    let link =
        direct::connect(&to(NAME), &ConnectOptions::default(), &mut |s, _| stages.push(s)).await.expect("a link");
    assert_eq!(stages, [Stage::Tcp, Stage::Tls, Stage::Http2]);
    assert!(link.info().encrypted);
    stop(&link, Lane::Ordinary).await.expect("an answer");

    let other = direct::connect(&to("other-main.loc1.viam.cloud"), &ConnectOptions::default(), &mut |_, _| {}).await;
    let other = other.expect_err("another name");
    assert!(other.verdict && other.stage == Stage::Tls, "{other}");
    assert!(other.to_string().contains("other-main.loc1.viam.cloud"), "{other}");
}

/// How a handshake with `port` ends, for somebody who trusts `ca` and met machines before.
async fn handshake(port: &Port, ca: &str) -> std::io::Result<HandshakeKind> {
    let config = Trust::system().trust_pem(ca.as_bytes()).expect("a CA").client_config().expect("a configuration");
    let tcp = tokio::net::TcpStream::connect(port.address).await.expect("a port");
    let name = NAME.to_owned().try_into().expect("a name");
    let tls = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await?;
    Ok(tls.get_ref().1.handshake_kind().expect("a handshake"))
}

#[tokio::test]
async fn a_session_is_resumed_by_whoever_trusts_the_same_and_with_the_same_machine_only() {
    let id = identity(NAME);
    let tls = || server_config(id.chain.as_bytes(), id.key.as_bytes()).expect("a configuration");
    let known = port(ServeOptions { tls: Some(tls()), ..Default::default() }).await;
    let config = Trust::system().trust_pem(id.ca.as_bytes()).expect("a CA").client_config().expect("a configuration");
    let security = Security::Tls { config, name: NAME.to_owned().try_into().expect("a name") };
    let target = Target { address: Address::Tcp(known.address), security };
    let link = direct::connect(&target, &ConnectOptions::default(), &mut |_, _| {}).await.expect("a link");
    // Tickets come with the first answer.
    stop(&link, Lane::Ordinary).await.expect("an answer");
    assert_eq!(handshake(&known, &id.ca).await.expect("proven"), HandshakeKind::Resumed);

    let again = port(ServeOptions { tls: Some(tls()), ..Default::default() }).await;
    assert_eq!(handshake(&again, &id.ca).await.expect("proven"), HandshakeKind::Full, "it was started again");
    let other = identity(NAME);
    let tls = server_config(other.chain.as_bytes(), other.key.as_bytes()).expect("a configuration");
    let impostor = port(ServeOptions { tls: Some(tls), ..Default::default() }).await;
    handshake(&impostor, &id.ca).await.expect_err("a ticket of another machine opens nothing");
    handshake(&known, &other.ca).await.expect_err("who trusts others has no tickets of this machine");
}

#[tokio::test]
async fn an_unknown_authority_is_a_verdict_that_says_what_to_do() {
    let id = identity(NAME);
    let tls = server_config(id.chain.as_bytes(), id.key.as_bytes()).expect("a configuration");
    let port = port(ServeOptions { tls: Some(tls), ..Default::default() }).await;
    let other = identity(NAME);
    let config =
        Trust::system().trust_pem(other.ca.as_bytes()).expect("a CA").client_config().expect("a configuration");
    let security = Security::Tls { config, name: NAME.to_owned().try_into().expect("a name") };
    let target = Target { address: Address::Tcp(port.address), security };
    let error = direct::connect(&target, &ConnectOptions::default(), &mut |_, _| {}).await.expect_err("no trust");
    assert!(error.verdict, "{error}");
}

#[tokio::test]
async fn a_port_without_tls_is_recognised() {
    let port = port(ServeOptions::default()).await;
    let config = Trust::system().client_config().expect("a configuration");
    let security = Security::Tls { config, name: NAME.to_owned().try_into().expect("a name") };
    let options = ConnectOptions { handshake_timeout: Duration::from_secs(30), ..Default::default() };
    let target = Target { address: Address::Tcp(port.address), security };
    let error = direct::connect(&target, &options, &mut |_, _| {}).await.expect_err("no TLS there");
    assert_eq!(error.stage, Stage::Tls, "{error}");
}

#[tokio::test]
async fn a_refused_connection_says_so() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let target = Target { address: Address::Tcp(address), security: Security::Clear };
    let error = direct::connect(&target, &ConnectOptions::default(), &mut |_, _| {}).await.expect_err("nobody there");
    assert!(!error.verdict && error.stage == Stage::Tcp, "{error}");
    assert!(error.to_string().contains("nothing listens there"), "{error}");
}

#[tokio::test]
async fn severing_ends_the_link_for_every_clone_and_at_the_machine() {
    let mut port = port(ServeOptions::default()).await;
    let link = clear(port.address).await;
    let (clone, moving) = (link.clone(), link.clone());
    let call = tokio::spawn(async move { move_straight(&moving).await });
    port.peer.began(1).await;
    link.sever("a test");
    assert_eq!(clone.closed().await, CloseReason::Severed("a test"));
    let status = call.await.expect("no panic").expect_err("a severed call");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains(&port.address.to_string()), "{status}");
    assert!(matches!(port.events.recv().await, Some(ConnectionEvent::Opened(_))));
    assert!(matches!(port.events.recv().await, Some(ConnectionEvent::Closed(_))));
    port.peer.dropped.notified().await;
    let never = link.call(http::Request::new(Body::empty()), Lane::Ordinary).await.expect_err("a dead link");
    assert!(never.never_written);
}

#[tokio::test]
async fn a_dropped_call_reaches_the_machine() {
    let port = port(ServeOptions::default()).await;
    let link = clear(port.address).await;
    let moving = link.clone();
    let call = tokio::spawn(async move { move_straight(&moving).await });
    port.peer.began(1).await;
    call.abort();
    port.peer.dropped.notified().await;
    stop(&link, Lane::Ordinary).await.expect("the link lives on");
}

#[tokio::test]
async fn a_stop_finds_a_stream_when_all_ordinary_places_are_taken() {
    let port = port(ServeOptions::default()).await;
    let link = clear(port.address).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..150 {
        let link = link.clone();
        calls.spawn(async move { move_straight(&link).await });
    }
    // 92 ordinary calls are out, 58 wait in the link.
    port.peer.began(92).await;
    stop(&link, Lane::Reserved).await.expect("right of way");
}

#[tokio::test]
async fn an_orderly_close_lets_a_call_finish() {
    let port = port(ServeOptions::default()).await;
    let link = clear(port.address).await;
    let moving = link.clone();
    let call = tokio::spawn(async move { move_straight(&moving).await });
    port.peer.began(1).await;
    link.close();
    let refused = stop(&link, Lane::Reserved).await.expect_err("no new calls");
    assert_eq!(refused.code(), Code::Unavailable);
    port.peer.release.notify_one();
    call.await.expect("no panic").expect("the call that was out");
    assert_eq!(link.closed().await, CloseReason::Closed);
}

#[tokio::test]
async fn a_machine_that_leaves_closes_the_link() {
    let port = port(ServeOptions::default()).await;
    let link = clear(port.address).await;
    stop(&link, Lane::Ordinary).await.expect("an answer");
    port.shutdown.cancel();
    assert!(matches!(link.closed().await, CloseReason::ByPeer | CloseReason::Broken(_)));
}

#[tokio::test]
async fn large_messages_cross_in_small_cuts() {
    let port = port(ServeOptions::default()).await;
    let link = clear(port.address).await;
    let text = "x".repeat(3 << 20);
    let value = Value { kind: Some(Kind::StringValue(text.clone())) };
    let command = Struct { fields: [("payload".to_owned(), value)].into() };
    let request = DoCommandRequest { name: "base".into(), command: Some(command.clone()) };
    let answer: DoCommandResponse = unary(&link, Lane::Ordinary, DO, request).await.expect("an echo");
    assert_eq!(answer.result, Some(command));
}
