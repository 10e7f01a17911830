// SPDX-License-Identifier: GPL-2.0

//! The last chunk of an origin that has it in part only, and what is below has more than that.

use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};

use super::bench::{filled, write_aside, Released};
use crate::disks::linear;
use crate::dm::{Mapped, Suspend, Table};
use crate::io::Disk;
use crate::puppet::{Op, Puppet};
use crate::shadow::Shadow;
use crate::store::{co_line, cs_line, until, Device, TARGET};

/// Sectors of a chunk, and what says so.
const CHUNK: u64 = 128;
const PAGES: u32 = 16;

/// Sectors of the origin at first, and when it has grown.
const SIZE: u64 = 10 * CHUNK + 8;
const GROWN: u64 = 12 * CHUNK;

/// The last block of the origin at first.
const LAST: u64 = SIZE - 8;

/// A disk, the first part of which is an origin, and a COW device that was something else before: both
/// are full of data.
struct Ends {
    disk: Arc<Puppet>,
    /// What the disk holds.
    now: Shadow,
    below: Mapped,
    cow: Arc<Puppet>,
}

impl Ends {
    fn new() -> Result<Self> {
        let (disk, now) = filled(1)?;
        let (cow, _) = filled(6)?;
        let below = Mapped::create("below", &linear(&disk.path(), 0, SIZE))?;
        Ok(Self {
            disk,
            now,
            below,
            cow,
        })
    }

    fn table(&self, size: u64, options: &str) -> Table {
        let options = format!("-i o -e error {options}");
        let line = co_line(&self.below.path(), &self.cow.path(), &options);
        Table::new(size, TARGET, line)
    }

    fn format(&self) -> Result<Device> {
        let table = self.table(SIZE, &format!("-b -F -c {PAGES}"));
        Ok(Device(Mapped::create("co", &table)?))
    }

    fn cs(&self, tag: u32, size: u64) -> Result<Device> {
        let line = cs_line(&self.below.path(), &self.cow.path(), tag, "-i o");
        Ok(Device(Mapped::create(
            "cs",
            &Table::new(size, TARGET, line),
        )?))
    }

    fn grow_below(&self) -> Result<()> {
        let table = linear(&self.disk.path(), 0, GROWN);
        Ok(self.below.replace(Suspend::Orderly, &table)?)
    }

    fn released(&self) -> Released {
        Released(vec![self.disk.clone(), self.cow.clone()])
    }

    /// Compares the disk.
    fn check(&self, expected: &Shadow) -> Result<()> {
        expected.check(&Disk::open(self.disk.path())?)
    }

    fn clean(self) -> Result<()> {
        crate::checked::clean(&self.cow.path()).map(drop)
    }
}

/// What is below grows, and the origin is rolled back before that is taken into use: nothing is written
/// behind its end.
pub fn grown_below() -> Result<()> {
    let mut ends = Ends::new()?;
    let co = ends.format()?;
    let then = ends.now.clone();
    let tag = co.take()?;
    ends.now.write(&co.open()?, LAST, 8)?;
    ends.grow_below()?;
    co.rollback(tag)?;
    ends.check(&then)?;
    co.remove()?;
    ends.clean()
}

/// The origin grows while it is rolled back. What it has gained is its own from the first instant.
pub fn grown_meanwhile() -> Result<()> {
    let mut ends = Ends::new()?;
    let co = ends.format()?;
    let then = ends.now.clone();
    let tag = co.take()?;
    // Two that are not copied as one.
    for sector in [0, LAST] {
        ends.now.write(&co.open()?, sector, 8)?;
    }
    let released = ends.released();
    ends.cow.hold_some(&[Op::Read], 1);
    co.send(&format!("rs {tag} -b"))?;
    ends.cow.wait_held(1)?;
    ends.grow_below()?;
    // A suspension waits for the copy that is under way, and begins no other.
    thread::scope(|scope| -> Result<()> {
        let replaced = scope.spawn(|| co.replace(Suspend::Orderly, &ends.table(GROWN, "")));
        until("it to be suspended", || Ok(co.is_suspended()?))?;
        ends.cow.hold_next(&[Op::Read]);
        replaced.join().expect("no panic")?;
        Ok(())
    })?;
    ends.cow.wait_held(1)?;
    let disk = co.open_read_only()?;
    for (sector, count) in [(LAST, 8), (SIZE, 8), (LAST, 16), (0, GROWN)] {
        then.check_range(&disk, sector, count)
            .with_context(|| format!("{count} sectors from {sector} on"))?;
    }
    drop(disk);
    // Its last chunk would be in two places.
    co.refused("so", libc::EBUSY, "not while a rollback")?;
    ends.cow.release();
    co.wait_rollback()?;
    ends.check(&then)?;
    let later = co.take()?;
    ends.now = then.clone();
    ends.now.write(&co.open()?, LAST, 16)?;
    let cs = ends.cs(later, GROWN)?;
    then.check_range(&cs.open_read_only()?, 0, GROWN)
        .context("a snapshot of all of it")?;
    cs.remove()?;
    drop(released);
    ends.check(&ends.now)?;
    co.remove()?;
    ends.clean()
}

/// The last chunk is being preserved when the origin grows, and a snapshot is taken of all of it.
pub fn grown_under_a_copy() -> Result<()> {
    let mut ends = Ends::new()?;
    let co = ends.format()?;
    co.take()?;
    let then = ends.now.clone();
    let released = ends.released();
    ends.cow.hold_data(10 * CHUNK);
    let slow = write_aside(&co, LAST, 8)?;
    ends.cow.wait_held(1)?;
    ends.grow_below()?;
    // It may be taken into use by this, or when the table becomes the active one.
    co.load(&ends.table(GROWN, ""))?;
    let later = co.take()?;
    let size = co.list()?.row(later).context("the snapshot")?.sectors;
    ends.cow.release();
    slow.end(&mut ends.now)?;
    co.suspend(Suspend::Orderly)?;
    co.resume()?;
    ends.now.write(&co.open()?, SIZE, 8)?;
    let cs = ends.cs(later, size)?;
    then.check_range(&cs.open_read_only()?, 0, size)
        .context("the snapshot")?;
    cs.remove()?;
    drop(released);
    ends.check(&ends.now)?;
    co.remove()?;
    ends.clean()
}
