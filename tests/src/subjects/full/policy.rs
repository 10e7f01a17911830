// SPDX-License-Identifier: GPL-2.0

//! Whose policy counts: there is one for the store, and all its devices show it.

use anyhow::{ensure, Result};

use super::{fill_up, small_store};
use crate::disks::{Disks, MIB};
use crate::dm::{Mapped, Suspend, Table};
use crate::report::Subject;
use crate::store::{cs_line, Device, TARGET};

/// Runs the cases.
pub fn run(subject: &mut Subject, disks: &Disks) {
    subject.case("the policy is that of the line that came last", || {
        last_line(disks)
    });
}

fn shown(device: &Device) -> Result<()> {
    let table = device.table()?;
    ensure!(table.ends_with(" -e error"), "{table}");
    Ok(())
}

/// The origin's own line says something else. It did so before, and a device that is resumed does not
/// say it again.
fn last_line(disks: &Disks) -> Result<()> {
    let (mut world, co) = small_store(disks, "")?;
    co.remove()?;
    let co = world.store.co_with(&world.origin, "-e invalidate")?;
    let tag = world.take(&co)?;
    let (origin, cow) = (world.origin.piece.path(), world.store.cow.path());
    let options = format!("-i {} -e error", world.origin.id);
    let line = cs_line(&origin, &cow, tag, &options);
    let cs = Device(Mapped::create("cs", &Table::new(16 * MIB, TARGET, line))?);
    shown(&cs)?;
    shown(&co)?;
    co.suspend(Suspend::Orderly)?;
    co.resume()?;
    shown(&co)?;
    cs.remove()?;
    shown(&co)?;
    fill_up(&mut world, &co.open()?)?;
    ensure!(co.state()?.state == "full", "{}", co.status()?);
    world.check(&co)?;
    co.remove()
}
