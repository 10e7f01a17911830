// SPDX-License-Identifier: GPL-2.0

//! How many requests of the disks it takes to do something: exactly, as the disks count them, so
//! that no time has to be measured.

use anyhow::{ensure, Result};

use crate::counts::Counts;
use crate::disks::{Disks, MIB};
use crate::io::Disk;
use crate::kernel;
use crate::random::Random;
use crate::report::Subject;
use crate::store::Device;
use crate::world::World;

const CHUNK: u64 = 8;

/// Runs the cases.
pub fn run(subject: &mut Subject, disks: &Disks) {
    subject.case("rewrites, with many snapshots", || rewrites(disks));
    subject.case("rewrites after activation", || activated(disks));
    subject.case("rewrites after a deletion", || deleted(disks));
    subject.case("reads of the origin", || reads(disks));
    subject.case("reads of a snapshot", || snapshot_reads(disks));
    subject.case("rewrites of a snapshot", || snapshot_rewrites(disks));
    subject.case("first writes, random", || first_random(disks));
    subject.case("first writes, sequential", || first_sequential(disks));
    subject.case("first writes of a snapshot", || snapshot_first(disks));
    subject.case("taking a snapshot", || taking(disks));
    subject.case("deleting a snapshot", || deleting(disks));
}

/// What some requests cost the origin's disk and the COW device.
fn cost(world: &World, run: impl FnOnce() -> Result<()>) -> Result<[Counts; 2]> {
    let pieces = [&world.origin.piece, &world.store.cow];
    let before = Counts::at_rest(pieces)?;
    run()?;
    let after = Counts::at_rest(pieces)?;
    Ok([after[0] - before[0], after[1] - before[1]])
}

/// An origin with so many snapshots, all of which is preserved.
fn preserved(disks: &Disks, snapshots: u32) -> Result<(World, Device)> {
    let (mut world, co) = World::new(disks, 8 * MIB, 96, 1)?;
    for _ in 0..snapshots {
        world.take(&co)?;
    }
    write_all(&mut world, &co.open()?)?;
    Ok((world, co))
}

fn write_all(world: &mut World, disk: &Disk) -> Result<()> {
    let sectors = world.now.sectors();
    for sector in (0..sectors).step_by(2048) {
        world.now.write(disk, sector, 2048.min(sectors - sector))?;
    }
    Ok(())
}

fn writes(count: u64, sectors: u64) -> Counts {
    Counts {
        writes: count,
        written_sectors: count * sectors,
        ..Counts::default()
    }
}

fn reads_of(count: u64, sectors: u64) -> Counts {
    Counts {
        reads: count,
        read_sectors: count * sectors,
        ..Counts::default()
    }
}

/// Random writes of a chunk, and long ones: each is one write of the origin, and nothing else.
fn rewritten(world: &mut World, co: &Device) -> Result<()> {
    let disk = co.open()?;
    let sectors = world.now.sectors();
    let mut random = Random::new(5);
    let mut now = world.now.clone();
    let [origin, cow] = cost(world, || {
        for _ in 0..200 {
            let sector = random.pick(0..sectors / CHUNK) * CHUNK;
            now.write(&disk, sector, CHUNK)?;
        }
        Ok(())
    })?;
    world.now = now;
    ensure!(origin == writes(200, CHUNK), "the origin: {origin:?}");
    ensure!(cow == Counts::default(), "the COW device: {cow:?}");

    let mut now = world.now.clone();
    let [origin, cow] = cost(world, || {
        for i in 0..4 {
            now.write(&disk, 100 + i * 2048, 2048)?;
        }
        Ok(())
    })?;
    world.now = now;
    ensure!(
        origin.written_sectors == 4 * 2048 && origin.reads == 0,
        "the origin: {origin:?}"
    );
    ensure!(cow == Counts::default(), "the COW device: {cow:?}");
    Ok(())
}

fn rewrites(disks: &Disks) -> Result<()> {
    let (mut world, co) = preserved(disks, 64)?;
    rewritten(&mut world, &co)?;
    world.check_snapshots()?;
    co.remove()
}

/// What is preserved is found out again as it is asked for.
fn activated(disks: &Disks) -> Result<()> {
    let (mut world, co) = preserved(disks, 1)?;
    co.remove()?;
    let co = world.co()?;
    write_all(&mut world, &co.open()?)?;
    rewritten(&mut world, &co)?;
    world.check_snapshots()?;
    co.remove()
}

/// What was preserved for the newest snapshot is the next one's when that is deleted.
fn deleted(disks: &Disks) -> Result<()> {
    let (mut world, co) = preserved(disks, 3)?;
    let newest = world.snapshots.keys().next_back().copied().unwrap_or(0);
    world.delete(&co, newest)?;
    co.wait_clean()?;
    rewritten(&mut world, &co)?;
    world.check_snapshots()?;
    // And a new one wants all of it again.
    world.take(&co)?;
    write_all(&mut world, &co.open()?)?;
    world.check_snapshots()?;
    rewritten(&mut world, &co)?;
    world.check_snapshots()?;
    co.remove()
}

fn reads(disks: &Disks) -> Result<()> {
    let (world, co) = preserved(disks, 64)?;
    let disk = co.open_read_only()?;
    let [origin, cow] = cost(&world, || {
        for i in 0..200 {
            disk.read(i * CHUNK, CHUNK)?;
        }
        Ok(())
    })?;
    ensure!(origin == reads_of(200, CHUNK), "the origin: {origin:?}");
    ensure!(cow == Counts::default(), "the COW device: {cow:?}");
    drop(disk);
    co.remove()
}

/// A chunk is one read, wherever it is.
fn snapshot_reads(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 8 * MIB, 96, 1)?;
    let tag = world.take(&co)?;
    for _ in 0..30 {
        world.take(&co)?;
    }
    let half = world.now.sectors() / 2;
    let disk = co.open()?;
    for sector in (0..half).step_by(512) {
        world.now.write(&disk, sector, 512)?;
    }
    drop(disk);
    let cs = world.cs(tag)?;
    let disk = cs.open_read_only()?;
    // The first time the metadata are read as well.
    let both = |disk: &Disk| -> Result<()> {
        for i in 0..100 {
            disk.read(i * CHUNK, CHUNK)?;
            disk.read(half + i * CHUNK, CHUNK)?;
        }
        Ok(())
    };
    both(&disk)?;
    let [origin, cow] = cost(&world, || both(&disk))?;
    ensure!(origin == reads_of(100, CHUNK), "the origin: {origin:?}");
    ensure!(cow == reads_of(100, CHUNK), "the COW device: {cow:?}");
    drop(disk);
    cs.remove()?;
    co.remove()
}

fn snapshot_rewrites(disks: &Disks) -> Result<()> {
    let (mut world, co) = preserved(disks, 2)?;
    let cs = world.cs(1)?;
    let disk = cs.open()?;
    let all = |shadow: &mut crate::shadow::Shadow, disk: &Disk| -> Result<()> {
        for i in 0..100 {
            shadow.write(disk, i * CHUNK, CHUNK)?;
        }
        Ok(())
    };
    all(world.shadow(1), &disk)?;
    let mut shadow = world.shadow(1).clone();
    let [origin, cow] = cost(&world, || all(&mut shadow, &disk))?;
    *world.shadow(1) = shadow;
    ensure!(origin == Counts::default(), "the origin: {origin:?}");
    ensure!(cow == writes(100, CHUNK), "the COW device: {cow:?}");
    drop(disk);
    cs.remove()?;
    world.check_snapshots()?;
    co.remove()
}

/// Has fio write all of a device, each block once.
fn fio(device: &Device, how: &[&str]) -> Result<()> {
    let file = format!("--filename={}", device.path().display());
    let usual = [
        "--name=first",
        "--ioengine=io_uring",
        "--direct=1",
        "--random_generator=lfsr",
        &file,
    ];
    kernel::run("fio", &[&usual, how].concat()).map(drop)
}

fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

/// Each chunk is one read and two writes, and many share the write that makes them durable.
fn first_random(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 16 * MIB, 128, 1)?;
    world.take(&co)?;
    let count = world.now.sectors() / CHUNK;
    let [origin, cow] = cost(&world, || {
        fio(&co, &["--rw=randwrite", "--bs=4k", "--iodepth=64"])
    })?;
    ensure!(
        origin.reads == count && origin.writes == count,
        "{origin:?}"
    );
    let all = origin.reads + origin.writes + cow.reads + cow.writes;
    let durable = cow.writes - count;
    println!(
        "# first writes: {:.3} I/Os each, {:.1} for each that makes them durable",
        ratio(all, count),
        ratio(count, durable)
    );
    // Of 64 at a time half are made durable together while the others are copied, or more. The machine
    // may be slow at bringing them.
    ensure!(ratio(all, count) <= 3.05, "{origin:?}, {cow:?}");
    // Each of them flushes once.
    ensure!(durable * 20 <= count, "{durable} for {count}");
    co.remove()
}

/// Of a long write as much is read, and twice as much written, and little more.
fn first_sequential(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 64 * MIB, 160, 1)?;
    world.take(&co)?;
    let sectors = world.now.sectors();
    let [origin, cow] = cost(&world, || {
        fio(&co, &["--rw=write", "--bs=1m", "--iodepth=4"])
    })?;
    let moved = |c: &Counts| c.read_sectors + c.written_sectors;
    let all = ratio(moved(&origin) + moved(&cow), sectors);
    println!("# first writes of 1 MiB: {all:.3} MiB moved for each MiB");
    ensure!(all <= 3.05, "{origin:?}, {cow:?}");
    co.remove()
}

/// A whole chunk is one write; a part is a copy before it. Nothing of it is durable before a flush,
/// and then it takes one write more.
fn snapshot_first(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 8 * MIB, 96, 4)?;
    let tag = world.take(&co)?;
    let cs = world.cs(tag)?;
    let disk = cs.open()?;
    // What it takes to say that the store is in use.
    world.shadow(tag).write(&disk, 0, 32)?;
    disk.flush()?;
    let mut shadow = world.shadow(tag).clone();
    let [origin, cow] = cost(&world, || {
        for chunk in 1..=64 {
            shadow.write(&disk, chunk * 32, 32)?;
        }
        Ok(disk.flush()?)
    })?;
    ensure!(origin == Counts::default(), "whole: {origin:?}");
    ensure!(cow.reads == 0 && cow.writes <= 64 + 4, "whole: {cow:?}");
    let [origin, cow] = cost(&world, || {
        for chunk in 101..=164 {
            shadow.write(&disk, chunk * 32 + 8, 8)?;
        }
        Ok(disk.flush()?)
    })?;
    *world.shadow(tag) = shadow;
    ensure!(
        origin.writes == 0 && origin.reads <= 128,
        "parts: {origin:?}"
    );
    ensure!(cow.reads == 0 && cow.writes <= 3 * 64 + 4, "parts: {cow:?}");
    drop(disk);
    cs.remove()?;
    world.check_snapshots()?;
    co.remove()
}

/// What the COW device gets for each of some commands.
fn each(world: &World, times: u32, mut command: impl FnMut() -> Result<()>) -> Result<Vec<Counts>> {
    let mut all = Vec::new();
    for _ in 0..times {
        let [_, cow] = cost(world, &mut command)?;
        all.push(cow);
    }
    Ok(all)
}

/// However many snapshots there are, and however much is not in the trees yet.
fn taking(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 16 * MIB, 128, 1)?;
    world.take(&co)?;
    let few = each(&world, 3, || co.take().map(drop))?;
    for _ in 0..300 {
        co.take()?;
    }
    fio(&co, &["--rw=randwrite", "--bs=4k", "--iodepth=16"])?;
    let many = each(&world, 3, || co.take().map(drop))?;
    println!("# taking a snapshot: {few:?}, with 300 {many:?}");
    for cow in few.iter().chain(&many) {
        ensure!(cow.writes <= 2 && cow.reads == 0, "{cow:?}");
    }
    co.remove()
}

/// It is one write of the journal; the trees are written when all is cleaned: as few blocks for many
/// snapshots as for few.
fn deleting(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 8 * MIB, 96, 1)?;
    for _ in 0..20 {
        world.take(&co)?;
    }
    let mut tag = 0;
    let mut at_once = Vec::new();
    let mut next = || {
        let before = Counts::of(&world.store.cow)?;
        tag += 2;
        co.delete(tag)?;
        // Before cleaning begins, if nothing keeps us for so long.
        at_once.push(Counts::of(&world.store.cow)? - before);
        co.wait_clean()
    };
    let few = each(&world, 3, &mut next)?;
    for _ in 0..300 {
        co.take()?;
    }
    let many = each(&world, 3, &mut next)?;
    println!("# deleting a snapshot: {few:?}, with 300 {many:?}; at once {at_once:?}");
    for cow in few.iter().chain(&many) {
        ensure!(cow.writes <= 33, "{cow:?}");
    }
    for some in at_once.chunks(3) {
        let least = some.iter().map(|cow| (cow.writes, cow.reads)).min();
        ensure!(least.is_some_and(|least| least <= (2, 0)), "{some:?}");
    }
    co.remove()
}
