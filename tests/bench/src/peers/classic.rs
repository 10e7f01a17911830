// SPDX-License-Identifier: GPL-2.0

//! dm-snapshot: a COW device for each snapshot.

use anyhow::Result;
use dms_tests::disks::linear;
use dms_tests::dm::{Mapped, Suspend, Table};
use dms_tests::kernel::modprobe;

use super::Stack;
use crate::disks::{Disks, MIB};

/// Where the origin is in the stack.
pub const ORIGIN: usize = 0;
/// Where the first snapshot is.
pub const SNAPSHOT: usize = 2;

/// An origin with so many persistent snapshots, in chunks of 4 KiB.
pub fn set_up(disks: &Disks, snapshots: u32) -> Result<Stack> {
    modprobe("dm_snapshot")?;
    let sectors = disks.origin.sectors();
    let origin = disks.origin.path().display();
    let mut stack = Stack::default();
    let table = Table::new(sectors, "snapshot-origin", origin.to_string());
    stack.push(Mapped::create("origin", &table)?);
    let part = disks.cow.sectors() / u64::from(snapshots.max(1));
    let part = part.min(disks.origin.sectors() * 2) / (MIB / 512) * (MIB / 512);
    for i in 0..u64::from(snapshots) {
        let cow = Mapped::create("cow", &linear(disks.cow.path(), i * part, part))?;
        dms_tests::io::Disk::open(cow.path())?.zero_out(0, 256)?;
        let arguments = format!("{origin} {} P 8", cow.path().display());
        stack.push(cow);
        let table = Table::new(sectors, "snapshot", arguments);
        stack.push(Mapped::create("snapshot", &table)?);
    }
    // Only now does the origin cut what it is sent at chunks of its snapshots. Without it a
    // request is copied for its first chunk only.
    let top = stack.get(ORIGIN)?;
    top.suspend(Suspend::Orderly)?;
    top.resume()?;
    Ok(stack)
}
