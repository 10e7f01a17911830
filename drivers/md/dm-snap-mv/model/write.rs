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

use super::chain::Chain;
use super::disk::snapshot_row::SnapshotRow;
use super::ids::{Chunk, CowChunk, Epoch, OriginNr, TimelineId};
use super::lookup::{find, newest_child, Found};
use super::record_key::{RecordKey, RecordValue};
use super::records::Metadata;
use super::refusal::Refusal;
use super::resolve::{resolve, Location};
use super::rollback::RollbackView;

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
    /// Into COW chunks to be allocated, recorded with [`record_written`] when they are written.
    New {
        /// How many.
        len: u64,
        /// Where the content of the first chunk is now, for a write that covers it in part; ask
        /// [`resolve`] for the others.
        base: Location,
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

    /// The record of `chunk` that belongs to the head alone.
    fn own<M: Metadata>(
        &mut self,
        m: &M,
        chunk: Chunk,
    ) -> Result<Option<(Epoch, RecordValue)>, M::Error> {
        let Found::Record(epoch, value) = find(m, self.t, self.current, chunk)? else {
            return Ok(None);
        };
        if epoch == self.current {
            return Ok(Some((epoch, value)));
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
        let alone = newest_child.is_none_or(|child| child < epoch);
        Ok(alone.then_some((epoch, value)))
    }

    /// Puts `value` as the record of `chunk`, and frees what belonged to the head alone. `chunks`
    /// counts the COW chunks of the timeline.
    fn put<M: Metadata>(
        &mut self,
        m: &mut M,
        chunk: Chunk,
        value: RecordValue,
        chunks: &mut u64,
    ) -> Result<(), M::Error> {
        if let Some((epoch, old)) = self.own(m, chunk)? {
            if epoch != self.current {
                m.remove_record(self.t, RecordKey::new(self.t, chunk, epoch).get())?;
            }
            if let RecordValue::Cow(cow) = old {
                m.free_chunks(cow, 1)?;
                *chunks = chunks.checked_sub(1).ok_or(Refusal::Corrupt)?;
            }
        }
        if let RecordValue::Cow(_) = value {
            *chunks = chunks.checked_add(1).ok_or(Refusal::Corrupt)?;
        }
        let key = RecordKey::new(self.t, chunk, self.current);
        m.insert_record(self.t, key.get(), value)
    }
}

/// Where a write of the snapshot goes, from `start` on, for at most `max` chunks (at least 1).
/// `chain` is the snapshot's own, `rollback` the one that runs on the origin.
pub fn writable<M: Metadata>(
    m: &M,
    origin: OriginNr,
    snap: &SnapshotRow,
    chain: &Chain,
    rollback: Option<&RollbackView>,
    start: Chunk,
    max: u64,
) -> Result<Writable, M::Error> {
    let mut head = Head::new(origin, snap);
    let end = start.plus(max);
    let mut next = start.plus(1);
    if let Some((_, first @ RecordValue::Cow(cow))) = head.own(m, start)? {
        while next < end {
            match head.own(m, next)? {
                Some((_, value)) if value.follows(first, next.since(start)) => (),
                _ => break,
            }
            next = next.plus(1);
        }
        let len = next.since(start);
        return Ok(Writable::InPlace { cow, len });
    }
    while next < end {
        if let Some((_, RecordValue::Cow(_))) = head.own(m, next)? {
            break;
        }
        next = next.plus(1);
    }
    Ok(Writable::New {
        len: next.since(start),
        base: resolve(m, chain, rollback, start, 1)?.location,
    })
}

/// Records that `len` chunks of the snapshot from `start` on have been written to the COW chunks
/// from `cow` on. What the head alone had there before is freed. `snap.chunks` is counted; the row
/// is written by the caller at the commit.
pub fn record_written<M: Metadata>(
    m: &mut M,
    origin: OriginNr,
    snap: &mut SnapshotRow,
    start: Chunk,
    cow: CowChunk,
    len: u64,
) -> Result<(), M::Error> {
    let mut head = Head::new(origin, snap);
    m.use_chunks(cow, len)?;
    for i in 0..len {
        let cow = cow.checked_add(i).ok_or(Refusal::Corrupt)?;
        let value = RecordValue::Cow(cow);
        head.put(m, start.plus(i), value, &mut snap.chunks)?;
    }
    Ok(())
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
    for i in 0..len {
        head.put(m, start.plus(i), RecordValue::Zero, &mut snap.chunks)?;
    }
    Ok(())
}
