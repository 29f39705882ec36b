//! Silent, suspect, dead, and back.

use std::time::Duration;

use super::super::*;
use super::rig::*;

fn hedged(rig: &Rig) -> bool {
    rig.saw(|output| matches!(output, Output::Hedge { .. }))
}

#[test]
fn silence_probes_both_and_the_standbys_answer_makes_suspect() {
    let (mut rig, primary, standby) = Rig::controlling();
    let began = rig.now;
    rig.agent.handle_sent(primary, rig.now);
    rig.collect();
    rig.pass(MS * 19, &[standby]);
    assert!(!rig.saw(|output| matches!(output, Output::Event(Event::Silent { .. }))));
    rig.pass(MS, &[standby]);
    assert!(rig.saw(|output| *output == Output::Event(Event::Silent { link: primary })));
    assert!(rig.saw(|output| matches!(output, Output::Probe { link, .. } if *link == primary)));
    assert!(!hedged(&rig));
    rig.pass(MS * 20, &[standby]);
    assert!(rig.saw(|output| *output == Output::Hedge { from: primary, on: standby }));
    assert_eq!(rig.now - began, MS * 40);
    // One sign of life leads back.
    rig.agent.handle_life(primary, Sign::Reply, rig.now);
    rig.collect();
    assert!(rig.saw(|output| *output == Output::HedgeOff));
    assert!(rig.saw(|output| *output == Output::Event(Event::Alive { link: primary })));
    rig.pass(Duration::from_secs(5), &[primary, standby]);
    assert_eq!(rig.agent.primary(), Some(primary));
}

#[test]
fn s67_death_swaps_to_the_standby_within_half_a_second() {
    let (mut rig, primary, standby) = Rig::controlling();
    let began = rig.now;
    rig.agent.handle_sent(primary, rig.now);
    rig.collect();
    while !rig.used(standby) {
        rig.pass(MS, &[standby]);
        assert!(rig.now - began <= MS * 450, "no swap");
    }
    assert!(rig.now - began >= MS * 400, "too soon");
    let at = |wanted: Output| rig.position(|output| *output == wanted);
    let used = at(Output::Use { link: standby });
    let drained =
        rig.position(|output| matches!(output, Output::Drain { link, why: Demotion::Dead, .. } if *link == primary));
    assert!(at(Output::HedgeOff) < used && used < drained, "{:?}", rig.out);
}

#[test]
fn s93_a_slow_handler_on_a_living_link_is_never_hedged_or_swapped() {
    let (mut rig, primary, standby) = Rig::controlling();
    for _ in 0..100 {
        // A call that takes its time leaves again and again; probes are answered.
        rig.agent.handle_sent(primary, rig.now);
        rig.collect();
        rig.pass(MS * 60, &[primary, standby]);
    }
    assert!(!hedged(&rig));
    assert_eq!(rig.agent.primary(), Some(primary));
}

#[test]
fn s93_a_machine_that_answers_on_neither_link_is_not_swapped() {
    let (mut rig, primary, standby) = Rig::controlling();
    rig.agent.handle_sent(primary, rig.now);
    rig.collect();
    rig.pass(Duration::from_secs(10), &[]);
    assert!(!hedged(&rig));
    assert_eq!(rig.agent.primary(), Some(primary));
    rig.pass(Duration::from_secs(1), &[primary, standby]);
    assert_eq!(rig.agent.primary(), Some(primary));
}

#[test]
fn s55_resource_exhausted_is_a_sign_of_life() {
    let (mut rig, primary, standby) = Rig::controlling();
    for _ in 0..100 {
        rig.agent.handle_sent(primary, rig.now);
        // A probe that is refused was answered.
        rig.pass(MS * 15, &[primary, standby]);
        rig.agent.handle_life(primary, Sign::Refused, rig.now);
        rig.collect();
    }
    assert_eq!(rig.agent.primary(), Some(primary));
    assert!(!rig.saw(|output| matches!(output, Output::Event(Event::Dead { .. }))));
}

#[test]
fn without_a_standby_silence_hunts_and_keeps_the_link() {
    let (mut rig, link) = Rig::connected(Policy::default());
    rig.near(2, Origin::Given, LAN);
    rig.out.clear();
    rig.agent.handle_sent(link, rig.now);
    rig.collect();
    rig.pass(MS * 500, &[]);
    assert!(rig.saw(|output| *output == Output::NoRoute { swapping: false }));
    assert!(!rig.saw(|output| matches!(output, Output::Abort { .. } | Output::Drain { .. })));
    assert!(rig.out.iter().any(|output| matches!(output, Output::Connect { route, .. } if *route == direct(2))));
    // One answer makes it primary again.
    rig.agent.handle_life(link, Sign::Reply, rig.now);
    rig.collect();
    assert!(rig.used(link));
    assert_eq!(rig.agent.primary(), Some(link));
}

#[test]
fn a_new_link_replaces_the_silent_one() {
    let (mut rig, old) = Rig::connected(Policy::default());
    rig.near(2, Origin::Given, LAN);
    rig.agent.handle_sent(old, rig.now);
    rig.collect();
    rig.pass(MS * 500, &[]);
    let new = rig.connect(2, facts(LAN, 2));
    let used = rig.position(|output| *output == Output::Use { link: new }).unwrap();
    let aborted = rig.position(|output| *output == Output::Abort { link: old }).unwrap();
    assert!(aborted < used, "what is queued on the old link never acts after a call on the new one");
}

#[test]
fn s68_a_flap_of_one_second_without_a_standby_reconnects_nothing() {
    let (mut rig, link) = Rig::connected(Policy::default());
    rig.agent.handle_sent(link, rig.now);
    rig.collect();
    rig.pass(MS * 1000, &[]);
    rig.pass(MS * 200, &[link]);
    assert_eq!(rig.agent.primary(), Some(link));
    assert!(!rig.saw(|output| matches!(output, Output::Abort { .. })));
}

#[test]
fn s50_what_is_out_on_a_silent_link_is_decided_after_two_seconds() {
    let (mut rig, link) = Rig::connected(Policy::default());
    rig.agent.handle_sent(link, rig.now);
    rig.collect();
    rig.pass(MS * 2300, &[]);
    assert!(!rig.saw(|output| *output == Output::Decide { link }));
    rig.pass(MS * 200, &[]);
    assert!(rig.saw(|output| *output == Output::Decide { link }));
    assert!(!rig.saw(|output| matches!(output, Output::Abort { .. } | Output::Drain { .. })), "the link is kept");
    rig.agent.handle_life(link, Sign::Reply, rig.now);
    rig.collect();
    assert!(rig.used(link));
}

#[test]
fn an_own_stall_judges_nobody() {
    let (mut rig, primary, standby) = Rig::controlling();
    rig.agent.handle_sent(primary, rig.now);
    rig.collect();
    // SIGSTOP for 5 s: the timer is late by far more than 100 ms.
    rig.now += Duration::from_secs(5);
    rig.out.clear();
    rig.agent.handle_timeout(rig.now);
    rig.collect();
    assert!(!rig.saw(|output| matches!(output, Output::Event(Event::Silent { .. } | Event::Dead { .. }))));
    assert!(rig.saw(|output| matches!(output, Output::Probe { link, .. } if *link == primary)), "asked again at once");
    rig.pass(Duration::from_secs(1), &[primary, standby]);
    assert_eq!(rig.agent.primary(), Some(primary));
}

#[test]
fn three_beats_unanswered_on_the_primary_and_answered_on_the_standby_demote() {
    let (mut rig, primary, standby) = Rig::controlling();
    for _ in 0..2 {
        rig.agent.handle_beat(primary, false, rig.now);
    }
    rig.agent.handle_beat(standby, true, rig.now);
    rig.collect();
    assert_eq!(rig.agent.primary(), Some(primary));
    rig.agent.handle_beat(primary, false, rig.now);
    rig.collect();
    assert_eq!(rig.agent.primary(), Some(standby));
}

#[test]
fn one_unanswered_beat_makes_silent_and_no_more() {
    let (mut rig, primary, standby) = Rig::controlling();
    rig.agent.handle_beat(primary, false, rig.now);
    rig.collect();
    assert!(rig.saw(|output| *output == Output::Event(Event::Silent { link: primary })));
    rig.pass(Duration::from_secs(2), &[primary, standby]);
    assert_eq!(rig.agent.primary(), Some(primary));
}

#[test]
fn a_stalled_primary_is_hedged_until_something_is_acknowledged() {
    let (mut rig, primary, standby) = Rig::controlling_over(Tier::LanWebRtc);
    rig.agent.handle_stalled(primary, true, rig.now);
    rig.collect();
    assert!(rig.saw(|output| *output == Output::Hedge { from: primary, on: standby }));
    // STUN proves the path, not SCTP.
    rig.agent.handle_life(primary, Sign::Stun, rig.now);
    rig.agent.handle_stalled(primary, true, rig.now);
    rig.pass(MS * 300, &[primary, standby]);
    assert!(!rig.saw(|output| *output == Output::HedgeOff));
    rig.agent.handle_stalled(primary, false, rig.now);
    rig.collect();
    assert!(rig.saw(|output| *output == Output::HedgeOff));
    assert_eq!(rig.agent.primary(), Some(primary));
    // One that stays stuck is replaced before a window is over.
    rig.agent.handle_stalled(primary, true, rig.now);
    rig.pass(MS * 500, &[primary, standby]);
    assert_eq!(rig.agent.primary(), Some(primary), "no beat came through on the other");
    rig.agent.handle_beat(standby, true, rig.now);
    rig.pass(MS * 400, &[primary, standby]);
    assert_eq!(rig.agent.primary(), Some(standby));
    assert!(rig.saw(|output| *output == Output::Decide { link: primary }));
}

/// One that is alone looks for another pair first: new ICE words would change those by which the checks of that are known.
#[test]
fn a_dead_peer_connection_restarts_ice_beside_another_link_and_moves_where_it_is_alone() {
    for alone in [false, true] {
        let (mut rig, primary, standby) = Rig::controlling_over(Tier::LanWebRtc);
        if alone {
            rig.close(standby);
            rig.out.clear();
        }
        rig.agent.handle_sent(primary, rig.now);
        rig.pass(MS * 2_000, &[standby]);
        assert!(rig.saw(|output| *output == Output::Event(Event::Dead { link: primary })), "{:?}", rig.out);
        assert_eq!(rig.saw(|output| *output == Output::RestartIce { link: primary }), !alone);
        assert_eq!(rig.agent.primary() == Some(standby), !alone);
        assert!(!alone || rig.saw(|output| *output == Output::MovePair { link: primary }));
    }
}

#[test]
fn no_interval_makes_a_flood_of_probes_or_attempts() {
    let tiny = Duration::from_nanos(1);
    let policy = Policy { idle_probe: tiny, reconnect_pause: Some(tiny), ..Policy::default() };
    let (mut rig, link) = Rig::connected(policy);
    assert_eq!(rig.agent.pace(link, &rig.agent.lines[&link]), MS * 10);
    rig.close(link);
    let mut attempts = 0;
    for _ in 0..1_000 {
        rig.pass(MS, &[]);
        while let Some(attempt) = rig.attempt(1) {
            attempts += 1;
            rig.agent.handle_failed(attempt, failure(false), rig.now);
            rig.collect();
        }
    }
    // Half of each pause is chance.
    assert!((50..=250).contains(&attempts), "{attempts}");
}

#[test]
fn idle_links_are_probed_every_three_seconds_and_controlling_ones_ten_times_a_second() {
    let probes = |rig: &Rig, link| {
        rig.out.iter().filter(|output| matches!(output, Output::Probe { link: at, .. } if *at == link)).count()
    };
    let (mut rig, link) = Rig::connected(Policy::default());
    let before = rig.agent.attempts;
    rig.pass(Duration::from_secs(31), &[link]);
    assert_eq!(rig.agent.attempts - before, 10);
    assert_eq!(probes(&rig, link), 0, "all answered");

    let (mut rig, primary, standby) = Rig::controlling();
    let before = rig.agent.attempts;
    rig.pass(MS * 2050, &[primary, standby]);
    assert_eq!(rig.agent.attempts - before, 20);
}

#[test]
fn stale_answers_are_ignored() {
    let (mut rig, link) = Rig::connected(Policy::default());
    rig.agent.handle_probe(Attempt(9999), MS, rig.now);
    rig.agent.handle_failed(Attempt(9999), failure(true), rig.now);
    rig.agent.handle_life(LinkId(77), Sign::Reply, rig.now);
    rig.agent.handle_closed(LinkId(77), rig.now);
    rig.agent.handle_validated(link, Validated::ForeignOrUnknown, rig.now);
    rig.collect();
    assert!(rig.out.is_empty(), "{:?}", rig.out);
}

/// Answers what is asked of the link after `took`, for so many probes.
fn answers_late(rig: &mut Rig, link: LinkId, took: Duration, probes: usize) {
    for _ in 0..probes {
        while !rig.saw(|output| matches!(output, Output::Probe { link: of, .. } if *of == link)) {
            rig.pass(MS * 10, &[]);
        }
        let position = rig.position(|output| matches!(output, Output::Probe { link: of, .. } if *of == link)).unwrap();
        let Output::Probe { attempt, .. } = rig.out.remove(position) else { unreachable!() };
        rig.pass(MS, &[]);
        rig.agent.handle_probe(attempt, took, rig.now);
        rig.collect();
    }
}

fn too_slow(rig: &Rig) -> usize {
    rig.out.iter().filter(|output| matches!(output, Output::Event(Event::TooSlow { .. }))).count()
}

fn in_time(rig: &Rig, link: LinkId) -> bool {
    rig.saw(|output| *output == Output::Event(Event::InTime { link }))
}

#[test]
fn a_way_too_long_for_the_session_is_told_once() {
    let (mut rig, link) = Rig::connected(Policy::default());
    rig.hold(0, Peer::Ours { boot: 1 });
    // 1.6 s and the pause of 0.4 s between two beats are all of the window.
    answers_late(&mut rig, link, MS * 1_590, 60);
    assert_eq!(too_slow(&rig), 0);
    answers_late(&mut rig, link, MS * 1_700, 30);
    let told = rig.position(|output| matches!(output, Output::Event(Event::TooSlow { .. }))).unwrap();
    assert_eq!(rig.out[told], Output::Event(Event::TooSlow { link, took: MS * 1_700, window: MS * 2_000 }));
    // A little better is not in time yet, and worse again no news.
    answers_late(&mut rig, link, MS * 1_200, 40);
    answers_late(&mut rig, link, MS * 1_700, 40);
    assert_eq!((too_slow(&rig), in_time(&rig, link)), (1, false));
    answers_late(&mut rig, link, MS * 100, 20);
    assert!(in_time(&rig, link));
    answers_late(&mut rig, link, MS * 1_900, 40);
    assert_eq!(too_slow(&rig), 2);
}

#[test]
fn an_answer_that_took_a_window_is_told_also_after_the_lapse() {
    let (mut rig, link) = Rig::connected(Policy::default());
    rig.hold(0, Peer::Ours { boot: 1 });
    rig.agent.handle_held(Held::Nothing, Peer::Ours { boot: 1 }, rig.now);
    answers_late(&mut rig, link, MS * 1_999, 1);
    assert_eq!(too_slow(&rig), 0);
    answers_late(&mut rig, link, MS * 2_000, 1);
    assert_eq!(too_slow(&rig), 1);
}

#[test]
fn an_answer_owed_for_a_window_is_slow_where_others_come_and_dead_where_none_do() {
    for others in [true, false] {
        let (mut rig, link) = Rig::connected(Policy::default());
        rig.hold(0, Peer::Ours { boot: 1 });
        while !rig.saw(|output| matches!(output, Output::Probe { .. })) {
            rig.pass(MS * 10, &[]);
        }
        for _ in 0..30 {
            rig.pass(MS * 100, &[]);
            if others {
                rig.agent.handle_life(link, Sign::Reply, rig.now);
                rig.collect();
            }
        }
        assert_eq!(too_slow(&rig), usize::from(others));
        assert_eq!(rig.saw(|output| matches!(output, Output::Event(Event::Dead { .. }))), !others);
    }
}

#[test]
fn a_long_way_without_a_session_is_no_news() {
    let (mut rig, link) = Rig::connected(Policy::default());
    answers_late(&mut rig, link, MS * 1_900, 60);
    assert_eq!(too_slow(&rig), 0);
    // With one it is, at once.
    rig.hold(0, Peer::Ours { boot: 1 });
    assert_eq!(too_slow(&rig), 1);
}

#[test]
fn a_link_that_is_left_is_no_longer_told_to_be_too_slow() {
    let (mut rig, link) = Rig::connected(Policy::default());
    rig.hold(0, Peer::Ours { boot: 1 });
    answers_late(&mut rig, link, MS * 1_900, 60);
    rig.close(link);
    rig.pass(MS * 1_000, &[]);
    assert!(!in_time(&rig, link), "there is nothing better yet");
    let next = rig.connect(1, facts(LAN, 1));
    rig.agent.handle_validated(next, Validated::SameSession, rig.now);
    rig.collect();
    assert!(in_time(&rig, link));
}

#[test]
fn s68_a_standby_that_takes_as_long_says_nothing_against_the_primary() {
    // Both ways have become long, and the standby's first answer comes a little before the primary's.
    let (mut rig, primary, standby) = Rig::controlling();
    rig.pass(MS * 500, &[primary, standby]);
    rig.out.clear();
    rig.pass(MS * 800, &[]);
    let asked = |rig: &Rig, of: LinkId| {
        rig.out.iter().find_map(|output| match output {
            Output::Probe { attempt, link } if *link == of => Some(*attempt),
            _ => None,
        })
    };
    let (first, second) = (asked(&rig, standby).expect("asked"), asked(&rig, primary).expect("asked"));
    rig.agent.handle_probe(first, MS * 800, rig.now);
    rig.collect();
    rig.pass(MS * 100, &[]);
    rig.agent.handle_probe(second, MS * 900, rig.now);
    rig.collect();
    assert!(!rig.used(standby), "{:?}", rig.out);
    // One that says nothing for longer than that is as dead as ever.
    rig.pass(MS * 5_000, &[standby]);
    assert!(rig.used(standby));
}
