// SPDX-License-Identifier: GPL-2.0

//! Rolling an origin back to a snapshot.
//!
//! From [`begin`] on the origin reads as the snapshot. A chunk is *done* when the origin device
//! itself has the right content: those below the cursor, those behind the limit, those that are
//! marked. Of the others, those that the snapshot reads from the origin device are right as they
//! are, and those that differ are *pending*.
//!
//! Merging a run of pending chunks ([`next_pending`]), locked against other I/O:
//!
//! 1. Preserve what the origin device holds there, or note that it changes, as far as
//!    [`super::preserve::next_unpreserved`] says so for what [`newest_needed`] does and the epochs up
//!    to the boundary. Make it durable.
//! 2. Copy the content onto the origin device, and make that durable.
//! 3. [`mark_done`], or [`advance`] the cursor over it. This may wait for any later commit.
//!
//! Writing the origin while this runs: merge what is pending in the write's range, preserve as
//! always, [`mark_done`] the whole range, make that durable, write. The mark must be durable before
//! the write even if nothing had to be preserved, and so must a cursor that was moved over the
//! range earlier: in a crash, a chunk that is not marked is read from the snapshot, and merged
//! again.

use super::chain::{Chain, MAX_DEPTH};
use super::chunk_size::ChunkSize;
use super::disk::origin_row::{Deferred, OriginRow, Rollback};
use super::disk::snapshot_row::SnapshotRow;
use super::ids::{Chunk, Epoch, OriginNr, Tag};
use super::lookup::newest_child;
use super::preserve::{newest_mark, newest_snapshot, Live};
use super::records::Metadata;
use super::refusal::Refusal;
use super::resolve::{follow, Level, Location, Run};
use super::versions::{delete_snapshot, find_snapshot, queue_cleaning, reap};

/// What look-ups need to know of the rollback that runs. Of about 0.5 KiB: pass it by reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollbackView {
    /// The origin.
    pub origin: OriginNr,
    /// The snapshot's content as it was when the rollback began.
    pub source: Chain,
    /// The origin's epoch that ended then.
    pub boundary: Epoch,
    /// Chunks below this are done.
    pub cursor: Chunk,
    /// Chunks from this on are done.
    pub limit: Chunk,
    /// How large the snapshot is, in sectors. The last of its chunks may be one in part. What the origin
    /// has behind that, if it has grown since, is the origin device's own, and stays.
    pub size: u64,
}

/// What is to be done about a run of chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// Nothing: the origin device is done there.
    Done {
        /// Chunks in the run.
        len: u64,
    },
    /// Nothing but marking it when it is written: the snapshot reads from the origin device.
    Same {
        /// Chunks in the run.
        len: u64,
    },
    /// It is to be copied onto the origin device.
    Copy {
        /// Where from: COW chunks, one behind the other, or zeroes.
        from: Location,
        /// Chunks in the run.
        len: u64,
    },
}

impl RollbackView {
    /// The view of the rollback that runs on an origin. The cursor must be kept up with the row's.
    pub fn of<M: Metadata>(m: &M, origin: &OriginRow) -> Result<Option<RollbackView>, M::Error> {
        let Some(rollback) = &origin.rollback else {
            return Ok(None);
        };
        let source = Chain::of_snapshot(m, origin, rollback.source)?;
        let row = m.snapshot(origin.timeline_of(rollback.source))?;
        let size = row.ok_or(Refusal::Corrupt)?.size;
        Ok(Some(RollbackView {
            origin: origin.number,
            source: source.at_epoch(rollback.source_epoch),
            boundary: rollback.boundary,
            cursor: rollback.cursor,
            limit: rollback.limit,
            size,
        }))
    }

    /// Whether the last chunk may come from the snapshot in its first part, and from the origin device
    /// in the second, as an origin of `size` sectors has it.
    pub fn splits(&self, size: u64, chunk_size: ChunkSize) -> bool {
        self.cursor < self.limit && size > self.size && !chunk_size.is_whole(self.size)
    }

    /// Whether `start` is done, and for how many chunks, at most `max`, the same is true. A run
    /// that is not done is the longest; one that is done may be followed by another one.
    fn done<M: Metadata>(&self, m: &M, start: Chunk, max: u64) -> Result<(bool, u64), M::Error> {
        let end = start.plus(max);
        if start >= self.limit {
            return Ok((true, end.since(start)));
        }
        if start < self.cursor {
            return Ok((true, self.cursor.min(end).since(start)));
        }
        let next = next_mark(m, self.origin, start)?;
        if next == Some(start) {
            return Ok((true, max.min(1)));
        }
        let until = next.map_or(end, |mark| mark.min(end)).min(self.limit);
        Ok((false, until.since(start)))
    }

    /// What is to be done about the chunks from `start` on, at most `max` of them (at least 1).
    pub fn pending_at<M: Metadata>(
        &self,
        m: &M,
        start: Chunk,
        max: u64,
    ) -> Result<Pending, M::Error> {
        let (done, len) = self.done(m, start, max)?;
        if done {
            return Ok(Pending::Done { len });
        }
        // The source is older than the boundary, so its unrecorded chunks are the device's.
        Ok(match follow(m, &self.source, start, len)? {
            Level::Unrecorded(len) => Pending::Same { len },
            Level::Recorded(Run { location, len }) => Pending::Copy {
                from: location,
                len,
            },
        })
    }

    /// Where the origin's content is now.
    pub(super) fn head<M: Metadata>(&self, m: &M, start: Chunk, max: u64) -> Result<Run, M::Error> {
        let (location, len) = match self.pending_at(m, start, max)? {
            Pending::Done { len } | Pending::Same { len } => (Location::Origin, len),
            Pending::Copy { from, len } => (from, len),
        };
        Ok(Run { location, len })
    }
}

/// The first chunk from `c` on that is marked as done.
fn next_mark<M: Metadata>(m: &M, origin: OriginNr, c: Chunk) -> Result<Option<Chunk>, M::Error> {
    match m.done_from(origin, c)? {
        Some(mark) if mark < c => Err(Refusal::Corrupt.into()),
        mark => Ok(mark),
    }
}

/// The first run of pending chunks from `start` up to `end` (exclusive): its start, its length, which
/// is at most `most` chunks (at least 1), and where to copy it from. Searches as long as the range
/// has marks, so the caller bounds the range.
pub fn next_pending<M: Metadata>(
    m: &M,
    view: &RollbackView,
    start: Chunk,
    end: Chunk,
    most: u64,
) -> Result<Option<(Chunk, u64, Location)>, M::Error> {
    let (end, most) = (end.min(view.limit), most.max(1));
    let mut at = start.max(view.cursor);
    while at < end {
        let left = end.since(at);
        // The records of a run are looked at one by one: of no more than are wanted. What has none
        // costs one look, however long it is.
        let pending = match view.pending_at(m, at, left.min(most))? {
            Pending::Same { .. } => view.pending_at(m, at, left)?,
            pending => pending,
        };
        match pending {
            Pending::Copy { from, len } => return Ok(Some((at, len.min(most), from))),
            Pending::Done { len } | Pending::Same { len } => at = at.plus(len),
        }
    }
    Ok(None)
}

/// What is needed, at epochs not above the boundary, of what the rollback that runs overwrites; none: it
/// needs not be preserved.
///
/// Not the source itself: what is pending reads from the COW device there. So a rollback to the only
/// snapshot that there is needs no space. But a snapshot of the source may be older than what was
/// written to that. And where a bookmark that is younger than the source is told of a change, the source
/// finds that as well, if it was written there itself: then it must be the content, so that no snapshot
/// finds a mark.
pub fn newest_needed<M: Metadata>(m: &M, origin: &OriginRow) -> Result<Option<Live>, M::Error> {
    let Some(rollback) = &origin.rollback else {
        return Ok(None);
    };
    let upto = match newest_child(m, origin.timeline(), rollback.boundary)? {
        Some((epoch, tag)) if sole_user(m, origin, rollback.source)? == Some(tag) => {
            epoch.previous()
        }
        _ => Some(rollback.boundary),
    };
    let needed = match upto {
        Some(upto) => newest_snapshot(m, origin, upto)?,
        None => None,
    };
    let Some(epoch) = needed.max(newest_mark(m, origin, rollback.boundary)?) else {
        return Ok(None);
    };
    let snapshot = newest_snapshot(m, origin, epoch)?;
    Ok(Some(Live { epoch, snapshot }))
}

/// The tag of the snapshot of the origin itself that the source of a rollback is, or is based on, if
/// nothing else reads it: it is the source, or was deleted, as were all between them, and the rollback
/// is the only one that is based on the source.
fn sole_user<M: Metadata>(m: &M, origin: &OriginRow, source: Tag) -> Result<Option<u32>, M::Error> {
    let mut tag = source;
    for _ in 0..=MAX_DEPTH {
        let Some(row) = m.snapshot(origin.timeline_of(tag))? else {
            return Err(Refusal::Corrupt.into());
        };
        if row.children > 1 || tag != source && !row.ghost {
            return Ok(None);
        }
        match row.parent {
            None => return Ok(Some(tag.get())),
            Some(parent) => tag = parent,
        }
    }
    Err(Refusal::Corrupt.into())
}

/// Whether a chunk is done.
pub fn is_done<M: Metadata>(m: &M, view: &RollbackView, c: Chunk) -> Result<bool, M::Error> {
    Ok(view.done(m, c, 1)?.0)
}

/// What a rollback to a snapshot changes, once it is known to be possible.
struct Plan {
    snapshot: SnapshotRow,
    source_epoch: Epoch,
    next_of_origin: Epoch,
    limit: Chunk,
}

/// Refuses a rollback that cannot be.
fn plan<M: Metadata>(
    m: &M,
    row: &OriginRow,
    source: Tag,
    chunk_size: ChunkSize,
) -> Result<Plan, M::Error> {
    if row.rollback.is_some() {
        return Err(Refusal::RollbackRunning.into());
    }
    let mut snapshot = find_snapshot(m, row, source)?;
    if row.is_invalid(source) {
        return Err(Refusal::InvalidSnapshot.into());
    }
    // A smaller snapshot's last chunk must not hold content of the origin behind its end.
    let whole = chunk_size.is_whole(snapshot.size);
    if snapshot.size > row.size || (snapshot.size < row.size && !whole) {
        return Err(Refusal::RollbackSize.into());
    }
    let source_epoch = snapshot.current_epoch;
    let next = (row.current_epoch.next(), source_epoch.next());
    let (Some(next_of_origin), Some(next_of_source)) = next else {
        return Err(Refusal::NoMoreEpochs.into());
    };
    snapshot.current_epoch = next_of_source;
    snapshot.children = snapshot.children.checked_add(1).ok_or(Refusal::Corrupt)?;
    Ok(Plan {
        limit: chunk_size.end_of(snapshot.size)?,
        snapshot,
        source_epoch,
        next_of_origin,
    })
}

/// Begins a rollback of the origin to snapshot `source`, which is deleted at the end if
/// `delete_source`. The origin reads differently from then on, so nobody may be using it, and no
/// write to it or to the snapshot may be on its way.
pub fn begin<M: Metadata>(
    m: &mut M,
    row: &mut OriginRow,
    source: Tag,
    delete_source: bool,
    chunk_size: ChunkSize,
) -> Result<(), M::Error> {
    let plan = plan(m, row, source, chunk_size)?;
    m.insert_child(row.timeline_of(source), plan.source_epoch, 0)?;
    m.put_snapshot(row.number, &plan.snapshot)?;
    row.rollback = Some(Rollback {
        source,
        source_epoch: plan.source_epoch,
        boundary: row.current_epoch,
        delete_source,
        cursor: Chunk::ZERO,
        limit: plan.limit,
        merged: 0,
    });
    row.deferred = None;
    row.current_epoch = plan.next_of_origin;
    m.put_origin(row)
}

/// Notes that a rollback is to begin when nobody uses the origin, instead of one noted before.
pub fn defer<M: Metadata>(
    m: &mut M,
    row: &mut OriginRow,
    source: Tag,
    delete_source: bool,
    chunk_size: ChunkSize,
) -> Result<(), M::Error> {
    plan(m, row, source, chunk_size)?;
    row.deferred = Some(Deferred {
        source,
        delete_source,
    });
    m.put_origin(row)
}

/// Forgets a rollback that was noted and has become impossible.
pub fn call_off<M: Metadata>(m: &mut M, row: &mut OriginRow) -> Result<(), M::Error> {
    match row.deferred {
        Some(_) => forget_deferred(m, row),
        None => Err(Refusal::NothingDeferred.into()),
    }
}

/// As [`call_off`], but it need not be there.
pub fn forget_deferred<M: Metadata>(m: &mut M, row: &mut OriginRow) -> Result<(), M::Error> {
    row.deferred = None;
    m.put_origin(row)
}

/// Marks `len` chunks from `start` on as done. Those that are done by the cursor or the limit need
/// no mark and get none.
pub fn mark_done<M: Metadata>(
    m: &mut M,
    row: &OriginRow,
    start: Chunk,
    len: u64,
) -> Result<(), M::Error> {
    let Some(rollback) = &row.rollback else {
        return Ok(());
    };
    let end = start.plus(len).min(rollback.limit);
    let mut at = start.max(rollback.cursor);
    while at < end {
        m.insert_done(row.number, at)?;
        at = at.plus(1);
    }
    Ok(())
}

/// Moves the cursor up to `cursor`: all chunks below are done. Marks there are removed, so the
/// caller bounds the step.
pub fn advance<M: Metadata>(m: &mut M, row: &mut OriginRow, cursor: Chunk) -> Result<(), M::Error> {
    let number = row.number;
    let Some(rollback) = &mut row.rollback else {
        return Ok(());
    };
    let cursor = cursor.min(rollback.limit);
    if cursor <= rollback.cursor {
        return Ok(());
    }
    let mut at = rollback.cursor;
    while let Some(mark) = next_mark(m, number, at)?.filter(|&mark| mark < cursor) {
        m.remove_done(number, mark)?;
        at = mark.plus(1);
    }
    rollback.cursor = cursor;
    m.put_origin(row)
}

/// Ends a rollback whose cursor has reached the limit; refuses with [`Refusal::RollbackRunning`]
/// otherwise. The snapshot is deleted if that was asked for.
pub fn finish<M: Metadata>(m: &mut M, row: &mut OriginRow) -> Result<(), M::Error> {
    let Some(rollback) = row.rollback else {
        return Ok(());
    };
    if rollback.cursor < rollback.limit {
        return Err(Refusal::RollbackRunning.into());
    }
    let t = row.timeline_of(rollback.source);
    let mut snapshot = m.snapshot(t)?.ok_or(Refusal::Corrupt)?;
    snapshot.children = snapshot.children.checked_sub(1).ok_or(Refusal::Corrupt)?;
    m.remove_child(t, rollback.source_epoch)?;
    m.put_snapshot(row.number, &snapshot)?;
    m.drop_done(row.number)?;
    row.rollback = None;
    m.put_origin(row)?;
    if snapshot.ghost {
        if snapshot.children > 0 {
            return queue_cleaning(m, t);
        }
        reap(m, row, snapshot)
    } else if rollback.delete_source {
        delete_snapshot(m, row, rollback.source)
    } else {
        queue_cleaning(m, t)
    }
}
