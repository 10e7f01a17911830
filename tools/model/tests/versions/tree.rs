// SPDX-License-Identifier: GPL-2.0

//! An ordered map that can go back to its last commit.

use std::collections::BTreeMap;
use std::fmt::Debug;

#[derive(Clone)]
pub struct Tree<K, V> {
    map: BTreeMap<K, V>,
    /// What stood there before each change since the last commit.
    undo: Vec<(K, Option<V>)>,
}

impl<K: Ord + Clone + Debug, V: Clone> Tree<K, V> {
    pub fn new() -> Self {
        Tree {
            map: BTreeMap::new(),
            undo: Vec::new(),
        }
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        self.map.get(key)
    }

    /// The first entry that is not below `key`.
    pub fn from(&self, key: &K) -> Option<(&K, &V)> {
        self.map.range(key..).next()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> + Clone {
        self.map.iter()
    }

    pub fn insert(&mut self, key: K, value: V) {
        let old = self.map.insert(key.clone(), value);
        self.undo.push((key, old));
    }

    /// Removes what must be there.
    pub fn remove(&mut self, key: &K) {
        let old = self.map.remove(key);
        assert!(old.is_some(), "removes {key:?}, which is not there");
        self.undo.push((key.clone(), old));
    }

    pub fn changes(&self) -> usize {
        self.undo.len()
    }

    pub fn commit(&mut self) {
        self.undo.clear();
    }

    pub fn abort(&mut self) {
        while let Some((key, old)) = self.undo.pop() {
            match old {
                Some(old) => self.map.insert(key, old),
                None => self.map.remove(&key),
            };
        }
    }
}
