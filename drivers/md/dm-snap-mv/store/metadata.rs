// SPDX-License-Identifier: GPL-2.0

//! The store's metadata: the B-trees and space maps behind [`model::records::Metadata`].
//!
//! Every decision of the pure half reads and writes through this one type, so what the property
//! tests prove over plain maps holds here over persistent-data. Changes gather in the open
//! transaction; [`Meta::commit`] makes them durable all at once.
//!
//! All methods may sleep (they read metadata blocks) and are called with the engine's mutex held,
//! which is what `&Meta` and `&mut Meta` stand for.

use super::error::{Result, StoreError};
use super::rows::RowCache;
use crate::dm::pdata::{BTree, DiskSpaceMap, Transaction};
use crate::model::disk::cleaning_row::CleaningRow;
use crate::model::disk::origin_row::OriginRow;
use crate::model::disk::snapshot_row::SnapshotRow;
use crate::model::disk::superblock::{Roots, Superblock};
use crate::model::ids::{OriginNr, TimelineId};
use crate::model::records::Metadata;
use crate::model::refusal::Refusal;
use kernel::bindings::ENOTBLK;
use kernel::prelude::*;

/// How many runs of freed chunks are remembered without allocating memory.
const REMEMBERED: usize = 64;

/// The roots of all trees, as one unit that is read from and written to the superblock.
pub(super) struct Trees {
    pub(super) records: BTree<2, u64>,
    pub(super) origins: BTree<1, OriginRow>,
    pub(super) origin_ids: BTree<1, u64>,
    pub(super) snapshots: BTree<1, SnapshotRow>,
    pub(super) children: BTree<2, u64>,
    pub(super) done: BTree<2, u64>,
    pub(super) cleaning: BTree<1, CleaningRow>,
}

/// The metadata of one open store.
pub(crate) struct Meta {
    // Declared before the transaction: the space map is closed before the transaction manager.
    pub(super) data: DiskSpaceMap,
    pub(super) trees: Trees,
    pub(super) txn: Transaction,
    pub(super) superblock: Superblock,
    pub(super) origins: RowCache<OriginRow>,
    pub(super) snapshots: RowCache<SnapshotRow>,
    /// COW chunks freed by the open transaction: (first, length). They must not be reused before
    /// the transaction is durable, or a crash would bring back a record of overwritten data. When
    /// memory is short a run may have others between, that were free before or are in use.
    freed: KVec<(u64, u64)>,
    /// Tree changes in the open transaction, to bound its size.
    changes: u32,
    /// Changes of any sort so far, in core too.
    touched: u64,
    dirty: bool,
    /// A change failed half way. Nothing is committed any more: the last commit stands.
    poisoned: bool,
    /// That was because they contradict themselves.
    pub(super) corrupt: bool,
}

impl Meta {
    /// Takes over a transaction whose trees are open. Both came from the superblock given.
    pub(super) fn new(
        txn: Transaction,
        data: DiskSpaceMap,
        trees: Trees,
        superblock: Superblock,
    ) -> Result<Self> {
        Ok(Self {
            data,
            trees,
            txn,
            superblock,
            origins: RowCache::new(),
            snapshots: RowCache::new(),
            freed: KVec::with_capacity(REMEMBERED, GFP_KERNEL)?,
            changes: 0,
            touched: 0,
            dirty: false,
            poisoned: false,
            corrupt: false,
        })
    }

    /// Whether something awaits [`Meta::commit`].
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Whether a failed change has ended all committing.
    pub(super) fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    /// Tree changes gathered since the last commit.
    pub(super) fn changes(&self) -> u32 {
        self.changes
    }

    /// Grows with each change of any sort: an operation that has failed has changed nothing if this
    /// is as it was.
    pub(super) fn touched(&self) -> u64 {
        self.touched
    }

    /// Something has been changed that awaits a commit.
    pub(super) fn touch(&mut self) {
        self.dirty = true;
        self.touched += 1;
    }

    /// COW chunks freed since the last commit, as (first, length).
    pub(super) fn freed(&self) -> &[(u64, u64)] {
        &self.freed
    }

    /// Keeps chunks from being reused before the next commit. Does not fail: half a change cannot
    /// be undone, so if there is no memory for one more run the last one is stretched.
    pub(super) fn remember_freed(&mut self, start: u64, len: u64) {
        if let Some(last) = self.freed.last_mut() {
            if last.0 + last.1 == start {
                last.1 += len;
                return;
            }
        }
        if self.freed.push((start, len), GFP_KERNEL).is_ok() {
            return;
        }
        // There is one: there was room for the first ones.
        if let Some(last) = self.freed.last_mut() {
            let end = (last.0 + last.1).max(start + len);
            last.0 = last.0.min(start);
            last.1 = end - last.0;
        }
    }

    /// The free metadata blocks (4 KiB each) of the running transaction.
    pub(super) fn metadata_free(&self) -> Result<u64> {
        Ok(self.txn.metadata_free()?)
    }

    /// (used, total) metadata blocks of 4 KiB.
    pub(super) fn metadata_usage(&self) -> Result<(u64, u64)> {
        let total = self.superblock.layout.metadata_blocks;
        Ok((total.saturating_sub(self.metadata_free()?), total))
    }

    /// (used, total) COW chunks.
    pub(super) fn data_usage(&self) -> Result<(u64, u64)> {
        let total = self.data.nr_blocks()?;
        Ok((total.saturating_sub(self.data.nr_free()?), total))
    }

    /// Finds a free COW chunk at or behind the allocator's own cursor without keeping it.
    /// `None` when there is none.
    pub(super) fn probe_free(&mut self) -> Result<Option<u64>> {
        let chunk = match self.data.new_block(&mut self.txn) {
            Ok(chunk) => chunk,
            Err(e) if e == ENOSPC => return Ok(None),
            Err(e) => return Err(self.poison(e)),
        };
        let given_back = self.data.dec(&mut self.txn, chunk, chunk + 1);
        self.dirty = true;
        self.checked(given_back)?;
        Ok(Some(chunk))
    }

    /// Whether a COW chunk is free in the open transaction.
    pub(super) fn is_free(&mut self, chunk: u64) -> Result<bool> {
        Ok(self.data.count(&mut self.txn, chunk)? == 0)
    }

    /// Takes all `chunks` that a grown COW device has room for into use.
    pub(super) fn grow_data(&mut self, chunks: u64) -> Result<()> {
        let extra = chunks.saturating_sub(self.superblock.layout.data_chunks);
        let grown = self.data.extend(&mut self.txn, extra);
        self.checked(grown)?;
        self.superblock.layout.data_chunks = chunks;
        self.touch();
        Ok(())
    }

    /// Keeps the row of an active origin in core.
    pub(super) fn cache_origin(&mut self, nr: OriginNr) -> Result<()> {
        if self.origins.contains(u64::from(nr.get())) {
            return Ok(());
        }
        let row = self.origin(nr)?.ok_or(Refusal::NotBound)?;
        self.origins.insert(u64::from(nr.get()), row)?;
        Ok(())
    }

    /// Keeps the row of an active snapshot in core.
    pub(super) fn cache_snapshot(&mut self, timeline: TimelineId) -> Result<()> {
        if self.snapshots.contains(timeline.get()) {
            return Ok(());
        }
        let row = self.snapshot(timeline)?.ok_or(Refusal::UnknownTag)?;
        self.snapshots.insert(timeline.get(), row)?;
        Ok(())
    }

    /// Lets go of rows that nothing uses any more; changed ones are written first.
    #[inline(never)]
    pub(super) fn uncache_origin(&mut self, nr: OriginNr) -> Result<()> {
        self.write_rows()?;
        self.origins.remove(u64::from(nr.get()));
        Ok(())
    }

    /// As [`Meta::uncache_origin`], for a snapshot.
    pub(super) fn uncache_snapshot(&mut self, timeline: TimelineId) -> Result<()> {
        self.write_rows()?;
        self.snapshots.remove(timeline.get());
        Ok(())
    }

    /// The row of an origin that has to be there.
    pub(super) fn origin_row(&self, nr: OriginNr) -> Result<OriginRow> {
        Ok(self.origin(nr)?.ok_or(Refusal::NotBound)?)
    }

    /// The row of a snapshot that has to be there.
    pub(super) fn snapshot_row(&self, timeline: TimelineId) -> Result<SnapshotRow> {
        Ok(self.snapshot(timeline)?.ok_or(Refusal::UnknownTag)?)
    }

    /// Looks at a cached origin row without copying it.
    pub(super) fn peek_origin(&self, nr: OriginNr) -> Option<&OriginRow> {
        self.origins.get(u64::from(nr.get()))
    }

    /// Makes all changes durable: every data write that completed on the COW device before this
    /// call is durable before the records that point at it.
    ///
    /// # Errors
    ///
    /// After an error the transaction is abandoned for good; the last commit stands.
    pub(super) fn commit(&mut self, clean: bool) -> Result<()> {
        if self.poisoned {
            return Err(StoreError::Kernel(EIO));
        }
        self.write_rows()?;
        let superblock = &mut self.superblock;
        superblock.transaction = superblock.transaction.wrapping_add(1);
        superblock.clean = clean;
        superblock.roots = Roots {
            records: self.trees.records.root(),
            origins: self.trees.origins.root(),
            origin_ids: self.trees.origin_ids.root(),
            snapshots: self.trees.snapshots.root(),
            children: self.trees.children.root(),
            done: self.trees.done.root(),
            cleaning: self.trees.cleaning.root(),
        };
        let committed = self.txn.commit(&mut [&mut self.data], |block, roots| {
            superblock.metadata_space = *roots.metadata;
            if let Some(root) = roots.spaces.first() {
                superblock.data_space = *root;
            }
            superblock.encode(block);
        });
        self.checked(committed)?;
        self.freed.clear();
        self.changes = 0;
        self.dirty = false;
        Ok(())
    }

    /// Gives the transaction up: nothing is written by this store any more.
    pub(super) fn abandon(&mut self) {
        self.poisoned = true;
        self.txn.abort();
    }

    /// Writes the rows that have changed in core into their trees.
    #[inline(never)]
    fn write_rows(&mut self) -> Result<()> {
        while let Some((key, row)) = self.origins.changed() {
            let put = self.trees.origins.insert(&mut self.txn, &[key], row);
            self.changed(put)?;
            self.origins.set_written(key);
        }
        while let Some((key, row)) = self.snapshots.changed() {
            let put = self.trees.snapshots.insert(&mut self.txn, &[key], row);
            self.changed(put)?;
            self.snapshots.set_written(key);
        }
        Ok(())
    }

    /// An error of persistent-data in the middle of a change. What it says when blocks do not
    /// check, are elsewhere, or counts would fall below 0 is that the metadata are corrupt.
    fn poison(&mut self, error: Error) -> StoreError {
        self.poisoned = true;
        let error = match error {
            e if e == EINVAL || e == Error::from_errno(-(ENOTBLK as i32)) => {
                Refusal::Corrupt.into()
            }
            e => e.into(),
        };
        self.corrupt |= matches!(error, StoreError::Refused(Refusal::Corrupt));
        error
    }

    fn checked<T>(&mut self, result: kernel::error::Result<T>) -> Result<T> {
        result.map_err(|e| self.poison(e))
    }

    /// Counts a tree change, or poisons the transaction when it failed.
    pub(super) fn changed<T>(&mut self, result: kernel::error::Result<T>) -> Result<T> {
        self.touch();
        self.changes = self.changes.saturating_add(1);
        self.checked(result)
    }
}
