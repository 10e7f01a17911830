// SPDX-License-Identifier: GPL-2.0

//! Bookmarks, what differs between versions, and `commit`.

use anyhow::{ensure, Context, Result};

use crate::disks::{Disks, MIB};
use crate::random::Random;
use crate::report::Subject;
use crate::shadow::Shadow;
use crate::store::Device;
use crate::world::World;

/// Runs the cases.
pub fn run(subject: &mut Subject, disks: &Disks) {
    subject.case("a bookmark costs no data", || no_data(disks));
    subject.case("a snapshot becomes a bookmark", || kept(disks));
    subject.case("what cannot become one", || not_kept(disks));
    subject.case("a ghost that is a bookmark", || ghost(disks));
    subject.case("what a bookmark cannot do", || not_done(disks));
    subject.case("what differs, whatever was done", || everything(disks));
    subject.case("pages of what differs", || pages(disks));
    subject.case("delta while a rollback runs", || rolling(disks));
    subject.case("bookmarks outlive a full device", || full(disks));
    subject.case("they are there after the module was", || reloaded(disks));
    subject.case("discards are noted", || discards(disks));
    subject.case("a deferred rollback is called off", || called_off(disks));
    subject.case("commit", || commit(disks));
}

/// Sectors of a chunk here.
const CHUNK: u64 = 8;

/// Whether all that differs is said to, for two versions.
fn no_change_missing(co: &Device, from: (u32, &Shadow), to: (u32, &Shadow)) -> Result<u64> {
    let runs = co.delta(from.0, to.0, 1000)?;
    let changed = |chunk: u64| {
        runs.iter()
            .any(|&(first, len)| (first..first + len).contains(&chunk))
    };
    for sector in 0..to.1.sectors() {
        let same =
            sector < from.1.sectors() && from.1.generation(sector) == to.1.generation(sector);
        ensure!(
            same || changed(sector / CHUNK),
            "sector {sector} differs between {} and {}: {runs:?}",
            from.0,
            to.0
        );
    }
    Ok(runs.iter().map(|&(_, len)| len).sum())
}

/// How many chunks are in use, of all that was done: a status may be of a moment before.
fn used(co: &Device) -> Result<u64> {
    co.send("commit")?;
    Ok(co.state()?.chunks.0)
}

fn no_data(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 32, 1)?;
    let disk = co.open()?;
    let before = world.now.clone();
    let tag = co.tag("so -k -m base")?;
    for (start, count) in [(0, 8), (17, 30), (4096, 2048), (8191, 1)] {
        world.now.write(&disk, start, count)?;
    }
    world.now.zero_out(&disk, 6000, 100)?;
    ensure!(used(&co)? == 0, "{} chunks are in use", used(&co)?);
    let runs = co.delta(tag, 0, 1000)?;
    ensure!(runs == [(0, 1), (2, 4), (512, 256), (1023, 1)], "{runs:?}");
    let row = co.list()?.row(tag).cloned().context("a row")?;
    ensure!(
        (row.flags.as_str(), row.memo.as_str(), row.chunks) == ("B", "base", 0),
        "{row:?}"
    );
    let status = co.status()?;
    ensure!(status.trim_end().ends_with(" 0 - - 1"), "{status:?}");
    no_change_missing(&co, (tag, &before), (0, &world.now))?;
    world.now.check(&disk)?;
    drop(disk);
    co.delete(tag)?;
    co.wait_clean()?;
    co.refused(&format!("delta {tag} 0"), libc::ENOENT, "unknown tag")?;
    co.remove()
}

fn kept(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 32, 1)?;
    let disk = co.open()?;
    let old = world.now.clone();
    let first = world.take(&co)?;
    world.now.write(&disk, 0, 800)?;
    let second = world.take(&co)?;
    world.now.write(&disk, 400, 800)?;
    co.wait_chunks(200)?;
    // What the older one needs stays, what only a bookmark does needs no chunk.
    co.send(&format!("ds {second} -k"))?;
    world.snapshots.remove(&second);
    co.wait_clean()?;
    co.wait_chunks(150)?;
    world.store.check_snapshot(&world.origin, first, &old)?;
    ensure!(co.delta(second, 0, 99)? == [(50, 100)]);
    co.send(&format!("ds {first} -k"))?;
    co.wait_clean()?;
    co.wait_chunks(0)?;
    ensure!(co.delta(first, 0, 99)? == [(0, 150)]);
    ensure!(co.delta(second, 0, 99)? == [(50, 100)]);
    ensure!(co.delta(first, second, 99)? == [(0, 100)]);
    let list = co.list()?;
    ensure!(list.bookmarks() == [(first, true), (second, true)]);
    ensure!(list.tags().is_empty(), "{:?}", list.tags());
    world.now.check(&disk)?;
    drop(disk);
    co.remove()
}

fn not_kept(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 32, 1)?;
    let tag = world.take(&co)?;
    let child = world.take_of(&co, tag)?;
    let keep = |tag: u32| format!("ds {tag} -k");
    co.refused(&keep(child), libc::EINVAL, "only a snapshot of the origin")?;
    let cs = world.cs(tag)?;
    co.refused(&keep(tag), libc::EBUSY, "snapshot device is in use")?;
    let disk = cs.open()?;
    disk.zero_out(0, 8)?;
    drop(disk);
    cs.remove()?;
    co.refused(&keep(tag), libc::EINVAL, "was written to")?;
    co.refused(&keep(77), libc::ENOENT, "unknown tag")?;
    ensure!(co.list()?.tags() == [tag, child]);
    co.remove()
}

fn ghost(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 32, 1)?;
    let disk = co.open()?;
    let tag = world.take(&co)?;
    let child = world.take_of(&co, tag)?;
    world.now.write(&disk, 0, 80)?;
    co.send(&format!("ds {tag} -k"))?;
    co.wait_clean()?;
    let flags = co.list()?.row(tag).map(|row| row.flags.clone());
    ensure!(flags.as_deref() == Some("GB"), "{flags:?}");
    let shadow = world.shadow(child).clone();
    world.store.check_snapshot(&world.origin, child, &shadow)?;
    co.wait_chunks(10)?;
    co.delete(child)?;
    co.wait_clean()?;
    co.wait_chunks(0)?;
    let flags = co.list()?.row(tag).map(|row| row.flags.clone());
    ensure!(flags.as_deref() == Some("B"), "{flags:?}");
    ensure!(co.delta(tag, 0, 9)? == [(0, 10)]);
    co.delete(tag)?;
    co.wait_clean()?;
    drop(disk);
    co.send("do")?;
    co.remove()
}

fn not_done(disks: &Disks) -> Result<()> {
    let (world, co) = World::new(disks, 4 * MIB, 32, 1)?;
    let tag = co.tag("so -k")?;
    let words = "that of a bookmark";
    co.refused(&format!("ss {tag}"), libc::EINVAL, words)?;
    co.refused(&format!("rs {tag}"), libc::EINVAL, words)?;
    co.refused(&format!("ds {tag} -k"), libc::EINVAL, words)?;
    co.refused("do", libc::EBUSY, "still has bookmarks")?;
    let sectors = world.origin.piece.sectors();
    ensure!(world.store.cs_sized(&world.origin, tag, sectors).is_err());
    co.refused("delta 9 0", libc::ENOENT, "unknown tag")?;
    co.refused("delta 1", libc::EINVAL, "missing tag")?;
    co.refused("delta 1 0 0 0", libc::EINVAL, "0 rows")?;
    ensure!(co.delta(tag, tag, 9)?.is_empty());
    co.remove()
}

/// Random writes, snapshots, bookmarks and deletions; and each version with each other one.
fn everything(disks: &Disks) -> Result<()> {
    let mut random = Random::from_environment("bookmarks");
    let (mut world, co) = World::new(disks, 2 * MIB, 64, 1)?;
    let mut bookmarks: Vec<(u32, Shadow)> = Vec::new();
    let mut said = 0;
    for round in 0..40 {
        let disk = co.open()?;
        for _ in 0..4 {
            let (start, count) = random.extent(world.now.sectors());
            world.now.write(&disk, start, count.min(200))?;
        }
        drop(disk);
        match random.pick(0..6) {
            0 | 1 => drop(world.take(&co)?),
            2 => {
                let tag = co.tag("so -k")?;
                bookmarks.push((tag, world.now.clone()));
            }
            3 if !world.snapshots.is_empty() => {
                let tags: Vec<u32> = world.snapshots.keys().copied().collect();
                let tag = *random.one_of(&tags);
                co.send(&format!("ds {tag} -k"))?;
                let shadow = world.snapshots.remove(&tag).context("a snapshot")?;
                bookmarks.push((tag, shadow));
            }
            4 if !bookmarks.is_empty() => {
                let which = random.pick(0..bookmarks.len() as u64) as usize;
                co.delete(bookmarks.swap_remove(which).0)?;
            }
            5 if !world.snapshots.is_empty() => {
                let tags: Vec<u32> = world.snapshots.keys().copied().collect();
                let tag = *random.one_of(&tags);
                world.delete(&co, tag)?;
            }
            _ => {}
        }
        if round % 8 != 7 {
            continue;
        }
        let mut all: Vec<(u32, &Shadow)> = bookmarks.iter().map(|(t, s)| (*t, s)).collect();
        all.extend(world.snapshots.iter().map(|(&tag, shadow)| (tag, shadow)));
        for &from in &all {
            for &to in all.iter().chain([&(0, &world.now)]) {
                said += no_change_missing(&co, from, to)?;
            }
        }
    }
    co.wait_clean()?;
    for (tag, shadow) in &world.snapshots {
        world.store.check_snapshot(&world.origin, *tag, shadow)?;
    }
    world.now.check(&co.open_read_only()?)?;
    ensure!(said > 0, "nothing has changed");
    co.remove()
}

fn pages(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 16 * MIB, 32, 1)?;
    let disk = co.open()?;
    let tag = co.tag("so -k")?;
    let mut wanted = Vec::new();
    for i in 0..1500 {
        world.now.write(&disk, i * 16, 1)?;
        wanted.push((i * 2, 1));
    }
    for max in [1, 7, 100_000] {
        let runs = match max {
            1 => {
                let page = co.send(&format!("delta {tag} 0 2 1"))?;
                ensure!(page.trim_end() == "delta 8 4096\n2 1\nnext 4", "{page:?}");
                continue;
            }
            max => co.delta(tag, 0, max)?,
        };
        ensure!(runs == wanted, "{} runs", runs.len());
    }
    let page = co.send(&format!("try delta {tag} 0 4096"))?;
    ensure!(page.trim_end() == "ok\ndelta 8 4096\nend", "{page:?}");
    drop(disk);
    co.remove()
}

fn rolling(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 16 * MIB, 64, 1)?;
    let first = co.tag("so -k")?;
    let oldest = world.now.clone();
    let tag = world.take(&co)?;
    let source = world.shadow(tag).clone();
    let disk = co.open()?;
    for i in 0..400 {
        world.now.write(&disk, i * 80, 8)?;
    }
    drop(disk);
    let before = co.tag("so -k")?;
    let marked = world.now.clone();
    co.send(&format!("rs {tag} -b"))?;
    world.now = source.clone();
    // While it runs, and when it is over.
    for _ in 0..3 {
        no_change_missing(&co, (before, &marked), (0, &world.now))?;
        no_change_missing(&co, (first, &oldest), (0, &world.now))?;
        let disk = co.open()?;
        world.now.write(&disk, 20_000, 30)?;
        drop(disk);
    }
    let after = co.tag("so -k")?;
    let then = world.now.clone();
    let disk = co.open()?;
    world.now.write(&disk, 80, 8)?;
    drop(disk);
    co.wait_rollback()?;
    let changed = no_change_missing(&co, (after, &then), (0, &world.now))?;
    ensure!(changed == 1, "{changed} chunks");
    no_change_missing(&co, (before, &marked), (after, &then))?;
    no_change_missing(&co, (before, &marked), (0, &world.now))?;
    no_change_missing(&co, (first, &oldest), (0, &world.now))?;
    world.store.check_snapshot(&world.origin, tag, &source)?;
    world.now.check(&co.open_read_only()?)?;
    co.remove()
}

fn full(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 16 * MIB, 8, 1)?;
    let disk = co.open()?;
    let first = co.tag("so -k")?;
    let oldest = world.now.clone();
    world.now.write(&disk, 0, 8)?;
    let tag = world.take(&co)?;
    let sectors = world.now.sectors();
    let mut at = 0;
    while at < sectors {
        let count = (sectors - at).min(1024);
        world.now.write(&disk, at, count)?;
        at += count;
    }
    let list = co.list()?;
    let flags = list.row(tag).map(|row| row.flags.clone());
    ensure!(flags.as_deref() == Some("I"), "{flags:?}");
    ensure!(
        list.bookmarks() == [(first, true)],
        "{:?}",
        list.bookmarks()
    );
    no_change_missing(&co, (first, &oldest), (0, &world.now))?;
    co.refused(&format!("delta {tag} 0"), libc::EIO, "snapshot is invalid")?;
    co.refused(&format!("ds {tag} -k"), libc::EIO, "snapshot is invalid")?;
    co.delete(tag)?;
    co.wait_clean()?;
    co.wait_chunks(0)?;
    no_change_missing(&co, (first, &oldest), (0, &world.now))?;
    drop(disk);
    co.remove()
}

fn reloaded(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 32, 1)?;
    let disk = co.open()?;
    let first = co.tag("so -k -m kept")?;
    let oldest = world.now.clone();
    world.now.write(&disk, 100, 100)?;
    let second = world.take(&co)?;
    co.send(&format!("ds {second} -k"))?;
    world.snapshots.clear();
    world.now.write(&disk, 150, 100)?;
    drop(disk);
    co.remove()?;
    crate::kernel::reload()?;
    let co = world.co()?;
    ensure!(co.list()?.bookmarks() == [(first, true), (second, true)]);
    let disk = co.open()?;
    world.now.write(&disk, 4000, 8)?;
    ensure!(co.delta(second, 0, 9)? == [(18, 14), (500, 1)]);
    no_change_missing(&co, (first, &oldest), (0, &world.now))?;
    drop(disk);
    co.remove()
}

fn discards(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 32, 1)?;
    let disk = co.open()?;
    let tag = co.tag("so -k")?;
    let before = world.now.clone();
    world.now.discard(&disk, 800, 1600)?;
    world.now.write(&disk, 804, 2)?;
    no_change_missing(&co, (tag, &before), (0, &world.now))?;
    ensure!(used(&co)? == 0, "{}", used(&co)?);
    drop(disk);
    co.remove()
}

fn called_off(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 32, 1)?;
    let tag = world.take(&co)?;
    co.refused(
        "rs -x",
        libc::ENOENT,
        "no rollback of the origin is deferred",
    )?;
    co.send(&format!("rs {tag} -l"))?;
    ensure!(co.state()?.deferred == Some(tag));
    co.send("rs -x")?;
    ensure!(co.state()?.deferred.is_none());
    co.send(&format!("rs {tag} -l"))?;
    co.send("rs -l")?;
    ensure!(co.state()?.deferred.is_none());
    co.remove()
}

fn commit(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 32, 1)?;
    let number = || -> Result<u64> { Ok(co.send("commit")?.trim().parse()?) };
    let first = number()?;
    ensure!(number()? == first, "there was nothing to commit");
    world.take(&co)?;
    let second = number()?;
    ensure!(second > first, "{second} after {first}");
    let disk = co.open()?;
    world.now.write(&disk, 0, 8)?;
    disk.flush()?;
    drop(disk);
    let third = number()?;
    ensure!(third > second, "{third} after {second}");
    ensure!(number()? == third);
    let tried = co.send("try commit")?;
    ensure!(tried.trim_end() == format!("ok {third}"), "{tried:?}");
    co.remove()
}
