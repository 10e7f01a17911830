// SPDX-License-Identifier: GPL-2.0

//! Operations on a small store, which is made for each of them: when it is full, and when its COW
//! device grows.

use anyhow::{ensure, Result};

use super::bench::Bench;
use super::operations::Operation;
use crate::content::next_generation;
use crate::disks::MIB;
use crate::dm::Suspend;
use crate::faults::Faults;
use crate::shadow::{write_generation, Shadow};
use crate::store::Device;

/// All of them.
pub(super) const OPERATIONS: &[Operation] = &[
    ("write to a full store", full_write),
    ("ds in a full store", full_delete),
    ("invalidate", invalidate),
    ("grow", grow),
];

/// Sectors of the COW device: less than the metadata and the origin need. And when it has grown.
const SMALL: u64 = 5 * MIB - MIB / 4;
const LARGE: u64 = 8 * MIB;

/// A write of this many sectors.
const WRITE: u64 = 64;

/// The small store, its origin, and a snapshot.
struct Small {
    co: Option<Device>,
    now: Shadow,
    then: Shadow,
    tag: u32,
}

impl Small {
    fn new(bench: &Bench, policy: &str) -> Result<Self> {
        bench.tight.cow.show(SMALL)?;
        let co = bench
            .tight
            .co_with(&bench.other, &format!("-b -F -c 1 -e {policy}"))?;
        let now = Shadow::filled(&co.open()?)?;
        let tag = co.take()?;
        Ok(Self {
            co: Some(co),
            then: now.clone(),
            now,
            tag,
        })
    }

    fn co(&self) -> &Device {
        self.co.as_ref().expect("it is open")
    }

    /// Writes until there is no space, and tells where that was.
    fn fill(&mut self) -> Result<u64> {
        let disk = self.co().open()?;
        for at in (0..self.now.sectors() - WRITE).step_by(WRITE as usize) {
            let generation = next_generation();
            let result = write_generation(&disk, at, WRITE, generation);
            self.written((at, generation), result.is_ok())?;
            if result.is_err() {
                return Ok(at);
            }
        }
        anyhow::bail!("there is space for all of the origin")
    }

    /// Takes in what became of a write.
    fn written(&mut self, (at, generation): (u64, u32), good: bool) -> Result<()> {
        let disk = self.co().open_read_only()?;
        let before = self.now.clone();
        self.now.learn(&disk, |sector, found| {
            let inside = (at..at + WRITE).contains(&sector);
            match good && inside {
                true => found == generation,
                false => found == before.generation(sector) || inside && found == generation,
            }
        })
    }

    /// Opens it again if it has failed.
    fn reopen(&mut self, bench: &Bench) -> Result<()> {
        if let Some(co) = self.co.take() {
            // It may have been left suspended.
            co.resume()?;
            if co.state()?.state != "error" {
                self.co = Some(co);
                return Ok(());
            }
            co.remove()?;
        }
        self.co = Some(bench.tight.co(&bench.other)?);
        Ok(())
    }

    /// The origin and the snapshot, if it is there and valid, are what they must be.
    fn end(self, bench: &Bench, valid: bool) -> Result<()> {
        self.now.check(&self.co().open_read_only()?)?;
        if valid && self.co().list()?.tags().contains(&self.tag) {
            bench
                .tight
                .check_snapshot(&bench.other, self.tag, &self.then)?;
        }
        self.co().wait_clean()?;
        if let Some(co) = self.co {
            co.remove()?;
        }
        self.now.check(&bench.other.piece.open()?)
    }
}

/// A write that finds no space fails, and whatever fails besides, nothing is lost.
fn full_write(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    let mut small = Small::new(bench, "error")?;
    let at = small.fill()? + WRITE;
    let disk = small.co().open()?;
    let generation = next_generation();
    let result = faults.run(|| write_generation(&disk, at, WRITE, generation))?;
    drop(disk);
    ensure!(result.is_err(), "there was space");
    small.reopen(bench)?;
    small.written((at, generation), false)?;
    small.end(bench, true)
}

/// The deletion of a snapshot makes space for what is written then.
fn full_delete(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    let mut small = Small::new(bench, "error")?;
    let at = small.fill()? + WRITE;
    let disk = small.co().open()?;
    let generation = next_generation();
    let (deleted, result) = faults.run(|| {
        (
            small.co().delete(small.tag),
            write_generation(&disk, at, WRITE, generation),
        )
    })?;
    drop(disk);
    bench.errors += u32::from(deleted.is_err()) + u32::from(result.is_err());
    small.reopen(bench)?;
    small.written((at, generation), result.is_ok())?;
    if deleted.is_ok() {
        let there = small.co().list()?.tags();
        ensure!(there.is_empty(), "what was deleted: {there:?}");
    }
    small.end(bench, true)
}

/// A write that finds no space makes the snapshot invalid, and goes on; then that reads as errors.
fn invalidate(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    let mut small = Small::new(bench, "error")?;
    let at = small.fill()? + WRITE;
    let table = bench.tight.co_table(&bench.other, "-e invalidate");
    small.co().replace(Suspend::NoFlush, &table)?;
    let disk = small.co().open()?;
    let generation = next_generation();
    let result = faults.run(|| write_generation(&disk, at, WRITE, generation))?;
    drop(disk);
    bench.errors += u32::from(result.is_err());
    small.reopen(bench)?;
    small.written((at, generation), result.is_ok())?;
    if let Ok(cs) = bench.tight.cs(&bench.other, small.tag) {
        // An error, or what it was.
        if let Ok(bytes) = cs.open_read_only()?.read(at, WRITE) {
            small.then.check_bytes(&bytes, at)?;
        }
        cs.remove()?;
    }
    small.end(bench, false)
}

/// The COW device has grown, which is noticed when a table is loaded.
fn grow(bench: &mut Bench, faults: &mut Faults) -> Result<()> {
    let mut small = Small::new(bench, "error")?;
    let before = small.co().state()?.chunks.1;
    bench.tight.cow.show(LARGE)?;
    let table = bench.tight.co_table(&bench.other, "");
    let grown = faults.run(|| small.co().replace(Suspend::NoFlush, &table))?;
    bench.errors += u32::from(grown.is_err());
    small.reopen(bench)?;
    if grown.is_err() {
        small.co().replace(Suspend::NoFlush, &table)?;
    }
    let after = small.co().state()?.chunks.1;
    ensure!(after > before, "{before} chunks, {after} now");
    // There is space for all of it now.
    let disk = small.co().open()?;
    small.now.write_all(&disk)?;
    drop(disk);
    small.end(bench, true)
}
