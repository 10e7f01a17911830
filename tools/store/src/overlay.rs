// SPDX-License-Identifier: GPL-2.0
//! What the journal adds to the trees, kept so that who reads an entry of a tree can ask what has
//! become of it. It stands for 2^17 changes at most, whatever the size of the store.

use dm_snap_mv_model::disk::cleaning_row::CleaningRow;
use dm_snap_mv_model::disk::journal::{Entry, Run};
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::disk::snapshot_row::SnapshotRow;
use dm_snap_mv_model::ids::TimelineId;
use dm_snap_mv_model::record_key::key_behind;
use std::collections::BTreeMap;

/// What becomes of entries of a tree of numbers, by key; none: it has gone.
pub type Level = BTreeMap<u64, Option<u64>>;

/// The same of a tree of rows.
pub type Rows = BTreeMap<u64, Option<Vec<u8>>>;

/// All of it, by tree.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    pub(crate) origins: Rows,
    pub(crate) snapshots: Rows,
    pub(crate) cleaning: Rows,
    /// By timeline.
    pub(crate) records: BTreeMap<u64, Level>,
    /// By origin.
    pub(crate) done: BTreeMap<u64, Level>,
}

impl Overlay {
    /// Adds an entry, which is later than all before.
    pub(crate) fn note(&mut self, entry: &Entry) {
        match *entry {
            Entry::Run(ref run) => self.note_run(run),
            Entry::Origin(ref row) => {
                let mut bytes = vec![0; OriginRow::SIZE];
                if let Some(bytes) = bytes.first_chunk_mut() {
                    row.encode(bytes);
                }
                self.origins.insert(row.number.get().into(), Some(bytes));
            }
            Entry::Snapshot(origin, ref row) => {
                let mut bytes = vec![0; SnapshotRow::SIZE];
                if let Some(bytes) = bytes.first_chunk_mut() {
                    row.encode(bytes);
                }
                let key = TimelineId::of_snapshot(origin, row.tag).get();
                self.snapshots.insert(key, Some(bytes));
            }
            Entry::Cleaning(t, ref row) => {
                let mut bytes = vec![0; CleaningRow::SIZE];
                if let Some(bytes) = bytes.first_chunk_mut() {
                    row.encode(bytes);
                }
                self.cleaning.insert(t.get(), Some(bytes));
            }
            Entry::NoSnapshot(t) => {
                self.snapshots.insert(t.get(), None);
            }
            // What is based on what, and where there is a bookmark, stands in the rows as well.
            Entry::Child { .. }
            | Entry::NoChild { .. }
            | Entry::Bookmark { .. }
            | Entry::NoBookmark { .. } => {}
        }
    }

    /// It is known that there are no more than the format allows of all.
    fn note_run(&mut self, run: &Run) {
        match *run {
            Run::Records {
                timeline,
                key,
                value,
                len,
            } => {
                let level = self.records.entry(timeline.get()).or_default();
                for i in 0..u64::from(len) {
                    if let (Some(key), Some(value)) = (key_behind(key, i), value.plus(i)) {
                        level.insert(key, Some(value.encode()));
                    }
                }
            }
            // Which COW chunks are in use follows from records.
            Run::Use { .. } => {}
            Run::Done { origin, start, len } => {
                let level = self.done.entry(origin.get().into()).or_default();
                for i in 0..len {
                    level.insert(start.plus(i).get(), Some(0));
                }
            }
        }
    }
}
