// SPDX-License-Identifier: GPL-2.0

//! Where the regions of a COW device lie: metadata from block 0 on, the journal, then data chunks to
//! the end.

use super::super::chunk_size::{ChunkSize, PAGE_SECTORS};
use super::super::ids::CowChunk;
use super::super::refusal::Refusal;

/// Sectors in a metadata block of 4 KiB.
pub const BLOCK_SECTORS: u64 = PAGE_SECTORS;

/// Fewest metadata blocks: 4 MiB.
pub const METADATA_MIN: u64 = 1024;

/// Most metadata blocks: what one space map of persistent-data can manage, a little less than
/// 16 GiB (`DM_SM_METADATA_MAX_BLOCKS`).
pub const METADATA_MAX: u64 = 255 * ((1 << 14) - 64);

/// Data chunks per metadata block: a record takes 16 bytes in a node that is half full at worst,
/// and what else is kept is little. At chunks of 4 KiB that is 1.6 % of the device.
const CHUNKS_PER_BLOCK: u64 = 64;

/// Fewest and most blocks of the journal that a new store gets, with the backup of the superblock that
/// stands behind it: 256 KiB and 16 MiB.
const JOURNAL_MIN: u64 = 64;
const JOURNAL_MAX: u64 = 4096;

/// Blocks of the device for each block of the journal.
const BLOCKS_PER_JOURNAL_BLOCK: u64 = 256;

/// Fewest data chunks.
const DATA_MIN: u64 = 16;

/// The regions of a COW device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Size of a chunk.
    pub chunk_size: ChunkSize,
    /// Metadata blocks, from block 0 on, the superblock among them.
    pub metadata_blocks: u64,
    /// First block of the journal.
    pub journal_start: u64,
    /// Blocks of the journal; a store can do without.
    pub journal_blocks: u64,
    /// First sector of the data region.
    pub data_start: u64,
    /// Chunks of the data region.
    pub data_chunks: u64,
}

impl Layout {
    /// The regions of a new store on a device of `device` sectors; with so many metadata blocks, or
    /// as many as fit the number of chunks.
    pub fn new(
        device: u64,
        chunk_size: ChunkSize,
        metadata_blocks: Option<u64>,
    ) -> Result<Layout, Refusal> {
        let metadata_blocks = match metadata_blocks {
            Some(blocks) if !(METADATA_MIN..=METADATA_MAX).contains(&blocks) => {
                return Err(Refusal::MetadataSize)
            }
            Some(blocks) => blocks,
            None => {
                let chunks = device >> chunk_size.sector_shift();
                (chunks / CHUNKS_PER_BLOCK).clamp(METADATA_MIN, METADATA_MAX)
            }
        };
        let journal_blocks =
            (device / BLOCK_SECTORS / BLOCKS_PER_JOURNAL_BLOCK).clamp(JOURNAL_MIN, JOURNAL_MAX);
        // Little more than 2^22 blocks at most, so neither product nor sum overflows.
        let journal_end = (metadata_blocks + journal_blocks) * BLOCK_SECTORS;
        let data_start = journal_end.next_multiple_of(chunk_size.sectors());
        let layout = Layout {
            chunk_size,
            metadata_blocks,
            journal_start: metadata_blocks,
            // The last one is the backup's.
            journal_blocks: journal_blocks - 1,
            data_start,
            data_chunks: Self::chunks_behind(data_start, device, chunk_size),
        };
        match layout.data_chunks {
            DATA_MIN.. => Ok(layout),
            _ => Err(Refusal::CowTooSmall),
        }
    }

    /// Whether there is a block between the journal and the data.
    pub fn has_room_behind_journal(&self) -> bool {
        let end = self.journal_end().saturating_add(1);
        end.saturating_mul(BLOCK_SECTORS) <= self.data_start
    }

    /// The block behind the journal.
    pub const fn journal_end(&self) -> u64 {
        // It has been checked that there is such a block.
        self.journal_start.saturating_add(self.journal_blocks)
    }

    fn chunks_behind(data_start: u64, device: u64, chunk_size: ChunkSize) -> u64 {
        let chunks = device.saturating_sub(data_start) >> chunk_size.sector_shift();
        chunks.min(CowChunk::MAX.get() + 1)
    }

    /// The first sector behind the data region, if the fields make sense at all.
    fn data_end(&self) -> Option<u64> {
        let chunks = 1..=CowChunk::MAX.get() + 1;
        if !chunks.contains(&self.data_chunks) {
            return None;
        }
        let sectors = self.data_chunks.checked_mul(self.chunk_size.sectors())?;
        self.data_start.checked_add(sectors)
    }

    /// Whether the regions are in order and do not overlap; else [`Refusal::BadSuperblock`].
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let metadata = (METADATA_MIN..=METADATA_MAX).contains(&self.metadata_blocks)
            && self.metadata_blocks <= self.journal_start;
        let journal_end = self
            .journal_start
            .checked_add(self.journal_blocks)
            .and_then(|end| end.checked_mul(BLOCK_SECTORS));
        match (journal_end, self.data_end()) {
            (Some(journal_end), Some(_)) if metadata && journal_end <= self.data_start => Ok(()),
            _ => Err(Refusal::BadSuperblock),
        }
    }

    /// Refuses a device of `device` sectors that the store does not fit on.
    pub fn check_device(&self, device: u64) -> Result<(), Refusal> {
        match self.data_end() {
            Some(end) if end <= device => Ok(()),
            _ => Err(Refusal::CowShrunk),
        }
    }

    /// How many data chunks a device of `device` sectors has room for, when that is more than now.
    pub fn grown(&self, device: u64) -> Option<u64> {
        let chunks = Self::chunks_behind(self.data_start, device, self.chunk_size);
        (chunks > self.data_chunks).then_some(chunks)
    }

    /// The sector of the COW device at which a chunk of the data region begins.
    pub fn sector_of(&self, cow: CowChunk) -> u64 {
        self.data_start
            .saturating_add(cow.get() << self.chunk_size.sector_shift())
    }
}
