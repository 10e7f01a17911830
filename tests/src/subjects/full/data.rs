// SPDX-License-Identifier: GPL-2.0

//! No space for data, and writes and rollbacks that go on or fail.

use std::thread;

use anyhow::{ensure, Context, Result};

use super::{fill_up, reads_as_error, small_store};
use crate::content::next_generation;
use crate::disks::{Disks, MIB};
use crate::io::Disk;
use crate::random::Random;
use crate::report::Subject;
use crate::shadow::{write, write_generation, Shadow};
use crate::store::{until, Origin};
use crate::subjects::messages::event_waiter;
use crate::time::patience;

/// Runs the cases.
pub(super) fn run(subject: &mut Subject, disks: &Disks) {
    subject.case(
        "invalidate: the origin goes on, its snapshots read as errors",
        || invalidate(disks),
    );
    subject.case("invalidate: other origins keep their snapshots", || {
        invalidate_one(disks)
    });
    subject.case("invalidate: under load from several threads", || {
        invalidate_under_load(disks)
    });
    subject.case(
        "invalid snapshots can be deleted, new ones are good",
        || invalid_then_new(disks),
    );
    subject.case("error: the write fails, the snapshots stay", || {
        error(disks)
    });
    subject.case("error: deleting a snapshot makes room", || {
        error_then_room(disks)
    });
    subject.case("a snapshot's write fails, all others stay", || {
        snapshot_write(disks)
    });
    subject.case("rollback of an origin whose store is full", || {
        rollback(disks)
    });
    for merge in [false, true] {
        let name = if merge { ", deleted after" } else { "" };
        let name = format!("rollback to the only snapshot, which has all the space{name}");
        subject.case(&name, || only_snapshot(disks, merge, false));
    }
    subject.case(
        "rollback to the only one, of a snapshot that is gone",
        || only_snapshot(disks, true, true),
    );
    subject.case("that snapshots become invalid is an event", || event(disks));
    subject.case(
        "low water and full are told, by an event and in the status",
        || low_water(disks),
    );
}

fn invalidate(disks: &Disks) -> Result<()> {
    let (mut world, mut co) = small_store(disks, "")?;
    let one = world.take(&co)?;
    world.now.write(&co.open()?, 0, 64)?;
    let two = world.take(&co)?;
    let open = world.cs(one)?;
    let open_disk = open.open()?;
    let disk = co.open()?;
    for part in 0..16 {
        world.now.write(&disk, part * MIB, MIB)?;
        // Whatever a snapshot still says is true.
        let seen = open_disk.read(part * MIB, 64);
        if let Ok(bytes) = seen {
            world.snapshots[&one]
                .check_bytes(&bytes, part * MIB)
                .context("read it all the same")?;
        }
    }
    ensure!(
        open_disk.read(0, 8).is_err(),
        "the snapshot that was open can be read"
    );
    drop((disk, open_disk));
    open.remove()?;
    for _ in 0..2 {
        let state = co.state()?.state;
        ensure!(state != "error", "state {state}");
        world.now.check(&co.open()?)?;
        world.check_below()?;
        let flags: Vec<_> = co
            .list()?
            .rows
            .into_iter()
            .map(|row| (row.tag, row.flags))
            .collect();
        for tag in [one, two] {
            ensure!(
                flags.iter().any(|(t, f)| *t == tag && f.contains('I')),
                "{flags:?}"
            );
            reads_as_error(&world, tag)?;
        }
        world.now.write(&co.open()?, 0, 4000)?;
        // It is so for good.
        co.remove()?;
        crate::kernel::reload()?;
        co = world.co()?;
    }
    co.remove()
}

fn invalidate_one(disks: &Disks) -> Result<()> {
    let (mut world, co) = small_store(disks, "")?;
    let other = Origin::new(disks, "other", 2 * MIB)?;
    let mut other_now = Shadow::filled(&other.piece.open()?)?;
    let other_co = world.store.bind(&other)?;
    let other_tag = other_co.take()?;
    let other_then = other_now.clone();
    other_now.write(&other_co.open()?, 0, MIB)?;
    let tag = world.take(&co)?;
    world.now.write(&co.open()?, 0, 16 * MIB)?;
    reads_as_error(&world, tag)?;
    world.now.check(&co.open()?)?;
    other_now.check(&other_co.open()?)?;
    world
        .store
        .check_snapshot(&other, other_tag, &other_then)
        .context("the other origin's")?;
    other_co.remove()?;
    co.remove()
}

fn invalidate_under_load(disks: &Disks) -> Result<()> {
    let (mut world, co) = small_store(disks, "")?;
    let tag = world.take(&co)?;
    let cs = world.cs(tag)?;
    let then = world.snapshots[&tag].clone();
    thread::scope(|scope| -> Result<()> {
        let writers: Vec<_> = (0..4)
            .map(|i| {
                let path = co.path();
                scope.spawn(move || -> Result<Vec<(u64, u32)>> {
                    let disk = Disk::open(path)?;
                    let places = (0..4 * MIB / 64).map(|n| i * 4 * MIB + n * 64);
                    places.map(|at| Ok((at, write(&disk, at, 64)?))).collect()
                })
            })
            .collect();
        let reader = scope.spawn(|| -> Result<()> {
            let disk = cs.open()?;
            let mut random = Random::new(1);
            // Until it is invalid, and then never again.
            let mut failed = false;
            for _ in 0..2000 {
                let at = random.pick(0..16 * MIB - 16);
                match disk.read(at, 16) {
                    Ok(bytes) => {
                        ensure!(!failed, "a read of an invalid snapshot succeeds");
                        then.check_bytes(&bytes, at)?;
                    }
                    Err(_) => failed = true,
                }
            }
            Ok(())
        });
        for writer in writers {
            for (at, generation) in writer.join().expect("no panic")? {
                world.now.set(at, 64, generation);
            }
        }
        reader.join().expect("no panic")
    })?;
    cs.remove()?;
    reads_as_error(&world, tag)?;
    world.now.check(&co.open()?)?;
    world.check_below()?;
    co.remove()
}

fn invalid_then_new(disks: &Disks) -> Result<()> {
    let (mut world, co) = small_store(disks, "")?;
    let mut last = 0;
    for _ in 0..2 {
        let bad = world.take(&co)?;
        world.now.write(&co.open()?, 0, 16 * MIB)?;
        reads_as_error(&world, bad)?;
        world.delete(&co, bad)?;
        co.wait_clean()?;
        co.wait_chunks(0)?;
        let good = world.take(&co)?;
        world.now.write(&co.open()?, 0, 4 * MIB)?;
        world.check(&co)?;
        ensure!(co.state()?.state == "valid", "{}", co.status()?);
        world.delete(&co, good)?;
        co.wait_clean()?;
        ensure!(good > bad && bad > last, "tags {bad}, {good}");
        last = good;
    }
    co.remove()
}

fn error(disks: &Disks) -> Result<()> {
    let (mut world, co) = small_store(disks, "error")?;
    world.take(&co)?;
    let disk = co.open()?;
    world.now.write(&disk, 0, 64)?;
    world.take(&co)?;
    fill_up(&mut world, &disk)?;
    // What is preserved already can be written on.
    world.now.write(&disk, 3, 60)?;
    let errno = disk
        .write(16 * MIB - 8, &disk.read(0, 8)?)
        .err()
        .and_then(|e| e.raw_os_error());
    ensure!(errno == Some(libc::ENOSPC), "a write at the end: {errno:?}");
    // A discard has nothing to preserve.
    world.now.discard(&disk, 12 * MIB, MIB)?;
    ensure!(
        disk.zero_out(12 * MIB, MIB).is_err(),
        "zeroes that cannot preserve"
    );
    drop(disk);
    world.check(&co)?;
    co.remove()?;
    crate::kernel::reload()?;
    let co = world.store.co_with(&world.origin, "-e error")?;
    world.check(&co)?;
    world.check_below()?;
    co.remove()
}

fn error_then_room(disks: &Disks) -> Result<()> {
    let (mut world, co) = small_store(disks, "error")?;
    let one = world.take(&co)?;
    let disk = co.open()?;
    for _ in 0..2 {
        fill_up(&mut world, &disk)?;
        world.check(&co)?;
        let last = *world.snapshots.keys().next_back().expect("one");
        world.delete(&co, last)?;
        co.wait_clean()?;
        ensure!(co.state()?.state == "valid", "{}", co.status()?);
        world.now.write(&disk, 8 * MIB, 2 * MIB)?;
        world.take(&co)?;
        world.now.write(&disk, 12 * MIB, 2 * MIB)?;
        world.check(&co)?;
    }
    drop(disk);
    ensure!(!world.snapshots.contains_key(&one));
    co.remove()
}

fn snapshot_write(disks: &Disks) -> Result<()> {
    let (mut world, co) = small_store(disks, "")?;
    let tag = world.take(&co)?;
    let other = world.take(&co)?;
    let cs = world.cs(tag)?;
    let disk = cs.open()?;
    let mut failed = false;
    for part in 0..16 * MIB / 256 {
        let (at, generation) = (part * 256, next_generation());
        if write_generation(&disk, at, 256, generation).is_ok() {
            world.shadow(tag).set(at, 256, generation);
        } else {
            failed = true;
            let then = world.snapshots[&tag].clone();
            world.shadow(tag).learn(&disk, |sector, found| {
                found == then.generation(sector) || found == generation
            })?;
            break;
        }
    }
    ensure!(failed, "it never became full");
    drop(disk);
    cs.remove()?;
    world.check(&co)?;
    world.delete(&co, tag)?;
    co.wait_clean()?;
    world.now.write(&co.open()?, 0, 2 * MIB)?;
    ensure!(world.snapshots.contains_key(&other));
    world.check(&co)?;
    co.remove()
}

/// What has to be preserved for a rollback may find no room: the origin is the snapshot all the
/// same, since that is what was asked for.
fn rollback(disks: &Disks) -> Result<()> {
    let (mut world, co) = small_store(disks, "error")?;
    let tag = world.take(&co)?;
    fill_up(&mut world, &co.open()?)?;
    world.check(&co)?;
    co.rollback(tag)?;
    world.now = world.snapshots[&tag].clone();
    world.check(&co)?;
    world.check_below()?;
    co.remove()
}

/// Nobody needs what it overwrites: where the snapshot differs it has chunks of its own.
fn only_snapshot(disks: &Disks, merge: bool, nested: bool) -> Result<()> {
    let (mut world, co) = small_store(disks, "error")?;
    let mut tag = world.take(&co)?;
    if nested {
        let parent = tag;
        tag = world.take_of(&co, parent)?;
        world.delete(&co, parent)?;
        co.wait_clean()?;
    }
    let cs = world.cs(tag)?;
    let (used, total) = co.state()?.chunks;
    let disk = cs.open()?;
    world
        .shadow(tag)
        .write(&disk, 5 * MIB, (total - used) * 8)?;
    disk.flush()?;
    drop(disk);
    cs.remove()?;
    co.wait_chunks(total)?;
    let options = if merge { " -d" } else { "" };
    co.send(&format!("rs {tag}{options}"))?;
    world.now = world.snapshots[&tag].clone();
    if merge {
        world.snapshots.remove(&tag);
        co.wait_clean()?;
    }
    let tags = co.list()?.tags();
    ensure!(merge == tags.is_empty(), "the snapshots are {tags:?}");
    world.check(&co)?;
    world.check_below()?;
    co.remove()
}

fn event(disks: &Disks) -> Result<()> {
    let (mut world, co) = small_store(disks, "")?;
    let tag = world.take(&co)?;
    let before = co.event()?;
    world.now.write(&co.open()?, 0, 16 * MIB)?;
    until("the state", || Ok(co.state()?.state == "invalid"))?;
    // Space ran low before.
    ensure!(co.event()? == before + 2, "{} events", co.event()? - before);
    reads_as_error(&world, tag)?;
    co.remove()
}

fn low_water(disks: &Disks) -> Result<()> {
    let (mut world, co) = small_store(disks, "error")?;
    let tag = world.take(&co)?;
    let (used, total) = co.state()?.chunks;
    ensure!(used == 0, "{}", co.status()?);
    let disk = co.open()?;
    // Four fifths are not low yet.
    world.now.write(&disk, 0, total * 8 * 8 / 10)?;
    let before = co.event()?;
    let waiter = event_waiter(&co)?;
    world
        .now
        .write(&disk, total * 8 * 8 / 10, total * 8 * 15 / 100)?;
    waiter.recv_timeout(patience()).context("no event came")?;
    ensure!(co.event()? == before + 1, "{} events", co.event()? - before);
    ensure!(co.state()?.state == "valid", "{}", co.status()?);
    fill_up(&mut world, &disk)?;
    drop(disk);
    ensure!(co.state()?.state == "full", "{}", co.status()?);
    world.check(&co)?;
    world.delete(&co, tag)?;
    co.wait_clean()?;
    ensure!(co.state()?.state == "valid", "{}", co.status()?);
    co.remove()
}
