//! Standby, validation, promotion, redemption.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::super::*;
use super::rig::*;

#[test]
fn a_standby_is_looked_for_once_something_is_held() {
    let (mut rig, primary) = Rig::connected(Policy::default());
    rig.near(2, Origin::Mdns, LAN);
    assert!(rig.attempt(2).is_none(), "no better, no standby wanted");
    rig.hold(0, Peer::Ours { boot: 1 });
    let standby = rig.connect(2, facts(LAN, 2));
    assert!(rig.saw(|output| *output == Output::Validate { link: standby }));
    assert_eq!(rig.agent.standby(), None, "not before the session's beat");
    rig.agent.handle_validated(standby, Validated::SameSession, rig.now);
    rig.collect();
    assert!(rig.saw(|output| *output == Output::Event(Event::Standby { link: Some(standby) })));
    assert_eq!(rig.agent.primary(), Some(primary));
    // The lapse ends the want, and the standby is let go.
    rig.agent.handle_held(Held::Nothing, Peer::Stock, rig.now);
    rig.collect();
    assert!(rig.saw(|output| matches!(output, Output::Drain { link, .. } if *link == standby)));
}

#[test]
fn an_unanswered_validation_is_asked_again() {
    let (mut rig, _) = Rig::connected(Policy::default());
    rig.hold(0, Peer::Ours { boot: 1 });
    rig.near(2, Origin::Mdns, LAN);
    let standby = rig.connect(2, facts(LAN, 2));
    rig.out.clear();
    rig.pass(MS * 1000, &[LinkId(1), standby]);
    assert!(rig.saw(|output| *output == Output::Validate { link: standby }));
}

#[test]
fn a_foreign_link_is_not_used_and_not_retried_for_a_minute() {
    let (mut rig, primary) = Rig::connected(Policy::default());
    rig.hold(0, Peer::Ours { boot: 1 });
    rig.near(2, Origin::Given, LAN);
    let foreign = rig.connect(2, facts(LAN, 2));
    rig.agent.handle_validated(foreign, Validated::ForeignOrUnknown, rig.now);
    rig.collect();
    assert!(rig.saw(|output| *output == Output::Abort { link: foreign }));
    rig.pass(MS * 59_900, &[primary]);
    assert!(rig.attempt(2).is_none());
    rig.pass(MS * 200, &[primary]);
    assert!(rig.attempt(2).is_some());
}

#[test]
fn with_no_other_link_a_foreign_one_waits_for_the_lapse() {
    let (mut rig, primary) = Rig::connected(Policy::default());
    rig.hold(0, Peer::Ours { boot: 1 });
    rig.close(primary);
    rig.pass(MS * 200, &[]);
    let restarted = rig.connect(1, facts(LAN, 1));
    assert!(rig.saw(|output| *output == Output::Validate { link: restarted }));
    rig.agent.handle_validated(restarted, Validated::ForeignOrUnknown, rig.now);
    rig.collect();
    assert!(!rig.used(restarted));
    assert!(!rig.saw(|output| *output == Output::Abort { link: restarted }));
    rig.agent.handle_held(Held::Nothing, Peer::Ours { boot: 2 }, rig.now);
    rig.collect();
    assert!(rig.used(restarted));
}

#[test]
fn s38_a_reconnect_validates_before_any_call() {
    let (mut rig, primary) = Rig::connected(Policy::default());
    rig.hold(0, Peer::Ours { boot: 1 });
    rig.close(primary);
    assert!(rig.saw(|output| *output == Output::NoRoute { swapping: false }));
    rig.pass(MS * 200, &[]);
    let again = rig.connect(1, facts(LAN, 1));
    assert!(rig.saw(|output| *output == Output::NoRoute { swapping: true }));
    assert!(!rig.used(again));
    rig.agent.handle_validated(again, Validated::SameSession, rig.now);
    rig.collect();
    assert!(rig.used(again));
}

#[test]
fn a_closed_primary_is_replaced_by_the_standby_in_the_same_step() {
    let (mut rig, primary, standby) = Rig::controlling();
    rig.close(primary);
    assert!(rig.used(standby));
    assert!(!rig.saw(|output| matches!(output, Output::NoRoute { .. })));
}

#[test]
fn another_path_makes_the_better_standby() {
    let (mut rig, primary) = Rig::connected(Policy { standby: StandbyPolicy::Always, ..Policy::default() });
    rig.near(2, Origin::Given, LAN);
    rig.candidate(3, Origin::Given, Tier::WanDirect);
    let same_path = rig.connect(2, facts(LAN, 1));
    assert_eq!(rig.agent.standby(), Some(same_path));
    let _ = primary;
    rig.out.clear();
    // Only one standby is kept; the attempt that was under way was dropped.
    assert!(rig.attempt(3).is_none());
}

/// s67: out of the house's reach, with nothing but the cloud's relay left.
#[test]
fn s67_a_relayed_link_takes_over_where_all_others_are_silent() {
    let (mut rig, ..) = Rig::controlling();
    // Both paths end in the same hole; the hunt finds what is left.
    rig.candidate(3, Origin::Cloud, Tier::WebRtcRelayed);
    rig.pass(MS * 600, &[]);
    let relayed = rig.connect(3, facts(Tier::WebRtcRelayed, 3));
    rig.agent.handle_validated(relayed, Validated::SameSession, rig.now);
    rig.collect();
    assert_eq!(rig.agent.standby(), Some(relayed));
    assert!(!rig.saw(|output| matches!(output, Output::Drain { link, .. } if *link == relayed)));
    rig.pass(MS * 600, &[relayed]);
    assert!(rig.used(relayed), "{:?}", rig.out);
}

#[test]
fn a_relayed_link_does_not_stand_by_beside_one_that_answers() {
    let (mut rig, primary, standby) = Rig::controlling();
    rig.candidate(3, Origin::Cloud, Tier::WebRtcRelayed);
    rig.pass(MS * 600, &[]);
    let relayed = rig.connect(3, facts(Tier::WebRtcRelayed, 3));
    rig.agent.handle_validated(relayed, Validated::SameSession, rig.now);
    rig.pass(MS * 50, &[primary, standby]);
    assert_eq!((rig.agent.primary(), rig.agent.standby()), (Some(primary), Some(standby)));
    assert!(rig.saw(|output| matches!(output, Output::Drain { link, .. } if *link == relayed)));
}

#[test]
fn while_nothing_is_held_another_process_does_not_stand_by() {
    let (mut rig, primary) = Rig::connected(Policy { standby: StandbyPolicy::Always, ..Policy::default() });
    rig.near(2, Origin::Given, LAN);
    let second = rig.connect(2, facts(LAN, 2));
    assert!(rig.saw(|output| matches!(output, Output::Probe { link, .. } if *link == second)), "asked which one it is");
    assert_eq!(rig.agent.standby(), Some(second), "a stock machine does not say");
    rig.agent.handle_process(primary, 1, rig.now);
    rig.agent.handle_process(second, 2, rig.now);
    rig.collect();
    assert_eq!(rig.agent.standby(), None);
}

#[test]
fn the_local_network_is_listened_to_while_the_route_is_worse() {
    let mut rig = Rig::new(Policy::default());
    let listens = |rig: &Rig, on| rig.saw(|output| *output == Output::Listen { on });
    rig.candidate(1, Origin::Dns, Tier::WanDirect);
    let wan = rig.connect(1, facts(Tier::WanDirect, 1));
    assert!(!listens(&rig, true), "the sources have not even answered");
    rig.done(true);
    assert!(listens(&rig, true));
    rig.pass(Duration::from_secs(60), &[wan]);
    // The machine announces itself: the link is there at once, and the better route is used.
    rig.near(2, Origin::Mdns, LAN);
    let lan = rig.connect(2, facts(LAN, 2));
    assert!(rig.used(lan));
    assert!(listens(&rig, false));
}

#[test]
fn a_better_route_that_does_not_answer_is_tried_every_second_and_at_once_when_it_is_announced() {
    let mut rig = Rig::new(Policy::default());
    rig.near(2, Origin::Mdns, LAN);
    rig.candidate(1, Origin::Dns, Tier::WanDirect);
    let wan = rig.connect(1, facts(Tier::WanDirect, 1));
    rig.done(true);
    for _ in 0..20 {
        rig.out.clear();
        rig.pass(MS * 1010, &[wan]);
        assert!(rig.attempt(2).is_some(), "a black hole is asked again within a second");
    }
    rig.out.clear();
    rig.candidate(2, Origin::Mdns, LAN);
    rig.pass(MS * 105, &[wan]);
    assert!(rig.attempt(2).is_some());
}

#[test]
fn a_dead_link_is_promoted_again_only_after_three_seconds_and_then_six() {
    let (mut rig, lan, wan) = {
        let (mut rig, lan) = Rig::connected(Policy { standby: StandbyPolicy::Always, ..Policy::default() });
        rig.candidate(2, Origin::Given, Tier::WanDirect);
        let wan = rig.connect(2, facts(Tier::WanDirect, 2));
        (rig, lan, wan)
    };
    for penance in [3000, 6000] {
        rig.agent.handle_sent(lan, rig.now);
        rig.pass(MS * 600, &[wan]);
        assert_eq!(rig.agent.primary(), Some(wan));
        let began = rig.now;
        while rig.agent.primary() == Some(wan) {
            rig.pass(MS * 10, &[lan, wan]);
            assert!(rig.now - began < MS * (penance + 1200), "never redeemed");
        }
        assert!(rig.now - began >= MS * penance, "{:?}", rig.now - began);
    }
}

#[test]
fn with_a_stock_machine_promotion_waits_for_monitored_calls() {
    let mut rig = Rig::new(Policy::default());
    rig.candidate(1, Origin::Given, Tier::WanDirect);
    let wan = rig.connect(1, facts(Tier::WanDirect, 1));
    rig.hold(1, Peer::Stock);
    rig.near(2, Origin::Mdns, LAN);
    let lan = rig.connect(2, facts(LAN, 2));
    rig.agent.handle_validated(lan, Validated::SameSession, rig.now);
    rig.collect();
    assert_eq!(rig.agent.primary(), Some(wan));
    rig.hold(0, Peer::Stock);
    assert_eq!(rig.agent.primary(), Some(lan));
}

#[test]
fn a_link_that_carried_motion_without_a_session_is_only_replaced_when_it_dies() {
    let mut rig = Rig::new(Policy::default());
    rig.candidate(1, Origin::Given, Tier::WanDirect);
    let wan = rig.connect(1, facts(Tier::WanDirect, 1));
    rig.agent.handle_unheld_motion(wan, rig.now);
    rig.near(2, Origin::Mdns, LAN);
    let lan = rig.connect(2, facts(LAN, 2));
    rig.pass(Duration::from_secs(20), &[wan, lan]);
    assert_eq!(rig.agent.primary(), Some(wan));
    rig.close(wan);
    assert_eq!(rig.agent.primary(), Some(lan));
}

#[test]
fn with_a_stock_machine_an_unanswered_call_is_aborted_before_the_swap() {
    let (mut rig, primary, standby) = Rig::controlling();
    rig.hold(1, Peer::Stock);
    rig.agent.handle_sent(primary, rig.now);
    rig.pass(MS * 600, &[standby]);
    let aborted = rig.position(|output| *output == Output::Abort { link: primary }).expect("aborted");
    let used = rig.position(|output| *output == Output::Use { link: standby }).expect("used");
    assert!(aborted < used);
}

#[test]
fn within_a_tier_only_a_link_that_is_much_better_for_three_seconds_takes_over() {
    let slow = LinkFacts { rtt: MS * 40, ..facts(LAN, 1) };
    let mut rig = Rig::new(Policy { standby: StandbyPolicy::Always, probe: false, ..Policy::default() });
    rig.near(1, Origin::Given, LAN);
    let first = rig.connect(1, slow);
    rig.near(2, Origin::Given, LAN);
    let second = rig.connect(2, facts(LAN, 2));
    rig.pass(MS * 2990, &[]);
    assert_eq!(rig.agent.primary(), Some(first));
    rig.pass(MS * 20, &[]);
    assert_eq!(rig.agent.primary(), Some(second));
    assert_eq!(rig.agent.standby(), Some(first), "the old primary stays warm");
}

#[test]
fn a_lost_local_address_swaps_at_once() {
    let (mut rig, primary, standby) = Rig::controlling();
    let gone = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 1));
    assert_eq!(facts(LAN, 1).path, Some(gone));
    rig.agent.handle_network_changed(NetChange::Lost(gone), rig.now);
    rig.collect();
    assert_eq!(rig.agent.primary(), Some(standby));
    assert!(rig.saw(|output| matches!(output, Output::Drain { link, .. } if *link == primary)));
}

/// A peer connection that left the LAN for the internet is no LAN link any more.
#[test]
fn a_link_that_moved_to_a_worse_path_gives_way_to_a_better_one() {
    let mut rig = Rig::new(Policy { standby: StandbyPolicy::Always, probe: false, ..Policy::default() });
    rig.near(1, Origin::Given, Tier::LanWebRtc);
    let moved = rig.connect(1, facts(Tier::LanWebRtc, 1));
    rig.near(2, Origin::Given, Tier::WanDirect);
    let other = rig.connect(2, facts(Tier::WanDirect, 2));
    rig.pass(MS * 2_000, &[]);
    assert_eq!(rig.agent.primary(), Some(moved));
    rig.agent.handle_moved(moved, Tier::WebRtcRelayed, facts(LAN, 3).path, rig.now);
    rig.collect();
    rig.pass(MS * 1_000, &[]);
    assert_eq!(rig.agent.primary(), Some(other));
}

#[test]
fn the_address_that_a_link_left_is_no_loss_to_it() {
    for moves in [false, true] {
        let (mut rig, primary, standby) = Rig::controlling_over(Tier::LanWebRtc);
        let gone = facts(LAN, 1).path.expect("an address");
        if moves {
            rig.agent.handle_moved(primary, Tier::LanWebRtc, facts(LAN, 3).path, rig.now);
        }
        rig.agent.handle_network_changed(NetChange::Lost(gone), rig.now);
        rig.collect();
        assert_eq!(rig.agent.primary(), Some(if moves { primary } else { standby }));
    }
}
