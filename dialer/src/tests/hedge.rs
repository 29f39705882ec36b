//! Copies of calls: on two links at once, the first answer wins.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{mpsc, watch};
use transport::{ConnectOptions, Security, Target};

use super::machine::*;
use crate::agent::{Route, Tier};
use crate::carrier::{Carrier, Meter, Shared, Standing, Wake};
use crate::pass::Pass;
use crate::*;

async fn carrier(machine: &Machine) -> Arc<Carrier> {
    let target = Target { address: transport::Address::Tcp(machine.address), security: Security::Clear };
    let link = transport::direct::connect(&target, &ConnectOptions::default(), &mut |_, _| {}).await.unwrap();
    Carrier::new(
        link,
        Route::Direct(machine.address),
        Tier::LanDirect,
        Pass::new(Admitted::default(), Arc::new(Anonymous)),
        Meter::new(Arc::new(Wake::default())),
        None,
    )
}

async fn pair() -> (Machine, Arc<Carrier>, Machine, Arc<Carrier>, MachineChannel) {
    let (first, second) = (Machine::start().await, Machine::start().await);
    let (primary, standby) = (carrier(&first).await, carrier(&second).await);
    let shared = Arc::new(Shared {
        address: "the machine".into(),
        primary: ArcSwapOption::from(Some(primary.clone())),
        standby: ArcSwapOption::empty(),
        links: ArcSwap::default(),
        changed: watch::Sender::default(),
        hedges: tokio::sync::Semaphore::new(16),
        call_timeout: Duration::from_millis(500),
        fail_fast: false,
        status: watch::Sender::default(),
        large: std::sync::Mutex::default(),
    });
    let channel = MachineChannel { shared, alive: mpsc::unbounded_channel().0 };
    (first, primary, second, standby, channel)
}

#[tokio::test]
async fn a_read_is_answered_by_the_standby_while_the_primary_is_suspect() {
    let (first, primary, second, standby, channel) = pair().await;
    first.mute(1);
    let out = tokio::spawn({
        let channel = channel.clone();
        async move { call(&channel, request(READ)).await }
    });
    first.arrival(READ, 1).await;
    assert_eq!(second.seen(READ), 0);
    primary.standing.send_replace(Standing::Hedged(standby));
    out.await.unwrap().unwrap();
    assert_eq!((first.seen(READ), second.seen(READ)), (1, 1));
    assert_eq!(channel.shared.hedges.available_permits(), 16);
}

#[tokio::test]
async fn motion_other_and_heavy_calls_are_never_copied() {
    let heavy = "/viam.component.camera.v1.CameraService/GetImages";
    for path in [MOTION, OTHER, heavy] {
        let (first, primary, second, standby, channel) = pair().await;
        first.mute(1);
        primary.standing.send_replace(Standing::Hedged(standby));
        let mut short = request(path);
        short.headers_mut().insert("grpc-timeout", "100m".parse().unwrap());
        call(&channel, short).await.unwrap_err();
        assert_eq!((first.seen(path), second.seen(path)), (1, 0), "{path}");
    }
}

#[tokio::test]
async fn numbered_motion_is_copied() {
    let (first, primary, second, standby, channel) = pair().await;
    first.mute(1);
    primary.standing.send_replace(Standing::Hedged(standby));
    let mut numbered = request(MOTION);
    let plan = CallPlan { copyable: true, numbered: true, held: true, ..CallPlan::of_path(MOTION) };
    numbered.extensions_mut().insert(plan);
    call(&channel, numbered).await.unwrap();
    assert_eq!(second.seen(MOTION), 1);
}

#[tokio::test]
async fn an_error_of_one_copy_waits_for_the_other() {
    let (first, primary, second, standby, channel) = pair().await;
    first.mute(1);
    second.mute(1);
    primary.standing.send_replace(Standing::Hedged(standby.clone()));
    let out = tokio::spawn({
        let channel = channel.clone();
        async move { call(&channel, request(READ)).await }
    });
    first.arrival(READ, 1).await;
    second.arrival(READ, 1).await;
    // The standby dies: the primary's copy is still out, and the call goes on.
    second.cut();
    standby.link.closed().await;
    assert!(!out.is_finished());
    // The primary is given up as well; the next link answers.
    let third = Machine::start().await;
    let next = carrier(&third).await;
    channel.shared.primary.store(Some(next));
    primary.standing.send_replace(Standing::Lost);
    out.await.unwrap().unwrap();
    assert_eq!(third.seen(READ), 1);
}

/// A read is out on both links; returns its call once both machines have it.
async fn copied(first: &Machine, second: &Machine, channel: &MachineChannel) -> tokio::task::JoinHandle<usize> {
    let channel = channel.clone();
    let out = tokio::spawn(async move { call(&channel, request(READ)).await.unwrap() });
    first.arrival(READ, 1).await;
    second.arrival(READ, 1).await;
    out
}

#[tokio::test]
async fn s92_an_answer_without_its_trailers_does_not_win() {
    let (first, primary, second, standby, channel) = pair().await;
    first.mute(1);
    second.unfinished();
    primary.standing.send_replace(Standing::Hedged(standby));
    let out = copied(&first, &second, &channel).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!out.is_finished(), "the standby's answer is not complete");
    // The primary is given up, and with it the call's first copy: the other goes on, and ends with its link.
    primary.standing.send_replace(Standing::Lost);
    channel.shared.primary.store(Some(carrier(&Machine::start().await).await));
    second.cut();
    assert_eq!(out.await.unwrap(), 5);
}

#[tokio::test]
async fn what_a_proxy_says_is_no_answer_while_another_copy_is_out() {
    let (first, primary, second, standby, channel) = pair().await;
    first.mute(1);
    second.refuse(503);
    primary.standing.send_replace(Standing::Hedged(standby.clone()));
    let out = copied(&first, &second, &channel).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!out.is_finished(), "503 comes from no machine");
    primary.standing.send_replace(Standing::Lost);
    // Nothing better came: what was said stands, as it was said.
    assert_eq!(out.await.unwrap(), 5);
}

#[tokio::test]
async fn methods_with_large_replies_are_not_copied_again() {
    let (first, primary, second, standby, channel) = pair().await;
    first.reply_size(100_000);
    assert_eq!(call(&channel, request(READ)).await.unwrap(), 100_005);
    first.mute(1);
    primary.standing.send_replace(Standing::Hedged(standby));
    let mut short = request(READ);
    short.headers_mut().insert("grpc-timeout", "100m".parse().unwrap());
    call(&channel, short).await.unwrap_err();
    assert_eq!(second.seen(READ), 0);
}

#[tokio::test]
async fn a_call_on_a_link_that_is_given_up_ends_at_once() {
    let (first, primary, _second, _standby, channel) = pair().await;
    first.mute(1);
    let out = tokio::spawn({
        let channel = channel.clone();
        async move { call(&channel, request(OTHER)).await }
    });
    first.arrival(OTHER, 1).await;
    channel.shared.primary.store(None);
    primary.standing.send_replace(Standing::Lost);
    let status = out.await.unwrap().unwrap_err();
    assert!(status.message().contains("may have run"), "{status:?}");
}
