// SPDX-License-Identifier: GPL-2.0

//! Writes and rollbacks that wait for space, and what ends their waiting.

use std::fs;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use super::{errno, fill_up, small_store};
use crate::content::next_generation;
use crate::disks::{Disks, MIB};
use crate::dm::{Suspend, Table};
use crate::io::Disk;
use crate::report::Subject;
use crate::shadow::{write, write_generation};
use crate::store::{until, Device};
use crate::time::{pass, patience};
use crate::world::World;

/// Runs the cases.
pub(super) fn run(subject: &mut Subject, disks: &Disks) {
    subject.case("queue: the write waits for room", || queue(disks));
    subject.case("queue: a COW device that grows ends the waiting", || {
        grow(disks)
    });
    subject.case("queue: suspending does not wait for space", || {
        suspend(disks)
    });
    subject.case("queue: a device is replaced while writes wait", || {
        replaced(disks)
    });
    subject.case("a rollback that finds no space to preserve", || {
        rollback(disks)
    });
    subject.case("full, and no longer, is an event", || event(disks));
}

/// The case that takes a minute, all of which is waiting: its machine can run beside others.
pub(super) fn minute(subject: &mut Subject, disks: &Disks) {
    subject.case("queue: after a minute the write fails", || timeout(disks));
}

/// A write of 64 sectors that is on its way.
pub(super) struct Waiting {
    at: u64,
    generation: u32,
    thread: JoinHandle<()>,
    result: Receiver<Option<i32>>,
}

impl Waiting {
    pub(super) fn new(co: &Device, at: u64) -> Self {
        let (sender, result) = mpsc::channel();
        let path = co.path();
        let generation = next_generation();
        let thread = thread::spawn(move || {
            let done = Disk::open(path)
                .map_err(anyhow::Error::from)
                .and_then(|disk| write_generation(&disk, at, 64, generation));
            let ended = match &done {
                Ok(()) => None,
                failed => Some(errno(failed).unwrap_or(-1)),
            };
            let _ = sender.send(ended);
        });
        Self {
            at,
            generation,
            thread,
            result,
        }
    }

    /// It is still on its way.
    pub(super) fn ensure_waits(&self, long: Duration) -> Result<()> {
        match self.result.recv_timeout(long) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            other => anyhow::bail!("the write did not wait: {other:?}"),
        }
    }

    /// It ends with this error, or without.
    pub(super) fn ends(
        self,
        long: Duration,
        errno: Option<i32>,
        world: &mut World,
        co: &Device,
    ) -> Result<()> {
        let found = self.result.recv_timeout(long).context("the write hangs")?;
        self.thread.join().expect("no panic");
        ensure!(found == errno, "it ended with {found:?}, not {errno:?}");
        if found.is_none() {
            world.now.set(self.at, 64, self.generation);
            return Ok(());
        }
        let then = world.now.clone();
        let generation = self.generation;
        world.now.learn(&co.open()?, |sector, found| {
            found == then.generation(sector) || found == generation
        })
    }
}

/// Less than a write waits for space: what ends in this time did not wait for the minute's end.
pub(super) const SOON: Duration = Duration::from_secs(40);

/// A store without any space left, and a policy that waits.
fn full_store(disks: &Disks) -> Result<(World, Device)> {
    let (mut world, co) = small_store(disks, "error")?;
    world.take(&co)?;
    fill_up(&mut world, &co.open()?)?;
    co.remove()?;
    let co = world.store.co_with(&world.origin, "-e queue")?;
    Ok((world, co))
}

const PLACE: u64 = 15 * MIB;

fn queue(disks: &Disks) -> Result<()> {
    let (mut world, co) = small_store(disks, "queue")?;
    let first = world.take(&co)?;
    let path = co.path();
    let (sender, receiver) = mpsc::channel();
    let writer = thread::spawn(move || -> Result<()> {
        let disk = Disk::open(path)?;
        for part in 0..16 {
            let generation = write(&disk, part * MIB, MIB)?;
            sender.send((part, generation))?;
        }
        Ok(())
    });
    // It comes to stand.
    loop {
        match receiver.recv_timeout(Duration::from_secs(3)) {
            Ok((part, generation)) => world.now.set(part * MIB, MIB, generation),
            Err(RecvTimeoutError::Timeout) => break,
            Err(e) => {
                writer
                    .join()
                    .expect("no panic")
                    .context("a write that was to wait")?;
                return Err(e).context("no write waited");
            }
        }
    }
    world
        .store
        .check_snapshot(&world.origin, first, &world.snapshots[&first])?;
    world.delete(&co, first)?;
    for (part, generation) in receiver.iter() {
        world.now.set(part * MIB, MIB, generation);
    }
    writer
        .join()
        .expect("no panic")
        .context("a write that waited")?;
    co.wait_clean()?;
    world.check(&co)?;
    world.check_below()?;
    co.remove()
}

fn grow(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 16 * MIB, 24, 1)?;
    co.remove()?;
    world.store.cow.show(12 * MIB)?;
    world.store.cow.wipe()?;
    let co = world.store.co_with(&world.origin, "-b -F -c 1 -e error")?;
    world.take(&co)?;
    fill_up(&mut world, &co.open()?)?;
    let table = world.store.co_table(&world.origin, "-e queue");
    co.replace(Suspend::NoFlush, &table)?;
    let waiting = Waiting::new(&co, PLACE);
    waiting.ensure_waits(Duration::from_secs(3))?;
    world.store.cow.show(24 * MIB)?;
    co.replace(Suspend::NoFlush, &table)?;
    waiting.ends(SOON, None, &mut world, &co)?;
    ensure!(co.state()?.state == "valid", "{}", co.status()?);
    world.check(&co)?;
    co.remove()
}

fn suspend(disks: &Disks) -> Result<()> {
    let (mut world, co) = full_store(disks)?;
    let waiting = Waiting::new(&co, PLACE);
    waiting.ensure_waits(Duration::from_secs(3))?;
    ensure!(co.state()?.state == "full", "{}", co.status()?);
    // One that keeps what is on its way gives it back, and it goes on waiting.
    let begin = Instant::now();
    co.suspend(Suspend::NoFlush)?;
    ensure!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    co.resume()?;
    waiting.ensure_waits(Duration::from_secs(3))?;
    // One that has all come to its end ends it.
    let begin = Instant::now();
    co.suspend(Suspend::Orderly)?;
    ensure!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    co.resume()?;
    waiting.ends(SOON, Some(libc::ENOSPC), &mut world, &co)?;
    // It waits again afterwards, and a deletion still helps.
    let waiting = Waiting::new(&co, PLACE);
    waiting.ensure_waits(Duration::from_secs(3))?;
    world.delete(&co, 1)?;
    waiting.ends(SOON, None, &mut world, &co)?;
    co.wait_clean()?;
    world.check(&co)?;
    co.remove()
}

fn timeout(disks: &Disks) -> Result<()> {
    let (mut world, co) = full_store(disks)?;
    let begin = Instant::now();
    let waiting = Waiting::new(&co, PLACE);
    waiting.ensure_waits(Duration::from_secs(50))?;
    waiting.ends(patience(), Some(libc::ENOSPC), &mut world, &co)?;
    ensure!(begin.elapsed() > Duration::from_secs(55));
    world.check(&co)?;
    co.remove()
}

fn replaced(disks: &Disks) -> Result<()> {
    let (mut world, co) = full_store(disks)?;
    let waiting = Waiting::new(&co, PLACE);
    waiting.ensure_waits(Duration::from_secs(3))?;
    // As `dmsetup remove --force` does.
    let error = Table::new(16 * MIB, "error", "");
    co.replace(Suspend::NoFlush, &error)?;
    let found = waiting.result.recv_timeout(SOON).context("it hangs")?;
    ensure!(found == Some(libc::EIO), "it ended with {found:?}");
    waiting.thread.join().expect("no panic");
    co.remove()?;
    crate::kernel::reload()?;
    let co = world.co()?;
    world.check(&co)?;
    world.delete(&co, 1)?;
    co.wait_clean()?;
    world.now.write(&co.open()?, 0, MIB)?;
    world.check(&co)?;
    co.remove()
}

/// Rolling back to a snapshot overwrites what an older one needs.
fn rollback(disks: &Disks) -> Result<()> {
    let (mut world, co) = small_store(disks, "error")?;
    let old = world.take(&co)?;
    let source = world.take(&co)?;
    // Space that comes back when the older one goes.
    let cs = world.cs(old)?;
    world.shadow(old).write(&cs.open()?, 0, 2 * MIB)?;
    cs.open()?.flush()?;
    cs.remove()?;
    // What differs from the origin where the older one still needs that.
    let cs = world.cs(source)?;
    world.shadow(source).write(&cs.open()?, 12 * MIB, MIB)?;
    cs.open()?.flush()?;
    cs.remove()?;
    world.take(&co)?;
    fill_up(&mut world, &co.open()?)?;
    let before = co.event()?;
    co.send(&format!("rs {source} -b"))?;
    world.now = world.snapshots[&source].clone();
    until("it to stand still", || {
        let rollback = co.state()?.rollback;
        Ok(rollback.is_some_and(|r| r.stopped.as_deref() == Some("full")))
    })
    .with_context(|| co.status().unwrap_or_default())?;
    ensure!(co.state()?.state == "full", "{}", co.status()?);
    ensure!(co.event()? > before, "no event");
    world.check(&co).context("while it stands still")?;
    ensure_idle()?;
    let disk = co.open()?;
    let errno = errno(&write_generation(&disk, 12 * MIB, 8, next_generation()));
    ensure!(errno == Some(libc::ENOSPC), "a pending write: {errno:?}");
    drop(disk);
    let begin = Instant::now();
    co.suspend(Suspend::Orderly)?;
    ensure!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    co.resume()?;
    world.delete(&co, old)?;
    co.wait_rollback()?;
    co.wait_clean()?;
    ensure!(co.state()?.state == "valid", "{}", co.status()?);
    world.check(&co)?;
    world.check_below()?;
    co.remove()
}

/// Who stands still takes no processor. A machine that waits for one of its host's counts that, so
/// not each look need be a good one: but who is busy all the time leaves none.
fn ensure_idle() -> Result<()> {
    let mut last = busy_ticks()?;
    until("idle processors", || {
        pass(Duration::from_secs(1));
        let before = std::mem::replace(&mut last, busy_ticks()?);
        Ok(last - before < 50)
    })
}

/// Hundredths of seconds that the processors were not idle for, together.
fn busy_ticks() -> Result<u64> {
    let text = fs::read_to_string("/proc/stat")?;
    let ticks = text.split_whitespace().skip(1).take(8);
    // The fourth and fifth are idle, and idle with I/O under way.
    let busy = ticks.enumerate().filter(|(i, _)| !matches!(i, 3 | 4));
    Ok(busy.map(|(_, n)| n.parse::<u64>()).sum::<Result<_, _>>()?)
}

fn event(disks: &Disks) -> Result<()> {
    let (mut world, co) = small_store(disks, "error")?;
    world.take(&co)?;
    let disk = co.open()?;
    world.now.write(&disk, 0, 7 * MIB + MIB / 2)?;
    until("low water", || Ok(co.event()? > 0))?;
    let before = co.event()?;
    ensure!(co.state()?.state == "valid", "{}", co.status()?);
    fill_up(&mut world, &disk)?;
    drop(disk);
    until("the state", || Ok(co.state()?.state == "full"))?;
    events(&co, before + 1)?;
    let before = co.event()?;
    world.delete(&co, 1)?;
    co.wait_clean()?;
    until("the state", || Ok(co.state()?.state == "valid"))?;
    // There is space again, and it is clean.
    events(&co, before + 2)?;
    co.remove()
}

/// There must be so many events, and no more. An event comes when what it is about can be seen.
fn events(co: &Device, wanted: u32) -> Result<()> {
    until("the events", || Ok(co.event()? >= wanted))?;
    ensure!(co.event()? == wanted, "{} events", co.event()?);
    Ok(())
}
