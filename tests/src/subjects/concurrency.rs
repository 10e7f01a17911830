// SPDX-License-Identifier: GPL-2.0

//! What happens to devices while they are in use, and to all at once: suspended, reloaded, killed,
//! asked by many, torn down in every order. All the while somebody asks for status and lists.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use super::stress::ask;
use crate::content::next_generation;
use crate::disks::{Disks, MIB};
use crate::dm::{self, Mapped, Suspend};
use crate::io::Disk;
use crate::random::Random;
use crate::report::Subject;
use crate::shadow::{write_generation, Shadow};
use crate::store::{Device, Origin};
use crate::sys;
use crate::world::{random_io, World};

/// Runs the cases.
pub fn run(subject: &mut Subject, disks: &Disks) {
    let random = Random::from_environment("concurrency");
    subject.case("snapshots of a suspended origin", || {
        asked(&random, || suspended(disks, random.clone()))
    });
    subject.case("reloads with another size and policy", || {
        asked(&random, || reloaded(disks, random.clone()))
    });
    subject.case("killed under load", || {
        asked(&random, || killed(disks, random.clone()))
    });
    subject.case("messages from many processes", || {
        asked(&random, || storm(disks, &random))
    });
    subject.case("torn down in every order", || {
        asked(&random, || every_order(disks, random.clone()))
    });
    subject.case("torn down all at once", || {
        asked(&random, || all_at_once(disks, random.clone()))
    });
    subject.case("the module stays while it is in use", || stays(disks));
}

/// Has somebody ask questions while `run` runs.
fn asked(random: &Random, run: impl FnOnce() -> Result<()>) -> Result<()> {
    let over = AtomicBool::new(false);
    let mut random = random.clone();
    thread::scope(|scope| {
        let asks = scope.spawn(|| -> Result<()> {
            while !over.load(Ordering::Relaxed) {
                ask(&mut random)?;
                sleep(Duration::from_millis(random.pick(1..10)));
            }
            Ok(())
        });
        let result = run();
        over.store(true, Ordering::Relaxed);
        asks.join().expect("no panic").context("questions")?;
        result
    })
}

/// One who writes pieces of a device until it is told to stop or the device ends it.
struct Writer {
    /// What the device holds but for the last write, if that failed.
    shadow: Shadow,
    /// The write that failed: where, how much, which.
    failed: Option<(u64, u64, u32)>,
}

fn write_until(disk: &Disk, shadow: Shadow, seed: u64, over: &AtomicBool) -> Writer {
    let mut writer = Writer {
        shadow,
        failed: None,
    };
    let mut random = Random::new(seed);
    while !over.load(Ordering::Relaxed) {
        let (start, count) = random.extent(writer.shadow.sectors());
        let generation = next_generation();
        if write_generation(disk, start, count, generation).is_err() {
            writer.failed = Some((start, count, generation));
            break;
        }
        writer.shadow.set(start, count, generation);
    }
    writer
}

impl Writer {
    /// Reads what became of the write that failed: each of its sectors is old or new.
    fn settle(&mut self, disk: &Disk) -> Result<()> {
        let Some((start, count, generation)) = self.failed.take() else {
            return self.shadow.check(disk);
        };
        let before = self.shadow.clone();
        self.shadow.learn(disk, |sector, found| {
            let inside = (start..start + count).contains(&sector);
            found == before.generation(sector) || inside && found == generation
        })
    }
}

fn suspended(disks: &Disks, mut random: Random) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 96, 4)?;
    let first = world.take(&co)?;
    let cs = world.cs(first)?;
    for how in [Suspend::Orderly, Suspend::NoFlush].repeat(4) {
        let over = AtomicBool::new(false);
        let seeds = [random.number(), random.number()];
        let (tags, writers) = thread::scope(|scope| -> Result<_> {
            let devices = [
                (co.open()?, world.now.clone()),
                (cs.open()?, world.snapshots[&first].clone()),
            ];
            let over = &over;
            let writers: Vec<_> = devices
                .into_iter()
                .zip(seeds)
                .map(|((disk, shadow), seed)| {
                    scope.spawn(move || write_until(&disk, shadow, seed, over))
                })
                .collect();
            sleep(Duration::from_millis(random.pick(1..60)));
            let done = (|| -> Result<Vec<u32>> {
                co.suspend(how)?;
                // Whatever was written is there now, and nothing more comes.
                let of_origin = [co.take()?, cs.take()?];
                cs.suspend(how)?;
                let of_snapshot = [co.take_of(first)?, cs.take_of(first)?];
                ensure!(
                    of_origin[1] == of_origin[0] + 1 && of_snapshot[1] == of_snapshot[0] + 1,
                    "other tags than the next"
                );
                co.resume()?;
                cs.resume()?;
                Ok([of_origin, of_snapshot].concat())
            })();
            over.store(true, Ordering::Relaxed);
            let _ = (co.resume(), cs.resume());
            let writers: Vec<Writer> = writers
                .into_iter()
                .map(|w| w.join().expect("no panic"))
                .collect();
            Ok((done?, writers))
        })?;
        for (i, writer) in writers.into_iter().enumerate() {
            ensure!(writer.failed.is_none(), "a write failed");
            match i {
                0 => world.now = writer.shadow,
                _ => *world.shadow(first) = writer.shadow,
            }
        }
        // Two snapshots of one moment are the same.
        for pair in tags.chunks_exact(2) {
            let mut copies = Vec::new();
            for &tag in pair {
                let device = world.store.cs(&world.origin, tag)?;
                let mut shadow = Shadow::zeroed(4 * MIB);
                shadow.learn(&device.open_read_only()?, |_, _| true)?;
                device.remove()?;
                copies.push(shadow);
            }
            let differ = copies[0].difference(&copies[1]);
            ensure!(differ == 0, "{differ} sectors differ while suspended");
        }
        world.now.check(&co.open()?).context("the origin")?;
        let of_first = &world.snapshots[&first];
        of_first.check(&cs.open()?).context("the snapshot")?;
        for tag in tags {
            co.delete(tag)?;
        }
    }
    cs.remove()?;
    world.check(&co)?;
    co.remove()
}

fn reloaded(disks: &Disks, mut random: Random) -> Result<()> {
    const STEP: u64 = MIB / 2 + 8;
    let (world, co) = World::new(disks, 8 * MIB, 96, 2)?;
    co.remove()?;
    let origin = Origin {
        piece: disks.piece(6 * MIB)?,
        id: "growing".into(),
    };
    let mut size = 2 * MIB;
    origin.piece.show(size)?;
    let mut now = Shadow::filled(&origin.piece.open()?)?;
    let co = world.store.bind(&origin)?;
    let mut snapshots = Vec::new();
    while size + STEP <= 6 * MIB {
        snapshots.push((co.take()?, now.clone()));
        let over = AtomicBool::new(false);
        let seed = random.number();
        let small = size;
        size += STEP;
        let writer = thread::scope(|scope| -> Result<Writer> {
            let disk = co.open()?;
            let (over, before) = (&over, now.clone());
            let writer = scope.spawn(move || write_until(&disk, before, seed, over));
            let done = (|| {
                for options in ["-e error", "-e queue", ""] {
                    let table = world.store.co_table(&origin, options);
                    co.replace(Suspend::NoFlush, &table)?;
                }
                origin.piece.show(size)?;
                let mut table = world.store.co_table(&origin, "");
                let how = *random.one_of(&[Suspend::Orderly, Suspend::NoFlush]);
                co.replace(how, &table).context("grown")?;
                // The old size is none any more, while there is more.
                table.length = small;
                ensure!(co.load(&table).is_err(), "a table of the old size");
                Ok(())
            })();
            over.store(true, Ordering::Relaxed);
            let writer = writer.join().expect("no panic");
            done.map(|()| writer)
        })?;
        ensure!(writer.failed.is_none(), "a write failed");
        now = writer.shadow;
        let disk = co.open()?;
        ensure!(disk.sectors() == size, "{} sectors", disk.sectors());
        now.grow(size);
        now.write(&disk, small, STEP)?;
        now.check(&disk)?;
    }
    for (tag, shadow) in &snapshots {
        world.store.check_snapshot(&origin, *tag, shadow)?;
    }
    co.remove()
}

fn killed(disks: &Disks, mut random: Random) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 96, 4)?;
    let first = world.take(&co)?;
    world.take(&co)?;
    co.remove()?;
    for round in 0..8 {
        let devices = [world.co()?, world.cs(first)?];
        let over = AtomicBool::new(false);
        let seeds = [random.number(), random.number()];
        let writers = thread::scope(|scope| -> Result<Vec<Writer>> {
            let disks = [devices[0].open()?, devices[1].open()?];
            let shadows = [world.now.clone(), world.snapshots[&first].clone()];
            let over = &over;
            let writers: Vec<_> = disks
                .into_iter()
                .zip(shadows)
                .zip(seeds)
                .map(|((disk, shadow), seed)| {
                    scope.spawn(move || write_until(&disk, shadow, seed, over))
                })
                .collect();
            sleep(Duration::from_millis(random.pick(1..80)));
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            let dead = order.map(|i| devices[i].kill());
            over.store(true, Ordering::Relaxed);
            let writers = writers
                .into_iter()
                .map(|w| w.join().expect("no panic"))
                .collect();
            for dead in dead {
                dead.context("an error target instead")?;
            }
            Ok(writers)
        })?;
        for device in devices {
            device.remove()?;
        }
        let mut writers = writers.into_iter();
        let (co, cs) = (world.co()?, world.cs(first)?);
        let mut of_origin = writers.next().context("a writer")?;
        of_origin.settle(&co.open()?).context("the origin")?;
        let mut of_first = writers.next().context("a writer")?;
        of_first.settle(&cs.open()?).context("the snapshot")?;
        world.now = of_origin.shadow;
        *world.shadow(first) = of_first.shadow;
        cs.remove()?;
        world.check(&co)?;
        co.remove()?;
    }
    Ok(())
}

/// A process of its own that sends many messages; what it was answered with.
fn process(name: &str, messages: &str) -> Result<std::process::Child> {
    let script = format!(
        "for i in 1 2 3 4; do for m in {messages}; do \
         dmsetup message {name} 0 \"try $(echo $m | tr _ ' ')\" || exit 1; done; done"
    );
    Command::new("sh")
        .args(["-c", &script])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .context("a process")
}

fn storm(disks: &Disks, random: &Random) -> Result<()> {
    let (mut world, co) = World::new(disks, 2 * MIB, 96, 1)?;
    world.take(&co)?;
    let name = co.name().to_owned();
    let mut writing = random.clone();
    let mut children = Vec::new();
    for _ in 0..3 {
        children.push(process(&name, "so list ss_1 status ds_1000000 list_2_3")?);
    }
    // Those that take and delete, as fast as they can.
    let (taken, deleted) = thread::scope(|scope| -> Result<_> {
        let threads: Vec<_> = (0..5)
            .map(|i| {
                let name = &name;
                scope.spawn(move || -> Result<(Vec<u32>, Vec<u32>)> {
                    let (mut taken, mut deleted) = (Vec::new(), Vec::new());
                    for round in 0..12u32 {
                        let message = if round % 3 == 2 {
                            "ss 1"
                        } else {
                            "so -m storm"
                        };
                        let tag = dm::message(name, message).context(message)?;
                        taken.push(tag.trim().parse()?);
                        if (round + i) % 2 == 0 {
                            let tag = taken[taken.len() / 2];
                            if !deleted.contains(&tag) {
                                dm::message(name, &format!("ds {tag}"))?;
                                deleted.push(tag);
                            }
                        }
                    }
                    Ok((taken, deleted))
                })
            })
            .collect();
        let disk = co.open()?;
        random_io(&mut writing, &disk, &mut world.now, 60)?;
        let (mut taken, mut deleted) = (Vec::new(), BTreeSet::new());
        for thread in threads {
            let (more, gone) = thread.join().expect("no panic")?;
            taken.extend(more);
            deleted.extend(gone);
        }
        Ok((taken, deleted))
    })?;
    let mut all: BTreeSet<u32> = taken.iter().copied().collect();
    ensure!(all.len() == taken.len(), "a tag was given twice: {taken:?}");
    for child in children {
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "a process failed");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let tags = text.lines().filter_map(|line| line.strip_prefix("ok "));
        for tag in tags.filter_map(|tag| tag.trim().parse().ok()) {
            ensure!(all.insert(tag), "tag {tag} was given twice");
        }
        let refused = text.matches("refused ").count();
        ensure!(refused == 8, "{refused} refusals, not 8: {text}");
    }
    all.retain(|tag| !deleted.contains(tag));
    all.insert(1);
    let there: BTreeSet<u32> = co.list()?.tags().into_iter().collect();
    ensure!(there == all, "the list is {there:?}, not {all:?}");
    world.check(&co)?;
    co.wait_clean()?;
    co.remove()
}

/// Two origins of one store, a snapshot of each, and one nested: five devices, or a part of them.
struct Family {
    world: World,
    other: Origin,
    other_now: Shadow,
    other_then: Shadow,
}

impl Family {
    fn new(disks: &Disks, random: &mut Random) -> Result<Self> {
        let (mut world, co) = World::new(disks, MIB, 64, 1)?;
        let other = Origin::new(disks, "other", MIB)?;
        let mut other_now = Shadow::filled(&other.piece.open()?)?;
        let co_other = world.store.bind(&other)?;
        world.take(&co)?;
        let other_then = other_now.clone();
        co_other.take()?;
        random_io(random, &co.open()?, &mut world.now, 10)?;
        random_io(random, &co_other.open()?, &mut other_now, 10)?;
        co_other.remove()?;
        co.remove()?;
        Ok(Self {
            world,
            other,
            other_now,
            other_then,
        })
    }

    /// Its devices, all of them written to; a snapshot that was deleted is being cleaned.
    fn devices(&mut self, random: &mut Random) -> Result<Vec<Device>> {
        let co = self.world.co()?;
        let cs = self.world.cs(1)?;
        let co_other = self.world.store.co(&self.other)?;
        let cs_other = self.world.store.cs(&self.other, 1)?;
        let gone = co.take()?;
        random_io(random, &co.open()?, &mut self.world.now, 3)?;
        random_io(random, &cs.open()?, self.world.shadow(1), 3)?;
        random_io(random, &co_other.open()?, &mut self.other_now, 3)?;
        random_io(random, &cs_other.open()?, &mut self.other_then, 3)?;
        co.delete(gone)?;
        Ok(vec![co, cs, co_other, cs_other])
    }

    fn check(&self) -> Result<()> {
        let co = self.world.co()?;
        self.world.check(&co)?;
        co.remove()?;
        let co = self.world.store.co(&self.other)?;
        self.other_now.check(&co.open()?)?;
        co.remove()?;
        let (store, other) = (&self.world.store, &self.other);
        store.check_snapshot(other, 1, &self.other_then)
    }
}

/// All orders of four things, each as a row of indices.
fn orders() -> Vec<[usize; 4]> {
    let mut orders = Vec::new();
    for code in 0..256 {
        let order = [0, 2, 4, 6].map(|shift| (code >> shift) & 3);
        if (0..4).all(|i| order.contains(&i)) {
            orders.push(order);
        }
    }
    orders
}

fn every_order(disks: &Disks, mut random: Random) -> Result<()> {
    let mut family = Family::new(disks, &mut random)?;
    let orders = orders();
    ensure!(orders.len() == 24);
    for (i, order) in orders.iter().enumerate() {
        let mut devices: Vec<_> = family.devices(&mut random)?.into_iter().map(Some).collect();
        for &which in order {
            let device = devices[which].take().expect("each once");
            // Some of them with a second table, and some suspended.
            match (i + which) % 4 {
                0 => {
                    let table = device.table()?;
                    device.load(&dm::Table::new(MIB, crate::store::TARGET, table))?;
                }
                1 => device.suspend(Suspend::NoFlush)?,
                _ => {}
            }
            device.remove().with_context(|| format!("{order:?}"))?;
        }
        if i % 6 == 0 {
            family.check().with_context(|| format!("{order:?}"))?;
        }
    }
    family.check()
}

fn all_at_once(disks: &Disks, mut random: Random) -> Result<()> {
    let mut family = Family::new(disks, &mut random)?;
    for round in 0..12 {
        let devices = family.devices(&mut random)?;
        if round % 3 == 2 {
            // A rollback is under way when they go.
            devices[0].send("rs 1 -b")?;
            family.world.now = family.world.snapshots[&1].clone();
        }
        thread::scope(|scope| {
            let threads: Vec<_> = devices
                .into_iter()
                .map(|device| scope.spawn(move || device.remove()))
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().expect("no panic"))
        })?;
        family.check()?;
        if round % 3 == 2 {
            let co = family.world.co()?;
            co.wait_rollback()?;
            co.remove()?;
        }
    }
    family.check()
}

fn stays(disks: &Disks) -> Result<()> {
    let refused = |when: &str| -> Result<()> {
        match sys::delete_module(c"dm_snap_mv") {
            Ok(()) => anyhow::bail!("the module went: {when}"),
            Err(e) => ensure!(
                matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)),
                "{when}: {e}"
            ),
        }
        Ok(())
    };
    let (world, co) = World::new(disks, MIB, 64, 1)?;
    refused("an origin is active")?;
    co.take()?;
    let cs = world.store.cs(&world.origin, 1)?;
    co.remove()?;
    refused("a snapshot is active")?;
    cs.suspend(Suspend::NoFlush)?;
    refused("it is suspended")?;
    cs.remove()?;
    let loaded = Mapped::create_empty("co-loaded")?;
    loaded.load(&world.store.co_table(&world.origin, ""))?;
    refused("a table is loaded, not active")?;
    loaded.clear()?;
    loaded.remove()?;
    crate::kernel::reload()?;
    world.store.check_snapshot(&world.origin, 1, &world.now)
}
