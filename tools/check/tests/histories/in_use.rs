// SPDX-License-Identifier: GPL-2.0

//! A store that somebody has in use, and nobody can see how: what he changes while it is looked at, or
//! repaired, is noticed, and left as he made it.

use std::cell::Cell;
use std::io;

use dm_snap_mv_check::{check, plan, Options, Outcome};
use dm_snap_mv_model::disk::journal::Entry;
use dm_snap_mv_store::{Block, Blocks, WritableBlocks};

use crate::damage::lying;
use crate::image::{Image, Logged, SECTORS};
use crate::rich::rich;

/// A device that somebody else changes when it has been read and written so often.
struct Moving {
    device: Logged,
    done: Cell<u64>,
    after: u64,
    to: Image,
    /// When the superblock was read last.
    looked: Cell<u64>,
    /// When a metadata block was written last, the superblock and its backup not among them.
    wrote: Cell<u64>,
    /// When what is to be done was known.
    planned: Cell<u64>,
}

impl Moving {
    fn new(image: &Image, after: u64, to: &Image) -> Self {
        Self {
            device: Logged::new(image),
            done: Cell::new(0),
            after,
            to: to.clone(),
            looked: Cell::new(0),
            wrote: Cell::new(0),
            planned: Cell::new(0),
        }
    }

    fn step(&self) {
        if self.done.get() == self.after {
            self.device.put(&self.to);
        }
        self.done.set(self.done.get() + 1);
    }
}

impl Blocks for Moving {
    fn read(&self, nr: u64) -> io::Result<Box<Block>> {
        if nr == 0 {
            self.looked.set(self.done.get());
        }
        self.step();
        self.device.read(nr)
    }
}

impl WritableBlocks for Moving {
    fn write(&self, nr: u64, block: &Block) -> io::Result<()> {
        if (1..1024).contains(&nr) {
            self.wrote.set(self.done.get());
        }
        self.step();
        self.device.write(nr, block)
    }

    fn flush(&self) -> io::Result<()> {
        self.device.flush()
    }
}

/// A store that needs a repair, and what comes of it by the next commit, and by the next batch.
fn stores() -> (Image, [Image; 2]) {
    let store = rich();
    let mut image = lying(&store, &[(900, true)], &[]);
    let mut superblock = image.superblock();
    superblock.clean = false;
    image.put_superblock(&superblock);
    let mut committed = image.clone();
    let mut superblock = committed.superblock();
    superblock.transaction += 1;
    committed.put_superblock(&superblock);
    let mut journaled = image.clone();
    let row = store.origins.iter().next().unwrap().1;
    journaled.journal(0, &[Entry::Origin(*row)]);
    (image, [committed, journaled])
}

fn is_same(a: &Image, b: &Image) -> bool {
    let same = |(a, b): ((&u64, &Block), (&u64, &Block))| a.0 == b.0 && a.1 .0 == b.1 .0;
    a.blocks.len() == b.blocks.len() && a.blocks.iter().zip(&b.blocks).all(same)
}

#[test]
fn what_changes_while_it_is_looked_at_is_in_use() {
    let (image, changed) = stores();
    let look = |device: &Moving| check(device, SECTORS, Options::default(), &mut Vec::new());
    let still = Moving::new(&image, u64::MAX, &image);
    assert_eq!(look(&still).outcome, Outcome::Checked);
    assert!(still.looked.get() > 150, "it is not looked at once more");
    for to in &changed {
        // The superblock and the journal are read first and last.
        for after in 64..still.looked.get() {
            let report = look(&Moving::new(&image, after, to));
            assert_eq!(report.outcome, Outcome::InUse, "after {after} reads");
            assert!(!report.is_clean() && !report.is_repairable());
        }
    }
}

#[test]
fn what_changes_while_it_is_repaired_is_left() {
    let (image, changed) = stores();
    let repair = |device: &Moving| {
        let (_, plan) = plan(device, SECTORS, &mut Vec::new());
        device.planned.set(device.done.get());
        plan.map(|plan| plan.carry_out(device))
    };
    let still = Moving::new(&image, u64::MAX, &image);
    repair(&still).unwrap().unwrap();
    let wrote = still.wrote.get();
    assert!(wrote > 0 && still.looked.get() > wrote);
    for to in &changed {
        for after in 64..still.looked.get() {
            let device = Moving::new(&image, after, to);
            let done = repair(&device).is_some_and(|done| done.is_ok());
            assert!(
                !done,
                "repaired, and changed after {after} reads and writes"
            );
            let is_before = after <= device.planned.get();
            let left = device.device.image();
            assert_eq!(left.blocks[&0].0, to.blocks[&0].0);
            if is_before {
                // What was free when it was looked at may not be free any more.
                assert!(is_same(&left, to), "something was written, {after}");
            }
        }
    }
}
