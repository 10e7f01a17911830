// SPDX-License-Identifier: GPL-2.0

//! Garbage.
//!
//! A record is garbage when no live epoch of its timeline resolves to it. Live epochs are those
//! that something is based on, and a snapshot's current epoch unless it is a ghost. Invalid snapshots
//! do not count: they have lost what they were for, and others need the space. But while a rollback
//! of their origin runs, which may be one to a snapshot that has become invalid since, they do.
//!
//! A record that only a bookmark finds becomes a mark: that there is one is all that it needs, and the
//! chunk comes free.
//!
//! A pass goes over a timeline's records once, in the order of their keys. That a snapshot was deleted
//! queues the timelines that it concerns; that some have become invalid does not, for what they have
//! left is of no use to anybody but those who look for space: see [`seek_invalid`].

use super::chunk_size::ChunkSize;
use super::disk::cleaning_row::CleaningRow;
use super::disk::origin_row::OriginRow;
use super::ids::{Chunk, CowChunk, Epoch, OriginNr, TimelineId};
use super::lookup::{newest_bookmark, newest_child};
use super::record_key::{RecordKey, RecordValue};
use super::records::Metadata;
use super::refusal::Refusal;
use super::versions::queue_cleaning;

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanStep {
    /// Records looked at, and 1 for the end of a pass: what the step has used of its budget.
    pub examined: u64,
    /// COW chunks freed.
    pub freed: u64,
    /// The timeline it worked at; none: there is nothing to clean.
    pub timeline: Option<TimelineId>,
    /// That timeline is clean, or gone.
    pub finished_timeline: bool,
    /// Where the next step should begin: at the same timeline, or behind it when a pass has ended,
    /// even if another one is needed there. So no timeline waits for ever for one that is deleted
    /// from again and again.
    pub next: TimelineId,
}

/// Looks at no more than `budget` records (at least 1) of the first timeline not below `from` that
/// is to be cleaned, or else of the first of all, and removes those that are garbage. One call's
/// changes belong into one transaction; how far it got is on disk.
pub fn clean_step<M: Metadata>(
    m: &mut M,
    from: TimelineId,
    budget: u64,
) -> Result<CleanStep, M::Error> {
    let next = match m.cleaning_from(from)? {
        None => m.cleaning_from(TimelineId::LOWEST)?,
        next => next,
    };
    let Some((t, row)) = next else {
        return Ok(CleanStep {
            examined: 0,
            freed: 0,
            timeline: None,
            finished_timeline: false,
            next: TimelineId::LOWEST,
        });
    };
    let mut pass = Pass::new(m, t, row)?;
    let mut examined = 0;
    let mut ended = false;
    while examined < budget && !ended {
        examined += 1;
        ended = !pass.examine(m)?;
    }
    let freed = pass.freed;
    Ok(CleanStep {
        examined,
        freed,
        timeline: Some(t),
        finished_timeline: pass.end(m, ended)?,
        next: match ended {
            true => t.next().unwrap_or(TimelineId::LOWEST),
            false => t,
        },
    })
}

/// Whether any version finds a record of an origin. `live` is the newest epoch, not above the
/// record's, that something is based on, or that there is a bookmark of, and `before` the epoch of a
/// record of the same chunk that stands before this one: the last one, or any from `live` on.
pub fn origin_finds(live: Option<Epoch>, before: Option<Epoch>) -> bool {
    live.is_some_and(|live| before.is_none_or(|before| before < live))
}

/// What is kept of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// All of it.
    Whole,
    /// That there is one.
    Mark,
    /// Nothing.
    Nothing,
}

/// Whether any version finds a record of a snapshot at `epoch`, which is followed by another one of
/// the same chunk behind epoch `last`. `child` is the newest epoch, not above `last`, that something
/// is based on, and `head` the one in which a snapshot that was not deleted is now.
pub fn snapshot_finds(
    epoch: Epoch,
    last: Epoch,
    child: Option<Epoch>,
    head: Option<Epoch>,
) -> bool {
    child.is_some_and(|live| live >= epoch)
        || head.is_some_and(|head| epoch <= head && head <= last)
}

/// How far a pass is, in percent, on a device of `size` sectors.
pub fn percent(row: &CleaningRow, size: u64, chunk_size: ChunkSize) -> u64 {
    let end = chunk_size.end_of(size).unwrap_or(Chunk::MAX).get().max(1);
    RecordKey::chunk_of(row.cursor).get().min(end) * 100 / end
}

/// Queues the timelines for cleaning in which invalid snapshots have something. Looks at no more than
/// `budget` snapshots (at least 1), from `from` on. Returns where to look next; none: there are no more.
pub fn seek_invalid<M: Metadata>(
    m: &mut M,
    from: TimelineId,
    budget: u64,
) -> Result<Option<TimelineId>, M::Error> {
    let mut next = Some(from);
    for _ in 0..budget {
        let Some(at) = next else {
            break;
        };
        let Some((t, snapshot)) = m.snapshot_from(at)? else {
            return Ok(None);
        };
        let origin = m.origin(t.origin())?.ok_or(Refusal::Corrupt)?;
        if spared_below(&origin) <= snapshot.tag.get() {
            // All that follow are valid too, or are of another origin.
            next = match origin.number.get().checked_add(1).and_then(OriginNr::new) {
                Some(nr) => Some(TimelineId::of_origin(nr)),
                None => return Ok(None),
            };
            continue;
        }
        if snapshot.parent.is_none() {
            queue_once(m, origin.timeline())?;
        }
        if m.record_from(t, 0)?.is_some() {
            queue_once(m, t)?;
        }
        next = t.next();
    }
    Ok(next)
}

/// As [`queue_cleaning`], unless there is nothing to be changed for it.
fn queue_once<M: Metadata>(m: &mut M, t: TimelineId) -> Result<(), M::Error> {
    match m.cleaning(t)? {
        Some(row) if row.cursor == 0 || row.again || row.drop => Ok(()),
        _ => queue_cleaning(m, t),
    }
}

/// Snapshots of an origin with lower tags are garbage, though they are there.
fn spared_below(origin: &OriginRow) -> u32 {
    match origin.rollback {
        Some(_) => 0,
        None => origin.invalid_below,
    }
}

struct Pass {
    t: TimelineId,
    /// What snapshots with lower tags have is garbage.
    spared_below: u32,
    /// The same of bookmarks.
    forgotten_below: u32,
    row: CleaningRow,
    /// The epoch that a snapshot's head lives in.
    head: Option<Epoch>,
    /// COW chunks to be freed together: the first, and how many.
    run: Option<(CowChunk, u64)>,
    freed: u64,
}

impl Pass {
    fn new<M: Metadata>(m: &M, t: TimelineId, row: CleaningRow) -> Result<Pass, M::Error> {
        let snapshot = match t.is_origin() {
            true => None,
            false => m.snapshot(t)?,
        };
        if !row.drop && !t.is_origin() && snapshot.is_none() {
            return Err(Refusal::Corrupt.into());
        }
        let origin = m.origin(t.origin())?;
        let spared_below = origin.as_ref().map_or(0, spared_below);
        Ok(Pass {
            t,
            spared_below,
            forgotten_below: origin.map_or(0, |row| row.forgotten_below),
            row,
            head: snapshot
                .filter(|snapshot| snapshot.is_whole() && snapshot.tag.get() >= spared_below)
                .map(|snapshot| snapshot.current_epoch),
            run: None,
            freed: 0,
        })
    }

    /// Looks at the next record; false when there is none.
    fn examine<M: Metadata>(&mut self, m: &mut M) -> Result<bool, M::Error> {
        let Some((key, value)) = m.record_from(self.t, self.row.cursor)? else {
            return Ok(false);
        };
        let (chunk, epoch) = RecordKey::decode(self.t, key)?;
        let kept = match (self.row.drop, self.t.is_origin()) {
            (true, _) => Kept::Nothing,
            (false, true) => self.kept_in_origin(m, chunk, epoch, value)?,
            (false, false) => match self.is_alive_in_snapshot(m, chunk, epoch)? {
                true => Kept::Whole,
                false => Kept::Nothing,
            },
        };
        match kept {
            Kept::Whole => {}
            Kept::Mark if value == RecordValue::Mark => {}
            Kept::Mark => m.insert_record(self.t, key, RecordValue::Mark)?,
            Kept::Nothing => m.remove_record(self.t, key)?,
        }
        match value {
            RecordValue::Cow(cow) if kept != Kept::Whole => self.free(m, cow)?,
            _ => {}
        }
        self.row.cursor = key.checked_add(1).ok_or(Refusal::Corrupt)?;
        Ok(true)
    }

    /// In an origin's timeline, the newest live epoch that can resolve to the record is the newest
    /// not above its epoch; and it does unless a record stands between. So of either kind. Of a mark
    /// snapshots have no use.
    fn kept_in_origin<M: Metadata>(
        &self,
        m: &M,
        chunk: Chunk,
        epoch: Epoch,
        value: RecordValue,
    ) -> Result<Kept, M::Error> {
        // Tags grow with epochs: if the newest is invalid, all before it are.
        let newest = match value {
            RecordValue::Mark => None,
            _ => newest_child(m, self.t, epoch)?.filter(|&(_, tag)| tag >= self.spared_below),
        };
        if self.is_found_from(m, newest, chunk, epoch)? {
            return Ok(Kept::Whole);
        }
        let newest = newest_bookmark(m, self.t, epoch)?;
        let newest = newest.filter(|&(_, tag)| tag >= self.forgotten_below);
        Ok(match self.is_found_from(m, newest, chunk, epoch)? {
            true => Kept::Mark,
            false => Kept::Nothing,
        })
    }

    /// Whether the record is the first one of its chunk from an epoch on, if there is that.
    fn is_found_from<M: Metadata>(
        &self,
        m: &M,
        live: Option<(Epoch, u32)>,
        chunk: Chunk,
        epoch: Epoch,
    ) -> Result<bool, M::Error> {
        let Some((live, _)) = live else {
            return Ok(false);
        };
        let own = RecordKey::new(self.t, chunk, epoch).get();
        let first = m.record_from(self.t, RecordKey::new(self.t, chunk, live).get())?;
        let before = match first {
            Some((key, _)) if key < own => Some(RecordKey::decode(self.t, key)?.1),
            _ => None,
        };
        Ok(origin_finds(Some(live), before))
    }

    /// In a snapshot's timeline, the live epochs that resolve to the record are those from its own
    /// epoch up to the next record of the chunk. (If it is of several chunks, it is the only one of any
    /// of them.) That is the one the pass has looked at last, just
    /// below the cursor. If that one is gone, removed here or overwritten since, no live epoch lies
    /// between it and the one that is now the next.
    fn is_alive_in_snapshot<M: Metadata>(
        &self,
        m: &M,
        chunk: Chunk,
        epoch: Epoch,
    ) -> Result<bool, M::Error> {
        let mut last = Epoch::MAX;
        if let Some(before) = self.row.cursor.checked_sub(1) {
            let (of, next) = RecordKey::decode(self.t, before)?;
            if of == chunk {
                last = next.previous().ok_or(Refusal::Corrupt)?;
            }
        }
        // Whatever is based on an invalid snapshot is older than what has made it invalid, too.
        let child = newest_child(m, self.t, last)?
            .filter(|&(_, tag)| tag >= self.spared_below)
            .map(|(live, _)| live);
        Ok(snapshot_finds(epoch, last, child, self.head))
    }

    /// Frees a COW chunk, together with those before it if they are neighbours.
    fn free<M: Metadata>(&mut self, m: &mut M, cow: CowChunk) -> Result<(), M::Error> {
        self.freed += 1;
        match &mut self.run {
            Some((start, len)) if start.checked_add(*len) == Some(cow) => {
                *len += 1;
                Ok(())
            }
            run => match run.replace((cow, 1)) {
                Some((start, len)) => m.free_chunks(start, len),
                None => Ok(()),
            },
        }
    }

    /// Writes down where the pass is, or that it has ended. True when the timeline is finished.
    fn end<M: Metadata>(mut self, m: &mut M, ended: bool) -> Result<bool, M::Error> {
        if let Some((start, len)) = self.run {
            m.free_chunks(start, len)?;
        }
        self.count(m)?;
        self.row.freed = self.row.freed.saturating_add(self.freed);
        if !ended {
            m.put_cleaning(self.t, &self.row)?;
        } else if self.row.again && !self.row.drop {
            let row = CleaningRow {
                freed: self.row.freed,
                ..CleaningRow::default()
            };
            m.put_cleaning(self.t, &row)?;
        } else {
            m.remove_cleaning(self.t)?;
            if self.row.drop {
                m.drop_timeline(self.t)?;
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// Takes what was freed off the count in the timeline's row, if it still has one.
    fn count<M: Metadata>(&self, m: &mut M) -> Result<(), M::Error> {
        if self.freed == 0 {
            return Ok(());
        }
        let left = |chunks: u64| chunks.checked_sub(self.freed).ok_or(Refusal::Corrupt);
        if self.t.is_origin() {
            let mut row = m.origin(self.t.origin())?.ok_or(Refusal::Corrupt)?;
            row.chunks = left(row.chunks)?;
            m.put_origin(&row)
        } else if let Some(mut row) = m.snapshot(self.t)? {
            row.chunks = left(row.chunks)?;
            m.put_snapshot(self.t.origin(), &row)
        } else {
            Ok(())
        }
    }
}
