// SPDX-License-Identifier: GPL-2.0

//! Damage is found and repaired, and what was repaired is used by the module with the right content.

use anyhow::{ensure, Result};
use dm_snap_mv_check::Kind;

use super::damage::{miscount, DAMAGE};
use super::{clean, dms, dms_says, metadata, use_it};
use crate::checked::examine;
use crate::damage::Patient;
use crate::disks::{Disks, MIB};
use crate::kernel;
use crate::report::Subject;
use crate::world::World;

/// Damages one store again and again, which is used in between.
pub fn run(subject: &mut Subject, disks: &Disks) {
    subject.case("a superblock that was written over comes back", || {
        overwritten(disks)
    });
    subject.case(
        "what rows count otherwise is set right only when asked",
        || miscounted(disks),
    );
    // It outlasts the cases, so none of them makes it.
    let mut world = match patient(disks) {
        Ok(world) => world,
        Err(error) => return subject.case("a store to be damaged", || Err(error)),
    };
    for (name, kind, damage) in DAMAGE {
        subject.case(&format!("repaired: {name}"), || {
            repaired(&mut world, *kind, *damage)
        });
    }
}

/// A store with a few snapshots, one of them of another one.
fn patient(disks: &Disks) -> Result<World> {
    let (mut world, co) = World::new(disks, 2 * MIB, 24, 1)?;
    world.store.cow.spoil();
    let disk = co.open()?;
    let first = world.take(&co)?;
    world.now.write(&disk, 0, 256)?;
    let nested = world.take_of(&co, first)?;
    for tag in [first, nested] {
        let cs = world.cs(tag)?;
        world.shadow(tag).write(&cs.open()?, 100, 50)?;
        cs.remove()?;
    }
    drop(disk);
    co.remove()?;
    Ok(world)
}

/// Something is formatted over a store that is not active: what was in its first block is brought back.
fn overwritten(disks: &Disks) -> Result<()> {
    let mut world = patient(disks)?;
    let path = world.store.cow.path();
    let name = path.display().to_string();
    let patient = Patient::open(&path)?;
    let uuid = patient.superblock()?.uuid;
    patient.edit(0, None, |block| block.fill(0x53))?;
    drop(patient);
    dms_says(&["check", &name], 4, "it holds something else now")?;
    kernel::run("mkswap", &[&name])?;
    let before = metadata(&world.store.cow)?;
    let text = dms_says(&["check", &name], 4, "but a store was here")?;
    ensure!(text.contains("it holds a swap space now"), "{text}");
    dms_says(
        &["check", "--json", &name],
        4,
        "\"holds\": \"a swap space\"",
    )?;
    ensure!(
        text.contains(&format!("store {:02x}{:02x}", uuid[0], uuid[1])),
        "{text}"
    );
    dms_says(&["repair", "-y", &name], 4, "--superblock")?;
    ensure!(
        metadata(&world.store.cow)? == before,
        "it was changed unasked"
    );
    dms_says(&["repair", "-y", "--superblock", &name], 1, "repaired")?;
    let json = dms_says(&["check", "--json", &name], 0, "\"clean\": true")?;
    ensure!(json.contains("\"backup\": \"same\""), "{json}");
    let co = world.co()?;
    world.check(&co)?;
    use_it(&mut world, &co)?;
    co.remove()?;
    clean(&world)?;
    // Whatever that has left of the store, it is said what is there.
    kernel::run("mkfs.ext4", &["-q", "-F", &name])?;
    let (code, text) = dms(&["check", &name])?;
    ensure!([4, 8].contains(&code), "{code}: {text}");
    ensure!(text.contains("holds an ext4 file system"), "{text}");
    Ok(())
}

/// What counts say is the trace of something else that is wrong.
fn miscounted(disks: &Disks) -> Result<()> {
    let mut world = patient(disks)?;
    let path = world.store.cow.path();
    let name = path.display().to_string();
    miscount(&Patient::open(&path)?)?;
    let before = metadata(&world.store.cow)?;
    let text = dms_says(&["check", &name], 4, "--give-up-missing")?;
    ensure!(
        text.contains("it counts 0 snapshots, there are 2"),
        "{text}"
    );
    dms_says(&["repair", "-y", &name], 4, "nothing is changed")?;
    ensure!(metadata(&world.store.cow)? == before, "it was changed");
    let arguments = ["repair", "-y", "--give-up-missing", &name];
    dms_says(&arguments, 1, "repaired")?;
    dms_says(&["check", &name], 0, "clean")?;
    let co = world.co()?;
    world.check(&co)?;
    use_it(&mut world, &co)?;
    co.remove()?;
    clean(&world).map(drop)
}

fn repaired(world: &mut World, kind: Kind, damage: fn(&Patient) -> Result<()>) -> Result<()> {
    let cow = &world.store.cow;
    let path = cow.path();
    let name = path.display().to_string();
    damage(&Patient::open(&path)?)?;
    let before = metadata(cow)?;
    let found = examine(&path)?;
    ensure!(
        found.report.count(kind) > 0 && found.report.is_repairable(),
        "{:?}",
        found.findings
    );
    dms_says(&["check", &name], 4, "\"dms repair\" can repair it")?;
    dms_says(&["repair", "-n", &name], 4, "to do:")?;
    dms_says(&["repair", &name], 4, "nobody can be asked")?;
    dms_says(&["repair", "--json", &name], 4, "\"repaired\": false")?;
    ensure!(
        metadata(cow)? == before,
        "it was changed without being asked"
    );
    dms_says(&["repair", "-y", &name], 1, "repaired")?;
    dms_says(&["check", &name], 0, "clean")?;

    let co = world.co()?;
    world.check(&co)?;
    use_it(world, &co)?;
    co.remove()?;
    clean(world).map(drop)
}
