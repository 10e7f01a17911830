// SPDX-License-Identifier: GPL-2.0

//! Keys and values of the record trees.
//!
//! A record's key holds its chunk and its epoch so that the record that answers a look-up is the
//! first one at or behind the look-up's own key:
//!
//! * an origin's timeline counts the epoch upwards, because the answer is the smallest epoch that
//!   is not below the one asked for;
//! * a snapshot's counts it downwards, because the answer is the greatest that is not above.
//!
//! In a snapshot's timeline one record can stand for many chunks that are all zeroes. It stands at the
//! last of them, so that the same one search finds it from any of them; and no other record of the
//! timeline, of whatever epoch, is of any of them.
//!
//! In an origin's timeline a record can be a *mark*: it says that the chunk has changed since the end of
//! its epoch, but not what it was. That is all that bookmarks need, and no snapshot finds one.

use super::ids::{Chunk, CowChunk, Epoch, TimelineId};
use super::refusal::Refusal;

const EPOCH_BITS: u32 = 24;
const EPOCH_MASK: u64 = (1 << EPOCH_BITS) - 1;

/// Key of a record within its timeline's tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordKey(u64);

impl RecordKey {
    /// The key of the record of `chunk` at `epoch` in the timeline `t`.
    pub fn new(t: TimelineId, chunk: Chunk, epoch: Epoch) -> RecordKey {
        let epoch = match t.is_origin() {
            true => u64::from(epoch.get()),
            false => EPOCH_MASK - u64::from(epoch.get()),
        };
        RecordKey((chunk.get() << EPOCH_BITS) | epoch)
    }

    /// The number in the tree.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The chunk of the record with this number, or of the first one behind a cursor.
    pub const fn chunk_of(raw: u64) -> Chunk {
        Chunk::saturating(raw >> EPOCH_BITS)
    }

    /// What the number in the tree of timeline `t` stands for. An epoch of 0 is
    /// [`Refusal::Corrupt`].
    pub fn decode(t: TimelineId, raw: u64) -> Result<(Chunk, Epoch), Refusal> {
        let low = (raw & EPOCH_MASK) as u32;
        let epoch = match t.is_origin() {
            true => low,
            false => EPOCH_MASK as u32 - low,
        };
        let epoch = Epoch::new(epoch).ok_or(Refusal::Corrupt)?;
        let chunk = Chunk::new(raw >> EPOCH_BITS).ok_or(Refusal::Corrupt)?;
        Ok((chunk, epoch))
    }
}

/// What the key grows by from one chunk's record to the next one's of the same epoch.
pub const KEY_STEP: u64 = 1 << EPOCH_BITS;

/// The key of a record `distance` chunks behind that with key `raw`, of the same epoch.
pub fn key_behind(raw: u64, distance: u64) -> Option<u64> {
    raw.checked_add(distance.checked_mul(KEY_STEP)?)
}

/// Where the content is that a record stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordValue {
    /// In this COW chunk, which belongs to this record alone.
    Cow(CowChunk),
    /// Nowhere: all zeroes.
    Zero,
    /// As [`RecordValue::Zero`], of the record's chunk and of so many before it: at least 1.
    Zeroes(u64),
    /// Gone: a mark.
    Mark,
}

impl RecordValue {
    const ZERO_BIT: u64 = 1 << 63;
    const MARK: u64 = 1 << 62;

    /// That `len` chunks (at least 1) are all zeroes, in a record of the last one.
    pub const fn zeroes(len: u64) -> RecordValue {
        match len {
            0 | 1 => RecordValue::Zero,
            _ => RecordValue::Zeroes(len - 1),
        }
    }

    /// The number in the tree.
    pub const fn encode(self) -> u64 {
        match self {
            RecordValue::Cow(cow) => cow.get(),
            RecordValue::Zero => Self::ZERO_BIT,
            RecordValue::Zeroes(before) => Self::ZERO_BIT | before,
            RecordValue::Mark => Self::MARK,
        }
    }

    /// What the number in the tree stands for, in a store with `data_chunks` COW chunks. Anything
    /// else than a chunk below that, a mark, or what stands for zeroes, of no more chunks than a device
    /// has, is [`Refusal::Corrupt`].
    pub fn decode(raw: u64, data_chunks: u64) -> Result<RecordValue, Refusal> {
        if raw & Self::ZERO_BIT != 0 {
            return match raw ^ Self::ZERO_BIT {
                0 => Ok(RecordValue::Zero),
                before if before <= Chunk::MAX.get() => Ok(RecordValue::Zeroes(before)),
                _ => Err(Refusal::Corrupt),
            };
        }
        if raw == Self::MARK {
            return Ok(RecordValue::Mark);
        }
        match CowChunk::new(raw) {
            Some(cow) if raw < data_chunks => Ok(RecordValue::Cow(cow)),
            _ => Err(Refusal::Corrupt),
        }
    }

    /// The first chunk that this value of a record of `chunk` in timeline `t` is of. Zeroes of several
    /// chunks that there are not, or in the timeline of an origin, are [`Refusal::Corrupt`], and so is a
    /// mark in that of a snapshot.
    pub fn first_of(self, t: TimelineId, chunk: Chunk) -> Result<Chunk, Refusal> {
        let before = match self {
            RecordValue::Zeroes(before) => before,
            RecordValue::Mark if !t.is_origin() => return Err(Refusal::Corrupt),
            _ => return Ok(chunk),
        };
        let first = chunk.get().checked_sub(before).filter(|_| !t.is_origin());
        first.and_then(Chunk::new).ok_or(Refusal::Corrupt)
    }

    /// What stands `distance` chunks behind this in one run.
    pub fn plus(self, distance: u64) -> Option<RecordValue> {
        match self {
            RecordValue::Cow(cow) => cow.checked_add(distance).map(RecordValue::Cow),
            RecordValue::Zero | RecordValue::Mark => Some(self),
            // What is behind it in the tree is of later chunks, so no run goes on from it.
            RecordValue::Zeroes(_) => (distance == 0).then_some(self),
        }
    }

    /// Whether this is what stands `distance` chunks behind `first` in one run.
    pub fn follows(self, first: RecordValue, distance: u64) -> bool {
        match (first, self) {
            (RecordValue::Cow(a), RecordValue::Cow(b)) => a.checked_add(distance) == Some(b),
            (RecordValue::Zero, RecordValue::Zero) | (RecordValue::Mark, RecordValue::Mark) => true,
            _ => false,
        }
    }
}

/// The key of an epoch in the tree of children, where a later epoch comes first, so that the newest
/// one that is not above another is found by one search.
pub const fn child_key(epoch: Epoch) -> u64 {
    EPOCH_MASK - epoch.get() as u64
}

/// The epoch that a key in the tree of children stands for; else [`Refusal::Corrupt`].
pub fn child_epoch(key: u64) -> Result<Epoch, Refusal> {
    let epoch = EPOCH_MASK.checked_sub(key).ok_or(Refusal::Corrupt)?;
    Epoch::new(epoch as u32).ok_or(Refusal::Corrupt)
}

/// What the keys of bookmarks in the tree of children have, and those of what is based on an epoch have
/// not. So the search for the newest of either kind passes none of the other.
const BOOKMARKS: u64 = 1 << 32;

/// The key of a bookmark of an epoch in the tree of children. A later epoch comes first here too.
pub const fn bookmark_key(epoch: Epoch) -> u64 {
    BOOKMARKS | child_key(epoch)
}

/// The epoch of the bookmark that a key in the tree of children stands for; else [`Refusal::Corrupt`].
pub fn bookmark_epoch(key: u64) -> Result<Epoch, Refusal> {
    child_epoch(key ^ BOOKMARKS)
}

/// Whether a key in the tree of children is behind those of what is based on an epoch: it stands for a
/// bookmark, or for nothing.
pub const fn is_behind_children(key: u64) -> bool {
    key >= BOOKMARKS
}
