// SPDX-License-Identifier: GPL-2.0

//! Stores in every state that there is, as the module made them.

use std::path::Path;

use anyhow::{ensure, Result};

use super::clean;
use crate::checked::{self, examine};
use crate::disks::{Disks, MIB};
use crate::effort::usual_or_long;
use crate::io::Disk;
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
            || nested(disks, pages).map(drop),
        );
    }
    subject.case("half cleaned", || cleaning(disks));
    subject.case("half rolled back", || rolling(disks));
    subject.case("full, with invalid snapshots", || full(disks));
    subject.case("grown", || grown(disks));
    subject.case("at any moment of its use", || moments(disks));
}

fn empty(disks: &Disks) -> Result<()> {
    let (world, co) = World::new(disks, 4 * MIB, 16, 1)?;
    co.remove()?;
    let statistics = clean(&world)?;
    ensure!(statistics.origins == 1 && statistics.chunks == 0);
    Ok(())
}

fn in_use(disks: &Disks) -> Result<()> {
    let (world, co) = World::new(disks, 4 * MIB, 16, 1)?;
    ensure!(examine(&world.store.cow.path()).is_err(), "it was opened");
    co.remove()
}

/// A store with snapshots of snapshots, some deleted, all written to.
fn nested(disks: &Disks, pages: u32) -> Result<World> {
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
    let statistics = clean(&world)?;
    ensure!(statistics.snapshots == 9, "{statistics:?}");
    let co = world.co()?;
    co.wait_clean()?;
    co.remove()?;
    let statistics = clean(&world)?;
    ensure!(statistics.garbage == 0, "{statistics:?}");
    let other = Origin::new(disks, "other", 2 * MIB)?;
    world.store.bind(&other)?.remove()?;
    ensure!(clean(&world)?.origins == 2);
    Ok(world)
}

/// Writes the first sector of each chunk of 4 KiB.
fn touch_all(world: &mut World, disk: &Disk) -> Result<()> {
    for sector in (0..world.now.sectors()).step_by(8) {
        world.now.write(disk, sector, 1)?;
    }
    Ok(())
}

fn cleaning(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, usual_or_long(4, 16) * MIB, 64, 1)?;
    let disk = co.open()?;
    let first = world.take(&co)?;
    touch_all(&mut world, &disk)?;
    let second = world.take(&co)?;
    touch_all(&mut world, &disk)?;
    drop(disk);
    for tag in [first, second] {
        world.delete(&co, tag)?;
    }
    let mut device = Some(co);
    let mut garbage = Vec::new();
    // Each time it is removed before it is through.
    while let Some(co) = device.take() {
        co.remove()?;
        let statistics = clean(&world)?;
        garbage.push(statistics.garbage);
        if statistics.cleaning > 0 && garbage.len() < 50 {
            device = Some(world.co()?);
        }
    }
    ensure!(
        garbage[0] > 0 && garbage.is_sorted_by(|a, b| a >= b),
        "garbage {garbage:?}"
    );
    let co = world.co()?;
    co.wait_clean()?;
    co.wait_chunks(0)?;
    co.remove()?;
    clean(&world).map(drop)
}

fn rolling(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 16 * MIB, 64, 1)?;
    let tag = world.take(&co)?;
    touch_all(&mut world, &co.open()?)?;
    let later = world.take(&co)?;
    world.store.cow.slow_reads(150)?;
    co.send(&format!("rs {tag} -b"))?;
    world.now = world.snapshots[&tag].clone();
    let disk = co.open()?;
    let end = world.now.sectors();
    for i in 1..4 {
        world.now.write(&disk, end - i * 64, 3)?;
    }
    drop(disk);
    co.remove()?;
    world.store.cow.slow_reads(0)?;
    let statistics = clean(&world)?;
    ensure!(statistics.rollbacks == 1, "{statistics:?}");
    // The source can be deleted meanwhile.
    let co = world.co()?;
    world.delete(&co, tag)?;
    co.remove()?;
    clean(&world)?;
    let co = world.co()?;
    co.wait_rollback()?;
    co.wait_clean()?;
    world.check(&co)?;
    co.remove()?;
    let statistics = clean(&world)?;
    ensure!(statistics.rollbacks == 0 && later > tag, "{statistics:?}");
    Ok(())
}

fn full(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 32 * MIB, 16, 1)?;
    world.take(&co)?;
    let disk = co.open()?;
    touch_all(&mut world, &disk)?;
    drop(disk);
    co.remove()?;
    let report = checked::clean(&world.store.cow.path())?;
    let chunks = report.superblock.map_or(0, |s| s.layout.data_chunks);
    let used = report.statistics.chunks;
    ensure!(used + 64 >= chunks, "{used} of {chunks} chunks are in use");
    Ok(())
}

fn grown(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 96, 1)?;
    co.remove()?;
    // It was made for the whole piece, and is made anew for a part of it.
    world.store.cow.wipe()?;
    world.store.cow.show(20 * MIB)?;
    let co = world.store.format(&world.origin, 1)?;
    world.take(&co)?;
    touch_all(&mut world, &co.open()?)?;
    co.remove()?;
    let before = checked::clean(&world.store.cow.path())?;
    world.store.cow.show(96 * MIB)?;
    // As it is, there is only more room behind it.
    checked::clean(&world.store.cow.path())?;
    let co = world.co()?;
    touch_all(&mut world, &co.open()?)?;
    co.remove()?;
    let after = checked::clean(&world.store.cow.path())?;
    let chunks = |report: &dm_snap_mv_check::Report| {
        report
            .superblock
            .as_ref()
            .map_or(0, |s| s.layout.data_chunks)
    };
    ensure!(chunks(&after) > chunks(&before), "it has not grown");
    Ok(())
}

/// Copies all of a device.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (Disk::open_read_only(from)?, Disk::open(to)?);
    for sector in (0..from.sectors()).step_by(2048) {
        let count = (from.sectors() - sector).min(2048);
        to.write(sector, &from.read(sector, count)?)?;
    }
    Ok(())
}

/// What a stop at some moment would leave, which is what stands on the device then.
fn moments(disks: &Disks) -> Result<()> {
    let mut random = Random::new(3);
    let (mut world, co) = World::new(disks, 4 * MIB, 24, 1)?;
    let image = disks.piece(world.store.cow.sectors())?;
    let disk = co.open()?;
    for round in 0..8 {
        let tag = world.take(&co)?;
        random_io(&mut random, &disk, &mut world.now, 12)?;
        if round % 3 == 2 {
            world.delete(&co, tag)?;
        }
        // Nothing is written while it is copied, but perhaps by the cleaner.
        co.wait_clean()?;
        co.send("list")?;
        copy(&world.store.cow.path(), &image.path())?;
        let report = checked::clean(&image.path())?;
        let closed = report.superblock.is_some_and(|s| s.clean);
        ensure!(!closed, "it says that it was closed in order");
    }
    image.wipe()?;
    drop(disk);
    co.remove()?;
    let report = checked::clean(&world.store.cow.path())?;
    ensure!(report.superblock.is_some_and(|s| s.clean));
    Ok(())
}
