// SPDX-License-Identifier: GPL-2.0
//! What may follow in a segment: who writes one and who reads one keep to the same.

use crate::begin::Begin;
use crate::frame::SECTOR;
use crate::position::{Counts, Position};
use crate::tally::Tally;

/// Most bytes of data from one mark to the next.
pub const MARK_EVERY: u64 = 64 << 20;

/// What has been set so far.
#[derive(Clone, Debug)]
pub struct Ledger {
    begin: Begin,
    tally: Tally,
    /// The number of the last mark.
    mark: u64,
    /// What had been set at the last mark.
    marked: Counts,
}

impl Ledger {
    /// At the beginning of a segment.
    pub fn new(begin: Begin) -> Self {
        Self {
            tally: Tally::new(begin.chunk),
            begin,
            mark: 0,
            marked: Counts::default(),
        }
    }

    /// At a mark of it.
    ///
    /// # Errors
    ///
    /// It has none like that.
    pub fn resumed(begin: Begin, position: &Position) -> Result<Self, &'static str> {
        let counts = position.counts;
        let fits = position.mark > 0
            && position.sector <= begin.size
            && counts.sectors > 0
            && counts.sectors <= begin.sectors.min(position.sector)
            && counts.data <= counts.sectors
            && (1..=begin.ranges).contains(&counts.ranges)
            && (1..=begin.chunks).contains(&counts.chunks);
        if !fits {
            return Err("the segment has no such position");
        }
        Ok(Self {
            tally: Tally::resumed(begin.chunk, position),
            begin,
            mark: position.mark,
            marked: counts,
        })
    }

    /// What the segment is of.
    pub fn begin(&self) -> &Begin {
        &self.begin
    }

    /// What has been set.
    pub fn counts(&self) -> &Counts {
        self.tally.counts()
    }

    /// Below this sector all that is to be set has been.
    pub fn at(&self) -> u64 {
        self.tally.at()
    }

    /// The number of the last mark.
    pub fn mark_number(&self) -> u64 {
        self.mark
    }

    /// Sets sectors.
    ///
    /// # Errors
    ///
    /// They do not belong here, or there must be a mark before.
    pub fn range(&mut self, start: u64, sectors: u64, data: bool) -> Result<(), &'static str> {
        let begin = &self.begin;
        let end = start.checked_add(sectors).filter(|end| *end <= begin.size);
        let Some(end) = end.filter(|_| sectors > 0) else {
            return Err("a range is not within the device");
        };
        let at = self.tally.at();
        if start < at {
            return Err("ranges are not in ascending order");
        }
        if start > at && start > begin.from_size {
            return Err("sectors behind the end of the version before are left out");
        }
        let mut tally = self.tally.clone();
        tally.range(start, end - start, data);
        let counts = tally.counts();
        if counts.ranges > begin.ranges
            || counts.chunks > begin.chunks
            || counts.sectors > begin.sectors
        {
            return Err("there is more than the segment's beginning says");
        }
        if (counts.data - self.marked.data) * SECTOR > MARK_EVERY {
            return Err("a mark is missing");
        }
        self.tally = tally;
        Ok(())
    }

    /// Bytes of data since the last mark.
    pub fn unmarked(&self) -> u64 {
        (self.counts().data - self.marked.data) * SECTOR
    }

    /// Whether anything was set since the last mark.
    pub fn has_moved(&self) -> bool {
        *self.counts() != self.marked
    }

    /// Makes a mark, and returns its number.
    ///
    /// # Errors
    ///
    /// There is one here already.
    pub fn mark(&mut self) -> Result<u64, &'static str> {
        if !self.has_moved() {
            return Err("there is a mark where nothing was set since the one before");
        }
        self.mark += 1;
        self.marked = *self.counts();
        Ok(self.mark)
    }

    /// Ends the segment.
    ///
    /// # Errors
    ///
    /// Something is missing.
    pub fn end(&self) -> Result<(), &'static str> {
        let begin = &self.begin;
        let (counts, at) = (self.counts(), self.at());
        if (counts.ranges, counts.chunks, counts.sectors)
            != (begin.ranges, begin.chunks, begin.sectors)
        {
            return Err("there is less than the segment's beginning says");
        }
        if at < begin.size && begin.from_size < begin.size {
            return Err("sectors behind the end of the version before are left out");
        }
        Ok(())
    }
}
