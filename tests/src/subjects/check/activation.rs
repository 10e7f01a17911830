// SPDX-License-Identifier: GPL-2.0

//! What activation reads after an unclean stop.

use anyhow::{ensure, Result};

use super::clean;
use crate::counts::Counts;
use crate::damage::Patient;
use crate::disks::{Disks, MIB};
use crate::world::World;

/// How many reads of the COW device it takes to activate an origin after an unclean stop, and
/// how many records there are.
fn activation_of(disks: &Disks, rounds: u64) -> Result<(u64, u64)> {
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
    let path = world.store.cow.path();
    Patient::open(&path)?.set_superblock(|superblock| superblock.clean = false)?;
    let records = clean(&world)?.records;
    let before = Counts::of(&world.store.cow)?;
    let co = world.co()?;
    co.status()?;
    let count = (Counts::of(&world.store.cow)? - before).reads;
    co.remove()?;
    Ok((count, records))
}

/// As much of a small store as of a large one.
pub fn activation(disks: &Disks) -> Result<()> {
    let (few, small) = activation_of(disks, 0)?;
    let (many, large) = activation_of(disks, 3)?;
    println!("# activation: {few} reads with {small} records, {many} reads with {large}");
    ensure!(small == 0 && large > 20_000, "{small} and {large} records");
    // One more for each level that the trees have become deeper by.
    ensure!(few < 40 && many <= few + 8, "{few} reads, and {many}");
    Ok(())
}
