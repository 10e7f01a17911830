// SPDX-License-Identifier: GPL-2.0

//! No space for metadata, while there is some for data.
//!
//! What leads from a snapshot to those that were taken of it is a block of its own. So snapshots
//! of snapshots of snapshots fill the metadata with one message a block, and nothing is written.

use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};

use super::waiting::{Waiting, SOON};
use super::{errno, reads_as_error};
use crate::content::next_generation;
use crate::disks::{Disks, MIB};
use crate::dm::Suspend;
use crate::report::Subject;
use crate::shadow::write_generation;
use crate::store::{until, Device};
use crate::world::World;

/// Runs the cases.
pub(super) fn run(subject: &mut Subject, disks: &Disks) {
    subject.case("metadata: invalidate: the origin goes on", || {
        invalidate(disks)
    });
    subject.case("metadata: error: the write fails", || error(disks));
    subject.case("metadata: queue: the write waits", || queue(disks));
    subject.case("metadata: writes of a snapshot fail", || snapshot(disks));
    for policy in ["invalidate", "error", "queue"] {
        subject.case(
            &format!("metadata: {policy}: a rollback that runs has what it needs"),
            || rollback_has_room(disks, policy),
        );
    }
    subject.case(
        "metadata: a rollback that runs ends if it needs no space",
        || rollback_ends(disks),
    );
    subject.case(
        "metadata: a deferred rollback waits until there is room",
        || deferred(disks),
    );
}

const WHY: &str = "metadata region of the COW device is full";

/// Of the snapshots of snapshots; together with what they hang on, not as deep as is allowed.
const DEPTH: usize = 50;

/// What is written of the origin between the first snapshot of it and the second: a long piece, whose
/// records take some blocks at once, and places behind it, each of which a rollback has to look at.
const PIECE: u64 = 2 * MIB;
const PLACES: u64 = 30;
const STRIDE: u64 = 64;

/// Where the origin was not written since the last snapshot of it.
const PLACE: u64 = ORIGIN - 512;

const ORIGIN: u64 = 4 * MIB;

/// A store of which the metadata are full.
struct Full {
    world: World,
    co: Device,
    /// The first snapshot of the origin. All others but the second one were taken of it.
    one: u32,
    /// One that consists of records that say that there are zeroes.
    zeroes: u32,
    /// Snapshots each of which was taken of the one before.
    chains: Vec<Vec<u32>>,
}

impl Full {
    fn new(disks: &Disks, policy: &str) -> Result<Self> {
        let (mut world, co) = World::new(disks, ORIGIN, 16, 1)?;
        co.remove()?;
        let options = format!("-e {policy}");
        let co = world.store.co_with(&world.origin, &options)?;
        let one = world.take(&co)?;
        let disk = co.open()?;
        world.now.write(&disk, 0, PIECE)?;
        for place in 1..=PLACES {
            world.now.write(&disk, PIECE + place * STRIDE, 8)?;
        }
        drop(disk);
        let zeroes = world.take_of(&co, one)?;
        let cs = world.cs(zeroes)?;
        // What is between them has none, so each takes a record.
        for place in (0..ORIGIN).step_by(16) {
            world.shadow(zeroes).zero_out(&cs.open()?, place, 8)?;
        }
        cs.open()?.flush()?;
        cs.remove()?;
        let chains = Vec::new();
        Ok(Self {
            world,
            co,
            one,
            zeroes,
            chains,
        })
    }

    /// The second snapshot of the origin: it needs what a rollback to the first one overwrites.
    fn take_second(&mut self) -> Result<u32> {
        self.world.take(&self.co)
    }

    /// Takes snapshots until there can be no more. Of a chain the last one is compared with the
    /// others then, of few chains.
    fn fill(&mut self) -> Result<()> {
        let mut most = 0;
        loop {
            let mut chain = Vec::new();
            let mut last = self.one;
            while chain.len() < DEPTH {
                match self.co.message(&format!("ss {last}")) {
                    Ok(reply) => {
                        last = reply.trim().parse()?;
                        chain.push(last);
                    }
                    Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => {
                        self.chains.push(chain);
                        return Ok(());
                    }
                    Err(e) => bail!("snapshot {last} is to have one: {e}"),
                }
            }
            if self.chains.len() % 8 == 0 {
                let then = self.world.snapshots[&self.one].clone();
                self.world.snapshots.insert(last, then);
            }
            self.chains.push(chain);
            most += 1;
            ensure!(most < 40, "it never becomes full: {}", self.co.status()?);
        }
    }

    /// No snapshot can be taken, and no rollback be begun, nor can it be later.
    fn refuses(&self) -> Result<()> {
        let (one, zeroes) = (self.one, self.zeroes);
        self.co.refused("so", libc::ENOSPC, WHY)?;
        for message in [
            "so -m memo".to_owned(),
            format!("ss {one}"),
            format!("ss {zeroes}"),
            format!("rs {one} -b"),
            format!("rs {zeroes}"),
            format!("rs {zeroes} -b -d"),
        ] {
            self.co.refused(&message, libc::ENOSPC, WHY)?;
        }
        let status = self.co.state()?;
        let ((used, total), (used_chunks, chunks)) = (status.metadata, status.chunks);
        // A part is kept, for deleting; but not more than a part.
        ensure!(used < total && used > total / 2, "{status:?}");
        ensure!(used_chunks < chunks / 2, "{status:?}");
        ensure!(status.rollback.is_none(), "{status:?}");
        Ok(())
    }

    /// A write of the origin that would have to preserve something, alone.
    fn write(&mut self, wanted: Option<i32>) -> Result<()> {
        let disk = self.co.open()?;
        let generation = next_generation();
        let done = write_generation(&disk, PLACE, 64, generation);
        let found = errno(&done);
        ensure!(
            done.is_ok() == wanted.is_none() && found == wanted,
            "a write ended with {found:?}, not {wanted:?}"
        );
        if done.is_ok() {
            self.world.now.set(PLACE, 64, generation);
        }
        self.world.now.check(&disk).context("behind that write")
    }

    /// Deletes as many as a chain has, in the order in which they were taken or from the end.
    fn delete_chain(&mut self, from_end: bool) -> Result<()> {
        let mut gone = 0;
        while gone < DEPTH {
            let Some(mut chain) = self.chains.pop() else {
                return Ok(());
            };
            gone += chain.len();
            if from_end {
                chain.reverse();
            }
            for tag in chain {
                self.co.delete(tag)?;
                self.world.snapshots.remove(&tag);
            }
        }
        Ok(())
    }

    /// Deletes the records of zeroes alone, which the cleaner then has to take away one by one.
    fn delete_zeroes(&mut self) -> Result<()> {
        let before = self.co.state()?.metadata.0;
        self.world.delete(&self.co, self.zeroes)?;
        self.co.wait_clean()?;
        let after = self.co.state()?.metadata.0;
        ensure!(after < before, "{before} blocks before, {after} after");
        Ok(())
    }

    /// Everything is compared once more.
    fn end(self) -> Result<()> {
        self.world.check(&self.co)?;
        self.co.remove()
    }

    /// Deletes all snapshots, after which everything is as it was.
    fn empty(mut self) -> Result<()> {
        while !self.chains.is_empty() {
            let odd = self.chains.len() % 2 == 1;
            self.delete_chain(odd)?;
        }
        let tags: Vec<u32> = self.world.snapshots.keys().copied().collect();
        for tag in tags {
            self.world.delete(&self.co, tag)?;
        }
        self.co.wait_clean()?;
        self.co.wait_chunks(0)?;
        let status = self.co.state()?;
        ensure!(status.state == "valid", "{status:?}");
        ensure!(
            status.metadata.0 < status.metadata.1 / 4,
            "{status:?}, and nothing is there"
        );
        self.world.take(&self.co)?;
        self.world.now.write(&self.co.open()?, 0, MIB)?;
        self.world.check(&self.co)?;
        self.world.check_below()?;
        self.co.remove()
    }

    fn is(&self, state: &str) -> Result<()> {
        let found = self.co.state()?.state;
        ensure!(found == state, "the state is {found}, not {state}");
        Ok(())
    }

    /// There have been so many events, and no more.
    fn events(&self, before: u32, wanted: u32) -> Result<()> {
        until("the events", || Ok(self.co.event()? >= before + wanted))?;
        let found = self.co.event()? - before;
        ensure!(found == wanted, "{found} events, not {wanted}");
        Ok(())
    }
}

fn error(disks: &Disks) -> Result<()> {
    let mut full = Full::new(disks, "error")?;
    full.take_second()?;
    let disk = full.co.open()?;
    full.world.now.write(&disk, 0, 64)?;
    drop(disk);
    let before = full.co.event()?;
    full.fill()?;
    full.refuses()?;
    // Nobody has written anything in vain.
    full.is("valid")?;
    full.events(before, 0)?;
    full.write(Some(libc::ENOSPC))?;
    full.is("full-metadata")?;
    full.write(Some(libc::ENOSPC))?;
    full.events(before, 1)?;
    full.refuses()?;
    // What is preserved already can be written on.
    let disk = full.co.open()?;
    full.world.now.write(&disk, 3, 60)?;
    drop(disk);
    full.world.check(&full.co)?;
    full.world.check_below()?;
    // It is so for good.
    full.co.remove()?;
    crate::kernel::reload()?;
    full.co = full.world.store.co_with(&full.world.origin, "-e error")?;
    full.refuses()?;
    let before = full.co.event()?;
    full.write(Some(libc::ENOSPC))?;
    full.is("full-metadata")?;
    full.events(before, 1)?;
    // That there is space again, and that it is clean.
    full.delete_zeroes()?;
    full.events(before, 3)?;
    full.is("valid")?;
    full.world.check(&full.co)?;
    full.delete_chain(true)?;
    full.co.wait_clean()?;
    full.world.take(&full.co)?;
    full.write(None)?;
    full.world.check(&full.co)?;
    full.empty()
}

fn queue(disks: &Disks) -> Result<()> {
    let mut full = Full::new(disks, "queue")?;
    full.fill()?;
    full.refuses()?;
    full.is("valid")?;
    let before = full.co.event()?;
    let waiting = Waiting::new(&full.co, PLACE);
    waiting.ensure_waits(Duration::from_millis(2500))?;
    full.is("full-metadata")?;
    full.events(before, 1)?;
    // Not by a rollback: its origin is in use. But a snapshot can still be read.
    full.co.refused("so", libc::ENOSPC, WHY)?;
    full.world.check_snapshots()?;
    full.delete_chain(true)?;
    waiting.ends(SOON, None, &mut full.world, &full.co)?;
    full.co.wait_clean()?;
    full.is("valid")?;
    // Who asks for the status may know of it before.
    until("the events of the end", || {
        Ok(full.co.event()? >= before + 3)
    })?;
    full.world.check_below()?;
    full.end()
}

fn invalidate(disks: &Disks) -> Result<()> {
    let mut full = Full::new(disks, "invalidate")?;
    let two = full.take_second()?;
    full.fill()?;
    full.refuses()?;
    full.is("valid")?;
    full.world.check_snapshots()?;
    let before = full.co.event()?;
    full.write(None)?;
    full.is("invalid")?;
    full.events(before, 1)?;
    for options in ["-e invalidate", "-e error"] {
        let listing = full.co.list()?;
        ensure!(
            listing.rows.len() > 500,
            "{} snapshots",
            listing.rows.len() - 1
        );
        let valid = listing.rows.iter().find(|row| {
            let invalid = row.flags.contains('I');
            invalid == (row.tag == 0)
        });
        ensure!(valid.is_none(), "{valid:?}");
        for tag in [full.one, two, full.zeroes] {
            reads_as_error(&full.world, tag)?;
        }
        full.is("invalid")?;
        // What they held may come back by and by. A new snapshot is refused until there is enough of
        // that, or it is a good one.
        if let Ok(tag) = full.co.message("so") {
            full.co.send(&format!("ds {tag}"))?;
        } else {
            full.co.refused("so", libc::ENOSPC, WHY)?;
        }
        // It is so for good, and nothing else is to be preserved.
        full.co.remove()?;
        crate::kernel::reload()?;
        full.co = full.world.store.co_with(&full.world.origin, options)?;
        full.write(None)?;
        full.world.check_below()?;
    }
    full.is("invalid")?;
    // What its records held is back by now, or not yet.
    full.world.delete(&full.co, full.zeroes)?;
    full.co.wait_clean()?;
    full.empty()
}

/// A write to a snapshot needs a record of its own, with data or without.
fn snapshot(disks: &Disks) -> Result<()> {
    let mut full = Full::new(disks, "invalidate")?;
    full.fill()?;
    full.refuses()?;
    let cs = full.world.cs(full.one)?;
    let disk = cs.open()?;
    let enospc = Some(libc::ENOSPC);
    let written = write_generation(&disk, PLACE, 64, next_generation());
    ensure!(errno(&written) == enospc, "a write: {written:?}");
    let part = write_generation(&disk, PLACE + 3, 2, next_generation());
    ensure!(errno(&part) == enospc, "a write of a part: {part:?}");
    let zeroed = disk.zero_out(PLACE, 64).map_err(anyhow::Error::from);
    ensure!(errno(&zeroed) == enospc, "zeroes: {zeroed:?}");
    let discarded = disk.discard(PLACE, 64).map_err(anyhow::Error::from);
    ensure!(errno(&discarded) == enospc, "a discard: {discarded:?}");
    disk.flush()?;
    full.world.snapshots[&full.one].check(&disk)?;
    drop(disk);
    cs.remove()?;
    // Nobody has lost a snapshot by that.
    full.is("valid")?;
    full.world.check(&full.co)?;
    full.delete_chain(false)?;
    full.co.wait_clean()?;
    let cs = full.world.cs(full.one)?;
    let shadow = full.world.shadow(full.one);
    shadow.write(&cs.open()?, PLACE, 64)?;
    shadow.zero_out(&cs.open()?, PLACE + 64, 64)?;
    cs.remove()?;
    full.end()
}

/// Begins a rollback to the first snapshot, which has just begun when the metadata become full.
fn roll_back(full: &mut Full) -> Result<()> {
    full.fill()?;
    full.refuses()?;
    full.delete_chain(true)?;
    full.co.wait_clean()?;
    // It gets no further than its first read or write.
    let origin = full.world.origin.piece.mapped();
    origin.suspend(Suspend::NoFlush)?;
    let begun = full.co.send(&format!("rs {} -b", full.one));
    let filled = begun.and_then(|_| full.fill());
    let running = full.co.state();
    full.world.origin.piece.mapped().resume()?;
    filled?;
    let running = running?.rollback.context("there is no rollback")?;
    ensure!(running.stopped.is_none(), "it stood still: {running:?}");
    full.world.now = full.world.snapshots[&full.one].clone();
    Ok(())
}

/// What its copies under way need is set aside for them, so that the store is not too full for what it
/// has begun, and nobody loses anything.
fn rollback_has_room(disks: &Disks, policy: &str) -> Result<()> {
    let mut full = Full::new(disks, policy)?;
    full.take_second()?;
    roll_back(&mut full)?;
    full.co.wait_rollback()?;
    full.is("valid")?;
    full.world.check(&full.co)?;
    full.world.check_below()?;
    full.end()
}

fn rollback_ends(disks: &Disks) -> Result<()> {
    let mut full = Full::new(disks, "error")?;
    roll_back(&mut full)?;
    full.co.wait_rollback()?;
    full.is("valid")?;
    full.world.check(&full.co)?;
    full.world.check_below()?;
    full.refuses()?;
    full.delete_zeroes()?;
    full.end()
}

/// It is not forgotten because it cannot begin now.
fn deferred(disks: &Disks) -> Result<()> {
    let mut full = Full::new(disks, "error")?;
    full.fill()?;
    full.co.send(&format!("rs {} -l", full.one))?;
    full.co.suspend(Suspend::Orderly)?;
    full.co.resume()?;
    full.refuses()?;
    full.world.now.check(&full.co.open_read_only()?)?;
    full.delete_chain(true)?;
    full.delete_chain(true)?;
    full.co.wait_clean()?;
    full.co.suspend(Suspend::Orderly)?;
    full.co.resume()?;
    full.world.now = full.world.snapshots[&full.one].clone();
    full.world.check(&full.co).context("when there was room")?;
    full.co.wait_rollback()?;
    full.world.check_below()?;
    full.end()
}
