//! Packets that fuzzers have found worth keeping.

#[path = "../../fuzz/src/corpus.rs"]
mod corpus;
#[path = "../../fuzz/src/dns.rs"]
mod dns;

#[test]
fn corpus_dns() {
    corpus::replay("dns", dns::packet);
}
