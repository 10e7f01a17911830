// SPDX-License-Identifier: GPL-2.0

//! The COW device is full: nothing is ever wrong data.

mod data;
mod metadata;
mod policy;
mod reclaim;
mod waiting;

use anyhow::{ensure, Result};

use crate::content::next_generation;
use crate::disks::{Disks, MIB};
use crate::io::Disk;
use crate::report::Subject;
use crate::shadow::write_generation;
use crate::store::Device;
use crate::world::World;

/// Runs the cases.
pub fn run(subject: &mut Subject, disks: &Disks) {
    data::run(subject, disks);
    policy::run(subject, disks);
    reclaim::run(subject, disks);
    waiting::run(subject, disks);
    metadata::run(subject, disks);
}

/// What takes long because it waits.
pub fn minute(subject: &mut Subject, disks: &Disks) {
    waiting::minute(subject, disks);
}

/// An origin larger than its store's room for data.
fn small_store(disks: &Disks, policy: &str) -> Result<(World, Device)> {
    let (world, co) = World::new(disks, 16 * MIB, 12, 1)?;
    if policy.is_empty() {
        return Ok((world, co));
    }
    co.remove()?;
    let co = world
        .store
        .co_with(&world.origin, &format!("-e {policy}"))?;
    ensure!(
        co.table()?.ends_with(&format!("-e {policy}")),
        "{}",
        co.table()?
    );
    Ok((world, co))
}

fn reads_as_error(world: &World, tag: u32) -> Result<()> {
    let device = match world.store.cs(&world.origin, tag) {
        Ok(device) => device,
        // That no device of it can be made is as good.
        Err(_) => return Ok(()),
    };
    ensure!(device.state()?.state == "invalid", "{}", device.status()?);
    let disk = device.open()?;
    let sectors = world.now.sectors();
    for sector in [0, sectors / 16 * 8, sectors / 8 * 8 - 8] {
        let errno = disk.read(sector, 8).err().and_then(|e| e.raw_os_error());
        ensure!(errno == Some(libc::EIO), "a read of it: {errno:?}");
        ensure!(
            disk.zero_out(sector, 8).is_err(),
            "a write of it is accepted"
        );
    }
    drop(disk);
    device.remove()
}

/// The error number of what was refused.
fn errno<T>(result: &Result<T>) -> Option<i32> {
    let error = result.as_ref().err()?;
    error.downcast_ref::<std::io::Error>()?.raw_os_error()
}

/// Writes until it fails; the failed write's sectors may hold the old or the new.
fn fill_up(world: &mut World, disk: &Disk) -> Result<()> {
    for part in 0..16 * MIB / 256 {
        let (at, generation) = (part * 256, next_generation());
        let written = write_generation(disk, at, 256, generation);
        if written.is_err() {
            let errno = errno(&written);
            ensure!(
                errno == Some(libc::ENOSPC),
                "the write failed with {errno:?}"
            );
            let then = world.now.clone();
            return world.now.learn(disk, |sector, found| {
                found == then.generation(sector) || found == generation
            });
        }
        world.now.set(at, 256, generation);
    }
    anyhow::bail!("it never became full")
}
