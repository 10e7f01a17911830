// SPDX-License-Identifier: GPL-2.0

//! What cannot be repaired, and what the module does when it meets corruption itself.

use anyhow::{ensure, Context, Result};
use dm_snap_mv_check::Kind;
use dm_snap_mv_model::ids::{OriginNr, Tag, TimelineId};

use super::{clean, dms_says, metadata, use_it};
use crate::checked::examine;
use crate::damage::Patient;
use crate::disks::{Disks, MIB};
use crate::report::Subject;
use crate::shadow::write;
use crate::world::World;

/// Runs the cases.
pub fn run(subject: &mut Subject, disks: &Disks) {
    subject.case("what is lost is named, and nothing else is touched", || {
        lost(disks)
    });
    subject.case("corruption that the module meets is marked", || {
        marked(disks)
    });
    subject.case("an origin that goes first goes on with it", || {
        goes_on(disks)
    });
}

/// The records of one snapshot are damaged.
fn lost(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 48, 1)?;
    let disk = co.open()?;
    let tags = [world.take(&co)?, world.take(&co)?, world.take(&co)?];
    for tag in tags {
        let cs = world.cs(tag)?;
        world.shadow(tag).write(&cs.open()?, 16, 8)?;
        cs.remove()?;
    }
    world.now.write(&disk, 0, 800)?;
    drop(disk);
    co.remove()?;
    world.store.cow.spoil();
    let path = world.store.cow.path();
    let name = path.display().to_string();
    let patient = Patient::open(&path)?;
    let nr = OriginNr::new(1).context("a number")?;
    let t = TimelineId::of_snapshot(nr, Tag::new(tags[1]).context("a tag")?);
    let root = patient.records(t)?;
    patient.edit(root, None, |block| block[1000] ^= 1)?;
    drop(patient);

    let named = format!("concerned: snapshot {} of origin 1", tags[1]);
    dms_says(&["check", &name], 4, &named)?;
    let before = metadata(&world.store.cow)?;
    let text = dms_says(&["repair", "-y", &name], 4, "nothing is changed")?;
    ensure!(text.contains(&named), "{text}");
    ensure!(metadata(&world.store.cow)? == before, "it was changed");
    let json = dms_says(&["check", "--json", &name], 4, "\"repairable\": false")?;
    ensure!(json.contains("\"kind\": \"block\""), "{json}");

    // All else can be used, and what is lost is an error.
    let co = world.co()?;
    let gone = world.snapshots.remove(&tags[1]).context("the snapshot")?;
    world.check(&co)?;
    let cs = world
        .store
        .cs_sized(&world.origin, tags[1], gone.sectors())?;
    let read = cs.open_read_only()?.read(16, 8);
    ensure!(read.is_err(), "it can be read");
    cs.remove()?;
    co.remove()
}

/// A store whose data space map cannot be read any more, with a snapshot, and chunk 0 preserved.
fn damaged(disks: &Disks) -> Result<World> {
    let (mut world, co) = World::new(disks, 4 * MIB, 48, 1)?;
    world.take(&co)?;
    let disk = co.open()?;
    world.now.write(&disk, 0, 64)?;
    drop(disk);
    co.remove()?;
    world.store.cow.spoil();
    let patient = Patient::open(&world.store.cow.path())?;
    let bitmap = patient.data_bitmap()?;
    patient.edit(bitmap, None, |block| block[2000] ^= 1)?;
    Ok(world)
}

/// With the policy that puts the origin first, that goes on whatever is damaged.
fn goes_on(disks: &Disks) -> Result<()> {
    let mut world = damaged(disks)?;
    let co = world.co()?;
    let disk = co.open()?;
    for sector in [512, 520, 528] {
        world.now.write(&disk, sector, 8)?;
    }
    world.now.check(&disk)?;
    drop(disk);
    co.remove()?;
    let path = world.store.cow.path();
    let report = examine(&path)?.report;
    ensure!(report.count(Kind::Flag) == 1, "{:?}", report.counts);
    dms_says(
        &["repair", "-y", &path.display().to_string()],
        1,
        "repaired",
    )?;
    let co = world.co()?;
    ensure!(co.state()?.state == "invalid", "{:?}", co.status()?);
    world.now.check(&co.open()?)?;
    co.remove()?;
    clean(&world).map(drop)
}

/// The module meets a damaged space map in the middle of a change.
fn marked(disks: &Disks) -> Result<()> {
    let mut world = damaged(disks)?;
    let path = world.store.cow.path();
    let name = path.display().to_string();
    let co = world.store.co_with(&world.origin, "-e error")?;
    let disk = co.open()?;
    ensure!(write(&disk, 512, 8).is_err(), "it was written");
    ensure!(co.state()?.state == "error", "{:?}", co.status()?);
    drop(disk);
    co.remove()?;
    let report = examine(&path)?.report;
    ensure!(
        report.count(Kind::Flag) == 1 && report.count(Kind::DataSpace) > 0,
        "{:?}",
        report.counts
    );
    // What stands there can be read, and written where that takes no change of metadata; only a
    // repair leads out of that.
    let co = world.store.co_with(&world.origin, "-e error")?;
    ensure!(co.state()?.state == "error", "{:?}", co.status()?);
    world.check(&co)?;
    let disk = co.open()?;
    world.now.write(&disk, 8, 8)?;
    ensure!(write(&disk, 512, 8).is_err(), "it was written");
    drop(disk);
    let needs = "store needs a check before it can be changed";
    for message in ["so", "ss 1", "ds 1"] {
        co.refused(message, libc::EIO, needs)?;
    }
    co.suspend(crate::dm::Suspend::Orderly)?;
    co.resume()?;
    ensure!(co.state()?.state == "error", "{:?}", co.status()?);
    co.remove()?;
    dms_says(&["repair", "-y", &name], 1, "repaired")?;
    let co = world.co()?;
    world.check(&co)?;
    use_it(&mut world, &co)?;
    world.check(&co)?;
    co.remove()?;
    clean(&world).map(drop)
}
