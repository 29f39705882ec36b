//! The fuzzers' corpus, and many random bytes besides.

use std::fs;
use std::path::Path;

/// Gives `target` every committed file of its corpus; how many.
pub fn replay(name: &str, target: fn(&[u8])) {
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
