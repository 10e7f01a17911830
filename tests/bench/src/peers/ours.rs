// SPDX-License-Identifier: GPL-2.0

//! This target.

use std::time::Duration;

use anyhow::{ensure, Context, Result};
use dms_tests::dm::{Mapped, Table};
use dms_tests::store::{co_line, cs_line, Status, TARGET};

use super::Stack;
use crate::disks::Disk;

/// Where the origin is in the stack.
pub const ORIGIN: usize = 0;
/// Where the first snapshot is.
pub const SNAPSHOT: usize = 1;

const PATIENCE: Duration = Duration::from_secs(120);

/// A new store with chunks of so many pages, and so many snapshots. Their tags are 1, 2 and on.
pub fn set_up(origin: &Disk, cow: &Disk, pages: u32, snapshots: u32) -> Result<Stack> {
    let mut stack = Stack::default();
    let options = format!("-b -F -c {pages}");
    let device = Mapped::create("co", &origin_table(origin, cow, &options))?;
    stack.push(device);
    for _ in 0..snapshots {
        take(&stack)?;
    }
    Ok(stack)
}

/// The line of the origin's device.
pub fn origin_table(origin: &Disk, cow: &Disk, options: &str) -> Table {
    let line = co_line(origin.path(), cow.path(), options);
    Table::new(origin.sectors(), TARGET, line)
}

/// Takes a snapshot of the origin. Returns its tag.
pub fn take(stack: &Stack) -> Result<u32> {
    let reply = stack.get(ORIGIN)?.message("so")?;
    reply.trim().parse().with_context(|| reply)
}

/// Has a snapshot as a device.
pub fn open_snapshot(stack: &mut Stack, origin: &Disk, cow: &Disk, tag: u32) -> Result<()> {
    let line = cs_line(origin.path(), cow.path(), tag, "");
    let table = Table::new(origin.sectors(), TARGET, line);
    stack.push(Mapped::create("cs", &table)?);
    Ok(())
}

/// What the origin's device says of itself.
pub fn status(stack: &Stack) -> Result<Status> {
    Status::parse(&stack.get(ORIGIN)?.status()?)
}

/// Waits for something of the status. Returns how long it took.
pub fn wait(stack: &Stack, until: impl Fn(&Status) -> bool) -> Result<Duration> {
    let begin = std::time::Instant::now();
    while !until(&status(stack)?) {
        ensure!(begin.elapsed() < PATIENCE, "waited too long");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(begin.elapsed())
}
