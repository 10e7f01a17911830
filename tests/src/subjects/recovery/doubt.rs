// SPDX-License-Identifier: GPL-2.0

//! A store that cannot be read after it has failed: nothing is known of it until it can.

use anyhow::{bail, ensure, Context, Result};

use super::bench::{Bench, CHUNK};
use crate::content::next_generation;
use crate::dm::Suspend;
use crate::io::Disk;
use crate::puppet::Op;
use crate::shadow::{write_generation, Shadow};
use crate::store::{until, Device};

/// What a write has come to while nothing was known.
struct Doubtful {
    sector: u64,
    count: u64,
    generation: u32,
    acknowledged: bool,
}

impl Doubtful {
    fn try_it(co: &Device, sector: u64, count: u64) -> Result<Self> {
        let generation = next_generation();
        let written = write_generation(&co.open()?, sector, count, generation);
        Ok(Self {
            sector,
            count,
            generation,
            acknowledged: written.is_ok(),
        })
    }

    /// What the origin may hold that would hold `now` without it.
    fn on(&self, now: &Shadow) -> Vec<Shadow> {
        let mut with = now.clone();
        with.set(self.sector, self.count, self.generation);
        match self.acknowledged {
            true => vec![with],
            false => vec![with, now.clone()],
        }
    }
}

/// One of these is what a device holds, as a whole.
fn holds_one_of<'a>(disk: &Disk, what: impl IntoIterator<Item = &'a Shadow>) -> Result<&'a Shadow> {
    let mut differences = Vec::new();
    for shadow in what {
        match shadow.check(disk) {
            Ok(()) => return Ok(shadow),
            Err(e) => differences.push(format!("{e:#}")),
        }
    }
    bail!("{}", differences.join("; or "))
}

/// A message does what it says and is told that it has failed, as no flush of the store's device
/// succeeds any more, its last one among them. So the store cannot be read either. A chunk of which
/// it was known that it is preserved must not be written then as if that were still so. All is tried
/// with each of the message's flushes as the first one that fails.
pub fn message(message: &str) -> Result<()> {
    let mut bench = Bench::new(1, 6)?;
    let co = bench.format()?;
    bench.take(&co)?;
    bench.now.write(&co.open()?, 0, 16 * CHUNK)?;
    // So that the message is the store's first change, which writes its trees.
    bench.origin.remove_unseen(co)?;
    let images = (bench.origin.image(), bench.cow.image());
    let (now, then) = (bench.now.clone(), bench.snapshots[&1].clone());
    let mut done = 0;
    for flush in 0.. {
        bench.origin.restore(&images.0);
        bench.cow.restore(&images.1);
        bench.now = now.clone();
        bench.snapshots.retain(|&tag, _| tag == 1);
        let co = bench.co("")?;
        let released = bench.released();
        // The store has a look at the first one, and need not have one at the next.
        for _ in 0..2 {
            bench.now.write(&co.open()?, 0, CHUNK)?;
        }
        bench.cow.fail(&[Op::Flush], flush, usize::MAX);
        let sent = co.message(message);
        if bench.cow.failed() == 0 {
            // It has no more of them.
            sent.with_context(|| format!("message {message:?}"))?;
            drop(released);
            co.remove()?;
            break;
        }
        ensure!(sent.is_err(), "{message:?} succeeded without flush {flush}");
        let doubtful = Doubtful::try_it(&co, 0, CHUNK)?;
        drop(released);
        co.suspend(Suspend::Orderly)?;
        co.resume()?;
        co.wait_rollback()?;
        let without = format!("{message:?} without flush {flush} and those behind it");
        let mut may_be = doubtful.on(&bench.now);
        if message.starts_with("rs") {
            may_be.extend(doubtful.on(&then));
        }
        let found = holds_one_of(&co.open_read_only()?, &may_be)
            .with_context(|| format!("{without}: the origin"))?;
        let rolled = message.starts_with("rs") && found.difference(&then) <= CHUNK as usize;
        let tags = co.list()?.tags();
        for &tag in tags.iter().filter(|&&tag| tag != 1) {
            bench.snapshots.insert(tag, bench.now.clone());
        }
        done += u32::from(rolled || tags.len() > 1);
        for &tag in &tags {
            bench.check_snapshot(tag).with_context(|| without.clone())?;
        }
        // Whatever it was, nobody could know.
        ensure!(
            !doubtful.acknowledged,
            "{without}: a write of what is not known was acknowledged"
        );
        co.remove()?;
        bench.clean()?;
    }
    // The last flush comes behind all that makes it so.
    ensure!(
        done > 0,
        "{message:?} was never done when it said it was not"
    );
    Ok(())
}

/// The store's device takes no writes for a while. What can be read without any goes on being read,
/// and later writes find out by themselves that it takes them again.
pub fn in_vain() -> Result<()> {
    let mut bench = Bench::new(1, 6)?;
    let co = bench.format()?;
    let tag = bench.take(&co)?;
    bench.now.write(&co.open()?, 0, 16 * CHUNK)?;
    let cs = bench.cs(tag)?;
    let released = bench.released();
    bench.cow.fail(&[Op::Write], 0, usize::MAX);
    let disk = co.open()?;
    for chunk in [100, 101] {
        let sector = chunk * CHUNK;
        let generation = next_generation();
        let written = write_generation(&disk, sector, CHUNK, generation);
        ensure!(written.is_err(), "chunk {chunk} could not be preserved");
    }
    ensure!(bench.cow.failed() > 0, "nothing failed");
    // One that is the store's, one that is the origin's.
    let then = bench.snapshots[&tag].clone();
    for chunk in [3, 200] {
        then.check_range(&cs.open_read_only()?, chunk * CHUNK, CHUNK)
            .with_context(|| {
                format!("the snapshot's chunk {chunk} while nothing can be written")
            })?;
    }
    bench
        .now
        .check(&disk)
        .context("the origin while nothing can be written")?;
    drop(released);
    until("a write to succeed by itself", || {
        Ok(bench.now.write(&disk, 100 * CHUNK, CHUNK).is_ok())
    })?;
    bench.now.write(&disk, 101 * CHUNK, 8 * CHUNK)?;
    drop(disk);
    ensure!(co.state()?.state == "valid", "{}", co.status()?);
    cs.remove()?;
    bench.end(co)
}
