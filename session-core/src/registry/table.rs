//! The live sessions by id. A beat of one among a hundred thousand costs one look into memory that is not warm.

#![allow(
    clippy::disallowed_types,
    reason = "looked up by key; where all are listed, they are listed in the order of their ids"
)]

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::SessionId;

/// Values by session id.
pub(super) struct Table<V>(HashMap<SessionId, V, BuildHasherDefault<Mixed>>);

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<V> Table<V> {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn contains(&self, id: SessionId) -> bool {
        self.0.contains_key(&id)
    }

    pub(super) fn get(&self, id: SessionId) -> Option<&V> {
        self.0.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: SessionId) -> Option<&mut V> {
        self.0.get_mut(&id)
    }

    pub(super) fn insert(&mut self, id: SessionId, value: V) {
        self.0.insert(id, value);
    }

    pub(super) fn remove(&mut self, id: SessionId) -> Option<V> {
        self.0.remove(&id)
    }

    /// Every entry, in the order of the ids.
    pub(super) fn in_order(&self) -> Vec<(SessionId, &V)> {
        let mut all: Vec<_> = self.0.iter().map(|(id, value)| (*id, value)).collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }
}

/// The machine makes its ids itself, at random: nobody can choose ids that meet in one place, and nothing has to be hashed against that.
#[derive(Default)]
pub(super) struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u128(&mut self, id: u128) {
        let folded = (id >> 64) as u64 ^ id as u64;
        // Tests number their sessions from one: their high bits have to differ too.
        self.0 = folded.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
