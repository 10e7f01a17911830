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
use super::journal::{self, Journal};
use super::records::Records;
use super::rows::RowCache;
use crate::dm::pdata::{BTree, DiskSpaceMap, Transaction};
use crate::model::disk::cleaning_row::CleaningRow;
use crate::model::disk::journal::{Entry, Run};
use crate::model::disk::label_row::LabelRow;
use crate::model::disk::origin_row::OriginRow;
use crate::model::disk::snapshot_row::SnapshotRow;
use crate::model::disk::superblock::{Roots, Superblock, INCOMPAT_ZEROES};
use crate::model::ids::{OriginNr, TimelineId};
use crate::model::record_key::RecordValue;
use crate::model::records::Metadata;
use crate::model::refusal::Refusal;
use crate::model::room::Blocks;
use kernel::bindings::ENOTBLK;
use kernel::prelude::*;

/// How many runs of freed chunks are remembered without allocating memory.
const REMEMBERED: usize = 64;

/// The roots of all trees, as one unit that is read from and written to the superblock.
pub(super) struct Trees {
    pub(super) records: Records,
    pub(super) origins: BTree<1, OriginRow>,
    pub(super) origin_ids: BTree<1, u64>,
    pub(super) snapshots: BTree<1, SnapshotRow>,
    pub(super) children: BTree<2, u64>,
    pub(super) done: BTree<2, u64>,
    pub(super) cleaning: BTree<1, CleaningRow>,
    /// None: there have never been labels.
    pub(super) labels: Option<BTree<1, LabelRow>>,
}

/// The most tree changes that the journal stands for. It bounds how long opening a store takes, and
/// how long everybody waits while the blocks that they touch are written: 32 MiB at worst.
const MAX_JOURNALED: u32 = 1 << 13;

/// A journal that stands for more is corrupt: see the format.
const MAX_REPLAYED: u32 = 1 << 17;

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
    /// the transaction is durable, or a crash would bring back a record of overwritten data: one of
    /// the last commit, or one that the journal has made durable since. When memory is short a run may
    /// have others between, that were free before or are in use: these wait too.
    freed: KVec<(u64, u64)>,
    /// COW chunks that are in use, which their space map has yet to be told: (first, length). Writes
    /// take chunks that follow one another, and it takes a run as fast as one.
    used: Option<(u64, u64)>,
    /// Where changes are made durable before the trees are written, if the store has one.
    journal: Option<KBox<Journal>>,
    /// Tree changes in the open transaction, to bound its size.
    changes: u32,
    /// The metadata blocks that were free when it began.
    free_at_first: u64,
    /// Those of the changes that are not durable yet.
    volatile: u32,
    /// Changes of any sort so far, in core too.
    touched: u64,
    /// Something is not durable.
    dirty: bool,
    /// Something is not durable, and not noted in the journal: only a commit can make it so.
    unnoted: bool,
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
        journal: Option<KBox<Journal>>,
    ) -> Result<Self> {
        let free_at_first = txn.metadata_free()?;
        Ok(Self {
            data,
            trees,
            txn,
            superblock,
            origins: RowCache::new(),
            snapshots: RowCache::new(),
            freed: KVec::with_capacity(REMEMBERED, GFP_KERNEL)?,
            used: None,
            journal,
            changes: 0,
            free_at_first,
            volatile: 0,
            touched: 0,
            dirty: false,
            unnoted: false,
            poisoned: false,
            corrupt: false,
        })
    }

    /// Whether something awaits [`Meta::persist`].
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

    /// Something has been changed that awaits [`Meta::persist`].
    pub(super) fn touch(&mut self) {
        self.dirty = true;
        self.touched += 1;
    }

    /// Those of them that are not durable.
    pub(super) fn volatile(&self) -> u32 {
        self.volatile
    }

    /// Whether there is so much in the journal that the trees should be written when there is time.
    pub(super) fn wants_commit(&self) -> bool {
        let half = self.journal.as_ref().is_some_and(|j| j.is_half_full());
        half || self.changes > MAX_JOURNALED / 2
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

    /// What is free, and what it has to be enough for, as far as the metadata know: nothing of copies
    /// on their way.
    pub(super) fn blocks(&self) -> Result<Blocks> {
        let (used_chunks, chunks) = self.data_usage()?;
        Ok(Blocks {
            total: self.superblock.layout.metadata_blocks,
            free: self.metadata_free()?,
            free_at_first: self.free_at_first,
            rows: self.origins.changed_rows() + self.snapshots.changed_rows(),
            chunks,
            free_chunks: chunks.saturating_sub(used_chunks),
            runs: 0,
            run_chunks: 0,
        })
    }

    /// (used, total) metadata blocks of 4 KiB.
    pub(super) fn metadata_usage(&self) -> Result<(u64, u64)> {
        let total = self.superblock.layout.metadata_blocks;
        Ok((total.saturating_sub(self.metadata_free()?), total))
    }

    /// (used, total) COW chunks.
    pub(super) fn data_usage(&self) -> Result<(u64, u64)> {
        let total = self.data.nr_blocks()?;
        let untold = self.used.map_or(0, |(_, len)| len);
        Ok((total.saturating_sub(self.data.nr_free()?) + untold, total))
    }

    /// Finds a free COW chunk at or behind the allocator's own cursor without keeping it.
    /// `None` when there is none.
    pub(super) fn probe_free(&mut self) -> Result<Option<u64>> {
        self.tell_used()?;
        let chunk = match self.data.new_block(&mut self.txn) {
            Ok(chunk) => chunk,
            Err(e) if e == ENOSPC => return Ok(None),
            Err(e) => return Err(self.poison(e)),
        };
        // Nothing has changed, so there is nothing to make durable.
        let given_back = self.data.dec(&mut self.txn, chunk, chunk + 1);
        self.checked(given_back)?;
        Ok(Some(chunk))
    }

    /// Whether a COW chunk is free in the open transaction.
    pub(super) fn is_free(&mut self, chunk: u64) -> Result<bool> {
        self.tell_used()?;
        Ok(self.data.count(&mut self.txn, chunk)? == 0)
    }

    /// Marks COW chunks as used.
    pub(super) fn set_used(&mut self, start: u64, len: u64) -> Result<()> {
        if let Some((first, many)) = &mut self.used {
            if *first + *many == start {
                *many += len;
                return Ok(());
            }
        }
        self.tell_used()?;
        self.used = Some((start, len));
        Ok(())
    }

    /// Marks COW chunks as free.
    pub(super) fn set_free(&mut self, start: u64, len: u64) -> Result<()> {
        self.tell_used()?;
        let freed = self.data.dec(&mut self.txn, start, start + len);
        self.checked(freed)
    }

    /// Brings the space map up to date.
    fn tell_used(&mut self) -> Result<()> {
        let Some((start, len)) = self.used.take() else {
            return Ok(());
        };
        let used = self.data.inc(&mut self.txn, start, start + len);
        self.checked(used)
    }

    /// Takes all `chunks` that a grown COW device has room for into use, or as many as the metadata have
    /// room for. Says so, and returns whether there are more than before.
    pub(super) fn grow_data(&mut self, chunks: u64) -> Result<bool> {
        let before = self.superblock.layout.data_chunks;
        let wanted = chunks.saturating_sub(before);
        let extra = wanted.min(self.blocks()?.chunks_to_add());
        if extra < wanted {
            pr_warn!("COW device has grown: the metadata have no room for all of it\n");
        }
        if extra == 0 {
            return Ok(false);
        }
        let chunks = before + extra;
        let grown = self.data.extend(&mut self.txn, extra);
        self.checked(grown)?;
        self.superblock.layout.data_chunks = chunks;
        self.set_unnoted();
        pr_info!("COW device has grown: {} chunks\n", chunks);
        Ok(true)
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

    /// Has rows of origins say what disk they are on from now on.
    pub(super) fn use_identities(&mut self) {
        if !self.superblock.has_identities() {
            self.superblock.take_identities();
            self.set_unnoted();
        }
    }

    /// There can be bookmarks, marks and labels from now on.
    pub(super) fn use_versions(&mut self) {
        if !self.superblock.has_versions() {
            self.superblock.use_versions();
            // The next one is written with the first of them, or before.
            self.set_unnoted();
        }
    }

    /// Refuses what there cannot be without the superblock saying so.
    pub(super) fn check_versions(&self) -> Result<()> {
        match self.superblock.has_versions() {
            true => Ok(()),
            false => Err(Refusal::Corrupt.into()),
        }
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
        let key = u64::from(nr.get());
        if let Some(row) = self.origins.unlogged(key) {
            let entry = Entry::Origin(*row);
            self.note(&entry);
        }
        self.origins.remove(key);
        Ok(())
    }

    /// As [`Meta::uncache_origin`], for a snapshot.
    pub(super) fn uncache_snapshot(&mut self, timeline: TimelineId) -> Result<()> {
        self.write_rows()?;
        if let Some(row) = self.snapshots.unlogged(timeline.get()) {
            let entry = Entry::Snapshot(timeline.origin(), *row);
            self.note(&entry);
        }
        self.snapshots.remove(timeline.get());
        Ok(())
    }

    /// The row of an origin that has to be there.
    pub(super) fn origin_row(&self, nr: OriginNr) -> Result<OriginRow> {
        Ok(self.origin(nr)?.ok_or(Refusal::NotBound)?)
    }

    /// Looks at a part of the row of an origin that has to be there. A row is large: one that is in
    /// core is not copied for it.
    pub(super) fn of_origin<T>(
        &self,
        nr: OriginNr,
        part: impl FnOnce(&OriginRow) -> T,
    ) -> Result<T> {
        match self.peek_origin(nr) {
            Some(row) => Ok(part(row)),
            None => Ok(part(&self.origin_row(nr)?)),
        }
    }

    /// Sets how many COW chunks the timeline of an origin has, without copying its row either: this
    /// happens with each write that is the first.
    pub(super) fn set_origin_chunks(&mut self, nr: OriginNr, chunks: u64) -> Result<()> {
        let key = u64::from(nr.get());
        if self.origins.modify(key, |row| row.chunks = chunks) {
            self.touch();
            return Ok(());
        }
        let mut row = self.origin_row(nr)?;
        row.chunks = chunks;
        self.put_origin(&row)
    }

    /// The row of a snapshot that has to be there.
    pub(super) fn snapshot_row(&self, timeline: TimelineId) -> Result<SnapshotRow> {
        Ok(self.snapshot(timeline)?.ok_or(Refusal::UnknownTag)?)
    }

    /// Looks at a cached origin row without copying it.
    pub(super) fn peek_origin(&self, nr: OriginNr) -> Option<&OriginRow> {
        self.origins.get(u64::from(nr.get()))
    }

    /// Makes all changes durable, and every data write that completed on the COW device before this
    /// call before them: with one write of the journal if they are noted there, else by
    /// [`Meta::commit`].
    ///
    /// # Errors
    ///
    /// As for [`Meta::commit`].
    pub(super) fn persist(&mut self) -> Result<()> {
        if self.log()? {
            Ok(())
        } else {
            self.commit(false)
        }
    }

    /// Writes the journal; `false` if that is not enough or there is no room.
    #[inline(never)]
    fn log(&mut self) -> Result<bool> {
        // The first change makes the store unclean, which its superblock must say.
        if self.poisoned || self.unnoted || self.superblock.clean || self.changes > MAX_JOURNALED {
            return Ok(false);
        }
        // What could not be done again after a crash must not stand in the journal.
        if !self.blocks()?.can_be_replayed() {
            return Ok(false);
        }
        let Some(journal) = &mut self.journal else {
            return Ok(false);
        };
        for (_, row) in self.origins.all_unlogged() {
            if !journal.note(&Entry::Origin(*row)) {
                return Ok(false);
            }
        }
        for (key, row) in self.snapshots.all_unlogged() {
            let timeline = TimelineId::new(key).ok_or(Refusal::Corrupt)?;
            if !journal.note(&Entry::Snapshot(timeline.origin(), *row)) {
                return Ok(false);
            }
        }
        if !journal.has_room() {
            return Ok(false);
        }
        let written = journal.write();
        self.checked(written)?;
        self.all_durable();
        Ok(true)
    }

    fn all_durable(&mut self) {
        self.origins.set_logged();
        self.snapshots.set_logged();
        self.volatile = 0;
        self.dirty = false;
        self.unnoted = false;
    }

    /// Whether a commit would change nothing: all is in the trees, as the superblock shows them.
    pub(super) fn is_committed(&self) -> bool {
        let rows = self.origins.changed_rows() + self.snapshots.changed_rows();
        !self.dirty && self.changes == 0 && rows == 0
    }

    /// Where the journal ends, if there is one.
    pub(super) fn journal_end(&self) -> Option<journal::End> {
        self.journal.as_ref().map(|journal| journal.end())
    }

    /// Whether the journal holds nothing. After an orderly end it does, whatever stands there. For
    /// `known` see [`Journal::replay`].
    pub(super) fn journal_is_empty(&mut self, known: Option<journal::End>) -> Result<bool> {
        match &mut self.journal {
            Some(journal) if !self.superblock.clean => journal.is_empty(known),
            _ => Ok(true),
        }
    }

    /// Does what the journal holds once more, in core. Before anything else is changed; nothing may
    /// be changed after it but by a commit. Returns how many changes that were. For `known` see
    /// [`Journal::replay`].
    #[inline(never)]
    pub(super) fn replay(&mut self, known: Option<journal::End>) -> Result<u32> {
        if self.superblock.clean {
            // The first change writes a superblock that says otherwise before the journal is written.
            return Ok(0);
        }
        let Some(mut journal) = self.journal.take() else {
            return Ok(0);
        };
        let replayed = journal.replay(known, |entry| self.redo(entry));
        self.journal = Some(journal);
        replayed?;
        // It is in the journal.
        self.all_durable();
        Ok(self.changes)
    }

    #[inline(never)]
    fn redo(&mut self, entry: &Entry) -> Result<()> {
        self.set_unnoted();
        match *entry {
            Entry::Run(ref run) => self.redo_run(run),
            Entry::Origin(ref row) => self.put_origin(row),
            Entry::Snapshot(origin, ref row) => self.put_snapshot(origin, row),
            Entry::Child {
                timeline,
                epoch,
                tag,
            } => self.insert_child(timeline, epoch, tag),
            Entry::Bookmark {
                timeline,
                epoch,
                tag,
            } => {
                self.check_versions()?;
                self.insert_bookmark(timeline, epoch, tag)
            }
            Entry::Cleaning(timeline, ref row) => self.put_cleaning(timeline, row),
            // What goes must be there.
            Entry::NoSnapshot(timeline) => match self.snapshot(timeline)? {
                Some(_) => self.remove_snapshot(timeline),
                None => Err(Refusal::Corrupt.into()),
            },
            Entry::NoChild { timeline, epoch } => {
                match self.child_at_or_before(timeline, epoch)? {
                    Some((found, _)) if found == epoch => self.remove_child(timeline, epoch),
                    _ => Err(Refusal::Corrupt.into()),
                }
            }
            Entry::NoBookmark { timeline, epoch } => {
                match self.bookmark_at_or_before(timeline, epoch)? {
                    Some((found, _)) if found == epoch => self.remove_bookmark(timeline, epoch),
                    _ => Err(Refusal::Corrupt.into()),
                }
            }
        }
    }

    fn redo_run(&mut self, run: &Run) -> Result<()> {
        let many = match *run {
            Run::Records { len, .. } => u64::from(len),
            Run::Use { len, .. } | Run::Done { len, .. } => len,
        };
        if many > u64::from(MAX_REPLAYED.saturating_sub(self.changes)) {
            return Err(Refusal::Corrupt.into());
        }
        match *run {
            Run::Records {
                timeline,
                key,
                value,
                ..
            } => {
                if value == RecordValue::Mark {
                    self.check_versions()?;
                }
                self.insert_records(timeline, key, value, many)?;
            }
            Run::Use { start, .. } => {
                for i in 0..many {
                    if !self.is_free(start.get() + i)? {
                        return Err(Refusal::Corrupt.into());
                    }
                }
                self.use_chunks(start, many)?;
            }
            Run::Done { origin, start, .. } => {
                for i in 0..many {
                    self.insert_done(origin, start.plus(i))?;
                }
            }
        }
        Ok(())
    }

    /// Makes all changes durable by writing the trees: every data write that completed on the COW
    /// device before this call is durable before the records that point at it.
    ///
    /// # Errors
    ///
    /// After an error the transaction is abandoned for good; the last commit stands.
    pub(super) fn commit(&mut self, clean: bool) -> Result<()> {
        if self.poisoned {
            return Err(StoreError::Kernel(EIO));
        }
        self.write_rows()?;
        self.tell_used()?;
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
            labels: self.trees.labels.as_ref().map_or(0, BTree::root),
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
        self.free_at_first = self.metadata_free()?;
        self.all_durable();
        let superblock = &self.superblock;
        if let Some(journal) = &mut self.journal {
            journal.restart(superblock.transaction, superblock.layout.data_chunks);
            let backed_up = journal.back_up(superblock);
            self.checked(backed_up)?;
        }
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
            self.counted(put)?;
            self.origins.set_written();
        }
        while let Some((key, row)) = self.snapshots.changed() {
            let put = self.trees.snapshots.insert(&mut self.txn, &[key], row);
            self.counted(put)?;
            self.snapshots.set_written();
        }
        Ok(())
    }

    /// An error of persistent-data in the middle of a change. What it says when blocks do not
    /// check, are elsewhere, or counts would fall below 0 is that the metadata are corrupt.
    pub(super) fn poison(&mut self, error: Error) -> StoreError {
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

    pub(super) fn checked<T>(&mut self, result: kernel::error::Result<T>) -> Result<T> {
        result.map_err(|e| self.poison(e))
    }

    /// Counts a tree change, or poisons the transaction when it failed.
    fn counted<T>(&mut self, result: kernel::error::Result<T>) -> Result<T> {
        self.count(1);
        self.checked(result)
    }

    /// Counts so many tree changes.
    pub(super) fn count(&mut self, many: u32) {
        self.touch();
        self.changes = self.changes.saturating_add(many);
        self.volatile = self.volatile.saturating_add(many);
    }

    /// As [`Meta::counted`], of a change that only a commit makes durable.
    pub(super) fn changed<T>(&mut self, result: kernel::error::Result<T>) -> Result<T> {
        self.set_unnoted();
        self.counted(result)
    }

    /// As [`Meta::counted`], of a change that the journal can make durable.
    pub(super) fn noted<T>(
        &mut self,
        result: kernel::error::Result<T>,
        entry: &Entry,
    ) -> Result<T> {
        self.note(entry);
        self.counted(result)
    }

    pub(super) fn note(&mut self, entry: &Entry) {
        self.touch();
        if !self.unnoted {
            let noted = self
                .journal
                .as_mut()
                .is_some_and(|journal| journal.note(entry));
            self.unnoted = !noted;
        }
    }

    /// There will be records of many chunks that are zeroes, which the superblock must say before there are.
    pub(super) fn want_zeroes(&mut self) {
        if self.superblock.incompat & INCOMPAT_ZEROES == 0 {
            self.superblock.incompat |= INCOMPAT_ZEROES;
            // The next one is written with these records, or before.
            self.set_unnoted();
        }
    }

    /// Something changed that is not noted.
    pub(super) fn set_unnoted(&mut self) {
        self.touch();
        self.unnoted = true;
    }
}
