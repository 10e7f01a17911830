// SPDX-License-Identifier: GPL-2.0

//! What an origin write must preserve.
//!
//! The order, for a run that [`next_unpreserved`] returns with its content: set COW chunks aside, copy the
//! origin's content there, [`record_preserved`], make all of that durable, and only then write the origin.
//! For one without: [`record_changed`], and the same. All of that with the run locked against other
//! writes. A chunk that is not in the run because it has a record may still be waiting for that to
//! become durable: one that another write made, even one that failed afterwards. Then wait for that, too.
//! When a rollback runs, see [`super::rollback`] first.
//!
//! Snapshots need what was overwritten, bookmarks only that it was. So what is overwritten is recorded at
//! the newest epoch of either kind, where both find it; and as a mark, without its content, if the newest
//! snapshot not above that has a record of the chunk before it, or there is none. Then all that are older
//! have one, too: no snapshot ever finds a mark.

use super::disk::origin_row::OriginRow;
use super::ids::{Chunk, CowChunk, Epoch, OriginNr, TimelineId};
use super::lookup::{find_run, newest_bookmark, newest_child, Found};
use super::record_key::{RecordKey, RecordValue};
use super::records::Metadata;
use super::refusal::Refusal;

/// What is still needed of an origin's past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// The newest epoch that a snapshot or a bookmark needs: what is overwritten is recorded there.
    pub epoch: Epoch,
    /// The newest one, not above it, that a snapshot needs, and so the content.
    pub snapshot: Option<Epoch>,
}

impl Live {
    /// Whether all that was recorded, or is about to be, as this says counts as preserved by what `self`
    /// says as well: `self` came later, and is as new. What is older was deleted meanwhile.
    pub fn includes(&self, earlier: &Live) -> bool {
        self.epoch >= earlier.epoch && self.snapshot >= earlier.snapshot
    }
}

/// What of the origin is needed now, so that what is overwritten is preserved for it; none: nothing is
/// to be preserved. Invalid snapshots and bookmarks need nothing.
pub fn newest_live<M: Metadata>(m: &M, origin: &OriginRow) -> Result<Option<Live>, M::Error> {
    let snapshot = newest_snapshot(m, origin, Epoch::MAX)?;
    let bookmark = newest_mark(m, origin, Epoch::MAX)?;
    // Whichever is the newest, no snapshot is newer.
    Ok(snapshot.max(bookmark).map(|epoch| Live { epoch, snapshot }))
}

/// The newest epoch not above `e` of the origin that a snapshot needs.
pub(super) fn newest_snapshot<M: Metadata>(
    m: &M,
    origin: &OriginRow,
    e: Epoch,
) -> Result<Option<Epoch>, M::Error> {
    // Tags grow with the epochs of one timeline: if the newest is invalid, all before it are.
    let newest = newest_child(m, origin.timeline(), e)?;
    Ok(newest.and_then(|(epoch, tag)| (tag >= origin.invalid_below).then_some(epoch)))
}

/// The newest epoch not above `e` of the origin that a bookmark needs.
pub(super) fn newest_mark<M: Metadata>(
    m: &M,
    origin: &OriginRow,
    e: Epoch,
) -> Result<Option<Epoch>, M::Error> {
    if origin.bookmarks == 0 {
        return Ok(None);
    }
    let newest = newest_bookmark(m, origin.timeline(), e)?;
    Ok(newest.and_then(|(epoch, tag)| (tag >= origin.forgotten_below).then_some(epoch)))
}

/// A run of chunks that are to be preserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first chunk.
    pub start: Chunk,
    /// Chunks in the run.
    pub len: u64,
    /// With their content. Else a mark is enough.
    pub content: bool,
}

/// The first chunks from `start` up to `end` (exclusive), as many as follow one another, that have
/// no record at an epoch from `live` to `upto`, and of which all or none need their content. For ordinary
/// writes `live` is [`newest_live`] and `upto` is [`Epoch::MAX`].
pub fn next_unpreserved<M: Metadata>(
    m: &M,
    origin: OriginNr,
    live: Live,
    upto: Epoch,
    start: Chunk,
    end: Chunk,
) -> Result<Option<Gap>, M::Error> {
    let t = TimelineId::of_origin(origin);
    let mut gap: Option<Gap> = None;
    let mut at = start;
    while at < end {
        let (found, mut len) = find_run(m, t, live.epoch, at, end.since(at))?;
        let preserved = matches!(found, Found::Record(epoch, _) if epoch <= upto);
        if !preserved {
            let (content, of) = needs_content(m, t, live, at, len)?;
            len = of;
            let gap = gap.get_or_insert(Gap {
                start: at,
                len: 0,
                content,
            });
            if gap.content != content {
                break;
            }
            gap.len += len;
        } else if gap.is_some() {
            break;
        }
        at = at.plus(len);
    }
    Ok(gap)
}

/// Whether a chunk that has no record from `live` on is needed with its content, and for how many from
/// it on, at most `max` (at least 1), that is so.
fn needs_content<M: Metadata>(
    m: &M,
    t: TimelineId,
    live: Live,
    chunk: Chunk,
    max: u64,
) -> Result<(bool, u64), M::Error> {
    let Some(snapshot) = live.snapshot else {
        return Ok((false, max));
    };
    if snapshot >= live.epoch {
        return Ok((true, max));
    }
    let (found, len) = find_run(m, t, snapshot, chunk, max)?;
    let has_one = matches!(found, Found::Record(epoch, _) if epoch < live.epoch);
    Ok((!has_one, len))
}

/// Records that the content of `len` chunks from `start` on, as it was at the end of `epoch`, is in
/// the COW chunks from `cow` on. `chunks` counts the COW chunks of the origin's row, which is
/// written by the caller at the commit.
///
/// `epoch` must be what [`newest_live`] says at this moment, none of the chunks may have a
/// record there, and all must still need their content: a snapshot that was deleted during the copy may
/// have been cleaned up already, and nothing would ever clean what is recorded for it now. When a
/// rollback runs, an ordinary write calls [`super::rollback::mark_done`] for the same chunks in the same
/// transaction, even if the write itself fails later.
pub fn record_preserved<M: Metadata>(
    m: &mut M,
    origin: OriginNr,
    chunks: &mut u64,
    epoch: Epoch,
    start: Chunk,
    cow: CowChunk,
    len: u64,
) -> Result<(), M::Error> {
    let t = TimelineId::of_origin(origin);
    m.use_chunks(cow, len)?;
    let key = RecordKey::new(t, start, epoch);
    m.insert_records(t, key.get(), RecordValue::Cow(cow), len)?;
    *chunks = chunks.checked_add(len).ok_or(Refusal::Corrupt)?;
    Ok(())
}

/// Records that `len` chunks from `start` on have changed since the end of `epoch`, as
/// [`record_preserved`] does what they were.
pub fn record_changed<M: Metadata>(
    m: &mut M,
    origin: OriginNr,
    epoch: Epoch,
    start: Chunk,
    len: u64,
) -> Result<(), M::Error> {
    let t = TimelineId::of_origin(origin);
    let key = RecordKey::new(t, start, epoch);
    m.insert_records(t, key.get(), RecordValue::Mark, len)
}
