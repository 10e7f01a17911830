// SPDX-License-Identifier: GPL-2.0

//! Snapshot devices: readable and writable while everything else is.

use std::thread;

use anyhow::{ensure, Context, Result};

use crate::disks::{Disks, MIB};
use crate::io::Disk;
use crate::random::Random;
use crate::report::Subject;
use crate::shadow::{write, Shadow};
use crate::store::Device;
use crate::world::{random_io, World};

/// Runs the cases.
pub fn run(subject: &mut Subject, disks: &Disks) {
    let mut random = Random::from_environment("snapshots");
    for pages in [1, 4, 256] {
        let random = &mut random;
        subject.case(
            &format!("random I/O to all with chunks of {pages} pages"),
            || random_all(disks, random, pages),
        );
    }
    subject.case("origin and snapshots written at the same time", || {
        all_at_once(disks)
    });
    subject.case("a write of part of a chunk keeps the rest of it", || {
        partial_writes(disks)
    });
    subject.case("concurrent writes into one chunk of a snapshot", || {
        concurrent_parts(disks)
    });
    subject.case("discard and write-zeroes on a snapshot", || discards(disks));
    subject.case(
        "discard of a snapshot's whole chunks gives back space",
        || discard_frees(disks),
    );
    subject.case("flush and FUA on a snapshot", || fua(disks));
    subject.case("snapshots of snapshots, 32 deep", || nested(disks));
    subject.case("many snapshot devices at once", || many_devices(disks));
    subject.case("a second device of one snapshot", || second_device(disks));
    subject.case("found again after remove and create", || found_again(disks));
    subject.case("a snapshot device with no origin device", || {
        no_origin_device(disks)
    });
    subject.case("a write costs a chunk once", || chunk_once(disks));
}

fn random_all(disks: &Disks, random: &mut Random, pages: u32) -> Result<()> {
    let (mut world, co) = World::new(disks, 8 * MIB + 13, 160, pages)?;
    let origin = co.open()?;
    for round in 0..3 {
        let tag = match round {
            0 => world.take(&co)?,
            // Of a snapshot that was written.
            1 => world.take_of(&co, 1)?,
            _ => world.take(&co)?,
        };
        let tags: Vec<u32> = world.snapshots.keys().copied().collect();
        let devices: Vec<(u32, Device)> = tags
            .iter()
            .map(|&tag| Ok((tag, world.cs(tag)?)))
            .collect::<Result<_>>()?;
        for (tag, device) in &devices {
            random_io(random, &origin, &mut world.now, 8)?;
            random_io(random, &device.open()?, world.shadow(*tag), 8)?;
        }
        for (tag, device) in devices {
            world.snapshots[&tag]
                .check(&device.open()?)
                .with_context(|| {
                    format!("snapshot {tag} through its writer's device, after {tag} of {tags:?}")
                })?;
            device.remove()?;
        }
        world
            .check(&co)
            .with_context(|| format!("after snapshot {tag}"))?;
    }
    drop(origin);
    world.check_below()?;
    co.remove()
}

fn writer(
    device: &Device,
    seed: u64,
    mut shadow: Shadow,
    times: u32,
) -> impl FnOnce() -> Result<Shadow> {
    let path = device.path();
    move || {
        let disk = Disk::open(path)?;
        random_io(&mut Random::new(seed), &disk, &mut shadow, times)?;
        Ok(shadow)
    }
}

fn all_at_once(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 8 * MIB, 200, 4)?;
    world.take(&co)?;
    world.take(&co)?;
    world.take_of(&co, 1)?;
    let devices: Vec<Device> = (1..=3).map(|tag| world.cs(tag)).collect::<Result<_>>()?;
    let mut threads = vec![thread::spawn(writer(&co, 20, world.now.clone(), 50))];
    for (i, device) in devices.iter().enumerate() {
        let shadow = world.snapshots[&(i as u32 + 1)].clone();
        threads.push(thread::spawn(writer(device, i as u64, shadow, 50)));
    }
    for (i, thread) in threads.into_iter().enumerate() {
        let shadow = thread.join().expect("no panic").with_context(|| match i {
            0 => "origin".to_owned(),
            tag => format!("snapshot {tag}"),
        })?;
        match i {
            0 => world.now = shadow,
            tag => *world.shadow(tag as u32) = shadow,
        }
    }
    for device in devices {
        device.remove()?;
    }
    world.check(&co)?;
    world.check_below()?;
    co.remove()
}

fn partial_writes(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 8 * MIB, 96, 16)?;
    let tag = world.take(&co)?;
    let cs = world.cs(tag)?;
    let disk = cs.open()?;
    // Chunks that are still the origin's.
    world.shadow(tag).write(&disk, 1, 1)?;
    world.shadow(tag).write(&disk, 127, 2)?;
    world.shadow(tag).write(&disk, 300, 400)?;
    // Chunks that the origin has preserved.
    world.now.write(&co.open()?, 2 * MIB, 2 * MIB)?;
    world.shadow(tag).write(&disk, 2 * MIB + 5, 1)?;
    world.shadow(tag).write(&disk, 3 * MIB - 1, 300)?;
    world.now.write(&co.open()?, 0, 8 * MIB)?;
    // Chunks that are a snapshot's already.
    world.shadow(tag).write(&disk, 2, 3)?;
    let child = world.take_of(&cs, tag)?;
    world.shadow(tag).write(&disk, 4, 3)?;
    world.shadow(tag).write(&disk, 4 * MIB + 9, 1)?;
    drop(disk);
    cs.remove()?;
    // And those of its parent.
    let cs = world.cs(child)?;
    world.shadow(child).write(&cs.open()?, 3, 2)?;
    world.shadow(child).write(&cs.open()?, 2 * MIB + 6, 1)?;
    world.shadow(child).write(&cs.open()?, 6 * MIB + 6, 1)?;
    cs.remove()?;
    world.check(&co)?;
    co.remove()
}

fn concurrent_parts(disks: &Disks) -> Result<()> {
    const THREADS: u64 = 6;
    let (mut world, co) = World::new(disks, 4 * MIB, 64, 16)?;
    let tag = world.take(&co)?;
    let cs = world.cs(tag)?;
    let origin = {
        // Meanwhile the origin's chunks of the same numbers change.
        let path = co.path();
        let mut now = world.now.clone();
        thread::spawn(move || -> Result<Shadow> {
            let disk = Disk::open(path)?;
            let mut random = Random::new(99);
            for _ in 0..60 {
                now.write(&disk, random.pick(0..512), 64)?;
            }
            Ok(now)
        })
    };
    let threads: Vec<_> = (0..THREADS)
        .map(|i| {
            let path = cs.path();
            thread::spawn(move || -> Result<Vec<(u64, u32)>> {
                let disk = Disk::open(path)?;
                let mut random = Random::new(i);
                (0..60)
                    .map(|_| {
                        let sector = random.pick(0..90) * THREADS + i;
                        Ok((sector, write(&disk, sector, 1)?))
                    })
                    .collect()
            })
        })
        .collect();
    for thread in threads {
        for (sector, generation) in thread.join().expect("no panic")? {
            world.shadow(tag).set(sector, 1, generation);
        }
    }
    world.now = origin.join().expect("no panic")?;
    cs.remove()?;
    world.check(&co)?;
    co.remove()
}

fn discards(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 8 * MIB, 96, 4)?;
    let tag = world.take(&co)?;
    let cs = world.cs(tag)?;
    let disk = cs.open()?;
    let shadow = world.shadow(tag);
    // What is the origin's, what is its own, and parts of both.
    shadow.write(&disk, MIB, MIB)?;
    shadow.discard(&disk, 0, 64)?;
    shadow.discard(&disk, 100, 3)?;
    shadow.discard(&disk, MIB - 5, 100)?;
    shadow.zero_out(&disk, MIB + 500, 700)?;
    shadow.zero_out(&disk, 3 * MIB, MIB)?;
    shadow.zero_out(&disk, 5 * MIB + 3, 1)?;
    shadow.check(&disk)?;
    let child = world.take_of(&co, tag)?;
    world.now.write(&co.open()?, 0, 6 * MIB)?;
    let shadow = world.shadow(tag);
    shadow.write(&disk, 8, 40)?;
    shadow.write(&disk, 3 * MIB + 7, 1)?;
    shadow.zero_out(&disk, MIB, MIB)?;
    drop(disk);
    cs.remove()?;
    let cs = world.cs(child)?;
    let disk = cs.open()?;
    world.shadow(child).discard(&disk, 0, 8 * MIB)?;
    world.shadow(child).write(&disk, 4 * MIB, 1)?;
    drop(disk);
    cs.remove()?;
    world.check(&co)?;
    co.remove()
}

fn discard_frees(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 8 * MIB, 48, 1)?;
    let tag = world.take(&co)?;
    let cs = world.cs(tag)?;
    let disk = cs.open()?;
    world.shadow(tag).write(&disk, 0, 2 * MIB)?;
    cs.wait_chunks(512)?;
    world.shadow(tag).zero_out(&disk, 0, MIB)?;
    cs.wait_chunks(256)?;
    drop(disk);
    cs.remove()?;
    world.check(&co)?;
    co.remove()
}

fn fua(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 48, 4)?;
    let tag = world.take(&co)?;
    let cs = world.cs(tag)?;
    let disk = Disk::open_fua(cs.path())?;
    disk.flush()?;
    for i in 0..8 {
        world.shadow(tag).write(&disk, i * 700, i * 40 + 1)?;
        disk.flush()?;
        world.shadow(tag).write(&disk, i * 700 + 1, 1)?;
    }
    drop(disk);
    cs.remove()?;
    world.check(&co)?;
    co.remove()
}

fn nested(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 128, 4)?;
    let mut random = Random::new(32);
    let origin = co.open()?;
    let mut tag = world.take(&co)?;
    for _ in 1..32 {
        let cs = world.cs(tag)?;
        let disk = cs.open()?;
        let (start, count) = random.extent(4 * MIB);
        world.shadow(tag).write(&disk, start, count.min(256))?;
        tag = world.take_of(&cs, tag)?;
        // After it was taken, the parent and the origin go on.
        let parent = tag - 1;
        let (start, count) = random.extent(4 * MIB);
        world.shadow(parent).write(&disk, start, count.min(256))?;
        let (start, count) = random.extent(4 * MIB);
        world.now.write(&origin, start, count.min(256))?;
        drop(disk);
        cs.remove()?;
    }
    drop(origin);
    let rows = co.list()?.rows;
    ensure!(rows.len() == 33, "{} rows", rows.len());
    ensure!(rows[32].parent == Some(31), "{:?}", rows[32]);
    world.check(&co)?;
    co.remove()
}

fn many_devices(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 128, 1)?;
    let mut random = Random::new(64);
    let mut devices = Vec::new();
    for _ in 0..24 {
        let tag = world.take(&co)?;
        devices.push((tag, world.cs(tag)?));
        world
            .now
            .write(&co.open()?, random.pick(0..4 * MIB - 64), 64)?;
    }
    for _ in 0..96 {
        let (tag, device) = random.one_of(&devices);
        let at = random.clone().pick(0..4 * MIB - 40);
        world.shadow(*tag).write(&device.open()?, at, 40)?;
        world
            .now
            .write(&co.open()?, random.pick(0..4 * MIB - 64), 64)?;
    }
    for (tag, device) in devices {
        world.snapshots[&tag].check(&device.open()?)?;
        device.remove()?;
    }
    world.check(&co)?;
    co.remove()
}

/// It is refused, or both show the same; the message says why it is refused.
fn second_device(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 48, 1)?;
    let tag = world.take(&co)?;
    let first = world.cs(tag)?;
    let mut log = crate::kernel::Log::from_now()?;
    match world.cs(tag) {
        Err(_) => {
            let lines = log.lines()?;
            // Not the error's name: a kernel without a table of them prints its number.
            let told = lines
                .iter()
                .any(|line| line.contains("snapshot is already active"));
            ensure!(told, "no reason in the log: {lines:?}");
            first.remove()?;
            world
                .cs(tag)
                .context("after the first one is gone")?
                .remove()?;
        }
        Ok(second) => {
            let (a, b) = (first.open()?, second.open()?);
            for i in 0..20 {
                let shadow = world.shadow(tag);
                shadow.write(&a, i * 30, 24)?;
                shadow.check_range(&b, i * 30, 24)?;
                shadow.write(&b, i * 30 + 8, 24)?;
                shadow.check_range(&a, i * 30, 40)?;
            }
            drop((a, b));
            second.remove()?;
            first.remove()?;
        }
    }
    // Another snapshot's device is nobody's business.
    let other = world.take(&co)?;
    let one = world.cs(tag)?;
    let two = world.cs(other)?;
    two.remove()?;
    one.remove()?;
    world.check(&co)?;
    co.remove()
}

fn found_again(disks: &Disks) -> Result<()> {
    let (mut world, mut co) = World::new(disks, 8 * MIB, 96, 4)?;
    let mut random = Random::new(9);
    world.take(&co)?;
    world.take_of(&co, 1)?;
    for _ in 0..3 {
        for tag in [1, 2] {
            let cs = world.cs(tag)?;
            random_io(&mut random, &cs.open()?, world.shadow(tag), 10)?;
            random_io(&mut random, &co.open()?, &mut world.now, 5)?;
            cs.remove()?;
        }
        let before = co.list()?.lasting();
        co.remove()?;
        crate::kernel::reload()?;
        co = world.co()?;
        let after = co.list()?.lasting();
        ensure!(before == after, "before {before:?}, after {after:?}");
        world.check(&co)?;
    }
    co.remove()
}

fn no_origin_device(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 48, 4)?;
    let tag = world.take(&co)?;
    world.now.write(&co.open()?, 0, MIB)?;
    co.remove()?;
    let cs = world.cs(tag)?;
    world.snapshots[&tag].check(&cs.open()?)?;
    world.shadow(tag).write(&cs.open()?, MIB - 10, 20)?;
    // Messages of the origin work here, too.
    let child = world.take_of(&cs, tag)?;
    let second = world.take(&cs)?;
    ensure!(
        cs.list()?.tags() == [tag, child, second],
        "{:?}",
        cs.list()?
    );
    cs.remove()?;
    let co = world.co()?;
    world.check(&co)?;
    co.remove()
}

fn chunk_once(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 48, 4)?;
    let tag = world.take(&co)?;
    let cs = world.cs(tag)?;
    let disk = cs.open()?;
    for _ in 0..3 {
        world.shadow(tag).write(&disk, 0, 320)?;
        world.shadow(tag).write(&disk, 640, 1)?;
    }
    cs.wait_chunks(11)?;
    world.now.write(&co.open()?, 0, 320)?;
    drop(disk);
    cs.remove()?;
    world.check(&co)?;
    co.remove()
}
