// SPDX-License-Identifier: GPL-2.0

//! What the commands say and how they end.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{ensure, Result};

use super::{dms, dms_says};
use crate::damage::{Patient, BITMAP, NODE};
use crate::disks::{Disks, MIB};
use crate::world::World;

/// Long enough for what does not wait.
const SOON: Duration = Duration::from_secs(20);

/// Goes through what they may be asked.
pub fn command(disks: &Disks) -> Result<()> {
    let (world, co) = World::new(disks, 4 * MIB, 16, 1)?;
    let path = world.store.cow.path();
    let name = path.display().to_string();
    let origin = world.origin.piece.path().display().to_string();
    for command in ["check", "repair"] {
        dms_says(&[command, &name], 8, "is in use")?;
        dms_says(&[command, &origin], 8, "in use")?;
        dms_says(&[command, "/dev/dms-no-such-thing"], 8, "does not exist")?;
        dms_says(
            &[command, "/dev/null"],
            8,
            "neither a block device nor a file",
        )?;
        dms_says(&[command, "--json", &name], 8, "\"error\":")?;
        dms_says(&[command], 16, "required")?;
        dms_says(&[command, &name, "--frobnicate"], 16, "--frobnicate")?;
    }
    co.remove()?;
    dms_says(&["check", &origin], 8, "not a store")?;
    dms_says(&["check", &name], 0, "clean, 1 origin, 0 snapshots")?;
    dms_says(&["check", "--super-only", &name], 0, "clean")?;
    dms_says(&["check", "--skip-records", &name], 0, "clean")?;
    dms_says(&["repair", &name], 0, "nothing to repair")?;
    let (code, text) = dms(&["check", "-q", &name])?;
    ensure!(code == 0 && text.is_empty(), "{text}");
    let json = dms_says(&["check", "--json", &name], 0, "\"clean\": true")?;
    ensure!(json.contains("\"closed_in_order\": true"), "{json}");

    // An image in a file is as good.
    let file = "/tmp/store.img";
    copy(&name, file)?;
    dms_says(&["check", file], 0, "clean")?;
    let patient = Patient::open(Path::new(file))?;
    let bitmap = patient.data_bitmap()?;
    patient.edit(bitmap, Some(BITMAP), |block| block[500] = 0xaa)?;
    drop(patient);
    let (code, text) = dms(&["check", "-q", file])?;
    ensure!(code == 4 && text.is_empty(), "{text}");
    dms_says(&["repair", "-y", file], 1, "repaired")?;
    dms_says(&["repair", "-y", file], 0, "nothing to repair")?;
    Patient::open(Path::new(file))?.set_superblock(|s| s.clean = false)?;
    dms_says(&["check", file], 0, "clean")?;
    let text = dms_says(&["repair", "-y", file], 1, "mark the store as checked")?;
    ensure!(text.contains("it was not closed in order"), "{text}");
    std::fs::remove_file(file)?;
    Ok(())
}

/// There is said to be something to clean, and there is nothing that the cleaner could find: that
/// must not be waited for.
pub fn unbinding(disks: &Disks) -> Result<()> {
    let (world, co) = World::new(disks, 4 * MIB, 16, 1)?;
    world.store.cow.spoil();
    co.remove()?;
    let patient = Patient::open(&world.store.cow.path())?;
    let leaf = patient.first_leaf(patient.superblock()?.roots.origins)?;
    let ghosts = patient.value_at(leaf, 0)? + 28;
    patient.edit(leaf, Some(NODE), |block| block[ghosts] = 1)?;
    drop(patient);
    let co = world.co()?;
    let begin = Instant::now();
    let text = dms_says(&["delete", co.name()], 4, "still being cleaned away")?;
    ensure!(text.contains("cleaning has stopped"), "{text}");
    ensure!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    co.remove()
}

/// Copies a device to a file.
fn copy(from: &str, to: &str) -> Result<()> {
    let (from, to) = (format!("if={from}"), format!("of={to}"));
    crate::kernel::run("dd", &[&from, &to, "bs=1M", "iflag=direct"]).map(drop)
}
