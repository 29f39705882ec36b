use proptest::prelude::*;

use super::*;
use machine_api::proto::rpc::webrtc::v1::IceCandidate;

const HOST: &str = "m.loc.viam.cloud";

struct Rig {
    calls: Calls,
    start: Instant,
}

fn caller() -> Principal {
    Principal { kind: "api-key".into(), id: "k".into() }
}

fn id(n: u64) -> Uuid {
    Uuid::from_u64_pair(0, n)
}

fn candidate() -> FromCaller {
    FromCaller::Candidate(IceCandidate::default())
}

fn answer() -> FromAnswerer {
    FromAnswerer::Answer("sdp".into())
}

impl Rig {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        Self { calls: Calls::new(limits), start: Instant::now() }
    }

    fn at(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }

    fn call(&mut self, n: u64, millis: u64) -> Result<(), Refused> {
        let offer = Offer { host: HOST.into(), sdp: "offer".into(), disable_trickle: false, caller: caller() };
        let now = self.at(millis);
        self.calls.handle_call(id(n), offer, now)
    }

    fn answerer(&mut self, n: u64, connection: u64, millis: u64) {
        let now = self.at(millis);
        self.calls.handle_answerer(n, &[HOST.to_owned()], connection, now).expect("a place");
    }

    fn update(&mut self, n: u64, said: FromCaller, millis: u64) -> Result<(), Refused> {
        let now = self.at(millis);
        self.calls.handle_update(id(n), &caller(), HOST, said, now)
    }

    fn answer(&mut self, n: u64, said: FromAnswerer, millis: u64) -> Result<(), Refused> {
        let now = self.at(millis);
        self.calls.handle_answer(id(n), said, now)
    }

    fn outputs(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.calls.poll_output())
            .map(|output| match output {
                Output::Taken { answerer, call, .. } => format!("{answerer} takes {}", call.as_u64_pair().1),
                Output::SentAway { answerer } => format!("{answerer} sent away"),
                Output::ToAnswerer(call, said) => format!("{} to answerer {}", call.as_u64_pair().1, short(&said)),
                Output::ToCaller(call, said) => format!("{} to caller {}", call.as_u64_pair().1, heard(&said)),
            })
            .collect()
    }

    fn is_empty(&self) -> bool {
        let c = &self.calls;
        c.calls.is_empty() && c.answerers.is_empty() && c.lines.is_empty() && c.ended.is_empty() && c.ends.is_empty()
    }
}

fn short(said: &FromCaller) -> String {
    match said {
        FromCaller::Candidate(_) => "candidate".into(),
        FromCaller::Error(status) => format!("error {}", status.code),
        FromCaller::Done => "done".into(),
    }
}

fn heard(said: &Result<FromAnswerer, Refused>) -> String {
    match said {
        Ok(FromAnswerer::Answer(_)) => "answer".into(),
        Ok(FromAnswerer::Candidate(_)) => "candidate".into(),
        Ok(FromAnswerer::Error(_)) => "error".into(),
        Ok(FromAnswerer::Done) => "done".into(),
        Err(refused) => format!("{refused:?}"),
    }
}

#[test]
fn a_call_from_its_offer_to_both_ends() {
    let mut rig = Rig::new();
    rig.answerer(1, 1, 0);
    rig.call(7, 1).expect("queued");
    assert_eq!(rig.outputs(), ["1 takes 7"]);
    rig.answer(7, answer(), 2).expect("in order");
    rig.update(7, candidate(), 3).expect("known");
    rig.answer(7, FromAnswerer::Candidate(IceCandidate::default()), 4).expect("in order");
    rig.answer(7, FromAnswerer::Done, 5).expect("in order");
    assert_eq!(
        rig.outputs(),
        ["7 to caller answer", "7 to answerer candidate", "7 to caller candidate", "7 to caller done"]
    );
    rig.update(7, FromCaller::Done, 6).expect("known");
    assert_eq!(rig.outputs(), ["7 to answerer done"]);
    rig.update(7, candidate(), 7).expect("late, and no error");
    assert_eq!(rig.outputs(), [""; 0]);
    rig.calls.handle_timeout(rig.at(10_007));
    assert!(rig.is_empty());
    assert_eq!(rig.update(7, candidate(), 10_008), Err(Refused::NoOffer(id(7))));
    assert_eq!(Refused::NoOffer(id(7)).to_string(), format!("no active offer for \"{}\"", id(7)));
}

#[test]
fn an_offline_machine_is_told_at_once_and_one_between_two_streams_is_not_offline() {
    let mut rig = Rig::new();
    assert_eq!(rig.call(1, 0), Err(Refused::Offline));
    rig.answerer(1, 1, 0);
    rig.call(2, 0).expect("present");
    rig.call(3, 0).expect("busy with the other, so present");
    rig.answer(2, FromAnswerer::Error(rpc::Status::default()), 1).expect("in order");
    rig.call(4, 2).expect("it ended one a moment ago");
    rig.outputs();
    rig.answerer(2, 1, 500);
    rig.answerer(3, 1, 500);
    assert_eq!(rig.outputs(), ["2 takes 3", "3 takes 4"]);
    for n in [3, 4] {
        rig.answer(n, FromAnswerer::Error(rpc::Status::default()), 600).expect("in order");
    }
    rig.call(5, 700).expect("within the grace");
    rig.outputs();
    assert_eq!(rig.calls.poll_timeout(), Some(rig.at(2600)));
    rig.calls.handle_timeout(rig.at(2600));
    assert_eq!(rig.outputs(), ["5 to caller Offline"]);
    assert_eq!(rig.call(6, 2700), Err(Refused::Offline));
}

#[test]
fn a_connection_that_breaks_leaves_its_machine_offline_at_once() {
    let mut rig = Rig::new();
    rig.answerer(1, 1, 0);
    rig.answerer(2, 1, 0);
    rig.call(1, 0).expect("present");
    rig.outputs();
    // The one that waits, then the one that has the offer and has not answered it.
    rig.calls.handle_answerer_gone(2, rig.at(5));
    rig.calls.handle_exchange_left(id(1), rig.at(5));
    assert_eq!(rig.outputs(), ["1 to caller Offline"]);
    assert_eq!(rig.call(2, 6), Err(Refused::Offline));
}

#[test]
fn an_offer_that_its_answerer_dropped_goes_to_the_next() {
    let mut rig = Rig::new();
    rig.answerer(1, 1, 0);
    rig.answerer(2, 1, 0);
    rig.call(1, 0).expect("present");
    rig.calls.handle_exchange_left(id(1), rig.at(5));
    assert_eq!(rig.outputs(), ["1 takes 1", "2 takes 1"]);
    // Answered, it ends in order for the caller, who may well be connected.
    rig.answer(1, answer(), 6).expect("in order");
    rig.calls.handle_exchange_left(id(1), rig.at(7));
    assert_eq!(rig.outputs(), ["1 to caller answer", "1 to caller done"]);
}

#[test]
fn the_process_that_came_last_is_the_machine() {
    let mut rig = Rig::with(Limits { answerers_per_host: 2, ..Limits::default() });
    rig.answerer(1, 1, 0);
    rig.answerer(2, 1, 0);
    rig.answerer(3, 2, 1);
    assert_eq!(rig.outputs(), ["2 sent away"]);
    rig.call(1, 2).expect("present");
    rig.call(2, 2).expect("present");
    assert_eq!(rig.outputs(), ["3 takes 1", "1 takes 2"]);
}

#[test]
fn offers_never_finished_end_after_ten_seconds_and_both_sides_hear_of_it() {
    let mut rig = Rig::new();
    rig.answerer(1, 1, 0);
    rig.call(1, 0).expect("present");
    rig.answerer(2, 1, 0);
    rig.call(2, 0).expect("present");
    rig.answer(2, answer(), 1).expect("in order");
    rig.answer(2, FromAnswerer::Done, 1).expect("in order");
    rig.outputs();
    assert_eq!(rig.calls.poll_timeout(), Some(rig.at(10_000)));
    rig.calls.handle_timeout(rig.at(10_000));
    assert_eq!(
        rig.outputs(),
        [
            "1 to caller TooLate",
            "1 to answerer error 4",
            "1 to answerer done",
            "2 to answerer error 4",
            "2 to answerer done"
        ]
    );
    // One with less than two seconds left is given to nobody.
    let mut rig = Rig::with(Limits { patience: Duration::from_secs(10), ..Limits::default() });
    rig.call(1, 0).expect("it waits for its machine");
    rig.answerer(1, 1, 8001);
    assert_eq!(rig.outputs(), [""; 0]);
    rig.calls.handle_timeout(rig.at(10_000));
    assert_eq!(rig.outputs(), ["1 to caller TooLate"]);
}

#[test]
fn a_caller_that_leaves_takes_its_offer_along() {
    let mut rig = Rig::with(Limits { patience: Duration::from_secs(10), ..Limits::default() });
    rig.call(1, 0).expect("queued");
    rig.calls.handle_caller_left(id(1), rig.at(1));
    rig.outputs();
    rig.answerer(1, 1, 2);
    assert_eq!(rig.outputs(), [""; 0]);
    rig.call(2, 3).expect("queued");
    rig.calls.handle_caller_left(id(2), rig.at(4));
    assert_eq!(rig.outputs(), ["1 takes 2", "2 to answerer error 1", "2 to answerer done"]);
}

#[test]
fn somebody_elses_call_is_no_call() {
    let mut rig = Rig::new();
    rig.answerer(1, 1, 0);
    rig.call(1, 0).expect("present");
    let other = Principal { kind: "api-key".into(), id: "other".into() };
    let now = rig.at(1);
    assert_eq!(rig.calls.handle_update(id(1), &other, HOST, FromCaller::Done, now), Err(Refused::NoOffer(id(1))));
    assert_eq!(rig.calls.handle_update(id(1), &caller(), "x", FromCaller::Done, now), Err(Refused::NoOffer(id(1))));
    assert_eq!(rig.outputs(), ["1 takes 1"]);
}

#[test]
fn everything_is_bounded() {
    let mut rig = Rig::with(Limits { calls: 60, patience: Duration::from_secs(10), ..Limits::default() });
    for n in 0..50 {
        rig.call(n, 0).expect("a place");
    }
    assert_eq!(rig.call(50, 0), Err(Refused::Crowded));
    for n in 0..16 {
        rig.answerer(n, 1, 0);
    }
    for n in 50..60 {
        rig.call(n, 0).expect("sixteen wait no longer");
    }
    assert_eq!(rig.call(60, 0), Err(Refused::Full));
    rig.answer(0, answer(), 1).expect("in order");
    rig.outputs();
    for _ in 0..MAX_CANDIDATES {
        rig.update(0, candidate(), 1).expect("few");
        rig.answer(0, FromAnswerer::Candidate(IceCandidate::default()), 1).expect("few");
    }
    assert_eq!(rig.update(0, candidate(), 1), Err(Refused::TooMany));
    assert_eq!(rig.answer(0, FromAnswerer::Candidate(IceCandidate::default()), 1), Err(Refused::TooMany));
    assert_eq!(rig.answer(0, answer(), 1), Err(Refused::OutOfOrder("a second answer to one offer")));
    assert_eq!(
        rig.answer(1, FromAnswerer::Done, 1),
        Err(Refused::OutOfOrder("expected the answer before anything else"))
    );
}

/// One thing that may happen, after some milliseconds.
#[derive(Clone, Debug)]
enum Step {
    Call,
    Answerer(u64),
    AnswererGone(usize),
    Answer(usize),
    AnswererDone(usize),
    AnswererFails(usize),
    ExchangeLeft(usize),
    Update(usize),
    CallerDone(usize),
    CallerFails(usize),
    CallerLeft(usize),
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let which = 0..8usize;
    let step = prop_oneof![
        4 => Just(Step::Call),
        4 => (1..3u64).prop_map(Step::Answerer),
        1 => which.clone().prop_map(Step::AnswererGone),
        4 => which.clone().prop_map(Step::Answer),
        2 => which.clone().prop_map(Step::AnswererDone),
        1 => which.clone().prop_map(Step::AnswererFails),
        1 => which.clone().prop_map(Step::ExchangeLeft),
        2 => which.clone().prop_map(Step::Update),
        2 => which.clone().prop_map(Step::CallerDone),
        1 => which.clone().prop_map(Step::CallerFails),
        1 => which.prop_map(Step::CallerLeft),
    ];
    prop::collection::vec((0..3000u64, step), 1..60)
}

/// What the two sides of one call have heard.
#[derive(Default, Debug)]
struct Ends {
    takers: usize,
    left: usize,
    answers: usize,
    caller_ends: usize,
    answerer_dones: usize,
    failed: bool,
}

proptest! {
    /// Whatever happens: an answer before everything else and once, one end for each side that is there, nothing kept for ever.
    #[test]
    fn every_call_ends_once_on_both_sides(patient: bool, steps in steps()) {
        let patience = if patient { OFFER_LIFE } else { Duration::ZERO };
        let mut rig = Rig::with(Limits { patience, ..Limits::default() });
        let (mut now, mut next) = (0, 0);
        let mut seen: BTreeMap<Uuid, Ends> = BTreeMap::new();
        // The exchange that each call is in, as its answerer knows it.
        let mut held: BTreeSet<Uuid> = BTreeSet::new();
        let mut waiting: Vec<u64> = Vec::new();
        for (pause, step) in steps {
            let until = now + pause;
            while let Some(due) = rig.calls.poll_timeout().filter(|due| *due <= rig.at(until)) {
                rig.calls.handle_timeout(due);
                prop_assert!(rig.calls.poll_timeout().is_none_or(|next| next > due), "a deadline that does not pass");
            }
            now = until;
            let pick = |i: usize| id(i as u64 % (next.max(1)));
            let at = rig.at(now);
            let calls = &mut rig.calls;
            match step {
                Step::Call => {
                    if rig.call(next, now).is_ok() {
                        seen.insert(id(next), Ends::default());
                    }
                    next += 1;
                }
                Step::Answerer(connection) => {
                    let n = 1000 + now * 100 + waiting.len() as u64 + u64::try_from(seen.len()).unwrap_or(0) * 7;
                    if !rig.calls.answerers.contains_key(&n) {
                        rig.answerer(n, connection, now);
                        waiting.push(n);
                    }
                }
                Step::AnswererGone(i) if !waiting.is_empty() => {
                    let n = waiting.remove(i % waiting.len());
                    calls.handle_answerer_gone(n, at);
                }
                Step::AnswererGone(_) => {}
                Step::Answer(i) if held.contains(&pick(i)) => { let _ = calls.handle_answer(pick(i), answer(), at); }
                Step::AnswererDone(i) if held.contains(&pick(i)) => { let _ = calls.handle_answer(pick(i), FromAnswerer::Done, at); }
                Step::AnswererFails(i) if held.contains(&pick(i)) => {
                    let _ = calls.handle_answer(pick(i), FromAnswerer::Error(rpc::Status::default()), at);
                }
                Step::ExchangeLeft(i) if held.remove(&pick(i)) => {
                    seen.entry(pick(i)).or_default().left += 1;
                    calls.handle_exchange_left(pick(i), at);
                }
                Step::Answer(_) | Step::AnswererDone(_) | Step::AnswererFails(_) | Step::ExchangeLeft(_) => {}
                Step::Update(i) => { let _ = rig.update(i as u64 % next.max(1), candidate(), now); }
                Step::CallerDone(i) => { let _ = rig.update(i as u64 % next.max(1), FromCaller::Done, now); }
                Step::CallerFails(i) => { let _ = rig.update(i as u64 % next.max(1), FromCaller::Error(rpc::Status::default()), now); }
                Step::CallerLeft(i) => calls.handle_caller_left(pick(i), at),
            }
            drain(&mut rig, &mut seen, &mut held, &mut waiting)?;
        }
        rig.calls.handle_timeout(rig.at(now + 20_000));
        drain(&mut rig, &mut seen, &mut held, &mut waiting)?;
        for (call, ends) in &seen {
            prop_assert_eq!(ends.caller_ends, 1, "{} {:?}", call, ends);
            prop_assert!(ends.answers <= 1, "{} {:?}", call, ends);
            let taken_to_the_end = ends.takers > ends.left;
            prop_assert!(!taken_to_the_end || ends.failed || ends.answerer_dones == 1, "{} {:?}", call, ends);
        }
        for n in waiting {
            rig.calls.handle_answerer_gone(n, rig.at(now + 20_000));
        }
        rig.calls.handle_timeout(rig.at(now + 40_000));
        prop_assert!(rig.is_empty());
    }
}

fn drain(
    rig: &mut Rig,
    seen: &mut BTreeMap<Uuid, Ends>,
    held: &mut BTreeSet<Uuid>,
    waiting: &mut Vec<u64>,
) -> Result<(), TestCaseError> {
    while let Some(output) = rig.calls.poll_output() {
        match output {
            Output::Taken { answerer, call, .. } => {
                prop_assert!(waiting.contains(&answerer), "{} does not wait", answerer);
                waiting.retain(|n| *n != answerer);
                prop_assert!(held.insert(call), "taken twice");
                seen.entry(call).or_default().takers += 1;
            }
            Output::SentAway { answerer } => waiting.retain(|n| *n != answerer),
            Output::ToAnswerer(call, said) => {
                let ends = seen.entry(call).or_default();
                prop_assert_eq!(ends.answerer_dones, 0, "after done");
                ends.answerer_dones += usize::from(said == FromCaller::Done);
            }
            Output::ToCaller(call, said) => {
                let ends = seen.entry(call).or_default();
                prop_assert_eq!(ends.caller_ends, 0, "after its end");
                match said {
                    Ok(FromAnswerer::Answer(_)) => ends.answers += 1,
                    Ok(FromAnswerer::Candidate(_)) => prop_assert_eq!(ends.answers, 1, "before the answer"),
                    Ok(FromAnswerer::Error(_)) => {
                        ends.failed = true;
                        ends.caller_ends += 1;
                    }
                    Ok(FromAnswerer::Done) | Err(_) => ends.caller_ends += 1,
                }
            }
        }
    }
    Ok(())
}
