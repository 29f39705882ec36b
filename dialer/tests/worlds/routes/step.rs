//! What may happen to an agent, in any order, as bytes choose it.

use std::time::Duration;

use dialer::agent::{Origin, Policy, StandbyPolicy, Tier};

use crate::bytes::Choices;

/// Bytes of one step.
pub const LENGTH: usize = 5;

/// One input; numbers choose among what exists.
#[derive(Clone, Debug)]
pub enum Step {
    Candidate(u8, Origin, Tier),
    Connected(usize, u8),
    Failed(usize, bool),
    Closed(usize),
    Sent(usize),
    Life(usize),
    Stalled(usize, bool),
    Probe(usize, Duration),
    Beat(usize, bool),
    Validated(usize, bool),
    Held(usize),
    Net(usize),
    Motion(usize),
    Process(usize, u128),
    Done(bool),
    Pass(Duration),
    Timers(usize),
    Moved(usize, Tier, u8),
}

/// The user's choices, and what then happens.
#[derive(Debug)]
pub struct Life {
    pub policy: Policy,
    pub steps: Vec<Step>,
}

impl Life {
    /// The first byte chooses the policy, every five after it a step.
    pub fn of(bytes: &[u8]) -> Self {
        let (first, rest) = bytes.split_first().unwrap_or((&0, &[]));
        Self { policy: policy(usize::from(*first)), steps: Choices::of(rest, LENGTH).map(step).collect() }
    }
}

fn policy(choice: usize) -> Policy {
    let standby = [StandbyPolicy::WhileControlling, StandbyPolicy::Always, StandbyPolicy::Never][choice % 3];
    let (initial_attempts, reconnect) = ((choice / 3 % 3) as u32, choice / 9 % 8 != 7);
    Policy { initial_attempts, standby, reconnect, ..Policy::default() }
}

fn step(mut of: Choices<'_>) -> Step {
    const TIERS: [Tier; 5] =
        [Tier::LanDirect, Tier::LanWebRtc, Tier::WanDirect, Tier::WebRtcDirect, Tier::WebRtcRelayed];
    const ORIGINS: [Origin; 5] = [Origin::Remembered, Origin::Given, Origin::Mdns, Origin::Dns, Origin::Cloud];
    // Links and time come often, or little else would happen.
    match of.weighted(&[20, 24, 6, 6, 16, 16, 8, 28, 16, 16, 12, 6, 2, 6, 10, 24, 28, 12]) {
        0 => Step::Candidate(of.below(6) as u8, ORIGINS[of.below(5)], TIERS[of.below(5)]),
        1 => Step::Connected(of.below(256), of.below(3) as u8),
        2 => Step::Failed(of.below(256), of.happens(26)),
        3 => Step::Closed(of.below(256)),
        4 => Step::Sent(of.below(256)),
        5 => Step::Life(of.below(256)),
        6 => Step::Stalled(of.below(256), of.happens(128)),
        7 => Step::Probe(of.below(256), Duration::from_millis(of.number(0, 3_000))),
        8 => Step::Beat(of.below(256), of.happens(128)),
        9 => Step::Validated(of.below(256), of.happens(205)),
        10 => Step::Held(of.below(4)),
        11 => Step::Net(of.below(4)),
        12 => Step::Motion(of.below(256)),
        13 => Step::Process(of.below(256), of.below(2) as u128),
        14 => Step::Done(of.happens(128)),
        15 => Step::Pass(Duration::from_millis(of.number(0, 700))),
        16 => Step::Timers(1 + of.below(11)),
        _ => Step::Moved(of.below(256), TIERS[of.below(5)], of.below(3) as u8),
    }
}
