// SPDX-License-Identifier: GPL-2.0
//! Space maps as the kernel's dm-persistent-data writes them. Their trees are [`crate::node`]'s.

use crate::block::{Block, BLOCK_SIZE};
use crate::checksum;

/// Entries of a bitmap: 2 bits each, behind a header of 16 bytes.
pub const ENTRIES: u64 = (BLOCK_SIZE as u64 - 16) * 4;

/// Most bitmaps of the metadata space map: what its index has room for.
pub const METADATA_BITMAPS: usize = 255;

/// In a bitmap, a count that stands in the tree of counts.
pub const MANY: u32 = 3;

const BITMAP_XOR: u32 = 240_779;
const INDEX_XOR: u32 = 160_478;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..).and_then(|b| b.first_chunk());
    field.map_or(0, |field| u32::from_le_bytes(*field))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let field = bytes.get(at..).and_then(|b| b.first_chunk());
    field.map_or(0, |field| u64::from_le_bytes(*field))
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(place) = at
        .checked_add(field.len())
        .and_then(|end| bytes.get_mut(at..end))
    {
        place.copy_from_slice(field);
    }
}

/// Checks what stands in front of a block of either kind.
fn check(block: &Block, nr: u64, xor: u32) -> Result<(), &'static str> {
    if u32_at(&block.0, 0) != checksum::of_block(block, xor) {
        return Err("its checksum is wrong");
    }
    if u64_at(&block.0, 8) != nr {
        return Err("it belongs somewhere else");
    }
    Ok(())
}

fn seal(block: &mut Block, nr: u64, xor: u32) {
    put(&mut block.0, 8, &nr.to_le_bytes());
    let sum = checksum::of_block(block, xor);
    put(&mut block.0, 0, &sum.to_le_bytes());
}

/// The root of a space map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Root {
    /// Blocks or chunks.
    pub blocks: u64,
    /// How many are in use.
    pub allocated: u64,
    /// The index: a block of metadata, or the root of a tree.
    pub index: u64,
    /// Root of the tree of counts.
    pub counts: u64,
}

impl Root {
    /// Bytes of it.
    pub const SIZE: usize = 32;

    /// Reads it; any bytes are one.
    pub fn decode(bytes: &[u8]) -> Self {
        Self {
            blocks: u64_at(bytes, 0),
            allocated: u64_at(bytes, 8),
            index: u64_at(bytes, 16),
            counts: u64_at(bytes, 24),
        }
    }

    /// Writes it.
    pub fn encode(&self, bytes: &mut [u8]) {
        put(bytes, 0, &self.blocks.to_le_bytes());
        put(bytes, 8, &self.allocated.to_le_bytes());
        put(bytes, 16, &self.index.to_le_bytes());
        put(bytes, 24, &self.counts.to_le_bytes());
    }

    /// How many bitmaps it has.
    pub fn bitmaps(&self) -> u64 {
        self.blocks.div_ceil(ENTRIES)
    }
}

/// What the index knows of a bitmap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexEntry {
    /// Its block.
    pub block: u64,
    /// Entries that are free; those behind the map's end are.
    pub free: u32,
    /// No entry before this one is free.
    pub none_free_before: u32,
}

impl IndexEntry {
    /// Bytes of it.
    pub const SIZE: usize = 16;

    /// Reads it; any bytes are one.
    pub fn decode(bytes: &[u8]) -> Self {
        Self {
            block: u64_at(bytes, 0),
            free: u32_at(bytes, 8),
            none_free_before: u32_at(bytes, 12),
        }
    }

    /// Writes it.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        put(&mut bytes, 0, &self.block.to_le_bytes());
        put(&mut bytes, 8, &self.free.to_le_bytes());
        put(&mut bytes, 12, &self.none_free_before.to_le_bytes());
        bytes
    }
}

/// The index of the metadata space map.
pub struct MetadataIndex(Box<Block>);

impl MetadataIndex {
    /// Checks that `block`, read from block `nr`, is one.
    pub fn check(block: Box<Block>, nr: u64) -> Result<Self, &'static str> {
        check(&block, nr, INDEX_XOR)?;
        Ok(Self(block))
    }

    /// Makes one to be written to block `nr`.
    pub fn make(entries: &[IndexEntry], nr: u64) -> Box<Block> {
        let mut block = Block::zeroed();
        for (i, entry) in entries.iter().enumerate() {
            put(&mut block.0, 16 + i * IndexEntry::SIZE, &entry.encode());
        }
        seal(&mut block, nr, INDEX_XOR);
        block
    }

    /// Entry `i`.
    pub fn entry(&self, i: usize) -> Option<IndexEntry> {
        if i >= METADATA_BITMAPS {
            return None;
        }
        let start = 16 + i * IndexEntry::SIZE;
        let bytes = self.0 .0.get(start..start + IndexEntry::SIZE)?;
        Some(IndexEntry::decode(bytes))
    }
}

/// A bitmap.
pub struct Bitmap(Box<Block>);

impl Bitmap {
    /// One in which all is free.
    pub fn new() -> Self {
        Self(Block::zeroed())
    }

    /// Checks that `block`, read from block `nr`, is one.
    pub fn check(block: Box<Block>, nr: u64) -> Result<Self, &'static str> {
        check(&block, nr, BITMAP_XOR)?;
        Ok(Self(block))
    }

    /// The block, to be written to block `nr`.
    pub fn into_block(mut self, nr: u64) -> Box<Block> {
        seal(&mut self.0, nr, BITMAP_XOR);
        self.0
    }

    /// Entry `i`: 0 to 2, or [`MANY`].
    pub fn get(&self, i: u64) -> u32 {
        let (byte, shift) = Self::place(i);
        let bits = self.0 .0.get(byte).map_or(0, |byte| (byte >> shift) & 3);
        // The first of the two is the high one.
        (u32::from(bits & 1) << 1) | u32::from(bits >> 1)
    }

    /// Sets entry `i`.
    pub fn set(&mut self, i: u64, value: u32) {
        let (byte, shift) = Self::place(i);
        let bits = (((value >> 1) & 1) | ((value & 1) << 1)) as u8;
        if let Some(byte) = self.0 .0.get_mut(byte) {
            *byte = (*byte & !(3 << shift)) | (bits << shift);
        }
    }

    /// Words of 64 bits with 32 entries each are little-endian, so that entries go on from byte
    /// to byte.
    fn place(i: u64) -> (usize, u32) {
        let byte = usize::try_from(i / 4).unwrap_or(usize::MAX);
        (byte.saturating_add(16), (i % 4) as u32 * 2)
    }
}

impl Default for Bitmap {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_do_not_touch_each_other() {
        let mut bitmap = Bitmap::new();
        for i in 0..ENTRIES {
            bitmap.set(i, (i % 4) as u32);
        }
        assert!((0..ENTRIES).all(|i| bitmap.get(i) == (i % 4) as u32));
        bitmap.set(5, 3);
        assert_eq!((bitmap.get(4), bitmap.get(5), bitmap.get(6)), (0, 3, 2));
        assert_eq!(bitmap.get(ENTRIES), 0);
        let block = bitmap.into_block(7);
        assert!(Bitmap::check(block.clone(), 7).is_ok());
        assert!(Bitmap::check(block, 8).is_err());
    }

    #[test]
    fn used_once_is_the_second_bit() {
        let mut bitmap = Bitmap::new();
        bitmap.set(0, 1);
        bitmap.set(33, 2);
        let block = bitmap.into_block(1);
        assert_eq!(block.0[16], 0b10);
        assert_eq!(block.0[24], 0b0100);
    }

    #[test]
    fn an_index_is_read_as_it_was_made() {
        let entry = |n| IndexEntry {
            block: n,
            free: 5,
            none_free_before: 7,
        };
        let all: Vec<_> = (0..METADATA_BITMAPS as u64).map(entry).collect();
        let index = MetadataIndex::check(MetadataIndex::make(&all, 3), 3).unwrap();
        assert_eq!(index.entry(254), Some(entry(254)));
        assert_eq!(index.entry(255), None);
    }
}
