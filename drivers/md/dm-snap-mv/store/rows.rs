// SPDX-License-Identifier: GPL-2.0

//! Rows of active origins and snapshots, kept in core between commits.
//!
//! An I/O changes a row's counters often; writing the row into its tree each time would double the
//! tree's work. Here a changed row waits for the commit that needs it. What has changed is listed:
//! with many active devices, an I/O to one of them must not look at the rows of all.

use kernel::prelude::*;
use kernel::warn_on;

struct Entry<R> {
    key: u64,
    row: R,
    /// It differs from its tree.
    changed: bool,
    /// It differs from what the journal and its tree say together.
    unlogged: bool,
    /// It differs from what the status line says.
    untold: bool,
}

/// Rows by key, in order. One per active device, so a binary search is enough.
pub(super) struct RowCache<R> {
    entries: KVec<Entry<R>>,
    /// The keys of those that differ from something, in no order. There is room for all.
    changed: KVec<u64>,
    unlogged: KVec<u64>,
    untold: KVec<u64>,
}

/// Adds a key to a list that it is not in.
fn list(keys: &mut KVec<u64>, key: u64) {
    // `RowCache::insert` has made room for each row.
    let listed = keys.push_within_capacity(key);
    warn_on!(listed.is_err());
}

impl<R: Copy + PartialEq> RowCache<R> {
    pub(super) const fn new() -> Self {
        Self {
            entries: KVec::new(),
            changed: KVec::new(),
            unlogged: KVec::new(),
            untold: KVec::new(),
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
            untold: false,
        };
        let rows = self.entries.len() + 1;
        for keys in [&mut self.changed, &mut self.unlogged, &mut self.untold] {
            keys.reserve(rows.saturating_sub(keys.len()), GFP_KERNEL)?;
        }
        self.entries.reserve(1, GFP_KERNEL)?;
        self.remove(key);
        let index = self.position(key).unwrap_or_else(|index| index);
        let inserted = self.entries.insert_within_capacity(index, entry);
        inserted.map_err(|_| ENOMEM)
    }

    /// Changes a row that is in core; `false` when it is not, and must go to its tree.
    pub(super) fn update(&mut self, key: u64, row: &R) -> bool {
        match self.get(key) {
            None => false,
            Some(now) if now == row => true,
            Some(_) => self.modify(key, |now| *now = *row),
        }
    }

    /// Changes a row that is in core where it is; `false` when it is not.
    pub(super) fn modify(&mut self, key: u64, change: impl FnOnce(&mut R)) -> bool {
        let found = self.position(key).ok();
        let Some(entry) = found.and_then(|index| self.entries.get_mut(index)) else {
            return false;
        };
        change(&mut entry.row);
        for (is_listed, keys) in [
            (&mut entry.changed, &mut self.changed),
            (&mut entry.unlogged, &mut self.unlogged),
            (&mut entry.untold, &mut self.untold),
        ] {
            if !core::mem::replace(is_listed, true) {
                list(keys, key);
            }
        }
        true
    }

    pub(super) fn remove(&mut self, key: u64) {
        if let Ok(index) = self.position(key) {
            let _ = self.entries.remove(index);
            for keys in [&mut self.changed, &mut self.unlogged, &mut self.untold] {
                keys.retain(|other| *other != key);
            }
        }
    }

    fn listed(&self, keys: &[u64]) -> Option<&Entry<R>> {
        self.entries.get(self.position(*keys.last()?).ok()?)
    }

    /// How many rows differ from their tree.
    pub(super) fn changed_rows(&self) -> u64 {
        self.changed.len() as u64
    }

    /// A row that differs from its tree.
    pub(super) fn changed(&self) -> Option<(u64, &R)> {
        let entry = self.listed(&self.changed)?;
        Some((entry.key, &entry.row))
    }

    /// The row that [`RowCache::changed`] gave has been written to its tree.
    pub(super) fn set_written(&mut self) {
        let key = self.changed.pop();
        if let Some(entry) = key.and_then(|key| self.entry(key)) {
            entry.changed = false;
        }
    }

    fn entry(&mut self, key: u64) -> Option<&mut Entry<R>> {
        let index = self.position(key).ok()?;
        self.entries.get_mut(index)
    }

    /// A row that has changed since the status line was written. It counts as told then.
    pub(super) fn take_untold(&mut self) -> Option<(u64, R)> {
        let key = self.untold.pop()?;
        let entry = self.entry(key)?;
        entry.untold = false;
        Some((key, entry.row))
    }

    /// A row, if it has changed since [`RowCache::set_logged`].
    pub(super) fn unlogged(&self, key: u64) -> Option<&R> {
        let entry = self.entries.get(self.position(key).ok()?)?;
        entry.unlogged.then_some(&entry.row)
    }

    /// All such rows.
    pub(super) fn all_unlogged(&self) -> impl Iterator<Item = (u64, &R)> {
        let rows = self.unlogged.iter();
        rows.filter_map(|&key| Some((key, self.unlogged(key)?)))
    }

    /// All rows are durable.
    pub(super) fn set_logged(&mut self) {
        while let Some(key) = self.unlogged.pop() {
            if let Some(entry) = self.entry(key) {
                entry.unlogged = false;
            }
        }
    }
}
