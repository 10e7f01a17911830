// SPDX-License-Identifier: GPL-2.0

//! What is kept on disk, as the rest of the model sees it.

use super::disk::cleaning_row::CleaningRow;
use super::disk::label_row::LabelRow;
use super::disk::origin_row::OriginRow;
use super::disk::snapshot_row::SnapshotRow;
use super::ids::{Chunk, CowChunk, Epoch, OriginNr, TimelineId};
use super::record_key::{key_behind, RecordValue};
use super::refusal::Refusal;

/// The trees and the space map of one store, in one transaction.
///
/// In the kernel these are B-trees of persistent-data, in tests ordered maps. Changes go into the
/// transaction that is open; the caller commits or gives it up. Everything that is read has been
/// checked by the decoders in [`super::disk`] and [`super::record_key`].
///
/// Searches named `…_from` return the first entry that is not below the key asked for.
pub trait Metadata {
    /// What a failed call returns; a refusal of the model is one of them.
    type Error: From<Refusal>;

    /// The first record of timeline `t` whose key is not below `key` ([`super::record_key`]).
    fn record_from(
        &self,
        t: TimelineId,
        key: u64,
    ) -> Result<Option<(u64, RecordValue)>, Self::Error>;

    /// How many records behind the one with this key and value, at most `max`, are those of a run:
    /// each the next of the timeline, of the next chunk and the same epoch, with what follows in the
    /// value ([`RecordValue::plus`]). Fewer than there are, if it would take a search to tell: who
    /// wants to know asks for the next one by [`Metadata::record_from`].
    fn records_behind(&self, _t: TimelineId, _key: u64, _value: RecordValue, _max: u64) -> u64 {
        0
    }

    /// Puts a record, in place of one with this key. Space is not this call's business.
    fn insert_record(
        &mut self,
        t: TimelineId,
        key: u64,
        value: RecordValue,
    ) -> Result<(), Self::Error>;

    /// Puts the records of `len` chunks that follow one another, all of one epoch: the first with this
    /// key and value, each other with what is behind those of the one before.
    fn insert_records(
        &mut self,
        t: TimelineId,
        key: u64,
        value: RecordValue,
        len: u64,
    ) -> Result<(), Self::Error> {
        for i in 0..len {
            let key = key_behind(key, i).ok_or(Refusal::Corrupt)?;
            let value = value.plus(i).ok_or(Refusal::Corrupt)?;
            self.insert_record(t, key, value)?;
        }
        Ok(())
    }

    /// Removes a record that is there.
    fn remove_record(&mut self, t: TimelineId, key: u64) -> Result<(), Self::Error>;

    /// Removes the empty trees of timeline `t`: its records and its children. Fine if absent.
    fn drop_timeline(&mut self, t: TimelineId) -> Result<(), Self::Error>;

    /// Marks COW chunks as used, from this transaction on. The caller has set them aside before, so
    /// that nobody else gets them.
    fn use_chunks(&mut self, start: CowChunk, len: u64) -> Result<(), Self::Error>;

    /// Frees COW chunks. They may be used again after the transaction is durable, not before.
    fn free_chunks(&mut self, start: CowChunk, len: u64) -> Result<(), Self::Error>;

    /// The newest epoch not above `e` of timeline `t` that a snapshot is based on, and that
    /// snapshot's tag; tag 0 is the pin of a running rollback. No bookmarks.
    fn child_at_or_before(
        &self,
        t: TimelineId,
        e: Epoch,
    ) -> Result<Option<(Epoch, u32)>, Self::Error>;

    /// Notes that snapshot `tag` (0: a rollback) is based on epoch `e` of `t`.
    fn insert_child(&mut self, t: TimelineId, e: Epoch, tag: u32) -> Result<(), Self::Error>;

    /// Removes such a note that is there.
    fn remove_child(&mut self, t: TimelineId, e: Epoch) -> Result<(), Self::Error>;

    /// The newest epoch not above `e` of timeline `t`, an origin's, that there is a bookmark of, and its
    /// tag.
    fn bookmark_at_or_before(
        &self,
        t: TimelineId,
        e: Epoch,
    ) -> Result<Option<(Epoch, u32)>, Self::Error>;

    /// Notes that there is a bookmark `tag` of epoch `e` of `t`. The store is one that can have such
    /// from then on.
    fn insert_bookmark(&mut self, t: TimelineId, e: Epoch, tag: u32) -> Result<(), Self::Error>;

    /// Removes such a note that is there.
    fn remove_bookmark(&mut self, t: TimelineId, e: Epoch) -> Result<(), Self::Error>;

    /// The row of an origin.
    fn origin(&self, nr: OriginNr) -> Result<Option<OriginRow>, Self::Error>;

    /// Puts the row of an origin, new or in place of the old one.
    fn put_origin(&mut self, row: &OriginRow) -> Result<(), Self::Error>;

    /// Removes the row of an origin that is there, and counts one origin less.
    fn remove_origin(&mut self, nr: OriginNr) -> Result<(), Self::Error>;

    /// The number of the origin with this id.
    fn origin_by_id(&self, id: &[u8]) -> Result<Option<OriginNr>, Self::Error>;

    /// Notes the number of a new id.
    fn insert_origin_id(&mut self, id: &[u8], nr: OriginNr) -> Result<(), Self::Error>;

    /// Forgets an id that is there.
    fn remove_origin_id(&mut self, id: &[u8]) -> Result<(), Self::Error>;

    /// The number that the next origin gets to be bound: none has had it, nor any after it. Refuses
    /// with [`Refusal::TooManyOrigins`] when there is none.
    fn next_origin_nr(&self) -> Result<OriginNr, Self::Error>;

    /// Notes that an origin has got a number, so that the next one is greater, and counts one origin
    /// more.
    fn use_origin_nr(&mut self, nr: OriginNr) -> Result<(), Self::Error>;

    /// The row of a snapshot.
    fn snapshot(&self, t: TimelineId) -> Result<Option<SnapshotRow>, Self::Error>;

    /// The first snapshot not below `t`, perhaps one of a later origin.
    fn snapshot_from(
        &self,
        t: TimelineId,
    ) -> Result<Option<(TimelineId, SnapshotRow)>, Self::Error>;

    /// Puts the row of a snapshot of `origin`, new or in place of the old one.
    fn put_snapshot(&mut self, origin: OriginNr, row: &SnapshotRow) -> Result<(), Self::Error>;

    /// Removes the row of a snapshot that is there.
    fn remove_snapshot(&mut self, t: TimelineId) -> Result<(), Self::Error>;

    /// The label of a snapshot or bookmark.
    fn label(&self, t: TimelineId) -> Result<Option<LabelRow>, Self::Error>;

    /// Puts a label, new or in place of the old one.
    fn put_label(&mut self, t: TimelineId, row: &LabelRow) -> Result<(), Self::Error>;

    /// Removes a label, if there is one.
    fn remove_label(&mut self, t: TimelineId) -> Result<(), Self::Error>;

    /// The first chunk not below `c` that is marked as done by the rollback of `origin`.
    fn done_from(&self, origin: OriginNr, c: Chunk) -> Result<Option<Chunk>, Self::Error>;

    /// Marks a chunk; fine if it is marked.
    fn insert_done(&mut self, origin: OriginNr, c: Chunk) -> Result<(), Self::Error>;

    /// Removes a mark that is there.
    fn remove_done(&mut self, origin: OriginNr, c: Chunk) -> Result<(), Self::Error>;

    /// Removes the empty tree of marks of `origin`. Fine if absent.
    fn drop_done(&mut self, origin: OriginNr) -> Result<(), Self::Error>;

    /// How far the cleaning of timeline `t` is; none when there is nothing to clean.
    fn cleaning(&self, t: TimelineId) -> Result<Option<CleaningRow>, Self::Error>;

    /// The first timeline not below `t` that is to be cleaned.
    fn cleaning_from(
        &self,
        t: TimelineId,
    ) -> Result<Option<(TimelineId, CleaningRow)>, Self::Error>;

    /// Puts the cleaning row of a timeline, new or in place of the old one.
    fn put_cleaning(&mut self, t: TimelineId, row: &CleaningRow) -> Result<(), Self::Error>;

    /// Removes a cleaning row that is there.
    fn remove_cleaning(&mut self, t: TimelineId) -> Result<(), Self::Error>;
}
