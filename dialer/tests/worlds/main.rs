//! Lives of the agent that bytes tell: generated ones, and the fuzzer's committed ones.

#[path = "../../../session-core/tests/worlds/bytes.rs"]
mod bytes;
#[path = "../../../fuzz/src/corpus.rs"]
mod corpus;
mod routes;
#[path = "../../../session-core/tests/worlds/schedules.rs"]
mod schedules;

#[test]
fn route_agent_model() {
    schedules::hold("route_agent_model", 3_000, (120, routes::LENGTH), routes::Life::of, routes::run);
}

#[test]
fn corpus_route_agent() {
    corpus::replay("route_agent", |bytes| routes::run(&routes::Life::of(bytes)));
}
