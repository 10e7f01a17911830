// SPDX-License-Identifier: GPL-2.0
//! Counting what is set.

use crate::position::{Counts, Position};

/// Counts ranges that come in ascending order. Those that touch are one.
#[derive(Clone, Debug)]
pub struct Tally {
    chunk: u64,
    /// Where the last one ends; nothing is set behind.
    at: u64,
    counts: Counts,
}

impl Tally {
    /// Of a device with chunks of so many sectors, 1 or more.
    pub fn new(chunk: u32) -> Self {
        Self {
            chunk: u64::from(chunk.max(1)),
            at: 0,
            counts: Counts::default(),
        }
    }

    /// Goes on at a position.
    pub fn resumed(chunk: u32, position: &Position) -> Self {
        Self {
            at: position.sector,
            counts: position.counts,
            ..Self::new(chunk)
        }
    }

    /// Counts a range; one of no sectors is none. It begins where the last one ends, or behind, and ends
    /// at a number of a sector.
    pub fn range(&mut self, start: u64, sectors: u64, data: bool) {
        let Some(more) = sectors.checked_sub(1) else {
            return;
        };
        let last = start.saturating_add(more);
        let before = (self.counts.sectors > 0).then(|| self.at.saturating_sub(1) / self.chunk);
        let first = start / self.chunk;
        let counts = &mut self.counts;
        counts.ranges += u64::from(before.is_none() || start != self.at);
        counts.chunks +=
            (last / self.chunk).saturating_sub(first) + u64::from(before != Some(first));
        counts.sectors = counts.sectors.saturating_add(sectors);
        if data {
            counts.data = counts.data.saturating_add(sectors);
        }
        self.at = last.saturating_add(1);
    }

    /// Where the last range ends.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The counts.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_same_as_looking_at_each_sector() {
        let mut random = 7u64;
        let mut below = |n: u64| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
            (random >> 33) % n
        };
        for _ in 0..500 {
            let mut tally = Tally::new(8);
            let mut set = BTreeSet::new();
            let mut at = 0;
            for _ in 0..below(8) {
                let start = at + below(3) * below(14);
                let sectors = below(20);
                tally.range(start, sectors, false);
                set.extend(start..start + sectors);
                at = start + sectors;
            }
            let chunks: BTreeSet<_> = set.iter().map(|sector| sector / 8).collect();
            let begins = set
                .iter()
                .filter(|s| s.checked_sub(1).is_none_or(|before| !set.contains(&before)));
            let counts = tally.counts();
            assert_eq!(counts.sectors, set.len() as u64);
            assert_eq!(counts.chunks, chunks.len() as u64);
            assert_eq!(counts.ranges, begins.count() as u64);
        }
    }
}
