// SPDX-License-Identifier: GPL-2.0

//! The operations: each makes ready what it needs, does its work while allocations fail, and takes
//! in what became of it.

use anyhow::{ensure, Result};

use super::bench::{Bench, SECTORS};
use crate::content::next_generation;
use crate::dm::{Mapped, Suspend, Table};
use crate::faults::Faults;
use crate::shadow::{write_generation, Shadow};
use crate::store::{Device, TARGET};

/// A name, and what it does.
pub(super) type Operation = (&'static str, fn(&mut Bench, &mut Faults) -> Result<()>);

/// All of them.
pub(super) const OPERATIONS: &[Operation] = &[
    ("first write", first_write),
    ("rewrite", rewrite),
    ("read", read),
    ("snapshot write", snapshot_write),
    ("snapshot read", snapshot_read),
    ("snapshot zeroes", snapshot_zeroes),
    ("so", so),
    ("so during rs", so_during_rs),
    ("ss", ss),
    ("ds", ds),
    ("rs", rs),
    ("merge", merge),
    ("format", format),
    ("bind", bind),
    ("do", unbind),
    ("activate", activate),
    ("activate a snapshot", activate_snapshot),
    ("list", list),
    ("status", status),
    ("reload", reload),
    ("suspend", suspend),
    ("remove", remove),
];

fn write_to(bench: &mut Bench, faults: &mut Faults, shown: bool) -> Result<()> {
    let device = if shown { bench.cs() } else { bench.co() };
    let disk = device.open()?;
    let (start, count) = bench.random.extent(SECTORS);
    let generation = next_generation();
    let result = faults.run(|| write_generation(&disk, start, count, generation))?;
    drop(disk);
    bench.written(shown, (start, count, generation), result)
}

fn first_write(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    bench.take()?;
    write_to(bench, faults, false)
}

fn rewrite(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    let disk = bench.co().open()?;
    bench.world.now.write_all(&disk)?;
    drop(disk);
    write_to(bench, faults, false)
}

fn snapshot_write(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    bench.take_of_shown()?;
    write_to(bench, faults, true)
}

fn snapshot_zeroes(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    let disk = bench.cs().open()?;
    let (start, count) = bench.random.extent(SECTORS);
    let result = faults.run(|| disk.zero_out(start, count))?;
    drop(disk);
    let written = (start, count, crate::content::ZERO);
    bench.written(true, written, result.map_err(Into::into))
}

fn read_of(bench: &mut Bench, faults: &mut Faults, shown: bool) -> Result<()> {
    let (start, count) = bench.random.extent(SECTORS);
    let disk = match shown {
        true => bench.cs().open()?,
        false => bench.co().open()?,
    };
    match faults.run(|| disk.read(start, count))? {
        Err(_) => {
            bench.errors += 1;
            Ok(())
        }
        Ok(bytes) => match shown {
            true => bench.world.shadow(bench.shown).check_bytes(&bytes, start),
            false => bench.world.now.check_bytes(&bytes, start),
        },
    }
}

fn read(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    read_of(bench, faults, false)
}

fn snapshot_read(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    read_of(bench, faults, true)
}

fn so(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    let result = faults.run(|| bench.co().take())?;
    bench.taken(0, result)
}

/// The rollback is held up by slow reads of what it copies.
fn so_during_rs(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    let tag = changed_since(bench)?;
    bench.world.store.cow.slow_reads(100)?;
    bench.co().send(&format!("rs {tag}"))?;
    bench.world.now = bench.world.snapshots[&tag].clone();
    let result = faults.run(|| bench.co().take())?;
    bench.world.store.cow.slow_reads(0)?;
    bench.taken(0, result)?;
    bench.co().wait_rollback()
}

fn ss(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    let result = faults.run(|| bench.cs().take_of(bench.shown))?;
    bench.taken(bench.shown, result)
}

/// Deletes a snapshot with many chunks, and waits until they are free.
fn ds(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    let tag = bench.take()?;
    let disk = bench.co().open()?;
    bench.world.now.write_all(&disk)?;
    drop(disk);
    let result = faults.run(|| -> Result<()> {
        bench.co().delete(tag)?;
        let _ = crate::store::until("cleaning or an error", || {
            let state = bench.co().state()?;
            Ok(state.cleaning.is_none() || state.state == "error")
        });
        Ok(())
    })?;
    bench.deleted(tag, result)
}

/// Takes a snapshot, and writes what a rollback to it would have to copy.
pub(super) fn changed_since(bench: &mut Bench) -> Result<u32> {
    let tag = bench.take()?;
    let disk = bench.co().open()?;
    for _ in 0..4 {
        let (start, count) = bench.random.extent(SECTORS);
        bench.world.now.write(&disk, start, count)?;
    }
    Ok(tag)
}

fn roll_back(bench: &mut Bench, faults: &mut Faults, merge: bool) -> Result<()> {
    let tag = changed_since(bench)?;
    let message = if merge { "rs {} -d" } else { "rs {}" }.replace("{}", &tag.to_string());
    let result = faults.run(|| bench.co().send(&message))?;
    bench.rolled_back(tag, merge, result.map(drop))
}

fn rs(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    roll_back(bench, faults, false)
}

fn merge(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    roll_back(bench, faults, true)
}

fn format(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    let made = faults.run(|| bench.fresh.format(&bench.other, 4))?;
    if made.is_err() {
        bench.errors += 1;
    }
    drop(made);
    bench.fresh.format(&bench.other, 4)?.remove()
}

/// Binds an origin, if it is not bound, and takes it out of the store again.
fn out(bench: &mut Bench) -> Result<()> {
    let co = match bench.world.store.co(&bench.other) {
        Ok(co) => co,
        Err(_) => return Ok(()),
    };
    co.send("do")?;
    co.remove()
}

fn bind(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    let made = faults.run(|| bench.world.store.bind(&bench.other))?;
    if made.is_err() {
        bench.errors += 1;
    }
    drop(made);
    bench.reopen_if_failed()?;
    out(bench)
}

fn unbind(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    let co = bench.world.store.bind(&bench.other)?;
    let now = Shadow::filled(&co.open()?)?;
    let result = faults.run(|| co.send("do"))?;
    if result.is_err() {
        bench.errors += 1;
    }
    now.check(&co.open_read_only()?)?;
    co.remove()?;
    bench.reopen_if_failed()?;
    out(bench)
}

fn activate(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    bench.close()?;
    match faults.run(|| bench.world.co())? {
        Ok(co) => bench.co = Some(co),
        Err(_) => bench.errors += 1,
    }
    Ok(())
}

fn activate_snapshot(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    if let Some(cs) = bench.cs.take() {
        cs.remove()?;
    }
    match faults.run(|| bench.world.cs(bench.shown))? {
        Ok(cs) => bench.cs = Some(cs),
        Err(_) => bench.errors += 1,
    }
    Ok(())
}

fn list(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    let known: Vec<u32> = bench.world.snapshots.keys().copied().collect();
    match faults.run(|| bench.cs().list())? {
        Ok(list) => ensure!(list.tags() == known, "the list is {:?}", list.tags()),
        Err(_) => bench.errors += 1,
    }
    Ok(())
}

fn status(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    let answers = faults.run(|| {
        let (co, cs) = (bench.co(), bench.cs());
        [co.status(), co.table(), cs.status(), cs.table()]
    })?;
    bench.errors += answers.iter().filter(|a| a.is_err()).count() as u32;
    Ok(())
}

fn reload_one(device: &Device, faults: &mut Faults) -> Result<bool> {
    let table = Table::new(SECTORS, TARGET, device.table()?);
    Ok(faults
        .run(|| device.replace(Suspend::NoFlush, &table))?
        .is_err())
}

fn reload(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    let failed = match bench.random.once_in(2) {
        true => reload_one(bench.co(), faults)?,
        false => reload_one(bench.cs(), faults)?,
    };
    bench.errors += u32::from(failed);
    Ok(())
}

fn suspend(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    let how = *bench.random.one_of(&[Suspend::Orderly, Suspend::NoFlush]);
    let result = faults.run(|| {
        let co: &Mapped = bench.co();
        co.suspend(how)?;
        co.resume()
    })?;
    bench.errors += u32::from(result.is_err());
    Ok(())
}

fn remove(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    let disk = bench.co().open()?;
    let (start, count) = bench.random.extent(SECTORS);
    bench.world.now.write(&disk, start, count)?;
    drop(disk);
    let (cs, co) = (bench.cs.take(), bench.co.take());
    let removed = faults.run(|| {
        [cs, co]
            .into_iter()
            .flatten()
            .try_for_each(|device| device.remove())
    })?;
    ensure!(removed.is_ok(), "a removal failed: {removed:?}");
    Ok(())
}
