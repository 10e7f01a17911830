// SPDX-License-Identifier: GPL-2.0

//! Rows of active origins and snapshots, kept in core between commits.
//!
//! An I/O changes a row's counters often; writing the row into its tree each time would double the
//! tree's work. Here a changed row waits for the commit that needs it.

use kernel::prelude::*;

struct Entry<R> {
    key: u64,
    row: R,
    /// It differs from its tree.
    changed: bool,
    /// It differs from what the journal and its tree say together.
    unlogged: bool,
}

/// Rows by key, in order. One per active device, so a binary search is enough.
pub(super) struct RowCache<R> {
    entries: KVec<Entry<R>>,
}

impl<R: Copy + PartialEq> RowCache<R> {
    pub(super) const fn new() -> Self {
        Self {
            entries: KVec::new(),
        }
    }

    fn position(&self, key: u64) -> core::result::Result<usize, usize> {
        self.entries.binary_search_by_key(&key, |entry| entry.key)
    }

    pub(super) fn contains(&self, key: u64) -> bool {
        self.position(key).is_ok()
    }

    pub(super) fn get(&self, key: u64) -> Option<&R> {
        let index = self.position(key).ok()?;
        self.entries.get(index).map(|entry| &entry.row)
    }

    /// Adds a row as it stands in its tree. Replaces one with the same key.
    pub(super) fn insert(&mut self, key: u64, row: R) -> Result {
        let entry = Entry {
            key,
            row,
            changed: false,
            unlogged: false,
        };
        match self.position(key) {
            Ok(index) => {
                if let Some(place) = self.entries.get_mut(index) {
                    *place = entry;
                }
            }
            Err(index) => {
                self.entries.reserve(1, GFP_KERNEL)?;
                self.entries
                    .insert_within_capacity(index, entry)
                    .map_err(|_| ENOMEM)?;
            }
        }
        Ok(())
    }

    /// Changes a row that is in core; `false` when it is not, and must go to its tree.
    pub(super) fn update(&mut self, key: u64, row: &R) -> bool {
        let Ok(index) = self.position(key) else {
            return false;
        };
        match self.entries.get_mut(index) {
            Some(entry) => {
                if entry.row != *row {
                    entry.row = *row;
                    entry.changed = true;
                    entry.unlogged = true;
                }
                true
            }
            None => false,
        }
    }

    pub(super) fn remove(&mut self, key: u64) {
        if let Ok(index) = self.position(key) {
            let _ = self.entries.remove(index);
        }
    }

    /// A row that differs from its tree.
    pub(super) fn changed(&self) -> Option<(u64, &R)> {
        let entry = self.entries.iter().find(|entry| entry.changed)?;
        Some((entry.key, &entry.row))
    }

    /// A row has been written to its tree.
    pub(super) fn set_written(&mut self, key: u64) {
        if let Ok(index) = self.position(key) {
            if let Some(entry) = self.entries.get_mut(index) {
                entry.changed = false;
            }
        }
    }

    /// A row, if it has changed since [`RowCache::set_logged`].
    pub(super) fn unlogged(&self, key: u64) -> Option<&R> {
        let entry = self.entries.get(self.position(key).ok()?)?;
        entry.unlogged.then_some(&entry.row)
    }

    /// All such rows, by key.
    pub(super) fn all_unlogged(&self) -> impl Iterator<Item = (u64, &R)> {
        let unlogged = self.entries.iter().filter(|entry| entry.unlogged);
        unlogged.map(|entry| (entry.key, &entry.row))
    }

    /// All rows are durable.
    pub(super) fn set_logged(&mut self) {
        for entry in self.entries.iter_mut() {
            entry.unlogged = false;
        }
    }
}
