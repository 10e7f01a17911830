// SPDX-License-Identifier: GPL-2.0

//! A store that somebody has in use, and nobody can see how: what he changes while it is looked at, or
//! repaired, is noticed, and left as he made it.

use std::cell::Cell;
use std::io;

use dm_snap_mv_check::{check, plan, Options, Outcome};
use dm_snap_mv_model::disk::journal::Entry;
use dm_snap_mv_store::{Block, Blocks, WritableBlocks};

use crate::damage::with_superblock;
use crate::image::{Image, Logged, SECTORS};
use crate::rich::rich;

/// A device that somebody else changes after so many reads.
struct Moving {
    device: Logged,
    left: Cell<u64>,
    to: Image,
}

impl Moving {
    fn new(image: &Image, reads: u64, to: &Image) -> Self {
        Self {
            device: Logged::new(image),
            left: Cell::new(reads),
            to: to.clone(),
        }
    }

    /// How often it has been read, if it was not changed.
    fn reads(&self) -> u64 {
        u64::MAX - self.left.get()
    }
}

impl Blocks for Moving {
    fn read(&self, nr: u64) -> io::Result<Box<Block>> {
        if self.left.get() == 0 {
            self.device.put(&self.to);
        }
        self.left.set(self.left.get().wrapping_sub(1));
        self.device.read(nr)
    }
}

impl WritableBlocks for Moving {
    fn write(&self, nr: u64, block: &Block) -> io::Result<()> {
        self.device.write(nr, block)
    }

    fn flush(&self) -> io::Result<()> {
        self.device.flush()
    }
}

/// A store that needs a repair, and what comes of it by the next commit, and by the next batch.
fn stores() -> (Image, [Image; 2]) {
    let store = rich();
    let image = with_superblock(&store, |s| (s.clean, s.needs_check) = (false, true));
    let mut committed = image.clone();
    let mut superblock = committed.superblock();
    superblock.transaction += 1;
    committed.put_superblock(&superblock);
    let mut journaled = image.clone();
    let row = store.origins.iter().next().unwrap().1;
    journaled.journal(0, &[Entry::Origin(*row)]);
    (image, [committed, journaled])
}

#[test]
fn what_changes_while_it_is_looked_at_is_in_use() {
    let (image, changed) = stores();
    let look = |device: &Moving| check(device, SECTORS, Options::default(), &mut Vec::new());
    let still = Moving::new(&image, u64::MAX, &image);
    assert_eq!(look(&still).outcome, Outcome::Checked);
    let reads = still.reads();
    for to in &changed {
        // The superblock and the journal are read first and last.
        for after in 64..reads - 64 {
            let report = look(&Moving::new(&image, after, to));
            assert_eq!(
                report.outcome,
                Outcome::InUse,
                "after {after} of {reads} reads"
            );
            assert!(!report.is_clean() && !report.is_repairable());
        }
    }
}

#[test]
fn what_changes_while_it_is_repaired_is_left() {
    let (image, changed) = stores();
    let repair = |device: &Moving| {
        let (_, plan) = plan(device, SECTORS, &mut Vec::new());
        plan.map(|plan| plan.carry_out(device))
    };
    let still = Moving::new(&image, u64::MAX, &image);
    repair(&still).unwrap().unwrap();
    let reads = still.reads();
    for to in &changed {
        for after in 64..reads - 64 {
            let device = Moving::new(&image, after, to);
            let done = repair(&device).is_some_and(|done| done.is_ok());
            assert!(!done, "repaired, changed after {after} of {reads} reads");
            let left = device.device.image();
            assert_eq!(left.blocks[&0].0, to.blocks[&0].0);
        }
    }
}
