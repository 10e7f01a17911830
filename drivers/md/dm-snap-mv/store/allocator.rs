// SPDX-License-Identifier: GPL-2.0

//! Runs of COW chunks for data on its way.
//!
//! A chunk becomes allocated on disk only in the transaction that records what it holds: until then
//! it is merely reserved here, in core. A crash in between leaks nothing, and a failed copy gives
//! its chunks back by forgetting them.
//!
//! A chunk can be had when nothing durable leads to it: it is free now, and its being freed is
//! durable. The journal never holds that something was freed, so this is durable with the next commit
//! of the trees, whatever made durable that it was in use: the commit before, or the journal since. The
//! space map knows of commits only. It takes a chunk that came into use and was freed between two of
//! them for free all along, while after a crash the journal brings back the record that leads there.

use super::error::{Result, StoreError};
use super::metadata::Meta;
use crate::model::ids::CowChunk;
use crate::model::room::Lack;
use kernel::prelude::*;

/// How far a found free chunk is extended into a run, in chunks.
const WINDOW: u64 = 1024;

/// How many reservations there can be at a time: more copies at once make no disk faster, and each
/// takes memory, of which there may be none left until these writes are done. For the same reason
/// the table of them never grows.
const MOST_RESERVED: usize = 512;

/// How many chunks that were freed since the last commit one search looks at, before it gives up. Who
/// asked commits then, and all of them can be had.
const MOST_FREED: u64 = 1024;

/// Hands out runs of free COW chunks.
pub(super) struct Allocator {
    /// Chunks known to be free and not yet handed out: [next, end).
    next: u64,
    end: u64,
    /// Handed out, neither recorded nor given back: (first, length).
    reserved: KVVec<(u64, u64)>,
    /// How many chunks that is.
    held: u64,
}

/// What came of asking for chunks.
pub(super) enum Reservation {
    /// These are the caller's until [`Allocator::release`].
    Run { start: CowChunk, len: u64 },
    /// Too many are on their way; ask again when one has come back.
    Later,
    /// There is none left of something. Of chunks that were freed since the last commit there are when
    /// that has been committed.
    Full(Lack),
}

impl Allocator {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            next: 0,
            end: 0,
            reserved: KVVec::with_capacity(MOST_RESERVED, GFP_KERNEL)?,
            held: 0,
        })
    }

    /// Whether there can be one more reservation now.
    pub(super) fn has_room(&self) -> bool {
        self.reserved.len() < MOST_RESERVED
    }

    /// Reservations that there are.
    pub(super) fn runs(&self) -> u64 {
        self.reserved.len() as u64
    }

    /// Chunks that are reserved.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// Reserves up to `want` consecutive chunks, as many as the free run at hand has.
    ///
    /// May sleep: reads bitmaps of the data space map.
    pub(super) fn reserve(&mut self, meta: &mut Meta, want: u64) -> Result<Reservation> {
        if !self.has_room() {
            return Ok(Reservation::Later);
        }
        if self.next == self.end && !self.refill(meta)? {
            return Ok(Reservation::Full(Lack::Chunks));
        }
        let len = want.min(self.end - self.next);
        let start = self.next;
        let Some(chunk) = CowChunk::new(start) else {
            return Ok(Reservation::Full(Lack::Chunks));
        };
        self.reserved
            .push_within_capacity((start, len))
            .map_err(|_| StoreError::Kernel(ENOMEM))?;
        self.next += len;
        self.held += len;
        Ok(Reservation::Run { start: chunk, len })
    }

    /// Ends a reservation, once its chunks are recorded or not needed after all.
    pub(super) fn release(&mut self, start: CowChunk) {
        let found = self.reserved.iter().position(|run| run.0 == start.get());
        if let Some(index) = found {
            let last = self.reserved.len() - 1;
            self.reserved.swap(index, last);
            let run = self.reserved.pop();
            self.held = self.held.saturating_sub(run.map_or(0, |run| run.1));
        }
    }

    /// The metadata have been read again: what was known to be free need not be. What is handed
    /// out stays so, as its data may be on its way.
    pub(super) fn forget(&mut self) {
        self.next = 0;
        self.end = 0;
    }

    fn refill(&mut self, meta: &mut Meta) -> Result<bool> {
        // Behind the last ones there are more, mostly: the probe would come to them one by one, past
        // all that is handed out.
        let behind = self.end;
        if behind > 0 && self.extend(meta, behind)? {
            return Ok(true);
        }
        // A free chunk may be reserved already, or not be free in truth; the probe moves on by itself, so
        // each look finds another one until all of those have been met.
        let freed = meta
            .freed()
            .iter()
            .fold(0u64, |sum, run| sum.saturating_add(run.1));
        let mut looks = self.held.saturating_add(freed.min(MOST_FREED));
        while let Some(first) = meta.probe_free()? {
            if !self.is_fenced(meta, first) {
                return self.take(meta, first);
            }
            if looks == 0 {
                break;
            }
            looks -= 1;
        }
        Ok(false)
    }

    /// Whether a chunk that is free now cannot be had all the same.
    fn is_fenced(&self, meta: &Meta, chunk: u64) -> bool {
        fence(&self.reserved, chunk).0 || fence(meta.freed(), chunk).0
    }

    /// Takes the run that begins with `first`, if that can be had.
    fn extend(&mut self, meta: &mut Meta, first: u64) -> Result<bool> {
        if first >= meta.data_usage()?.1 || self.is_fenced(meta, first) || !meta.is_free(first)? {
            return Ok(false);
        }
        self.take(meta, first)
    }

    /// Takes the run that begins with `first`, which can be had.
    fn take(&mut self, meta: &mut Meta, first: u64) -> Result<bool> {
        let (_, limit) = fence(&self.reserved, first);
        let (_, freed_limit) = fence(meta.freed(), first);
        let total = meta.data_usage()?.1;
        let limit = limit.min(freed_limit).min(first + WINDOW).min(total);
        let mut end = first + 1;
        while end < limit && meta.is_free(end)? {
            end += 1;
        }
        self.next = first;
        self.end = end;
        Ok(true)
    }
}

/// Whether `chunk` lies in one of the runs, and where the next run behind it begins.
fn fence(runs: &[(u64, u64)], chunk: u64) -> (bool, u64) {
    let mut inside = false;
    let mut next = u64::MAX;
    for &(start, len) in runs {
        if start <= chunk {
            inside |= chunk - start < len;
        } else {
            next = next.min(start);
        }
    }
    (inside, next)
}
