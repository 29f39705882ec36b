//! What may happen to a client, and how bytes say it.

use super::super::bytes::Choices;

/// Bytes of one step.
pub const LENGTH: usize = 5;

/// One thing that may happen. Numbers choose among what there is.
#[derive(Clone, Debug)]
pub enum Step {
    /// Motion, Stream, Stop or StopAll, of a component.
    Issue(usize, usize),
    GiveUp(usize),
    /// A motion call's answer: done, not run, lost, expired without and with details.
    Answer(usize, usize),
    /// A copy of a Stop was answered.
    Stopped(usize, bool),
    /// StartSession's answer: the session's window in milliseconds, and whether it is the one that was to be resumed.
    Started(u64, bool),
    /// None: unsupported, unreachable, refused.
    NotStarted(usize),
    /// A beat's answer: OK, unanswered, expired without and with details.
    Beaten(usize, usize),
    /// Where a link stands: primary, standby, draining, gone.
    Link(usize, usize),
    NoRoute(bool),
    Hedge(Option<usize>),
    Validate(usize),
    Alive,
    /// Something was answered on a link.
    Answering(usize),
    Pass(u64),
    /// Time passes and nobody wakes the client.
    Stall(u64),
    Close,
}

/// A client and its machine.
#[derive(Clone, Debug)]
pub struct Life {
    /// Whether the machine takes order.
    pub ordered: bool,
    /// Beats only for so many milliseconds after the program said that it is alive.
    pub watched: Option<u64>,
    pub resume_motion: bool,
    pub steps: Vec<Step>,
}

impl Life {
    /// The first step's bytes say whose it is.
    pub fn of(bytes: &[u8]) -> Self {
        let (head, steps) = bytes.split_at(bytes.len().min(LENGTH));
        let steps = Choices::of(steps, LENGTH).map(|mut by| Step::chosen(&mut by)).collect();
        let mut life = Self { ordered: false, watched: None, resume_motion: false, steps };
        for mut by in Choices::of(head, LENGTH) {
            life.ordered = by.happens(160);
            life.watched = by.happens(50).then(|| by.number(50, 3000));
            life.resume_motion = by.happens(50);
        }
        life
    }
}

impl Step {
    fn chosen(by: &mut Choices<'_>) -> Self {
        const WINDOWS: [u64; 6] = [2000, 2000, 2000, 30, 60_000, 0];
        const WEIGHTS: [usize; 15] = [14, 3, 8, 6, 5, 1, 8, 8, 1, 2, 1, 1, 10, 1, 1];
        let kind = by.weighted(&WEIGHTS);
        match kind {
            0 => Self::Issue(by.weighted(&[8, 1, 3, 1]), by.below(3)),
            1 => Self::GiveUp(by.below(4)),
            2 => Self::Answer(by.below(4), by.weighted(&[6, 1, 1, 1, 1])),
            3 => Self::Stopped(by.below(6), !by.happens(60)),
            4 => Self::Started(WINDOWS[by.below(6)], !by.happens(60)),
            5 => Self::NotStarted(by.below(3)),
            6 => Self::Beaten(by.below(4), by.weighted(&[10, 3, 1, 1])),
            7 => Self::Link(by.below(3), by.weighted(&[5, 3, 1, 2])),
            8 => Self::NoRoute(by.happens(128)),
            9 => Self::Hedge((!by.happens(80)).then(|| by.below(3))),
            10 => Self::Validate(by.below(3)),
            11 if by.happens(128) => Self::Answering(by.below(3)),
            11 => Self::Alive,
            12 => Self::Pass(by.number(1, 700)),
            13 => Self::Stall(by.number(1, 5_000)),
            _ => Self::Close,
        }
    }
}
