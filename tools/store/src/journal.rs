// SPDX-License-Identifier: GPL-2.0
//! The journal: what has changed since the superblock was written.

use crate::block::Blocks;
use crate::checksum;
use crate::error::{Error, Result};
use dm_snap_mv_model::disk::journal::{
    batches, begun, is_behind, Block, Entry, Place, Run, BATCH_BLOCKS, BEHIND_BLOCKS, CHECKSUM_XOR,
};
use dm_snap_mv_model::disk::layout::Layout;
use dm_snap_mv_model::disk::superblock::{Superblock, BLOCK_SIZE};
use dm_snap_mv_model::refusal::Refusal;
use std::io;

/// The checksum of a block of the journal.
pub fn sum(covered: &[u8]) -> u32 {
    checksum::crc32c_raw(covered) ^ CHECKSUM_XOR
}

/// How many records, chunks and marks all entries of a journal stand for at most, by the format.
/// The kernel refuses more, too.
pub const MOST: u64 = 1 << 17;

/// How many entries for one row each there are at most. The format does not say, but in the largest
/// journal that a store is given there is no room for more of what the kernel notes: rows of
/// snapshots and, of what is smaller, no more than 2^13.
const MOST_ROWS: u64 = 1 << 17;

/// What there can be yet.
struct Left {
    changes: u64,
    rows: u64,
}

impl Left {
    /// Takes an entry off.
    fn take(&mut self, entry: &Entry) -> Result<()> {
        let (left, many) = match *entry {
            Entry::Run(Run::Records { len, .. }) => (&mut self.changes, u64::from(len)),
            Entry::Run(Run::Use { len, .. } | Run::Done { len, .. }) => (&mut self.changes, len),
            _ => (&mut self.rows, 1),
        };
        let rest = left.checked_sub(many);
        *left = rest.ok_or(Error::Overlong)?;
        Ok(())
    }
}

/// Gives what the journal of a store holds to `each`: the changes in their order. Those of a batch
/// that was not written in whole are not among them. After an orderly end it holds nothing, so it need
/// not be readable then.
///
/// # Errors
///
/// [`Error::JournalEnd`]: a block cannot be read, and may say more. What was given to `each` before is
/// what the journal holds up to there.
///
/// A block that is valid is not made of entries; a batch is not whole, and there
/// is one behind it; the entries stand for more than they can. What was given to `each` before is not
/// what the journal holds then.
pub fn read(
    blocks: &dyn Blocks,
    superblock: &Superblock,
    each: &mut dyn FnMut(&Entry),
) -> Result<()> {
    let layout = &superblock.layout;
    let mut place = Place {
        uuid: superblock.uuid,
        transaction: superblock.transaction,
        first_block: layout.journal_start,
        index: 0,
    };
    let mut left = Left {
        changes: MOST,
        rows: MOST_ROWS,
    };
    let mut looked_again = None;
    loop {
        loop {
            let (window, unreadable) = window(blocks, layout, place.index);
            let gather = |entry: &Entry| {
                left.take(entry)?;
                each(entry);
                Ok::<(), Error>(())
            };
            match batches(&window, &place, sum, layout.data_chunks, gather)? {
                0 => {
                    let next = begun(&window, &place, sum);
                    let bad = unreadable.into_iter().find(|&(i, _)| i == next);
                    if let Some((_, source)) = bad.filter(|_| !superblock.clean) {
                        let block = layout.journal_start + place.index + next as u64;
                        return Err(Error::JournalEnd { block, source });
                    }
                    break;
                }
                count => place = place.plus(count),
            }
        }
        let mut behind = false;
        for distance in (0..BEHIND_BLOCKS).step_by(BATCH_BLOCKS) {
            let from = place.plus(distance);
            let (window, _) = window(blocks, layout, from.index);
            behind |= is_behind(&window, &from, place.index, sum);
        }
        if !behind {
            return Ok(());
        }
        // In a store that is in use, the batch may be there by now.
        if looked_again == Some(place.index) {
            return Err(Refusal::Corrupt.into());
        }
        looked_again = Some(place.index);
    }
}

/// Blocks from number `index` on: as many as a batch can have, or those that there are. Those that cannot
/// be read are all zeroes, and why is said for each, by its place among them.
fn window(
    blocks: &dyn Blocks,
    layout: &Layout,
    index: u64,
) -> (Vec<Block>, Vec<(usize, io::Error)>) {
    let end = layout.journal_blocks.min(index + BATCH_BLOCKS as u64);
    let numbers: Vec<u64> = (index..end).map(|i| layout.journal_start + i).collect();
    let mut unreadable = Vec::new();
    let found = blocks.read_many(&numbers).into_iter().enumerate();
    let found = found.map(|(i, block)| match block {
        Ok(block) => block.0,
        Err(source) => {
            unreadable.push((i, source));
            [0; BLOCK_SIZE]
        }
    });
    (found.collect(), unreadable)
}
