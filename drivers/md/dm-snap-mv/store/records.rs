// SPDX-License-Identifier: GPL-2.0

//! The tree of records.
//!
//! Records of chunks that follow one another are often asked for one behind the other: for a long
//! read or write of a snapshot, and for a rollback. A look-up of the tree takes time, so the answer
//! to the last one is remembered and, when they are asked for in that way, the records behind it too.
//! What is remembered of keys behind a change stays true.

use crate::dm::pdata::{BTree, LeafTree, Transaction};
use crate::model::record_key::KEY_STEP;
use core::cell::RefCell;
use kernel::error::Result;
use kernel::prelude::*;

/// Records remembered at a time.
const AHEAD: usize = 64;

/// Keys with a distance up to this are of chunks that follow one another.
const NEAR: u64 = 4 * KEY_STEP;

/// What is remembered of a timeline.
struct Ahead {
    /// Which it is; none has number 0.
    timeline: u64,
    /// The key asked for last.
    asked: u64,
    /// From this key up to that of the last of them `records` has all that there are.
    from: u64,
    /// How many.
    len: usize,
    /// There are none behind those either.
    end: bool,
    records: KVec<(u64, u64)>,
}

impl Ahead {
    fn new() -> Result<Self> {
        Ok(Self {
            timeline: 0,
            asked: 0,
            from: 0,
            len: 0,
            end: false,
            records: KVec::from_elem((0, 0), AHEAD, GFP_KERNEL)?,
        })
    }

    /// The first record from `key` on, if what it is is remembered.
    fn record_from(&self, key: u64) -> Option<Option<(u64, u64)>> {
        if key < self.from {
            return None;
        }
        let records = self.records.get(..self.len)?;
        let i = records.partition_point(|&(other, _)| other < key);
        match records.get(i) {
            Some(&record) => Some(Some(record)),
            None => self.end.then_some(None),
        }
    }

    /// How many records behind that with `key` are what `entry` says. They count as asked for.
    fn records_behind(&mut self, key: u64, entry: impl Fn(usize) -> Option<(u64, u64)>) -> usize {
        let records = self.records.get(..self.len).unwrap_or(&[]);
        let at = records.partition_point(|&(other, _)| other < key);
        if key < self.from || records.get(at).is_none_or(|&(other, _)| other != key) {
            return 0;
        }
        let behind = records.iter().skip(at + 1);
        let same = behind.zip(1..).take_while(|&(&r, i)| Some(r) == entry(i));
        let many = same.count();
        if let Some(&(last, _)) = records.get(at + many) {
            self.asked = last;
        }
        many
    }

    /// Records change, the last one at `key`: what is remembered of keys behind it stays true.
    fn pass(&mut self, key: u64) {
        match key.checked_add(1) {
            Some(next) => self.from = self.from.max(next),
            None => self.forget(),
        }
    }

    /// Forgets all: no key is behind the one asked for last, nor is any remembered.
    fn forget(&mut self) {
        self.asked = u64::MAX;
        self.from = u64::MAX;
        self.len = 0;
        self.end = false;
    }
}

/// What is remembered of two timelines.
struct Memory {
    slots: [Ahead; 2],
    /// The one that was used last.
    recent: usize,
}

/// The tree of records, with what is remembered of it. Used with the engine's mutex held.
pub(super) struct Records {
    tree: LeafTree,
    memory: RefCell<KBox<Memory>>,
}

impl Records {
    // A function of its own for the sake of the stack.
    #[inline(never)]
    pub(super) fn new(tree: BTree<2, u64>) -> Result<Self> {
        Ok(Self {
            tree: LeafTree::new(tree)?,
            memory: RefCell::new(KBox::new(
                Memory {
                    slots: [Ahead::new()?, Ahead::new()?],
                    recent: 0,
                },
                GFP_KERNEL,
            )?),
        })
    }

    pub(super) fn root(&self) -> u64 {
        self.tree.root()
    }

    /// The first record of a timeline from a key on: see [`LeafTree::lookup_next`].
    pub(super) fn record_from(
        &self,
        tx: &Transaction,
        timeline: u64,
        key: u64,
    ) -> Result<Option<(u64, u64)>> {
        // Nobody else is at it, and it is let go before this returns.
        let mut memory = self.memory.try_borrow_mut().map_err(|_| EBUSY)?;
        let Memory { slots, recent } = &mut **memory;
        let known = slots.iter().position(|slot| slot.timeline == timeline);
        // Of two others the one that was not the last goes.
        let i = known.unwrap_or(1 - *recent % 2);
        *recent = i;
        let Some(ahead) = slots.get_mut(i) else {
            return self.tree.lookup_next(tx, &[timeline, key]);
        };
        if known.is_some() {
            if let Some(found) = ahead.record_from(key) {
                ahead.asked = key;
                return Ok(found);
            }
        }
        let found = self.tree.lookup_next(tx, &[timeline, key])?;
        let next = ahead.timeline == timeline && key > ahead.asked && key - ahead.asked <= NEAR;
        ahead.forget();
        ahead.timeline = timeline;
        ahead.asked = key;
        ahead.from = key;
        match found {
            Some(record) => {
                if next {
                    let keys = [timeline, record.0];
                    ahead.len = self.tree.copy_found(tx, &keys, &mut ahead.records);
                }
                if let (0, Some(first)) = (ahead.len, ahead.records.first_mut()) {
                    *first = record;
                    ahead.len = 1;
                }
            }
            None => ahead.end = true,
        }
        Ok(found)
    }

    /// How many records behind that with `key` are what `entry` says, which is asked from 1 on: as far
    /// as is remembered.
    pub(super) fn records_behind(
        &self,
        timeline: u64,
        key: u64,
        entry: impl Fn(usize) -> Option<(u64, u64)>,
    ) -> usize {
        let Ok(mut memory) = self.memory.try_borrow_mut() else {
            return 0;
        };
        let slot = memory.slots.iter_mut().find(|s| s.timeline == timeline);
        slot.map_or(0, |ahead| ahead.records_behind(key, entry))
    }

    /// Records of a timeline change, the last one at `key`.
    fn pass(&mut self, timeline: u64, key: u64) {
        for ahead in self.memory.get_mut().slots.iter_mut() {
            if ahead.timeline == timeline {
                ahead.pass(key);
            }
        }
    }

    /// See [`LeafTree::insert_run`]; `last` is the last key.
    pub(super) fn insert_run(
        &mut self,
        tx: &mut Transaction,
        timeline: u64,
        last: u64,
        entry: impl Fn(usize) -> Option<(u64, u64)>,
    ) -> Result {
        self.pass(timeline, last);
        self.tree.insert_run(tx, timeline, entry)
    }

    /// See [`LeafTree::remove`].
    pub(super) fn remove(&mut self, tx: &mut Transaction, keys: &[u64; 2]) -> Result<bool> {
        self.pass(keys[0], keys[1]);
        self.tree.remove(tx, keys)
    }

    /// See [`LeafTree::remove_subtree`].
    pub(super) fn remove_subtree(&mut self, tx: &mut Transaction, timeline: u64) -> Result<bool> {
        self.pass(timeline, u64::MAX);
        self.tree.remove_subtree(tx, timeline)
    }
}
