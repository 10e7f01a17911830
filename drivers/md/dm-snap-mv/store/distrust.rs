// SPDX-License-Identifier: GPL-2.0

//! Marking a store whose metadata contradict themselves.
//!
//! A store that has failed for that reason must not be changed before somebody has looked at it:
//! what the space maps call free may be in use. So it is said in the superblock, durably, and the
//! store is not opened again until a repair has found it in order.

use super::error::Result;
use super::metadata::Meta;
use crate::dm::io::{DmIo, Durability};
use crate::dm::noio::NoIo;
use crate::dm::pdata::checksum;
use crate::model::disk::superblock::{Superblock, BLOCK_SIZE};
use kernel::prelude::*;

impl Meta {
    /// Marks the last commit as needing a check. The transaction must have been abandoned, so that
    /// nothing else writes the superblock any more. Sleeps.
    ///
    /// # Errors
    ///
    /// Those of reading and writing block 0, and what is wrong with what stands there. Then the
    /// mark is not there, and the next to open the store finds out anew.
    #[inline(never)]
    pub(super) fn mark_needs_check(&self) -> Result<()> {
        let _no_io = NoIo::enter();
        let io = DmIo::new()?;
        let device = self.txn.device();
        let mut block = KBox::new([0u8; BLOCK_SIZE], GFP_KERNEL)?;
        io.read(device, 0, &mut *block)?;
        // What is not a superblock must not be made to look like one.
        Superblock::decode(&block, checksum)?;
        Superblock::mark_needs_check(&mut block, checksum);
        io.write(device, 0, &*block, Durability::FlushFua)?;
        Ok(())
    }
}
