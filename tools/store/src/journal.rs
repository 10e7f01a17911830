// SPDX-License-Identifier: GPL-2.0
//! The journal: what has changed since the superblock was written.

use crate::block::Blocks;
use crate::checksum;
use crate::error::{Error, Result};
use dm_snap_mv_model::disk::journal::{entries, look, Entry, Found, Place, CHECKSUM_XOR};
use dm_snap_mv_model::disk::superblock::Superblock;
use dm_snap_mv_model::refusal::Refusal;

/// The checksum of a block of the journal.
pub fn sum(covered: &[u8]) -> u32 {
    checksum::crc32c_raw(covered) ^ CHECKSUM_XOR
}

/// What the journal of a store holds: the changes in their order. Those of a batch that was not
/// written in whole are not among them.
///
/// # Errors
///
/// A block cannot be read, or one that is valid is not made of entries.
pub fn read(blocks: &dyn Blocks, superblock: &Superblock) -> Result<Vec<Entry>> {
    let layout = &superblock.layout;
    let mut all = Vec::new();
    let mut batch = Vec::new();
    for index in 0..layout.journal_blocks {
        let nr = layout.journal_start + index;
        let block = blocks
            .read(nr)
            .map_err(|source| Error::Io { block: nr, source })?;
        let place = Place {
            uuid: superblock.uuid,
            transaction: superblock.transaction,
            first_block: layout.journal_start,
            index,
        };
        let Some(found) = look(&block.0, &place, sum) else {
            break;
        };
        batch.push((block, found));
        if found.last {
            for (block, found) in batch.drain(..) {
                gather(&block.0, found, layout.data_chunks, &mut all)?;
            }
        }
    }
    Ok(all)
}

fn gather(
    block: &dm_snap_mv_model::disk::journal::Block,
    found: Found,
    data_chunks: u64,
    all: &mut Vec<Entry>,
) -> std::result::Result<(), Refusal> {
    entries(block, found, data_chunks, |entry| {
        all.push(*entry);
        Ok(())
    })
}
