// SPDX-License-Identifier: GPL-2.0

//! What an origin write must preserve.
//!
//! The order, for a run that [`next_unpreserved`] returns: set COW chunks aside, copy the origin's
//! content there, [`record_preserved`], make all of that durable, and only then write the origin.
//! All of that with the run locked against other writes. A chunk that is not in the run because it
//! has a record may still be waiting for that to become durable: one that another write made, even
//! one that failed afterwards. Then wait for that, too. When a rollback runs, see
//! [`super::rollback`] first.

use super::disk::origin_row::OriginRow;
use super::ids::{Chunk, CowChunk, Epoch, OriginNr, TimelineId};
use super::lookup::{find_run, newest_child, Found};
use super::record_key::{RecordKey, RecordValue};
use super::records::Metadata;
use super::refusal::Refusal;

/// The newest epoch of the origin that a snapshot needs, so that what is overwritten is preserved
/// there; none: nothing is to be preserved. Invalid snapshots need nothing.
pub fn newest_live<M: Metadata>(m: &M, origin: &OriginRow) -> Result<Option<Epoch>, M::Error> {
    newest_live_at_or_before(m, origin, Epoch::MAX)
}

/// The newest epoch not above `e` of the origin that a snapshot needs.
pub fn newest_live_at_or_before<M: Metadata>(
    m: &M,
    origin: &OriginRow,
    e: Epoch,
) -> Result<Option<Epoch>, M::Error> {
    // Tags grow with the epochs of one timeline: if the newest is invalid, all before it are.
    let newest = newest_child(m, origin.timeline(), e)?;
    Ok(newest.and_then(|(epoch, tag)| (tag >= origin.invalid_below).then_some(epoch)))
}

/// A run of chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first chunk.
    pub start: Chunk,
    /// Chunks in the run.
    pub len: u64,
}

/// The first chunks from `start` up to `end` (exclusive), as many as follow one another, that have
/// no record at an epoch from `live` to `upto`. For ordinary writes `live` is [`newest_live`] and
/// `upto` is [`Epoch::MAX`].
pub fn next_unpreserved<M: Metadata>(
    m: &M,
    origin: OriginNr,
    live: Epoch,
    upto: Epoch,
    start: Chunk,
    end: Chunk,
) -> Result<Option<Gap>, M::Error> {
    let t = TimelineId::of_origin(origin);
    let mut first = None;
    let mut at = start;
    while at < end {
        let (found, len) = find_run(m, t, live, at, end.since(at))?;
        let preserved = matches!(found, Found::Record(epoch, _) if epoch <= upto);
        if !preserved {
            first = first.or(Some(at));
        } else if first.is_some() {
            break;
        }
        at = at.plus(len);
    }
    Ok(first.map(|start| Gap {
        start,
        len: at.since(start),
    }))
}

/// Records that the content of `len` chunks from `start` on, as it was at the end of `epoch`, is in
/// the COW chunks from `cow` on. `chunks` counts the COW chunks of the origin's row, which is
/// written by the caller at the commit.
///
/// `epoch` must be what [`newest_live`] says at this moment, and none of the chunks may have a
/// record there: a snapshot that was deleted during the copy may have been cleaned up already, and
/// nothing would ever clean what is recorded for it now. When a rollback runs, an ordinary write
/// calls [`super::rollback::mark_done`] for the same chunks in the same transaction, even if the
/// write itself fails later.
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
