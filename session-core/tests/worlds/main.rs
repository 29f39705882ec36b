//! Lives of machines and clients that bytes tell: generated ones, and the fuzzers' committed ones.

mod bytes;
mod client;
#[path = "../../../fuzz/src/corpus.rs"]
mod corpus;
mod pair;
mod registry;
mod schedules;
mod targets;

#[test]
fn registry_model() {
    let lengths = (120, registry::LENGTH);
    schedules::hold("registry_model", 40_000, lengths, registry::Event::all, |events| registry::run(events));
}

#[test]
fn client_model() {
    schedules::hold("client_model", 40_000, (120, client::LENGTH), client::Life::of, client::run);
}

#[test]
fn pair_ours_with_ours() {
    let lengths = (60, pair::LENGTH);
    schedules::hold("pair_ours_with_ours", 35_000, lengths, pair::Life::of, |life| pair::run(true, life));
}

#[test]
fn pair_ours_with_a_machine_that_does_not_take_order() {
    let lengths = (60, pair::LENGTH);
    let name = "pair_ours_with_a_machine_that_does_not_take_order";
    schedules::hold(name, 30_000, lengths, pair::Life::of, |life| pair::run(false, life));
}

#[test]
fn corpus_client_session() {
    corpus::replay("client_session", targets::client_session);
}

#[test]
fn corpus_session_registry() {
    corpus::replay("session_registry", targets::session_registry);
}

#[test]
fn corpus_pair() {
    corpus::replay("pair", targets::pair);
}

#[test]
fn corpus_order_header() {
    corpus::replay("order_header", targets::order_header);
}
