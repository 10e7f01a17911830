// SPDX-License-Identifier: GPL-2.0

//! A COW device that goes away under load: nothing hangs, and all of it can be taken down.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{ensure, Context, Result};

use crate::content::next_generation;
use crate::disks::{Disks, MIB};
use crate::dm::{Mapped, Suspend, Table};
use crate::kernel;
use crate::null_block::NullBlock;
use crate::puppet::Puppet;
use crate::shadow::{write_generation, Shadow};
use crate::store::{co_line, cs_line, until, Device, TARGET};

/// What takes a COW device away.
type Vanish<'a> = &'a (dyn Fn() -> Result<()> + Sync);

/// What goes on when it does.
#[derive(Clone, Copy, PartialEq)]
pub enum Scenery {
    /// The origin and its snapshots are read and written.
    Plain,
    /// The origin is being rolled back, too, and a snapshot has been deleted.
    Rollback,
}

/// A null block device is switched off.
pub fn null_block(disks: &Disks, policy: &str, scenery: Scenery) -> Result<()> {
    let disk = NullBlock::new("vanishing", 64, &[])?;
    let vanish = || disk.switch_off();
    vanishes(disks, &disk.node()?, policy, scenery, &vanish)
}

/// A network disk is disconnected.
pub fn network(disks: &Disks, policy: &str, scenery: Scenery) -> Result<()> {
    let disk = Puppet::new(64)?;
    vanishes(disks, &disk.path(), policy, scenery, &|| {
        disk.disconnect();
        Ok(())
    })
}

/// Sectors of the origin.
const SECTORS: u64 = 16 * MIB;
/// Who writes to the origin has so many chunks for himself.
const CHUNKS: u64 = 1024;
const WRITERS: u64 = 3;
/// Where these begin: before that nothing is written any more.
const WRITTEN: u64 = SECTORS - WRITERS * CHUNKS * 8;
/// Nothing is taken away before everybody has done so much.
const AT_LEAST: u32 = 20;
/// So much is done by everybody before he has a little rest.
const AT_ONCE: u32 = 16;

/// Goes on with something until that fails, as it must. Counts how often it has succeeded.
fn until_it_fails(who: &str, done: &AtomicU32, mut step: impl FnMut() -> Result<()>) -> Result<()> {
    until(&format!("{who} to meet an error"), || {
        for _ in 0..AT_ONCE {
            if let Err(e) = step() {
                let errno = e.chain().find_map(|e| e.downcast_ref::<io::Error>());
                let errno = errno.and_then(io::Error::raw_os_error);
                ensure!(errno == Some(libc::EIO), "{who}: {e:#}");
                return Ok(true);
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(false)
    })
}

/// A write of the origin, and whether it was acknowledged.
struct Written {
    at: u64,
    generation: u32,
    sure: bool,
}

/// Writes chunk after chunk, each of which has to be preserved.
fn write_origin(co: &Device, number: u64, done: &AtomicU32) -> Result<Vec<Written>> {
    let disk = co.open()?;
    let mut writes = Vec::new();
    let mut chunk = 0;
    until_it_fails("a writer of the origin", done, || {
        if chunk == CHUNKS {
            // None is left that a snapshot needs.
            co.take()?;
            chunk = 0;
        }
        let at = WRITTEN + (number * CHUNKS + chunk) * 8;
        let generation = next_generation();
        let written = write_generation(&disk, at, 8, generation);
        let sure = written.is_ok();
        writes.push(Written {
            at,
            generation,
            sure,
        });
        chunk += 1;
        written
    })?;
    Ok(writes)
}

/// Writes here and there, and flushes.
fn write_snapshot(cs: &Device, done: &AtomicU32) -> Result<()> {
    let disk = cs.open()?;
    let mut at = 0;
    until_it_fails("a snapshot's writer", done, || {
        write_generation(&disk, at, 8, next_generation())?;
        at = (at + 24) % SECTORS;
        Ok(disk.flush()?)
    })
}

/// Reads what must not change.
fn read_snapshot(cs: &Device, then: &Shadow, done: &AtomicU32) -> Result<()> {
    let disk = cs.open_read_only()?;
    let mut at = 0;
    until_it_fails("a snapshot's reader", done, || {
        then.check_range(&disk, at, 64)?;
        at = (at + 64) % SECTORS;
        Ok(())
    })
}

fn vanishes(
    disks: &Disks,
    cow: &Path,
    policy: &str,
    scenery: Scenery,
    vanish: Vanish<'_>,
) -> Result<()> {
    let piece = disks.piece(SECTORS)?;
    let mut now = Shadow::filled(&piece.open()?)?;
    let line = |options: &str| co_line(&piece.path(), cow, &format!("-i o {options}"));
    let table = Table::new(SECTORS, TARGET, line(&format!("-b -F -c 1 -e {policy}")));
    let co = Device(Mapped::create("co", &table)?);
    let cs = |tag| -> Result<Device> {
        let line = cs_line(&piece.path(), cow, tag, "-i o");
        let table = Table::new(SECTORS, TARGET, line);
        Ok(Device(Mapped::create("cs", &table)?))
    };
    let tag = co.take()?;
    let then = now.clone();
    // For a rollback, pieces that are far from one another.
    let step = match scenery {
        Scenery::Plain => 512,
        Scenery::Rollback => 16,
    };
    for at in (0..WRITTEN).step_by(step) {
        now.write(&co.open()?, at, 8)?;
    }
    let (read, written, deleted) = (cs(tag)?, cs(co.take()?)?, co.take()?);
    // What the origin's own device may hold of what is not copied yet.
    let before = now.clone();
    if scenery == Scenery::Rollback {
        // Each part of it has the last snapshot's content to read first.
        piece.slow_reads(50)?;
        co.send(&format!("rs {tag} -b"))?;
        now = then.clone();
    }
    let mut failed = Vec::new();
    let done: Vec<AtomicU32> = (0..WRITERS + 2).map(|_| AtomicU32::new(0)).collect();
    thread::scope(|scope| -> Result<()> {
        let (co, read, written, then, done) = (&co, &read, &written, &then, &done);
        let writers: Vec<_> = (0..WRITERS)
            .map(|i| scope.spawn(move || write_origin(co, i, &done[i as usize])))
            .collect();
        let reader = scope.spawn(move || read_snapshot(read, then, &done[WRITERS as usize]));
        let snapshot_writer =
            scope.spawn(move || write_snapshot(written, &done[WRITERS as usize + 1]));
        until("everybody to be at work", || {
            Ok(done.iter().all(|d| d.load(Ordering::Relaxed) >= AT_LEAST))
        })?;
        if scenery == Scenery::Rollback {
            co.delete(deleted)?;
            let state = co.state()?;
            ensure!(
                state.cleaning.is_some() && state.rollback.is_some(),
                "{}",
                co.status()?
            );
        }
        vanish()?;
        for writer in writers {
            for write in writer.join().expect("no panic")? {
                if write.sure {
                    now.set(write.at, 8, write.generation);
                } else {
                    failed.push(write);
                }
            }
        }
        reader.join().expect("no panic")?;
        snapshot_writer.join().expect("no panic")
    })?;
    if scenery == Scenery::Rollback {
        piece.slow_reads(0)?;
    }
    // A write that has to be preserved does not go ahead, and is not waited for either.
    let disk = co.open()?;
    for place in [8, WRITTEN - 8] {
        ensure!(
            write_generation(&disk, place, 8, next_generation()).is_err(),
            "a write was not preserved, and went ahead"
        );
    }
    drop(disk);
    let refused = co.message("so");
    ensure!(refused.is_err(), "a snapshot was taken of it");
    until("the state", || Ok(co.state()?.state == "error"))?;
    for cs in [&read, &written] {
        ensure!(cs.state()?.state == "error", "{}", cs.status()?);
    }
    let rolling = scenery == Scenery::Rollback;
    until("the rollback to stand still", || {
        let rollback = co.state()?.rollback;
        ensure!(rolling == rollback.is_some(), "{}", co.status()?);
        Ok(rollback.is_none_or(|r| r.stopped.as_deref() == Some("error")))
    })?;
    if !rolling {
        let mut sure = now.clone();
        for write in &failed {
            sure.forget(write.at, 8);
        }
        sure.check(&co.open_read_only()?).context("the origin")?;
    }
    for how in [Suspend::Orderly, Suspend::NoFlush] {
        for device in [&co, &read, &written] {
            device.suspend(how)?;
            device.resume()?;
        }
    }
    ensure!(co.state()?.state == "error", "{}", co.status()?);
    for device in [read, written, co] {
        device.remove()?;
    }
    kernel::reload()?;
    // While it is being rolled back it holds both; what was acknowledged stays all the same.
    let expected = now.clone();
    let below = piece.open()?;
    now.learn(&below, |sector, found| {
        let perhaps = |write: &Written| {
            found == write.generation && (write.at..write.at + 8).contains(&sector)
        };
        found == expected.generation(sector)
            || (rolling && sector < WRITTEN && found == before.generation(sector))
            || failed.iter().any(perhaps)
    })
    .context("the origin's own device")
}
