//! From silence to swap over two real links to one machine: the agent, its task, the channel, TLS, HTTP/2.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::HeaderValue;
use http_body_util::BodyExt;
use tonic::Code;
use tower::ServiceExt;

use super::dial::certificate;
use super::machine::*;
use super::proxy::Proxy;
use crate::agent::{Held, Peer, Validated};
use crate::channel::MOST_HEDGES;
use crate::*;

const NAME: &str = "m-main.loc1.viam.cloud";
const HEAVY: &str = "/viam.component.camera.v1.CameraService/GetImages";

/// A machine behind two paths, and a client that holds a session on one of them and has the other ready.
struct Lab {
    machine: Machine,
    primary: Proxy,
    standby: Proxy,
    first: LinkView,
    channel: MachineChannel,
    switch: LinkSwitch,
    events: Arc<Mutex<Vec<RouteEvent>>>,
    _memory: tempfile::TempDir,
}

impl Lab {
    async fn start() -> Self {
        Self::with(2).await
    }

    async fn with(paths: usize) -> Self {
        let (chain, private) = certificate(NAME);
        let tls = transport::tls::server_config(chain.as_bytes(), private.as_bytes()).unwrap();
        let machine = Machine::on("127.0.0.1:0".parse().unwrap(), Some(tls)).await;
        let proxies = [Proxy::to(machine.address, "127.0.0.1").await, Proxy::to(machine.address, "127.0.0.2").await];
        let folder = tempfile::tempdir().unwrap();
        let memory = discovery::Memory::at(folder.path());
        for proxy in &proxies[..paths] {
            memory.learned(&NAME.parse().unwrap(), proxy.address, &discovery::Surroundings::look());
        }
        let finder = discovery::FinderOptions { mdns: false, dns: false, memory: Some(memory), ..Default::default() };
        let trust = transport::tls::Trust::system().trust_pem(chain.as_bytes()).unwrap();
        let options = DialOptions { trust, finder, ..DialOptions::new(NAME.parse().unwrap()) };
        let (channel, switch) = Dialer::start(options, Arc::new(Anonymous));
        let events = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(keep_session(switch.clone(), switch.events(), events.clone()));
        let first = switch.first_link().await.unwrap();
        let [a, b] = proxies;
        let (primary, standby) = if first.remote == Some(a.address) { (a, b) } else { (b, a) };
        switch.handle_held(Held::Session { window: Duration::from_secs(2), monitored_out: 0 }, Peer::Ours { boot: 1 });
        let lab = Self { machine, primary, standby, first, channel, switch, events, _memory: folder };
        if paths > 1 {
            lab.saw(|event| matches!(event, RouteEvent::Standby { link: Some(_) })).await;
            assert_eq!(lab.switch.standby().unwrap().remote, Some(lab.standby.address));
        }
        lab
    }

    async fn saw(&self, wanted: impl Fn(&RouteEvent) -> bool) {
        let seen = async {
            while !self.events.lock().unwrap().iter().any(&wanted) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(tokio::time::timeout(LIMIT, seen).await.is_ok(), "it does not come: {:?}", self.events.lock().unwrap());
    }

    /// The events so far, by their names.
    fn story(&self) -> Vec<String> {
        let name = |event: &RouteEvent| {
            format!("{event:?}").split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
        };
        self.events.lock().unwrap().iter().map(name).collect()
    }

    fn swapped(&self) -> bool {
        self.switch.current().is_none_or(|link| link.id != self.first.id)
    }
}

/// What a session layer does about routes: proves every link that it is asked to prove.
async fn keep_session(
    switch: LinkSwitch,
    mut events: tokio::sync::broadcast::Receiver<RouteEvent>,
    story: Arc<Mutex<Vec<RouteEvent>>>,
) {
    while let Ok(event) = events.recv().await {
        if let RouteEvent::Validate { link } = event {
            switch.handle_validated(link, Validated::SameSession);
        }
        story.lock().unwrap().push(event);
    }
}

/// Each word of the story comes, and in this order.
fn in_order(story: &[String], words: &[&str]) {
    let mut rest = story.iter();
    for word in words {
        assert!(rest.any(|told| told == word), "{word} in {story:?}");
    }
}

fn with_deadline(path: &str, ms: u32) -> http::Request<tonic::body::Body> {
    let mut request = request(path);
    request.headers_mut().insert("grpc-timeout", format!("{ms}m").parse().unwrap());
    request
}

fn numbered(order: &'static str) -> http::Request<tonic::body::Body> {
    let mut request = request(MOTION);
    request.headers_mut().insert(machine_api::ORDER_HEADER, HeaderValue::from_static(order));
    let plan = CallPlan { copyable: true, numbered: true, held: true, ..CallPlan::of_path(MOTION) };
    request.extensions_mut().insert(plan);
    request
}

#[tokio::test]
async fn s92_a_read_is_answered_before_the_silent_primary_is_given_up() {
    let lab = Lab::start().await;
    lab.primary.stall_up();
    let began = Instant::now();
    call(&lab.channel, request(READ)).await.unwrap();
    assert!(!lab.swapped(), "answered after {:?}, by a copy", began.elapsed());
    in_order(&lab.story(), &["Silent", "Hedge"]);
    lab.saw(|event| matches!(event, RouteEvent::Drain { why: agent::Demotion::Dead, .. })).await;
    in_order(&lab.story(), &["Silent", "Hedge", "HedgeOff", "Use", "Drain"]);
    let status = lab.switch.watch_route().borrow().clone();
    let swap = status.last_swap.unwrap();
    assert_eq!((status.swaps, swap.why, swap.gap_ms), (2, SwapReason::Dead, 0.0));
    assert_eq!(swap.from.as_ref(), Some(&lab.first.route));
    assert_eq!((status.state, status.link.unwrap().route), (RouteState::Good, swap.to));
    assert!(lab.swapped());
    assert_eq!(lab.machine.seen(READ), 1, "the first copy never arrived");
}

#[tokio::test]
async fn s92_numbered_motion_is_copied_byte_for_byte() {
    let lab = Lab::start().await;
    // The machine gets the first copy; its answer is lost.
    lab.primary.stall_down();
    call(&lab.channel, numbered("00000000000000aa-7; open=5,6")).await.unwrap();
    assert!(!lab.swapped());
    let copies = lab.machine.calls(MOTION);
    assert_eq!(copies.len(), 2);
    assert_eq!(copies[0], copies[1]);
    assert_eq!(copies[0].order.as_ref().unwrap(), "00000000000000aa-7; open=5,6");
}

#[tokio::test]
async fn s92_a_video_coming_down_hides_no_silence_and_ends_with_its_route() {
    let lab = Lab::start().await;
    let mut video = lab.channel.clone().oneshot(request(VIDEO)).await.unwrap().into_body();
    video.frame().await.unwrap().unwrap();
    lab.primary.stall_up();
    let watching = tokio::spawn(async move {
        loop {
            match video.frame().await {
                Some(Ok(_)) => {}
                Some(Err(status)) => return status,
                None => panic!("the stream ends with an error"),
            }
        }
    });
    call(&lab.channel, request(READ)).await.unwrap();
    assert!(!lab.swapped());
    let status = tokio::time::timeout(LIMIT, watching).await.expect("never a hang").unwrap();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(lab.swapped());
}

#[tokio::test]
async fn no_more_than_sixteen_calls_are_copied_and_none_that_is_heavy_or_unnumbered() {
    for _ in 0..10 {
        let lab = Lab::start().await;
        let _out = mute_calls(&lab, std::iter::repeat_n(READ, 40).chain([HEAVY, MOTION, OTHER]));
        while !lab.swapped() && lab.machine.seen(READ) < MOST_HEDGES as u64 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // A seventeenth would come with the sixteenth.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let seen = [READ, HEAVY, MOTION, OTHER].map(|path| lab.machine.seen(path));
        // After the swap every call is sent again. On a busy computer that may come before we look.
        if !lab.swapped() {
            return assert_eq!(seen, [MOST_HEDGES as u64, 0, 0, 0]);
        }
    }
    panic!("ten times, no copies were seen before the swap");
}

/// Calls that go out while the primary is silent, to a machine that answers none of them.
fn mute_calls(lab: &Lab, paths: impl Iterator<Item = &'static str>) -> tokio::task::JoinSet<()> {
    lab.primary.stall_up();
    lab.machine.mute(u64::MAX);
    let mut out = tokio::task::JoinSet::new();
    for path in paths {
        let channel = lab.channel.clone();
        out.spawn(async move { drop(call(&channel, with_deadline(path, 60_000)).await) });
    }
    out
}

#[tokio::test]
async fn one_sign_of_life_ends_suspicion_without_a_swap() {
    let lab = Lab::start().await;
    lab.primary.stall_up();
    let mut watched = lab.switch.watch_route();
    let suspected = watched.wait_for(|status| status.state == RouteState::Suspect);
    let (reply, _) = tokio::join!(call(&lab.channel, request(READ)), suspected);
    reply.unwrap();
    assert!(watched.borrow().standby.is_some());
    lab.primary.release();
    lab.saw(|event| matches!(event, RouteEvent::HedgeOff)).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!lab.swapped());
    assert!(!lab.story().contains(&"Drain".to_owned()), "{:?}", lab.story());
}

#[tokio::test]
async fn s93_a_slow_machine_gets_no_copies() {
    let lab = Lab::start().await;
    lab.machine.mute(1);
    let status = call(&lab.channel, with_deadline(READ, 1000)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(lab.machine.seen(READ), 1);
    assert!(!lab.swapped());
    assert!(!lab.story().contains(&"Hedge".to_owned()), "{:?}", lab.story());
}

#[tokio::test]
async fn s50_a_call_in_flight_fails_in_bounded_time_and_names_the_machine() {
    let lab = Lab::with(1).await;
    lab.primary.stall_up();
    lab.primary.stall_down();
    let began = Instant::now();
    let status = call(&lab.channel, request(OTHER)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains(NAME), "{status:?}");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    // When the path is back, calls pass again: over the link that was kept, or over a new one if that is first.
    lab.primary.release();
    call(&lab.channel, request(READ)).await.unwrap();
}
