// SPDX-License-Identifier: GPL-2.0

//! What activation reads after an unclean stop.

use anyhow::{ensure, Result};

use super::{clean, shapes};
use crate::checked;
use crate::counts::Counts;
use crate::disks::{Disks, MIB};
use crate::store::Store;
use crate::world::World;

/// Sectors that are written one by one when the store is full, so that there is that much in the
/// journal: a chunk of each.
const JOURNALED: u64 = 48;

/// What it takes to activate an origin as it was left in the midst of its use.
#[derive(Debug)]
struct Activation {
    reads: u64,
    sectors: u64,
    /// In the trees.
    records: u64,
    /// In the journal.
    journaled: u64,
}

/// The same that is done to a store with so many rounds of records in it, and what is on the COW
/// device then.
fn activation_of(disks: &Disks, rounds: u64) -> Result<Activation> {
    let (mut world, co) = World::new(disks, 32 * MIB, 160, 1)?;
    let disk = co.open()?;
    for _ in 0..rounds {
        world.take(&co)?;
        for sector in (0..world.now.sectors()).step_by(2048) {
            world.now.write(&disk, sector, 2048)?;
        }
    }
    drop(disk);
    co.remove()?;
    // All of that is in the trees, and the journal is empty.
    let records = clean(&world)?.records;
    let image = Store::new(disks, world.store.cow.sectors())?;
    let co = world.co()?;
    let disk = co.open()?;
    // The first change writes the trees.
    world.take(&co)?;
    for chunk in 0..JOURNALED {
        world.now.write(&disk, 10_000 + chunk * 8, 1)?;
    }
    shapes::copy(&world.store.cow.path(), &image.cow.path())?;
    drop(disk);
    co.remove()?;
    let report = checked::clean(&image.cow.path())?;
    let closed = report.superblock.is_some_and(|s| s.clean);
    ensure!(!closed, "it says that it was closed in order");
    let before = Counts::of(&image.cow)?;
    let co = image.co(&world.origin)?;
    co.status()?;
    let counts = Counts::of(&image.cow)? - before;
    world.now.check(&co.open_read_only()?)?;
    for (&tag, shadow) in &world.snapshots {
        image.check_snapshot(&world.origin, tag, shadow)?;
    }
    co.remove()?;
    image.cow.wipe()?;
    Ok(Activation {
        reads: counts.reads,
        sectors: counts.read_sectors,
        records,
        journaled: report.statistics.journaled,
    })
}

/// As much of a small store as of a large one, with as much in the journal.
pub fn activation(disks: &Disks) -> Result<()> {
    let small = activation_of(disks, 0)?;
    let large = activation_of(disks, 3)?;
    println!("# activation: {small:?}, {large:?}");
    ensure!(small.records == 0 && large.records > 20_000);
    ensure!(small.journaled >= JOURNALED && small.journaled == large.journaled);
    // A few blocks more for each level that the trees have become deeper by.
    ensure!(small.reads < 100 && large.reads <= small.reads + 16);
    ensure!(large.sectors <= small.sectors + 16 * 8);
    Ok(())
}
