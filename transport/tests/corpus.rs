//! What fuzzers have found worth keeping, and many packets at random, read by what reads the network.
#![cfg(feature = "webrtc")]

#[path = "../../fuzz/src/wire.rs"]
mod wire;

use std::fs;
use std::path::Path;

use proptest::prelude::*;

/// Gives `target` every committed file of its corpus.
fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let files = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{name} has no corpus");
    for path in &paths {
        println!("{}", path.display());
        target(&fs::read(path).expect("readable"));
    }
}

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
