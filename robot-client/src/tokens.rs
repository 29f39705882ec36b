//! Tokens of earlier links: with one, a dial costs no question for authentication.

use std::collections::VecDeque;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// How long a token is used again. Those of our machines live for 24 h.
const LIFE: Duration = Duration::from_secs(12 * 3600);
/// Tokens kept in memory: a program that talks to more machines asks for the oldest again.
const KEPT: usize = 256;
/// The longest token that is read from a file; ours are below 1,000 bytes.
const LONGEST: u64 = 16 << 10;

/// Keeps tokens between links. A token that the machine does not accept any more costs one more question, never a failed call.
///
/// `holder` stands for one machine, as it was dialled, or one signaling service, and one credential: a digest that tells none of them.
pub trait TokenStore: Send + Sync + 'static {
    /// The token of an earlier link.
    fn token(&self, holder: &str) -> Option<String>;
    /// A new one.
    fn keep(&self, holder: &str, token: &str);
    /// The machine does not accept it any more.
    fn forget(&self, holder: &str);
}

/// Keeps no tokens.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTokens;

impl TokenStore for NoTokens {
    fn token(&self, _: &str) -> Option<String> {
        None
    }

    fn keep(&self, _: &str, _: &str) {}

    fn forget(&self, _: &str) {}
}

/// Keeps tokens as long as the process runs: at most 256, each for 12 h.
#[derive(Default)]
pub struct MemoryTokens(Mutex<VecDeque<Kept>>);

struct Kept {
    holder: String,
    token: String,
    since: SystemTime,
}

impl std::fmt::Debug for MemoryTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MemoryTokens")
    }
}

impl TokenStore for MemoryTokens {
    fn token(&self, holder: &str) -> Option<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().find(|kept| kept.holder == holder && is_fresh(kept.since)).map(|kept| kept.token.clone())
    }

    fn keep(&self, holder: &str, token: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|kept| kept.holder != holder);
        all.truncate(KEPT - 1);
        all.push_front(Kept { holder: holder.to_owned(), token: token.to_owned(), since: SystemTime::now() });
    }

    fn forget(&self, holder: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|kept| kept.holder != holder);
    }
}

/// Keeps tokens in files that only their owner can read (0600), for programs that start often. Each for 12 h.
///
/// Whoever can read the folder can use the tokens. Errors of the file system mean that no token is kept.
#[derive(Clone, Debug)]
pub struct FileTokens(PathBuf);

impl FileTokens {
    /// In this folder, made at first use (0700).
    pub fn at(folder: impl AsRef<Path>) -> Self {
        Self(folder.as_ref().to_path_buf())
    }

    fn write(&self, holder: &str, token: &str) -> std::io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        // Written aside and put in place whole: two programs never read half of it.
        let aside = self.0.join(format!("{holder}.{}", std::process::id()));
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        file.write_all(token.as_bytes())?;
        fs::rename(aside, self.0.join(holder))
    }
}

impl TokenStore for FileTokens {
    fn token(&self, holder: &str) -> Option<String> {
        let path = self.0.join(holder);
        let about = fs::metadata(&path).ok()?;
        if about.len() > LONGEST || !is_fresh(about.modified().ok()?) {
            return None;
        }
        fs::read_to_string(path).ok()
    }

    fn keep(&self, holder: &str, token: &str) {
        if let Err(error) = self.write(holder, token) {
            tracing::debug!(%error, folder = %self.0.display(), "a token is not kept");
        }
    }

    fn forget(&self, holder: &str) {
        // Where it cannot be removed the next link asks for a new one all the same.
        let _ = fs::remove_file(self.0.join(holder));
    }
}

/// A clock that was set back makes nothing young.
fn is_fresh(since: SystemTime) -> bool {
    since.elapsed().is_ok_and(|age| age < LIFE)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn tokens_in_files_are_for_their_owner_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let tokens = FileTokens::at(folder.path().join("tokens"));
        tokens.keep("holder", "secret");
        assert_eq!(tokens.token("holder").as_deref(), Some("secret"));
        let file = fs::metadata(folder.path().join("tokens/holder")).expect("written");
        assert_eq!(file.permissions().mode() & 0o777, 0o600);
        tokens.forget("holder");
        assert_eq!(tokens.token("holder"), None);
    }

    #[test]
    fn memory_keeps_the_newest_of_each_holder_and_not_more_than_its_bound() {
        let tokens = MemoryTokens::default();
        for at in 0..2 * KEPT {
            tokens.keep(&at.to_string(), "old");
            tokens.keep(&at.to_string(), "new");
        }
        assert_eq!(tokens.0.lock().expect("no panic").len(), KEPT);
        assert_eq!(tokens.token("0"), None);
        assert_eq!(tokens.token(&(2 * KEPT - 1).to_string()).as_deref(), Some("new"));
    }
}
