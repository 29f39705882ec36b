//! Dials: authentication, verdicts, and what their errors say.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use http::HeaderValue;
use transport::Link;

use super::machine::*;
use crate::*;

struct Key {
    answer: Result<(), Refusal>,
    asked: Arc<AtomicU32>,
}

impl Admit for Key {
    fn admit<'a>(&'a self, _: &'a Link, _: Whom<'a>) -> BoxFuture<'a, Result<Admitted, Refusal>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = self.answer.clone();
        Box::pin(async move {
            answer
                .map(|()| Admitted { authorization: Some(HeaderValue::from_static("Bearer token")), remembered: false })
        })
    }
}

fn key(answer: Result<(), Refusal>) -> (Arc<Key>, Arc<AtomicU32>) {
    let asked = Arc::new(AtomicU32::new(0));
    (Arc::new(Key { answer, asked: asked.clone() }), asked)
}

#[tokio::test]
async fn a_dial_is_fast_and_its_calls_are_authorized() {
    let machine = Machine::start().await;
    let (admit, asked) = key(Ok(()));
    let (channel, switch) = Dialer::start(machine.options(), admit);
    let link = switch.first_link().await.unwrap();
    assert_eq!(link.remote, Some(machine.address));
    assert_eq!(link.tier, agent::Tier::LanDirect);
    call(&channel, request(READ)).await.unwrap();
    assert_eq!(machine.script.authorization.lock().unwrap().as_ref().unwrap(), "Bearer token");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn calls_made_before_the_first_link_wait_for_it() {
    let machine = Machine::start().await;
    let (channel, _switch) = Dialer::start(machine.options(), Arc::new(Anonymous));
    call(&channel, request(READ)).await.unwrap();
}

#[tokio::test]
async fn refused_credentials_are_a_verdict_and_not_sent_again() {
    let machine = Machine::start().await;
    let (admit, asked) = key(Err(Refusal { verdict: true, message: "invalid API key".into() }));
    let (_channel, switch) = Dialer::start(machine.options(), admit);
    let error = switch.first_link().await.unwrap_err();
    assert!(error.verdict);
    let text = error.to_string();
    for part in ["refused the credentials", "invalid API key", "authentication", "check the API key"] {
        assert!(text.contains(part), "{part:?} in {text:?}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert_eq!(error.record.outcome, Outcome::Refused);
}

#[tokio::test]
async fn s57_an_unreachable_machine_fails_after_three_attempts_naming_them() {
    let machine = Machine::start().await;
    machine.stop().await;
    let (_channel, switch) = Dialer::start(machine.options(), Arc::new(Anonymous));
    let began = Instant::now();
    let error = switch.first_link().await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(!error.verdict);
    assert_eq!(error.record.tries.len(), 3);
    let text = error.to_string();
    assert!(text.contains(&machine.address.to_string()) && text.contains("TCP"), "{text}");
    let json = serde_json::to_value(&error.record).unwrap();
    assert_eq!(json["outcome"]["kind"], "unreachable");
    assert_eq!(json["tries"][0]["result"]["stage"], "tcp");
}

pub fn certificate(name: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

#[tokio::test]
async fn credentials_never_reach_a_peer_that_does_not_prove_the_name() {
    let (mine, _) = certificate("m-main.loc1.viam.cloud");
    let (chain, private) = certificate("attacker.example");
    let tls = transport::tls::server_config(chain.as_bytes(), private.as_bytes()).unwrap();
    let machine = Machine::on("127.0.0.1:0".parse().unwrap(), Some(tls)).await;
    let trust = transport::tls::Trust::system();
    let trust = trust.trust_pem(mine.as_bytes()).unwrap().trust_pem(chain.as_bytes()).unwrap();
    let (admit, asked) = key(Ok(()));
    let options =
        DialOptions { insecure: false, trust, tls_name: Some("m-main.loc1.viam.cloud".into()), ..machine.options() };
    let (_channel, switch) = Dialer::start(options, admit);
    let error = switch.first_link().await.unwrap_err();
    assert!(error.to_string().contains("TLS"), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_machine_that_proves_its_name_is_used_encrypted() {
    let (chain, private) = certificate("m-main.loc1.viam.cloud");
    let tls = transport::tls::server_config(chain.as_bytes(), private.as_bytes()).unwrap();
    let machine = Machine::on("127.0.0.1:0".parse().unwrap(), Some(tls)).await;
    let options = DialOptions {
        insecure: false,
        trust: transport::tls::Trust::system().trust_pem(chain.as_bytes()).unwrap(),
        tls_name: Some("m-main.loc1.viam.cloud".into()),
        ..machine.options()
    };
    let (channel, switch) = Dialer::start(options, Arc::new(Anonymous));
    assert!(switch.first_link().await.unwrap().encrypted);
    call(&channel, request(READ)).await.unwrap();
}

#[tokio::test]
async fn clear_text_is_not_spoken_unless_asked_for() {
    let machine = Machine::start().await;
    let (admit, asked) = key(Ok(()));
    let options = DialOptions { insecure: false, ..machine.options() };
    let (_channel, switch) = Dialer::start(options, admit);
    assert!(switch.first_link().await.unwrap_err().to_string().contains("TLS"));
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn s52_a_machine_that_comes_back_is_found_within_a_second() {
    let machine = Machine::start().await;
    machine.stop().await;
    let (_channel, switch) = Dialer::start(patient(machine.address), Arc::new(Anonymous));
    let mut events = switch.events();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let began = Instant::now();
    let _back = Machine::on(machine.address, None).await;
    while !matches!(events.recv().await.unwrap(), RouteEvent::Use(..)) {}
    assert!(began.elapsed() < Duration::from_millis(1200), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_swap_tells_its_story() {
    let machine = Machine::start().await;
    let (_channel, switch) = Dialer::start(machine.options(), Arc::new(Anonymous));
    let first = switch.first_link().await.unwrap();
    let mut events = switch.events();
    machine.cut();
    let record = loop {
        if let RouteEvent::Use(link, record) = events.recv().await.unwrap() {
            assert_ne!(link.id, first.id);
            break record;
        }
    };
    assert_eq!(record.reason, "the route was lost");
    assert!(matches!(record.tries.last().unwrap().result, TryResult::Connected { .. }));
}

#[tokio::test]
async fn the_last_handle_ends_the_dialer() {
    let machine = Machine::start().await;
    let (channel, switch) = Dialer::start(machine.options(), Arc::new(Anonymous));
    switch.first_link().await.unwrap();
    let mut events = switch.events();
    drop((channel, switch));
    let ended = tokio::time::timeout(LIMIT, async {
        while !matches!(events.recv().await, Err(tokio::sync::broadcast::error::RecvError::Closed)) {}
    });
    ended.await.unwrap();
}

#[tokio::test]
async fn a_host_name_is_looked_up_and_dialled() {
    let machine = Machine::start().await;
    let target = format!("localhost:{}", machine.address.port()).parse().unwrap();
    let (channel, switch) = Dialer::start(DialOptions { target, ..machine.options() }, Arc::new(Anonymous));
    let link = switch.first_link().await.unwrap();
    assert_eq!(link.remote, Some(machine.address));
    call(&channel, request(READ)).await.unwrap();
}

#[tokio::test]
async fn an_unknown_machine_is_a_verdict_in_time_that_says_who_was_asked() {
    // A port that nobody answers on; DNS is off, so that the verdict does not hang on this computer's network.
    let finder =
        discovery::FinderOptions { dns: false, mdns_port: 5, interfaces: vec!["lo".into()], ..Default::default() };
    let target = "nobody-main.loc1.viam.cloud".parse().unwrap();
    let started = Instant::now();
    let (_channel, switch) = Dialer::start(DialOptions { finder, ..DialOptions::new(target) }, Arc::new(Anonymous));
    let error = switch.first_link().await.unwrap_err();
    assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
    let text = error.to_string();
    assert!(text.contains("nobody-main.loc1.viam.cloud") && text.contains("mDNS"), "{text}");
}
