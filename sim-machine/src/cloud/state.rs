//! What a cloud knows: its users, its machines, kept in one file.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use machine_host::{API_KEY, Principal, ROBOT_SECRET};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The file's name in the state directory; nobody else may read it.
const FILE: &str = "cloud.json";

/// Users and machines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Who may call which machines.
    pub users: Vec<User>,
    /// Who answers.
    pub machines: Vec<Part>,
}

/// An api key and what it is good for.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The key's id, a UUID: existing SDKs want one.
    pub id: String,
    /// The key.
    pub key: String,
    /// The names of the machines that it may call.
    pub machines: Vec<String>,
}

/// A machine.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its part id.
    pub id: String,
    /// The part's secret.
    pub secret: String,
    /// Its name, `<machine>.<location>.viam.cloud`.
    pub name: String,
    /// An api key that it may prove itself by instead.
    #[serde(default)]
    pub api_key: Option<PartKey>,
}

/// A machine's api key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartKey {
    /// Its id, a UUID.
    pub id: String,
    /// The key.
    pub key: String,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("id", &self.id).field("machines", &self.machines).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Part").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why the state cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file cannot be read or written.
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
    /// It holds something else.
    #[error("{0}: {1}; mend it, or remove it to have a new one made")]
    Json(PathBuf, serde_json::Error),
}

impl State {
    /// Where the file is.
    pub fn path(folder: &Path) -> PathBuf {
        folder.join(FILE)
    }

    /// Reads the file of `folder`, and adds what `machines` names and it does not have: each with a secret of its own, and for the first
    /// user to call. Written only where something was added.
    pub fn open(folder: &Path, machines: &[String]) -> Result<Self, StateError> {
        let path = Self::path(folder);
        let mut state = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|e| StateError::Json(path.clone(), e))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(e) => return Err(StateError::File(path, e)),
        };
        let before = state.clone();
        if state.users.is_empty() {
            state.users.push(User { id: Uuid::new_v4().to_string(), key: secret(), machines: Vec::new() });
        }
        for name in machines {
            if state.machines.iter().all(|machine| machine.name != *name) {
                let api_key = Some(PartKey { id: Uuid::new_v4().to_string(), key: secret() });
                state.machines.push(Part {
                    id: Uuid::new_v4().to_string(),
                    secret: secret(),
                    name: name.clone(),
                    api_key,
                });
            }
            let user = &mut state.users[0];
            if !user.machines.contains(name) {
                user.machines.push(name.clone());
            }
        }
        if state != before {
            state.write(folder, &path).map_err(|e| StateError::File(path, e))?;
        }
        Ok(state)
    }

    /// Whole or not at all: a process that is killed leaves no half of a file.
    fn write(&self, folder: &Path, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let fresh = path.with_extension("new");
        let _ = fs::remove_file(&fresh);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    }

    /// Everybody's secret.
    pub(super) fn secrets(&self) -> BTreeMap<Principal, String> {
        let of = |kind: &str, id: &str| Principal { kind: kind.to_owned(), id: id.to_owned() };
        let users = self.users.iter().map(|user| (of(API_KEY, &user.id), user.key.clone()));
        let machines = self.machines.iter().map(|part| (of(ROBOT_SECRET, &part.id), part.secret.clone()));
        let keys = self.machines.iter().filter_map(|part| part.api_key.as_ref());
        users.chain(machines).chain(keys.map(|key| (of(API_KEY, &key.id), key.key.clone()))).collect()
    }

    /// Whether this key is good for that machine.
    pub(super) fn may_call(&self, principal: &Principal, host: &str) -> bool {
        let gives = |user: &User| user.id == principal.id && user.machines.iter().any(|name| name == host);
        principal.kind == API_KEY && self.users.iter().any(gives) && self.machines.iter().any(|m| m.name == host)
    }

    /// Whether this is that machine.
    pub(super) fn may_answer(&self, principal: &Principal, host: &str) -> bool {
        let is = |part: &&Part| match principal.kind.as_str() {
            ROBOT_SECRET => part.id == principal.id,
            API_KEY => part.api_key.as_ref().is_some_and(|key| key.id == principal.id),
            _ => false,
        };
        self.machines.iter().filter(is).any(|part| part.name == host)
    }
}

/// 244 random bits.
fn secret() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_machines_added_to_what_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = State::open(folder.path(), &["a.x.viam.cloud".to_owned()]).expect("made");
        assert_eq!(State::open(folder.path(), &["a.x.viam.cloud".to_owned()]).expect("read"), first);
        let second = State::open(folder.path(), &["b.x.viam.cloud".to_owned()]).expect("added");
        assert_eq!((&second.machines[0], second.machines.len()), (&first.machines[0], 2));
        assert_eq!(second.users[0].machines, ["a.x.viam.cloud", "b.x.viam.cloud"]);
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(State::path(folder.path())).expect("there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "others may not read it");
        fs::write(State::path(folder.path()), "{").expect("written");
        assert!(State::open(folder.path(), &[]).expect_err("no JSON").to_string().contains("mend it"));
    }

    #[test]
    fn a_key_calls_its_machines_and_a_machine_answers_for_itself() {
        let part = |id: &str, name: &str| Part {
            id: id.into(),
            secret: "s".into(),
            name: name.into(),
            api_key: Some(PartKey { id: format!("key of {id}"), key: "k".into() }),
        };
        let user = User { id: "u".into(), key: "k".into(), machines: vec!["m1".into(), "gone".into()] };
        let state = State { users: vec![user], machines: vec![part("p1", "m1"), part("p2", "m2")] };
        let of = |kind: &str, id: &str| Principal { kind: kind.into(), id: id.into() };
        assert!(state.may_call(&of(API_KEY, "u"), "m1"));
        for (who, host) in [("u", "m2"), ("u", "gone"), ("v", "m1")] {
            assert!(!state.may_call(&of(API_KEY, who), host), "{who} {host}");
        }
        assert!(!state.may_call(&of(ROBOT_SECRET, "u"), "m1"));
        assert!(state.may_answer(&of(ROBOT_SECRET, "p1"), "m1"));
        assert!(
            state.may_answer(&of(API_KEY, "key of p1"), "m1") && !state.may_answer(&of(API_KEY, "key of p1"), "m2")
        );
        assert!(
            !state.may_answer(&of(ROBOT_SECRET, "key of p1"), "m1") && !state.may_call(&of(API_KEY, "key of p1"), "m1")
        );
        assert!(!state.may_answer(&of(ROBOT_SECRET, "p1"), "m2") && !state.may_answer(&of(API_KEY, "p1"), "m1"));
    }
}
