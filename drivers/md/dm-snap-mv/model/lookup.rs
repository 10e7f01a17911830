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
    /// The record that answers for it says that it is all zeroes, of it and of others.
    Zeroes(Zeroes),
    /// No record answers for it, nor for any other chunk before this one (exclusive).
    Nothing {
        /// The next chunk that there may be a record of, or [`Chunk::MAX`].
        until: Chunk,
    },
}

/// One record of chunks that are all zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zeroes {
    /// The first of them.
    pub first: Chunk,
    /// The last one, which the record stands at.
    pub last: Chunk,
    /// The record's epoch.
    pub epoch: Epoch,
}

impl Zeroes {
    /// Of one chunk.
    pub const fn of_one(chunk: Chunk, epoch: Epoch) -> Zeroes {
        Zeroes {
            first: chunk,
            last: chunk,
            epoch,
        }
    }

    /// Whether it is of one chunk.
    pub fn is_one(&self) -> bool {
        self.first == self.last
    }
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
    let (last, of) = RecordKey::decode(t, raw)?;
    let first = value.first_of(t, last)?;
    Ok(match value {
        _ if raw < key.get() => return Err(Refusal::Corrupt.into()),
        // Only records of the very chunk can be skipped for their epoch, by where the search begins.
        RecordValue::Zeroes(_) if first <= chunk && of > epoch => Found::Nothing {
            until: last.plus(1),
        },
        RecordValue::Zeroes(_) if first <= chunk => Found::Zeroes(Zeroes {
            first,
            last,
            epoch: of,
        }),
        _ if first == chunk => Found::Record(of, value),
        _ => Found::Nothing { until: first },
    })
}

/// What [`find`] says of `chunk`, and for how many chunks from it on, at most `max` (at least 1), it would
/// say the same: with the values that follow if it is a record. Fewer than there are, if it would take
/// a search to tell.
pub(super) fn find_run<M: Metadata>(
    m: &M,
    t: TimelineId,
    epoch: Epoch,
    chunk: Chunk,
    max: u64,
) -> Result<(Found, u64), M::Error> {
    let found = find(m, t, epoch, chunk)?;
    let len = match found {
        Found::Nothing { until } => until.since(chunk),
        Found::Zeroes(zeroes) => zeroes.last.plus(1).since(chunk),
        Found::Record(..) if max <= 1 => 1,
        // Each of them comes next to the one of the chunk before, so none can be between it and the
        // key that would be searched for.
        Found::Record(at, value) => {
            let key = RecordKey::new(t, chunk, at).get();
            1 + m.records_behind(t, key, value, max - 1).min(max - 1)
        }
    };
    Ok((found, len.min(max)))
}

impl Found {
    /// What the record says of the chunk, if one answers for it.
    fn value(&self) -> Option<RecordValue> {
        match *self {
            Found::Record(_, value) => Some(value),
            Found::Zeroes(_) => Some(RecordValue::Zero),
            Found::Nothing { .. } => None,
        }
    }
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

/// The newest epoch not above `e` of timeline `t` that there is a bookmark of, and its tag.
pub fn newest_bookmark<M: Metadata>(
    m: &M,
    t: TimelineId,
    e: Epoch,
) -> Result<Option<(Epoch, u32)>, M::Error> {
    match m.bookmark_at_or_before(t, e)? {
        Some((epoch, _)) if epoch > e => Err(Refusal::Corrupt.into()),
        bookmark => Ok(bookmark),
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
    let (found, len) = find_run(m, t, epoch, start, max)?;
    let first = found.value();
    let mut next = start.plus(len);
    while next < end {
        let (found, len) = find_run(m, t, epoch, next, end.since(next))?;
        let goes_on = match (first, found.value()) {
            (Some(a), Some(b)) => b.follows(a, next.since(start)),
            (a, b) => a == b,
        };
        if !goes_on {
            break;
        }
        next = next.plus(len);
    }
    Ok(Answer {
        value: first,
        len: next.min(end).since(start),
    })
}
