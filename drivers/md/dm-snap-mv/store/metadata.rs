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
use crate::dm::pdata::{checksum, BTree, Bytes, DiskSpaceMap, Transaction};
use crate::model::disk::cleaning_row::CleaningRow;
use crate::model::disk::origin_ids;
use crate::model::disk::origin_row::OriginRow;
use crate::model::disk::snapshot_row::SnapshotRow;
use crate::model::disk::superblock::{Roots, Superblock, CHECKSUM_XOR};
use crate::model::ids::{Chunk, CowChunk, Epoch, OriginNr, TimelineId};
use crate::model::record_key::{child_epoch, child_key, RecordValue};
use crate::model::records::Metadata;
use crate::model::refusal::Refusal;
use kernel::prelude::*;

/// The roots of all trees, as one unit that is read from and written to the superblock.
pub(super) struct Trees {
    pub(super) records: BTree<2, u64>,
    pub(super) origins: BTree<1, Bytes<{ OriginRow::SIZE }>>,
    pub(super) origin_ids: BTree<1, u64>,
    pub(super) snapshots: BTree<1, Bytes<{ SnapshotRow::SIZE }>>,
    pub(super) children: BTree<2, u64>,
    pub(super) done: BTree<2, u64>,
    pub(super) cleaning: BTree<1, Bytes<{ CleaningRow::SIZE }>>,
}

/// The metadata of one open store.
pub(crate) struct Meta {
    // Declared before the transaction: the space map is closed before the transaction manager.
    data: DiskSpaceMap,
    trees: Trees,
    txn: Transaction,
    pub(super) superblock: Superblock,
    origins: RowCache<OriginRow>,
    snapshots: RowCache<SnapshotRow>,
    /// COW chunks freed by the open transaction: (first, length). They must not be reused before
    /// the transaction is durable, or a crash would bring back a record of overwritten data.
    freed: KVec<(u64, u64)>,
    /// Tree changes in the open transaction, to bound its size.
    changes: u32,
    dirty: bool,
    /// A change failed half way. Nothing is committed any more: the last commit stands.
    poisoned: bool,
}

impl Meta {
    /// Takes over a transaction whose trees are open. Both came from the superblock given.
    pub(super) fn new(
        txn: Transaction,
        data: DiskSpaceMap,
        trees: Trees,
        superblock: Superblock,
    ) -> Self {
        Self {
            data,
            trees,
            txn,
            superblock,
            origins: RowCache::new(),
            snapshots: RowCache::new(),
            freed: KVec::new(),
            changes: 0,
            dirty: false,
            poisoned: false,
        }
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

    /// COW chunks freed since the last commit, as (first, length).
    pub(super) fn freed(&self) -> &[(u64, u64)] {
        &self.freed
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
        self.dirty = true;
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

    fn write_rows(&mut self) -> Result<()> {
        while let Some((key, row)) = self.origins.take_changed() {
            let mut bytes = Bytes([0; OriginRow::SIZE]);
            row.encode(&mut bytes.0);
            let put = self.trees.origins.insert(&mut self.txn, &[key], &bytes);
            self.changed(put)?;
        }
        while let Some((key, row)) = self.snapshots.take_changed() {
            let mut bytes = Bytes([0; SnapshotRow::SIZE]);
            row.encode(&mut bytes.0);
            let put = self.trees.snapshots.insert(&mut self.txn, &[key], &bytes);
            self.changed(put)?;
        }
        Ok(())
    }

    fn poison(&mut self, error: Error) -> StoreError {
        self.poisoned = true;
        StoreError::Kernel(error)
    }

    fn checked<T>(&mut self, result: kernel::error::Result<T>) -> Result<T> {
        result.map_err(|e| self.poison(e))
    }

    /// Counts a tree change, or poisons the transaction when it failed.
    fn changed<T>(&mut self, result: kernel::error::Result<T>) -> Result<T> {
        self.dirty = true;
        self.changes = self.changes.saturating_add(1);
        self.checked(result)
    }

    /// Finds the tree key of an id, and the first key free for it.
    fn find_id(&self, id: &[u8]) -> Result<(Option<(u64, OriginNr)>, u64)> {
        let (first, last) = origin_ids::keys(crc32c(id));
        let mut free = first;
        let mut key = first;
        while let Some((found, number)) = self.trees.origin_ids.lookup_next(&self.txn, &[key])? {
            if found > last {
                break;
            }
            let nr = u32::try_from(number)
                .ok()
                .and_then(OriginNr::new)
                .ok_or(Refusal::Corrupt)?;
            let row = self.origin(nr)?.ok_or(Refusal::Corrupt)?;
            if row.id.as_bytes() == id {
                return Ok((Some((found, nr)), free));
            }
            if found == free {
                free += 1;
            }
            key = found + 1;
        }
        Ok((None, free))
    }
}

/// CRC-32C as everybody else computes it: persistent-data's is not inverted at the end, and mixed
/// with what a superblock's is mixed with.
fn crc32c(bytes: &[u8]) -> u32 {
    !(checksum(bytes) ^ CHECKSUM_XOR)
}

impl Metadata for Meta {
    type Error = StoreError;

    fn record_from(&self, t: TimelineId, key: u64) -> Result<Option<(u64, RecordValue)>> {
        match self.trees.records.lookup_next(&self.txn, &[t.get(), key])? {
            None => Ok(None),
            Some((key, value)) => {
                let chunks = self.superblock.layout.data_chunks;
                Ok(Some((key, RecordValue::decode(value, chunks)?)))
            }
        }
    }

    fn insert_record(&mut self, t: TimelineId, key: u64, v: RecordValue) -> Result<()> {
        let put = self
            .trees
            .records
            .insert(&mut self.txn, &[t.get(), key], &v.encode());
        self.changed(put)?;
        Ok(())
    }

    fn remove_record(&mut self, t: TimelineId, key: u64) -> Result<()> {
        let gone = self.trees.records.remove(&mut self.txn, &[t.get(), key]);
        self.changed(gone)?;
        Ok(())
    }

    fn drop_timeline(&mut self, t: TimelineId) -> Result<()> {
        let gone = self.trees.records.remove_subtree(&mut self.txn, t.get());
        self.changed(gone)?;
        let gone = self.trees.children.remove_subtree(&mut self.txn, t.get());
        self.changed(gone)?;
        Ok(())
    }

    fn use_chunks(&mut self, start: CowChunk, len: u64) -> Result<()> {
        let used = self.data.inc(&mut self.txn, start.get(), start.get() + len);
        self.changed(used)
    }

    fn free_chunks(&mut self, start: CowChunk, len: u64) -> Result<()> {
        // Remember first: a chunk that is free on disk but not remembered could be reused early.
        match self.freed.last_mut() {
            Some(last) if last.0 + last.1 == start.get() => last.1 += len,
            _ => self.freed.push((start.get(), len), GFP_KERNEL)?,
        }
        let freed = self.data.dec(&mut self.txn, start.get(), start.get() + len);
        self.changed(freed)
    }

    fn child_at_or_before(&self, t: TimelineId, e: Epoch) -> Result<Option<(Epoch, u32)>> {
        let keys = [t.get(), child_key(e)];
        match self.trees.children.lookup_next(&self.txn, &keys)? {
            None => Ok(None),
            Some((key, tag)) => {
                let epoch = child_epoch(key)?;
                let tag = u32::try_from(tag).map_err(|_| Refusal::Corrupt)?;
                Ok(Some((epoch, tag)))
            }
        }
    }

    fn insert_child(&mut self, t: TimelineId, e: Epoch, tag: u32) -> Result<()> {
        let keys = [t.get(), child_key(e)];
        let put = self
            .trees
            .children
            .insert(&mut self.txn, &keys, &u64::from(tag));
        self.changed(put)?;
        Ok(())
    }

    fn remove_child(&mut self, t: TimelineId, e: Epoch) -> Result<()> {
        let gone = self
            .trees
            .children
            .remove(&mut self.txn, &[t.get(), child_key(e)]);
        self.changed(gone)?;
        Ok(())
    }

    fn origin(&self, nr: OriginNr) -> Result<Option<OriginRow>> {
        let key = u64::from(nr.get());
        if let Some(row) = self.origins.get(key) {
            return Ok(Some(*row));
        }
        match self.trees.origins.lookup(&self.txn, &[key])? {
            None => Ok(None),
            Some(bytes) => Ok(Some(OriginRow::decode(&bytes.0)?)),
        }
    }

    fn put_origin(&mut self, row: &OriginRow) -> Result<()> {
        let key = u64::from(row.number.get());
        if self.origins.update(key, row) {
            self.dirty = true;
            return Ok(());
        }
        let mut bytes = Bytes([0; OriginRow::SIZE]);
        row.encode(&mut bytes.0);
        let put = self.trees.origins.insert(&mut self.txn, &[key], &bytes);
        self.changed(put)?;
        Ok(())
    }

    fn remove_origin(&mut self, nr: OriginNr) -> Result<()> {
        let key = u64::from(nr.get());
        self.origins.remove(key);
        let gone = self.trees.origins.remove(&mut self.txn, &[key]);
        self.changed(gone)?;
        self.superblock.nr_origins = self.superblock.nr_origins.saturating_sub(1);
        Ok(())
    }

    fn origin_by_id(&self, id: &[u8]) -> Result<Option<OriginNr>> {
        Ok(self.find_id(id)?.0.map(|(_, nr)| nr))
    }

    fn insert_origin_id(&mut self, id: &[u8], nr: OriginNr) -> Result<()> {
        let (_, free) = self.find_id(id)?;
        let put = self
            .trees
            .origin_ids
            .insert(&mut self.txn, &[free], &u64::from(nr.get()));
        self.changed(put)?;
        Ok(())
    }

    fn remove_origin_id(&mut self, id: &[u8]) -> Result<()> {
        if let Some((key, _)) = self.find_id(id)?.0 {
            let gone = self.trees.origin_ids.remove(&mut self.txn, &[key]);
            self.changed(gone)?;
        }
        Ok(())
    }

    fn next_origin_nr(&mut self) -> Result<OriginNr> {
        let nr = OriginNr::new(self.superblock.next_origin).ok_or(Refusal::Corrupt)?;
        self.superblock.next_origin = nr.get().checked_add(1).ok_or(Refusal::TooManyOrigins)?;
        self.superblock.nr_origins = self.superblock.nr_origins.saturating_add(1);
        self.dirty = true;
        Ok(nr)
    }

    fn snapshot(&self, t: TimelineId) -> Result<Option<SnapshotRow>> {
        if let Some(row) = self.snapshots.get(t.get()) {
            return Ok(Some(*row));
        }
        match self.trees.snapshots.lookup(&self.txn, &[t.get()])? {
            None => Ok(None),
            Some(bytes) => Ok(Some(SnapshotRow::decode(&bytes.0)?)),
        }
    }

    fn snapshot_from(&self, t: TimelineId) -> Result<Option<(TimelineId, SnapshotRow)>> {
        match self.trees.snapshots.lookup_next(&self.txn, &[t.get()])? {
            None => Ok(None),
            Some((key, bytes)) => {
                let row = match self.snapshots.get(key) {
                    Some(row) => *row,
                    None => SnapshotRow::decode(&bytes.0)?,
                };
                Ok(Some((TimelineId::new(key).ok_or(Refusal::Corrupt)?, row)))
            }
        }
    }

    fn put_snapshot(&mut self, origin: OriginNr, row: &SnapshotRow) -> Result<()> {
        let key = TimelineId::of_snapshot(origin, row.tag).get();
        if self.snapshots.update(key, row) {
            self.dirty = true;
            return Ok(());
        }
        let mut bytes = Bytes([0; SnapshotRow::SIZE]);
        row.encode(&mut bytes.0);
        let put = self.trees.snapshots.insert(&mut self.txn, &[key], &bytes);
        self.changed(put)?;
        Ok(())
    }

    fn remove_snapshot(&mut self, t: TimelineId) -> Result<()> {
        self.snapshots.remove(t.get());
        let gone = self.trees.snapshots.remove(&mut self.txn, &[t.get()]);
        self.changed(gone)?;
        Ok(())
    }

    fn done_from(&self, o: OriginNr, c: Chunk) -> Result<Option<Chunk>> {
        match self
            .trees
            .done
            .lookup_next(&self.txn, &[u64::from(o.get()), c.get()])?
        {
            None => Ok(None),
            Some((chunk, _)) => Ok(Some(Chunk::new(chunk).ok_or(Refusal::Corrupt)?)),
        }
    }

    fn insert_done(&mut self, o: OriginNr, c: Chunk) -> Result<()> {
        let keys = [u64::from(o.get()), c.get()];
        let put = self.trees.done.insert(&mut self.txn, &keys, &0);
        self.changed(put)?;
        Ok(())
    }

    fn remove_done(&mut self, o: OriginNr, c: Chunk) -> Result<()> {
        let keys = [u64::from(o.get()), c.get()];
        let gone = self.trees.done.remove(&mut self.txn, &keys);
        self.changed(gone)?;
        Ok(())
    }

    fn drop_done(&mut self, o: OriginNr) -> Result<()> {
        let gone = self
            .trees
            .done
            .remove_subtree(&mut self.txn, u64::from(o.get()));
        self.changed(gone)?;
        Ok(())
    }

    fn cleaning(&self, t: TimelineId) -> Result<Option<CleaningRow>> {
        match self.trees.cleaning.lookup(&self.txn, &[t.get()])? {
            None => Ok(None),
            Some(bytes) => Ok(Some(CleaningRow::decode(&bytes.0)?)),
        }
    }

    fn cleaning_from(&self, t: TimelineId) -> Result<Option<(TimelineId, CleaningRow)>> {
        match self.trees.cleaning.lookup_next(&self.txn, &[t.get()])? {
            None => Ok(None),
            Some((key, bytes)) => {
                let t = TimelineId::new(key).ok_or(Refusal::Corrupt)?;
                Ok(Some((t, CleaningRow::decode(&bytes.0)?)))
            }
        }
    }

    fn put_cleaning(&mut self, t: TimelineId, row: &CleaningRow) -> Result<()> {
        let mut bytes = Bytes([0; CleaningRow::SIZE]);
        row.encode(&mut bytes.0);
        let put = self
            .trees
            .cleaning
            .insert(&mut self.txn, &[t.get()], &bytes);
        self.changed(put)?;
        Ok(())
    }

    fn remove_cleaning(&mut self, t: TimelineId) -> Result<()> {
        let gone = self.trees.cleaning.remove(&mut self.txn, &[t.get()]);
        self.changed(gone)?;
        Ok(())
    }
}
