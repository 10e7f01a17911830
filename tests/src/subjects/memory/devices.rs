// SPDX-License-Identifier: GPL-2.0

//! Operations on the devices that there are: discards, and a rollback that is left for the next
//! activation.

use anyhow::{ensure, Result};

use super::bench::{Bench, SECTORS};
use super::operations::{changed_since, Operation};
use crate::content::ZERO;
use crate::faults::Faults;

/// All of them.
pub(super) const OPERATIONS: &[Operation] = &[
    ("discard", discard),
    ("snapshot discard", snapshot_discard),
    ("rs -l", rs_later),
    ("activate with a rollback", activate_rollback),
];

/// Discards a part. Each sector of it has its old content or zeroes then, whether it failed or not.
fn discard_of(bench: &mut Bench, faults: &mut Faults, shown: bool) -> Result<()> {
    let device = if shown { bench.cs() } else { bench.co() };
    let disk = device.open()?;
    let (start, count) = bench.random.extent(SECTORS);
    let result = faults.run(|| disk.discard(start, count))?;
    drop(disk);
    if result.is_err() {
        bench.errors += 1;
        bench.reopen_if_failed()?;
        if shown && bench.cs.is_none() {
            bench.cs = Some(bench.world.cs(bench.shown)?);
        }
    }
    let device = if shown { bench.cs() } else { bench.co() };
    let disk = device.open_read_only()?;
    let shadow = match shown {
        true => bench.world.shadow(bench.shown),
        false => &mut bench.world.now,
    };
    let before = shadow.clone();
    shadow.learn(&disk, |sector, found| {
        let inside = (start..start + count).contains(&sector);
        found == before.generation(sector) || inside && found == ZERO
    })
}

fn discard(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    bench.take()?;
    discard_of(bench, faults, false)
}

fn snapshot_discard(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    bench.take_of_shown()?;
    discard_of(bench, faults, true)
}

/// Activates the origin. True if it has been rolled back by that.
fn has_been_rolled_back(bench: &mut Bench, tag: u32) -> Result<bool> {
    bench.reopen_if_failed()?;
    let then = bench.world.snapshots[&tag].clone();
    let disk = bench.co().open_read_only()?;
    if then.check(&disk).is_err() {
        return Ok(false);
    }
    drop(disk);
    bench.world.now = then;
    bench.co().wait_rollback()?;
    Ok(true)
}

fn rs_later(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    let tag = changed_since(bench)?;
    let result = faults.run(|| bench.co().send(&format!("rs {tag} -l")))?;
    bench.errors += u32::from(result.is_err());
    if result.is_ok() {
        // Nothing has happened yet.
        let disk = bench.co().open_read_only()?;
        bench.world.now.check(&disk)?;
    }
    bench.close()?;
    let rolled_back = has_been_rolled_back(bench, tag)?;
    ensure!(rolled_back || result.is_err(), "it is not rolled back");
    Ok(())
}

fn activate_rollback(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    let tag = changed_since(bench)?;
    bench.co().send(&format!("rs {tag} -l"))?;
    bench.close()?;
    match faults.run(|| bench.world.co())? {
        Ok(co) => bench.co = Some(co),
        Err(_) => bench.errors += 1,
    }
    if !has_been_rolled_back(bench, tag)? {
        bench.errors += 1;
        bench.close()?;
        let rolled_back = has_been_rolled_back(bench, tag)?;
        ensure!(rolled_back, "it is not rolled back by another activation");
    }
    Ok(())
}
