//! The machine's port against peers that say little, too much or the wrong thing.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{NAME, identity, port};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use transport::serve::ServeOptions;
use transport::tls::server_config;
use transport::{Address, ConnectOptions, Security, Target, direct};

/// Sends `request` and reads until the server closes.
async fn http1(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn the_root_is_a_health_check_and_other_paths_are_no_pages() {
    let port = port(ServeOptions::default()).await;
    let root = http1(port.address, "GET / HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n").await;
    assert!(root.starts_with("HTTP/1.1 200"), "{root}");
    let other = http1(port.address, "GET /admin HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n").await;
    assert!(other.starts_with("HTTP/1.1 404"), "{other}");
}

#[tokio::test]
async fn browsers_may_ask_first_and_then_call() {
    let port = port(ServeOptions::default()).await;
    let path = "/viam.component.base.v1.BaseService/IsMoving";
    let preflight = format!(
        "OPTIONS {path} HTTP/1.1\r\nhost: m\r\norigin: https://example.org\r\naccess-control-request-method: POST\r\n\
         access-control-request-headers: authorization,x-grpc-web,content-type\r\nconnection: close\r\n\r\n"
    );
    let answer = http1(port.address, &preflight).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("authorization,x-grpc-web,content-type"), "{answer}");

    let mut stream = TcpStream::connect(port.address).await.expect("a connection");
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: m\r\norigin: https://example.org\r\ncontent-type: application/grpc-web+proto\r\n\
         x-grpc-web: 1\r\ncontent-length: 5\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream.write_all(&[0; 5]).await.expect("an empty message");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    // IsMovingResponse { is_moving: true } in its frame, then the trailer frame.
    assert!(answer.windows(7).any(|w| w == [0, 0, 0, 0, 2, 8, 1]), "{text}");
    assert!(text.contains("grpc-status:0"), "{text}");
}

#[tokio::test]
async fn browsers_may_ask_and_call_over_http_2_as_well() {
    let port = port(ServeOptions::default()).await;
    let stream = TcpStream::connect(port.address).await.expect("a connection");
    let (mut client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let request = |method| {
        let path = "http://m/viam.component.base.v1.BaseService/IsMoving";
        http::Request::builder().method(method).uri(path).header("origin", "https://example.org")
    };
    let preflight = request("OPTIONS").header("access-control-request-method", "POST");
    let preflight = preflight.header("access-control-request-headers", "authorization,content-type").body(());
    let (answer, _) = client.send_request(preflight.expect("a request"), true).expect("sent");
    let answer = answer.await.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["access-control-allow-headers"], "authorization,content-type");

    let call = request("POST").header("content-type", "application/grpc-web+proto").header("x-grpc-web", "1").body(());
    let (answer, mut body) = client.send_request(call.expect("a request"), false).expect("sent");
    body.send_data(bytes::Bytes::from_static(&[0; 5]), true).expect("an empty message");
    let answer = answer.await.expect("an answer");
    assert_eq!(answer.headers()["access-control-allow-origin"], "*");
    let (mut text, mut body) = (Vec::new(), answer.into_body());
    while let Some(data) = body.data().await {
        text.extend_from_slice(&data.expect("data"));
    }
    assert!(text.windows(7).any(|w| w == [0, 0, 0, 0, 2, 8, 1]), "{text:?}");
    assert!(String::from_utf8_lossy(&text).contains("grpc-status:0"), "{text:?}");
}

#[tokio::test]
async fn silence_and_garbage_are_closed() {
    let options = ServeOptions { first_byte_timeout: Duration::from_millis(50), ..Default::default() };
    let port = port(options).await;
    let mut silent = TcpStream::connect(port.address).await.expect("a connection");
    let mut nothing = Vec::new();
    silent.read_to_end(&mut nothing).await.expect("closed in order");
    let garbage = http1(port.address, "\u{1}\u{2}\u{3}garbage that is no protocol at all\r\n\r\n").await;
    assert!(garbage.is_empty() || garbage.starts_with("HTTP/1.1 400"), "{garbage}");
}

#[tokio::test]
async fn half_a_handshake_and_half_a_head_are_closed() {
    let id = identity(NAME);
    let tls = server_config(id.chain.as_bytes(), id.key.as_bytes()).expect("a configuration");
    let options = ServeOptions { tls: Some(tls), handshake_timeout: Duration::from_millis(50), ..Default::default() };
    let port_tls = port(options).await;
    let mut half = TcpStream::connect(port_tls.address).await.expect("a connection");
    half.write_all(&[0x16, 3, 1, 2]).await.expect("sent");
    let mut rest = Vec::new();
    // Closed in order or reset: either way the read ends.
    let _ = half.read_to_end(&mut rest).await;

    let port = port(ServeOptions { header_timeout: Duration::from_millis(50), ..Default::default() }).await;
    let mut half = TcpStream::connect(port.address).await.expect("a connection");
    half.write_all(b"GET / HTTP/1.1\r\nhost: m\r\nx-slow: ").await.expect("sent");
    let _ = half.read_to_end(&mut rest).await;
}

#[tokio::test]
async fn an_oversized_head_is_refused() {
    let port = port(ServeOptions::default()).await;
    let long = "x".repeat(256 << 10);
    let mut stream = TcpStream::connect(port.address).await.expect("a connection");
    let request = format!("GET / HTTP/1.1\r\nhost: m\r\nx-long: {long}\r\n\r\n");
    // The server may close before all is sent.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let text = String::from_utf8_lossy(&answer);
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 431"), "{text}");
}

#[tokio::test]
async fn silent_connections_make_room_for_one_that_speaks() {
    let port = port(ServeOptions { max_connections: 64, ..Default::default() }).await;
    let mut silent = Vec::new();
    for _ in 0..500 {
        silent.push(TcpStream::connect(port.address).await.expect("a connection"));
    }
    let target = Target { address: Address::Tcp(port.address), security: Security::Clear };
    let link = direct::connect(&target, &ConnectOptions::default(), &mut |_, _| {}).await.expect("a link");
    let request = http::Request::post("/viam.component.base.v1.BaseService/Stop")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(transport::Body::new(http_body_util::Full::new(bytes::Bytes::from_static(&[0; 5]))))
        .expect("a request");
    let response = link.call(request, transport::Lane::Ordinary).await.expect("an answer");
    assert_eq!(response.status(), 200);
}
