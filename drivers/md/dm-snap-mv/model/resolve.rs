// SPDX-License-Identifier: GPL-2.0

//! Where a read goes.

pub use super::chain::Chain;
pub use super::rollback::RollbackView;

use super::disk::origin_row::OriginRow;
use super::ids::{Chunk, CowChunk};
use super::lookup::lookup;
use super::record_key::RecordValue;
use super::records::Metadata;
use super::refusal::Refusal;

/// Where the content of a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// On the origin device, at the same chunk.
    Origin,
    /// In a COW chunk.
    Cow(CowChunk),
    /// Nowhere: all zeroes.
    Zero,
}

impl TryFrom<RecordValue> for Location {
    type Error = Refusal;

    /// [`Refusal::Corrupt`] for a mark: whoever has content finds none.
    fn try_from(value: RecordValue) -> Result<Location, Refusal> {
        match value {
            RecordValue::Cow(cow) => Ok(Location::Cow(cow)),
            RecordValue::Zero | RecordValue::Zeroes(_) => Ok(Location::Zero),
            RecordValue::Mark => Err(Refusal::Corrupt),
        }
    }
}

/// Where the content of a run of chunks is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Of the first chunk. [`Location::Cow`]: the others' are the COW chunks behind it.
    pub location: Location,
    /// Chunks in the run.
    pub len: u64,
}

/// What the timelines of a chain say of a run.
pub(super) enum Level {
    /// A record answers.
    Recorded(Run),
    /// None does, so that it is as the origin's head was at the chain's epoch: now, at the end of
    /// this many chunks.
    Unrecorded(u64),
}

/// Follows a chain, without regard to a rollback.
pub(super) fn follow<M: Metadata>(
    m: &M,
    chain: &Chain,
    start: Chunk,
    max: u64,
) -> Result<Level, M::Error> {
    let mut len = max;
    for (t, epoch) in chain.snapshots().chain([chain.origin()]) {
        let answer = lookup(m, t, epoch, start, len)?;
        len = answer.len;
        if let Some(value) = answer.value {
            let location = value.try_into()?;
            return Ok(Level::Recorded(Run { location, len }));
        }
    }
    Ok(Level::Unrecorded(len))
}

/// Where the content of a chain's version is, from `start` on, for at most `max` chunks (at least
/// 1). The run returned is the longest with one answer at each level, not always the longest of
/// all. Its end is not checked against the version's size: that is the caller's.
///
/// `rollback` is the one that runs on the origin, if any: a version that was taken after it began
/// reads chunks that have no record of their own as the origin reads them.
///
/// Two searches are enough for a snapshot of the origin, one more for each further level, whatever
/// the number of snapshots. A run of records takes one search each.
pub fn resolve<M: Metadata>(
    m: &M,
    chain: &Chain,
    rollback: Option<&RollbackView>,
    start: Chunk,
    max: u64,
) -> Result<Run, M::Error> {
    match (follow(m, chain, start, max)?, rollback) {
        (Level::Recorded(run), _) => Ok(run),
        (Level::Unrecorded(len), Some(view)) if chain.origin().1 > view.boundary => {
            view.head(m, start, len)
        }
        (Level::Unrecorded(len), _) => Ok(Run {
            location: Location::Origin,
            len,
        }),
    }
}

/// Where the content of the origin itself is, as [`resolve`] does for a snapshot. Without a
/// rollback that is the origin device.
pub fn resolve_head<M: Metadata>(
    m: &M,
    _origin: &OriginRow,
    rollback: Option<&RollbackView>,
    start: Chunk,
    max: u64,
) -> Result<Run, M::Error> {
    match rollback {
        Some(view) => view.head(m, start, max),
        None => Ok(Run {
            location: Location::Origin,
            len: max,
        }),
    }
}
