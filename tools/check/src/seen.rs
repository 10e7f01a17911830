// SPDX-License-Identifier: GPL-2.0
//! Whether a store is in use. There is no mark in it that says so: one that was not closed in order was
//! either left behind by a crash, or somebody has it, on this machine or another one. But nobody can
//! change anything durably that does not change the superblock or the journal; and what is certain is
//! that who does has it in use.

use dm_snap_mv_model::disk::superblock::Superblock;
use dm_snap_mv_store::{Block, Blocks};
use std::io;

/// Blocks of the journal that are looked at: as many as a store gets.
const MOST_JOURNAL: u64 = 4096;

/// What shows that a store is in use after all, by whatever way it was reached: a commit writes the
/// superblock, and changes between commits go to the journal.
pub(crate) struct Seen {
    superblock: Option<Box<Block>>,
    /// A checksum of each block of the journal that could be read.
    journal: Vec<Option<u32>>,
}

impl Seen {
    pub(crate) fn of(blocks: &dyn Blocks) -> Self {
        let superblock = blocks.read(0).ok();
        let decoded = superblock
            .as_ref()
            .and_then(|block| Superblock::decode(&block.0, crate::superblock::sum).ok());
        let journal = decoded.map_or(Vec::new(), |superblock| {
            let layout = &superblock.layout;
            let end = layout
                .journal_start
                .saturating_add(layout.journal_blocks.min(MOST_JOURNAL));
            let numbers: Vec<u64> = (layout.journal_start..end).collect();
            let read = blocks.read_many(&numbers).into_iter();
            read.map(|block| block.ok().map(|block| crc32c::crc32c(&block.0)))
                .collect()
        });
        Self {
            superblock,
            journal,
        }
    }

    /// An error if somebody has written since.
    pub(crate) fn is_still(&self, blocks: &dyn Blocks) -> io::Result<()> {
        let now = Self::of(blocks);
        let bytes = |seen: &Self| seen.superblock.as_ref().map(|block| block.0);
        if bytes(self) != bytes(&now) || self.journal != now.journal {
            let what = "the store is in use: it has changed since it was looked at";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, what));
        }
        Ok(())
    }
}
