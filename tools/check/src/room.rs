// SPDX-License-Identifier: GPL-2.0
//! Where a repair finds room.

use crate::build::Place;
use crate::reached::Part;
use crate::repair::{Plan, Step};
use dm_snap_mv_store::{Block, WritableBlocks};
use std::collections::BTreeSet;
use std::io;

/// The metadata blocks that nothing uses.
pub(crate) struct Room<'r> {
    plan: &'r Plan,
    device: &'r dyn WritableBlocks,
    /// What was taken.
    taken: BTreeSet<u64>,
    /// What was used and is not any more, of trees that are kept in part.
    dropped: BTreeSet<u64>,
    next: u64,
}

impl<'r> Room<'r> {
    pub(crate) fn new(plan: &'r Plan, device: &'r dyn WritableBlocks) -> Self {
        Self {
            plan,
            device,
            taken: BTreeSet::new(),
            dropped: BTreeSet::new(),
            next: 0,
        }
    }

    /// Notes that something else takes the place of a block.
    pub(crate) fn give_up(&mut self, nr: u64) {
        self.dropped.insert(nr);
    }

    /// Whether a block belongs to something that is replaced.
    fn is_replaced(&self, nr: u64) -> bool {
        [
            (Step::Journal, Part::Origins),
            (Step::Journal, Part::Snapshots),
            (Step::Journal, Part::Cleanings),
            (Step::Counts, Part::Origins),
            (Step::Counts, Part::Snapshots),
            (Step::Identities, Part::Identities),
            (Step::Cleaning, Part::Cleanings),
            (Step::DataSpace, Part::DataSpace),
            (Step::MetadataSpace, Part::MetadataSpace),
        ]
        .into_iter()
        .any(|(step, part)| self.plan.has(step) && self.plan.reached.is_of(nr, part))
            || self.dropped.contains(&nr)
    }
}

impl Place for Room<'_> {
    fn take(&mut self) -> io::Result<u64> {
        let end = self.plan.superblock.layout.metadata_blocks;
        // One that cannot be read may be so again when it has been written.
        let free = (self.next..end)
            .find(|&nr| self.plan.reached.count(nr) == 0 && self.device.read(nr).is_ok());
        let nr = free.ok_or_else(|| {
            let what = "not enough metadata blocks are free for the repair";
            io::Error::new(io::ErrorKind::StorageFull, what)
        })?;
        self.next = nr + 1;
        self.taken.insert(nr);
        Ok(nr)
    }

    fn is_used(&self, nr: u64) -> bool {
        nr >= self.plan.superblock.layout.metadata_blocks
            || self.taken.contains(&nr)
            || (self.plan.reached.count(nr) > 0 && !self.is_replaced(nr))
    }

    fn write(&mut self, nr: u64, block: &Block) -> io::Result<()> {
        self.device.write(nr, block)
    }
}
