use std::time::{Duration, Instant, SystemTime};

use machine_api::proto::rpc::webrtc::v1::{
    AnswerRequest, AnswerRequestDoneStage, AnswerRequestErrorStage, AnswerRequestHeartbeatStage,
    AnswerRequestInitStage, AnswerRequestUpdateStage, AnswerResponse, CallResponse, CallResponseInitStage,
    CallResponseUpdateStage, answer_request, answer_response, call_response, call_update_request,
};

use prost::Message as _;

use super::answerer::{EARLIEST, HEAD_START, LATEST, NUDGES, OFFER_LIFE, PATIENCE};
use super::*;
use crate::webrtc::sdp::{Description, Kind, Setup};

const LINE: &str = "candidate:1 1 udp 1 192.0.2.1 4000 typ host";

fn described(kind: Kind, setup: Setup) -> Description {
    Description::new(kind, 1, "frag".into(), "a-password-of-22-chars".into(), [1; 32], setup)
}

fn answer() -> Description {
    described(Kind::Answer, Setup::Active)
}

fn init(uuid: &str) -> CallResponse {
    let stage = call_response::Stage::Init(CallResponseInitStage { sdp: answer().encode() });
    CallResponse { uuid: uuid.into(), stage: Some(stage) }
}

fn update(uuid: &str) -> CallResponse {
    let stage = call_response::Stage::Update(CallResponseUpdateStage { candidate: Some(candidate(LINE)) });
    CallResponse { uuid: uuid.into(), stage: Some(stage) }
}

/// What came out, in words.
fn said(caller: &mut Caller) -> Vec<&'static str> {
    use call_update_request::Update;
    std::iter::from_fn(|| caller.poll_output())
        .map(|o| match o {
            CallerOutput::Answer(_) => "answer",
            CallerOutput::Remote(_) => "remote",
            CallerOutput::Failed(_) => "failed",
            CallerOutput::Update(u) => match u.update {
                Some(Update::Candidate(_)) => "candidate",
                Some(Update::Done(_)) => "done",
                Some(Update::Error(_)) => "error",
                None => "nothing",
            },
        })
        .collect()
}

fn caller() -> (Caller, Instant) {
    let now = Instant::now();
    (Caller::new(now + Duration::from_secs(10)), now)
}

#[test]
fn a_caller_holds_its_candidates_until_the_answer_and_says_done_once() {
    let (mut caller, now) = caller();
    caller.handle_candidate(LINE);
    caller.handle_gathered();
    assert!(said(&mut caller).is_empty());
    caller.handle_response(init("a"), now);
    assert_eq!(said(&mut caller), ["answer", "candidate", "done"]);
    caller.handle_response(update("a"), now);
    caller.handle_open();
    caller.handle_end(None);
    assert_eq!(said(&mut caller), ["remote"]);
}

#[test]
fn a_caller_refuses_what_is_out_of_order_and_says_so_once() {
    let wrong: [(&[CallResponse], &[&str]); 4] = [
        (&[update("a")], &["failed"]),
        (&[init("a"), init("a")], &["answer", "error", "failed"]),
        (&[init("a"), update("b")], &["answer", "error", "failed"]),
        (
            &[CallResponse {
                uuid: "a".into(),
                stage: Some(call_response::Stage::Init(CallResponseInitStage { sdp: "%".into() })),
            }],
            &["failed"],
        ),
    ];
    for (responses, expected) in wrong {
        let (mut caller, now) = caller();
        for response in responses {
            caller.handle_response(response.clone(), now);
        }
        caller.handle_failed(Failure::new(Code::Unknown, "again"));
        caller.handle_open();
        let mut got = said(&mut caller);
        // A failure that is found later is told, but not to the service.
        got.dedup();
        assert_eq!(got, expected);
    }
}

#[test]
fn a_call_that_ends_without_an_answer_or_is_not_answered_in_time_fails() {
    let (mut first, now) = caller();
    first.handle_end(None);
    assert_eq!(said(&mut first), ["failed"]);
    let (mut second, _) = caller();
    assert!(second.poll_timeout() > now);
    second.handle_timeout(now);
    assert!(said(&mut second).is_empty(), "early");
    second.handle_timeout(now + Duration::from_secs(11));
    assert_eq!(said(&mut second), ["failed"]);
}

#[test]
fn who_has_the_others_description_goes_on_without_the_service_for_a_while() {
    let gone = || Failure::new(Code::Unavailable, "gone");
    let (mut early, now) = caller();
    early.handle_lost(gone(), now);
    assert_eq!(said(&mut early), ["failed"]);

    let (mut caller, now) = caller();
    caller.handle_response(init("a"), now);
    caller.handle_lost(gone(), now);
    caller.handle_lost(gone(), now + Duration::from_secs(1));
    assert_eq!(said(&mut caller), ["answer"]);
    assert_eq!(caller.poll_timeout(), now + ALONE);
    caller.handle_timeout(now + ALONE);
    let failed = std::iter::from_fn(|| caller.poll_output()).find_map(|output| match output {
        CallerOutput::Failed(failure) => Some(failure),
        _ => None,
    });
    assert!(failed.is_some_and(
        |failure| failure.what.contains("lost after the machine's answer") && failure.what.ends_with("gone")
    ));

    let mut early = Answerer::new();
    early.handle_request(offered(described(Kind::Offer, Setup::ActPass).encode()), SystemTime::UNIX_EPOCH, now);
    early.handle_lost(gone(), now);
    assert_eq!(answered(&mut early).last(), Some(&"failed"));
    let mut answerer = Answerer::new();
    answerer.handle_request(offered(described(Kind::Offer, Setup::ActPass).encode()), SystemTime::UNIX_EPOCH, now);
    answerer.handle_answer(answer(), now);
    answerer.handle_lost(gone(), now);
    assert!(!answered(&mut answerer).contains(&"failed"));
    answerer.handle_timeout(now + ALONE);
    assert!(answered(&mut answerer).contains(&"failed"));
}

fn request(uuid: &str, stage: answer_request::Stage) -> AnswerRequest {
    AnswerRequest { uuid: uuid.into(), stage: Some(stage) }
}

fn offered(sdp: String) -> AnswerRequest {
    request("a", answer_request::Stage::Init(AnswerRequestInitStage { sdp, ..Default::default() }))
}

/// What existing services send, byte by byte; a heartbeat is no offer, whenever it comes.
#[test]
fn a_heartbeat_is_read_and_means_nothing() {
    let beat = AnswerRequest::decode(&[0x32, 0x00][..]).expect("a message");
    assert_eq!(beat.stage, Some(answer_request::Stage::Heartbeat(AnswerRequestHeartbeatStage {})));
    let (mut answerer, now) = (Answerer::new(), Instant::now());
    for request in [beat.clone(), offered(described(Kind::Offer, Setup::ActPass).encode()), beat] {
        answerer.handle_request(request, SystemTime::UNIX_EPOCH, now);
    }
    assert_eq!(answered(&mut answerer), ["offer"]);
}

/// A candidate of the caller's.
fn told() -> AnswerRequest {
    let update = AnswerRequestUpdateStage { candidate: Some(candidate(LINE)) };
    request("a", answer_request::Stage::Update(update))
}

fn answered(answerer: &mut Answerer) -> Vec<&'static str> {
    use answer_response::Stage;
    std::iter::from_fn(|| answerer.poll_output())
        .map(|o| match o {
            AnswererOutput::Offer(_) => "offer",
            AnswererOutput::Remote(_) => "remote",
            AnswererOutput::Failed(_) => "failed",
            AnswererOutput::Send(s) => match s.stage {
                Some(Stage::Init(_)) => "init",
                Some(Stage::Update(_)) => "candidate",
                Some(Stage::Done(_)) => "done",
                Some(Stage::Error(_)) => "error",
                None => "nothing",
            },
        })
        .collect()
}

fn answerer() -> (Answerer, Instant, SystemTime) {
    let (mut answerer, now, wall) = (Answerer::new(), Instant::now(), SystemTime::now());
    answerer.handle_request(request("", answer_request::Stage::Heartbeat(AnswerRequestHeartbeatStage {})), wall, now);
    answerer.handle_request(offered(described(Kind::Offer, Setup::ActPass).encode()), wall, now);
    assert_eq!(answered(&mut answerer), ["offer"]);
    (answerer, now, wall)
}

#[test]
fn an_answerer_sends_its_answer_first_and_done_once() {
    let (mut answerer, now, wall) = answerer();
    answerer.handle_candidate(LINE);
    answerer.handle_gathered();
    let mut whole = answer();
    whole.complete = true;
    answerer.handle_answer(whole, now);
    assert_eq!(answered(&mut answerer), ["init", "candidate"]);
    answerer.handle_checked(now);
    answerer.handle_request(told(), wall, now);
    answerer.handle_request(request("a", answer_request::Stage::Done(AnswerRequestDoneStage {})), wall, now);
    answerer.handle_open();
    answerer.handle_end(Some(Failure::new(Code::Cancelled, "the stream")));
    assert_eq!(answered(&mut answerer), ["remote", "done"]);
}

#[test]
fn an_answerer_that_opens_first_is_done_before_the_caller_is() {
    let (mut answerer, now, _) = answerer();
    answerer.handle_answer(answer(), now);
    answerer.handle_open();
    assert_eq!(answered(&mut answerer), ["init", "done"]);
}

#[test]
fn no_check_can_succeed_before_the_caller_has_begun_with_the_answer() {
    let (mut answerer, now, wall) = answerer();
    answerer.handle_request(told(), wall, now);
    let mut first = answer();
    first.candidates.push(LINE.to_owned());
    answerer.handle_answer(first, now);
    answerer.handle_candidate(LINE);
    answerer.handle_gathered();
    answerer.handle_request(told(), wall, now);
    answerer.handle_request(request("a", answer_request::Stage::Done(AnswerRequestDoneStage {})), wall, now);
    let Some(AnswererOutput::Send(AnswerResponse { stage: Some(answer_response::Stage::Init(init)), .. })) =
        answerer.poll_output()
    else {
        panic!("the answer comes first")
    };
    assert_eq!(Description::decode(&init.sdp).expect("an answer").candidates, [""; 0]);
    let due = answerer.poll_timeout().expect("something waits");
    assert_eq!(due, now + HEAD_START);
    answerer.handle_timeout(due - Duration::from_nanos(1));
    assert!(answered(&mut answerer).is_empty(), "neither side's candidates, and no end, are told early");
    answerer.handle_timeout(due);
    assert_eq!(answered(&mut answerer), ["candidate", "candidate"]);
    let due = answerer.poll_timeout().expect("something waits");
    assert_eq!(due, now + HEAD_START + PATIENCE);
    answerer.handle_timeout(due);
    assert_eq!(answered(&mut answerer), ["remote", "remote", "done"]);
}

#[test]
fn an_existing_caller_is_checked_once_it_has_checked_us_and_one_of_ours_as_soon_as_it_knows_us() {
    let (now, wall) = (Instant::now(), SystemTime::now());
    let mut offer = described(Kind::Offer, Setup::ActPass);
    offer.candidates.push(LINE.to_owned());
    let begun = |offer: &Description| {
        let mut answerer = Answerer::new();
        answerer.handle_request(offered(offer.encode()), wall, now);
        let Some(AnswererOutput::Offer(given)) = answerer.poll_output() else { panic!("an offer") };
        answerer.handle_request(told(), wall, now);
        let mut answer = answer();
        answer.candidates.push(LINE.to_owned());
        answerer.handle_answer(answer, now);
        let Some(AnswererOutput::Send(sent)) = answerer.poll_output() else { panic!("an answer") };
        let Some(answer_response::Stage::Init(init)) = sent.stage else { panic!("an answer") };
        let sent = Description::decode(&init.sdp).expect("an answer").candidates.len();
        (given.description.candidates.len(), sent, answered(&mut answerer), answerer)
    };
    let (in_offer, in_answer, said, mut answerer) = begun(&offer);
    assert_eq!((in_offer, in_answer, said), (0, 0, vec![]));
    answerer.handle_timeout(now + HEAD_START);
    assert_eq!(answered(&mut answerer), ["candidate"]);
    answerer.handle_checked(now);
    assert_eq!(answered(&mut answerer), ["remote", "remote"]);
    answerer.handle_request(told(), wall, now);
    assert_eq!(answered(&mut answerer), ["remote"]);
    offer.sctp_init = Some(vec![1; 20]);
    let (in_offer, in_answer, said, mut answerer) = begun(&offer);
    // At once; our candidate is in the answer and does not follow it.
    assert_eq!((in_offer, in_answer, said), (1, 1, vec!["remote"]));
    answerer.handle_timeout(now + HEAD_START);
    assert_eq!(answered(&mut answerer), [""; 0]);
}

#[test]
fn loopback_is_told_last_to_an_existing_caller_once_it_has_checked_us() {
    let other = "candidate:2 1 udp 1 ::1 4000 typ host";
    let loopback = "candidate:3 1 udp 1 127.0.0.1 4000 typ host";
    let begun = |candidates: &[&str]| {
        let (mut answerer, now, _) = answerer();
        let mut answer = answer();
        answer.candidates.extend(candidates.iter().map(|text| (*text).to_owned()));
        answerer.handle_answer(answer, now);
        answerer.handle_gathered();
        answerer.handle_timeout(now + HEAD_START);
        (answerer, now + HEAD_START)
    };
    let next = |answerer: &mut Answerer| {
        let due = answerer.poll_timeout().expect("something waits");
        answerer.handle_timeout(due - Duration::from_nanos(1));
        assert!(answered(answerer).is_empty());
        answerer.handle_timeout(due);
        (due, answered(answerer))
    };
    let (mut checked, seen) = begun(&[other, LINE, loopback]);
    assert_eq!(answered(&mut checked), ["init", "candidate"]);
    checked.handle_request(
        request("a", answer_request::Stage::Done(AnswerRequestDoneStage {})),
        SystemTime::now(),
        seen,
    );
    checked.handle_checked(seen);
    assert!(answered(&mut checked).is_empty(), "neither early nor done");
    assert_eq!(next(&mut checked), (seen + NUDGES[0], vec!["candidate"]));
    assert_eq!(next(&mut checked), (seen + NUDGES[0] + NUDGES[1], vec!["candidate", "done"]));

    // One that does not find us by the others gets them all, and one that can only find us there at once.
    let (mut lost, seen) = begun(&[other, LINE, loopback]);
    assert_eq!(answered(&mut lost), ["init", "candidate"]);
    assert_eq!(next(&mut lost), (seen + PATIENCE, vec!["candidate", "candidate"]));
    let (mut alone, _) = begun(&[other, loopback]);
    assert_eq!(answered(&mut alone), ["init", "candidate", "candidate"]);

    // Nobody needs them any more.
    let (mut open, seen) = begun(&[LINE, loopback]);
    open.handle_checked(seen);
    open.handle_open();
    open.handle_timeout(seen + PATIENCE);
    assert_eq!(answered(&mut open), ["init", "candidate", "done"]);
}

#[test]
fn an_answerer_refuses_a_second_offer_another_exchange_and_what_cannot_be_read() {
    let offer = described(Kind::Offer, Setup::ActPass).encode();
    let (mut twice, now, wall) = answerer();
    twice.handle_request(offered(offer.clone()), wall, now);
    assert_eq!(answered(&mut twice), ["error", "failed"]);
    let (mut mixed, ..) = answerer();
    mixed.handle_request(request("b", answer_request::Stage::Done(AnswerRequestDoneStage {})), wall, now);
    assert_eq!(answered(&mut mixed), ["error", "failed"]);
    for sdp in ["%".to_owned(), "A".repeat(1 << 20), answer().encode()] {
        let mut fresh = Answerer::new();
        fresh.handle_request(offered(sdp), wall, now);
        assert_eq!(answered(&mut fresh), ["error", "failed"]);
    }
}

#[test]
fn an_offer_that_never_finishes_times_out_and_a_caller_that_gives_up_ends_it() {
    let (mut late, now, wall) = answerer();
    assert_eq!(late.poll_timeout(), Some(now + OFFER_LIFE));
    late.handle_timeout(now + OFFER_LIFE);
    assert_eq!(answered(&mut late), ["error", "failed"]);
    let (mut given_up, ..) = answerer();
    let status = Some(RpcStatus { code: 4, message: "too slow".into(), details: Vec::new() });
    let error = request("a", answer_request::Stage::Error(AnswerRequestErrorStage { status }));
    given_up.handle_request(error, wall, now);
    assert_eq!(answered(&mut given_up), ["failed"]);
}

#[test]
fn a_deadline_of_a_clock_that_is_wrong_leaves_time_and_is_bounded() {
    let (now, wall) = (Instant::now(), SystemTime::now());
    let unix = wall.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    for (seconds, expected) in [(unix - 3600, EARLIEST), (unix + 3600, LATEST), (unix + 9, Duration::from_secs(9))] {
        let mut answerer = Answerer::new();
        let mut request = offered(described(Kind::Offer, Setup::ActPass).encode());
        if let Some(answer_request::Stage::Init(init)) = &mut request.stage {
            init.deadline.get_or_insert_default().seconds = i64::try_from(seconds).expect("fits");
        }
        answerer.handle_request(request, wall, now);
        let left = answerer.poll_timeout().expect("set") - now;
        assert!(left <= expected && left + Duration::from_secs(1) >= expected, "{left:?} {expected:?}");
    }
}

#[test]
fn candidates_are_bounded_on_both_sides() {
    let (mut caller, now) = caller();
    caller.handle_response(init("a"), now);
    for _ in 0..1000 {
        caller.handle_candidate(LINE);
        caller.handle_response(update("a"), now);
    }
    let said = said(&mut caller);
    assert_eq!(said.iter().filter(|s| **s == "candidate").count(), MAX_CANDIDATES);
    assert_eq!(said.iter().filter(|s| **s == "remote").count(), MAX_CANDIDATES);
}
