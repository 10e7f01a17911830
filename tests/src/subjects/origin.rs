// SPDX-License-Identifier: GPL-2.0

//! The origin device: I/O of every sort goes through, and what it overwrites stays in the
//! snapshots.

use std::fs;
use std::thread;

use anyhow::{bail, ensure, Context, Result};

use crate::content::{fill, next_generation, SECTOR, ZERO};
use crate::disks::{linear, Disks, MIB};
use crate::dm::{Mapped, Suspend};
use crate::io::{Buffer, Disk};
use crate::kernel;
use crate::puppet::Puppet;
use crate::random::Random;
use crate::report::Subject;
use crate::shadow::{write, write_generation, Shadow};
use crate::store::{co_line, until, Device, Origin, Store, TARGET};
use crate::sys;
use crate::world::{random_io, World};

/// Runs the cases.
pub fn run(subject: &mut Subject, disks: &Disks) {
    let mut random = Random::from_environment("origin");
    for pages in [1, 4, 16, 256] {
        let random = &mut random;
        subject.case(&format!("random I/O with chunks of {pages} pages"), || {
            random_rounds(disks, random, pages)
        });
    }
    subject.case("without a snapshot nothing is copied", || {
        nothing_copied(disks)
    });
    subject.case("one copy however many snapshots", || one_copy(disks));
    subject.case("a long write makes as many copies as it has chunks", || {
        long_write(disks)
    });
    for pages in [1, 256] {
        subject.case(
            &format!("concurrent writes within chunks of {pages} pages"),
            || concurrent_parts(disks, pages),
        );
    }
    subject.case("overlapping writes at once", || overlapping(disks));
    subject.case("discard keeps the snapshot's content", || discard(disks));
    subject.case("discard takes no space", || discard_takes_none(disks));
    subject.case("write-zeroes keeps the snapshot's content", || {
        write_zeroes(disks)
    });
    subject.case("FUA and flush", || fua_and_flush(disks));
    subject.case("a write that must not wait to be submitted", || {
        nowait(disks)
    });
    subject.case("a buffered write and fsync", || buffered(disks));
    subject.case("a device with sectors of 4 KiB", || large_sectors(disks));
    subject.case("a COW device with larger sectors is refused", || {
        larger_sectors(disks)
    });
    subject.case("found again after remove and create", || {
        found_again(disks, false)
    });
    subject.case("found again after rmmod and insmod", || {
        found_again(disks, true)
    });
    subject.case(
        "without the module the origin holds the current content",
        || origin_alone(disks),
    );
    subject.case("two bindings in one store", || two_bindings(disks));
    subject.case("identity: given, by default, by another path", || {
        identity(disks)
    });
    subject.case("an origin may grow and may not shrink", || grow(disks));
    subject.case("table reload of a printed table", || reload_printed(disks));
    subject.case("suspend and resume under load", || {
        suspend_under_load(disks)
    });
    subject.case("a read-only device reads", || read_only(disks));
}

fn random_rounds(disks: &Disks, random: &mut Random, pages: u32) -> Result<()> {
    // The end of it is no multiple of any chunk, nor of a page.
    let (mut world, co) = World::new(disks, 16 * MIB + 8 * 5 + 3, 128, pages)?;
    let disk = co.open()?;
    for _ in 0..3 {
        world.take(&co)?;
        random_io(random, &disk, &mut world.now, 40)?;
    }
    let last = world.now.sectors() - 1;
    world.take(&co)?;
    world.now.write(&disk, last, 1)?;
    world.now.write(&disk, last - 40, 41)?;
    drop(disk);
    world.check(&co)?;
    world.check_below()?;
    co.remove()
}

fn nothing_copied(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 8 * MIB, 32, 1)?;
    world.now.write_all(&co.open()?)?;
    co.wait_chunks(0)?;
    world.check(&co)?;
    co.remove()
}

fn one_copy(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 8 * MIB, 64, 1)?;
    for _ in 0..10 {
        world.take(&co)?;
    }
    let disk = co.open()?;
    for block in 0..100 {
        world.now.write(&disk, block * 24, 8)?;
    }
    co.wait_chunks(100)?;
    // A second write of the same copies nothing.
    for block in 0..100 {
        world.now.write(&disk, block * 24 + 3, 2)?;
    }
    co.wait_chunks(100)?;
    world.take(&co)?;
    for block in 0..50 {
        world.now.write(&disk, block * 24, 1)?;
    }
    co.wait_chunks(150)?;
    drop(disk);
    world.check(&co)?;
    co.remove()
}

fn long_write(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 16 * MIB, 64, 4)?;
    world.take(&co)?;
    let disk = co.open()?;
    world.now.write(&disk, 0, 4 * MIB)?;
    // 4 MiB of chunks of 16 KiB
    co.wait_chunks(256)?;
    // Chunks that it covers in part count whole.
    world.now.write(&disk, 8 * MIB + 1, MIB)?;
    co.wait_chunks(256 + 65)?;
    drop(disk);
    world.check(&co)?;
    co.remove()
}

/// Every thread has sectors of its own, which lie in everybody's chunks.
fn concurrent_parts(disks: &Disks, pages: u32) -> Result<()> {
    const THREADS: u64 = 8;
    let (mut world, co) = World::new(disks, 4 * MIB, 64, pages)?;
    for _ in 0..2 {
        world.take(&co)?;
        let results: Vec<Result<Vec<(u64, u32)>>> = thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|i| {
                    let path = co.path();
                    scope.spawn(move || {
                        let disk = Disk::open(path)?;
                        let mut random = Random::new(i);
                        let mut written = Vec::new();
                        for _ in 0..80 {
                            // Few chunks, so that they meet.
                            let sector = random.pick(0..64) * THREADS + i;
                            written.push((sector, write(&disk, sector, 1)?));
                        }
                        Ok(written)
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|t| t.join().expect("no panic"))
                .collect()
        });
        for written in results {
            for (sector, generation) in written? {
                world.now.set(sector, 1, generation);
            }
        }
        world.check(&co)?;
    }
    co.remove()
}

/// Several threads write the same ranges: each sector must be of one of those writes, and
/// the snapshot must not change.
fn overlapping(disks: &Disks) -> Result<()> {
    const THREADS: u64 = 6;
    let (mut world, co) = World::new(disks, 8 * MIB, 64, 4)?;
    world.take(&co)?;
    let first = next_generation();
    thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = (0..THREADS)
            .map(|i| {
                let path = co.path();
                scope.spawn(move || -> Result<()> {
                    let disk = Disk::open(path)?;
                    let mut random = Random::new(i);
                    for _ in 0..25 {
                        let start = random.pick(0..600);
                        let count = random.pick(1..600);
                        write(&disk, start, count)?;
                    }
                    Ok(())
                })
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|t| t.join().expect("no panic"))
    })?;
    let last = next_generation();
    let mut now = world.now.clone();
    now.learn(&co.open()?, |sector, generation| {
        generation == world.now.generation(sector) || (first..last).contains(&generation)
    })?;
    world.now = now;
    world.check(&co)?;
    world.check_below()?;
    co.remove()
}

fn discard(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 16 * MIB, 64, 4)?;
    let disk = co.open()?;
    // Without a snapshot, too.
    world.now.discard(&disk, 12 * MIB, MIB)?;
    co.wait_chunks(0)?;
    world.take(&co)?;
    world.now.discard(&disk, 0, MIB)?;
    world.now.discard(&disk, 4 * MIB + 1, 777)?;
    world.now.discard(&disk, 5 * MIB + 7, 1)?;
    world.check(&co)?;
    world.take(&co)?;
    world.now.write(&disk, 100, 5000)?;
    world.now.discard(&disk, 0, 16 * MIB)?;
    drop(disk);
    world.check(&co)?;
    world.check_below()?;
    co.remove()
}

/// What a snapshot needs is left alone, and what it has is passed on, parts of chunks too.
fn discard_takes_none(disks: &Disks) -> Result<()> {
    for pages in [1, 16] {
        let (mut world, co) = World::new(disks, 16 * MIB, 32, pages)?;
        let disk = co.open()?;
        let tag = world.take(&co)?;
        let chunk = 8 * u64::from(pages);
        // Every other chunk of some, and two that are neighbours.
        let written: Vec<u64> = [3, 5, 7, 64, 65].iter().map(|i| i * chunk).collect();
        for &at in &written {
            world.now.write(&disk, at, chunk)?;
        }
        co.wait_chunks(5)?;
        world.now.discard(&disk, 0, 16 * MIB)?;
        for at in 0..16 * MIB {
            let passed = written
                .iter()
                .any(|&from| (from..from + chunk).contains(&at));
            let gone = world.now.generation(at) == ZERO;
            ensure!(gone == passed, "sector {at} is discarded: {gone}");
        }
        // Parts of them.
        world.now.write(&disk, 3 * chunk, 3 * chunk)?;
        world.now.discard(&disk, 3 * chunk - 1, 3)?;
        for (at, passed) in [
            (3 * chunk - 1, false),
            (3 * chunk, true),
            (3 * chunk + 2, false),
        ] {
            let gone = world.now.generation(at) == ZERO;
            ensure!(gone == passed, "a part: sector {at} is discarded: {gone}");
        }
        // A newer snapshot needs all of it again.
        world.take(&co)?;
        world.now.discard(&disk, 0, 16 * MIB)?;
        // All that is in use is what was written: chunk 4 for the older one, and this one.
        world.now.write(&disk, 100 * chunk, 1)?;
        co.wait_chunks(7)?;
        drop(disk);
        world.check(&co)?;
        world.cs(tag)?.remove()?;
        co.remove()?;
    }
    Ok(())
}

/// Whether it finds its way at once or has to preserve something first.
fn nowait(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 16 * MIB, 64, 1)?;
    let disk = co.open()?;
    let tag = world.take(&co)?;
    let cs = world.store.cs(&world.origin, tag)?;
    for (round, sector) in [0, 8, 0, 4 * MIB].into_iter().enumerate() {
        let generation = next_generation();
        let mut buffer = Buffer::new(8 * SECTOR);
        fill(&mut buffer, sector, generation);
        // The device below may say that it has no request left just now.
        until("a write", || {
            match sys::write_nowait(disk.file(), &buffer, sector * SECTOR as u64) {
                Ok(done) if done == buffer.len() => Ok(true),
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(false),
                other => bail!("write {round}: {other:?}"),
            }
        })?;
        world.now.set(sector, 8, generation);
    }
    let own = cs.open()?;
    let zeroes = Buffer::new(8 * SECTOR);
    until("a write of the snapshot", || {
        Ok(sys::write_nowait(own.file(), &zeroes, MIB * SECTOR as u64).is_ok())
    })?;
    let shadow = world.snapshots.get_mut(&tag).context("the snapshot")?;
    shadow.set(MIB, 8, ZERO);
    drop((own, disk));
    cs.remove()?;
    world.check(&co)?;
    co.remove()
}

fn write_zeroes(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 16 * MIB, 64, 4)?;
    let disk = co.open()?;
    world.take(&co)?;
    world.now.zero_out(&disk, 8, 2 * MIB)?;
    world.now.zero_out(&disk, 4 * MIB + 1, 777)?;
    world.now.zero_out(&disk, 16 * MIB - 1, 1)?;
    world.check(&co)?;
    world.take(&co)?;
    world.now.write(&disk, 0, 3000)?;
    world.now.zero_out(&disk, 0, 16 * MIB)?;
    drop(disk);
    world.check(&co)?;
    world.check_below()?;
    co.remove()
}

fn fua_and_flush(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 8 * MIB, 64, 4)?;
    let fua = Disk::open_fua(co.path())?;
    let disk = co.open()?;
    disk.flush()?;
    world.now.write(&fua, 5, 3)?;
    world.take(&co)?;
    disk.flush()?;
    for i in 0..10 {
        world.now.write(&fua, i * 1000, 1 + i * 100)?;
        disk.flush()?;
    }
    drop((fua, disk));
    world.check(&co)?;
    co.remove()
}

fn buffered(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 8 * MIB, 64, 1)?;
    world.take(&co)?;
    let file = fs::OpenOptions::new().write(true).open(co.path())?;
    let generation = next_generation();
    let mut bytes = vec![0; 600 * SECTOR];
    crate::content::fill(&mut bytes, 11, generation);
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 11 * SECTOR as u64)?;
    file.sync_all()?;
    drop(file);
    world.now.set(11, 600, generation);
    world.check(&co)?;
    co.remove()
}

fn large_sectors(disks: &Disks) -> Result<()> {
    let large = Puppet::with_blocks(16, 4096)?;
    let store = Store::new(disks, 32 * MIB)?;
    let mut now = Shadow::filled(&Disk::open(large.path())?)?;
    let line = |options: &str| {
        let line = co_line(&large.path(), &store.cow.path(), options);
        crate::dm::Table::new(16 * MIB, TARGET, line)
    };
    let co = Device(Mapped::create("co", &line("-i large -b -F"))?);
    let tag = co.take()?;
    let before = now.clone();
    let disk = co.open()?;
    let queue = format!("/sys/block/{}/queue/logical_block_size", co.kernel_name());
    let size = fs::read_to_string(queue)?;
    ensure!(size.trim() == "4096", "logical block size {size}");
    ensure!(
        disk.write(1, &Buffer::new(SECTOR)).is_err(),
        "a write of half a sector was accepted"
    );
    now.write(&disk, 8, 64)?;
    now.write(&disk, 2048, 4096)?;
    now.check(&disk)?;
    drop(disk);
    let line = format!(
        "cs {} {} {tag} -i large",
        large.path().display(),
        store.cow.path().display()
    );
    let cs = Device(Mapped::create(
        "cs",
        &crate::dm::Table::new(16 * MIB, TARGET, line),
    )?);
    before.check(&cs.open()?).context("snapshot")?;
    cs.remove()?;
    co.remove()
}

/// What is smaller than its blocks could not be kept there.
fn larger_sectors(disks: &Disks) -> Result<()> {
    let cow = Puppet::with_blocks(16, 4096)?;
    let origin = disks.piece(4 * MIB)?;
    let line = co_line(&origin.path(), &cow.path(), "-i o -b -F");
    let mut log = crate::kernel::Log::from_now()?;
    let made = Mapped::create("co", &crate::dm::Table::new(4 * MIB, TARGET, line));
    let errno = made.err().and_then(|e| e.raw_os_error());
    ensure!(errno == Some(libc::EINVAL), "{errno:?}");
    let lines = log.lines()?;
    let told = lines.iter().any(|line| line.contains("larger blocks"));
    ensure!(told, "no reason in the log: {lines:?}");
    let blank = Disk::open(cow.path())?.read(0, 8)?;
    ensure!(
        blank.iter().all(|&b| b == 0),
        "it was formatted all the same"
    );
    Ok(())
}

fn found_again(disks: &Disks, reload: bool) -> Result<()> {
    let (mut world, mut co) = World::new(disks, 16 * MIB + 3, 96, 4)?;
    let mut random = Random::new(7);
    for _ in 0..3 {
        world.take(&co)?;
        random_io(&mut random, &co.open()?, &mut world.now, 15)?;
        let before = (co.list()?.lasting(), co.state()?.lasting());
        co.remove()?;
        if reload {
            kernel::reload()?;
        }
        co = world.co()?;
        let after = (co.list()?.lasting(), co.state()?.lasting());
        ensure!(before == after, "before {before:?}, after {after:?}");
        world.check(&co)?;
    }
    co.remove()
}

fn origin_alone(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 16 * MIB, 96, 16)?;
    let mut random = Random::new(11);
    for _ in 0..2 {
        world.take(&co)?;
        random_io(&mut random, &co.open()?, &mut world.now, 20)?;
    }
    co.remove()?;
    kernel::unload()?;
    let result = world.check_below();
    kernel::load()?;
    result?;
    let co = world.co()?;
    world.check(&co)?;
    co.remove()
}

fn two_bindings(disks: &Disks) -> Result<()> {
    let store = Store::new(disks, 96 * MIB)?;
    let one = Origin::new(disks, "one", 8 * MIB)?;
    let two = Origin::new(disks, "two", 12 * MIB + 8)?;
    let mut one_now = Shadow::filled(&one.piece.open()?)?;
    let mut two_now = Shadow::filled(&two.piece.open()?)?;
    let one_co = store.format(&one, 4)?;
    let two_co = store.bind(&two)?;
    ensure!(
        one_co.state()?.origin != two_co.state()?.origin,
        "one number for two"
    );
    let mut random = Random::new(3);
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.push((
            one_co.take()?,
            one_now.clone(),
            two_co.take()?,
            two_now.clone(),
        ));
        random_io(&mut random, &one_co.open()?, &mut one_now, 15)?;
        random_io(&mut random, &two_co.open()?, &mut two_now, 15)?;
    }
    one_now.check(&one_co.open()?).context("one")?;
    two_now.check(&two_co.open()?).context("two")?;
    for (one_tag, one_then, two_tag, two_then) in &kept {
        store
            .check_snapshot(&one, *one_tag, one_then)
            .context("one")?;
        store
            .check_snapshot(&two, *two_tag, two_then)
            .context("two")?;
    }
    ensure!(one_co.list()?.tags() == [1, 2, 3], "{:?}", one_co.list()?);
    one_co.remove()?;
    two_co.remove()
}

fn identity(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 4 * MIB, 32, 1)?;
    world.take(&co)?;
    world.now.write(&co.open()?, 0, 64)?;
    co.remove()?;

    // The same disk by another path: the identity is what counts.
    let (disk, start) = world.origin.piece.place();
    let alias = Mapped::create("alias", &linear(disk, start, 4 * MIB))?;
    let line = co_line(&alias.path(), &world.store.cow.path(), "-i origin");
    let co = Device(Mapped::create(
        "co",
        &crate::dm::Table::new(4 * MIB, TARGET, line),
    )?);
    world.now.check(&co.open()?)?;
    ensure!(co.list()?.tags() == [1], "the snapshot is not there");
    co.remove()?;
    alias.remove()?;

    // By default it is the path as it was given.
    let other = disks.piece(4 * MIB)?;
    let path = other.path();
    let table = |options: &str| {
        let line = co_line(&path, &world.store.cow.path(), options);
        crate::dm::Table::new(4 * MIB, TARGET, line)
    };
    let co = Device(Mapped::create("co", &table("-b"))?);
    ensure!(co.state()?.origin == 2, "{}", co.status()?);
    let printed = co.table()?;
    let ending = format!("-i {}", path.display());
    ensure!(printed.ends_with(&ending), "{printed}");
    co.remove()?;
    let co = Device(Mapped::create("co", &table(""))?);
    ensure!(co.state()?.origin == 2, "{}", co.status()?);
    co.remove()?;
    // Options may come first, or between.
    let line = format!(
        "-i origin co {} {}",
        world.origin.piece.path().display(),
        world.store.cow.path().display()
    );
    let line = crate::dm::Table::new(4 * MIB, TARGET, line);
    let co = Device(Mapped::create("co", &line).context("options first")?);
    ensure!(co.state()?.origin == 1, "{}", co.status()?);
    co.remove()
}

fn grow(disks: &Disks) -> Result<()> {
    let (world, co) = World::new(disks, 8 * MIB, 48, 4)?;
    co.remove()?;
    world.origin.piece.show(4 * MIB + 16)?;
    let shrunken = world.co();
    ensure!(shrunken.is_err(), "a shrunken origin was accepted");
    drop(shrunken);

    // Smaller is what it was bound as.
    let small = Origin {
        piece: disks.piece(8 * MIB)?,
        id: "small".into(),
    };
    small.piece.show(5 * MIB + 8)?;
    let mut now = Shadow::filled(&small.piece.open()?)?;
    let co = world.store.bind(&small)?;
    let then = now.clone();
    let tag = co.take()?;
    now.write(&co.open()?, 5 * MIB, 8)?;
    co.remove()?;
    small.piece.show(8 * MIB)?;
    let co = world.store.co(&small).context("a grown origin")?;
    let disk = co.open()?;
    ensure!(disk.sectors() == 8 * MIB, "{} sectors", disk.sectors());
    now.grow(8 * MIB);
    now.zero_out(&disk, 5 * MIB + 8, 3 * MIB - 8)?;
    let later = now.clone();
    let later_tag = co.take()?;
    now.write(&disk, 4 * MIB, 4 * MIB)?;
    drop(disk);
    now.check(&co.open()?)?;
    world.store.check_snapshot(&small, tag, &then)?;
    world.store.check_snapshot(&small, later_tag, &later)?;
    ensure!(
        world.store.cs_sized(&small, tag, 8 * MIB).is_err(),
        "a snapshot of the small origin was given the grown one's size"
    );
    co.remove()?;
    small.piece.show(5 * MIB + 8)?;
    ensure!(
        world.store.co(&small).is_err(),
        "a shrunken origin was accepted"
    );
    Ok(())
}

/// What `table` prints can be loaded again, and does not format anything.
fn reload_printed(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 8 * MIB, 48, 1)?;
    world.take(&co)?;
    world.now.write(&co.open()?, 0, 512)?;
    let printed = co.table()?;
    for option in [" -b", " -f", " -F", " -c"] {
        ensure!(!printed.contains(option), "it prints {option}: {printed}");
    }
    co.replace(
        Suspend::Orderly,
        &crate::dm::Table::new(8 * MIB, TARGET, printed.clone()),
    )?;
    ensure!(co.table()? == printed, "{} became {}", printed, co.table()?);
    world.check(&co)?;
    world.now.write(&co.open()?, 700, 512)?;
    world.take(&co)?;
    world.now.write(&co.open()?, 100, 1512)?;
    world.check(&co)?;
    co.remove()
}

fn suspend_under_load(disks: &Disks) -> Result<()> {
    let (mut world, co) = World::new(disks, 8 * MIB, 96, 4)?;
    world.take(&co)?;
    let path = co.path();
    let writer = thread::spawn(move || -> Result<Vec<(u64, u64, u32)>> {
        let disk = Disk::open(path)?;
        let mut random = Random::new(5);
        let mut written = Vec::new();
        for _ in 0..150 {
            let (start, count) = random.extent(8 * MIB);
            written.push((start, count, write(&disk, start, count)?));
        }
        Ok(written)
    });
    while !writer.is_finished() {
        for how in [Suspend::Orderly, Suspend::NoFlush] {
            co.suspend(how)?;
            co.resume()?;
        }
    }
    for (start, count, generation) in writer.join().expect("no panic")? {
        world.now.set(start, count, generation);
    }
    world.check(&co)?;
    co.remove()
}

fn read_only(disks: &Disks) -> Result<()> {
    let (world, co) = World::new(disks, 4 * MIB, 32, 1)?;
    co.remove()?;
    let empty = Mapped::create_empty("co-read-only")?;
    empty.load_read_only(&world.store.co_table(&world.origin, ""))?;
    empty.resume()?;
    let co = Device(empty);
    world.now.check(&co.open_read_only()?)?;
    ensure!(
        Disk::open(co.path())
            .map_err(anyhow::Error::from)
            .and_then(|disk| write_generation(&disk, 0, 8, 1))
            .is_err(),
        "a read-only device was written"
    );
    co.remove()
}
