//! Dialling: from nothing to the first link, or to a verdict.

use std::time::Duration;

use super::super::*;
use super::rig::*;

#[test]
fn the_sources_are_asked_at_once() {
    let rig = Rig::new(Policy::default());
    assert!(rig.saw(|output| matches!(output, Output::Search { .. })));
}

#[test]
fn near_addresses_start_4_ms_apart_and_dns_addresses_50() {
    let mut rig = Rig::new(Policy::default());
    for (n, origin) in [(1, Origin::Remembered), (2, Origin::Given), (3, Origin::Mdns)] {
        rig.near(n, origin, LAN);
        assert!(rig.attempt(n).is_some(), "{origin:?}");
    }
    for n in 4..7 {
        rig.candidate(n, Origin::Dns, Tier::WanDirect);
    }
    assert!(rig.attempt(4).is_some());
    assert!(rig.attempt(5).is_none());
    rig.pass(MS * 50, &[]);
    assert!(rig.attempt(5).is_some());
    assert!(rig.attempt(6).is_none());
    rig.pass(MS * 50, &[]);
    assert!(rig.attempt(6).is_some());
}

#[test]
fn a_dns_address_that_fails_hands_its_turn_on() {
    let mut rig = Rig::new(Policy::default());
    for n in 4..7 {
        rig.candidate(n, Origin::Dns, Tier::WanDirect);
    }
    rig.pass(MS * 10, &[]);
    rig.fail(4, false);
    rig.pass(MS, &[]);
    assert!(rig.attempt(5).is_some());
    assert!(rig.attempt(6).is_none());
    rig.pass(MS * 50, &[]);
    assert!(rig.attempt(6).is_some());
}

#[test]
fn a_route_that_is_told_twice_is_tried_once() {
    let mut rig = Rig::new(Policy::default());
    rig.near(1, Origin::Remembered, LAN);
    rig.near(1, Origin::Mdns, LAN);
    assert!(rig.attempt(1).is_some());
    assert!(rig.attempt(1).is_none());
}

#[test]
fn the_first_link_is_used_at_once_and_losers_are_dropped() {
    let mut rig = Rig::new(Policy::default());
    for n in 1..4 {
        rig.near(n, Origin::Given, LAN);
    }
    let loser = rig.attempt(3).unwrap();
    let link = rig.connect(2, facts(LAN, 1));
    assert!(rig.used(link));
    assert!(rig.saw(|output| *output == Output::Cancel { attempt: loser }));
    // A loser that connects all the same is aborted, not used.
    rig.out.clear();
    rig.agent.handle_connected(loser, LinkId(99), facts(LAN, 1), rig.now);
    rig.collect();
    assert_eq!(rig.out, [Output::Abort { link: LinkId(99) }]);
    assert_eq!(rig.agent.primary(), Some(link));
}

#[test]
fn a_loser_of_the_first_dial_is_tried_again_when_a_standby_is_wanted() {
    let mut rig = Rig::new(Policy::default());
    for n in 1..4 {
        rig.near(n, Origin::Remembered, LAN);
    }
    rig.fail(3, false);
    let link = rig.connect(2, facts(LAN, 1));
    rig.out.clear();
    rig.hold(0, Peer::Ours { boot: 1 });
    assert!(rig.attempt(1).is_some(), "it lost the race, which is no failure");
    assert!(rig.attempt(3).is_some(), "it failed in the first dial's only round so far");
    assert_eq!(rig.agent.primary(), Some(link));
}

#[test]
fn a_better_tier_is_promoted_as_soon_as_it_connects() {
    let mut rig = Rig::new(Policy::default());
    rig.candidate(1, Origin::Dns, Tier::WanDirect);
    rig.near(2, Origin::Mdns, LAN);
    let wan = rig.connect(1, facts(Tier::WanDirect, 1));
    assert!(rig.used(wan));
    let lan = rig.connect(2, facts(LAN, 2));
    let used = rig.position(|output| *output == Output::Use { link: lan }).expect("promoted");
    let drained = rig.position(|output| matches!(output, Output::Drain { link, .. } if *link == wan)).expect("drained");
    assert!(used < drained);
    // What is still out on the old link ends after 10 s.
    rig.pass(MS * 10_000, &[lan]);
    assert!(rig.saw(|output| *output == Output::Abort { link: wan }));
}

#[test]
fn s57_three_initial_attempts_and_then_an_error() {
    let mut rig = Rig::new(Policy::default());
    rig.near(1, Origin::Given, LAN);
    rig.done(true);
    for round in 0..3 {
        assert_eq!(rig.verdict(), None, "round {round}");
        rig.fail(1, false);
        rig.pass(MS * 1000, &[]);
        if round < 2 {
            rig.done(true);
        }
    }
    assert_eq!(rig.verdict(), Some(Verdict::Unreachable { attempts: 3 }));
    assert_eq!(rig.agent.poll_timeout(), None);
    // Nothing more is tried.
    rig.out.clear();
    rig.near(2, Origin::Mdns, LAN);
    assert!(rig.out.is_empty());
}

#[test]
fn s57_zero_attempts_try_for_ever() {
    let mut rig = Rig::new(Policy { initial_attempts: 0, ..Policy::default() });
    rig.near(1, Origin::Given, LAN);
    for _ in 0..500 {
        rig.fail(1, false);
        rig.pass(MS * 1000, &[]);
        assert_eq!(rig.verdict(), None);
    }
}

#[test]
fn s58_a_dial_into_a_black_hole_ends_after_attempts_times_timeout() {
    let mut rig = Rig::new(Policy { dial_timeout: MS * 2000, ..Policy::default() });
    rig.near(1, Origin::Given, LAN);
    rig.done(true);
    let mut left = 0;
    while rig.verdict().is_none() {
        if rig.out.iter().filter(|output| matches!(output, Output::Search { .. })).count() > left {
            left += 1;
            rig.done(true);
        }
        rig.pass(MS * 10, &[]);
        assert!(rig.now - rig.began <= MS * 7000, "s58: attempts x T + 1 s");
    }
    assert!(rig.now - rig.began >= MS * 6000);
    assert_eq!(rig.verdict(), Some(Verdict::Unreachable { attempts: 3 }));
}

#[test]
fn s58_a_link_that_takes_3_s_connects() {
    let mut rig = Rig::new(Policy { initial_attempts: 0, ..Policy::default() });
    rig.near(1, Origin::Given, LAN);
    let first = rig.attempt(1).unwrap();
    rig.pass(MS * 3000, &[]);
    assert!(!rig.saw(|output| *output == Output::Cancel { attempt: first }), "the patient attempt stays");
    rig.agent.handle_connected(first, LinkId(1), facts(LAN, 1), rig.now);
    rig.collect();
    assert!(rig.used(LinkId(1)));
}

#[test]
fn an_unknown_machine_is_a_verdict_when_every_source_was_silent() {
    let mut rig = Rig::new(Policy::default());
    rig.pass(MS * 1100, &[]);
    rig.done(true);
    assert_eq!(rig.verdict(), Some(Verdict::Unknown));
}

/// A service's candidate, and its word that it knows no such machine.
fn unknown_to_the_cloud(rig: &mut Rig) -> Route {
    let route = Route::WebRtc(Signaler::Cloud { host: "cloud.example".into(), port: 443 });
    let candidate = Candidate { route: route.clone(), origin: Origin::Cloud, tier: Tier::WebRtcDirect };
    rig.agent.handle_candidate(candidate, rig.now);
    rig.collect();
    rig.pass(MS * 10, &[]);
    let why = Failure { stage: Stage::Signaling, verdict: true, message: "there is no such machine".into() };
    let attempt = asked(rig, &route).expect("asked");
    rig.agent.handle_failed(attempt, why, rig.now);
    rig.collect();
    route
}

/// The newest attempt over a route that came out, taken.
fn asked(rig: &mut Rig, of: &Route) -> Option<Attempt> {
    let at = rig.out.iter().rposition(|output| matches!(output, Output::Connect { route, .. } if route == of))?;
    match rig.out.remove(at) {
        Output::Connect { attempt, .. } => Some(attempt),
        _ => None,
    }
}

#[test]
fn a_machine_that_the_cloud_does_not_know_either_is_a_verdict() {
    let mut rig = Rig::new(Policy::default());
    unknown_to_the_cloud(&mut rig);
    rig.pass(MS * 1000, &[]);
    assert_eq!(rig.verdict(), None, "the local network may still answer");
    rig.done(true);
    assert_eq!(rig.verdict(), Some(Verdict::Unknown));
    assert_eq!(rig.agent.poll_timeout(), None);
}

#[test]
fn what_the_cloud_does_not_know_may_be_near_all_the_same() {
    let mut rig = Rig::new(Policy::default());
    let route = unknown_to_the_cloud(&mut rig);
    rig.near(1, Origin::Given, LAN);
    rig.done(true);
    for round in 0..3 {
        assert_eq!(rig.verdict(), None, "round {round}");
        rig.fail(1, false);
        rig.pass(MS * 1000, &[]);
        assert_eq!(asked(&mut rig, &route), None, "the cloud was asked once");
        if round < 2 {
            rig.done(true);
        }
    }
    assert_eq!(rig.verdict(), Some(Verdict::Unreachable { attempts: 3 }));
}

#[test]
fn whoever_has_lost_its_machine_asks_the_cloud_again() {
    let (mut rig, link) = Rig::connected(Policy::default());
    rig.close(link);
    let route = unknown_to_the_cloud(&mut rig);
    rig.pass(MS * 6000, &[]);
    assert!(asked(&mut rig, &route).is_some());
}

#[test]
fn sources_that_could_not_be_asked_are_asked_again() {
    let mut rig = Rig::new(Policy::default());
    rig.done(false);
    assert_eq!(rig.verdict(), None);
    rig.out.clear();
    rig.pass(MS * 200, &[]);
    assert!(rig.saw(|output| matches!(output, Output::Search { .. })));
}

#[test]
fn refused_credentials_end_the_first_dial_at_once() {
    let mut rig = Rig::new(Policy::default());
    rig.near(1, Origin::Given, LAN);
    rig.near(2, Origin::Mdns, LAN);
    let other = rig.attempt(2).unwrap();
    rig.fail(1, true);
    assert_eq!(rig.verdict(), Some(Verdict::Refused { route: direct(1), message: "refused".into() }));
    assert!(rig.saw(|output| *output == Output::Cancel { attempt: other }));
    assert_eq!(rig.agent.poll_timeout(), None);
}

#[test]
fn s52_a_lost_machine_is_tried_for_ever_within_a_second() {
    let (mut rig, link) = Rig::connected(Policy::default());
    rig.close(link);
    assert!(rig.saw(|output| matches!(output, Output::NoRoute { .. })));
    let mut last = rig.now;
    for _ in 0..3600 {
        // Every attempt fails at once.
        while rig.attempt(1).is_none() {
            rig.pass(MS * 5, &[]);
            assert!(rig.now - last <= MS * 1010, "{:?} without an attempt", rig.now - last);
        }
        // The attempt was taken by `attempt`; a black hole answers nothing.
        last = rig.now;
        rig.out.clear();
    }
    assert!(rig.now - rig.began > Duration::from_secs(1800));
    rig.pass(MS * 1000, &[]);
    let again = rig.connect(1, facts(LAN, 1));
    assert!(rig.used(again));
}

#[test]
fn s52_attempts_that_are_refused_pause_at_most_a_second() {
    let (mut rig, link) = Rig::connected(Policy::default());
    rig.close(link);
    for _ in 0..200 {
        let began = rig.now;
        let attempt = loop {
            if let Some(attempt) = rig.attempt(1) {
                break attempt;
            }
            rig.pass(MS * 5, &[]);
        };
        assert!(rig.now - began <= MS * 1010);
        rig.agent.handle_failed(attempt, failure(false), rig.now);
        rig.collect();
    }
}

#[test]
fn a_link_event_ends_every_pause() {
    let (mut rig, link) = Rig::connected(Policy::default());
    rig.close(link);
    for _ in 0..8 {
        while rig.attempt(1).is_none() {
            rig.pass(MS * 5, &[]);
        }
        rig.out.clear();
    }
    rig.agent.handle_network_changed(NetChange::Changed, rig.now);
    rig.collect();
    assert!(rig.attempt(1).is_some());
}

#[test]
fn s56_without_reconnecting_a_lost_link_stays_lost() {
    let (mut rig, link) = Rig::connected(Policy { reconnect: false, ..Policy::default() });
    rig.close(link);
    rig.pass(Duration::from_secs(600), &[]);
    assert!(rig.attempt(1).is_none());
    assert!(rig.saw(|output| *output == Output::NoRoute { swapping: false }));
}

#[test]
fn s56_the_pause_between_attempts_is_what_the_user_says() {
    let (mut rig, link) = Rig::connected(Policy { reconnect_pause: Some(MS * 10_000), ..Policy::default() });
    rig.close(link);
    let mut pauses = vec![];
    for _ in 0..12 {
        let began = rig.now;
        while rig.attempt(1).is_none_or(|attempt| {
            rig.agent.handle_failed(attempt, failure(false), rig.now);
            rig.collect();
            false
        }) {
            rig.pass(MS * 5, &[]);
        }
        pauses.push(rig.now - began);
    }
    let longest = pauses.iter().max().unwrap();
    assert!((MS * 7000..=MS * 10_010).contains(longest), "{pauses:?}");
}

#[test]
fn s56_without_checking_nothing_is_probed() {
    let (mut rig, link) = Rig::connected(Policy { probe: false, ..Policy::default() });
    rig.agent.handle_sent(link, rig.now);
    rig.pass(Duration::from_secs(600), &[]);
    assert!(!rig.saw(|output| matches!(output, Output::Probe { .. })));
    assert_eq!(rig.agent.primary(), Some(link));
}

#[test]
fn candidates_are_bounded() {
    let mut rig = Rig::new(Policy::default());
    for n in 0..=255 {
        rig.near(n, Origin::Mdns, LAN);
    }
    assert_eq!(rig.agent.prospects.len(), MAX_CANDIDATES);
}
