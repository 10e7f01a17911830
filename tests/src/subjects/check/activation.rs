// SPDX-License-Identifier: GPL-2.0

//! What activation reads after an unclean stop.

use anyhow::{ensure, Context, Result};

use super::clean;
use crate::damage::Patient;
use crate::disks::{Disks, Piece, MIB};
use crate::world::World;

/// Read requests that a device has seen so far.
fn reads(piece: &Piece) -> Result<u64> {
    let stat = format!("/sys/block/{}/stat", piece.mapped().kernel_name());
    let text = std::fs::read_to_string(&stat).context(stat)?;
    let first = text.split_whitespace().next().context("a number")?;
    Ok(first.parse()?)
}

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
    let before = reads(&world.store.cow)?;
    let co = world.co()?;
    co.status()?;
    let count = reads(&world.store.cow)? - before;
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
