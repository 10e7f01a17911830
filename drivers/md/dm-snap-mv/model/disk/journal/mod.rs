// SPDX-License-Identifier: GPL-2.0

//! The journal: what has changed since the superblock was written.
//!
//! A change is durable when its entries are, long before the trees it was made in are written. The
//! entries of one transaction stand in the blocks of the journal's region in their order, from the
//! first block on. Those that go into one write are a *batch*: all of them are valid, or none. A batch
//! is written when the one before it is durable, so one that is not whole is the last one or damaged.
//! The next superblock makes the journal empty, since its blocks name the transaction they continue.

mod batch;
mod entry;
mod read;

pub use batch::*;
pub use entry::*;
pub use read::*;

use super::superblock::BLOCK_SIZE;

/// What a journal block's checksum is mixed with: `dm_bm_checksum(bytes 4..4096, this)`.
pub const CHECKSUM_XOR: u32 = 0x6a6f_7572;

/// The most blocks of one batch.
pub const BATCH_BLOCKS: usize = 16;

/// How many blocks from where the journal ends are to be looked at for later batches: enough to see one
/// behind a batch that is damaged.
pub const BEHIND_BLOCKS: usize = 2 * BATCH_BLOCKS;

/// Where a block's entries begin.
const HEADER: usize = 64;

/// The block ends a batch.
const LAST: u32 = 1;

/// A block.
pub type Block = [u8; BLOCK_SIZE];

/// Where in a block stands how many of its bytes are in use.
const USED_AT: usize = 48;
/// And which block of its batch it is.
const NTH_AT: usize = 52;

/// Which block of which journal a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The store.
    pub uuid: [u8; 16],
    /// The transaction that the superblock shows.
    pub transaction: u64,
    /// The block on the device that the journal begins with.
    pub first_block: u64,
    /// The number of the block within the journal.
    pub index: u64,
}

impl Place {
    /// Of a block that many behind this one.
    pub const fn plus(&self, blocks: usize) -> Place {
        Place {
            index: self.index.saturating_add(blocks as u64),
            ..*self
        }
    }
}
