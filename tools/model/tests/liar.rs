// SPDX-License-Identifier: GPL-2.0

//! Metadata that says anything at all: whatever a damaged or forged store holds, nothing panics and
//! everything ends.

use std::cell::Cell;

use dm_snap_mv_model::chain::Chain;
use dm_snap_mv_model::chunk_size::ChunkSize;
use dm_snap_mv_model::clean::{clean_step, percent};
use dm_snap_mv_model::delta::{Delta, Page, Version};
use dm_snap_mv_model::discard::first_part;
use dm_snap_mv_model::disk::cleaning_row::CleaningRow;
use dm_snap_mv_model::disk::identity::Identity;
use dm_snap_mv_model::disk::label_row::LabelRow;
use dm_snap_mv_model::disk::origin_row::{Deferred, OriginId, OriginRow, Rollback};
use dm_snap_mv_model::disk::snapshot_row::{Memo, SnapshotRow};
use dm_snap_mv_model::escape::Sink;
use dm_snap_mv_model::ids::{Chunk, CowChunk, Epoch, OriginNr, Tag, TimelineId};
use dm_snap_mv_model::list::{list, StoreLine};
use dm_snap_mv_model::preserve::{
    newest_live, next_unpreserved, record_changed, record_preserved, Live,
};
use dm_snap_mv_model::record_key::RecordValue;
use dm_snap_mv_model::records::Metadata;
use dm_snap_mv_model::refusal::Refusal;
use dm_snap_mv_model::report::{State, Usage};
use dm_snap_mv_model::resolve::{resolve, resolve_head};
use dm_snap_mv_model::rollback::{self, RollbackView};
use dm_snap_mv_model::versions;
use dm_snap_mv_model::write::{record_written, record_zeroes, writable, NewRun};

/// Gives the same answer to the same question each time, so that who does not get on asks for ever.
struct Liar {
    seed: u64,
    /// How often, of 256 times, there is an error, and how often nothing.
    errors: u64,
    nothings: u64,
    state: Cell<u64>,
    calls: Cell<u32>,
}

impl Liar {
    fn new(seed: u64) -> Liar {
        let liar = Liar {
            seed,
            errors: 0,
            nothings: 0,
            state: Cell::new(seed),
            calls: Cell::new(0),
        };
        Liar {
            errors: [0, 2, 10][liar.below(3)],
            nothings: [5, 30, 100][liar.below(3)],
            ..liar
        }
    }

    /// splitmix64.
    fn next(&self) -> u64 {
        self.state
            .set(self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let z = self.state.get();
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&self, n: u64) -> usize {
        (self.next() % n) as usize
    }

    /// Mostly small numbers.
    fn number(&self) -> u64 {
        match self.below(256) {
            0..=199 => self.next() % 16,
            200..=229 => self.next() % (1 << 32),
            230..=239 => u64::MAX - self.next() % 256,
            _ => self.next(),
        }
    }

    /// Answers the question `name` about `key`.
    fn said<T>(
        &self,
        name: &str,
        key: u64,
        value: impl FnOnce() -> T,
    ) -> Result<Option<T>, Refusal> {
        self.calls.set(self.calls.get() + 1);
        assert!(self.calls.get() < 100_000, "it does not end");
        let asker = self.state.get();
        let question = name
            .bytes()
            .fold(key, |n, b| n.wrapping_mul(31).wrapping_add(b.into()));
        self.state
            .set(self.seed ^ question.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let answer = match self.next() % 256 {
            n if n < self.errors => Err(Refusal::Io),
            n if n < self.errors + self.nothings => Ok(None),
            _ => Ok(Some(value())),
        };
        self.state.set(asker);
        answer
    }

    fn done(&self) -> Result<(), Refusal> {
        self.said("done", self.calls.get().into(), || ())
            .map(|_| ())
    }

    fn epoch(&self) -> Epoch {
        Epoch::new(self.number() as u32).unwrap_or(Epoch::FIRST)
    }

    fn tag(&self) -> Tag {
        Tag::new(self.number() as u32).unwrap_or(Tag::FIRST)
    }

    fn chunk(&self) -> Chunk {
        Chunk::saturating(self.number())
    }

    fn cow(&self) -> CowChunk {
        CowChunk::new(self.number()).unwrap_or(CowChunk::MAX)
    }

    fn nr(&self) -> OriginNr {
        OriginNr::new(self.number() as u32).unwrap_or(OriginNr::new(1).unwrap())
    }

    fn timeline(&self) -> TimelineId {
        TimelineId::of(self.nr(), Tag::new(self.number() as u32))
    }

    fn snapshot_row(&self) -> SnapshotRow {
        let tag = self.tag();
        SnapshotRow {
            tag,
            ghost: self.number() % 2 == 0,
            bookmark: self.number() % 4 == 0,
            parent: Tag::new(self.number() as u32 % tag.get()),
            base_epoch: self.epoch(),
            current_epoch: self.epoch(),
            children: self.number() as u32,
            size: self.number().max(1),
            created: 0,
            chunks: self.number(),
            memo: Memo::EMPTY,
        }
    }

    fn origin_row(&self) -> OriginRow {
        let (a, b) = (self.chunk(), self.chunk());
        OriginRow {
            size: self.number().max(1),
            number: self.nr(),
            current_epoch: self.epoch(),
            next_tag: self.tag(),
            snapshots: self.number() as u32,
            ghosts: self.number() as u32,
            created: 0,
            chunks: self.number(),
            invalid_below: self.number() as u32,
            bookmarks: self.number() as u32 % 3,
            forgotten_below: self.number() as u32,
            rollback: (self.number() % 2 == 0).then(|| Rollback {
                source: self.tag(),
                source_epoch: self.epoch(),
                boundary: self.epoch(),
                delete_source: self.number() % 2 == 0,
                cursor: a.min(b),
                limit: a.max(b),
                merged: 0,
            }),
            deferred: (self.number() % 4 == 0).then(|| Deferred {
                source: self.tag(),
                delete_source: true,
            }),
            identity: Identity::UNKNOWN,
            id: OriginId::new(b"id").unwrap(),
        }
    }

    fn cleaning_row(&self) -> CleaningRow {
        CleaningRow {
            cursor: self.number(),
            again: self.number() % 2 == 0,
            drop: self.number() % 2 == 0,
            freed: self.number(),
        }
    }
}

impl Metadata for Liar {
    type Error = Refusal;

    fn record_from(&self, t: TimelineId, key: u64) -> Result<Option<(u64, RecordValue)>, Refusal> {
        self.said("record", t.get() ^ key, || {
            let key = match self.number() {
                0..=7 => key.wrapping_add(self.number()),
                8..=11 => key.wrapping_add(self.number() << 24),
                _ => self.number(),
            };
            match self.number() % 4 {
                0 => (key, RecordValue::Zero),
                1 => (key, RecordValue::zeroes(self.number())),
                2 => (key, RecordValue::Mark),
                _ => (key, RecordValue::Cow(self.cow())),
            }
        })
    }
    fn records_behind(&self, t: TimelineId, key: u64, _: RecordValue, _: u64) -> u64 {
        let said = self.said("behind", t.get() ^ key, || self.number());
        said.ok().flatten().unwrap_or(0)
    }
    fn insert_record(&mut self, _: TimelineId, _: u64, _: RecordValue) -> Result<(), Refusal> {
        self.done()
    }
    fn remove_record(&mut self, _: TimelineId, _: u64) -> Result<(), Refusal> {
        self.done()
    }
    fn drop_timeline(&mut self, _: TimelineId) -> Result<(), Refusal> {
        self.done()
    }
    fn use_chunks(&mut self, _: CowChunk, _: u64) -> Result<(), Refusal> {
        self.done()
    }
    fn free_chunks(&mut self, _: CowChunk, _: u64) -> Result<(), Refusal> {
        self.done()
    }
    fn child_at_or_before(&self, t: TimelineId, e: Epoch) -> Result<Option<(Epoch, u32)>, Refusal> {
        self.said("child", t.get() ^ (u64::from(e.get()) << 8), || {
            (self.epoch(), self.number() as u32)
        })
    }
    fn insert_child(&mut self, _: TimelineId, _: Epoch, _: u32) -> Result<(), Refusal> {
        self.done()
    }
    fn remove_child(&mut self, _: TimelineId, _: Epoch) -> Result<(), Refusal> {
        self.done()
    }
    fn bookmark_at_or_before(
        &self,
        t: TimelineId,
        e: Epoch,
    ) -> Result<Option<(Epoch, u32)>, Refusal> {
        self.said("bookmark", t.get() ^ (u64::from(e.get()) << 8), || {
            (self.epoch(), self.number() as u32)
        })
    }
    fn insert_bookmark(&mut self, _: TimelineId, _: Epoch, _: u32) -> Result<(), Refusal> {
        self.done()
    }
    fn remove_bookmark(&mut self, _: TimelineId, _: Epoch) -> Result<(), Refusal> {
        self.done()
    }
    fn origin(&self, nr: OriginNr) -> Result<Option<OriginRow>, Refusal> {
        self.said("origin", nr.get().into(), || self.origin_row())
    }
    fn put_origin(&mut self, _: &OriginRow) -> Result<(), Refusal> {
        self.done()
    }
    fn remove_origin(&mut self, _: OriginNr) -> Result<(), Refusal> {
        self.done()
    }
    fn origin_by_id(&self, id: &[u8]) -> Result<Option<OriginNr>, Refusal> {
        self.said("id", id.len() as u64, || self.nr())
    }
    fn insert_origin_id(&mut self, _: &[u8], _: OriginNr) -> Result<(), Refusal> {
        self.done()
    }
    fn remove_origin_id(&mut self, _: &[u8]) -> Result<(), Refusal> {
        self.done()
    }
    fn next_origin_nr(&self) -> Result<OriginNr, Refusal> {
        self.said("next origin", 0, || self.nr())?
            .ok_or(Refusal::TooManyOrigins)
    }
    fn use_origin_nr(&mut self, _: OriginNr) -> Result<(), Refusal> {
        self.done()
    }
    fn snapshot(&self, t: TimelineId) -> Result<Option<SnapshotRow>, Refusal> {
        self.said("snapshot", t.get(), || self.snapshot_row())
    }
    fn snapshot_from(&self, t: TimelineId) -> Result<Option<(TimelineId, SnapshotRow)>, Refusal> {
        self.said("snapshots", t.get(), || {
            (self.timeline(), self.snapshot_row())
        })
    }
    fn put_snapshot(&mut self, _: OriginNr, _: &SnapshotRow) -> Result<(), Refusal> {
        self.done()
    }
    fn remove_snapshot(&mut self, _: TimelineId) -> Result<(), Refusal> {
        self.done()
    }
    fn done_from(&self, nr: OriginNr, c: Chunk) -> Result<Option<Chunk>, Refusal> {
        self.said(
            "mark",
            c.get() ^ (u64::from(nr.get()) << 40),
            || match self.number() {
                0..=9 => c.plus(self.number()),
                _ => self.chunk(),
            },
        )
    }
    fn insert_done(&mut self, _: OriginNr, _: Chunk) -> Result<(), Refusal> {
        self.done()
    }
    fn remove_done(&mut self, _: OriginNr, _: Chunk) -> Result<(), Refusal> {
        self.done()
    }
    fn drop_done(&mut self, _: OriginNr) -> Result<(), Refusal> {
        self.done()
    }
    fn label(&self, t: TimelineId) -> Result<Option<LabelRow>, Refusal> {
        self.said("label", t.get(), || {
            LabelRow::new([self.number() as u8; 16])
        })
    }
    fn put_label(&mut self, _: TimelineId, _: &LabelRow) -> Result<(), Refusal> {
        self.done()
    }
    fn remove_label(&mut self, _: TimelineId) -> Result<(), Refusal> {
        self.done()
    }
    fn cleaning(&self, t: TimelineId) -> Result<Option<CleaningRow>, Refusal> {
        self.said("cleaning", t.get(), || self.cleaning_row())
    }
    fn cleaning_from(&self, t: TimelineId) -> Result<Option<(TimelineId, CleaningRow)>, Refusal> {
        self.said("cleanings", t.get(), || {
            (self.timeline(), self.cleaning_row())
        })
    }
    fn put_cleaning(&mut self, _: TimelineId, _: &CleaningRow) -> Result<(), Refusal> {
        self.done()
    }
    fn remove_cleaning(&mut self, _: TimelineId) -> Result<(), Refusal> {
        self.done()
    }
}

/// Takes 2 KiB.
struct Buffer(usize);

impl std::fmt::Write for Buffer {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        self.write_bytes(s.as_bytes())
    }
}

impl Sink for Buffer {
    fn write_bytes(&mut self, bytes: &[u8]) -> std::fmt::Result {
        self.0 += bytes.len();
        assert!(self.0 <= 2048);
        Ok(())
    }
}

/// Asks for a page of what differs.
fn ask_delta(m: &mut Liar, row: &OriginRow, view: Option<&RollbackView>, size: ChunkSize) {
    let from = Version::find(m, row, Some(m.tag()));
    let to = Version::find(m, row, Tag::new(m.number() as u32));
    let (Ok(from), Ok(to)) = (from, to) else {
        return;
    };
    let Ok(delta) = Delta::new(&from, &to, size) else {
        return;
    };
    let mut page = Page::new(m.chunk(), m.number() as u32 % 9 + 1, 2048);
    let mut out = Buffer(0);
    let _ = page.step(m, &delta, view, size, 100, &mut out);
    let _ = page.finish(delta.end, &mut out);
}

/// Asks for everything, one thing after the other.
fn ask(m: &mut Liar) -> Result<(), Refusal> {
    let size = ChunkSize::from_pages(1 << (m.number() % 9))?;
    let mut row = m.origin_row();
    let mut snap = m.snapshot_row();
    let (start, max, tag, nr) = (m.chunk(), m.number() % 300, m.tag(), m.nr());
    let end = start.plus(max);
    let view = RollbackView::of(m, &row).unwrap_or(None);
    if let Some(view) = &view {
        let _ = rollback::next_pending(m, view, start, end, 64);
        let _ = rollback::is_done(m, view, start);
        let _ = view.pending_at(m, start, max);
    }
    let _ = resolve_head(m, &row, view.as_ref(), start, max);
    if let Ok(chain) = Chain::of_snapshot(m, &row, tag) {
        let chain = chain.at_epoch(m.epoch());
        if let Ok(run) = resolve(m, &chain, view.as_ref(), start, max) {
            assert!(run.len <= max);
        }
    }
    let _ = writable(m, nr, &snap, start, max);
    let _ = newest_live(m, &row);
    let live = Live {
        epoch: m.epoch(),
        snapshot: (m.number() % 2 == 0).then(|| m.epoch()),
    };
    let _ = next_unpreserved(m, nr, live, m.epoch(), start, end);
    let _ = rollback::newest_needed(m, &row);
    let _ = first_part(m, nr, Some(live), view.as_ref(), start, end.plus(1));
    ask_delta(m, &row, view.as_ref(), size);
    let (cow, epoch) = (m.cow(), m.epoch());
    let _ = record_changed(m, nr, epoch, start, max);
    let _ = record_preserved(m, nr, &mut row.chunks, epoch, start, cow, max);
    let run = NewRun {
        start,
        len: max,
        unrecorded: m.number() % 2 == 0,
    };
    let _ = record_written(m, nr, &mut snap, run, cow);
    let budget = m.number() % 100;
    if let Ok(done) = record_zeroes(m, nr, &mut snap, start, max, budget) {
        assert!(done.len <= max && done.looks <= budget.max(1));
    }
    let _ = rollback::mark_done(m, &row, start, max);
    let _ = rollback::advance(m, &mut row, start);
    let _ = rollback::finish(m, &mut row);
    let _ = rollback::begin(m, &mut row, tag, true, size);
    let _ = rollback::defer(m, &mut row, tag, true, size);
    let (from, budget) = (m.timeline(), m.number() % 100);
    if let Ok(step) = clean_step(m, from, budget) {
        assert!(step.examined <= budget);
    }
    assert!(percent(&m.cleaning_row(), m.number(), size) <= 100);
    let _ = versions::bind(m, b"id", row.size, size, 0);
    let _ = versions::grow(m, &mut row, end.get(), size);
    let _ = versions::check_shrink(m, &row, end.get());
    let _ = versions::take_origin_snapshot(m, &mut row, b"memo", 0);
    let _ = versions::take_snapshot_snapshot(m, &mut row, &mut snap, b"memo", 0);
    let _ = versions::take_bookmark(m, &mut row, b"memo", 0);
    let _ = versions::keep_bookmark(m, &mut row, tag);
    let _ = versions::delete_snapshot(m, &mut row, tag);
    let _ = versions::invalidate(m, &mut row, versions::Loss::Everything);
    let _ = versions::unbind(m, nr);
    let store = StoreLine {
        uuid: [0; 16],
        usage: Usage {
            used_metadata: m.number(),
            total_metadata: m.number(),
            used_chunks: m.number(),
            total_chunks: m.number(),
            chunk_size: size,
        },
        state: State::Valid,
        cleaning: None,
    };
    let (start, max) = (m.number() as u32, m.number() as u32);
    let _ = list(m, &store, &row, start, max, 2048, &mut Buffer(0));
    Ok(())
}

#[test]
fn lies_do_no_harm() {
    for seed in 0..100_000 {
        let mut liar = Liar::new(seed);
        if let Err(refusal) = ask(&mut liar) {
            panic!("seed {seed}: {refusal}");
        }
    }
}
