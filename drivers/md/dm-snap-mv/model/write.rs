// SPDX-License-Identifier: GPL-2.0

//! What a snapshot write does.
//!
//! A record belongs to the snapshot's head alone when no other version can resolve to it: when it
//! stands at the current epoch, or at an earlier one behind every snapshot that is based on this
//! one (they may have been deleted since). Such a record's chunk is written in place. Any other
//! write gets a new chunk and a record at the current epoch, in place of a record that belonged to
//! the head alone: without a deletion in between nothing would come to clean that one away.
//!
//! One record can say of many chunks that they are zeroes ([`RecordValue::Zeroes`]). Where one of them
//! gets a record of its own, the chunks on either side keep one that says so. If others need the zeroes
//! of the chunk itself, it has two records then: they, and what is newer.
//!
//! In place is safe only if the deletion that made it so is durable: a deleted snapshot that comes
//! back in a crash must not have changed.

use super::disk::snapshot_row::SnapshotRow;
use super::ids::{Chunk, CowChunk, Epoch, OriginNr, TimelineId};
use super::lookup::{find, newest_child, Found, Zeroes};
use super::record_key::{RecordKey, RecordValue};
use super::records::Metadata;
use super::refusal::Refusal;

/// Where a write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writable {
    /// Into COW chunks that are the snapshot's own.
    InPlace {
        /// The first one.
        cow: CowChunk,
        /// How many, one behind the other.
        len: u64,
    },
    /// Into COW chunks to be allocated, recorded with [`record_written`] when they are written. Where
    /// the content of one is now, for a write that covers it in part, says
    /// [`resolve`](super::resolve::resolve).
    New(NewRun),
}

/// Chunks of a snapshot that are to be written to new places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewRun {
    /// The first chunk.
    pub start: Chunk,
    /// Chunks in the run.
    pub len: u64,
    /// The snapshot's timeline has no record of any of them. That stays so for as long as nobody else
    /// writes them.
    pub unrecorded: bool,
}

/// What a timeline has of a chunk, as its head sees it.
enum Own {
    /// A record that belongs to the head alone.
    Alone(Epoch, RecordValue),
    /// One that others need.
    Shared(RecordValue),
    /// One of several chunks, all zeroes.
    Zeroes {
        /// Which ones.
        zeroes: Zeroes,
        /// It belongs to the head alone.
        alone: bool,
    },
    /// None, nor of any other chunk before this one (exclusive).
    Nothing {
        /// The next chunk that there may be a record of, or [`Chunk::MAX`].
        until: Chunk,
    },
}

/// The record of one timeline's head.
struct Head {
    t: TimelineId,
    /// The epoch in which the head writes.
    current: Epoch,
    /// The newest epoch that something is based on, once it was needed.
    newest_child: Option<Option<Epoch>>,
}

impl Head {
    fn new(origin: OriginNr, snap: &SnapshotRow) -> Head {
        Head {
            t: snap.timeline(origin),
            current: snap.current_epoch,
            newest_child: None,
        }
    }

    /// What the timeline has of `chunk`.
    fn look<M: Metadata>(&mut self, m: &M, chunk: Chunk) -> Result<Own, M::Error> {
        Ok(match find(m, self.t, self.current, chunk)? {
            Found::Record(epoch, value) => match self.is_alone(m, epoch)? {
                true => Own::Alone(epoch, value),
                false => Own::Shared(value),
            },
            Found::Zeroes(zeroes) => Own::Zeroes {
                zeroes,
                alone: self.is_alone(m, zeroes.epoch)?,
            },
            Found::Nothing { until } => Own::Nothing { until },
        })
    }

    /// Whether a record of this epoch, which the head finds, is found by nobody else.
    fn is_alone<M: Metadata>(&mut self, m: &M, epoch: Epoch) -> Result<bool, M::Error> {
        if epoch == self.current {
            return Ok(true);
        }
        let newest_child = match self.newest_child {
            Some(known) => known,
            None => {
                let newest = newest_child(m, self.t, Epoch::MAX)?;
                let newest = newest.map(|(epoch, _)| epoch);
                self.newest_child = Some(newest);
                newest
            }
        };
        Ok(newest_child.is_none_or(|child| child < epoch))
    }

    /// The key of the record of a chunk at an epoch.
    fn key(&self, chunk: Chunk, epoch: Epoch) -> u64 {
        RecordKey::new(self.t, chunk, epoch).get()
    }

    /// Puts the records of `len` chunks from `start` on: `first` for the first one, and what is behind
    /// it for the others. Frees what belonged to the head alone. `chunks` counts the COW chunks of the
    /// timeline.
    fn put<M: Metadata>(
        &mut self,
        m: &mut M,
        start: Chunk,
        first: RecordValue,
        len: u64,
        chunks: &mut u64,
    ) -> Result<(), M::Error> {
        let end = start.plus(len);
        let mut at = start;
        while at < end {
            let value = first.plus(at.since(start)).ok_or(Refusal::Corrupt)?;
            let clear = match self.look(m, at)? {
                Own::Nothing { until } => until.min(end).since(at),
                Own::Shared(_) => 1,
                Own::Alone(epoch, old) => {
                    if epoch != self.current {
                        m.remove_record(self.t, self.key(at, epoch))?;
                    }
                    free(m, old, chunks)?;
                    1
                }
                Own::Zeroes { zeroes, alone } => {
                    let clear = zeroes.last.plus(1).min(end).since(at);
                    self.carve(m, zeroes, alone, at, clear)?;
                    clear
                }
            };
            self.insert(m, at, value, clear, chunks)?;
            at = at.plus(clear);
        }
        Ok(())
    }

    /// Has the chunks on either side of `len` ones (at least 1) from `start` on, which the record of
    /// `zeroes` is of, keep a record of their own, and these as well if others need it. They get
    /// another one at the current epoch next.
    fn carve<M: Metadata>(
        &self,
        m: &mut M,
        zeroes: Zeroes,
        alone: bool,
        start: Chunk,
        len: u64,
    ) -> Result<(), M::Error> {
        let Zeroes { first, last, epoch } = zeroes;
        let behind = last.plus(1).since(start.plus(len));
        if behind > 0 {
            let key = self.key(last, epoch);
            m.insert_record(self.t, key, RecordValue::zeroes(behind))?;
        } else if alone && epoch != self.current {
            m.remove_record(self.t, self.key(last, epoch))?;
        }
        let before = start.since(first);
        if before > 0 {
            let chunk = Chunk::saturating(start.get().saturating_sub(1));
            let key = self.key(chunk, epoch);
            m.insert_record(self.t, key, RecordValue::zeroes(before))?;
        }
        match alone {
            true => Ok(()),
            false => m.insert_records(self.t, self.key(start, epoch), RecordValue::Zero, len),
        }
    }

    /// Puts them where nothing has to be freed.
    fn insert<M: Metadata>(
        &mut self,
        m: &mut M,
        start: Chunk,
        first: RecordValue,
        len: u64,
        chunks: &mut u64,
    ) -> Result<(), M::Error> {
        if let RecordValue::Cow(_) = first {
            *chunks = chunks.checked_add(len).ok_or(Refusal::Corrupt)?;
        }
        let key = RecordKey::new(self.t, start, self.current);
        m.insert_records(self.t, key.get(), first, len)
    }

    /// Whether there is an older record of the chunk that these zeroes are of. Of several there is none.
    fn has_older<M: Metadata>(&self, m: &M, zeroes: &Zeroes) -> Result<bool, M::Error> {
        let Some(before) = zeroes.epoch.previous().filter(|_| zeroes.is_one()) else {
            return Ok(false);
        };
        let older = find(m, self.t, before, zeroes.last)?;
        Ok(!matches!(older, Found::Nothing { .. }))
    }

    /// Puts one record for the chunks from `start` up to `end` (exclusive), if those are any: they are
    /// zeroes. The timeline has none of any of them, or it is one chunk that it has an older one of.
    fn insert_zeroes<M: Metadata>(
        &self,
        m: &mut M,
        start: Chunk,
        end: Chunk,
    ) -> Result<(), M::Error> {
        match end.since(start) {
            0 => Ok(()),
            len => {
                let last = start.plus(len - 1);
                let key = self.key(last, self.current);
                m.insert_record(self.t, key, RecordValue::zeroes(len))
            }
        }
    }
}

/// Frees what a record was of that belonged to the head alone.
fn free<M: Metadata>(m: &mut M, old: RecordValue, chunks: &mut u64) -> Result<(), M::Error> {
    if let RecordValue::Cow(cow) = old {
        m.free_chunks(cow, 1)?;
        *chunks = chunks.checked_sub(1).ok_or(Refusal::Corrupt)?;
    }
    Ok(())
}

/// Where a write of the snapshot goes, from `start` on, for at most `max` chunks (at least 1).
pub fn writable<M: Metadata>(
    m: &M,
    origin: OriginNr,
    snap: &SnapshotRow,
    start: Chunk,
    max: u64,
) -> Result<Writable, M::Error> {
    let mut head = Head::new(origin, snap);
    let end = start.plus(max);
    let mut unrecorded = false;
    let mut next = match head.look(m, start)? {
        Own::Alone(_, first @ RecordValue::Cow(cow)) => {
            let mut next = start.plus(1);
            while next < end {
                match head.look(m, next)? {
                    Own::Alone(_, value) if value.follows(first, next.since(start)) => (),
                    _ => break,
                }
                next = next.plus(1);
            }
            let len = next.since(start);
            return Ok(Writable::InPlace { cow, len });
        }
        Own::Nothing { until } => {
            unrecorded = true;
            until.min(end)
        }
        Own::Zeroes { zeroes, .. } => zeroes.last.plus(1).min(end),
        _ => start.plus(1),
    };
    while next < end {
        next = match head.look(m, next)? {
            Own::Alone(_, RecordValue::Cow(_)) => break,
            Own::Nothing { until } => until.min(end),
            Own::Zeroes { zeroes, .. } => {
                unrecorded = false;
                zeroes.last.plus(1).min(end)
            }
            _ => {
                unrecorded = false;
                next.plus(1)
            }
        };
    }
    Ok(Writable::New(NewRun {
        start,
        len: next.since(start),
        unrecorded,
    }))
}

/// Records that the chunks of a run, which [`writable`] has found, or the first ones of it, have been
/// written to the COW chunks from `cow` on. What the head alone had there before is freed.
/// `snap.chunks` is counted; the row is written by the caller at the commit. From [`writable`] to this
/// nobody else may write those chunks, nor take a snapshot of the snapshot.
pub fn record_written<M: Metadata>(
    m: &mut M,
    origin: OriginNr,
    snap: &mut SnapshotRow,
    run: NewRun,
    cow: CowChunk,
) -> Result<(), M::Error> {
    let mut head = Head::new(origin, snap);
    m.use_chunks(cow, run.len)?;
    let first = RecordValue::Cow(cow);
    match run.unrecorded {
        true => head.insert(m, run.start, first, run.len, &mut snap.chunks),
        false => head.put(m, run.start, first, run.len, &mut snap.chunks),
    }
}

/// What [`record_zeroes`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zeroed {
    /// The first chunks, so many of them, at least 1, are zeroes now.
    pub len: u64,
    /// How many records it has looked at.
    pub looks: u64,
}

/// Most changes of records for each one that [`record_zeroes`] looks at. One more comes at its end.
pub const CHANGES_OF_A_LOOK: u64 = 2;

/// Records that `len` chunks of the snapshot from `start` on read as zeroes, or the first ones of them: it
/// looks at no more than `budget` records (at least 1). What the head alone had there before is freed.
/// `snap.chunks` is counted; the row is written by the caller at the commit.
///
/// That takes one record for all of them, and one more for each chunk that others need something else of,
/// and for each run of zeroes that others need, or that is in part of other chunks. What says already that
/// chunks are zeroes, all of them, stays as it is.
pub fn record_zeroes<M: Metadata>(
    m: &mut M,
    origin: OriginNr,
    snap: &mut SnapshotRow,
    start: Chunk,
    len: u64,
    budget: u64,
) -> Result<Zeroed, M::Error> {
    let mut head = Head::new(origin, snap);
    let end = start.plus(len);
    // The timeline has no record of those from `begin` up to `at`: they are to get one.
    let (mut begin, mut at) = (start, start);
    let mut looks = 0;
    // That at `at` has lost a record, and may have older ones.
    let mut bare = false;
    while at < end && looks < budget.max(1) {
        looks += 1;
        bare = false;
        let (zeroes, alone) = match head.look(m, at)? {
            Own::Nothing { until } => {
                at = until.min(end);
                continue;
            }
            Own::Alone(epoch, value @ RecordValue::Cow(_)) => {
                m.remove_record(head.t, head.key(at, epoch))?;
                free(m, value, &mut snap.chunks)?;
                // If there can be an older one of the same chunk, that is looked at next.
                bare = epoch > Epoch::FIRST;
                at = at.plus(u64::from(!bare));
                continue;
            }
            Own::Shared(RecordValue::Cow(_)) => {
                head.insert_zeroes(m, begin, at)?;
                begin = at.plus(1);
                head.insert_zeroes(m, at, begin)?;
                at = begin;
                continue;
            }
            Own::Alone(epoch, _) => (Zeroes::of_one(at, epoch), true),
            Own::Shared(_) => (Zeroes::of_one(at, head.current), false),
            Own::Zeroes { zeroes, alone } => (zeroes, alone),
        };
        // These are zeroes already. What lies among others becomes a part of what they get.
        let behind = zeroes.last.plus(1);
        let among =
            begin <= zeroes.first && behind <= end && (begin, end) != (zeroes.first, behind);
        if alone && among && !head.has_older(m, &zeroes)? {
            m.remove_record(head.t, head.key(zeroes.last, zeroes.epoch))?;
            at = behind;
        } else {
            head.insert_zeroes(m, begin, at)?;
            at = behind.min(end);
            begin = at;
        }
    }
    head.insert_zeroes(m, begin, at)?;
    if bare {
        begin = at;
        at = at.plus(1);
        head.insert_zeroes(m, begin, at)?;
    }
    Ok(Zeroed {
        len: at.since(start),
        looks,
    })
}
