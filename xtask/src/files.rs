//! Small views of the file tree.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Every file below `folder`, in no particular order. An absent folder has none.
pub fn walk(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(next) = open.pop() {
        let entries = match fs::read_dir(&next) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() { open.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    Ok(found)
}

/// The contents of every file below `folder`, by path relative to it.
#[cfg_attr(not(feature = "codegen"), expect(dead_code))]
pub fn contents(folder: &Path) -> io::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut all = BTreeMap::new();
    for path in walk(folder)? {
        let relative = path.strip_prefix(folder).map_err(io::Error::other)?.to_path_buf();
        all.insert(relative, fs::read(&path)?);
    }
    Ok(all)
}
