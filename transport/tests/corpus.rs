//! What fuzzers have found worth keeping, and many packets at random, read by what reads the network.
#![cfg(feature = "webrtc")]

#[path = "../../fuzz/src/corpus.rs"]
mod corpus;
#[path = "../../fuzz/src/wire.rs"]
mod wire;

use corpus::replay;
use proptest::prelude::*;

#[test]
fn corpus_frame() {
    replay("frame", wire::frame);
}

#[test]
fn corpus_mux() {
    replay("mux", wire::mux);
}

#[test]
fn corpus_sdp() {
    replay("sdp", wire::sdp);
}

#[test]
fn corpus_exchange() {
    replay("exchange", wire::exchange);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        wire::frame(&bytes);
        wire::mux(&bytes);
        wire::sdp(&bytes);
        wire::exchange(&bytes);
    }
}
