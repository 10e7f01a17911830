// SPDX-License-Identifier: GPL-2.0

//! Writing: entries gathered in blocks.

use super::super::bytes::Writer;
use super::super::superblock::{Checksum, BLOCK_SIZE, CHECKED_FROM};
use super::entry::{Entry, Run};
use super::{Block, Place, HEADER, LAST, NTH_AT, USED_AT};

/// Gathers entries in blocks of the caller's, which always are the same ones, at least one and at
/// most [`BATCH_BLOCKS`](super::BATCH_BLOCKS).
#[derive(Debug, Default)]
pub struct Batch {
    /// Blocks that are full.
    full: usize,
    /// Bytes in use of the next, its header included; 0 if it has not been begun.
    used: usize,
    /// The last run of each kind, and where it stands in the block at work.
    records: Option<(usize, Run)>,
    chunks: Option<(usize, Run)>,
    done: Option<(usize, Run)>,
}

impl Batch {
    /// Without entries.
    pub const fn new() -> Batch {
        Batch {
            full: 0,
            used: 0,
            records: None,
            chunks: None,
            done: None,
        }
    }

    /// Blocks with entries.
    pub const fn blocks(&self) -> usize {
        self.full + (self.used != 0) as usize
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.blocks() == 0
    }

    /// Adds an entry; `false` if there is no room for it, and what is there is as before.
    ///
    /// An entry may come to stand before others that were added earlier, but never one for the same
    /// row, record or chunk.
    #[must_use]
    pub fn push(&mut self, blocks: &mut [Block], entry: &Entry) -> bool {
        let size = entry.size();
        let run = match entry {
            Entry::Run(run) => Some(*run),
            _ => None,
        };
        if run.is_some_and(|run| self.extend(blocks, &run, size)) {
            return true;
        }
        if self.used != 0 && self.used + size > BLOCK_SIZE {
            if self.full + 1 >= blocks.len() {
                return false;
            }
            self.close(blocks);
        }
        let Some(block) = blocks.get_mut(self.full) else {
            return false;
        };
        if self.used == 0 {
            block.fill(0);
            self.used = HEADER;
        }
        let Some(place) = block.get_mut(self.used..self.used + size) else {
            return false;
        };
        entry.write(place);
        if let Some(run) = run {
            *self.last_of(&run) = Some((self.used, run));
        }
        self.used += size;
        true
    }

    fn last_of(&mut self, run: &Run) -> &mut Option<(usize, Run)> {
        match run {
            Run::Records { .. } => &mut self.records,
            Run::Use { .. } => &mut self.chunks,
            Run::Done { .. } => &mut self.done,
        }
    }

    /// Makes an entry of `size` bytes part of the last of its kind.
    fn extend(&mut self, blocks: &mut [Block], run: &Run, size: usize) -> bool {
        let full = self.full;
        let Some((at, last)) = self.last_of(run) else {
            return false;
        };
        let Some(both) = last.joined(run) else {
            return false;
        };
        // All of a kind have the same size.
        let end = *at + size;
        let Some(place) = blocks.get_mut(full).and_then(|b| b.get_mut(*at..end)) else {
            return false;
        };
        both.write(place);
        *last = both;
        true
    }

    fn close(&mut self, blocks: &mut [Block]) {
        if let Some(block) = blocks.get_mut(self.full) {
            set_u32(block, USED_AT, self.used as u32);
        }
        *self = Batch {
            full: self.full + 1,
            ..Batch::new()
        };
    }

    /// Completes the blocks to be written as blocks `place.index` and following. Returns how many
    /// there are; entries can be added no more.
    pub fn seal(&mut self, blocks: &mut [Block], place: &Place, checksum: Checksum) -> usize {
        if self.used != 0 {
            self.close(blocks);
        }
        let count = self.full;
        for (i, block) in blocks.iter_mut().take(count).enumerate() {
            let (stored, covered) = block.split_at_mut(CHECKED_FROM);
            let mut w = Writer::new(covered);
            w.u32(if i + 1 == count { LAST } else { 0 });
            let index = place.index + i as u64;
            w.u64(place.first_block + index);
            w.bytes(&place.uuid);
            w.u64(place.transaction);
            w.u64(index);
            set_u32(covered, NTH_AT - CHECKED_FROM, i as u32);
            stored.copy_from_slice(&checksum(covered).to_le_bytes());
        }
        count
    }
}

fn set_u32(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(bytes) = bytes.get_mut(at..at + 4) {
        bytes.copy_from_slice(&value.to_le_bytes());
    }
}
