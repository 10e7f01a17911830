// SPDX-License-Identifier: GPL-2.0

//! An origin's identity and another disk: it is refused, by name, and there is a way back.

use std::path::Path;

use anyhow::{ensure, Context, Result};

use super::{refused, Place, EITHER, SECTORS};
use crate::dm::{Mapped, Table};
use crate::kernel::Log;
use crate::shadow::Shadow;
use crate::store::{co_line, Device, TARGET};

const WHY: &str = "origin device is not the disk that was bound (accept it with -a)";
const TOLD: &str = "is not the disk that the origin was on";

fn table(place: &Place, disk: &Path, sectors: u64, options: &str) -> Table {
    let options = format!("-i known {options}");
    Table::new(
        sectors,
        TARGET,
        co_line(disk, &place.spare.cow.path(), &options),
    )
}

/// Activates the origin on a disk, and removes it again.
fn used(place: &Place, disk: &Path, sectors: u64, options: &str) -> Result<()> {
    let table = table(place, disk, sectors, options);
    let device = Mapped::create("known", &table).with_context(|| table.arguments.clone())?;
    device.remove()?;
    Ok(())
}

fn is_refused(place: &Place, disk: &Path, options: &str) -> Result<()> {
    let options = format!("-i known {options}");
    refused(
        disk,
        &place.spare.cow.path(),
        &options,
        libc::EINVAL,
        WHY,
        TOLD,
    )
}

fn is_too_small(place: &Place, disk: &Path) -> Result<()> {
    let why = "origin device is smaller than when it was bound";
    let cow = place.spare.cow.path();
    refused(disk, &cow, "-i known -a", libc::EINVAL, why, "")
}

/// A larger disk, one of the same size that was filled otherwise, and the way back from what was accepted.
pub fn another_disk(place: &Place) -> Result<()> {
    let (small, large) = (place.spare_origin.piece.path(), place.other.piece.path());
    Shadow::filled(&place.spare_origin.piece.open()?)?;
    used(place, &small, SECTORS, "-b")?;
    is_refused(place, &large, "")?;
    place.other.piece.show(SECTORS)?;
    is_refused(place, &large, "")?;
    place.other.piece.show(EITHER)?;
    // It was refused before anything was changed.
    used(place, &small, SECTORS, "")?;
    used(place, &large, EITHER, "-a").context("accepted")?;
    let co = Device(Mapped::create("known", &table(place, &large, EITHER, ""))?);
    let tag = co.take()?;
    co.remove()?;
    is_too_small(place, &small).context("a snapshot is larger")?;
    let co = Device(Mapped::create("known", &table(place, &large, EITHER, ""))?);
    co.delete(tag)?;
    co.wait_clean()?;
    co.remove()?;
    used(place, &small, SECTORS, "-a").context("the way back")?;
    let co = Mapped::create("known", &table(place, &small, SECTORS, ""))?;
    co.message("do")?;
    co.remove()?;
    Ok(())
}

/// Blocks that somebody else has written do not make another disk of it, but that is told.
pub fn written_by_others(place: &Place) -> Result<()> {
    let piece = &place.spare_origin.piece;
    Shadow::filled(&piece.open()?)?;
    used(place, &piece.path(), SECTORS, "-b")?;
    let disk = piece.open()?;
    let mut start = disk.read(0, 8)?;
    start[0] ^= 1;
    disk.write(0, &start)?;
    let mut log = Log::from_now()?;
    let co = Mapped::create("known", &table(place, &piece.path(), SECTORS, ""))?;
    let lines = log.lines()?;
    let told = "was written by others since it was last used";
    ensure!(lines.iter().any(|line| line.contains(told)), "{lines:?}");
    co.message("do")?;
    co.remove()?;
    Ok(())
}
