// SPDX-License-Identifier: GPL-2.0

//! The checker: stores that the module made are in order.

use anyhow::{ensure, Result};

use crate::checked;
use crate::disks::{Disks, MIB};
use crate::random::Random;
use crate::report::Subject;
use crate::store::Origin;
use crate::world::{random_io, World};

/// Runs the cases.
pub fn run(subject: &mut Subject, disks: &Disks) {
    subject.case("an empty store is in order", || empty(disks));
    subject.case("a store in use is left alone", || in_use(disks));
    for pages in [1, 16] {
        subject.case(
            &format!("nested snapshots, written, chunks of {pages}"),
            || nested(disks, pages),
        );
    }
}

fn empty(disks: &Disks) -> Result<()> {
    let (world, co) = World::new(disks, 4 * MIB, 16, 1)?;
    co.remove()?;
    let report = checked::clean(&world.store.cow.path())?;
    ensure!(report.statistics.origins == 1 && report.statistics.chunks == 0);
    Ok(())
}

fn in_use(disks: &Disks) -> Result<()> {
    let (world, co) = World::new(disks, 4 * MIB, 16, 1)?;
    let refused = checked::examine(&world.store.cow.path()).err();
    ensure!(refused.is_some(), "a store in use was opened");
    co.remove()
}

fn nested(disks: &Disks, pages: u32) -> Result<()> {
    let mut random = Random::new(pages.into());
    let (mut world, co) = World::new(disks, 4 * MIB + 8, 48, pages)?;
    let disk = co.open()?;
    let mut tags = Vec::new();
    for round in 0..12 {
        let tag = match round % 3 {
            2 => world.take_of(&co, tags[round / 2])?,
            _ => world.take(&co)?,
        };
        tags.push(tag);
        random_io(&mut random, &disk, &mut world.now, 8)?;
        let cs = world.cs(tag)?;
        random_io(&mut random, &cs.open()?, world.shadow(tag), 4)?;
        cs.remove()?;
    }
    for tag in [tags[0], tags[5], tags[7]] {
        world.delete(&co, tag)?;
    }
    drop(disk);
    co.remove()?;
    let report = checked::clean(&world.store.cow.path())?;
    ensure!(report.statistics.snapshots == 9, "{:?}", report.statistics);
    let co = world.co()?;
    co.wait_clean()?;
    co.remove()?;
    let report = checked::clean(&world.store.cow.path())?;
    ensure!(report.statistics.garbage == 0, "{:?}", report.statistics);
    let other = Origin::new(disks, "other", 2 * MIB)?;
    world.store.bind(&other)?.remove()?;
    checked::clean(&world.store.cow.path())?;
    Ok(())
}
