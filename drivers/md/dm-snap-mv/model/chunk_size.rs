// SPDX-License-Identifier: GPL-2.0

//! The chunk size of a store, and what follows from it.

use super::ids::Chunk;
use super::refusal::Refusal;

/// Sectors in a page of 4 KiB, the unit chunk sizes are given in.
pub const PAGE_SECTORS: u64 = 8;

/// Pages per chunk when nothing else is asked for.
pub const DEFAULT_PAGES: u32 = 1;

/// Size of a chunk: 1 to 256 pages of 4 KiB, a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkSize {
    /// Binary logarithm of the number of pages: 0 to 8.
    shift: u32,
}

impl ChunkSize {
    /// Chunks of so many pages.
    pub const fn from_pages(pages: u32) -> Result<ChunkSize, Refusal> {
        if pages >= 1 && pages <= 256 && pages.is_power_of_two() {
            Ok(ChunkSize {
                shift: pages.trailing_zeros(),
            })
        } else {
            Err(Refusal::ChunkSize)
        }
    }

    /// Pages of 4 KiB in a chunk.
    pub const fn pages(self) -> u32 {
        1 << self.shift
    }

    /// Sectors in a chunk: 8 to 2048.
    pub const fn sectors(self) -> u64 {
        PAGE_SECTORS << self.shift
    }

    /// Binary logarithm of the sectors in a chunk.
    pub const fn sector_shift(self) -> u32 {
        self.shift + PAGE_SECTORS.trailing_zeros()
    }

    /// How many whole chunks there are in so many sectors.
    pub const fn whole_chunks(self, sectors: u64) -> u64 {
        sectors >> self.sector_shift()
    }

    /// Whether so many sectors are whole chunks.
    pub const fn is_whole(self, sectors: u64) -> bool {
        sectors & (self.sectors() - 1) == 0
    }

    /// The chunk that holds `sector`; [`Chunk::MAX`] when it lies behind the longest device.
    pub const fn chunk_of(self, sector: u64) -> Chunk {
        Chunk::saturating(sector >> self.sector_shift())
    }

    /// The first sector of a chunk.
    pub const fn sector_of(self, chunk: Chunk) -> u64 {
        chunk.get() << self.sector_shift()
    }

    /// The chunks of a device of `size` sectors, the last one perhaps in part: the end of its
    /// range. A device with more chunks than have numbers is refused.
    pub const fn end_of(self, size: u64) -> Result<Chunk, Refusal> {
        let whole = self.whole_chunks(size);
        let part = !self.is_whole(size) as u64;
        match Chunk::new(whole + part) {
            Some(end) => Ok(end),
            None => Err(Refusal::OriginTooLarge),
        }
    }
}
