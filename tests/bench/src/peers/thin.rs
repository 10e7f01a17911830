// SPDX-License-Identifier: GPL-2.0

//! dm-thin: a pool, a volume in it, snapshots of that.

use anyhow::Result;
use dms_tests::dm::{Mapped, Suspend, Table};
use dms_tests::kernel::modprobe;

use super::Stack;
use crate::disks::Disks;
use crate::fio;

/// Where the pool is in the stack.
pub const POOL: usize = 0;
/// Where the volume is.
pub const VOLUME: usize = 1;

/// A block in sectors: the smallest that there is.
const BLOCK: u32 = 128;

/// A volume that is written as far as it will be worked on.
pub fn set_up(disks: &Disks) -> Result<Stack> {
    modprobe("dm_thin_pool")?;
    disks.metadata.wipe()?;
    let mut stack = Stack::default();
    let arguments = format!(
        "{} {} {BLOCK} 0",
        disks.metadata.path().display(),
        disks.cow.path().display()
    );
    let table = Table::new(disks.cow.sectors(), "thin-pool", arguments);
    let pool = stack.push(Mapped::create("pool", &table)?);
    pool.message("create_thin 0")?;
    let arguments = format!("{} 0", pool.path().display());
    let table = Table::new(disks.origin.sectors(), "thin", arguments);
    let volume = stack.push(Mapped::create("thin", &table)?);
    fio::long(&volume.path(), "write").run()?;
    Ok(stack)
}

/// Takes a snapshot of the volume under a number that is not 0 and not in use.
pub fn take(stack: &Stack, number: u32) -> Result<()> {
    let (pool, volume) = (stack.get(POOL)?, stack.get(VOLUME)?);
    volume.suspend(Suspend::Orderly)?;
    let taken = pool.message(&format!("create_snap {number} 0"));
    volume.resume()?;
    taken?;
    Ok(())
}

/// Deletes one.
pub fn delete(stack: &Stack, number: u32) -> Result<()> {
    stack.get(POOL)?.message(&format!("delete {number}"))?;
    Ok(())
}
