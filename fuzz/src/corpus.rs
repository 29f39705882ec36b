//! The committed corpus, for the tests of whatever crate a target is about. Included there by its path.

use std::fs;
use std::path::Path;

/// Gives `target` every committed file of its corpus, and fails where there is none.
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
