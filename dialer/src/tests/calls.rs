//! What calls do when a route dies: the table of design 9, row by row.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tonic::Code;

use super::machine::*;
use crate::*;

async fn dialed(machine: &Machine) -> (MachineChannel, LinkSwitch) {
    let (channel, switch) = Dialer::start(machine.options(), Arc::new(Anonymous));
    switch.first_link().await.unwrap();
    (channel, switch)
}

#[tokio::test]
async fn calls_of_every_class_pass() {
    let machine = Machine::start().await;
    let (channel, _switch) = dialed(&machine).await;
    for path in [READ, MOTION, OTHER, STOP] {
        assert_eq!(call(&channel, request(path)).await.unwrap(), 5);
        assert_eq!(machine.seen(path), 1, "{path}");
    }
    machine.reply_size(1 << 20);
    assert_eq!(call(&channel, request(READ)).await.unwrap(), 5 + (1 << 20));
}

/// Lets every link in with the token of an earlier one.
struct Remembered;

impl Admit for Remembered {
    fn admit<'a>(&'a self, _: &'a transport::Link, _: Whom<'a>) -> BoxFuture<'a, Result<Admitted, Refusal>> {
        let authorization = Some(http::HeaderValue::from_static("Bearer of an earlier link"));
        Box::pin(async { Ok(Admitted { authorization, remembered: true }) })
    }
}

#[tokio::test]
async fn a_stop_does_not_wait_until_a_remembered_token_is_proven() {
    let machine = Machine::start().await;
    let (_channel, switch) = Dialer::start(machine.options(), Arc::new(Remembered));
    let link = switch.first_link().await.unwrap();
    let reply = switch.call_on(link.id, request(STOP), transport::Lane::Reserved).await.unwrap();
    assert_eq!(reply.status(), 200);
    assert_eq!(machine.script.calls.lock().unwrap().first().unwrap().path, STOP, "nothing was asked before it");
}

#[tokio::test]
async fn s51_motion_without_a_route_fails_at_once() {
    let machine = Machine::start().await;
    let (channel, switch) = dialed(&machine).await;
    let mut events = switch.events();
    machine.stop().await;
    while !matches!(events.recv().await.unwrap(), RouteEvent::NoRoute { .. }) {}
    for path in [MOTION, STOP] {
        let began = Instant::now();
        let status = call(&channel, request(path)).await.unwrap_err();
        assert!(began.elapsed() < Duration::from_millis(10), "{:?}", began.elapsed());
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(status.message(), format!("not connected to machine at {}", machine.address));
    }
    let mut plan = CallPlan::of_path(READ);
    plan.fail_fast = true;
    let mut fast = request(READ);
    fast.extensions_mut().insert(plan);
    let began = Instant::now();
    assert_eq!(call(&channel, fast).await.unwrap_err().code(), Code::Unavailable);
    assert!(began.elapsed() < Duration::from_millis(10));
}

#[tokio::test]
async fn s53_reads_wait_for_the_next_link_and_old_handles_work() {
    let machine = Machine::start().await;
    let (channel, switch) = dialed(&machine).await;
    let mut events = switch.events();
    machine.stop().await;
    while !matches!(events.recv().await.unwrap(), RouteEvent::NoRoute { .. }) {}
    let waiting = tokio::spawn({
        let channel = channel.clone();
        async move { call(&channel, request(READ)).await }
    });
    let _again = Machine::on(machine.address, None).await;
    waiting.await.unwrap().unwrap();
    call(&channel, request(MOTION)).await.unwrap();
}

#[tokio::test]
async fn a_read_waits_no_longer_than_its_deadline() {
    let machine = Machine::start().await;
    let (channel, switch) = dialed(&machine).await;
    let mut events = switch.events();
    machine.stop().await;
    while !matches!(events.recv().await.unwrap(), RouteEvent::NoRoute { .. }) {}
    let mut short = request(READ);
    short.headers_mut().insert("grpc-timeout", "50m".parse().unwrap());
    let began = Instant::now();
    let status = call(&channel, short).await.unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Unavailable), "{status:?}");
    assert!((50..200).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_deadline_ends_a_call_that_is_not_answered() {
    let machine = Machine::start().await;
    let (channel, _switch) = dialed(&machine).await;
    machine.mute(1);
    let mut short = request(READ);
    short.headers_mut().insert("grpc-timeout", "50m".parse().unwrap());
    assert_eq!(call(&channel, short).await.unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(machine.seen(READ), 1);
}

/// Sends a call that is not answered, cuts the link under it, and returns what became of it.
async fn cut_under(path: &'static str, plan: Option<CallPlan>) -> (Result<usize, tonic::Status>, u64) {
    let machine = Machine::start().await;
    let (channel, _switch) = dialed(&machine).await;
    machine.mute(1);
    let mut request = request(path);
    if let Some(plan) = plan {
        request.extensions_mut().insert(plan);
    }
    let out = tokio::spawn(async move { call(&channel, request).await });
    machine.arrival(path, 1).await;
    machine.cut();
    let reply = out.await.unwrap();
    (reply, machine.seen(path))
}

#[tokio::test]
async fn a_read_whose_route_died_is_sent_again() {
    let (reply, seen) = cut_under(READ, None).await;
    reply.unwrap();
    assert_eq!(seen, 2);
}

#[tokio::test]
async fn motion_whose_route_died_may_have_run_and_is_not_sent_again() {
    for path in [MOTION, OTHER, STOP] {
        let (reply, seen) = cut_under(path, None).await;
        let status = reply.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("may have run"), "{status:?}");
        assert_eq!(seen, 1, "{path}");
    }
}

#[tokio::test]
async fn numbered_motion_is_sent_again() {
    let plan = CallPlan { copyable: true, numbered: true, held: true, ..CallPlan::of_path(MOTION) };
    let (reply, seen) = cut_under(MOTION, Some(plan)).await;
    reply.unwrap();
    assert_eq!(seen, 2);
}

#[tokio::test]
async fn s59_the_dial_timeout_bounds_no_call_and_a_calls_own_deadline_does() {
    let machine = Machine::start().await;
    let policy = agent::Policy { dial_timeout: Duration::from_millis(100), ..agent::Policy::default() };
    let (channel, switch) = Dialer::start(DialOptions { policy, ..machine.options() }, Arc::new(Anonymous));
    switch.first_link().await.unwrap();
    machine.delay(Duration::from_millis(300));
    call(&channel, request(OTHER)).await.unwrap();
    let mut short = request(OTHER);
    short.headers_mut().insert("grpc-timeout", "50m".parse().unwrap());
    assert_eq!(call(&channel, short).await.unwrap_err().code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn with_fail_fast_no_call_waits_for_a_link() {
    let machine = Machine::start().await;
    let (channel, switch) = Dialer::start(DialOptions { fail_fast: true, ..machine.options() }, Arc::new(Anonymous));
    switch.first_link().await.unwrap();
    let mut events = switch.events();
    machine.stop().await;
    while !matches!(events.recv().await.unwrap(), RouteEvent::NoRoute { .. }) {}
    let began = Instant::now();
    assert_eq!(call(&channel, request(READ)).await.unwrap_err().code(), Code::Unavailable);
    assert!(began.elapsed() < Duration::from_millis(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_machine_that_says_goodbye_is_left_for_another_while_its_last_call_finishes() {
    let machine = Machine::start().await;
    let (channel, switch) = dialed(&machine).await;
    let first = switch.current().unwrap().id;
    let mut events = switch.events();
    machine.delay(Duration::from_millis(300));
    let last = tokio::spawn({
        let channel = channel.clone();
        async move { call(&channel, request(OTHER)).await }
    });
    machine.arrival(OTHER, 1).await;
    // GOAWAY, and a port that is served again at once.
    machine.leave().await;
    let again = Machine::on(machine.address, None).await;
    call(&channel, request(READ)).await.unwrap();
    assert_eq!(again.seen(READ), 1);
    assert_ne!(switch.current().unwrap().id, first);
    last.await.unwrap().expect("what was out has finished");
    while !matches!(events.recv().await.unwrap(), RouteEvent::Closed { link, .. } if link == first) {}
}

#[tokio::test]
async fn a_call_goes_over_the_link_that_is_asked_for() {
    let machine = Machine::start().await;
    let (_channel, switch) = dialed(&machine).await;
    let link = switch.current().unwrap().id;
    assert_eq!(switch.live_links().len(), 1);
    switch.call_on(link, request(STOP), transport::Lane::Reserved).await.unwrap();
    assert_eq!(machine.seen(STOP), 1);
    let gone = switch.call_on(transport::LinkId(u64::MAX), request(STOP), transport::Lane::Reserved).await;
    assert!(gone.unwrap_err().never_written);
}

#[tokio::test]
async fn after_close_calls_fail_at_once() {
    let machine = Machine::start().await;
    let (channel, switch) = dialed(&machine).await;
    switch.close().await;
    let began = Instant::now();
    assert_eq!(call(&channel, request(READ)).await.unwrap_err().code(), Code::Unavailable);
    assert!(began.elapsed() < Duration::from_millis(100));
    assert!(switch.current().is_none() && switch.live_links().is_empty());
}
