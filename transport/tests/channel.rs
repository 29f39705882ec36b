//! gRPC over data channels in memory.

mod conformance;

use std::time::Duration;

use conformance::suite;
use transport::webrtc::{DataChannel, PairLimits};

#[tokio::test]
async fn a_pair_in_memory_conforms() {
    suite(|| async { DataChannel::pair(PairLimits::default()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pair_in_memory_conforms_on_several_threads() {
    suite(|| async { DataChannel::pair(PairLimits::default()) }).await;
}

#[tokio::test]
async fn a_pair_with_a_delay_conforms() {
    let limits = PairLimits { delay: Duration::from_millis(2), rate: None, window: 1 << 20 };
    suite(|| async { DataChannel::pair(limits) }).await;
}
