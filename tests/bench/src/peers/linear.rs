// SPDX-License-Identifier: GPL-2.0

//! dm-linear: what device-mapper costs by itself.

use anyhow::Result;
use dms_tests::disks::linear;
use dms_tests::dm::Mapped;

use super::Stack;
use crate::disks::Disk;

/// All of a disk.
pub fn set_up(disk: &Disk) -> Result<Stack> {
    let mut stack = Stack::default();
    let table = linear(disk.path(), 0, disk.sectors());
    stack.push(Mapped::create("linear", &table)?);
    Ok(stack)
}
