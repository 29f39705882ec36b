//! Packets that fuzzers have found worth keeping.

#[path = "../../fuzz/src/dns.rs"]
mod dns;

use std::fs;
use std::path::Path;

#[test]
fn corpus_dns() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/dns");
    let mut paths: Vec<_> = fs::read_dir(&folder).expect("a corpus").map(|file| file.expect("a file").path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in &paths {
        println!("{}", path.display());
        dns::packet(&fs::read(path).expect("readable"));
    }
}
