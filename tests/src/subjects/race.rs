// SPDX-License-Identifier: GPL-2.0

//! A read of a snapshot that falls through to the origin, and an origin that changes under
//! it: the read must never see the change.
//!
//! Under load the moment is found now and then. On a disk that holds the read back for as long as
//! the test likes it is found each time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use crate::disks::{Disks, MIB};
use crate::dm::{Mapped, Table};
use crate::effort::usual_or_long;
use crate::io::{writes_waiting, Buffer, Disk};
use crate::puppet::{Op, Puppet};
use crate::random::Random;
use crate::report::Subject;
use crate::shadow::Shadow;
use crate::store::{co_line, cs_line, until, until_nothing, Device, Origin, Store, TARGET};
use crate::time::pass;
use crate::world::World;

/// For what must not come while something is held back.
const SOME_TIME: Duration = Duration::from_millis(300);

/// Runs the cases.
pub fn run(subject: &mut Subject, disks: &Disks) {
    for pages in [1, 16] {
        subject.case(&format!("under load, chunks of {pages} pages"), || {
            under_load(disks, pages)
        });
    }
    subject.case("a write waits for a slow read", || {
        held_up(disks, |disk, now| now.write(disk, 0, 256))
    });
    subject.case("a write of a part waits for a slow read", || {
        held_up(disks, |disk, now| now.write(disk, 77, 1))
    });
    subject.case("a discard waits for a slow read", || {
        held_up(disks, |disk, now| now.discard(disk, 0, 256))
    });
    subject.case("write-zeroes waits for a slow read", || {
        held_up(disks, |disk, now| now.zero_out(disk, 0, 256))
    });
    subject.case("a rollback waits for a slow read", || {
        rollback_held_up(disks)
    });
    subject.case("a slow read stops no other chunk", || others_go_on(disks));
    subject.case("a slow origin holds up no other", || {
        other_origin_goes_on(disks)
    });
    subject.case("readers do not keep a write out", || {
        write_among_readers(disks)
    });
    subject.case(
        "who comes while a rollback begins reads what it leads to",
        || opened_meanwhile(disks),
    );
}

/// A writer overwrites, as fast as it can, what readers read through the snapshot.
fn under_load(disks: &Disks, pages: u32) -> Result<()> {
    const SECTORS: u64 = 4 * MIB;
    let (mut world, co) = World::new(disks, SECTORS, 160, pages)?;
    let mut random = Random::from_environment("race");
    for _ in 0..usual_or_long(2, 6) {
        let tag = world.take(&co)?;
        let cs = world.cs(tag)?;
        let then = world.snapshots[&tag].clone();
        let over = AtomicBool::new(false);
        let reads = AtomicU64::new(0);
        // The writer goes over all chunks in an order of its own; readers run to where it is.
        let position = AtomicU64::new(0);
        let step = random.pick(1..4) * 8 + random.pick(0..2);
        thread::scope(|scope| -> Result<()> {
            let readers: Vec<_> = (0..3)
                .map(|i| {
                    let (cs, then, over) = (&cs, &then, &over);
                    let (reads, position) = (&reads, &position);
                    scope.spawn(move || -> Result<()> {
                        let disk = cs.open()?;
                        let mut random = Random::new(i);
                        while !over.load(Ordering::Relaxed) {
                            let at = position.load(Ordering::Relaxed) + random.pick(0..48);
                            let at = at.min(SECTORS - 1);
                            let count = random.pick(1..40).min(SECTORS - at);
                            then.check_range(&disk, at, count)?;
                            reads.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(())
                    })
                })
                .collect();
            let disk = co.open()?;
            let mut at = 0;
            let written = (|| {
                while at < SECTORS {
                    position.store(at, Ordering::Relaxed);
                    let count = random.pick(1..step + 8).min(SECTORS - at);
                    world.now.write(&disk, at, count)?;
                    at += step;
                }
                Ok(())
            })();
            over.store(true, Ordering::Relaxed);
            for reader in readers {
                reader.join().expect("no panic")?;
            }
            written
        })?;
        ensure!(reads.into_inner() > 50, "hardly anything was read");
        then.check(&cs.open()?)?;
        cs.remove()?;
    }
    world.check(&co)?;
    co.remove()
}

/// An origin on a disk that holds requests back, with one snapshot.
struct Held {
    origin: Puppet,
    store: Store,
    co: Device,
    cs: Device,
    now: Shadow,
    then: Shadow,
}

impl Held {
    fn new(disks: &Disks) -> Result<Self> {
        let origin = Puppet::new(4)?;
        let store = Store::new(disks, 48 * MIB)?;
        let now = Shadow::filled(&Disk::open(origin.path())?)?;
        let line = co_line(&origin.path(), &store.cow.path(), "-i o -b -F -c 4");
        let co = Device(Mapped::create("co", &Table::new(4 * MIB, TARGET, line))?);
        let tag = co.take()?;
        let line = cs_line(&origin.path(), &store.cow.path(), tag, "-i o");
        let cs = Device(Mapped::create("cs", &Table::new(4 * MIB, TARGET, line))?);
        let then = now.clone();
        Ok(Self {
            origin,
            store,
            co,
            cs,
            now,
            then,
        })
    }

    /// Reads the snapshot's first 128 sectors while `change` goes on, which must not come to an
    /// end before the read does.
    fn read_during(
        &mut self,
        change: impl FnOnce(&Device, &mut Shadow) -> Result<()> + Send,
    ) -> Result<()> {
        let (origin, co, cs) = (&self.origin, &self.co, &self.cs);
        let (now, then) = (&mut self.now, &self.then);
        origin.hold_some(&[Op::Read], 1);
        thread::scope(|scope| -> Result<()> {
            let reader = scope.spawn(|| -> Result<Buffer> { Ok(cs.open()?.read(0, 128)?) });
            origin.wait_held(1)?;
            let changer = scope.spawn(|| change(co, now));
            pass(SOME_TIME);
            let early = changer.is_finished();
            origin.release();
            let bytes = reader.join().expect("no panic")?;
            changer.join().expect("no panic")?;
            then.check_bytes(&bytes, 0).context("the slow read")?;
            ensure!(!early, "it did not wait for the read");
            Ok(())
        })
    }

    fn end(self) -> Result<()> {
        self.then.check(&self.cs.open()?).context("snapshot")?;
        self.now.check(&self.co.open()?).context("origin")?;
        self.cs.remove()?;
        self.co.remove()?;
        drop(self.store);
        Ok(())
    }
}

fn held_up(
    disks: &Disks,
    change: impl FnOnce(&Disk, &mut Shadow) -> Result<()> + Send,
) -> Result<()> {
    let mut held = Held::new(disks)?;
    held.read_during(|co, now| change(&co.open()?, now))?;
    held.end()
}

fn rollback_held_up(disks: &Disks) -> Result<()> {
    let mut held = Held::new(disks)?;
    // The later snapshot's chunks are the origin's; the earlier one's are in the store.
    held.now.write(&held.co.open()?, 0, 512)?;
    let tag = held.co.take()?;
    let later = held.now.clone();
    let line = cs_line(&held.origin.path(), &held.store.cow.path(), tag, "-i o");
    let cs = Device(Mapped::create("cs", &Table::new(4 * MIB, TARGET, line))?);
    let earlier = std::mem::replace(&mut held.cs, cs);
    let oldest = std::mem::replace(&mut held.then, later);
    let to = oldest.clone();
    held.read_during(|co, now| {
        co.send("rs 1")?;
        *now = to;
        Ok(())
    })?;
    oldest.check(&earlier.open()?).context("the source")?;
    earlier.remove()?;
    held.end()
}

fn others_go_on(disks: &Disks) -> Result<()> {
    let mut held = Held::new(disks)?;
    let (origin, co, cs) = (&held.origin, &held.co, &held.cs);
    let (now, then) = (&mut held.now, &held.then);
    origin.hold_some(&[Op::Read], 1);
    thread::scope(|scope| -> Result<()> {
        let reader = scope.spawn(|| -> Result<Buffer> { Ok(cs.open()?.read(0, 128)?) });
        origin.wait_held(1)?;
        let others = (|| {
            let disk = co.open()?;
            now.write(&disk, MIB, 256)?;
            then.check_range(&cs.open()?, MIB, 256)?;
            co.take()?;
            now.write(&disk, MIB, 256)
        })();
        let waits = !reader.is_finished();
        origin.release();
        let bytes = reader.join().expect("no panic")?;
        others?;
        ensure!(waits, "the read was not held back");
        then.check_bytes(&bytes, 0).context("the slow read")
    })?;
    held.end()
}

/// What one origin's writes wait for is nothing to another's, which are made durable meanwhile.
fn other_origin_goes_on(disks: &Disks) -> Result<()> {
    const WRITES: u64 = 20;
    let mut held = Held::new(disks)?;
    let other = Origin::new(disks, "other", MIB)?;
    let mut other_now = Shadow::filled(&other.piece.open()?)?;
    let co_other = held.store.bind(&other)?;
    let other_then = other_now.clone();
    let tag = co_other.take()?;
    let (origin, co, now) = (&held.origin, &held.co, &mut held.now);
    // What is written is to be preserved first, and so to be read.
    origin.hold_some(&[Op::Read], 1);
    let ended = AtomicU64::new(0);
    thread::scope(|scope| -> Result<()> {
        let writer = scope.spawn(|| now.write(&co.open()?, 0, 8));
        let came = origin.wait_held(1);
        let others = scope.spawn(|| -> Result<()> {
            let disk = co_other.open()?;
            for chunk in 0..WRITES {
                other_now.write(&disk, chunk * 32, 8)?;
                ended.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let goes_on = until_nothing("the other origin's writes", || {
            let left = WRITES - ended.load(Ordering::Relaxed);
            Ok((left > 0 && !others.is_finished()).then_some(left))
        });
        let waits = !writer.is_finished();
        origin.release();
        writer.join().expect("no panic")?;
        others.join().expect("no panic")?;
        came?;
        goes_on?;
        ensure!(waits, "the slow origin was not slow");
        Ok(())
    })?;
    other_now.check(&co_other.open()?).context("the other")?;
    co_other.remove()?;
    held.store.check_snapshot(&other, tag, &other_then)?;
    held.end()
}

/// A read that comes when a write waits for another one of the same chunk does not go first: else
/// two of them could keep the write out by turns.
fn write_among_readers(disks: &Disks) -> Result<()> {
    let mut held = Held::new(disks)?;
    let (origin, co, cs) = (&held.origin, &held.co, &held.cs);
    let (now, then) = (&mut held.now, &held.then);
    let read = || -> Result<Buffer> { Ok(cs.open()?.read(0, 8)?) };
    origin.hold_some(&[Op::Read], 2);
    thread::scope(|scope| -> Result<()> {
        let first = scope.spawn(read);
        origin.wait_held(1)?;
        let writer = scope.spawn(|| now.write(&co.open()?, 0, 8));
        let came = until("the write to come", || Ok(writes_waiting()? > 0));
        pass(SOME_TIME);
        let second = scope.spawn(read);
        pass(SOME_TIME);
        let arrived = origin.held();
        let early = writer.is_finished();
        origin.release();
        let first = first.join().expect("no panic")?;
        let second = second.join().expect("no panic")?;
        writer.join().expect("no panic")?;
        came?;
        then.check_bytes(&first, 0).context("the first read")?;
        then.check_bytes(&second, 0).context("the second read")?;
        ensure!(!early, "the write did not wait");
        ensure!(arrived == 1, "the second read went first");
        Ok(())
    })?;
    held.end()
}

/// While a rollback is made durable somebody opens the origin, and reads.
fn opened_meanwhile(disks: &Disks) -> Result<()> {
    let cow = Puppet::new(64)?;
    let origin = disks.piece(4 * MIB)?;
    let mut now = Shadow::filled(&origin.open()?)?;
    let line = co_line(&origin.path(), &cow.path(), "-i o -b -F");
    let co = Device(Mapped::create("co", &Table::new(4 * MIB, TARGET, line))?);
    let tag = co.take()?;
    let then = now.clone();
    now.write(&co.open()?, 0, 256)?;
    cow.hold(&[Op::Write, Op::Flush]);
    thread::scope(|scope| -> Result<()> {
        let message = scope.spawn(|| co.send(&format!("rs {tag}")));
        cow.wait_held(1)?;
        let reader = scope.spawn(|| -> Result<Buffer> { Ok(co.open()?.read(0, 64)?) });
        pass(SOME_TIME);
        cow.release();
        let bytes = reader.join().expect("no panic")?;
        message.join().expect("no panic")?;
        then.check_bytes(&bytes, 0)
    })?;
    then.check(&co.open()?)?;
    co.remove()
}
