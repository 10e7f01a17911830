// SPDX-License-Identifier: GPL-2.0

//! The metadata of a store in memory, with transactions, strict about how it is used.

use std::cell::Cell;

use dm_snap_mv_model::disk::cleaning_row::CleaningRow;
use dm_snap_mv_model::disk::label_row::LabelRow;
use dm_snap_mv_model::disk::origin_row::OriginRow;
use dm_snap_mv_model::disk::snapshot_row::SnapshotRow;
use dm_snap_mv_model::ids::{Chunk, CowChunk, Epoch, OriginNr, TimelineId};
use dm_snap_mv_model::record_key::{
    bookmark_epoch, bookmark_key, child_epoch, child_key, is_behind_children, key_behind,
    RecordKey, RecordValue, KEY_STEP,
};
use dm_snap_mv_model::records::Metadata;
use dm_snap_mv_model::refusal::Refusal;

use crate::tree::Tree;

#[derive(Clone)]
pub struct Store {
    pub records: Tree<(u64, u64), u64>,
    pub children: Tree<(u64, u64), u32>,
    pub origins: Tree<u32, OriginRow>,
    pub ids: Tree<Vec<u8>, u32>,
    pub snapshots: Tree<u64, SnapshotRow>,
    pub done: Tree<(u32, u64), ()>,
    pub cleaning: Tree<u64, CleaningRow>,
    pub labels: Tree<u64, LabelRow>,
    pub next_origin: Tree<(), u32>,
    /// Which COW chunks are in use now, and which were at the last commit.
    used: Vec<bool>,
    committed: Vec<bool>,
    touched: Vec<usize>,
    /// How often records and children were searched.
    pub searches: Cell<u64>,
}

impl Store {
    pub fn new(cow_chunks: usize) -> Store {
        Store {
            records: Tree::new(),
            children: Tree::new(),
            origins: Tree::new(),
            ids: Tree::new(),
            snapshots: Tree::new(),
            done: Tree::new(),
            cleaning: Tree::new(),
            labels: Tree::new(),
            next_origin: Tree::new(),
            used: vec![false; cow_chunks],
            committed: vec![false; cow_chunks],
            touched: Vec::new(),
            searches: Cell::new(0),
        }
    }

    pub fn used(&self) -> &[bool] {
        &self.used
    }

    /// Changes since the last commit.
    pub fn changes(&self) -> usize {
        self.records.changes()
            + self.children.changes()
            + self.origins.changes()
            + self.ids.changes()
            + self.snapshots.changes()
            + self.done.changes()
            + self.cleaning.changes()
            + self.labels.changes()
            + self.next_origin.changes()
            + self.touched.len()
    }

    pub fn commit(&mut self) {
        self.records.commit();
        self.children.commit();
        self.origins.commit();
        self.ids.commit();
        self.snapshots.commit();
        self.done.commit();
        self.cleaning.commit();
        self.labels.commit();
        self.next_origin.commit();
        for chunk in self.touched.drain(..) {
            self.committed[chunk] = self.used[chunk];
        }
    }

    /// Back to the last commit.
    pub fn abort(&mut self) {
        self.records.abort();
        self.children.abort();
        self.origins.abort();
        self.ids.abort();
        self.snapshots.abort();
        self.done.abort();
        self.cleaning.abort();
        self.labels.abort();
        self.next_origin.abort();
        for chunk in self.touched.drain(..) {
            self.used[chunk] = self.committed[chunk];
        }
    }

    /// Up to `max` free COW chunks one behind the other, looked for from `hint` on. What the last
    /// commit still uses is not free.
    pub fn allocate(&self, hint: usize, max: u64) -> Option<(CowChunk, u64)> {
        let free = |chunk: usize| !self.used[chunk] && !self.committed[chunk];
        let total = self.used.len();
        let start = (0..total).map(|i| (hint + i) % total).find(|&c| free(c))?;
        let run = (start..total).take_while(|&c| free(c)).count() as u64;
        Some((CowChunk::new(start as u64)?, run.min(max)))
    }

    fn set_used(&mut self, start: CowChunk, len: u64, used: bool) {
        for chunk in start.get()..start.get() + len {
            let chunk = chunk as usize;
            let was = self.used[chunk];
            assert_ne!(was, used, "COW chunk {chunk}: in use {was} already");
            assert!(
                !used || !self.committed[chunk],
                "COW chunk {chunk} is used again before it is durably free"
            );
            self.used[chunk] = used;
            self.touched.push(chunk);
        }
    }

    fn searched(&self) {
        self.searches.set(self.searches.get() + 1);
    }
}

/// What went wrong. Errors of the device do not happen here: a crash is the machine's business.
pub type Error = Refusal;

impl Metadata for Store {
    type Error = Error;

    fn record_from(&self, t: TimelineId, key: u64) -> Result<Option<(u64, RecordValue)>, Error> {
        self.searched();
        let found = self.records.from(&(t.get(), key));
        let Some((&(_, key), &raw)) = found.filter(|((of, _), _)| *of == t.get()) else {
            return Ok(None);
        };
        Ok(Some((
            key,
            RecordValue::decode(raw, self.used.len() as u64)?,
        )))
    }

    fn records_behind(&self, t: TimelineId, key: u64, value: RecordValue, max: u64) -> u64 {
        // Not always all that there are.
        let max = max.min(1 << (key / KEY_STEP % 4));
        let is_next = |n: &u64| {
            let last = key_behind(key, n - 1).expect("it is there");
            let next = self.records.from(&(t.get(), last + 1));
            let expected = key_behind(key, *n).zip(value.plus(*n));
            next.zip(expected).is_some_and(|((at, raw), (key, value))| {
                *at == (t.get(), key) && *raw == value.encode()
            })
        };
        (1..=max).take_while(is_next).count() as u64
    }

    fn insert_record(&mut self, t: TimelineId, key: u64, value: RecordValue) -> Result<(), Error> {
        let (chunk, _) = RecordKey::decode(t, key).expect("a good key");
        value.first_of(t, chunk).expect("a good value");
        self.records.insert((t.get(), key), value.encode());
        Ok(())
    }

    fn remove_record(&mut self, t: TimelineId, key: u64) -> Result<(), Error> {
        self.records.remove(&(t.get(), key));
        Ok(())
    }

    fn drop_timeline(&mut self, t: TimelineId) -> Result<(), Error> {
        assert_eq!(self.record_from(t, 0), Ok(None), "drops records of {t:?}");
        assert_eq!(
            self.child_at_or_before(t, Epoch::MAX),
            Ok(None),
            "drops children of {t:?}"
        );
        assert_eq!(
            self.bookmark_at_or_before(t, Epoch::MAX),
            Ok(None),
            "drops bookmarks of {t:?}"
        );
        Ok(())
    }

    fn use_chunks(&mut self, start: CowChunk, len: u64) -> Result<(), Error> {
        self.set_used(start, len, true);
        Ok(())
    }

    fn free_chunks(&mut self, start: CowChunk, len: u64) -> Result<(), Error> {
        self.set_used(start, len, false);
        Ok(())
    }

    fn child_at_or_before(&self, t: TimelineId, e: Epoch) -> Result<Option<(Epoch, u32)>, Error> {
        self.searched();
        let found = self.children.from(&(t.get(), child_key(e)));
        let mine = |of: u64, key: u64| of == t.get() && !is_behind_children(key);
        let Some((&(_, key), &tag)) = found.filter(|((of, key), _)| mine(*of, *key)) else {
            return Ok(None);
        };
        Ok(Some((child_epoch(key)?, tag)))
    }

    fn insert_child(&mut self, t: TimelineId, e: Epoch, tag: u32) -> Result<(), Error> {
        let key = (t.get(), child_key(e));
        assert!(
            self.children.get(&key).is_none(),
            "two children of {t:?} at {e:?}"
        );
        self.children.insert(key, tag);
        Ok(())
    }

    fn remove_child(&mut self, t: TimelineId, e: Epoch) -> Result<(), Error> {
        self.children.remove(&(t.get(), child_key(e)));
        Ok(())
    }

    fn bookmark_at_or_before(
        &self,
        t: TimelineId,
        e: Epoch,
    ) -> Result<Option<(Epoch, u32)>, Error> {
        self.searched();
        let found = self.children.from(&(t.get(), bookmark_key(e)));
        let Some((&(_, key), &tag)) = found.filter(|((of, _), _)| *of == t.get()) else {
            return Ok(None);
        };
        Ok(Some((bookmark_epoch(key)?, tag)))
    }

    fn insert_bookmark(&mut self, t: TimelineId, e: Epoch, tag: u32) -> Result<(), Error> {
        assert!(t.is_origin(), "a bookmark of {t:?}");
        let key = (t.get(), bookmark_key(e));
        assert!(
            self.children.get(&key).is_none(),
            "two bookmarks of {t:?} at {e:?}"
        );
        self.children.insert(key, tag);
        Ok(())
    }

    fn remove_bookmark(&mut self, t: TimelineId, e: Epoch) -> Result<(), Error> {
        self.children.remove(&(t.get(), bookmark_key(e)));
        Ok(())
    }

    fn origin(&self, nr: OriginNr) -> Result<Option<OriginRow>, Error> {
        Ok(self.origins.get(&nr.get()).copied())
    }

    fn put_origin(&mut self, row: &OriginRow) -> Result<(), Error> {
        let mut bytes = [0xff; OriginRow::SIZE];
        row.encode(&mut bytes);
        assert_eq!(OriginRow::decode(&bytes).as_ref(), Ok(row));
        self.origins.insert(row.number.get(), *row);
        Ok(())
    }

    fn remove_origin(&mut self, nr: OriginNr) -> Result<(), Error> {
        self.origins.remove(&nr.get());
        Ok(())
    }

    fn origin_by_id(&self, id: &[u8]) -> Result<Option<OriginNr>, Error> {
        Ok(self.ids.get(&id.to_vec()).and_then(|&nr| OriginNr::new(nr)))
    }

    fn insert_origin_id(&mut self, id: &[u8], nr: OriginNr) -> Result<(), Error> {
        assert!(self.ids.get(&id.to_vec()).is_none(), "an id twice");
        self.ids.insert(id.to_vec(), nr.get());
        Ok(())
    }

    fn remove_origin_id(&mut self, id: &[u8]) -> Result<(), Error> {
        self.ids.remove(&id.to_vec());
        Ok(())
    }

    fn next_origin_nr(&self) -> Result<OriginNr, Error> {
        let next = self.next_origin.get(&()).copied().unwrap_or(1);
        Ok(OriginNr::new(next).expect("a number"))
    }

    fn use_origin_nr(&mut self, nr: OriginNr) -> Result<(), Error> {
        let next = self.next_origin.get(&()).copied().unwrap_or(1);
        self.next_origin.insert((), next.max(nr.get() + 1));
        Ok(())
    }

    fn snapshot(&self, t: TimelineId) -> Result<Option<SnapshotRow>, Error> {
        Ok(self.snapshots.get(&t.get()).copied())
    }

    fn snapshot_from(&self, t: TimelineId) -> Result<Option<(TimelineId, SnapshotRow)>, Error> {
        let found = self.snapshots.from(&t.get());
        Ok(found.and_then(|(&t, &row)| Some((TimelineId::new(t)?, row))))
    }

    fn put_snapshot(&mut self, origin: OriginNr, row: &SnapshotRow) -> Result<(), Error> {
        let mut bytes = [0xff; SnapshotRow::SIZE];
        row.encode(&mut bytes);
        assert_eq!(SnapshotRow::decode(&bytes).as_ref(), Ok(row));
        self.snapshots.insert(row.timeline(origin).get(), *row);
        Ok(())
    }

    fn remove_snapshot(&mut self, t: TimelineId) -> Result<(), Error> {
        self.snapshots.remove(&t.get());
        Ok(())
    }

    fn done_from(&self, origin: OriginNr, c: Chunk) -> Result<Option<Chunk>, Error> {
        let found = self.done.from(&(origin.get(), c.get()));
        let found = found.filter(|((nr, _), ())| *nr == origin.get());
        Ok(found.and_then(|(&(_, chunk), ())| Chunk::new(chunk)))
    }

    fn insert_done(&mut self, origin: OriginNr, c: Chunk) -> Result<(), Error> {
        self.done.insert((origin.get(), c.get()), ());
        Ok(())
    }

    fn remove_done(&mut self, origin: OriginNr, c: Chunk) -> Result<(), Error> {
        self.done.remove(&(origin.get(), c.get()));
        Ok(())
    }

    fn drop_done(&mut self, origin: OriginNr) -> Result<(), Error> {
        assert_eq!(
            self.done_from(origin, Chunk::ZERO),
            Ok(None),
            "drops marks of {origin:?}"
        );
        Ok(())
    }

    fn label(&self, t: TimelineId) -> Result<Option<LabelRow>, Error> {
        Ok(self.labels.get(&t.get()).copied())
    }

    fn put_label(&mut self, t: TimelineId, row: &LabelRow) -> Result<(), Error> {
        let mut bytes = [0xff; LabelRow::SIZE];
        row.encode(&mut bytes);
        assert_eq!(LabelRow::decode(&bytes).as_ref(), Ok(row));
        self.labels.insert(t.get(), *row);
        Ok(())
    }

    fn remove_label(&mut self, t: TimelineId) -> Result<(), Error> {
        if self.labels.get(&t.get()).is_some() {
            self.labels.remove(&t.get());
        }
        Ok(())
    }

    fn cleaning(&self, t: TimelineId) -> Result<Option<CleaningRow>, Error> {
        Ok(self.cleaning.get(&t.get()).copied())
    }

    fn cleaning_from(&self, t: TimelineId) -> Result<Option<(TimelineId, CleaningRow)>, Error> {
        let found = self.cleaning.from(&t.get());
        Ok(found.and_then(|(&t, &row)| Some((TimelineId::new(t)?, row))))
    }

    fn put_cleaning(&mut self, t: TimelineId, row: &CleaningRow) -> Result<(), Error> {
        let mut bytes = [0xff; CleaningRow::SIZE];
        row.encode(&mut bytes);
        assert_eq!(CleaningRow::decode(&bytes).as_ref(), Ok(row));
        self.cleaning.insert(t.get(), *row);
        Ok(())
    }

    fn remove_cleaning(&mut self, t: TimelineId) -> Result<(), Error> {
        self.cleaning.remove(&t.get());
        Ok(())
    }
}
