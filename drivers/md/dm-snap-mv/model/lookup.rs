// SPDX-License-Identifier: GPL-2.0

//! Look-ups in one timeline, without regard to what it is based on.

use super::ids::{Chunk, Epoch, TimelineId};
use super::record_key::{RecordKey, RecordValue};
use super::records::Metadata;
use super::refusal::Refusal;

/// What one search says of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The record that answers for it.
    Record(Epoch, RecordValue),
    /// No record answers for it, nor for any other chunk before this one (exclusive).
    Nothing {
        /// The next chunk with any record at all, or [`Chunk::MAX`].
        until: Chunk,
    },
}

/// The record of timeline `t` that holds `chunk` at `epoch`: of an origin the one with the smallest
/// epoch that is not below, of a snapshot the one with the greatest that is not above.
pub fn find<M: Metadata>(
    m: &M,
    t: TimelineId,
    epoch: Epoch,
    chunk: Chunk,
) -> Result<Found, M::Error> {
    let key = RecordKey::new(t, chunk, epoch);
    let Some((raw, value)) = m.record_from(t, key.get())? else {
        return Ok(Found::Nothing { until: Chunk::MAX });
    };
    let (at, epoch) = RecordKey::decode(t, raw)?;
    match at {
        _ if raw < key.get() => Err(Refusal::Corrupt.into()),
        _ if at == chunk => Ok(Found::Record(epoch, value)),
        _ => Ok(Found::Nothing { until: at }),
    }
}

/// How many chunks behind `chunk`, at most `max`, have records that [`find`] would find at the same
/// `epoch`, as it has found that of `chunk`, with the values that follow. Fewer than there are, if it
/// would take a search to tell.
pub(super) fn run_behind<M: Metadata>(
    m: &M,
    t: TimelineId,
    (chunk, epoch): (Chunk, Epoch),
    value: RecordValue,
    max: u64,
) -> u64 {
    if max == 0 {
        return 0;
    }
    // Each of them comes next to the one of the chunk before, so none can be between it and the key
    // that would be searched for.
    let key = RecordKey::new(t, chunk, epoch).get();
    m.records_behind(t, key, value, max).min(max)
}

/// The newest epoch not above `e` of timeline `t` that something is based on, and the tag of that;
/// 0: a rollback.
pub fn newest_child<M: Metadata>(
    m: &M,
    t: TimelineId,
    e: Epoch,
) -> Result<Option<(Epoch, u32)>, M::Error> {
    match m.child_at_or_before(t, e)? {
        Some((epoch, _)) if epoch > e => Err(Refusal::Corrupt.into()),
        child => Ok(child),
    }
}

/// A run of chunks with one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The records' value for the first chunk; those of the others follow it
    /// ([`RecordValue::follows`]). None: no record answers for any chunk of the run.
    pub value: Option<RecordValue>,
    /// Chunks in the run.
    pub len: u64,
}

/// The longest run from `start` on, of at most `max` chunks, that has one answer at `epoch`.
pub fn lookup<M: Metadata>(
    m: &M,
    t: TimelineId,
    epoch: Epoch,
    start: Chunk,
    max: u64,
) -> Result<Answer, M::Error> {
    let end = start.plus(max);
    let mut next;
    let value = match find(m, t, epoch, start)? {
        Found::Record(at, first) => {
            next = start.plus(1);
            let mut found = (at, first);
            loop {
                let last = (Chunk::saturating(next.get() - 1), found.0);
                next = next.plus(run_behind(m, t, last, found.1, end.since(next)));
                if next >= end {
                    break;
                }
                match find(m, t, epoch, next)? {
                    Found::Record(at, value) if value.follows(first, next.since(start)) => {
                        found = (at, value);
                    }
                    _ => break,
                }
                next = next.plus(1);
            }
            Some(first)
        }
        Found::Nothing { until } => {
            next = until;
            while next < end {
                match find(m, t, epoch, next)? {
                    Found::Record(..) => break,
                    Found::Nothing { until } => next = until,
                }
            }
            None
        }
    };
    Ok(Answer {
        value,
        len: next.min(end).since(start),
    })
}
