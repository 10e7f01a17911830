// SPDX-License-Identifier: GPL-2.0

//! What the pure half reads and changes, as look-ups and changes of the store's trees.
//!
//! See [`super::metadata`] for contexts and locks.

use super::error::Result;
use super::error::StoreError;
use super::metadata::Meta;
use crate::dm::pdata::checksum;
use crate::dm::pdata::{BTree, Value};
use crate::model::disk::cleaning_row::CleaningRow;
use crate::model::disk::journal::{Entry, Run};
use crate::model::disk::label_row::LabelRow;
use crate::model::disk::origin_ids;
use crate::model::disk::origin_row::OriginRow;
use crate::model::disk::snapshot_row::SnapshotRow;
use crate::model::disk::superblock::CHECKSUM_XOR;
use crate::model::ids::{Chunk, CowChunk, Epoch, OriginNr, TimelineId};
use crate::model::record_key::{
    bookmark_epoch, bookmark_key, child_epoch, child_key, is_behind_children, key_behind,
    RecordValue,
};
use crate::model::records::Metadata;
use crate::model::refusal::Refusal;
use kernel::bindings::EILSEQ;
use kernel::prelude::*;

/// Rows stand in their trees as they encode themselves.
macro_rules! row_is_value {
    ($($row:ty),*) => { $(
        impl Value for $row {
            const SIZE: usize = <$row>::SIZE;

            fn read(bytes: &[u8]) -> kernel::error::Result<Self> {
                let bytes = bytes.first_chunk().ok_or(EINVAL)?;
                <$row>::decode(bytes).map_err(|_| Error::from_errno(-(EILSEQ as i32)))
            }

            fn write(&self, bytes: &mut [u8]) {
                if let Some(bytes) = bytes.first_chunk_mut() {
                    self.encode(bytes);
                }
            }
        }
    )* };
}
row_is_value!(OriginRow, SnapshotRow, CleaningRow, LabelRow);

impl Meta {
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

    /// Puts a child or bookmark into their tree, and notes it.
    fn put_child(&mut self, t: TimelineId, key: u64, tag: u32, entry: &Entry) -> Result<()> {
        let keys = [t.get(), key];
        let put = self
            .trees
            .children
            .insert(&mut self.txn, &keys, &u64::from(tag));
        self.noted(put, entry)?;
        Ok(())
    }

    /// Removes one from there, and notes it.
    fn take_child(&mut self, t: TimelineId, key: u64, entry: &Entry) -> Result<()> {
        let gone = self.trees.children.remove(&mut self.txn, &[t.get(), key]);
        self.noted(gone, entry)?;
        Ok(())
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
        match self.trees.records.record_from(&self.txn, t.get(), key)? {
            None => Ok(None),
            Some((key, value)) => {
                let chunks = self.superblock.layout.data_chunks;
                let value = RecordValue::decode(value, chunks)?;
                if value == RecordValue::Mark {
                    self.check_versions()?;
                }
                Ok(Some((key, value)))
            }
        }
    }

    fn records_behind(&self, t: TimelineId, key: u64, value: RecordValue, max: u64) -> u64 {
        // One behind these is corrupt.
        let end = self.superblock.layout.data_chunks;
        let entry = |i: usize| {
            let i = i as u64;
            let raw = value.plus(i).filter(|_| i <= max)?.encode();
            RecordValue::decode(raw, end).ok()?;
            Some((key_behind(key, i)?, raw))
        };
        self.trees.records.records_behind(t.get(), key, entry) as u64
    }

    fn insert_record(&mut self, t: TimelineId, key: u64, v: RecordValue) -> Result<()> {
        self.insert_records(t, key, v, 1)
    }

    fn insert_records(
        &mut self,
        t: TimelineId,
        key: u64,
        value: RecordValue,
        len: u64,
    ) -> Result<()> {
        let Some(last) = len.checked_sub(1) else {
            return Ok(());
        };
        let many = u32::try_from(len).map_err(|_| Refusal::Corrupt)?;
        // What is refused changes nothing.
        let (Some(last), Some(_)) = (key_behind(key, last), value.plus(last)) else {
            return Err(Refusal::Corrupt.into());
        };
        match value {
            RecordValue::Zeroes(_) => self.want_zeroes(),
            RecordValue::Mark => self.use_versions(),
            RecordValue::Cow(_) | RecordValue::Zero => {}
        }
        // One note for all of them.
        self.note(&Entry::Run(Run::Records {
            timeline: t,
            key,
            value,
            len: many,
        }));
        self.count(many);
        let entry = |i: usize| {
            let i = i as u64;
            let key = key_behind(key, i).filter(|_| i < len)?;
            Some((key, value.plus(i)?.encode()))
        };
        let put = self
            .trees
            .records
            .insert_run(&mut self.txn, t.get(), last, entry);
        self.checked(put)
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
        self.note(&Entry::Run(Run::Use { start, len }));
        self.count(1);
        self.set_used(start.get(), len)
    }

    fn free_chunks(&mut self, start: CowChunk, len: u64) -> Result<()> {
        // Remember first: a chunk that is free on disk but not remembered could be reused early.
        self.remember_freed(start.get(), len);
        self.set_unnoted();
        self.count(1);
        self.set_free(start.get(), len)
    }

    fn child_at_or_before(&self, t: TimelineId, e: Epoch) -> Result<Option<(Epoch, u32)>> {
        let keys = [t.get(), child_key(e)];
        match self.trees.children.lookup_next(&self.txn, &keys)? {
            Some((key, tag)) if !is_behind_children(key) => {
                let epoch = child_epoch(key)?;
                let tag = u32::try_from(tag).map_err(|_| Refusal::Corrupt)?;
                Ok(Some((epoch, tag)))
            }
            _ => Ok(None),
        }
    }

    fn insert_child(&mut self, t: TimelineId, e: Epoch, tag: u32) -> Result<()> {
        let entry = Entry::Child {
            timeline: t,
            epoch: e,
            tag,
        };
        self.put_child(t, child_key(e), tag, &entry)
    }

    fn remove_child(&mut self, t: TimelineId, e: Epoch) -> Result<()> {
        let entry = Entry::NoChild {
            timeline: t,
            epoch: e,
        };
        self.take_child(t, child_key(e), &entry)
    }

    fn bookmark_at_or_before(&self, t: TimelineId, e: Epoch) -> Result<Option<(Epoch, u32)>> {
        let keys = [t.get(), bookmark_key(e)];
        match self.trees.children.lookup_next(&self.txn, &keys)? {
            None => Ok(None),
            Some((key, tag)) => {
                self.check_versions()?;
                let tag = u32::try_from(tag).map_err(|_| Refusal::Corrupt)?;
                Ok(Some((bookmark_epoch(key)?, tag)))
            }
        }
    }

    fn insert_bookmark(&mut self, t: TimelineId, e: Epoch, tag: u32) -> Result<()> {
        self.use_versions();
        let entry = Entry::Bookmark {
            timeline: t,
            epoch: e,
            tag,
        };
        self.put_child(t, bookmark_key(e), tag, &entry)
    }

    fn remove_bookmark(&mut self, t: TimelineId, e: Epoch) -> Result<()> {
        let entry = Entry::NoBookmark {
            timeline: t,
            epoch: e,
        };
        self.take_child(t, bookmark_key(e), &entry)
    }

    fn origin(&self, nr: OriginNr) -> Result<Option<OriginRow>> {
        let key = u64::from(nr.get());
        if let Some(row) = self.origins.get(key) {
            return Ok(Some(*row));
        }
        Ok(self.trees.origins.lookup(&self.txn, &[key])?)
    }

    fn put_origin(&mut self, row: &OriginRow) -> Result<()> {
        let key = u64::from(row.number.get());
        if self.origins.update(key, row) {
            self.touch();
            return Ok(());
        }
        let put = self.trees.origins.insert(&mut self.txn, &[key], row);
        self.noted(put, &Entry::Origin(*row))?;
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

    fn next_origin_nr(&self) -> Result<OriginNr> {
        let nr = OriginNr::new(self.superblock.next_origin).ok_or(Refusal::Corrupt)?;
        nr.get().checked_add(1).ok_or(Refusal::TooManyOrigins)?;
        Ok(nr)
    }

    fn use_origin_nr(&mut self, nr: OriginNr) -> Result<()> {
        let next = nr.get().checked_add(1).ok_or(Refusal::TooManyOrigins)?;
        self.superblock.next_origin = self.superblock.next_origin.max(next);
        self.superblock.nr_origins = self.superblock.nr_origins.saturating_add(1);
        self.set_unnoted();
        Ok(())
    }

    fn snapshot(&self, t: TimelineId) -> Result<Option<SnapshotRow>> {
        if let Some(row) = self.snapshots.get(t.get()) {
            return Ok(Some(*row));
        }
        Ok(self.trees.snapshots.lookup(&self.txn, &[t.get()])?)
    }

    fn snapshot_from(&self, t: TimelineId) -> Result<Option<(TimelineId, SnapshotRow)>> {
        match self.trees.snapshots.lookup_next(&self.txn, &[t.get()])? {
            None => Ok(None),
            Some((key, row)) => {
                let row = self.snapshots.get(key).copied().unwrap_or(row);
                Ok(Some((TimelineId::new(key).ok_or(Refusal::Corrupt)?, row)))
            }
        }
    }

    fn put_snapshot(&mut self, origin: OriginNr, row: &SnapshotRow) -> Result<()> {
        let key = TimelineId::of_snapshot(origin, row.tag).get();
        if self.snapshots.update(key, row) {
            self.touch();
            return Ok(());
        }
        let put = self.trees.snapshots.insert(&mut self.txn, &[key], row);
        self.noted(put, &Entry::Snapshot(origin, *row))?;
        Ok(())
    }

    fn remove_snapshot(&mut self, t: TimelineId) -> Result<()> {
        self.snapshots.remove(t.get());
        let gone = self.trees.snapshots.remove(&mut self.txn, &[t.get()]);
        self.noted(gone, &Entry::NoSnapshot(t))?;
        Ok(())
    }

    fn label(&self, t: TimelineId) -> Result<Option<LabelRow>> {
        match &self.trees.labels {
            None => Ok(None),
            Some(labels) => Ok(labels.lookup(&self.txn, &[t.get()])?),
        }
    }

    fn put_label(&mut self, t: TimelineId, row: &LabelRow) -> Result<()> {
        self.use_versions();
        if self.trees.labels.is_none() {
            let made = BTree::empty(&mut self.txn);
            self.trees.labels = Some(self.changed(made)?);
        }
        if let Some(labels) = &mut self.trees.labels {
            let put = labels.insert(&mut self.txn, &[t.get()], row);
            self.changed(put)?;
        }
        Ok(())
    }

    fn remove_label(&mut self, t: TimelineId) -> Result<()> {
        if self.label(t)?.is_none() {
            return Ok(());
        }
        if let Some(labels) = &mut self.trees.labels {
            let gone = labels.remove(&mut self.txn, &[t.get()]);
            self.changed(gone)?;
        }
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
        let entry = Entry::Run(Run::Done {
            origin: o,
            start: c,
            len: 1,
        });
        self.noted(put, &entry)?;
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
        Ok(self.trees.cleaning.lookup(&self.txn, &[t.get()])?)
    }

    fn cleaning_from(&self, t: TimelineId) -> Result<Option<(TimelineId, CleaningRow)>> {
        match self.trees.cleaning.lookup_next(&self.txn, &[t.get()])? {
            None => Ok(None),
            Some((key, row)) => {
                let t = TimelineId::new(key).ok_or(Refusal::Corrupt)?;
                Ok(Some((t, row)))
            }
        }
    }

    fn put_cleaning(&mut self, t: TimelineId, row: &CleaningRow) -> Result<()> {
        let put = self.trees.cleaning.insert(&mut self.txn, &[t.get()], row);
        self.noted(put, &Entry::Cleaning(t, *row))?;
        Ok(())
    }

    fn remove_cleaning(&mut self, t: TimelineId) -> Result<()> {
        let gone = self.trees.cleaning.remove(&mut self.txn, &[t.get()]);
        self.changed(gone)?;
        Ok(())
    }
}
