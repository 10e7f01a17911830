// SPDX-License-Identifier: GPL-2.0

//! What is loaded and not resumed: nothing of it lasts.

use anyhow::{bail, ensure, Context, Result};

use super::{refused, Place, EITHER, SECTORS};
use crate::disks::MIB;
use crate::dm::{Mapped, Suspend, Table};
use crate::store::{co_line, TARGET};

/// It is no binding, and its disk is free again.
pub fn planned(place: &Place) -> Result<()> {
    let other = place.other.piece.path();
    let bind = Table::new(
        EITHER,
        TARGET,
        co_line(&other, &place.cow(), "-b -i planned"),
    );
    let again = Mapped::create_empty("planned-again")?;
    place.unchanged(|| {
        let device = Mapped::create_empty("planned")?;
        for _ in 0..2 {
            // The second joins the first.
            device.load(&bind)?;
        }
        match again.load(&bind) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
            loaded => bail!("beside it: {loaded:?}"),
        }
        device.clear()?;
        let why = "origin is not bound to this COW device (bind it with -b)";
        refused(&other, &place.cow(), "-i planned", libc::ENOENT, why, "")
    })?;
    again.load(&bind)?;
    again.resume()?;
    again.message("do")?;
    again.remove()?;
    Ok(())
}

/// A number that was promised is kept, whoever comes into force first.
pub fn in_another_order(place: &Place) -> Result<()> {
    let third = place.spare_origin.piece.path();
    let loads = [
        (
            EITHER,
            co_line(&place.other.piece.path(), &place.cow(), "-b -i first"),
        ),
        (SECTORS, co_line(&third, &place.cow(), "-b -i second")),
    ];
    let mut devices = Vec::new();
    for (i, (sectors, line)) in loads.into_iter().enumerate() {
        let device = Mapped::create_empty(&format!("planned-{i}"))?;
        device.load(&Table::new(sectors, TARGET, line))?;
        devices.push(device);
    }
    let mut numbers = Vec::new();
    for device in devices.iter().rev() {
        device.resume()?;
        let status = device.status()?;
        numbers.push(status.split(' ').nth(1).map(str::to_owned));
        ensure!(status.contains(" valid "), "{status}");
    }
    ensure!(numbers[0] != numbers[1], "{numbers:?}");
    for device in devices {
        device.message("do")?;
        device.remove()?;
    }
    Ok(())
}

/// Neither by a new device, nor by one that is active.
pub fn origin_not_grown(place: &Place) -> Result<()> {
    let piece = &place.other.piece;
    let line = |options: &str| co_line(&piece.path(), &place.spare.cow.path(), options);
    let small = Table::new(SECTORS, TARGET, line("-i other"));
    let large = Table::new(EITHER, TARGET, line("-i other"));
    piece.show(SECTORS)?;
    let bind = Table::new(SECTORS, TARGET, line("-b -i other"));
    Mapped::create("co", &bind)?.remove()?;
    piece.show(EITHER)?;
    let device = Mapped::create_empty("large")?;
    device.load(&large)?;
    device.remove()?;
    piece.show(SECTORS)?;
    let co = Mapped::create("co", &small).context("after a load")?;
    // Nor by a reload of a device that is active.
    piece.show(EITHER)?;
    co.load(&large)?;
    co.clear()?;
    co.remove()?;
    piece.show(SECTORS)?;
    Mapped::create("co", &small)
        .context("after a reload")?
        .remove()?;
    // By coming into force it is.
    piece.show(EITHER)?;
    let co = Mapped::create("co", &large)?;
    ensure!(
        co.message("list 0 1")?.contains(&format!(" {EITHER} ")),
        "not grown"
    );
    co.message("do")?;
    co.remove()?;
    Ok(())
}

/// As long as the table is not in force.
pub fn cow_not_grown(place: &Place) -> Result<()> {
    let other = place.other.piece.path();
    let line = |options: &str| co_line(&other, &place.blank.path(), options);
    place.blank.show(24 * MIB)?;
    let co = Mapped::create("co", &Table::new(EITHER, TARGET, line("-b -F -i it")))?;
    let chunks = |co: &Mapped| Ok(co.status()?.split(' ').nth(4).map(str::to_owned));
    let before: Result<_> = chunks(&co);
    let before = before?;
    place.blank.show(32 * MIB)?;
    let table = Table::new(EITHER, TARGET, line("-i it"));
    co.load(&table)?;
    ensure!(chunks(&co)? == before, "it has grown by a load");
    co.clear()?;
    ensure!(
        chunks(&co)? == before,
        "it has grown by a load that was thought better of"
    );
    co.replace(Suspend::Orderly, &table)?;
    ensure!(chunks(&co)? != before, "it has not grown");
    co.remove()?;
    place.blank.wipe()
}
