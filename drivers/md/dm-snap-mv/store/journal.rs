// SPDX-License-Identifier: GPL-2.0

//! The journal of an open store: changes made durable with one write.
//!
//! A change is made in the trees, in core, and noted here. One write of the notes makes it durable;
//! the trees are written when many changes have come together, and with that the journal is empty
//! again. What it holds after a crash is done once more when the store is opened.

use super::error::{Result, StoreError};
use crate::dm::block_device::BlockDevice;
use crate::dm::io::{DmIo, Durability};
use crate::dm::pdata::{checksum, checksum_with};
use crate::model::disk::journal::{
    self, Batch, Block, Entry, Place, BATCH_BLOCKS, BEHIND_BLOCKS, CHECKSUM_XOR,
};
use crate::model::disk::layout::BLOCK_SECTORS;
use crate::model::disk::superblock::Superblock;
use crate::model::refusal::Refusal;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Notes and the region they are written to. Sleeps in whatever does I/O; used with the engine's
/// mutex held.
pub(super) struct Journal {
    cow: Arc<BlockDevice>,
    io: DmIo,
    blocks: KVBox<[Block; BATCH_BLOCKS]>,
    batch: Batch,
    /// Where the next batch goes.
    place: Place,
    /// Blocks of the region.
    size: u64,
    data_chunks: u64,
    /// Blocks of the region that are used: none from the first on that was found to be unreadable. Whoever
    /// writes such a block may succeed or not, and would find out again and again.
    room: u64,
    /// Which of `blocks` could not be read.
    unreadable: [bool; BATCH_BLOCKS],
}

/// Where the journal ends, as far as anybody has been told that something is durable: which transaction's
/// it is, and how many blocks.
#[derive(Clone, Copy)]
pub(super) struct End {
    transaction: u64,
    index: u64,
}

impl End {
    /// Whether a block may hold what somebody relies on.
    fn is_behind(&self, place: &Place) -> bool {
        (place.transaction, place.index) < (self.transaction, self.index)
    }
}

fn sum(bytes: &[u8]) -> u32 {
    checksum_with(bytes, CHECKSUM_XOR)
}

impl Journal {
    /// The journal of a store, if it has one: empty, or to be read by [`Journal::replay`] first.
    #[inline(never)]
    pub(super) fn new(
        cow: &Arc<BlockDevice>,
        superblock: &Superblock,
    ) -> Result<Option<KBox<Self>>> {
        let layout = &superblock.layout;
        if layout.journal_blocks == 0 {
            return Ok(None);
        }
        let journal = Self {
            cow: cow.clone(),
            io: DmIo::new()?,
            blocks: KVBox::init::<core::convert::Infallible>(pin_init::init_zeroed(), GFP_KERNEL)?,
            batch: Batch::new(),
            place: Place {
                uuid: superblock.uuid,
                transaction: superblock.transaction,
                first_block: layout.journal_start,
                index: 0,
            },
            size: layout.journal_blocks,
            data_chunks: layout.data_chunks,
            room: layout.journal_blocks,
            unreadable: [false; BATCH_BLOCKS],
        };
        Ok(Some(KBox::new(journal, GFP_KERNEL)?))
    }

    /// Where it ends.
    pub(super) fn end(&self) -> End {
        End {
            transaction: self.place.transaction,
            index: self.place.index,
        }
    }

    /// Notes a change; `false` if there is no room for it, so that the trees must be written.
    #[must_use]
    pub(super) fn note(&mut self, entry: &Entry) -> bool {
        self.batch.push(&mut self.blocks[..], entry)
    }

    /// Whether the region has room for what is noted.
    pub(super) fn has_room(&self) -> bool {
        let needed = self.batch.blocks() as u64;
        self.place.index.saturating_add(needed) <= self.room
    }

    /// Whether more than half of what is used of the region is in use.
    pub(super) fn is_half_full(&self) -> bool {
        self.place.index > self.room / 2
    }

    /// Makes what is noted durable, and all data that was written to the COW device before.
    ///
    /// # Errors
    ///
    /// Those of the device. It is not known then whether the notes are durable.
    pub(super) fn write(&mut self) -> kernel::error::Result {
        let count = self.batch.seal(&mut self.blocks[..], &self.place, sum);
        self.batch = Batch::new();
        if count == 0 {
            return self.io.flush(&self.cow);
        }
        let Some(blocks) = self.blocks.get(..count) else {
            return Err(EINVAL);
        };
        let sector = (self.place.first_block + self.place.index) * BLOCK_SECTORS;
        self.io.write(
            &self.cow,
            sector,
            blocks.as_flattened(),
            Durability::FlushFua,
        )?;
        self.place.index += count as u64;
        Ok(())
    }

    /// The trees have been written, in the transaction with this number: nothing of what was noted
    /// is needed any more.
    pub(super) fn restart(&mut self, transaction: u64, data_chunks: u64) {
        self.batch = Batch::new();
        self.place.transaction = transaction;
        self.place.index = 0;
        self.data_chunks = data_chunks;
    }

    /// Writes the backup of a superblock that has just been written, if the store has one. To be called
    /// when nothing is noted. It becomes durable with the next batch.
    ///
    /// # Errors
    ///
    /// Those of the device, which is as good as any other write to it that fails: the superblock is there.
    pub(super) fn back_up(&mut self, superblock: &Superblock) -> kernel::error::Result {
        let (Some(number), Some(block)) = (superblock.backup(), self.blocks.first_mut()) else {
            return Ok(());
        };
        superblock.encode_at(block, number);
        Superblock::seal(block, checksum);
        let sector = number * BLOCK_SECTORS;
        self.io
            .write(&self.cow, sector, &*block, Durability::Volatile)
    }

    /// Whether there is nothing in the region.
    ///
    /// # Errors
    ///
    /// Those of the device.
    pub(super) fn is_empty(&mut self, known: Option<End>) -> Result<bool> {
        let mut any = false;
        let place = self.place;
        let looked = self.replay(known, |_| {
            any = true;
            Ok(())
        });
        self.place = place;
        // What cannot be understood is something too.
        match looked {
            Ok(()) => Ok(!any),
            Err(StoreError::Refused(Refusal::Corrupt)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives all that is in the region to `each`, in its order.
    ///
    /// A block that cannot be read is as good as one that was never written where nothing that counts can
    /// stand in it: where the batch that it would be of is not whole without it, or behind what is `known`
    /// to be all.
    ///
    /// # Errors
    ///
    /// [`Refusal::Corrupt`] for a block that is valid and makes no sense, and for a batch that is not
    /// whole while there is one behind it; [`Refusal::JournalUnreadable`] for a block that cannot be read
    /// and may hold what counts; those of the device when it can be read nowhere, and of `each`.
    pub(super) fn replay(
        &mut self,
        known: Option<End>,
        mut each: impl FnMut(&Entry) -> Result<()>,
    ) -> Result<()> {
        loop {
            let (place, data_chunks) = (self.place, self.data_chunks);
            let blocks = self.read(place.index)?;
            match journal::batches(blocks, &place, sum, data_chunks, &mut each)? {
                0 => {
                    let next = journal::begun(blocks, &place, sum);
                    let counts = known.is_none_or(|end| end.is_behind(&place.plus(next)));
                    if counts && self.unreadable.get(next) == Some(&true) {
                        return Err(Refusal::JournalUnreadable.into());
                    }
                    break;
                }
                count => self.place = place.plus(count),
            }
        }
        for distance in (0..BEHIND_BLOCKS).step_by(BATCH_BLOCKS) {
            let end = self.place.index;
            let place = self.place.plus(distance);
            if journal::is_behind(self.read(place.index)?, &place, end, sum) {
                return Err(Refusal::Corrupt.into());
            }
        }
        Ok(())
    }

    /// Reads blocks of the region from number `index` on: as many as a batch can have, or those that
    /// there are. Those that cannot be read are all zeroes, and noted.
    ///
    /// # Errors
    ///
    /// Those of the device, if none of them can be read.
    fn read(&mut self, index: u64) -> Result<&[Block]> {
        let count = self.size.saturating_sub(index).min(BATCH_BLOCKS as u64);
        let Some(blocks) = self.blocks.get_mut(..count as usize) else {
            return Err(Refusal::Corrupt.into());
        };
        self.unreadable = [false; BATCH_BLOCKS];
        if blocks.is_empty() {
            return Ok(blocks);
        }
        let sector = (self.place.first_block + index) * BLOCK_SECTORS;
        let Err(error) = self.io.read(&self.cow, sector, blocks.as_flattened_mut()) else {
            return Ok(blocks);
        };
        let mut any = false;
        let places = (index..).zip((sector..).step_by(BLOCK_SECTORS as usize));
        let all = blocks.iter_mut().zip(&mut self.unreadable).zip(places);
        for ((block, unreadable), (index, sector)) in all {
            *unreadable = self.io.read(&self.cow, sector, block).is_err();
            if *unreadable {
                block.fill(0);
                self.room = self.room.min(index);
            }
            any |= !*unreadable;
        }
        if !any {
            return Err(error.into());
        }
        Ok(blocks)
    }
}
