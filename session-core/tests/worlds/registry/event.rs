//! What may happen to a machine, and how bytes say it.

use session_core::Order;

use super::super::bytes::Choices;

/// Bytes of one event.
pub const LENGTH: usize = 10;

/// One thing that may happen to a machine. Numbers choose among what there is.
#[derive(Clone, Debug)]
pub enum Event {
    /// StartSession by an owner, for the session that was started so many before.
    Start(usize, Option<usize>),
    Beat {
        session: usize,
        foreign: bool,
        order: Option<Sign>,
        end: bool,
    },
    Admit {
        session: Option<usize>,
        foreign: bool,
        monitored: bool,
        resource: usize,
        order: Option<Sign>,
    },
    Stop {
        session: Option<usize>,
        foreign: bool,
        resource: usize,
        order: Option<Sign>,
        all: bool,
    },
    Claim(usize),
    Ended(usize),
    /// A call asks for its gate; `true`: for that of a part only.
    Enter(usize, bool),
    Leave(usize),
    Done(usize),
    Cancel(usize),
    Returned {
        stop: usize,
        fails: bool,
    },
    Close,
    Remove,
    Configure,
    Pass(u64),
    /// Time passes and nobody wakes the registry: a stall, or suspend.
    Stall(u64),
}

/// What a numbered message says: which client process, its number, and which quarter of the numbers below was given up.
#[derive(Clone, Copy, Debug)]
pub struct Sign {
    key: u64,
    number: u64,
    given_up: u64,
}

impl Sign {
    pub fn order(self, end: bool) -> Order {
        let open = (1..self.number).filter(|n| n % 4 != self.given_up).collect();
        Order { key: self.key, number: self.number, open, end }
    }
}

impl Event {
    /// A machine's life.
    pub fn all(bytes: &[u8]) -> Vec<Self> {
        Choices::of(bytes, LENGTH).map(|mut choices| Self::chosen(&mut choices)).collect()
    }

    fn chosen(by: &mut Choices<'_>) -> Self {
        const WEIGHTS: [usize; 16] = [2, 3, 6, 2, 1, 1, 10, 8, 2, 1, 8, 1, 1, 1, 4, 1];
        let kind = by.weighted(&WEIGHTS);
        match kind {
            0 => Self::Start(by.below(2), by.happens(100).then(|| by.below(4))),
            1 => {
                let (session, foreign) = (by.below(4), by.happens(13));
                Self::Beat { session, foreign, order: Sign::chosen(by), end: by.happens(13) }
            }
            2 => {
                let (session, foreign, monitored) = (some_session(by), by.happens(13), !by.happens(25));
                Self::Admit { session, foreign, monitored, resource: by.below(4), order: Sign::chosen(by) }
            }
            3 => {
                let (session, foreign, resource) = (some_session(by), by.happens(13), by.below(4));
                Self::Stop { session, foreign, resource, order: Sign::chosen(by), all: by.happens(25) }
            }
            4 => Self::Claim(by.below(4)),
            5 => Self::Ended(by.below(3)),
            6 => Self::Enter(by.below(8), by.happens(50)),
            7 => Self::Leave(by.below(4)),
            8 => Self::Done(by.below(8)),
            9 => Self::Cancel(by.below(8)),
            10 => Self::Returned { stop: by.below(4), fails: by.happens(25) },
            11 => Self::Close,
            12 => Self::Remove,
            13 => Self::Configure,
            14 => Self::Pass(by.number(1, 700)),
            _ => Self::Stall(by.number(1, 5_000)),
        }
    }
}

fn some_session(by: &mut Choices<'_>) -> Option<usize> {
    (!by.happens(38)).then(|| by.below(4))
}

impl Sign {
    fn chosen(by: &mut Choices<'_>) -> Option<Self> {
        let numbered = !by.happens(102);
        let key = if by.happens(51) { 8 } else { 7 };
        numbered.then(|| Self { key, number: by.below(39) as u64 + 1, given_up: by.below(6) as u64 })
    }
}
