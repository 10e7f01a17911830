// SPDX-License-Identifier: GPL-2.0

//! What a snapshot write does.
//!
//! A record belongs to the snapshot's head alone when no other version can resolve to it: when it
//! stands at the current epoch, or at an earlier one behind every snapshot that is based on this
//! one (they may have been deleted since). Such a record's chunk is written in place. Any other
//! write gets a new chunk and a record at the current epoch, in place of a record that belonged to
//! the head alone: without a deletion in between nothing would come to clean that one away.
//!
//! In place is safe only if the deletion that made it so is durable: a deleted snapshot that comes
//! back in a crash must not have changed.

use super::disk::snapshot_row::SnapshotRow;
use super::ids::{Chunk, CowChunk, Epoch, OriginNr, TimelineId};
use super::lookup::{find, newest_child, Found};
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
    Shared,
    /// None, nor of any other chunk before this one (exclusive).
    Nothing {
        /// The next chunk with any record at all, or [`Chunk::MAX`].
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
        let (epoch, value) = match find(m, self.t, self.current, chunk)? {
            Found::Record(epoch, value) => (epoch, value),
            Found::Nothing { until } => return Ok(Own::Nothing { until }),
        };
        if epoch == self.current {
            return Ok(Own::Alone(epoch, value));
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
        Ok(match newest_child.is_none_or(|child| child < epoch) {
            true => Own::Alone(epoch, value),
            false => Own::Shared,
        })
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
                Own::Shared => 1,
                Own::Alone(epoch, old) => {
                    if epoch != self.current {
                        m.remove_record(self.t, RecordKey::new(self.t, at, epoch).get())?;
                    }
                    if let RecordValue::Cow(cow) = old {
                        m.free_chunks(cow, 1)?;
                        *chunks = chunks.checked_sub(1).ok_or(Refusal::Corrupt)?;
                    }
                    1
                }
            };
            self.insert(m, at, value, clear, chunks)?;
            at = at.plus(clear);
        }
        Ok(())
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
        _ => start.plus(1),
    };
    while next < end {
        next = match head.look(m, next)? {
            Own::Alone(_, RecordValue::Cow(_)) => break,
            Own::Nothing { until } => until.min(end),
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

/// Records that `len` chunks of the snapshot from `start` on read as zeroes. What the head alone
/// had there before is freed. `snap.chunks` is counted; the row is written by the caller at the
/// commit.
pub fn record_zero<M: Metadata>(
    m: &mut M,
    origin: OriginNr,
    snap: &mut SnapshotRow,
    start: Chunk,
    len: u64,
) -> Result<(), M::Error> {
    let mut head = Head::new(origin, snap);
    head.put(m, start, RecordValue::Zero, len, &mut snap.chunks)
}
