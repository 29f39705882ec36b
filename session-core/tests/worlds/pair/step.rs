//! What may happen to a client and a machine, and how bytes say it.

use super::super::bytes::Choices;
use super::{JITTER, SKEW, SLOWEST};

/// Bytes of one step.
pub const LENGTH: usize = 4;

/// One thing that may happen.
#[derive(Clone, Debug)]
pub enum Step {
    Motion(usize),
    Stop(usize),
    StopAll,
    GiveUp(usize),
    /// The link swallows everything for now.
    Swallow(usize),
    /// What it swallowed arrives, late.
    GiveBack(usize),
    /// It is cut, and what was on it is lost.
    Cut(usize),
    /// Calls go over it from now on.
    Use(usize),
    /// It stands by, and answers where the primary does not; the primary itself: it answers again.
    Hedge(usize),
    /// The next message on it, towards the machine (`true`) or back, is lost.
    Lose(usize, bool),
    /// The next numbered message on it arrives twice.
    Repeat(usize),
    /// Messages come so many milliseconds later from now on, one after the other differently.
    Jitter(u64),
    Pass(u64),
    /// The client's computer stands still, or sleeps.
    ClientStalls(u64),
    /// The machine does.
    MachineStalls(u64),
    /// The client's process dies.
    Die,
}

/// Two computers, the network between them, and what happens.
#[derive(Clone, Debug)]
pub struct Life {
    /// The links' delays in milliseconds.
    pub delays: (u64, u64),
    /// By how many thousandths the client's clock runs faster.
    pub skew: i64,
    pub steps: Vec<Step>,
}

impl Life {
    /// The first step's bytes say what the network is like.
    pub fn of(bytes: &[u8]) -> Self {
        let (head, steps) = bytes.split_at(bytes.len().min(LENGTH));
        let (mut delays, mut skew) = ((1, 1), 0);
        for mut by in Choices::of(head, LENGTH) {
            let delay = |by: &mut Choices<'_>| by.below(SLOWEST as usize - 1) as u64 + 1;
            delays = (delay(&mut by), delay(&mut by));
            skew = by.below(2 * SKEW as usize + 1) as i64 - SKEW;
        }
        Self { delays, skew, steps: Choices::of(steps, LENGTH).map(|mut by| Step::chosen(&mut by)).collect() }
    }
}

impl Step {
    fn chosen(by: &mut Choices<'_>) -> Self {
        const WEIGHTS: [usize; 17] = [8, 3, 1, 2, 2, 2, 1, 3, 1, 10, 2, 1, 1, 1, 1, 1, 1];
        let kind = by.weighted(&WEIGHTS);
        match kind {
            0 => Self::Motion(by.below(3)),
            1 => Self::Stop(by.below(3)),
            2 => Self::StopAll,
            3 => Self::GiveUp(by.below(4)),
            4 => Self::Swallow(by.below(2)),
            5 => Self::GiveBack(by.below(2)),
            6 => Self::Cut(by.below(2)),
            7 => Self::Use(by.below(2)),
            8 => Self::Hedge(by.below(2)),
            9 => Self::Pass(by.number(1, 400)),
            10 => Self::Pass(by.number(400, 3000)),
            11 => Self::Lose(by.below(2), by.happens(128)),
            12 => Self::Repeat(by.below(2)),
            13 => Self::Jitter(by.number(0, JITTER)),
            14 => Self::ClientStalls(by.number(1, 6000)),
            15 => Self::MachineStalls(by.number(1, 6000)),
            _ => Self::Die,
        }
    }
}
