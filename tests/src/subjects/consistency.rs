// SPDX-License-Identifier: GPL-2.0

//! A snapshot is a moment: of writes made one after another it holds the first ones, up to
//! some point, and nothing of those behind it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use crate::content::next_generation;
use crate::disks::{Disks, MIB};
use crate::dm::{Mapped, Table};
use crate::io::Disk;
use crate::puppet::{Op, Puppet};
use crate::report::Subject;
use crate::shadow::{write, write_generation, Shadow};
use crate::store::{co_line, cs_line, Device, Store, TARGET};
use crate::time::pass;
use crate::world::World;

/// How much longer than usual it may take until there is enough.
const PATIENCE: Duration = Duration::from_secs(60);

/// For what must not come while something is held back.
const SOME_TIME: Duration = Duration::from_millis(300);

/// Runs the cases.
pub fn run(subject: &mut Subject, disks: &Disks) {
    subject.case("one writer, blocks of 4 KiB", || {
        origin(
            disks,
            &Stamps {
                threads: 1,
                sectors: 8,
                offset: 0,
                places: 512,
            },
            1,
        )
    });
    subject.case("two writers in turn, on both processors", || {
        origin(
            disks,
            &Stamps {
                threads: 2,
                sectors: 8,
                offset: 0,
                places: 512,
            },
            4,
        )
    });
    subject.case("writes that span chunks are never torn", || {
        origin(
            disks,
            &Stamps {
                threads: 1,
                sectors: 128,
                offset: 3,
                places: 60,
            },
            4,
        )
    });
    subject.case("a snapshot of a snapshot that is being written", || {
        snapshot(disks)
    });
    subject.case("snapshots without a pause do not keep writes out", || {
        no_starvation(disks)
    });
    subject.case("a write under way is waited for", || write_held(disks));
    subject.case("no write passes while a snapshot is taken", commit_held);
    subject.case("two origins of one store", || two_origins(disks));
}

/// Writes made one after another, round and round over `places` places of `sectors` each.
#[derive(Clone)]
struct Stamps {
    threads: usize,
    sectors: u64,
    offset: u64,
    places: u64,
}

/// What was written while snapshots were taken.
struct Written {
    generations: Vec<u32>,
}

/// A snapshot, and how many writes were done before and begun after.
struct Moment {
    tag: u32,
    at_least: usize,
    at_most: usize,
}

impl Stamps {
    fn place(&self, i: usize) -> u64 {
        self.offset + i as u64 % self.places * self.sectors
    }

    /// Writes to `target` for as `long`, or until there is enough of it on a slow machine, and calls
    /// `take` all the time meanwhile.
    fn run(
        &self,
        target: &Device,
        long: Duration,
        mut take: impl FnMut() -> Result<u32>,
    ) -> Result<(Written, Vec<Moment>)> {
        // Generations are drawn before, so that a thread needs only its turn's number.
        const MOST: usize = 20_000;
        let generations: Vec<u32> = (0..MOST).map(|_| next_generation()).collect();
        let begun = AtomicUsize::new(0);
        let done = AtomicUsize::new(0);
        let among = AtomicUsize::new(0);
        let mut moments = Vec::new();
        let count = thread::scope(|scope| -> Result<usize> {
            // A number goes round among the writers: who has it writes that one.
            let (senders, receivers): (Vec<_>, Vec<_>) =
                (0..self.threads).map(|_| mpsc::channel::<usize>()).unzip();
            let end = Instant::now() + long;
            let mut writers = Vec::new();
            for (i, receiver) in receivers.into_iter().enumerate() {
                let next = senders[(i + 1) % self.threads].clone();
                let disk = Disk::open(target.path())?;
                let (begun, done, among) = (&begun, &done, &among);
                let generations = &generations;
                writers.push(scope.spawn(move || -> Result<()> {
                    while let Ok(turn) = receiver.recv() {
                        let now = Instant::now();
                        let enough = is_enough(turn, among.load(Ordering::SeqCst));
                        if turn == MOST || now >= end && (enough || now >= end + PATIENCE) {
                            let _ = next.send(MOST);
                            break;
                        }
                        begun.store(turn + 1, Ordering::SeqCst);
                        write_generation(&disk, self.place(turn), self.sectors, generations[turn])?;
                        done.store(turn + 1, Ordering::SeqCst);
                        let _ = next.send(turn + 1);
                    }
                    Ok(())
                }));
            }
            senders[0].send(0).context("the first turn")?;
            drop(senders);
            while writers.iter().any(|writer| !writer.is_finished()) {
                let at_least = done.load(Ordering::SeqCst);
                let tag = take()?;
                let at_most = begun.load(Ordering::SeqCst);
                among.fetch_add(usize::from(at_most > 0), Ordering::SeqCst);
                // Not more snapshots than can be looked at.
                sleep(Duration::from_millis(moments.len() as u64 % 7 * 10));
                moments.push(Moment {
                    tag,
                    at_least,
                    at_most,
                });
            }
            for writer in writers {
                writer.join().expect("no panic")?;
            }
            Ok(done.load(Ordering::SeqCst))
        })?;
        let generations = generations[..count].to_vec();
        Ok((Written { generations }, moments))
    }

    /// Which of the writes `seen` holds must be all up to some count, which is returned.
    fn count(&self, written: &Written, before: &Shadow, seen: &Shadow) -> Result<usize> {
        let newest = (0..self.places as usize)
            .map(|i| seen.generation(self.place(i)))
            .max();
        let count = written
            .generations
            .iter()
            .rposition(|&generation| Some(generation) == newest)
            .map_or(0, |i| i + 1);
        let mut expected = before.clone();
        for (i, &generation) in written.generations[..count].iter().enumerate() {
            expected.set(self.place(i), self.sectors, generation);
        }
        let differ = expected.difference(seen);
        ensure!(
            differ == 0,
            "it is no moment: its newest write is number {count}, but {differ} sectors differ"
        );
        Ok(count)
    }

    /// Compares every snapshot with the writes.
    fn check(
        &self,
        world: &World,
        before: &Shadow,
        written: &Written,
        moments: &[Moment],
    ) -> Result<()> {
        for moment in moments {
            let device = world.store.cs(&world.origin, moment.tag)?;
            let mut seen = before.clone();
            seen.learn(&device.open()?, |_, _| true)
                .and_then(|()| {
                    let count = self.count(written, before, &seen)?;
                    let possible = moment.at_least..=moment.at_most;
                    ensure!(
                        possible.contains(&count),
                        "{count} writes, not {possible:?}"
                    );
                    Ok(())
                })
                .with_context(|| format!("snapshot {}", moment.tag))?;
            device.remove()?;
        }
        Ok(())
    }
}

/// Whether so many writes, and snapshots among them, prove anything.
fn is_enough(writes: usize, among: usize) -> bool {
    among >= 4 && writes >= 50
}

fn enough(written: &Written, moments: &[Moment]) -> Result<()> {
    let among = moments.iter().filter(|m| m.at_most > 0).count();
    let writes = written.generations.len();
    ensure!(
        is_enough(writes, among),
        "{writes} writes and {among} snapshots among them prove nothing"
    );
    Ok(())
}

fn origin(disks: &Disks, stamps: &Stamps, pages: u32) -> Result<()> {
    let (world, co) = World::new(disks, 4 * MIB, 220, pages)?;
    let before = world.now.clone();
    let (written, mut moments) = stamps.run(&co, Duration::from_secs(3), || co.take())?;
    enough(&written, &moments)?;
    moments.truncate(60);
    stamps.check(&world, &before, &written, &moments)?;
    co.remove()
}

fn snapshot(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 220, 4)?;
    let tag = world.take(&co)?;
    let cs = world.cs(tag)?;
    let before = world.snapshots[&tag].clone();
    let stamps = Stamps {
        threads: 2,
        sectors: 8,
        offset: 0,
        places: 512,
    };
    let (written, mut moments) = stamps.run(&cs, Duration::from_secs(3), || cs.take_of(tag))?;
    enough(&written, &moments)?;
    moments.truncate(60);
    stamps.check(&world, &before, &written, &moments)?;
    world.now.check(&co.open()?).context("origin")?;
    cs.remove()?;
    co.remove()
}

/// Takes a snapshot with a write of block 0 under way. Whatever the snapshot holds of it when
/// its tag is known, it holds for ever.
fn write_held(disks: &Disks) -> Result<()> {
    let disk = Puppet::new(4)?;
    let store = Store::new(disks, 32 * MIB)?;
    let before = Shadow::filled(&Disk::open(disk.path())?)?;
    let line = co_line(&disk.path(), &store.cow.path(), "-i o -b -F -c 1");
    let co = Device(Mapped::create("co", &Table::new(4 * MIB, TARGET, line))?);
    // With no snapshot yet, and with one: the write goes another way.
    for round in 0..2 {
        let target = co.open()?;
        disk.hold_some(&[Op::Write], 1);
        let (tag, seen) = thread::scope(|scope| -> Result<_> {
            let writer = scope.spawn(|| write(&target, 0, 8));
            disk.wait_held(1)?;
            let taker = scope.spawn(|| co.take());
            pass(SOME_TIME);
            let mut seen = None;
            if taker.is_finished() {
                // It did not wait: then the write must be no part of it.
                let cs = snapshot_of(&disk, &store.cow.path(), round + 1)?;
                let mut now = before.clone();
                now.learn(&cs.open()?, |_, _| true)?;
                seen = Some(now);
                cs.remove()?;
            }
            disk.release();
            let tag = taker.join().expect("no panic")?;
            writer.join().expect("no panic")?;
            Ok((tag, seen))
        })?;
        let cs = snapshot_of(&disk, &store.cow.path(), tag)?;
        let mut now = before.clone();
        now.learn(&cs.open()?, |_, _| true)?;
        cs.remove()?;
        if let Some(seen) = seen {
            ensure!(seen.difference(&now) == 0, "the snapshot has changed");
        }
    }
    co.remove()
}

/// The COW device takes its time to make a snapshot durable: a write that is sent meanwhile must
/// not reach the origin unless it is kept out of the snapshot, or is a part of it for ever.
fn commit_held() -> Result<()> {
    let (disk, cow) = (Puppet::new(4)?, Puppet::new(32)?);
    let before = Shadow::filled(&Disk::open(disk.path())?)?;
    let line = co_line(&disk.path(), &cow.path(), "-i o -b -F -c 1");
    let co = Device(Mapped::create("co", &Table::new(4 * MIB, TARGET, line))?);
    for _ in 0..2 {
        let target = co.open()?;
        cow.hold(&[Op::Write, Op::Flush]);
        disk.hold(&[Op::Write]);
        let (tag, seen) = thread::scope(|scope| -> Result<_> {
            let taker = scope.spawn(|| co.take());
            cow.wait_held(1)?;
            let writer = scope.spawn(|| write(&target, 8, 8));
            pass(SOME_TIME);
            // The snapshot is made durable; the write is still under way, wherever it is.
            cow.release();
            let tag = taker.join().expect("no panic")?;
            let cs = snapshot_of(&disk, &cow.path(), tag)?;
            let mut seen = before.clone();
            seen.learn(&cs.open()?, |_, _| true)?;
            cs.remove()?;
            disk.release();
            writer.join().expect("no panic")?;
            Ok((tag, seen))
        })?;
        let cs = snapshot_of(&disk, &cow.path(), tag)?;
        let mut now = before.clone();
        now.learn(&cs.open()?, |_, _| true)?;
        cs.remove()?;
        ensure!(seen.difference(&now) == 0, "the snapshot has changed");
    }
    co.remove()
}

fn snapshot_of(disk: &Puppet, cow: &Path, tag: u32) -> Result<Device> {
    let line = cs_line(&disk.path(), cow, tag, "-i o");
    Ok(Device(Mapped::create(
        "cs",
        &Table::new(4 * MIB, TARGET, line),
    )?))
}

fn no_starvation(disks: &Disks) -> Result<()> {
    let (_world, co) = World::new(disks, 4 * MIB, 64, 1)?;
    let disk = co.open()?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let taker = scope.spawn(|| -> Result<u32> {
            let mut tag = 0;
            while !over.load(Ordering::Relaxed) && tag < 3000 {
                tag = co.take()?;
            }
            Ok(tag)
        });
        let begin = Instant::now();
        let written = (0..30).try_for_each(|i| write(&disk, i * 8, 8).map(drop));
        let took = begin.elapsed();
        over.store(true, Ordering::Relaxed);
        let tag = taker.join().expect("no panic")?;
        written?;
        ensure!(
            tag < 3000,
            "30 writes took more than {tag} snapshots, {took:?}"
        );
        Ok(())
    })?;
    drop(disk);
    co.remove()
}

/// A snapshot of one origin does not stop, nor tear, the other.
fn two_origins(disks: &Disks) -> Result<()> {
    let (world, co) = World::new(disks, 4 * MIB, 220, 4)?;
    let other = crate::store::Origin::new(disks, "other", 4 * MIB)?;
    let other_before = Shadow::filled(&other.piece.open()?)?;
    let other_co = world.store.bind(&other)?;
    let before = world.now.clone();
    let stamps = Stamps {
        threads: 1,
        sectors: 8,
        offset: 0,
        places: 512,
    };
    let long = Duration::from_secs(3);
    let (mine, others) = thread::scope(|scope| {
        let others = scope.spawn(|| stamps.run(&other_co, long, || other_co.take()));
        let mine = stamps.run(&co, long, || co.take());
        (mine, others.join().expect("no panic"))
    });
    let (written, mut moments) = mine?;
    enough(&written, &moments)?;
    moments.truncate(20);
    stamps
        .check(&world, &before, &written, &moments)
        .context("first")?;
    let (written, mut moments) = others?;
    enough(&written, &moments)?;
    moments.truncate(20);
    let World { store, .. } = world;
    for moment in &moments {
        let device = store.cs(&other, moment.tag)?;
        let mut seen = other_before.clone();
        seen.learn(&device.open()?, |_, _| true)?;
        let count = stamps
            .count(&written, &other_before, &seen)
            .context("second")?;
        ensure!(
            (moment.at_least..=moment.at_most).contains(&count),
            "second: {count} writes"
        );
        device.remove()?;
    }
    other_co.remove()?;
    co.remove()
}
